//! What the sweep over recordings asks for, and what becomes of recordings that are nobody's.

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::StoreError;
use super::transaction::{FailureToKeep, Rowwise};
use crate::clock::new_id;
use crate::event::{EventType, FailureCode, Rejection, recording_event};
use crate::finalize::JoinedEgress;

/// A file that a worker says it stored, and that was not seen yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwaitedFile {
    /// Whose recording it is.
    pub session_id: Uuid,
    /// Where it is to be.
    pub url: String,
    /// When the session became readable.
    pub finalized_at: DateTime<Utc>,
}

/// Recordings that belong to no session and are gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// Those that became failures.
    pub failed: usize,
    /// Those that only `LiveKit`'s webhooks told of.
    pub forgotten: usize,
}

/// Keeps recordings that were taken out of the table as failures.
pub(super) async fn keep_expired(
    tx: &mut (impl Rowwise + Send),
    rows: Vec<JoinedEgress>,
    now: DateTime<Utc>,
) -> Result<Expired, StoreError> {
    let mut expired = Expired::default();
    for row in rows {
        if row.egress.is_from_livekit {
            expired.forgotten += 1;
            continue;
        }
        expired.failed += 1;
        let raw = recording_event(&row.egress, row.named_session_id);
        let failure = FailureToKeep {
            failure_id: new_id(now),
            rejection: &unmatched(&row),
            source: "store",
            headers: None,
            tenant_id: None,
            character_slug: None,
            raw_sha256: Sha256::digest(&raw).into(),
            raw: &raw,
            now,
        };
        tx.put_failure(&failure).await?;
    }
    Ok(expired)
}

fn unmatched(row: &JoinedEgress) -> Rejection {
    Rejection {
        session_id: row.named_session_id,
        event_id: Some(row.egress.egress_id.clone()),
        event_type: Some(EventType::Recording.as_str().to_owned()),
        ..Rejection::new(
            FailureCode::UnmatchedRecording,
            "No session was found for this recording within 7 days: send its call's `session.ended`, \
             then this event again, with that `session_id`.",
        )
    }
}
