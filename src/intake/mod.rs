//! How events come in: batches of raw events become dispositions.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::event::Rejection;

/// An event as it came.
#[derive(Debug, Clone)]
pub struct RawEvent {
    /// Its bytes.
    pub bytes: Bytes,
    /// Where it came from.
    pub source: Arc<str>,
}

/// How long an event may wait for a store that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Not at all.
    Now,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// Its effect is committed.
    Done {
        /// The session.
        session_id: Option<Uuid>,
        /// The event's own name.
        event_id: Option<String>,
        /// It made a revision.
        is_finalized: bool,
    },
    /// It had been taken before.
    Duplicate {
        /// The session.
        session_id: Option<Uuid>,
        /// The event's own name.
        event_id: Option<String>,
    },
    /// It was kept as a failure.
    Rejected {
        /// The failure.
        failure_id: Uuid,
        /// Why.
        rejection: Rejection,
    },
    /// Trouble that passes.
    Retry,
}

/// Takes events.
#[derive(Clone)]
pub struct Intake {}

impl Intake {
    /// Takes events; one disposition each, in order.
    pub async fn take(&self, _events: Vec<RawEvent>, _patience: Patience) -> Vec<Disposition> {
        unimplemented!()
    }
}
