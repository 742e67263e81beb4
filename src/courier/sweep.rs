//! Picks up from the table what is due: retries, what found no room, what dead processes left.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Office;
use crate::backoff::Backoff;
use crate::clock;
use crate::metrics::Work;
use crate::store::{HandOff as _, Slot, StoreError};

const SWEEP_EVERY: Duration = Duration::from_secs(1);
const RESCUE_EVERY: Duration = Duration::from_secs(3);
/// While an endpoint with a limit of its own has something due.
const LIMITED_EVERY: Duration = Duration::from_millis(200);
/// Most transactions take less.
const COMMITTED_WITHIN: Duration = Duration::from_millis(50);
/// Between two sweeps, however much there is to do: so that a claim is worth its transaction.
const BREATH: Duration = Duration::from_millis(20);

pub(super) struct Sweeper {
    pub(super) office: Office,
}

impl Sweeper {
    /// Runs until it is told to stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let sweeping = async {
            let (mut backoff, mut memory) = (Backoff::default(), Memory::default());
            loop {
                match self.round(&mut memory).await {
                    Ok(pause) => {
                        backoff = Backoff::default();
                        self.wait(pause).await;
                    }
                    Err(error) => {
                        tracing::warn!("due webhooks wait for the database: {error}");
                        sleep(backoff.next(clock::chance())).await;
                    }
                }
            }
        };
        // A claim that is cut off may have happened: leaving gives it back.
        stop.run_until_cancelled(sweeping).await;
    }

    async fn wait(&self, pause: Pause) {
        let desk = &self.office.desk;
        match pause {
            Pause::For(time) => {
                let missed = timeout(time.max(BREATH), desk.missed.notified()).await;
                if missed.is_ok() {
                    // What found no room is being committed.
                    sleep(COMMITTED_WITHIN).await;
                }
            }
            Pause::UntilRoom => {
                // With much room it is worth its transaction now.
                drop(timeout(BREATH, desk.much_room.notified()).await);
                drop(timeout(SWEEP_EVERY, desk.room.notified()).await);
            }
        }
    }

    /// Looks after deliveries that nobody does anything about.
    ///
    /// True if there may be more of them.
    async fn rescue(&self) -> Result<bool, StoreError> {
        let now = self.office.clock.now();
        let rescued = self.office.store.rescue(now).await?;
        self.office.metrics.courier.rescued.inc_by(rescued);
        if rescued > 0 {
            tracing::info!("{rescued} deliveries of processes that died are free again");
        }
        let cancelled = self.office.store.cancel_undeliverable(now).await?;
        if cancelled > 0 {
            tracing::info!("{cancelled} deliveries cancelled: their endpoints take no more");
        }
        Ok(cancelled > 0)
    }

    async fn round(&self, memory: &mut Memory) -> Result<Pause, StoreError> {
        let held = i64::try_from(self.office.desk.held()).unwrap_or(i64::MAX);
        self.office.metrics.courier.held.set(held);
        let Some(process) = self.office.desk.lively_process() else {
            return Ok(Pause::For(SWEEP_EVERY));
        };
        if memory.rescued_at.is_none_or(|at| at.elapsed() >= RESCUE_EVERY) {
            // What fails here must not keep webhooks from being claimed.
            let rescued = self.rescue().await.inspect_err(|error| {
                tracing::warn!("deliveries of dead processes wait for the database: {error}");
            });
            memory.rescued_at = (!rescued.unwrap_or(false)).then(Instant::now);
        }
        self.sweep(process, memory).await
    }

    async fn sweep(&self, process: Uuid, memory: &mut Memory) -> Result<Pause, StoreError> {
        let now = self.office.clock.now();
        let due = self.office.store.due_endpoints(now).await?;
        if due.iter().any(|due| due.rate_limit_per_minute.is_some()) {
            memory.limited_at = Some(Instant::now());
        }
        let slots = self.office.desk.slots(&due);
        let mut unfilled: HashMap<Uuid, Slot> =
            slots.free.iter().map(|slot| (slot.endpoint_id, *slot)).collect();
        if !slots.free.is_empty() {
            let claiming = self.office.store.claim(process, now, &slots.free);
            let claimed = self.office.timed(Work::Claim, claiming).await;
            // Without an answer there may be claims that nobody knows of.
            let owed = claimed.inspect_err(|_| self.office.desk.disown(process))?;
            for owed in &owed {
                unfilled.entry(owed.endpoint_id).and_modify(|slot| slot.fill(owed.is_retry()));
            }
            self.office.desk.accept_claimed(owed);
        }
        let is_full = |slot: &Slot| slot.free == 0 || slot.free_for_retries == 0;
        let is_there_more = slots.is_any_full || unfilled.values().any(is_full);
        if is_there_more {
            return Ok(Pause::UntilRoom);
        }
        // What has a limit of its own is due again before it is seen to be.
        let is_limited = memory.limited_at.is_some_and(|at| at.elapsed() < 2 * SWEEP_EVERY);
        if is_limited { Ok(Pause::For(LIMITED_EVERY)) } else { self.until_next_due().await }
    }

    async fn until_next_due(&self) -> Result<Pause, StoreError> {
        let next_due = self.office.store.next_due().await?;
        let time = next_due.and_then(|due| (due - self.office.clock.now()).to_std().ok());
        Ok(Pause::For(time.map_or(SWEEP_EVERY, |time| time.min(SWEEP_EVERY))))
    }
}

/// What a sweep knows of those before it.
#[derive(Default)]
struct Memory {
    rescued_at: Option<Instant>,
    /// When an endpoint with a limit of its own had something due.
    limited_at: Option<Instant>,
}

enum Pause {
    For(Duration),
    /// There may be more than found room.
    UntilRoom,
}
