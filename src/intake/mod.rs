//! Events in: raw bytes from anywhere, taken in batches, answered one by one.
//!
//! AMQP, HTTP and files all end here. An event is prepared (decoded and finalized) by whoever
//! brought it; prepared events gather into batches while two transactions are in flight, with no
//! timer: an idle service takes an event at once, a busy one takes hundreds together.

pub mod amqp;
mod batch;
mod count;
pub mod file;
mod findings;
mod headers;
pub mod livekit;
mod prepare;
mod progress;
mod replay;
mod silence;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use progress::Progress;

use crate::clock::Clock;
use crate::event::Rejection;
use crate::finalize::{Prepared, PriceBook};
use crate::metrics::Metrics;
use crate::shutdown::describe;
use crate::store::{HandOff, Owed, SharedStore};

pub use findings::Findings;
pub use headers::{Headers, of_http};
pub use prepare::{dead_letter, prepare};
pub use replay::{Pace, ReplayOrder, Replayed, Replayer, Trial};
pub use silence::{SilenceParts, SilenceSweep};
pub use watch::{IntakeWatch, WatchParts};

/// An event as it arrived.
#[derive(Debug, Clone)]
pub struct RawEvent {
    /// Its bytes.
    pub bytes: Bytes,
    /// Where it came from: `amqp:finalizer.events`, `http`, `file:calls.ndjson:17`.
    pub source: Arc<str>,
    /// What the transport said of it.
    pub headers: Headers,
}

/// What became of an event, for whoever brought it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// Its effect is committed.
    Done {
        /// The session it concerned, if one is known.
        session_id: Option<Uuid>,
        /// The event's own name.
        event_id: Option<String>,
        /// It made a revision of the session.
        is_finalized: bool,
    },
    /// It had been taken before.
    Duplicate {
        /// The session it concerned, if one is known.
        session_id: Option<Uuid>,
        /// The event's own name.
        event_id: Option<String>,
    },
    /// It is committed as a failure.
    Rejected {
        /// The failure.
        failure_id: Uuid,
        /// Why.
        rejection: Rejection,
    },
    /// Nothing happened to it, through no fault of its own: bring it again.
    Retry,
}

/// What to do with an event while the database is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Answer [`Disposition::Retry`] at once.
    Now,
    /// Hold it until the database is back.
    Wait,
}

/// Where deliveries go after the commit.
pub trait Desk: HandOff + 'static {
    /// Takes deliveries that were reserved for.
    fn accept(&self, owed: Vec<Owed>);
}

/// Nobody delivers here: deliveries are written unclaimed, for whoever does.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDesk;

impl HandOff for NoDesk {
    fn reserve(&self, _endpoint_id: Uuid, _owner: Option<i64>) -> Option<Uuid> {
        None
    }

    fn cancel(&self, _endpoint_id: Uuid) {}

    fn disown(&self, _process_id: Uuid) {}
}

impl Desk for NoDesk {
    fn accept(&self, _owed: Vec<Owed>) {}
}

