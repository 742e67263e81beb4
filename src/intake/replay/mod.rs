//! Failures go through finalization again: one that somebody names, or all that a job finds.
//!
//! Whoever replays is a process with a row that says until when it lives. Its id is written into the
//! failure before the attempt, and goes with the attempt's end: see `store/failures.rs`.

mod job;
mod life;

pub use job::Pace;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::batch::{panicked, store_rejected};
use super::count::count_one;
use super::{IntakeParts, RawEvent, prepare};
use crate::backoff::Backoff;
use crate::clock;
use crate::event::{FailureCode, Rejection};
use crate::finalize::{Change, Difference, Outcome, Prepared, differences};
use crate::metrics::Source;
use crate::store::{
    Beginning, Ending, Failure, FailureState, Refusal, ReplayOutcome, StoreError, Taken, Terms,
    Tried,
};

/// How often an attempt is made while the database is away.
const TRIES: u32 = 5;
/// How long an attempt waits for its process to be known as alive.
const ALIVE_WITHIN: Duration = Duration::from_secs(5);

/// How a failure is to be replayed.
#[derive(Debug, Clone)]
pub struct ReplayOrder {
    /// Who wants it.
    pub by: Arc<str>,
    /// An event that conflicts with what is known takes its place.
    pub is_superseding: bool,
    /// This event is taken in place of the failure's own, which is kept.
    pub instead: Option<Bytes>,
    /// Somebody asked for this very failure.
    pub is_named: bool,
}

/// What became of a replay, or why there was none.
pub type Replayed = Result<Outcome, Refusal>;

/// What a replay would come to.
#[derive(Debug)]
pub struct Trial {
    /// This.
    pub outcome: Outcome,
    /// In what the event differs from the session that it conflicts with.
    pub differences: Vec<Difference>,
}

/// A step of a job: the job, and the process that does it.
type Step = (Uuid, Uuid);

/// Replays failures. Cheap to clone.
#[derive(Clone)]
pub struct Replayer(Arc<Inner>);

struct Inner {
    parts: IntakeParts,
    /// The id under which this process is known as alive.
    process: watch::Sender<Option<Uuid>>,
    attempts: TaskTracker,
    stop: CancellationToken,
}

impl Replayer {
    /// A replayer that is able to replay while [`Replayer::run`] does.
    pub fn new(parts: IntakeParts, stop: CancellationToken) -> Self {
        let (process, attempts) = (watch::Sender::new(None), TaskTracker::new());
        Self(Arc::new(Inner { parts, process, attempts, stop }))
    }

    /// Keeps this process known as alive, and does jobs if it is to, until it is told to stop; then
    /// what is under way is ended.
    pub async fn run(self, does_jobs: bool) {
        let living = tokio::spawn(life::live(self.clone()));
        if does_jobs {
            job::run(&self).await;
        }
        self.0.stop.cancelled().await;
        self.0.attempts.close();
        self.0.attempts.wait().await;
        living.abort();
        // If it panicked or was aborted, the row runs out.
        drop(living.await);
        let process = *self.0.process.borrow();
        if let Some(process) = process
            && let Err(error) = self.0.parts.store.leave_replays(process).await
        {
            tracing::warn!(%error, "this process could not say that it replays no more");
        }
    }

    /// Replays a failure. The attempt goes on to its end, whoever stops waiting for it.
    ///
    /// # Errors
    ///
    /// The store's; the failure is as it was then, or replayed.
    pub async fn replay(
        &self,
        failure_id: Uuid,
        order: ReplayOrder,
    ) -> Result<Replayed, StoreError> {
        let replayer = self.clone();
        let attempt = async move {
            let process = replayer.process().await?;
            replayer.attempt(failure_id, &order, process, None).await
        };
        let ended = self.0.attempts.spawn(attempt).await;
        ended.unwrap_or_else(|died| Err(StoreError::Broken(died.into())))
    }

