//! Gathers prepared events into batches, takes them, and answers for each.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::count::count;
use super::{Answers, Disposition, IntakeDied, IntakeParts, Patience, Ticket};
use crate::backoff::Backoff;
use crate::event::{FailureCode, Rejection};
use crate::finalize::{Outcome, Prepared};
use crate::metrics::Work;
use crate::spans::{Doing, Span};
use crate::store::{Batch, StoreError, Terms};

/// Transactions in flight; while they are, the next batch gathers. Two keep PostgreSQL and this
/// process busy at the same time.
const TRANSACTIONS: usize = 2;

/// Most events in a batch.
const BATCH_EVENTS: usize = 200;

/// A batch that has reached this many bytes takes no more events.
const BATCH_BYTES: usize = 8 << 20;

/// A batch that was not taken in time is halved; one that is no larger than this, into its events.
const SMALL_BATCH: usize = 25;

/// So often an event by itself is not taken in time, while others are, before it is kept as a failure.
const LATE_AT_MOST: u32 = 3;

/// How often recordings without a session are looked at again, whatever happened.
const JOIN_EVERY: Duration = Duration::from_mins(1);

/// Takes batches until the last sender of tickets is gone, or `closed`; those that are under way
/// then are finished. Dies of a panic, because whoever waits for an answer that died with it
/// would wait for ever.
pub(super) async fn run(
    parts: Arc<IntakeParts>,
    mut waiting: mpsc::Receiver<Ticket>,
    held_batches: Arc<AtomicUsize>,
    shutdown: CancellationToken,
    closed: CancellationToken,
) -> Result<(), IntakeDied> {
    let transactions = Arc::new(Semaphore::new(TRANSACTIONS));
    let aside = Arc::new(Semaphore::new(1));
    let taker = Taker { parts, held_batches, shutdown, aside, taken: Arc::default() };
    let (mut batches, mut sweeping) = (JoinSet::new(), JoinSet::new());
    sweeping.spawn(taker.clone().join_now_and_then());
    loop {
        let next = async {
            let turn = Arc::clone(&transactions).acquire_owned().await.ok()?;
            Some((turn, gather(&mut waiting).await?))
        };
        tokio::select! {
            next = next => {
                let Some((turn, batch)) = next else { break };
                let taker = taker.clone();
                batches.spawn(async move { taker.take(batch, turn).await });
            }
            Some(ended) = batches.join_next() => ended.map_err(IntakeDied::of)?,
            Some(ended) = sweeping.join_next() => ended.map_err(IntakeDied::of)?,
            () = closed.cancelled() => break,
        }
    }
    while let Some(ended) = batches.join_next().await {
        ended.map_err(IntakeDied::of)?;
    }
    Ok(())
}

/// The next batch: waits for one event, then takes what is there. `None`: there will be no more.
/// Nothing is lost when it is dropped while it waits.
async fn gather(waiting: &mut mpsc::Receiver<Ticket>) -> Option<Vec<Ticket>> {
    let first = waiting.recv().await?;
    let mut bytes = first.prepared.raw.len();
    let mut batch = vec![first];
    while batch.len() < BATCH_EVENTS && bytes < BATCH_BYTES {
        let Ok(ticket) = waiting.try_recv() else { break };
        bytes += ticket.prepared.raw.len();
        batch.push(ticket);
    }
    Some(batch)
}

/// Takes batches to the store.
#[derive(Clone)]
struct Taker {
    parts: Arc<IntakeParts>,
    held_batches: Arc<AtomicUsize>,
    shutdown: CancellationToken,
    /// The turn of events that are not taken in time: nobody else waits for it.
    aside: Arc<Semaphore>,
    /// How many batches were taken.
    taken: Arc<AtomicU64>,
}

/// A batch, or what is left of it.
struct Part {
    batch: Vec<Ticket>,
    /// It is one event, and was not taken in time.
    lateness: Option<Lateness>,
}

#[derive(Clone, Copy)]
struct Lateness {
    /// How often, not counting when nothing else was taken in between.
    times: u32,
    /// How many batches had been taken at the last time.
    taken: u64,
}

/// A batch is held back as long as this lives.
struct Held(Arc<AtomicUsize>);

