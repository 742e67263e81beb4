//! What a transport says of an event beside its bytes, kept for the failure that it may become.
//! Bounded, whatever it says, and without what proves who somebody is.

use std::borrow::Cow;
use std::sync::Arc;

use lapin::protocol::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::event::{Json, TraceParent};

/// More headers are left out.
const MOST: usize = 40;
/// Longer values are cut, in bytes.
const LONGEST: usize = 512;
/// What most lists of headers need, in bytes.
const USUAL_BYTES: usize = 512;
/// How deep lists and tables in a value are followed.
const DEEPEST: usize = 3;
/// So many elements of a list or a table are kept.
const MOST_ELEMENTS: usize = 16;

/// Never kept, however they are written.
const SECRET: [&str; 5] =
    ["authorization", "proxy-authorization", "x-api-key", "cookie", "set-cookie"];

/// What of an HTTP request is worth keeping: an event's cause, and where it came from.
const OF_HTTP: [&str; 8] = [
    "content-type",
    "content-length",
    "content-encoding",
    "user-agent",
    "x-request-id",
    "x-forwarded-for",
    TRACEPARENT,
    "tracestate",
];

/// Where a transport says which trace an event belongs to.
const TRACEPARENT: &str = "traceparent";

/// A JSON list of `{name, value}`; `None` if there is nothing.
pub type Headers = Option<Arc<str>>;

/// The value of a header.
enum Given<'a> {
    Text(Cow<'a, str>),
    Other(Value),
}

/// The headers of an HTTP request.
pub fn of_http(headers: &http::HeaderMap) -> Headers {
    let named = OF_HTTP.iter().filter_map(|name| {
        let text = String::from_utf8_lossy(headers.get(*name)?.as_bytes());
        Some((*name, Given::Text(text)))
    });
    list(named)
}

/// The properties and headers of a message, and how it was routed.
pub(super) fn of_message(
    (exchange, routing_key, is_redelivered): (&str, &str, bool),
    properties: &BasicProperties,
) -> Headers {
    let routed = [
        ("exchange", Some(text(exchange))),
        ("routing_key", Some(text(routing_key))),
        ("redelivered", Some(Given::Other(Value::Bool(is_redelivered)))),
        ("message_id", property(properties.message_id().as_ref())),
        ("type", property(properties.kind().as_ref())),
        ("content_type", property(properties.content_type().as_ref())),
        ("correlation_id", property(properties.correlation_id().as_ref())),
        ("app_id", property(properties.app_id().as_ref())),
        ("timestamp", properties.timestamp().map(|seconds| Given::Other(json!(seconds)))),
    ];
    let own = routed.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let table = properties.headers().as_ref().map(FieldTable::inner);
    let others = table.into_iter().flatten();
    let others = others.map(|(name, value)| (name.as_str(), given(value)));
    list(own.chain(others))
}

/// One of the headers that are kept.
#[derive(Deserialize)]
struct Kept<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    value: Value,
}

/// The trace that an event belongs to, from what is kept of its headers: so a failure that is
/// replayed still has it.
pub(super) fn trace_of(headers: Option<&str>) -> Option<TraceParent> {
    let list = headers.filter(|list| list.contains(TRACEPARENT))?;
    let kept: Vec<Kept<'_>> = serde_json::from_str(list).ok()?;
    let trace = kept.iter().find(|header| header.name == TRACEPARENT)?;
    TraceParent::parse(trace.value.as_str()?)
}

fn text(text: &str) -> Given<'_> {
    Given::Text(text.into())
}

fn property(value: Option<&ShortString>) -> Option<Given<'_>> {
    value.map(|value| text(value.as_str()))
}

fn given(value: &AMQPValue) -> Given<'_> {
    match value {
        AMQPValue::ShortString(text) => Given::Text(short(text.as_str().into())),
        AMQPValue::LongString(text) => Given::Text(short(String::from_utf8_lossy(text.as_bytes()))),
        other => Given::Other(value_of(other, 0)),
    }
}

fn list<'a>(headers: impl Iterator<Item = (&'a str, Given<'a>)>) -> Headers {
    let kept = headers.filter(|(name, _)| !is_secret(name)).take(MOST);
    let mut json = Json::with_capacity(USUAL_BYTES);
    json.list(kept, |json, (name, value)| {
        json.object(|json| {
            json.member("name").string(&short(name.into()));
            write(json.member("value"), value);
        });
    });
    let list = json.into_text();
    (list != "[]").then(|| list.into())
}

