//! Recordings that nobody speaks of any more: files that workers stored themselves are looked for,
//! what was not heard of in time is given up, and what belongs to no session is put away.
//!
//! Any number of processes may sweep. What they find out goes through the merge like any event, so
//! that finding out the same twice has one effect. The deliveries that come of it are written
//! unclaimed: the courier's own sweep has them a moment later.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{PlaceError, Places};
use crate::clock::{Clock, chance};
use crate::event::FailureCode;
use crate::finalize::{Change, Finding, Prepared};
use crate::intake::Findings;
use crate::metrics::{Look, Metrics};
use crate::store::{AwaitedFile, SharedStore, StoreError};

const ROUND_EVERY: Duration = Duration::from_mins(1);
/// When a round did not do all there was to do.
const BREATH: Duration = Duration::from_secs(1);
/// Sessions given up, and recordings put away, in one round.
const SETTLED_AT_ONCE: u32 = 200;
/// Files looked for in one round, all at the same time: those in a place that hangs cost the others
/// no more than one look.
const LOOKS_AT_ONCE: u32 = 64;
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// A process that died while it looked holds its files up for so long.
const LOOK_LEASE: TimeDelta = TimeDelta::minutes(1);
/// The first pause between two looks; the last look is so long before the deadline.
const FIRST_PAUSE: TimeDelta = TimeDelta::minutes(1);
/// How long a recording waits for its session.
const UNMATCHED_AFTER: TimeDelta = TimeDelta::days(7);

/// What the sweep works with.
#[derive(Clone)]
pub struct SweepParts {
    /// Where sessions and recordings are.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where files are looked for.
    pub places: Arc<Places>,
    /// Payloads name sessions below this URL (no slash at the end).
    pub public_url: String,
    /// How long after a session became readable its recording may still come.
    pub deadline: Duration,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The sweep over recordings.
pub struct Sweep {
    parts: SweepParts,
    findings: Findings,
    deadline: TimeDelta,
}

impl Sweep {
    /// A sweep; it begins with [`Sweep::run`].
    pub fn new(parts: SweepParts) -> Self {
        let findings = Findings {
            store: Arc::clone(&parts.store),
            clock: Arc::clone(&parts.clock),
            public_url: parts.public_url.clone(),
            recordings_place: parts.places.default_url(),
        };
        let deadline = TimeDelta::from_std(parts.deadline).unwrap_or(TimeDelta::MAX);
        Self { parts, findings, deadline }
    }

    /// Sweeps until it is told to stop. Looking for files is a loop of its own: a bucket that hangs
    /// delays nothing else.
    pub async fn run(self, stop: CancellationToken) {
        let settling = async {
            loop {
                sleep(pause_after(&self.settle().await)).await;
            }
        };
        let looking = async {
            loop {
                sleep(pause_after(&self.look().await)).await;
            }
        };
        // A round that is cut off happened or not; the next one, or another process, goes on.
        let sweeping = async {
            tokio::join!(settling, looking);
        };
        stop.run_until_cancelled(sweeping).await;
    }

    /// Gives up recordings whose time has run out, and puts those away that are nobody's. True if
    /// there may be more.
    pub async fn settle(&self) -> Result<bool, StoreError> {
        let now = self.parts.clock.now();
        let is_there_more = self.give_up(now).await?;
        let Some(first_seen_by) = now.checked_sub_signed(UNMATCHED_AFTER) else {
            return Ok(is_there_more);
        };
        let store = &self.parts.store;
        let expired = store.expire_recordings(first_seen_by, now, SETTLED_AT_ONCE).await?;
        let failed = expired.failed as u64;
        self.parts.metrics.intake.failures.of(FailureCode::UnmatchedRecording).inc_by(failed);
        if expired.failed > 0 {
            tracing::warn!("{} recordings belong to no session: kept as failures", expired.failed);
        }
        if expired.forgotten > 0 {
            tracing::info!("{} recordings of other rooms are forgotten", expired.forgotten);
        }
        Ok(is_there_more || expired.failed + expired.forgotten >= SETTLED_AT_ONCE as usize)
    }

