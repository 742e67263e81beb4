//! An event's top level as it is on the wire, and how it becomes an [`Event`].

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::egress::EgressInfo;
use super::elements::Element;
use super::members::{Members, missing, read_value};
use super::messages::{NeutralMessage, read_messages};
use super::report::{History, Item, Report, close_reason};
use super::scalar::{Address, Count, Name, Object, Time};
use super::usage::{Entry, read_usage};
use super::{
    Call, Envelope, Event, EventType, FailureCode, Identity, Message, RecordingRequest,
    RecordingUpdated, Rejection, RoomFinished, SessionCheckpoint, SessionEnded, SessionStarted,
    SourceKind, Text, UsageEntry, digest, metadata,
};

/// The members of every type of event. What decides how the rest is read stays raw. `I`, `M` and
/// `U` are elements (see [`Element`]): items, neutral messages, usage entries.
#[derive(Debug, Deserialize)]
pub(super) struct Wire<'a, I, M, U> {
    #[serde(rename = "type", borrow)]
    event_type: Option<&'a RawValue>,
    schema_version: Option<&'a RawValue>,
    event_id: Option<Name<'a>>,
    occurred_at: Option<Time>,
    session_id: Option<&'a RawValue>,
    tenant_id: Option<Name<'a>>,
    character_slug: Option<Name<'a>>,
    character_owner: Option<i64>,
    user: Option<i64>,
    room_name: Option<Name<'a>>,
    room_id: Option<Name<'a>>,
    origin_url: Option<Address<'a>>,
    metadata: Option<&'a RawValue>,
    started_at: Option<Time>,
    ended_at: Option<Time>,
    close_reason: Option<Name<'a>>,
    source: Option<&'a RawValue>,
    report: Option<Object<Report<'a, I, U>>>,
    history: Option<Object<History<I>>>,
    messages: Option<Vec<M>>,
    usage: Option<Vec<U>>,
    interruption_count: Option<Count>,
    recording: Option<Object<WireRecording<'a>>>,
    egress: Option<Object<EgressInfo<'a>>>,
    sequence: Option<Count>,
}

#[derive(Debug, Deserialize)]
struct WireRecording<'a> {
    expected: Option<bool>,
    #[serde(borrow)]
    egress_id: Option<Name<'a>>,
    url: Option<Address<'a>>,
}

/// What the three kinds of body have in common.
#[derive(Default)]
struct Body<'a> {
    messages: Vec<Message<'a>>,
    usage: Vec<UsageEntry<'a>>,
    room_name: Option<Text<'a>>,
    room_id: Option<Text<'a>>,
    close_reason: Option<Text<'a>>,
    duration_ms: Option<i64>,
    timestamp: Option<Time>,
}