/// What intake works with.
#[derive(Clone)]
pub struct IntakeParts {
    /// Where effects are committed.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What things cost.
    pub prices: Arc<PriceBook>,
    /// Payloads name sessions below this URL (no slash at the end).
    pub public_url: String,
    /// The default recordings place: `s3://bucket[/prefix]` or `file:///folder`.
    pub recordings_place: String,
    /// Who delivers.
    pub desk: Arc<dyn Desk>,
    /// Larger events become failures.
    pub max_event_bytes: usize,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The way in. Cheap to clone; the batches stop when the last clone is gone.
#[derive(Clone)]
pub struct Intake {
    parts: Arc<IntakeParts>,
    tickets: mpsc::Sender<Ticket>,
    held_batches: Arc<AtomicUsize>,
    /// In microseconds since 1970.
    caught_up_at: Arc<AtomicI64>,
    progress: Arc<Progress>,
    closed: CancellationToken,
}

/// Where answers go: those of a batch at once, each with the bringer's name for its event.
pub type Answers = mpsc::UnboundedSender<Vec<(u64, Disposition)>>;

/// Taking batches ended with a panic.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct IntakeDied(String);

impl IntakeDied {
    fn of(error: JoinError) -> Self {
        Self(describe(error))
    }
}

/// A prepared event on its way into a batch, and where its answer goes.
pub struct Ticket {
    /// The event.
    pub prepared: Prepared,
    /// What to do with it while the database is away.
    pub patience: Patience,
    /// The bringer's own name for it; comes back with the answer.
    pub token: u64,
    /// Where the answer goes, together with others that go there.
    pub answers: Answers,
}

/// How many prepared events may wait for a batch before their bringers wait too.
const WAITING_EVENTS: usize = 400;

impl Intake {
    /// Starts taking batches; the future runs until the last `Intake` is gone and everything it
    /// was given is answered, or until it is closed. After the `shutdown` nobody's patience
    /// counts: while the database is away everyone is answered [`Disposition::Retry`].
    pub fn new(
        parts: IntakeParts,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = Result<(), IntakeDied>> + Send + 'static) {
        let (tickets, waiting) = mpsc::channel(WAITING_EVENTS);
        let (parts, held_batches, closed) =
            (Arc::new(parts), Arc::default(), CancellationToken::new());
        let intake = Self {
            parts: Arc::clone(&parts),
            tickets,
            held_batches: Arc::clone(&held_batches),
            caught_up_at: Arc::new(AtomicI64::new(i64::MIN)),
            progress: Arc::default(),
            closed: closed.clone(),
        };
        (intake, batch::run(parts, waiting, held_batches, shutdown, closed))
    }

    /// Closes the intake when it is dropped: for when whoever brings events has ended, and
    /// forgotten clones must not keep the batches waiting for more.
    pub fn closing(&self) -> DropGuard {
        self.closed.clone().drop_guard()
    }

    /// Takes events and waits for their answers, which are in the order of the events.
    pub async fn take(&self, events: Vec<RawEvent>, patience: Patience) -> Vec<Disposition> {
        let mut dispositions = vec![Disposition::Retry; events.len()];
        // While others wait for the database, whoever does not want to wait asks for himself.
        if patience == Patience::Now && self.is_paused() && self.parts.store.now().await.is_err() {
            return dispositions;
        }
        let (answers, mut answered) = mpsc::unbounded_channel();
        for (token, event) in (0..).zip(events) {
            let prepared = self.prepare(event);
            let ticket = Ticket { prepared, patience, token, answers: answers.clone() };
            if self.tickets.send(ticket).await.is_err() {
                break;
            }
        }
        drop(answers);
        while let Some(answers) = answered.recv().await {
            for (token, disposition) in answers {
                let place = usize::try_from(token).ok().and_then(|i| dispositions.get_mut(i));
                if let Some(place) = place {
                    *place = disposition;
                }
            }
        }
        dispositions
    }

    /// Decodes and finalizes an event, without the store.
    pub fn prepare(&self, event: RawEvent) -> Prepared {
        let parts = &self.parts;
        prepare(event, &parts.prices, parts.max_event_bytes, parts.clock.now())
    }

    /// Puts a prepared event on its way; waits while too many others are. `false`: shutting down.
    pub async fn submit(&self, ticket: Ticket) -> bool {
        self.tickets.send(ticket).await.is_ok()
    }

    /// The database is away and events are held until it is back.
    pub fn is_paused(&self) -> bool {
        self.held_batches.load(Ordering::Relaxed) > 0
    }

    /// Everything that was in the broker's queue at that time is taken, says who consumes from it.
    pub fn note_caught_up(&self, at: DateTime<Utc>) {
        self.caught_up_at.fetch_max(at.timestamp_micros(), Ordering::Relaxed);
    }

    /// The latest time of which that was said.
    pub fn caught_up_at(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp_micros(self.caught_up_at.load(Ordering::Relaxed))
    }

    /// A consumer has events to take, and for too long none of them was, although the database
    /// answers.
    pub fn is_stalled(&self) -> bool {
        !self.is_paused() && self.progress.is_stalled(self.parts.clock.now())
    }

    /// What this intake works with.
    pub fn parts(&self) -> &IntakeParts {
        &self.parts
    }
}
