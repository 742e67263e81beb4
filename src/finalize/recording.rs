//! What became of a recording: reports merged in any order, one status per session.

use serde::{Deserialize, Serialize};

use super::session::Session;
use crate::event::Egress;

/// Where a session's recording stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RecordingStatus {
    /// Not asked for.
    #[default]
    None,
    /// Asked for; not yet there.
    Pending,
    /// Being finished.
    Processing,
    /// A stored, non-empty file.
    Ready,
    /// There will be none.
    Failed,
}

impl RecordingStatus {
    /// The status as it stands in databases and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Pending => "PENDING",
            Self::Processing => "PROCESSING",
            Self::Ready => "READY",
            Self::Failed => "FAILED",
        }
    }

    /// The status with this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::None, Self::Pending, Self::Processing, Self::Ready, Self::Failed]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

/// What the API says of a session's recording.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordingState {
    /// Where it stands.
    pub status: RecordingStatus,
    /// `s3://bucket/key` or `file:///folder/name`; only when READY.
    pub url: Option<String>,
    /// The file's first frame, in milliseconds after the session's start.
    pub offset_ms: Option<i64>,
}

/// The later of two reports on the same egress. Commutative, associative, idempotent.
pub fn merge_egress(_one: Egress, _other: Egress) -> Egress {
    unimplemented!()
}

/// What all reports on a session's egresses, the worker's request and the facts found by the
/// sweep amount to. `place` is the default recordings place (`s3://…` or `file:///…`).
pub fn settle_recording(_session: &Session, _egresses: &[Egress], _place: &str) -> RecordingState {
    unimplemented!()
}

/// What there is to tell of an egress, once it has come to an end.
pub fn egress_outcome(_egress: &Egress) -> Option<crate::webhook::EventType> {
    unimplemented!()
}
