//! Does jobs: takes those that nobody does, and goes through their failures one after the other, no
//! faster than each job allows.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::{ReplayOrder, Replayer};
use crate::backoff::Backoff;
use crate::clock;
use crate::store::{Progress, Replay, StoreError};

/// When nothing is to be done.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Jobs that one process does at the same time: a slow one does not hold up the others.
const AT_ONCE: usize = 4;
/// Failures that are looked up together.
const PAGE: u32 = 100;

/// Runs until the replayer is told to stop, and what is under way has ended.
pub(super) async fn run(replayer: &Replayer) {
    let (mut jobs, mut backoff) = (JoinSet::new(), Backoff::default());
    let stop = &replayer.0.stop;
    while !stop.is_cancelled() {
        while jobs.try_join_next().is_some() {}
        let mut pause = LOOK_EVERY;
        if jobs.len() < AT_ONCE {
            match take(replayer).await {
                Ok(Some(work)) => {
                    jobs.spawn(work.run_whatever_happens());
                    pause = Duration::ZERO;
                }
                Ok(None) => backoff = Backoff::default(),
                Err(error) => {
                    tracing::warn!("replays wait for the database: {error}");
                    pause = backoff.next(clock::chance());
                }
            }
        }
        stop.run_until_cancelled(sleep(pause)).await;
    }
    while jobs.join_next().await.is_some() {}
}

async fn take(replayer: &Replayer) -> Result<Option<Work>, StoreError> {
    let process = *replayer.0.process.borrow();
    let Some(process) = process else { return Ok(None) };
    let parts = &replayer.0.parts;
    let job = parts.store.take_replay(process, parts.clock.now()).await?;
    Ok(job.map(|job| Work { replayer: replayer.clone(), job, process }))
}

/// A job that this process does.
struct Work {
    replayer: Replayer,
    job: Replay,
    process: Uuid,
}

/// Why a process does no more of a job.
enum End {
    /// Every failure was tried.
    Done,
    /// It was cancelled, or another process has it.
    Lost,
    /// This process stops.
    Stopped,
}

impl Work {
    /// A job that makes the program panic is nobody's any more.
    async fn run_whatever_happens(self) {
        let (parts, replay_id) = (self.replayer.0.parts.clone(), self.job.replay_id);
        if AssertUnwindSafe(self.run()).catch_unwind().await.is_err() {
            tracing::error!(replay.id = %replay_id, "a replay of failures panicked: it is cancelled");
            if let Err(error) = parts.store.cancel_replay(replay_id, parts.clock.now()).await {
                tracing::error!(%error, replay.id = %replay_id, "it could not be cancelled");
            }
        }
    }

    async fn run(mut self) {
        let replay_id = self.job.replay_id;
        tracing::info!(replay.id = %replay_id, "a replay of failures goes on");
        let mut backoff = Backoff::default();
        loop {
            match self.go_on().await {
                Ok(End::Done) => break self.finish().await,
                Ok(End::Lost) => break,
                Ok(End::Stopped) => break self.give_back().await,
                Err(error) => {
                    tracing::warn!(replay.id = %replay_id, "a replay waits: {error}");
                    let pause = sleep(backoff.next(clock::chance()));
                    self.replayer.0.stop.run_until_cancelled(pause).await;
                }
            }
            if self.replayer.0.stop.is_cancelled() {
                break self.give_back().await;
            }
        }
    }

