//! Carries on redeliveries of whole ranges, step by step, whoever ordered them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Office;
use crate::backoff::Backoff;
use crate::clock;
use crate::store::{Redelivery, RedeliveryState};

/// When none is due.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) struct Redeliverer {
    pub(super) office: Office,
    /// Bodies that were never made name sessions below this URL.
    pub(super) public_url: Arc<str>,
}

impl Redeliverer {
    /// Runs until it is told to stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let advancing = async {
            let mut backoff = Backoff::default();
            loop {
                let now = self.office.clock.now();
                match self.office.store.advance_redelivery(&self.public_url, now).await {
                    Ok(None) => sleep(LOOK_EVERY).await,
                    Ok(Some(job)) => {
                        backoff = Backoff::default();
                        self.office.desk.missed.notify_one();
                        tell(&job);
                    }
                    Err(error) => {
                        tracing::warn!("redeliveries wait for the database: {error}");
                        sleep(backoff.next(clock::chance())).await;
                    }
                }
            }
        };
        // A step that is cut off happened whole or not at all.
        stop.run_until_cancelled(advancing).await;
    }
}

fn tell(job: &Redelivery) {
    if job.state != RedeliveryState::Running {
        tracing::info!(
            redelivery.id = %job.redelivery_id,
            endpoint.id = %job.range.endpoint_id,
            redelivered = job.redelivered,
            skipped = job.skipped,
            "a redelivery is {}",
            job.state.as_str()
        );
    }
}