    /// Says what a replay would come to, and changes nothing.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn dry_run(
        &self,
        failure_id: Uuid,
        order: &ReplayOrder,
    ) -> Result<Result<Trial, Refusal>, StoreError> {
        let store = &self.0.parts.store;
        let Some((failure, raw)) = store.failure(failure_id).await? else {
            return Ok(Err(Refusal::Unknown));
        };
        if let Some(refusal) = Refusal::to_try(&failure, order.is_named, order.instead.is_some()) {
            return Ok(Err(refusal));
        }
        let event = self.prepare(&failure, raw, order);
        let trying = AssertUnwindSafe(store.try_out(self.terms(), &event)).catch_unwind();
        let Ok(tried) = trying.await else {
            let rejection = about(&event, panicked());
            let outcome = Outcome::Failed { failure_id, rejection };
            return Ok(Ok(Trial { outcome, differences: Vec::new() }));
        };
        let tried = tried?;
        Ok(Ok(Trial { differences: found_in(&event, &tried), outcome: tried.outcome }))
    }

    /// The id under which this process is known as alive.
    async fn process(&self) -> Result<Uuid, StoreError> {
        let away = |why| StoreError::Transient(anyhow::anyhow!("{why}"));
        if self.0.stop.is_cancelled() {
            return Err(away("this process is stopping"));
        }
        let mut process = self.0.process.subscribe();
        let alive = timeout(ALIVE_WITHIN, process.wait_for(Option::is_some)).await;
        let alive = alive.map_err(|_| away("this process is not known as alive yet"))?;
        alive.ok().and_then(|process| *process).ok_or_else(|| away("this process is stopping"))
    }

    /// One attempt, from its marker to its end.
    async fn attempt(
        &self,
        failure_id: Uuid,
        order: &ReplayOrder,
        process: Uuid,
        step: Option<Step>,
    ) -> Result<Replayed, StoreError> {
        let is_edited = order.instead.is_some();
        let (is_named, now) = (order.is_named, self.0.parts.clock.now());
        let beginning = Beginning { failure_id, process, is_named, is_edited, now };
        let begun = match self.0.parts.store.begin_replay(beginning).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(refusal)) => return Ok(Err(refusal)),
            Err(error) => {
                self.abandon(failure_id, process).await;
                return Err(error);
            }
        };
        let event = self.prepare(&begun.0, begun.1, order);
        let ended = self.end(event, (failure_id, process), order, step).await;
        if !matches!(ended, Ok(Ok(_))) {
            self.abandon(failure_id, process).await;
        }
        if let Ok(Ok(outcome)) = &ended {
            tell(failure_id, outcome);
        }
        ended
    }

    /// The event of a replay, as any other: what may be taken is the present settings' to say.
    fn prepare(&self, failure: &Failure, raw: Bytes, order: &ReplayOrder) -> Prepared {
        let parts = &self.0.parts;
        let event = RawEvent {
            bytes: order.instead.clone().unwrap_or(raw),
            source: failure.source.as_str().into(),
            headers: failure.headers.as_deref().map(Arc::from),
        };
        let mut prepared = prepare(event, &parts.prices, parts.max_event_bytes, parts.clock.now());
        prepared.failure_id = failure.failure_id;
        prepared.change = match prepared.change {
            Ok(Change::Ended(session)) if order.is_superseding => Ok(Change::Superseding(session)),
            change => change,
        };
        prepared
    }

    /// Takes the event with the end of the attempt. One that the database refuses, or that makes the
    /// transaction panic, has failed for that reason.
    async fn end(
        &self,
        mut event: Prepared,
        (failure_id, process): (Uuid, Uuid),
        order: &ReplayOrder,
        step: Option<Step>,
    ) -> Result<Replayed, StoreError> {
        let (store, mut backoff, mut tries) = (&self.0.parts.store, Backoff::default(), 0);
        loop {
            let ending = Ending {
                terms: self.terms(),
                failure_id,
                process,
                event: &event,
                is_edited: order.instead.is_some(),
                by: &order.by,
                replay_id: step.map(|(replay_id, _)| replay_id),
            };
            let ended = AssertUnwindSafe(store.end_replay(ending)).catch_unwind().await;
            let is_bare = event.change.is_err();
            match ended {
                Ok(Ok(Some(taken))) => return Ok(Ok(self.hand_on(taken).await)),
                Ok(Ok(None)) => return self.found(failure_id, tries > 0).await,
                Ok(Err(StoreError::Rejected(_))) if !is_bare => {
                    event.change = Err(about(&event, store_rejected()));
                }
                Err(_) if !is_bare => event.change = Err(about(&event, panicked())),
                Err(_) => {
                    return Err(StoreError::Broken(anyhow::anyhow!("ending a replay panicked")));
                }
                Ok(Err(error @ StoreError::Transient(_))) if tries + 1 < TRIES => {
                    tracing::warn!(%error, failure.id = %failure_id, "a replay is tried again");
                    tries += 1;
                    let pause = sleep(backoff.next(clock::chance()));
                    self.0.stop.run_until_cancelled(pause).await;
                }
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// What became of an attempt whose marker is gone: it happened, if an answer of the database was
    /// lost before; else somebody else was faster.
    async fn found(&self, failure_id: Uuid, is_again: bool) -> Result<Replayed, StoreError> {
        let found = self.0.parts.store.failure(failure_id).await?;
        let Some((failure, _)) = found else { return Ok(Err(Refusal::Unknown)) };
        let session_id = failure.rejection.session_id;
        let outcome = failure.closed.as_ref().and_then(|closed| closed.outcome);
        Ok(match (failure.state, outcome) {
            (FailureState::Replayed, Some(outcome)) if is_again => Ok(match outcome {
                ReplayOutcome::Finalized => {
                    session_id.map_or(Outcome::Accepted(None), Outcome::Finalized)
                }
                ReplayOutcome::Accepted => Outcome::Accepted(session_id),
                ReplayOutcome::Duplicate => Outcome::Duplicate(session_id),
            }),
            (FailureState::Open, _) if is_again && failure.replaying.is_none() => {
                Ok(Outcome::Failed { failure_id, rejection: failure.rejection })
            }
            _ => Err(Refusal::taken_over(&failure)),
        })
    }

    /// Ends the marker of an attempt that came to nothing, whatever it takes.
    async fn abandon(&self, failure_id: Uuid, process: Uuid) {
        let mut backoff = Backoff::default();
        while let Err(error) = self.0.parts.store.abandon_replay(failure_id, process).await {
            tracing::warn!(%error, failure.id = %failure_id, "a replay cannot be ended yet");
            let pause = sleep(backoff.next(clock::chance()));
            if self.0.stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// After the commit: deliveries go out, and recordings that were not seen are joined.
    async fn hand_on(&self, mut taken: Taken) -> Outcome {
        let parts = &self.0.parts;
        parts.desk.accept(taken.owed);
        if !taken.unjoined.is_empty() {
            match parts.store.join_recordings(self.terms(), &taken.unjoined).await {
                Ok(owed) => parts.desk.accept(owed),
                // Whoever takes events looks for it once a minute.
                Err(error) => tracing::warn!(%error, "recordings could not be joined"),
            }
        }
        let outcome = taken.outcomes.pop().expect("one event has one outcome");
        count_one(&parts.metrics.intake, Source::Replay, &outcome);
        outcome
    }

    fn terms(&self) -> Terms<'_> {
        let parts = &self.0.parts;
        Terms {
            now: parts.clock.now(),
            public_url: &parts.public_url,
            recordings_place: &parts.recordings_place,
            desk: &*parts.desk,
        }
    }
}

/// In what the event differs from the session that it conflicts with, or would supersede.
fn found_in(event: &Prepared, tried: &Tried) -> Vec<Difference> {
    let is_conflict = matches!(
        &tried.outcome,
        Outcome::Failed { rejection, .. } if rejection.code == FailureCode::ConflictingEvent
    );
    let would_supersede = matches!(event.change, Ok(Change::Superseding(_)))
        && matches!(tried.outcome, Outcome::Finalized(_));
    match (&event.change, &tried.stored) {
        (Ok(Change::Ended(session) | Change::Superseding(session)), Some(stored))
            if is_conflict || (would_supersede && stored.revision > 0) =>
        {
            differences(stored, session)
        }
        // Of a beginning nothing else is comparable.
        (Ok(Change::Started(session)), Some(stored)) if is_conflict => {
            let of_all = differences(stored, session).into_iter();
            of_all.filter(|found| found.field == "character_owner").collect()
        }
        _ => Vec::new(),
    }
}

/// The rejection with what is known of the event.
fn about(event: &Prepared, rejection: Rejection) -> Rejection {
    let session_id = event.session_id();
    Rejection { session_id, event_type: event.event_type.map(str::to_owned), ..rejection }
}

fn tell(failure_id: Uuid, outcome: &Outcome) {
    match outcome {
        Outcome::Failed { rejection, .. } => tracing::info!(
            failure.id = %failure_id,
            failure.code = %rejection.code,
            "a replayed event still cannot be finalized"
        ),
        good => tracing::info!(
            failure.id = %failure_id,
            failure.outcome = ReplayOutcome::of(good).map(ReplayOutcome::as_str),
            "a failure was replayed"
        ),
    }
}