fn is_secret(name: &str) -> bool {
    SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

/// The value as it is, if it is not too long.
fn write(json: &mut Json, value: Given<'_>) {
    match value {
        Given::Text(text) => json.string(&short(text)),
        Given::Other(value) => {
            let text = value.to_string();
            // All but lists and tables are short.
            if text.len() > 4 * LONGEST {
                json.string(&short(text.into()));
            } else {
                json.raw(&text);
            }
        }
    }
}

/// PostgreSQL's text cannot hold U+0000.
fn short(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= LONGEST && !text.contains('\0') {
        return text;
    }
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let cut = if end < text.len() { "…" } else { "" };
    format!("{}{cut}", text[..end].replace('\0', "\u{FFFD}")).into()
}

fn value_of(value: &AMQPValue, depth: usize) -> Value {
    let deeper = |value: &AMQPValue| value_of(value, depth + 1);
    match value {
        AMQPValue::Boolean(value) => json!(value),
        AMQPValue::ShortShortInt(value) => json!(value),
        AMQPValue::ShortShortUInt(value) => json!(value),
        AMQPValue::ShortInt(value) => json!(value),
        AMQPValue::ShortUInt(value) => json!(value),
        AMQPValue::LongInt(value) => json!(value),
        AMQPValue::LongUInt(value) => json!(value),
        AMQPValue::LongLongInt(value) => json!(value),
        AMQPValue::Timestamp(value) => json!(value),
        AMQPValue::Float(value) => json!(value),
        AMQPValue::Double(value) => json!(value),
        AMQPValue::ShortString(text) => json!(short(text.as_str().into())),
        AMQPValue::LongString(text) => json!(short(text.to_string().into())),
        AMQPValue::FieldArray(values) if depth < DEEPEST => {
            values.as_slice().iter().take(MOST_ELEMENTS).map(deeper).collect()
        }
        AMQPValue::FieldTable(table) if depth < DEEPEST => {
            let members = table.inner().iter().take(MOST_ELEMENTS);
            let members = members.filter(|(name, _)| !is_secret(name.as_str()));
            members
                .map(|(name, value)| (short(name.as_str().into()).into_owned(), deeper(value)))
                .collect()
        }
        AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::DecimalValue(_) => json!("…"),
        AMQPValue::Void => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn read(headers: &Headers) -> Value {
        serde_json::from_str(headers.as_deref().unwrap()).unwrap()
    }

    #[test]
    fn of_a_request_only_what_tells_of_the_event_is_kept() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer a.b.c"),
            ("x-api-key", "sk_1"),
            ("cookie", "session=1"),
            ("user-agent", "worker/1.2"),
            ("x-other", "1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("x-request-id", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        let kept = read(&of_http(&headers));
        let names: Vec<&str> =
            kept.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["user-agent", "x-request-id"]);
        assert_eq!(kept[1]["value"], "caf\u{FFFD}");
        assert_eq!(of_http(&HeaderMap::new()), None);
    }

    #[test]
    fn a_message_tells_how_it_came_and_its_table_is_bounded() {
        let mut table = FieldTable::default();
        let mut deep = AMQPValue::Boolean(true);
        for _ in 0..10 {
            deep = AMQPValue::FieldArray(vec![deep].into());
        }
        table.insert("deep".into(), deep);
        table.insert("Authorization".into(), AMQPValue::LongString("secret".into()));
        table.insert("traceparent".into(), AMQPValue::LongString("00-1-2-01".into()));
        table.insert("long".into(), AMQPValue::LongString("x\0".repeat(10_000).into()));
        for index in 0..100 {
            table.insert(format!("z{index}").into(), AMQPValue::LongInt(index));
        }
        let properties = BasicProperties::default()
            .with_message_id("e1".into())
            .with_timestamp(1_780_000_000)
            .with_headers(table);
        let kept = of_message(("voice.events", "session.ended", true), &properties).unwrap();
        assert!(kept.len() < 8000 && !kept.contains("secret") && !kept.contains("\\u0000"));
        let kept = read(&Some(kept));
        let value = |name: &str| {
            kept.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()["value"]
                .clone()
        };
        assert_eq!(value("routing_key"), "session.ended");
        assert_eq!((value("redelivered"), value("message_id")), (json!(true), json!("e1")));
        assert_eq!(value("deep"), json!([[["…"]]]));
        assert_eq!(kept.as_array().unwrap().len(), MOST);
    }
}