impl Held {
    fn new(held_batches: &Arc<AtomicUsize>) -> Self {
        held_batches.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(held_batches))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Taker {
    /// Takes a batch, whatever it takes. A batch that the database refuses, or that makes the
    /// program panic, is halved until the bad event stands alone, and that one becomes a failure.
    /// An event that is not taken in time waits until the rest is taken, and then no longer has a
    /// turn that others need.
    async fn take(&self, batch: Vec<Ticket>, turn: OwnedSemaphorePermit) {
        let mut open = vec![Part::new(batch)];
        let (mut backoff, mut held) = (Backoff::default(), None);
        let (mut turn, mut aside) = (Some(turn), None);
        while let Some(Part { batch, lateness }) = open.pop() {
            if lateness.is_some() && aside.is_none() {
                drop(turn.take());
                aside = Arc::clone(&self.aside).acquire_owned().await.ok();
            }
            let (prepared, callers): (Vec<_>, Vec<_>) =
                batch.into_iter().map(Ticket::split).unzip();
            let (began, began_at) = (Instant::now(), self.parts.clock.now());
            let taken = AssertUnwindSafe(self.try_take(&prepared)).catch_unwind().await;
            let is_committed = matches!(taken, Ok(Ok(_)));
            self.parts.metrics.transactions.took(Work::Take, began.elapsed(), is_committed);
            match taken {
                Ok(Ok(outcomes)) => {
                    backoff = Backoff::default();
                    if held.take().is_some() {
                        tracing::info!("intake goes on: the database answers again");
                    }
                    count(&self.parts, &prepared, &outcomes);
                    span(&prepared, began_at, self.parts.clock.now());
                    self.taken.fetch_add(1, Ordering::Relaxed);
                    answer(prepared, callers, outcomes);
                }
                Ok(Err(StoreError::Rejected(error))) if !is_bare(&prepared) => {
                    tracing::warn!(%error, events = prepared.len(), "the database refuses events");
                    open.extend(halved(prepared, callers, &store_rejected()));
                }
                Ok(Err(error)) if error.is_late() && is_the_event(&prepared, lateness) => {
                    tracing::error!("the database takes other events in time, and one it does not");
                    open.extend(halved(prepared, callers, &never_done()));
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, events = prepared.len(), "intake is paused");
                    let patient = self.send_back(prepared, callers);
                    if patient.is_empty() {
                        continue;
                    }
                    self.put_back(&mut open, patient, error.is_late(), lateness);
                    held.get_or_insert_with(|| self.hold());
                    let pause = tokio::time::sleep(backoff.next(crate::clock::chance()));
                    self.shutdown.run_until_cancelled(pause).await;
                }
                Err(panic) => {
                    if is_bare(&prepared) {
                        resume_unwind(panic);
                    }
                    tracing::error!(events = prepared.len(), "taking events panicked");
                    open.extend(halved(prepared, callers, &panicked()));
                }
            }
        }
    }

    fn hold(&self) -> Held {
        self.parts.metrics.intake.pauses.inc();
        Held::new(&self.held_batches)
    }

    /// Answers the impatient, and after the shutdown everyone; the rest is to be taken again,
    /// unless nobody waits for it any more: whoever brought it has left it to the broker.
    fn send_back(&self, prepared: Vec<Prepared>, callers: Vec<Caller>) -> Vec<Ticket> {
        let (mut patient, mut impatient) = (Vec::new(), Vec::new());
        for (event, caller) in prepared.into_iter().zip(callers) {
            if caller.patience == Patience::Now || self.shutdown.is_cancelled() {
                impatient.push((caller, Disposition::Retry));
            } else if !caller.answers.is_closed() {
                patient.push(Ticket::join(event, caller));
            }
        }
        answer_all(impatient);
        patient
    }

    /// Puts back what was not taken; what was not taken in time, as less at a time: a slow network,
    /// or many others at the same sessions, leave time for less. One event by itself comes after
    /// all others.
    fn put_back(
        &self,
        open: &mut Vec<Part>,
        mut batch: Vec<Ticket>,
        is_late: bool,
        before: Option<Lateness>,
    ) {
        if !is_late {
            open.push(Part { batch, lateness: before });
        } else if batch.len() == 1 {
            let taken = self.taken.load(Ordering::Relaxed);
            let times = match before {
                Some(before) => before.times + u32::from(before.taken < taken),
                None => 1,
            };
            open.insert(0, Part { batch, lateness: Some(Lateness { times, taken }) });
        } else if batch.len() <= SMALL_BATCH {
            open.extend(batch.into_iter().map(|ticket| Part::new(vec![ticket])).rev());
        } else {
            let second = batch.split_off(batch.len() / 2);
            open.extend([Part::new(second), Part::new(batch)]);
        }
    }

