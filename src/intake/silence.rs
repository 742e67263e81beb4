//! The sweep over calls in progress of which nothing is heard: their worker has died, and they are
//! finalized from what it said so far.
//!
//! Any number of processes may sweep. The merge decides whether a call is over; the sweep finds those
//! that may be, and asks only while nothing that was said of them can be waiting (see `watch.rs`).

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Findings;
use super::watch::is_everything_heard;
use crate::clock::{Clock, chance};
use crate::finalize::{Change, Silence};
use crate::store::{SharedStore, StoreError};

const ROUND_EVERY: Duration = Duration::from_mins(1);
/// Calls looked at in one question.
const CALLS_AT_ONCE: u32 = 1000;
/// Calls given up in one transaction.
const GIVEN_UP_AT_ONCE: usize = 100;
/// Rooms forgotten in one transaction.
const ROOMS_AT_ONCE: u32 = 1000;
/// How long a closed room waits for its session, as a recording does.
const ROOM_FORGOTTEN_AFTER: TimeDelta = TimeDelta::days(7);

/// What the sweep works with.
#[derive(Clone)]
pub struct SilenceParts {
    /// Where sessions are.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Payloads name sessions below this URL (no slash at the end).
    pub public_url: String,
    /// The default recordings place: `s3://bucket[/prefix]` or `file:///folder`.
    pub recordings_place: String,
    /// How long a call is waited for of which nothing is heard.
    pub abandon_after: Duration,
}

/// The sweep over silent calls.
pub struct SilenceSweep {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    findings: Findings,
    abandon_after: TimeDelta,
}

impl SilenceSweep {
    /// A sweep; it begins with [`SilenceSweep::run`].
    pub fn new(parts: SilenceParts) -> Self {
        let SilenceParts { store, clock, public_url, recordings_place, abandon_after } = parts;
        let abandon_after = TimeDelta::from_std(abandon_after).unwrap_or(TimeDelta::MAX);
        let findings = Findings {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            public_url,
            recordings_place,
        };
        Self { store, clock, findings, abandon_after }
    }

    /// Sweeps until it is told to stop. A round that is cut off happened or not; the next one, or
    /// another process, goes on.
    pub async fn run(self, stop: CancellationToken) {
        let sweeping = async {
            loop {
                if let Err(error) = self.sweep().await {
                    tracing::warn!("the sweep over silent calls waits for the database: {error}");
                }
                sleep(ROUND_EVERY.mul_f64(0.9 + chance() / 5.0)).await;
            }
        };
        stop.run_until_cancelled(sweeping).await;
    }

    /// One round: gives up calls that are over, and forgets old rooms. How many calls.
    pub async fn sweep(&self) -> Result<usize, StoreError> {
        let now = self.clock.now();
        self.forget_rooms(now).await?;
        if !is_everything_heard(&self.store.intakes().await?, now) {
            tracing::debug!("no call is given up: events may be waiting");
            return Ok(0);
        }
        let given_up = self.give_up(now).await?;
        if given_up > 0 {
            tracing::info!("{given_up} calls are given up: nothing was heard of them for long");
        }
        Ok(given_up)
    }

    /// Walks over all that may be over: those that are not yet must not stand in the way of others.
    async fn give_up(&self, now: DateTime<Utc>) -> Result<usize, StoreError> {
        let Some(silence) = Silence::at(now, self.abandon_after) else { return Ok(0) };
        let (mut after, mut given_up) = ((DateTime::UNIX_EPOCH, Uuid::nil()), 0);
        loop {
            let calls = self.store.silent_sessions(silence, after, CALLS_AT_ONCE).await?;
            let Some(last) = calls.last() else { return Ok(given_up) };
            after = (last.heard_at, last.session_id);
            let silent = calls.into_iter().filter(|call| call.may_be_over).map(|call| {
                Findings::prepared(Change::Silent { session_id: call.session_id, silence }, now)
            });
            for findings in silent.collect::<Vec<_>>().chunks(GIVEN_UP_AT_ONCE) {
                given_up += self.findings.tell(findings).await?;
            }
        }
    }

    async fn forget_rooms(&self, now: DateTime<Utc>) -> Result<(), StoreError> {
        let heard_by = now - ROOM_FORGOTTEN_AFTER;
        while self.store.forget_rooms(heard_by, ROOMS_AT_ONCE).await? >= u64::from(ROOMS_AT_ONCE) {}
        Ok(())
    }
}
