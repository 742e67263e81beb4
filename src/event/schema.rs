//! The contract as JSON Schema (2020-12), for whoever publishes. It says what a schema can say: what it
//! refuses `decode` refuses, too, but not the other way round.

use serde_json::{Map, Value, json};

use super::EventType;
use super::scalar::{MAX_ADDRESS_BYTES, MAX_COUNT, MAX_NAME_BYTES, MAX_SECONDS};

const UUID: &str = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$";
const RFC_3339: &str =
    r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+\-\u2212]\d{2}:\d{2})$";
/// Of a call's body.
const KINDS: [&str; 3] = ["livekit_session_report", "livekit_history", "messages"];
/// Roles of those who speak.
const SPEAKERS: [&str; 2] = ["user", "assistant"];
/// Types of usage that count; others are ignored.
const USAGE: [&str; 6] = ["llm", "llm_usage", "stt", "stt_usage", "tts", "tts_usage"];
const EGRESS_STATUS: [&str; 7] = [
    "EGRESS_STARTING",
    "EGRESS_ACTIVE",
    "EGRESS_ENDING",
    "EGRESS_COMPLETE",
    "EGRESS_FAILED",
    "EGRESS_ABORTED",
    "EGRESS_LIMIT_REACHED",
];

/// The schema of an event.
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An event that Finalizer takes",
        "description": "Fields that are not named are ignored; null is as good as absent.",
        "type": "object",
        "properties": properties(),
        "required": ["type", "schema_version", "event_id"],
        "allOf": rules(),
        "$defs": {
            "name": text(MAX_NAME_BYTES),
            "address": text(MAX_ADDRESS_BYTES),
            "words": { "type": "string" },
            "time": {
                "description": "RFC 3339 with its offset, or seconds (above 1e11: milliseconds) since 1970",
                "anyOf": [{ "type": "string", "pattern": RFC_3339 }, { "type": "number" }],
            },
            "count": { "type": "integer", "minimum": 0, "maximum": MAX_COUNT },
            "seconds": { "type": "number", "minimum": 0, "maximum": MAX_SECONDS },
            "milliseconds": { "type": "number", "minimum": 0, "maximum": MAX_SECONDS * 1000 },
            "int64": {
                "anyOf": [{ "type": "string", "pattern": r"^[+\-]?\d+$" }, { "type": "number" }],
            },
            "report": report(),
            "history": history(),
            "item": item(),
            "message": message(),
            "usage": usage(),
            "recording": recording(),
            "egress": egress(),
            "file": file(),
            "request": request(),
            "output": output(),
        },
    })
}

fn properties() -> Value {
    let types: Vec<&str> = EventType::ALL.into_iter().map(EventType::as_str).collect();
    let properties = optional(&[
        ("occurred_at", "time"),
        ("tenant_id", "name"),
        ("character_slug", "name"),
        ("room_name", "name"),
        ("room_id", "name"),
        ("origin_url", "address"),
        ("started_at", "time"),
        ("ended_at", "time"),
        ("close_reason", "name"),
        ("interruption_count", "count"),
        ("sequence", "count"),
        ("recording", "recording"),
        ("egress", "egress"),
    ]);
    let integer = json!({ "type": ["integer", "null"] });
    let more = [
        ("type", json!({ "enum": types })),
        ("schema_version", json!({ "const": 1 })),
        ("event_id", json!({ "$ref": "#/$defs/name" })),
        ("session_id", json!({ "type": ["string", "null"], "pattern": UUID })),
        ("character_owner", integer.clone()),
        ("user", integer),
    ];
    object(properties, &more)["properties"].take()
}

