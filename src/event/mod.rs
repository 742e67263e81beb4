//! What voice workers tell us: bytes come in, a typed [`Event`] or a [`Rejection`] goes out.
//!
//! Pure. The wire's own structs never leave this folder; what leaves it is checked: identifying
//! strings are short and free of U+0000, times lie in the years 0 to 9999 and are cut to
//! microseconds, numbers are in range.
//!
//! Two ways lead to an event. The fast one reads the bytes once, borrowing its texts from them. If
//! it fails for whatever reason, the careful one looks at one member after the other: it alone
//! knows which members and list elements are for us (what the others hold cannot fail an event),
//! and it alone says what is wrong. What the fast way takes, the careful way takes as the same
//! event.

mod decode;
mod digest;
mod egress;
mod elements;
mod json;
mod members;
mod messages;
mod metadata;
mod named;
mod owned;
mod rejection;
mod report;
mod scalar;
mod schema;
mod surrogates;
#[cfg(test)]
mod tests;
mod text;
mod trace;
mod usage;
mod wire;

pub use decode::decode;
pub use egress::{Egress, EgressFile, EgressStatus, egress_from_slice, recording_event};
pub use named::Named;
pub use rejection::{FailureCode, Rejection};
pub use schema::schema;
pub use text::Text;
pub use trace::TraceParent;

pub(crate) use json::Json;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

/// SHA-256 over all that decode keeps of an event, except `event_id` and `occurred_at`.
pub type Digest = [u8; 32];

/// One thing a voice worker (or `LiveKit`) tells us. Borrows from the event's bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// `session.started`: a call began.
    Started(SessionStarted<'a>),
    /// `session.checkpoint`: what was said in a call so far.
    Checkpoint(Box<SessionCheckpoint<'a>>),
    /// `session.ended`: a call is over, with everything that was said.
    Ended(Box<SessionEnded<'a>>),
    /// `recording.updated`: what became of a recording.
    Recording(Box<RecordingUpdated<'a>>),
    /// `room.finished`: a room is closed, and nobody can be in it any more.
    Room(RoomFinished<'a>),
}

/// The types of events there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// `session.started`.
    Started,
    /// `session.checkpoint`.
    Checkpoint,
    /// `session.ended`.
    Ended,
    /// `recording.updated`.
    Recording,
    /// `room.finished`.
    Room,
}

impl EventType {
    /// Every type.
    pub const ALL: [Self; 5] =
        [Self::Started, Self::Checkpoint, Self::Ended, Self::Recording, Self::Room];

    /// The type as it stands in events; also the routing key.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "session.started",
            Self::Checkpoint => "session.checkpoint",
            Self::Ended => "session.ended",
            Self::Recording => "recording.updated",
            Self::Room => "room.finished",
        }
    }

    /// Whether such an event carries a call's body: what was said and used.
    fn has_body(self) -> bool {
        matches!(self, Self::Checkpoint | Self::Ended)
    }

    /// Whether such an event names the call, its owner and when it began.
    fn has_identity(self) -> bool {
        self == Self::Started || self.has_body()
    }

    /// All names, for people.
    fn names() -> String {
        Self::ALL.map(|event_type| format!("`{}`", event_type.as_str())).join(", ")
    }
}

impl<'a> Event<'a> {
    /// Its type.
    pub fn event_type(&self) -> EventType {
        match self {
            Self::Started(_) => EventType::Started,
            Self::Checkpoint(_) => EventType::Checkpoint,
            Self::Ended(_) => EventType::Ended,
            Self::Recording(_) => EventType::Recording,
            Self::Room(_) => EventType::Room,
        }
    }

    /// How it names itself.
    pub fn envelope(&self) -> &Envelope<'a> {
        match self {
            Self::Started(started) => &started.envelope,
            Self::Checkpoint(checkpoint) => &checkpoint.so_far.envelope,
            Self::Ended(ended) => &ended.envelope,
            Self::Recording(recording) => &recording.envelope,
            Self::Room(room) => &room.envelope,
        }
    }

    /// The session it is about, if it says.
    pub fn session_id(&self) -> Option<Uuid> {
        match self {
            Self::Started(started) => Some(started.identity.session_id),
            Self::Checkpoint(checkpoint) => Some(checkpoint.so_far.call.identity.session_id),
            Self::Ended(ended) => Some(ended.call.identity.session_id),
            Self::Recording(recording) => recording.session_id,
            Self::Room(room) => room.session_id,
        }
    }
}

