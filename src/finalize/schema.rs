//! Webhook bodies as JSON Schema (2020-12), for whoever receives them: made from the types that are sent.

use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::summary::{SessionData, ThinData};
use crate::webhook::EventType;

/// The schema of a webhook's body.
pub fn webhook_schema() -> Value {
    let mut definitions = definitions::<SessionData<'_>>();
    definitions.extend(self::definitions::<ThinData<'_>>());
    definitions.insert("ThinSession".to_owned(), thin());
    definitions.insert("FullSession".to_owned(), full());
    let told = [
        (EventType::SessionFinalized, session()),
        (EventType::RecordingReady, session()),
        (EventType::RecordingFailed, session()),
        (EventType::EndpointDisabled, disabled()),
        (EventType::EndpointPing, ping()),
    ];
    let data = told.map(|(event_type, data)| {
        json!({
            "if": { "properties": { "type": { "const": event_type.as_str() } } },
            "then": { "properties": { "data": data } },
        })
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The body of a webhook",
        "description": "Later releases may add fields and types.",
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": { "enum": EventType::ALL.map(EventType::as_str) },
            "timestamp": { "type": "string", "format": "date-time" },
            "data": { "type": "object" },
        },
        "allOf": data,
        "$defs": definitions,
    })
}

fn session() -> Value {
    json!({ "anyOf": [{ "$ref": "#/$defs/ThinSession" }, { "$ref": "#/$defs/FullSession" }] })
}

fn ping() -> Value {
    json!({
        "required": ["endpoint_id"],
        "properties": { "endpoint_id": { "type": "string", "format": "uuid" } },
    })
}

fn disabled() -> Value {
    json!({
        "required": ["endpoint_id", "url", "reason", "failing_since", "failures"],
        "properties": {
            "endpoint_id": { "type": "string", "format": "uuid" },
            "url": { "type": "string", "format": "uri" },
            "reason": { "type": "string" },
            "failing_since": { "type": ["string", "null"], "format": "date-time" },
            "failures": { "type": "integer", "minimum": 0 },
        },
    })
}

fn thin() -> Value {
    all_required(in_json(&ThinData::schema()), &["egress_id"])
}

/// The API's session without the link that expires; the transcript may be too long to be sent.
fn full() -> Value {
    let mut session = in_json(&SessionData::schema());
    let properties = session["properties"].as_object_mut().expect("a session is an object");
    properties.remove("recording_presigned_url");
    for name in ["transcript", "transcript_text"] {
        let sent = properties[name].take();
        properties[name] = json!({ "anyOf": [sent, { "type": "null" }] });
    }
    properties.insert("url".to_owned(), json!({ "type": "string", "format": "uri" }));
    properties.insert("transcript_truncated".to_owned(), json!({ "type": "boolean" }));
    properties.insert("egress_id".to_owned(), json!({ "type": "string" }));
    all_required(session, &["egress_id"])
}

/// Every property is sent, null or not, but these.
fn all_required(mut object: Value, but: &[&str]) -> Value {
    let properties = object["properties"].as_object().expect("this is an object");
    let names = properties.keys().filter(|name| !but.contains(&name.as_str()));
    let required: Value = names.cloned().collect();
    object["required"] = required;
    object
}

/// The types that a type is made of.
fn definitions<T: ToSchema>() -> Map<String, Value> {
    let mut schemas = Vec::new();
    T::schemas(&mut schemas);
    schemas.into_iter().map(|(name, schema)| (name, in_json(&schema))).collect()
}

/// OpenAPI 3.1 writes schemas as JSON Schema does, and keeps them elsewhere.
fn in_json(schema: &RefOr<Schema>) -> Value {
    let text = serde_json::to_string(schema).expect("a schema is plain data");
    let text = text.replace("#/components/schemas/", "#/$defs/");
    serde_json::from_str(&text).expect("it was JSON before")
}
