//! What a message is called, and how its id is made.

use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::endpoint::Endpoint;
use super::health::Failing;

/// The types of messages a subscriber can ask for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
pub enum EventType {
    /// A session is readable.
    #[serde(rename = "session.finalized")]
    SessionFinalized,
    /// A finalized session's recording can be played.
    #[serde(rename = "session.recording_ready")]
    RecordingReady,
    /// A finalized session's recording failed.
    #[serde(rename = "session.recording_failed")]
    RecordingFailed,
    /// An endpoint of the owner's was disabled.
    #[serde(rename = "endpoint.disabled")]
    EndpointDisabled,
    /// Somebody tries an endpoint out.
    #[serde(rename = "endpoint.ping")]
    EndpointPing,
}

impl EventType {
    /// Every type.
    pub const ALL: [Self; 5] = [
        Self::SessionFinalized,
        Self::RecordingReady,
        Self::RecordingFailed,
        Self::EndpointDisabled,
        Self::EndpointPing,
    ];

    /// The type as it stands in bodies and databases.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionFinalized => "session.finalized",
            Self::RecordingReady => "session.recording_ready",
            Self::RecordingFailed => "session.recording_failed",
            Self::EndpointDisabled => "endpoint.disabled",
            Self::EndpointPing => "endpoint.ping",
        }
    }

    /// The type with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event_type| event_type.as_str() == name)
    }
}

/// How much of a session a body carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PayloadKind {
    /// What happened, and where to read the rest.
    #[default]
    Thin,
    /// All that the API would say.
    Full,
}

impl PayloadKind {
    /// The kind as it stands in databases and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Thin => "thin",
            Self::Full => "full",
        }
    }

    /// The kind with this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Thin, Self::Full].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// What makes a message this message and no other.
#[derive(Debug, Clone, Copy)]
pub enum MessageKey<'a> {
    /// `session.finalized`: one per session and revision.
    Finalized {
        /// The session.
        session_id: Uuid,
        /// Which of its revisions.
        revision: i32,
    },
    /// `session.recording_*`: one per session, egress and outcome.
    Recording {
        /// The session.
        session_id: Uuid,
        /// The egress; empty when the worker stored the recording itself, or none was heard of.
        egress_id: &'a str,
        /// What became of it.
        outcome: EventType,
    },
    /// `endpoint.ping`: one each time.
    Ping {
        /// The endpoint.
        endpoint_id: Uuid,
        /// A fresh id.
        nonce: Uuid,
    },
    /// `endpoint.disabled`: one per time it happened.
    Disabled {
        /// The endpoint.
        endpoint_id: Uuid,
        /// When.
        at: DateTime<Utc>,
    },
}

/// A message's id, the `webhook-id`: `msg_` and 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub [u8; 16]);

impl MessageId {
    /// The id of the message with this key, in this installation: the same for ever.
    pub fn new(installation: Uuid, key: &MessageKey<'_>) -> Self {
        let mut hash = Sha256::new();
        hash.update(installation.as_bytes());
        match key {
            MessageKey::Finalized { session_id, revision } => {
                hash.update(b"finalized");
                hash.update(session_id.as_bytes());
                hash.update(revision.to_be_bytes());
            }
            MessageKey::Recording { session_id, egress_id, outcome } => {
                hash.update(outcome.as_str());
                hash.update(session_id.as_bytes());
                hash.update(egress_id.as_bytes());
            }
            MessageKey::Ping { endpoint_id, nonce } => {
                hash.update(b"ping");
                hash.update(endpoint_id.as_bytes());
                hash.update(nonce.as_bytes());
            }
            MessageKey::Disabled { endpoint_id, at } => {
                hash.update(b"disabled");
                hash.update(endpoint_id.as_bytes());
                hash.update(at.timestamp_micros().to_be_bytes());
            }
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }

    /// The id written as `msg_…`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 16];
        hex::decode_to_slice(text.strip_prefix("msg_")?, &mut id).ok()?;
        Some(Self(id))
    }
}

/// The body of an `endpoint.ping`.
pub fn ping_payload(endpoint_id: Uuid, now: DateTime<Utc>) -> Bytes {
    payload(EventType::EndpointPing, now, &json!({ "endpoint_id": endpoint_id }))
}

/// The body of an `endpoint.disabled`: which endpoint, why, and since when it had only failed.
pub fn disabled_payload(
    endpoint: &Endpoint,
    reason: &str,
    failing: Option<&Failing>,
    now: DateTime<Utc>,
) -> Bytes {
    let data = json!({
        "endpoint_id": endpoint.endpoint_id,
        "url": endpoint.url,
        "reason": reason,
        "failing_since": failing.map(|failing| failing.since),
        "failures": failing.map_or(0, |failing| failing.failures),
    });
    payload(EventType::EndpointDisabled, now, &data)
}

fn payload(event_type: EventType, timestamp: DateTime<Utc>, data: &Value) -> Bytes {
    json!({ "type": event_type, "timestamp": timestamp, "data": data }).to_string().into()
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "msg_{}", hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Receivers tell copies of a message by its id: if this test fails, every message that is
    /// told again after an upgrade looks like a new one.
    #[test]
    fn ids_stay_what_they_are_for_ever() {
        let session_id = Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0001);
        let endpoint_id = Uuid::from_u128(2);
        let at = DateTime::from_timestamp(1_780_000_000, 123_456_000).unwrap();
        let recording = |outcome| MessageKey::Recording { session_id, egress_id: "EG_1", outcome };
        for (key, expected) in [
            (
                MessageKey::Finalized { session_id, revision: 1 },
                "msg_3e938bbb4e13f1a7bc0e5b22487b9607",
            ),
            (
                MessageKey::Finalized { session_id, revision: 2 },
                "msg_fd34a98289499a077568067bf1917377",
            ),
            (recording(EventType::RecordingReady), "msg_aa097ac8d940f0377c8ae006a6fcadd8"),
            (recording(EventType::RecordingFailed), "msg_98c1818acd26059c28d9b66529dfc61a"),
            (
                MessageKey::Ping { endpoint_id, nonce: Uuid::from_u128(3) },
                "msg_72f9d8199e59ce3045583389c3788cb5",
            ),
            (MessageKey::Disabled { endpoint_id, at }, "msg_8933a007092c9b31e54df79881beb89d"),
        ] {
            let id = MessageId::new(Uuid::from_u128(9), &key);
            assert_eq!(id.to_string(), expected, "{key:?}");
            assert_eq!(MessageId::parse(expected), Some(id));
        }
    }

    #[test]
    fn each_installation_has_ids_of_its_own() {
        let key = MessageKey::Finalized { session_id: Uuid::from_u128(1), revision: 1 };
        let of = |installation| MessageId::new(Uuid::from_u128(installation), &key);
        assert_ne!(of(1), of(2));
        assert_eq!(of(1), of(1));
    }

    #[test]
    fn what_is_no_id_is_not_read_as_one() {
        for text in ["", "msg_", "0123456789abcdef0123456789abcdef", "msg_0123", "msg_zz"] {
            assert_eq!(MessageId::parse(text), None, "{text}");
        }
    }
}
