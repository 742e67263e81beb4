//! Gathers prepared events into batches, takes them, and answers for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Disposition, IntakeParts, Patience, Ticket};
use crate::backoff::Backoff;
use crate::event::{FailureCode, Rejection};
use crate::finalize::{Outcome, Prepared};
use crate::store::{Batch, StoreError, Terms};

/// Transactions in flight; while they are, the next batch gathers. Two keep PostgreSQL and this
/// process busy at the same time.
const TRANSACTIONS: usize = 2;

/// Most events in a batch.
const BATCH_EVENTS: usize = 200;

/// A batch that has reached this many bytes takes no more events.
const BATCH_BYTES: usize = 4 << 20;

/// How often recordings without a session are looked at again, whatever happened.
const JOIN_EVERY: Duration = Duration::from_mins(1);

/// Takes batches until the last sender of tickets is gone, or `shutdown`.
pub(super) async fn run(
    parts: Arc<IntakeParts>,
    mut waiting: mpsc::Receiver<Ticket>,
    is_paused: Arc<AtomicBool>,
    shutdown: CancellationToken,
) {
    let transactions = Arc::new(Semaphore::new(TRANSACTIONS));
    let taker = Taker { parts, is_paused, shutdown: shutdown.clone() };
    let mut batches = JoinSet::new();
    let sweeping = tokio::spawn(taker.clone().join_now_and_then());
    loop {
        let Ok(turn) = transactions.clone().acquire_owned().await else { break };
        let batch = tokio::select! {
            batch = gather(&mut waiting) => batch,
            () = shutdown.cancelled() => break,
        };
        if batch.is_empty() {
            break;
        }
        let taker = taker.clone();
        batches.spawn(async move {
            taker.take(batch).await;
            drop(turn);
        });
        while batches.try_join_next().is_some() {}
    }
    sweeping.abort();
    while batches.join_next().await.is_some() {}
}

/// The next batch: waits for one event, then takes what is there. Empty: there will be no more.
async fn gather(waiting: &mut mpsc::Receiver<Ticket>) -> Vec<Ticket> {
    let Some(first) = waiting.recv().await else { return Vec::new() };
    let mut bytes = first.prepared.raw.len();
    let mut batch = vec![first];
    while batch.len() < BATCH_EVENTS && bytes < BATCH_BYTES {
        let Ok(ticket) = waiting.try_recv() else { break };
        bytes += ticket.prepared.raw.len();
        batch.push(ticket);
    }
    batch
}

/// Takes batches to the store.
#[derive(Clone)]
struct Taker {
    parts: Arc<IntakeParts>,
    is_paused: Arc<AtomicBool>,
    shutdown: CancellationToken,
}

impl Taker {
    /// Takes a batch, whatever it takes. A batch that the database refuses is halved until the
    /// bad event stands alone, and that one becomes a failure.
    async fn take(&self, batch: Vec<Ticket>) {
        let mut open = vec![batch];
        let mut backoff = Backoff::default();
        while let Some(mut batch) = open.pop() {
            let (prepared, callers): (Vec<_>, Vec<_>) = batch.drain(..).map(Ticket::split).unzip();
            match self.try_take(&prepared).await {
                Ok(outcomes) => {
                    self.is_paused.store(false, Ordering::Relaxed);
                    backoff = Backoff::default();
                    answer(prepared, callers, outcomes);
                }
                Err(StoreError::Rejected(error)) => {
                    open.extend(halved(prepared, callers, &error));
                }
                Err(error) => {
                    self.is_paused.store(true, Ordering::Relaxed);
                    tracing::warn!(%error, events = prepared.len(), "intake is paused");
                    let patient = send_back(prepared, callers);
                    if patient.is_empty() {
                        continue;
                    }
                    open.push(patient);
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next(crate::clock::chance())) => {}
                        () = self.shutdown.cancelled() => return,
                    }
                }
            }
        }
    }

    /// Takes a batch once: commits it, joins what it could not see, hands its deliveries on.
    async fn try_take(&self, prepared: &[Prepared]) -> Result<Vec<Outcome>, StoreError> {
        let store = &self.parts.store;
        let taken = store.take(Batch { terms: self.terms(), events: prepared }).await?;
        self.parts.desk.accept(taken.owed);
        if !taken.unjoined.is_empty() {
            let owed = store.join_recordings(self.terms(), &taken.unjoined).await?;
            self.parts.desk.accept(owed);
        }
        Ok(taken.outcomes)
    }

    /// Looks for recordings whose join was lost with a process.
    async fn join_now_and_then(self) {
        let everything =
            crate::store::Unjoined { is_everything: true, ..crate::store::Unjoined::default() };
        loop {
            tokio::time::sleep(JOIN_EVERY).await;
            match self.parts.store.join_recordings(self.terms(), &everything).await {
                Ok(owed) => self.parts.desk.accept(owed),
                Err(error) => tracing::warn!(%error, "recordings could not be joined"),
            }
        }
    }

    fn terms(&self) -> Terms<'_> {
        Terms {
            now: self.parts.clock.now(),
            public_url: &self.parts.public_url,
            recordings_place: &self.parts.recordings_place,
            desk: &*self.parts.desk,
        }
    }
}

