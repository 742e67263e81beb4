//! What the sweep over silent calls asks for, and what processes tell each other of their intake.

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// How far a process has come with the events that are there for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntakeState {
    /// The process.
    pub process_id: Uuid,
    /// It consumes from a broker.
    pub is_consuming: bool,
    /// Since when it has kept up with all of them; `None`: it is held up, or behind.
    pub current_since: Option<DateTime<Utc>>,
    /// When it last said so.
    pub seen_at: DateTime<Utc>,
}

/// A call in progress of which nothing was heard for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SilentCall {
    /// The call.
    pub session_id: Uuid,
    /// When it was last heard of.
    pub heard_at: DateTime<Utc>,
    /// The merge is to be asked.
    pub may_be_over: bool,
}