impl<'a, I, M, U> Wire<'a, I, M, U>
where
    I: Element<Item<'a>>,
    M: Element<NeutralMessage<'a>>,
    U: Element<Entry<'a>>,
{
    /// Checks what no single value can: what is required, and what belongs together.
    pub(super) fn into_event(mut self) -> Result<Event<'a>, Rejection> {
        let event_type = event_type(self.event_type)?;
        schema_version(self.schema_version)?;
        let envelope = Envelope {
            event_id: required(self.event_id.take(), "/event_id")?.0,
            occurred_at: self.occurred_at.map(|time| time.0),
        };
        Ok(match event_type {
            EventType::Started => Event::Started(self.into_started(envelope)?),
            EventType::Checkpoint => Event::Checkpoint(Box::new(self.into_checkpoint(envelope)?)),
            EventType::Ended => Event::Ended(Box::new(self.into_ended(envelope)?)),
            EventType::Recording => Event::Recording(Box::new(self.into_recording(envelope)?)),
            EventType::Room => Event::Room(self.into_room(envelope)?),
        })
    }

    fn into_started(mut self, envelope: Envelope<'a>) -> Result<SessionStarted<'a>, Rejection> {
        let identity = self.take_identity()?;
        let started_at = self.started_at()?;
        let digest = digest::of_start(&identity, started_at);
        Ok(SessionStarted { envelope, identity, started_at, digest })
    }

    fn into_checkpoint(self, envelope: Envelope<'a>) -> Result<SessionCheckpoint<'a>, Rejection> {
        let sequence = self
            .sequence
            .ok_or_else(|| missing("/sequence", "a whole number that rises with each checkpoint"))?
            .0;
        Ok(SessionCheckpoint { sequence, so_far: self.into_ended(envelope)? })
    }

    fn into_ended(mut self, envelope: Envelope<'a>) -> Result<SessionEnded<'a>, Rejection> {
        let mut identity = self.take_identity()?;
        let started_at = self.started_at()?;
        let source = source_kind(self.source)?;
        let body = self.take_body(source)?;
        identity.room_name = identity.room_name.or(body.room_name);
        identity.room_id = identity.room_id.or(body.room_id);
        let call = Call {
            identity,
            started_at,
            ended_at: self.ended_at.map(|time| time.0),
            close_reason: named(self.close_reason).or(body.close_reason),
            source,
            messages: body.messages,
            usage: body.usage,
            interruption_count: self.interruption_count.map(interruptions).transpose()?,
            report_duration_ms: body.duration_ms,
            report_timestamp: body.timestamp.map(|time| time.0),
            recording: self.recording.map(|recording| recording.0.into_request()),
        };
        Ok(SessionEnded { envelope, digest: digest::of_call(&call), call })
    }

    fn into_recording(mut self, envelope: Envelope<'a>) -> Result<RecordingUpdated<'a>, Rejection> {
        let session_id = present(self.session_id).map(session_id).transpose()?;
        let egress = self.egress.take().ok_or_else(|| missing("/egress", "an `EgressInfo`"))?;
        let mut egress = egress.0;
        egress.default_rooms(self.room_id.take(), self.room_name.take());
        Ok(RecordingUpdated { envelope, session_id, egress: egress.into_egress("/egress")? })
    }

    fn into_room(self, envelope: Envelope<'a>) -> Result<RoomFinished<'a>, Rejection> {
        let session_id = present(self.session_id).map(session_id).transpose()?;
        let (room_id, room_name) = (named(self.room_id), named(self.room_name));
        if session_id.is_none() && room_id.is_none() && room_name.is_none() {
            return Err(missing("/room_id", "a string (or a `room_name`, or a `session_id`)"));
        }
        let finished_at = envelope
            .occurred_at
            .ok_or_else(|| missing("/occurred_at", "the time at which the room was closed"))?;
        let digest = digest::of_room(session_id, room_id.as_ref(), room_name.as_ref(), finished_at);
        Ok(RoomFinished { envelope, session_id, room_id, room_name, finished_at, digest })
    }

    fn take_identity(&mut self) -> Result<Identity<'a>, Rejection> {
        let raw = present(self.session_id).ok_or_else(|| missing("/session_id", "a UUID"))?;
        let owner =
            self.character_owner.ok_or_else(|| missing("/character_owner", "an integer"))?;
        Ok(Identity {
            session_id: session_id(raw)?,
            tenant_id: required(self.tenant_id.take(), "/tenant_id")?.0,
            character_slug: required(self.character_slug.take(), "/character_slug")?.0,
            character_owner: owner,
            user: self.user,
            room_name: named(self.room_name.take()),
            room_id: named(self.room_id.take()),
            origin_url: self.origin_url.take().and_then(Address::unless_empty),
            metadata: metadata::read(self.metadata)?,
        })
    }

    fn started_at(&self) -> Result<chrono::DateTime<chrono::Utc>, Rejection> {
        let started_at = self.started_at.ok_or_else(|| missing("/started_at", "a time"))?;
        Ok(started_at.0)
    }

    fn take_body(&mut self, source: SourceKind) -> Result<Body<'a>, Rejection> {
        match source {
            SourceKind::LivekitSessionReport => {
                let report = self.report.take().ok_or_else(|| {
                    missing("/report", "what `make_session_report().to_dict()` returns")
                })?;
                report_body(report.0)
            }
            SourceKind::LivekitHistory => {
                let history = self.history.take().ok_or_else(|| {
                    missing("/history", "what `to_dict(exclude_timestamp=False)` returns")
                })?;
                let messages = history.0.into_messages("/history")?;
                let usage = read_usage(self.usage.take(), "/usage")?;
                Ok(Body { messages, usage, ..Body::default() })
            }
            SourceKind::Messages => {
                let messages = self
                    .messages
                    .take()
                    .ok_or_else(|| missing("/messages", "an array of messages"))?;
                let messages = read_messages(messages, "/messages")?;
                let usage = read_usage(self.usage.take(), "/usage")?;
                Ok(Body { messages, usage, ..Body::default() })
            }
        }
    }
}

fn report_body<'a, I, U>(report: Report<'a, I, U>) -> Result<Body<'a>, Rejection>
where
    I: Element<Item<'a>>,
    U: Element<Entry<'a>>,
{
    let history = report.chat_history.ok_or_else(|| {
        missing("/report/chat_history", "the chat history (the report was made without it)")
    })?;
    Ok(Body {
        messages: history.0.into_messages("/report/chat_history")?,
        usage: read_usage(report.usage, "/report/usage")?,
        room_name: named(report.room),
        room_id: named(report.room_id),
        close_reason: named(report.close_reason).map(close_reason),
        duration_ms: report.duration_ms.map(|duration| duration.0),
        timestamp: report.timestamp,
    })
}

impl<'a> WireRecording<'a> {
    fn into_request(self) -> RecordingRequest<'a> {
        let egress_id = named(self.egress_id);
        let url = self.url.and_then(Address::unless_empty);
        // Who names the egress or the file has asked for the recording.
        let expected = self.expected.unwrap_or(egress_id.is_some() || url.is_some());
        RecordingRequest { expected, egress_id, url }
    }
}

