//! Keeps this process known as alive, and learns the database's time while at it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Office;
use super::desk::Life;
use crate::backoff::Backoff;
use crate::clock::{self, SystemClock};
use crate::store::StoreError;

/// A process that was not heard of for so long has lost what it held.
const LIFE: Duration = Duration::from_secs(10);
/// One renewal may fail, and the next, before the life is over.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// Says again and again that this process is alive.
pub(super) struct Heart {
    pub(super) office: Office,
    /// The clock to correct, if it is one that can be.
    pub(super) system_clock: Option<Arc<SystemClock>>,
}

impl Heart {
    /// Runs until it is told to stop. Whenever the id is lost, a new one is taken.
    pub(super) async fn beat(self, stop: CancellationToken) {
        let beating = async {
            loop {
                let life = self.enter().await;
                self.office.desk.live(life);
                tokio::select! {
                    () = self.keep(life) => {}
                    () = self.office.desk.is_disowned(life.process) => {}
                }
                self.office.desk.lose();
                self.office.metrics.courier.lease_expiries.inc();
                tracing::warn!(
                    process.id = %life.process,
                    "this process lost its id: it drops the deliveries it held, which others \
                     send, and takes a new id"
                );
            }
        };
        stop.run_until_cancelled(beating).await;
    }

    async fn enter(&self) -> Life {
        let mut backoff = Backoff::default();
        loop {
            match self.try_enter().await {
                Ok(life) => return life,
                Err(error) => tracing::warn!("webhooks wait for the database: {error}"),
            }
            // The database is away.
            sleep(backoff.next(clock::chance())).await;
        }
    }

    async fn try_enter(&self) -> Result<Life, StoreError> {
        self.ask_time().await?;
        let until = Instant::now() + LIFE;
        let now = self.office.clock.now();
        let process = clock::new_id(now);
        self.office.store.enter(process, now, alive_until(now)).await?;
        tracing::info!(process.id = %process, "delivering");
        Ok(Life { process, until })
    }

    /// Returns when the id is lost.
    async fn keep(&self, mut life: Life) {
        loop {
            // A life lasts longer; more often than needed nobody asks.
            sleep(RENEW_EVERY).await;
            match timeout_at(life.until, self.renew(life.process)).await {
                Ok(Some(until)) => life.until = until,
                Ok(None) | Err(_) => return,
            }
            self.office.desk.live(life);
        }
    }

    /// Until when the process lives now; `None`: not any more.
    async fn renew(&self, process: Uuid) -> Option<Instant> {
        let mut backoff = Backoff::default();
        loop {
            let until = Instant::now() + LIFE;
            match self.try_renew(process).await {
                Ok(is_alive) => return is_alive.then_some(until),
                Err(error) => tracing::warn!("the database does not hear this process: {error}"),
            }
            // The database is away.
            sleep(backoff.next(clock::chance())).await;
        }
    }

    async fn try_renew(&self, process: Uuid) -> Result<bool, StoreError> {
        self.ask_time().await?;
        let now = self.office.clock.now();
        self.office.store.keep_alive(process, now, alive_until(now)).await
    }

    async fn ask_time(&self) -> Result<(), StoreError> {
        let before = SystemClock::machine_now();
        let database_now = self.office.store.now().await?;
        let after = SystemClock::machine_now();
        if let Some(clock) = &self.system_clock {
            clock.correct(database_now, before + (after - before) / 2);
        }
        Ok(())
    }
}

fn alive_until(now: DateTime<Utc>) -> DateTime<Utc> {
    now + TimeDelta::from_std(LIFE).expect("ten seconds fit")
}
