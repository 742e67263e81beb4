//! A batch of events against what is stored: what to write, and what to say of each event.
//!
//! [`plan`] is the only place where an event meets a stored session. It takes the events one by
//! one in their order, so a batch is the same as its events alone; both stores load a
//! [`Snapshot`], call `plan`, and write the [`Plan`].

use bytes::Bytes;
use uuid::Uuid;

use super::session::Session;
use crate::event::{Egress, Rejection};

/// One event, decoded and finalized as far as it can be without the store.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What it would change, or why it cannot.
    pub change: Result<Change, Rejection>,
    /// The event's bytes, kept if it becomes a failure.
    pub raw: Bytes,
    /// Where it came from, in the words of [`crate::store::Failure::source`].
    pub source: std::sync::Arc<str>,
    /// A fresh id for the failure it may become.
    pub failure_id: Uuid,
}

/// What an event changes.
#[derive(Debug, Clone)]
pub enum Change {
    /// A call began.
    Started(Box<Session>),
    /// A call is over; `revision`, `finalized_at` and the recording are still open.
    Ended(Box<Session>),
    /// Something is known of a recording.
    Recording {
        /// The session, if the event named it.
        session_id: Option<Uuid>,
        /// The report.
        egress: Box<Egress>,
    },
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It made this revision of the session.
    Finalized(Uuid),
    /// It had any other effect, or waits to be joined.
    Accepted(Option<Uuid>),
    /// It had been taken before.
    Duplicate(Option<Uuid>),
    /// It was kept as this failure.
    Failed {
        /// The failure.
        failure_id: Uuid,
        /// Why.
        rejection: Rejection,
    },
}

/// What is stored about the sessions and recordings a batch touches.
#[derive(Debug, Default)]
pub struct Snapshot {}

/// What to write.
#[derive(Debug, Default)]
pub struct Plan {}

/// Decides what a batch changes.
pub fn plan(_snapshot: Snapshot, _events: &[Prepared]) -> Plan {
    unimplemented!("written with the stores")
}
