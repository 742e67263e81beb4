//! What is not kept for ever: the bytes of failures, which hold what was said in a call, and deliveries that
//! ended long ago. Little at a time, in any number of processes at once.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::clock::{self, Clock};
use crate::store::{PrunePosition, Pruned, SharedStore, StoreError};

const LOOK_EVERY: Duration = Duration::from_mins(1);
/// Failures whose bytes are dropped in one transaction: each may be large.
const FAILURES_AT_ONCE: u32 = 100;
/// Messages whose deliveries are forgotten in one transaction.
const MESSAGES_AT_ONCE: u32 = 500;
/// Between two transactions, so that others have their turn.
const BREATH: Duration = Duration::from_millis(50);

/// Forgets what is older than it is to be kept.
pub struct Retention {
    /// Where everything is.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long the bytes of failures are kept, after they were last seen.
    pub failures: Duration,
    /// How long deliveries are kept, after they ended.
    pub deliveries: Duration,
}

impl Retention {
    /// Runs until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let forgetting = async {
            let mut backoff = Backoff::default();
            loop {
                match self.round().await {
                    Ok(()) => {
                        backoff = Backoff::default();
                        sleep(LOOK_EVERY).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "what is old is not dropped yet");
                        sleep(backoff.next(clock::chance())).await;
                    }
                }
            }
        };
        // A transaction that is cut off happened or not: the next round goes on.
        stop.run_until_cancelled(forgetting).await;
    }

    /// Forgets all that is old enough.
    async fn round(&self) -> Result<(), StoreError> {
        let failures = self.drop_failures().await?;
        if failures > 0 {
            tracing::info!("the bytes of {failures} old failures are dropped");
        }
        let Pruned { messages, deliveries, attempts } = self.prune(false, |_| ()).await?;
        if messages > 0 {
            tracing::info!(messages, deliveries, attempts, "old deliveries are forgotten");
        }
        Ok(())
    }

    /// Drops the bytes of all failures that are old enough; how many.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn drop_failures(&self) -> Result<u64, StoreError> {
        let mut all = 0;
        let Some(last_seen_by) = self.before(self.failures) else { return Ok(all) };
        loop {
            let now = self.clock.now();
            let dropped = self.store.expire_failures(last_seen_by, now, FAILURES_AT_ONCE).await?;
            all += dropped;
            if dropped < u64::from(FAILURES_AT_ONCE) {
                return Ok(all);
            }
            sleep(BREATH).await;
        }
    }

    /// Forgets all deliveries that ended long enough ago, telling now and then what it has come to; or
    /// says what it would.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn prune(
        &self,
        is_dry_run: bool,
        tell: impl Fn(&Pruned),
    ) -> Result<Pruned, StoreError> {
        let mut all = Pruned::default();
        let Some(before) = self.before(self.deliveries) else { return Ok(all) };
        let mut next: Option<PrunePosition> = Some((DateTime::UNIX_EPOCH, Vec::new()));
        while let Some(after) = next {
            let pruned;
            (pruned, next) = self.store.prune(before, &after, MESSAGES_AT_ONCE, is_dry_run).await?;
            all.messages += pruned.messages;
            all.deliveries += pruned.deliveries;
            all.attempts += pruned.attempts;
            tell(&all);
            if next.is_some() {
                sleep(BREATH).await;
            }
        }
        Ok(all)
    }

    /// Older than this is old enough; `None`: nothing is.
    fn before(&self, keep_for: Duration) -> Option<DateTime<Utc>> {
        self.clock.now().checked_sub_signed(TimeDelta::from_std(keep_for).ok()?)
    }
}
