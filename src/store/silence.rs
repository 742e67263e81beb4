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

/// A place in the list of silent calls: when they were last heard of, and their ids.
pub type SilentCall = (DateTime<Utc>, Uuid);