    /// Takes a batch once: commits it, joins what it could not see, hands its deliveries on.
    async fn try_take(&self, prepared: &[Prepared]) -> Result<Vec<Outcome>, StoreError> {
        let store = &self.parts.store;
        let taken = store.take(Batch { terms: self.terms(), events: prepared }).await?;
        self.parts.desk.accept(taken.owed);
        if !taken.unjoined.is_empty() {
            match store.join_recordings(self.terms(), &taken.unjoined).await {
                Ok(owed) => self.parts.desk.accept(owed),
                // The batch is committed; the sweep joins them.
                Err(error) => tracing::warn!(%error, "recordings could not be joined"),
            }
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

impl Part {
    fn new(batch: Vec<Ticket>) -> Self {
        Self { batch, lateness: None }
    }
}

/// Whoever waits for an answer.
struct Caller {
    patience: Patience,
    token: u64,
    answers: Answers,
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

/// Answers each; who brought several that follow each other has their answers at once.
fn answer_all(answered: impl IntoIterator<Item = (Caller, Disposition)>) {
    let mut open: Option<(Answers, Vec<(u64, Disposition)>)> = None;
    for (Caller { token, answers, .. }, disposition) in answered {
        match &mut open {
            Some((to, together)) if to.same_channel(&answers) => {
                together.push((token, disposition));
            }
            _ => {
                send(open.take());
                open = Some((answers, vec![(token, disposition)]));
            }
        }
    }
    send(open);
}

fn send(answers: Option<(Answers, Vec<(u64, Disposition)>)>) {
    if let Some((to, answers)) = answers {
        // Nobody listens any more: the effect is committed all the same.
        let _ = to.send(answers);
    }
}

fn answer(prepared: Vec<Prepared>, callers: Vec<Caller>, outcomes: Vec<Outcome>) {
    let events = prepared.into_iter().zip(outcomes);
    let dispositions = events.map(|(event, outcome)| {
        let event_id = event.event_id;
        match outcome {
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
                    trace.id = event.trace.map(|trace| hex::encode(trace.trace_id)),
                    "an event could not be finalized and is kept as a failure"
                );
                Disposition::Rejected { failure_id, rejection }
            }
        }
    });
    answer_all(callers.into_iter().zip(dispositions));
}

/// Tells the traces of these events that they were taken.
fn span(prepared: &[Prepared], began_at: DateTime<Utc>, ended_at: DateTime<Utc>) {
    for event in prepared.iter().filter(|event| event.trace.is_some()) {
        Span::begin(Doing::TakeEvent, event.trace, began_at).end(ended_at, true, || {
            let session_id = event.session_id().map(|id| ("session.id", id.to_string()));
            let event_type = event.event_type.map(|name| ("event.type", name.to_owned()));
            session_id.into_iter().chain(event_type).collect()
        });
    }
}

/// One event that has become a failure because it could not be taken: what happens to it now is
/// not its own fault.
fn is_bare(prepared: &[Prepared]) -> bool {
    let [Prepared { change: Err(rejection), .. }] = prepared else { return false };
    matches!(rejection.code, FailureCode::StoreRejected | FailureCode::InternalError)
        && rejection.event_id.is_none()
}

/// It is the event for which the database takes too long, and not the database.
fn is_the_event(prepared: &[Prepared], lateness: Option<Lateness>) -> bool {
    !is_bare(prepared) && lateness.is_some_and(|lateness| lateness.times >= LATE_AT_MOST)
}

/// Two halves of a batch that cannot be taken, the first on top; or the one event that cannot, as
/// a failure.
fn halved(
    mut prepared: Vec<Prepared>,
    mut callers: Vec<Caller>,
    rejection: &Rejection,
) -> Vec<Part> {
    if let [event] = &mut prepared[..] {
        let (session_id, event_type) = (event.session_id(), event.event_type.map(str::to_owned));
        event.change = Err(Rejection { session_id, event_type, ..rejection.clone() });
        event.event_id = None;
    }
    let half = prepared.len() / 2;
    let second = (prepared.split_off(half), callers.split_off(half));
    [second, (prepared, callers)]
        .into_iter()
        .map(|(prepared, callers)| {
            prepared.into_iter().zip(callers).map(|(p, c)| Ticket::join(p, c)).collect::<Vec<_>>()
        })
        .filter(|half| !half.is_empty())
        .map(Part::new)
        .collect()
}

fn never_done() -> Rejection {
    Rejection::new(
        FailureCode::StoreRejected,
        "The database takes other events and did not get done with this one in time, again and again; \
         look who holds a lock on its session, and replay it.",
    )
}

pub(super) fn store_rejected() -> Rejection {
    Rejection::new(
        FailureCode::StoreRejected,
        "The database refuses what this event holds; look for a value out of the ordinary, and \
         send the event again once it is changed.",
    )
}

pub(super) fn panicked() -> Rejection {
    Rejection::new(
        FailureCode::InternalError,
        "Finalizer itself failed on this event, which is a defect; report it, and replay the event \
         once it is mended.",
    )
}