    /// Goes through failures until there are none, or something stops it.
    async fn go_on(&mut self) -> Result<End, StoreError> {
        let mut pace = Pace::new(self.job.per_second);
        loop {
            let after = self.job.progress.last_failure;
            let store = &self.replayer.0.parts.store;
            let next = store.open_failures(&self.job.which, after, PAGE).await?;
            if next.is_empty() {
                return Ok(End::Done);
            }
            let mut tried = Progress { last_failure: after, ..Progress::default() };
            for failure_id in next {
                if self.replayer.0.stop.run_until_cancelled(pace.wait()).await.is_none() {
                    break;
                }
                if *self.replayer.0.process.borrow() != Some(self.process) {
                    return Ok(End::Lost);
                }
                if self.job.is_dry_run {
                    tried.add(&self.try_out(failure_id).await?);
                } else if !self.step(failure_id).await? {
                    return Ok(End::Lost);
                }
            }
            if tried.count() > 0 && !self.count(&tried).await? {
                return Ok(End::Lost);
            }
            if self.replayer.0.stop.is_cancelled() {
                return Ok(End::Stopped);
            }
        }
    }

    /// Replays one. `false`: the job is this process's no more.
    async fn step(&mut self, failure_id: Uuid) -> Result<bool, StoreError> {
        let (order, step) = (self.order(), Some((self.job.replay_id, self.process)));
        match self.replayer.attempt(failure_id, &order, self.process, step).await {
            Err(error @ StoreError::Transient(_)) => Err(error),
            // One that cannot be read or written does not hold up the others.
            Err(error) => {
                tracing::error!(%error, failure.id = %failure_id, "a failure cannot be replayed");
                self.count(&Progress::skipped(failure_id)).await
            }
            Ok(Ok(outcome)) => {
                self.job.progress.add(&Progress::of(&outcome, failure_id));
                Ok(true)
            }
            // It may be the job that is gone, and not the failure: counting finds out.
            Ok(Err(refusal)) => {
                tracing::info!(failure.id = %failure_id, "a failure is passed over: {refusal}");
                self.count(&Progress::skipped(failure_id)).await
            }
        }
    }

    async fn try_out(&self, failure_id: Uuid) -> Result<Progress, StoreError> {
        match self.replayer.dry_run(failure_id, &self.order()).await {
            Ok(Ok(trial)) => Ok(Progress::of(&trial.outcome, failure_id)),
            Err(error @ StoreError::Transient(_)) => Err(error),
            Ok(Err(_)) | Err(_) => Ok(Progress::skipped(failure_id)),
        }
    }

    /// Counts what had no transaction of its own.
    async fn count(&mut self, steps: &Progress) -> Result<bool, StoreError> {
        let store = &self.replayer.0.parts.store;
        let is_own = store.count_replay(self.job.replay_id, self.process, steps).await?;
        self.job.progress.add(steps);
        Ok(is_own)
    }

    fn order(&self) -> ReplayOrder {
        ReplayOrder {
            by: self.job.ordered_by.as_str().into(),
            is_superseding: self.job.is_superseding,
            instead: None,
            is_named: false,
        }
    }

    async fn finish(&self) {
        let (parts, replay_id) = (&self.replayer.0.parts, self.job.replay_id);
        let now = parts.clock.now();
        match parts.store.finish_replay(replay_id, self.process, now).await {
            Ok(_) => tracing::info!(replay.id = %replay_id, "a replay of failures is done"),
            // Whoever takes it next finds that nothing is left.
            Err(error) => {
                tracing::warn!(replay.id = %replay_id, "a replay cannot be ended yet: {error}");
                self.give_back().await;
            }
        }
    }

    async fn give_back(&self) {
        let store = &self.replayer.0.parts.store;
        if let Err(error) = store.give_back_replay(self.job.replay_id, self.process).await {
            tracing::warn!(%error, "a replay waits until this process is known as dead");
        }
    }
}

/// No more than so many a second, evenly.
pub struct Pace {
    every: Duration,
    next: Instant,
}

impl Pace {
    /// So many a second.
    pub fn new(per_second: u32) -> Self {
        let every = Duration::from_secs(1) / per_second.max(1);
        Self { every, next: Instant::now() }
    }

    /// Waits for the next turn. Turns that were missed are not made up for.
    pub async fn wait(&mut self) {
        sleep_until(self.next).await;
        self.next = self.next.max(Instant::now()) + self.every;
    }
}