/// Whoever waits for an answer.
struct Caller {
    patience: Patience,
    token: u64,
    answers: mpsc::UnboundedSender<(u64, Disposition)>,
}

impl Caller {
    fn answer(&self, disposition: Disposition) {
        // Nobody listens any more: the effect is committed all the same.
        let _ = self.answers.send((self.token, disposition));
    }
}

impl Ticket {
    fn split(self) -> (Prepared, Caller) {
        let Self { prepared, patience, token, answers } = self;
        (prepared, Caller { patience, token, answers })
    }

    fn join(prepared: Prepared, caller: Caller) -> Self {
        let Caller { patience, token, answers } = caller;
        Self { prepared, patience, token, answers }
    }
}

fn answer(prepared: Vec<Prepared>, callers: Vec<Caller>, outcomes: Vec<Outcome>) {
    for ((event, caller), outcome) in prepared.into_iter().zip(callers).zip(outcomes) {
        let event_id = event.event_id;
        caller.answer(match outcome {
            Outcome::Finalized(session_id) => {
                Disposition::Done { session_id: Some(session_id), event_id, is_finalized: true }
            }
            Outcome::Accepted(session_id) => {
                Disposition::Done { session_id, event_id, is_finalized: false }
            }
            Outcome::Duplicate(session_id) => Disposition::Duplicate { session_id, event_id },
            Outcome::Failed { failure_id, rejection } => {
                tracing::info!(
                    failure.id = %failure_id,
                    failure.code = %rejection.code,
                    failure.pointer = rejection.pointer,
                    session.id = rejection.session_id.map(tracing::field::display),
                    "an event could not be finalized and is kept as a failure"
                );
                Disposition::Rejected { failure_id, rejection }
            }
        });
    }
}

/// Two halves of a batch that the database refused, the first on top; or the one event that it
/// refuses, as a failure.
fn halved(
    mut prepared: Vec<Prepared>,
    mut callers: Vec<Caller>,
    error: &anyhow::Error,
) -> Vec<Vec<Ticket>> {
    if prepared.len() == 1 {
        for event in &mut prepared {
            tracing::warn!(%error, "the database refused an event; it is kept as a failure");
            let session_id = event.change.as_ref().err().and_then(|known| known.session_id);
            event.change = Err(Rejection { session_id, ..store_rejected() });
            event.event_id = None;
        }
    }
    let half = prepared.len() / 2;
    let second = (prepared.split_off(half), callers.split_off(half));
    [second, (prepared, callers)]
        .into_iter()
        .map(|(prepared, callers)| {
            prepared.into_iter().zip(callers).map(|(p, c)| Ticket::join(p, c)).collect::<Vec<_>>()
        })
        .filter(|half| !half.is_empty())
        .collect()
}

fn store_rejected() -> Rejection {
    Rejection::new(
        FailureCode::StoreRejected,
        "The database refuses what this event holds; look for a value out of the ordinary, and \
         send the event again once it is changed.",
    )
}

/// Answers the impatient; the rest is to be taken again.
fn send_back(prepared: Vec<Prepared>, callers: Vec<Caller>) -> Vec<Ticket> {
    let mut patient = Vec::new();
    for (event, caller) in prepared.into_iter().zip(callers) {
        match caller.patience {
            Patience::Now => caller.answer(Disposition::Retry),
            Patience::Wait => patient.push(Ticket::join(event, caller)),
        }
    }
    patient
}