/// The event's type.
pub(super) fn event_type(raw: Option<&RawValue>) -> Result<EventType, Rejection> {
    let raw = present(raw).ok_or_else(|| missing("/type", "the event's type"))?;
    let name: Text<'_> = read_value(raw.get(), "/type")?;
    EventType::ALL.into_iter().find(|known| known.as_str() == name.as_str()).ok_or_else(|| {
        let message = format!("Expected one of {}, found another type.", EventType::names());
        Rejection::at(FailureCode::UnsupportedType, "/type", message)
    })
}

/// Checks that the event is in the one version there is.
pub(super) fn schema_version(raw: Option<&RawValue>) -> Result<(), Rejection> {
    let raw = present(raw).ok_or_else(|| missing("/schema_version", "the integer 1"))?;
    if raw.get() == "1" {
        return Ok(());
    }
    let message = "Expected the integer 1, the only version there is, found another value.";
    Err(Rejection::at(FailureCode::UnsupportedVersion, "/schema_version", message))
}

/// A session's id: a UUID in the form of 36 characters.
pub(super) fn session_id(raw: &RawValue) -> Result<Uuid, Rejection> {
    let text = serde_json::from_str::<Text<'_>>(raw.get()).ok();
    text.filter(|text| text.as_str().len() == 36)
        .and_then(|text| Uuid::try_parse(text.as_str()).ok())
        .ok_or_else(|| {
            let message = "Expected a UUID in its form of 36 characters, found another value.";
            Rejection::at(FailureCode::InvalidSessionId, "/session_id", message)
        })
}

/// Which body a `session.ended` carries.
pub(super) fn source_kind(raw: Option<&RawValue>) -> Result<SourceKind, Rejection> {
    let raw = present(raw).ok_or_else(|| missing("/source", "an object with a `kind`"))?;
    let source: Members<'_> = read_value(raw.get(), "/source")?;
    let known = source.text("kind").and_then(|kind| match kind.as_str() {
        "livekit_session_report" => Some(SourceKind::LivekitSessionReport),
        "livekit_history" => Some(SourceKind::LivekitHistory),
        "messages" => Some(SourceKind::Messages),
        _ => None,
    });
    known.ok_or_else(|| {
        let message = "Expected `livekit_session_report`, `livekit_history` or `messages`.";
        Rejection::invalid("/source/kind", message)
    })
}

/// `null` is as good as absent.
pub(super) fn present(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

fn required<'a>(name: Option<Name<'a>>, pointer: &str) -> Result<Name<'a>, Rejection> {
    name.ok_or_else(|| missing(pointer, "a string"))
}

fn named(name: Option<Name<'_>>) -> Option<Text<'_>> {
    name.and_then(Name::unless_empty)
}

fn interruptions(count: Count) -> Result<u32, Rejection> {
    i32::try_from(count.0).map(i32::unsigned_abs).map_err(|_| {
        let message =
            format!("Expected a whole number from 0 to {}, found a larger one.", i32::MAX);
        Rejection::invalid("/interruption_count", message)
    })
}