/// What each type of event needs.
fn rules() -> Value {
    let identity = ["session_id", "tenant_id", "character_slug", "character_owner", "started_at"];
    let of = |events: &[EventType]| {
        let types: Vec<&str> = events.iter().map(|event| event.as_str()).collect();
        json!({ "properties": { "type": { "enum": types } } })
    };
    let calls = of(&[EventType::Ended, EventType::Checkpoint]);
    let source = json!({
        "type": "object", "required": ["kind"], "properties": { "kind": { "enum": KINDS } },
    });
    let metadata = json!({ "metadata": { "type": ["object", "null"] } });
    let beginning = [EventType::Started, EventType::Ended, EventType::Checkpoint];
    json!([
        { "if": of(&beginning), "then": { "allOf": [needing(&identity)], "properties": metadata } },
        { "if": calls, "then": { "required": ["source"], "properties": { "source": source } } },
        body(&calls, KINDS[0], &[("report", reference("report"))]),
        body(&calls, KINDS[1], &[("history", reference("history")), ("usage", list_of("usage"))]),
        body(&calls, KINDS[2], &[("messages", list_of("message")), ("usage", list_of("usage"))]),
        { "if": of(&[EventType::Checkpoint]), "then": needing(&["sequence"]) },
        { "if": of(&[EventType::Recording]), "then": needing(&["egress"]) },
        { "if": of(&[EventType::Room]), "then": {
            "allOf": [needing(&["occurred_at"])],
            "anyOf": [needing(&["session_id"]), needing(&["room_id"]), needing(&["room_name"])],
        } },
    ])
}

/// The first of these fields is the body that a call of this kind has. Those of other kinds are not
/// looked at.
fn body(calls: &Value, kind: &str, fields: &[(&str, Value)]) -> Value {
    let source = json!({ "required": ["kind"], "properties": { "kind": { "const": kind } } });
    let is_such = json!({ "required": ["source"], "properties": { "source": source } });
    let mut then = object(Map::new(), fields);
    then["allOf"] = json!([needing(&[fields[0].0])]);
    json!({ "if": { "allOf": [calls, is_such] }, "then": then })
}

/// These fields are there, and not null.
fn needing(names: &[&str]) -> Value {
    let given = names.iter().map(|name| ((*name).to_owned(), json!({ "not": { "type": "null" } })));
    json!({ "required": names, "properties": given.collect::<Map<_, _>>() })
}

/// Fields of these definitions, each of which may be null.
fn optional(fields: &[(&str, &str)]) -> Map<String, Value> {
    fields.iter().map(|(name, definition)| ((*name).to_owned(), or_null(definition))).collect()
}

fn reference(definition: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{definition}") })
}

fn or_null(definition: &str) -> Value {
    nullable(&reference(definition))
}

fn nullable(schema: &Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

fn list_of(definition: &str) -> Value {
    json!({ "type": ["array", "null"], "items": reference(definition) })
}

/// A character is at least a byte.
fn text(most_bytes: usize) -> Value {
    json!({
        "type": "string", "maxLength": most_bytes, "pattern": r"^[^\u0000]*$",
        "description": format!("At most {most_bytes} bytes, without U+0000"),
    })
}

fn object(mut properties: Map<String, Value>, more: &[(&str, Value)]) -> Value {
    properties.extend(more.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())));
    json!({ "type": "object", "properties": properties })
}

fn report() -> Value {
    let fields = [
        ("room", "name"),
        ("room_id", "name"),
        ("chat_history", "history"),
        ("timestamp", "time"),
        ("duration_ms", "milliseconds"),
        ("close_reason", "name"),
    ];
    let mut report = object(optional(&fields), &[("usage", list_of("usage"))]);
    report["allOf"] = json!([needing(&["chat_history"])]);
    report
}

/// The items of a history are there, and it is no Protobuf JSON.
fn history() -> Value {
    let known = json!({
        "type": "object",
        "properties": { "type": { "type": "string", "minLength": 1 } }, "required": ["type"],
    });
    json!({
        "type": "object",
        "required": ["items"],
        "properties": { "items": {
            "type": "array",
            "items": { "$ref": "#/$defs/item" },
            "anyOf": [{ "maxItems": 0 }, { "contains": known }],
        } },
    })
}

/// Only messages of those who speak are looked at.
fn item() -> Value {
    let content = json!({ "type": ["string", "array", "null"] });
    let voice = object(optional(&[("model_name", "name"), ("model_provider", "name")]), &[]);
    let metrics = optional(&[("started_speaking_at", "time"), ("stopped_speaking_at", "time")]);
    let metrics = object(metrics, &[("tts_metadata", nullable(&voice))]);
    let said = object(
        optional(&[("id", "name"), ("created_at", "time")]),
        &[("content", content), ("interrupted", boolean()), ("metrics", nullable(&metrics))],
    );
    let of_a_message = json!({ "type": { "const": "message" } });
    json!({ "if": spoken(&of_a_message, &["type", "role"]), "then": said })
}

