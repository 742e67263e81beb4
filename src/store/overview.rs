//! How the work is going, from a bounded number of rows, however much there is.

use chrono::{DateTime, Utc};

/// So many rows of a kind are looked at.
pub const MOST_LOOKED_AT: u32 = 5_000;

/// When a call was over, and when it had become a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinalizedCall {
    /// As its worker said.
    pub ended_at: Option<DateTime<Utc>>,
    /// When it became readable.
    pub finalized_at: DateTime<Utc>,
}

/// Deliveries that have not arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many may still arrive; `None`: more than are looked at.
    pub pending: Option<i64>,
    /// Since when the oldest of those that were looked at is owed.
    pub oldest_pending_at: Option<DateTime<Utc>>,
    /// How many failed to the end; `None`: more than are looked at have not arrived for good.
    pub exhausted: Option<i64>,
}
