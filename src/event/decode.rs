//! Bytes to events: one fast pass when all is well, and a careful one that finds out what is not.

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::members::Members;
use super::messages::NeutralMessage;
use super::report::Item;
use super::scalar::{MAX_NAME_BYTES, Object};
use super::surrogates::without_lone_surrogates;
use super::usage::Entry;
use super::wire::{Wire, event_type, present, schema_version, session_id, source_kind};
use super::{Event, EventType, FailureCode, Rejection, SourceKind};

/// Everything read at once; fails on elements that are not even for us.
type Fast<'a> = Wire<'a, Object<Item<'a>>, Object<NeutralMessage<'a>>, Object<Entry<'a>>>;

/// Elements are read one by one, by those who know which of them matter.
type Careful<'a> = Wire<'a, &'a RawValue, &'a RawValue, &'a RawValue>;

/// How much of an event that cannot be read is searched for its ids, in bytes.
const BEGINNING_BYTES: usize = 64 * 1024;

/// Reads one event. How large it may be is for the caller to check (see
/// [`Rejection::too_large`]).
pub fn decode(bytes: &[u8]) -> Result<Event<'_>, Rejection> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_utf8(bytes, error.valid_up_to()))?;
    if let Some(event) = decode_fast(text) {
        return Ok(event);
    }
    match without_lone_surrogates(text) {
        Some(repaired) => decode_carefully(&repaired).map(Event::into_owned),
        None => decode_carefully(text),
    }
}

pub(super) fn decode_fast(text: &str) -> Option<Event<'_>> {
    serde_json::from_str::<Object<Fast<'_>>>(text).ok()?.0.into_event().ok()
}

/// The truth about an event: takes what the fast pass takes, and some that it does not.
pub(super) fn decode_carefully(text: &str) -> Result<Event<'_>, Rejection> {
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return Err(about(malformed(text, &error), &Members::before_error(text)));
    }
    let members = Members::of(text).ok_or_else(|| {
        Rejection::invalid("", "Expected an event, a JSON object, found another value.")
    })?;
    read_event(&members).map_err(|rejection| about(rejection, &members))
}

fn read_event<'a>(members: &Members<'a>) -> Result<Event<'a>, Rejection> {
    let event_type = event_type(members.get("type"))?;
    schema_version(members.get("schema_version"))?;
    present(members.get("session_id")).map(session_id).transpose()?;
    let source = event_type.has_body().then(|| source_kind(members.get("source"))).transpose()?;
    let wire: Careful<'a> =
        members.read("", |member| is_member_kept(member, event_type, source))?;
    wire.into_event()
}

/// Which members an event of this type has; all others may hold anything.
fn is_member_kept(member: &str, event_type: EventType, source: Option<SourceKind>) -> bool {
    match member {
        "type" | "schema_version" | "event_id" | "occurred_at" | "session_id" | "room_name"
        | "room_id" => true,
        "egress" => event_type == EventType::Recording,
        "tenant_id" | "character_slug" | "character_owner" | "user" | "origin_url" | "metadata"
        | "started_at" => event_type.has_identity(),
        "sequence" => event_type == EventType::Checkpoint,
        "ended_at" | "close_reason" | "source" | "interruption_count" | "recording" => {
            event_type.has_body()
        }
        "report" => source == Some(SourceKind::LivekitSessionReport),
        "history" => source == Some(SourceKind::LivekitHistory),
        "messages" => source == Some(SourceKind::Messages),
        "usage" => matches!(source, Some(SourceKind::LivekitHistory | SourceKind::Messages)),
        _ => false,
    }
}

/// Says which event was rejected, as far as it can be told.
fn about(rejection: Rejection, members: &Members<'_>) -> Rejection {
    let name = |member: &str| {
        let text = members.text(member)?;
        let is_name = text.as_str().len() <= MAX_NAME_BYTES && !text.as_str().contains('\0');
        is_name.then(|| text.to_owned_string())
    };
    Rejection {
        session_id: members.get("session_id").and_then(|raw| session_id(raw).ok()),
        event_id: name("event_id"),
        event_type: name("type"),
        ..rejection
    }
}

/// Says which event was rejected, if its beginning tells.
pub(super) fn about_beginning(rejection: Rejection, bytes: &[u8]) -> Rejection {
    about(rejection, &Members::before_error(beginning(bytes)))
}

/// The beginning of an event, as far as it is text.
pub(super) fn beginning(bytes: &[u8]) -> &str {
    let beginning = &bytes[..bytes.len().min(BEGINNING_BYTES)];
    match std::str::from_utf8(beginning) {
        Ok(text) => text,
        Err(error) => {
            std::str::from_utf8(&beginning[..error.valid_up_to()]).expect("it is valid up to there")
        }
    }
}

fn not_utf8(bytes: &[u8], offset: usize) -> Rejection {
    let line = 1 + memchr::memchr_iter(b'\n', &bytes[..offset]).count();
    let message = format!("The event is not JSON: byte {offset} (line {line}) is not UTF-8.");
    about_beginning(Rejection::new(FailureCode::MalformedJson, message), bytes)
}

fn malformed(text: &str, error: &serde_json::Error) -> Rejection {
    let message = if text.trim_ascii().is_empty() {
        "The event is empty: a JSON object was expected.".to_owned()
    } else if is_at_non_number(text, error) {
        format!(
            "The event is not JSON: NaN, Infinity and -Infinity are not JSON numbers, leave such a \
             field out (line {}, column {}).",
            error.line(),
            error.column()
        )
    } else {
        format!("The event is not JSON: {error}.")
    };
    Rejection::new(FailureCode::MalformedJson, message)
}

/// Python's `json.dumps` writes such literals.
fn is_at_non_number(text: &str, error: &serde_json::Error) -> bool {
    let line = text.split('\n').nth(error.line().saturating_sub(1)).unwrap_or_default().as_bytes();
    let column = error.column().saturating_sub(1).min(line.len());
    let around = &line[column.saturating_sub(2)..line.len().min(column + 9)];
    ["NaN", "Infinity"].iter().any(|literal| {
        memchr::memmem::find(around, literal.as_bytes()).is_some_and(|offset| offset <= 2)
    })
}