    async fn give_up(&self, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let Some(finalized_by) = now.checked_sub_signed(self.deadline) else { return Ok(false) };
        let store = &self.parts.store;
        let overdue = store.overdue_recordings(finalized_by, SETTLED_AT_ONCE).await?;
        let is_full = overdue.len() >= SETTLED_AT_ONCE as usize;
        let findings = overdue
            .into_iter()
            .map(|session_id| finding(session_id, Finding::GivenUp { finalized_by }, now));
        let given_up = self.findings.tell(&findings.collect::<Vec<_>>()).await?;
        if given_up > 0 {
            tracing::info!("{given_up} recordings are given up: nothing was heard of them in time");
        }
        // If none of them can be taken, it is no use to begin again at once.
        Ok(is_full && given_up > 0)
    }

    /// Looks for files that workers stored themselves. True if there may be more.
    pub async fn look(&self) -> Result<bool, StoreError> {
        let now = self.parts.clock.now();
        let store = &self.parts.store;
        let awaited = store.awaited_files(now, now + LOOK_LEASE, LOOKS_AT_ONCE).await?;
        let seen = join_all(awaited.iter().map(|file| self.see(&file.url))).await;
        let (mut found, mut missing, mut troubles) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (file, is_there) in awaited.iter().zip(seen) {
            let is_there = is_there.unwrap_or_else(|trouble| {
                troubles.insert(trouble);
                false
            });
            if is_there {
                let url = file.url.clone();
                found.push(finding(file.session_id, Finding::Stored { url }, now));
            } else {
                missing.push((file.session_id, self.next_look(file, now)));
            }
        }
        for trouble in troubles {
            tracing::warn!("recordings cannot be looked for in {trouble}");
        }
        missing.sort_unstable();
        if !missing.is_empty() {
            store.look_again(&missing).await?;
        }
        self.findings.tell(&found).await?;
        Ok(awaited.len() >= LOOKS_AT_ONCE as usize)
    }

    /// Whether the file is there, or why that cannot be told.
    async fn see(&self, url: &str) -> Result<bool, String> {
        let began = Instant::now();
        let seen = self.ask(url).await;
        let look = match seen {
            Ok(true) => Look::Found,
            Ok(false) => Look::Missing,
            Err(_) => Look::Unavailable,
        };
        self.parts.metrics.looks.of(look).observe(began.elapsed().as_secs_f64());
        seen
    }

    async fn ask(&self, url: &str) -> Result<bool, String> {
        match timeout(LOOK_WITHIN, self.parts.places.head(url)).await {
            Ok(Ok(bytes)) => Ok(bytes.is_some_and(|bytes| bytes > 0)),
            // Nobody may look there: the worker's word counts.
            Ok(Err(PlaceError::Outside(_))) => Ok(true),
            Ok(Err(PlaceError::Unavailable { place, reason })) => Err(format!("{place}: {reason}")),
            Err(_) => Err(format!("{}: no answer within {LOOK_WITHIN:?}", place_of(url))),
        }
    }

    /// Pauses grow with the age of the session; the last look is just before the deadline.
    fn next_look(&self, file: &AwaitedFile, now: DateTime<Utc>) -> DateTime<Utc> {
        let pause = ((now - file.finalized_at) / 2).max(FIRST_PAUSE);
        let next = now + pause;
        let last = file.finalized_at.checked_add_signed(self.deadline - FIRST_PAUSE);
        last.filter(|last| now < *last).map_or(next, |last| next.min(last))
    }
}

/// Rounds are a minute apart, unless there is more to do.
fn pause_after(round: &Result<bool, StoreError>) -> Duration {
    match round {
        Ok(true) => BREATH,
        Ok(false) => ROUND_EVERY.mul_f64(0.9 + chance() / 5.0),
        Err(error) => {
            tracing::warn!("the sweep over recordings waits for the database: {error}");
            ROUND_EVERY
        }
    }
}

fn finding(session_id: Uuid, finding: Finding, now: DateTime<Utc>) -> Prepared {
    Findings::prepared(Change::Swept { session_id, finding }, now)
}

/// The bucket, or nothing of the path: a file's name may tell whose it is.
fn place_of(url: &str) -> &str {
    let path_at = url.find("://").map_or(0, |at| at + 3);
    let end = url[path_at..].find('/').map_or(url.len(), |at| path_at + at);
    &url[..end]
}
