//! Why an event could not be finalized, in a code for programs and a sentence for people.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Event;
use super::decode::about_beginning;

/// What kind of trouble; the whole list of codes a failure can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The bytes are no JSON.
    MalformedJson,
    /// An event type we do not know.
    UnsupportedType,
    /// A `schema_version` we do not know.
    UnsupportedVersion,
    /// A field is missing, of the wrong type or out of range; the pointer says which.
    InvalidEvent,
    /// `session_id` is no UUID.
    InvalidSessionId,
    /// There are turns, and none has a time.
    UntimedTurns,
    /// The session is already finalized from a different event, or belongs to another owner.
    ConflictingEvent,
    /// No session was found for a recording within 7 days.
    UnmatchedRecording,
    /// More bytes than `--max-event-bytes`.
    TooLarge,
    /// The broker gave up on it.
    DeliveryLimit,
    /// A panic, caught for this one event.
    InternalError,
    /// The database refused the data.
    StoreRejected,
}

impl FailureCode {
    /// Every code.
    pub const ALL: [Self; 12] = [
        Self::MalformedJson,
        Self::UnsupportedType,
        Self::UnsupportedVersion,
        Self::InvalidEvent,
        Self::InvalidSessionId,
        Self::UntimedTurns,
        Self::ConflictingEvent,
        Self::UnmatchedRecording,
        Self::TooLarge,
        Self::DeliveryLimit,
        Self::InternalError,
        Self::StoreRejected,
    ];

    /// The code as it stands in databases, in the API and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed_json",
            Self::UnsupportedType => "unsupported_type",
            Self::UnsupportedVersion => "unsupported_version",
            Self::InvalidEvent => "invalid_event",
            Self::InvalidSessionId => "invalid_session_id",
            Self::UntimedTurns => "untimed_turns",
            Self::ConflictingEvent => "conflicting_event",
            Self::UnmatchedRecording => "unmatched_recording",
            Self::TooLarge => "too_large",
            Self::DeliveryLimit => "delivery_limit",
            Self::InternalError => "internal_error",
            Self::StoreRejected => "store_rejected",
        }
    }

    /// The code with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for FailureCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event that could not be finalized. Never holds text of the transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// What kind of trouble.
    pub code: FailureCode,
    /// Where: a JSON pointer (RFC 6901) into the event, if one place is to blame.
    pub pointer: Option<String>,
    /// One sentence that tells the publisher what to change.
    pub message: String,
    /// Which session the event was about, if it could be told.
    pub session_id: Option<Uuid>,
    /// The event's `event_id`, if it could be told.
    pub event_id: Option<String>,
    /// The event's `type`, if it could be told.
    pub event_type: Option<String>,
}

impl Rejection {
    /// A rejection of the whole event.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self {
            code,
            pointer: None,
            message: message.into(),
            session_id: None,
            event_id: None,
            event_type: None,
        }
    }

    /// A rejection for the value at `pointer`.
    pub fn at(code: FailureCode, pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), ..Self::new(code, message) }
    }

    /// More bytes than an event may have (`--max-event-bytes`).
    pub fn too_large(bytes: &[u8], max_bytes: usize) -> Self {
        let message = format!(
            "The event has {} bytes, and at most {max_bytes} are taken: leave the report's \
             `events` and `options` out, or raise --max-event-bytes and replay it.",
            bytes.len()
        );
        about_beginning(Self::new(FailureCode::TooLarge, message), bytes)
    }

    /// Says which event it is about, if that was not known yet.
    #[must_use]
    pub fn about(self, event: &Event<'_>) -> Self {
        Self {
            session_id: self.session_id.or_else(|| event.session_id()),
            event_id: self.event_id.or_else(|| Some(event.envelope().event_id.to_owned_string())),
            event_type: self.event_type.or_else(|| Some(event.event_type().as_str().to_owned())),
            ..self
        }
    }

    /// `invalid_event` at `pointer`.
    pub fn invalid(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::at(FailureCode::InvalidEvent, pointer, message)
    }
}