/// How an event names itself; for tracing only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Envelope<'a> {
    /// Any string the publisher chose.
    pub event_id: Text<'a>,
    /// When the publisher says it happened.
    pub occurred_at: Option<DateTime<Utc>>,
}

/// Which call, whose, and where: the fields `session.started` and `session.ended` share.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity<'a> {
    /// The session's id.
    pub session_id: Uuid,
    /// The tenant the character belongs to.
    pub tenant_id: Text<'a>,
    /// The character that spoke.
    pub character_slug: Text<'a>,
    /// The user who created the character: the session's owner.
    pub character_owner: i64,
    /// The user who called, if known.
    pub user: Option<i64>,
    /// `LiveKit`'s room name.
    pub room_name: Option<Text<'a>>,
    /// `LiveKit`'s room id (`RM_…`).
    pub room_id: Option<Text<'a>>,
    /// The page the call was made from.
    pub origin_url: Option<Text<'a>>,
    /// What the customer passed at session start.
    pub metadata: Metadata,
}

/// A JSON object as compact text, its members in the order and its numbers in the digits they
/// were sent in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata(pub(in crate::event) String);

/// `session.started`.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionStarted<'a> {
    /// How the event names itself.
    pub envelope: Envelope<'a>,
    /// Which call.
    pub identity: Identity<'a>,
    /// When the call began.
    pub started_at: DateTime<Utc>,
    /// See [`Digest`].
    pub digest: Digest,
}

/// `session.ended`: a whole call.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionEnded<'a> {
    /// How the event names itself.
    pub envelope: Envelope<'a>,
    /// See [`Digest`].
    pub digest: Digest,
    /// Everything the digest covers.
    pub call: Call<'a>,
}

/// `session.checkpoint`: a whole call as far as it has come.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionCheckpoint<'a> {
    /// Rises from one checkpoint of a call to the next. No part of the digest.
    pub sequence: i64,
    /// What `session.ended` would say if the call were over.
    pub so_far: SessionEnded<'a>,
}

/// What is kept of a finished call, in the publisher's own words: nothing derived, because the
/// digest is taken over exactly this (as JSON), and a later release must not change the digest
/// of an event that lacks its new fields. So: a new field is an `Option` that is skipped when
/// `None`, or a `Vec` skipped when empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Call<'a> {
    /// Which call.
    pub identity: Identity<'a>,
    /// When the call began; all turn times count from here.
    pub started_at: DateTime<Utc>,
    /// When it ended, if the publisher says.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it ended: the event's own word, else the report's (`CR_USER_INITIATED` is
    /// `user_initiated`).
    pub close_reason: Option<Text<'a>>,
    /// Which body the event carried.
    pub source: SourceKind,
    /// The messages of `user` and `assistant`, in source order. Nothing else is kept.
    pub messages: Vec<Message<'a>>,
    /// What was metered, in source order; entries of other types are left out.
    pub usage: Vec<UsageEntry<'a>>,
    /// The worker's own count of interruptions.
    pub interruption_count: Option<u32>,
    /// The report's `duration_ms`.
    pub report_duration_ms: Option<i64>,
    /// The report's `timestamp`, seconds and milliseconds told apart.
    pub report_timestamp: Option<DateTime<Utc>>,
    /// What the worker says of the recording.
    pub recording: Option<RecordingRequest<'a>>,
}

/// Which of the three bodies a `session.ended` or a `session.checkpoint` carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// `report`: `LiveKit`'s session report.
    LivekitSessionReport,
    /// `history` and `usage`: `LiveKit`'s chat history.
    LivekitHistory,
    /// `messages` and `usage`: the neutral form.
    Messages,
}

/// Who speaks in a turn.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The caller.
    User,
    /// The character.
    Assistant,
}