fn spoken(properties: &Value, required: &[&str]) -> Value {
    json!({
        "type": "object",
        "required": required,
        "properties": { "role": { "enum": SPEAKERS } },
        "allOf": [{ "properties": properties }],
    })
}

fn message() -> Value {
    let said = object(
        optional(&[("id", "name"), ("started_at", "time"), ("ended_at", "time")]),
        &[("text", json!({ "type": "string" })), ("interrupted", boolean())],
    );
    json!({
        "type": "object",
        "required": ["role"],
        "properties": { "role": { "type": "string" } },
        "if": spoken(&json!({}), &["role"]),
        "then": { "allOf": [said], "required": ["text"] },
    })
}

/// Entries of other types are not looked at.
fn usage() -> Value {
    let ignored = json!({
        "required": ["type"],
        "properties": { "type": { "type": "string", "minLength": 1, "not": { "enum": USAGE } } },
    });
    let counted = object(
        optional(&[
            ("provider", "name"),
            ("model", "name"),
            ("input_tokens", "count"),
            ("input_cached_tokens", "count"),
            ("input_cache_creation_tokens", "count"),
            ("input_audio_tokens", "count"),
            ("input_cached_audio_tokens", "count"),
            ("output_tokens", "count"),
            ("output_audio_tokens", "count"),
            ("characters_count", "count"),
            ("characters", "count"),
            ("audio_duration", "seconds"),
            ("audio_seconds", "seconds"),
        ]),
        &[],
    );
    json!({ "type": "object", "if": ignored, "else": counted })
}

fn recording() -> Value {
    object(optional(&[("egress_id", "name"), ("url", "address")]), &[("expected", boolean())])
}

fn boolean() -> Value {
    json!({ "type": ["boolean", "null"] })
}

/// Fields that have one name in JSON and another in Protobuf: `camelCase` and `snake_case`.
fn in_both_cases(fields: &[(&str, Value)]) -> Map<String, Value> {
    let cases = |(name, schema): &(&str, Value)| {
        [((*name).to_owned(), schema.clone()), (snake_case(name), schema.clone())]
    };
    fields.iter().flat_map(cases).collect()
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

/// `LiveKit`'s `EgressInfo`.
fn egress() -> Value {
    let names = EGRESS_STATUS.into_iter().map(Value::from);
    let numbers = (0..EGRESS_STATUS.len()).map(Value::from);
    let digits = (0..EGRESS_STATUS.len()).map(|number| number.to_string().into());
    let statuses: Vec<Value> = names.chain(numbers).chain(digits).chain([Value::Null]).collect();
    let fields = in_both_cases(&[
        ("egressId", or_null("name")),
        ("roomId", or_null("name")),
        ("roomName", or_null("name")),
        ("updatedAt", or_null("int64")),
        ("startedAt", or_null("int64")),
        ("endedAt", or_null("int64")),
        ("fileResults", list_of("file")),
        ("file", or_null("file")),
        ("backupStorageUsed", boolean()),
        ("error", or_null("words")),
        ("roomComposite", or_null("request")),
        ("participant", or_null("request")),
        ("track", or_null("request")),
        ("trackComposite", or_null("request")),
        ("web", or_null("request")),
    ]);
    let id = |name: &str| json!({ "required": [name], "properties": { name: { "type": "string", "minLength": 1 } } });
    json!({
        "type": "object",
        "properties": object(fields, &[("status", json!({ "enum": statuses }))])["properties"],
        "anyOf": [id("egressId"), id("egress_id")],
    })
}

fn file() -> Value {
    let fields = [
        ("filename", or_null("address")),
        ("size", or_null("int64")),
        ("location", or_null("words")),
        ("startedAt", or_null("int64")),
    ];
    object(in_both_cases(&fields), &[])
}

fn request() -> Value {
    let fields = [("fileOutputs", list_of("output")), ("file", or_null("output"))];
    object(in_both_cases(&fields), &[])
}

fn output() -> Value {
    let names = ["bucket", "containerName", "container_name"];
    let upload = object(optional(&names.map(|name| (name, "name"))), &[]);
    let uploads = ["s3", "gcp", "azure", "aliOSS", "ali_oss"];
    object(Map::new(), &uploads.map(|name| (name, nullable(&upload))))
}
