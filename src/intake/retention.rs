//! The bytes of failures hold what was said in a call, so they are not kept for ever.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::clock::{self, Clock};
use crate::store::{SharedStore, StoreError};

const LOOK_EVERY: Duration = Duration::from_mins(1);
/// Failures whose bytes are dropped in one transaction: each may be large.
const AT_ONCE: u32 = 100;
/// Between two transactions, so that others have their turn.
const BREATH: Duration = Duration::from_millis(50);

/// Drops the bytes of failures that were last seen longer ago than that.
pub struct Retention {
    /// Where failures are.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long bytes are kept.
    pub keep_for: Duration,
}

impl Retention {
    /// Runs until it is told to stop. Any number of processes may do so.
    pub async fn run(self, stop: CancellationToken) {
        let dropping = async {
            let mut backoff = Backoff::default();
            loop {
                match self.round().await {
                    Ok(_) => {
                        backoff = Backoff::default();
                        sleep(LOOK_EVERY).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "bytes of old failures are not dropped yet");
                        sleep(backoff.next(clock::chance())).await;
                    }
                }
            }
        };
        // A transaction that is cut off happened or not: the next round goes on.
        stop.run_until_cancelled(dropping).await;
    }

    /// Drops all that are old enough; how many.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn round(&self) -> Result<u64, StoreError> {
        let mut all = 0;
        loop {
            let now = self.clock.now();
            let keep_for = TimeDelta::from_std(self.keep_for).ok();
            let Some(last_seen_by) = keep_for.and_then(|keep| now.checked_sub_signed(keep)) else {
                return Ok(all);
            };
            let dropped = self.store.expire_failures(last_seen_by, now, AT_ONCE).await?;
            all += dropped;
            if dropped < u64::from(AT_ONCE) {
                if all > 0 {
                    tracing::info!("the bytes of {all} old failures are dropped");
                }
                return Ok(all);
            }
            sleep(BREATH).await;
        }
    }
}