impl Role {
    /// The role's name, as a JSON string.
    pub(crate) fn as_json(self) -> &'static str {
        match self {
            Self::User => r#""user""#,
            Self::Assistant => r#""assistant""#,
        }
    }

    /// The role of that name, if it is one who speaks.
    fn parse(name: &str) -> Option<Self> {
        match name {
            "user" => Some(Self::User),
            "assistant" => Some(Self::Assistant),
            _ => None,
        }
    }

    /// Whether messages have this role in any form we know, of those who speak or of others.
    fn is_known(name: &str) -> bool {
        Self::parse(name).is_some() || matches!(name, "system" | "developer" | "tool" | "function")
    }
}

/// One message of `user` or `assistant`, as sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Message<'a> {
    /// The SDK's id of the item.
    pub id: Option<Text<'a>>,
    /// Who speaks.
    pub role: Role,
    /// The string parts, in order; not cleaned. May hold U+0000.
    pub texts: Vec<Text<'a>>,
    /// The transcripts of audio parts, in order; used only if there is no text.
    pub audio_transcripts: Vec<Text<'a>>,
    /// The speaker was cut off.
    pub interrupted: bool,
    /// When the item was made. For the neutral form, nothing.
    pub created_at: Option<DateTime<Utc>>,
    /// When the speaker began (`metrics.started_speaking_at`; the neutral form's `started_at`).
    pub started_speaking_at: Option<DateTime<Utc>>,
    /// When the speaker ended.
    pub stopped_speaking_at: Option<DateTime<Utc>>,
    /// `metrics.tts_metadata`: which voice spoke; tells untyped usage entries apart.
    pub voice: Option<Model<'a>>,
}

/// A provider and its model, as the worker spells them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Model<'a> {
    /// Such as `api.openai.com`; may be empty.
    pub provider: Text<'a>,
    /// Such as `gpt-4o-mini`; may be empty.
    pub model: Text<'a>,
}

/// One entry of metered usage, as sent. Counts that are absent are 0.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UsageEntry<'a> {
    /// Its place in the list that was sent, entries that are left out included: what a rejection
    /// points at. No part of the digest.
    pub index: usize,
    /// `llm_usage`, `stt`, …; releases before 1.8.9 have none.
    pub kind: Option<Text<'a>>,
    /// Whose.
    pub model: Model<'a>,
    /// The numbers, by the names of `LiveKit`'s `ModelUsage`.
    pub counts: UsageCounts,
}

/// The numbers of a usage entry. `None` is "no such key": untyped entries are told apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "named as LiveKit's ModelUsage names them")]
pub struct UsageCounts {
    pub input_tokens: Option<i64>,
    pub input_cached_tokens: Option<i64>,
    pub input_cache_creation_tokens: Option<i64>,
    pub input_audio_tokens: Option<i64>,
    pub input_cached_audio_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub output_audio_tokens: Option<i64>,
    pub characters_count: Option<i64>,
    /// `audio_duration` (the neutral form's `audio_seconds`), in microseconds.
    pub audio_us: Option<i64>,
}

/// `recording` of `session.ended`.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordingRequest<'a> {
    /// A recording was asked for.
    pub expected: bool,
    /// The egress that makes it.
    pub egress_id: Option<Text<'a>>,
    /// Where the worker stored it itself.
    pub url: Option<Text<'a>>,
}

/// `recording.updated`.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordingUpdated<'a> {
    /// How the event names itself.
    pub envelope: Envelope<'a>,
    /// The session, if the publisher knows it.
    pub session_id: Option<Uuid>,
    /// The report; its room fields default from the event's own.
    pub egress: Egress,
}

/// `room.finished`. Names at least one of session, room id and room name.
#[derive(Debug, Clone, PartialEq)]
pub struct RoomFinished<'a> {
    /// How the event names itself.
    pub envelope: Envelope<'a>,
    /// The session, if the publisher knows it.
    pub session_id: Option<Uuid>,
    /// `LiveKit`'s room id (`RM_…`).
    pub room_id: Option<Text<'a>>,
    /// `LiveKit`'s room name.
    pub room_name: Option<Text<'a>>,
    /// When the room was closed: the event's `occurred_at`.
    pub finished_at: DateTime<Utc>,
    /// See [`Digest`]; `finished_at` is part of it.
    pub digest: Digest,
}

impl Metadata {
    /// The object as compact JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `{}`.
    pub fn empty() -> Self {
        Self("{}".to_owned())
    }
}
