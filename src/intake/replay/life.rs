//! Keeps a process that replays known as alive.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::sleep;
use uuid::Uuid;

use super::Replayer;
use crate::backoff::Backoff;
use crate::clock;
use crate::store::StoreError;

/// What a process that was not heard of for so long was doing did not come back.
const LIFE: TimeDelta = TimeDelta::seconds(10);
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// Says again and again that this process is alive; a process whose row ran out takes a new id.
pub(super) async fn live(replayer: Replayer) {
    loop {
        let process = enter(&replayer).await;
        replayer.0.process.send_replace(Some(process));
        keep(&replayer, process).await;
        replayer.0.process.send_replace(None);
        tracing::warn!(process.id = %process, "this process lost its id for replays");
    }
}

async fn enter(replayer: &Replayer) -> Uuid {
    let (parts, mut backoff) = (&replayer.0.parts, Backoff::default());
    loop {
        let now = parts.clock.now();
        let process = clock::new_id(now);
        match parts.store.enter(process, now, now + LIFE).await {
            Ok(()) => return process,
            Err(error) => tracing::warn!("replays wait for the database: {error}"),
        }
        sleep(backoff.next(clock::chance())).await;
    }
}

/// Returns when the id is lost.
async fn keep(replayer: &Replayer, process: Uuid) {
    let mut backoff = Backoff::default();
    let mut pause = RENEW_EVERY;
    loop {
        sleep(pause).await;
        match renew(replayer, process).await {
            Ok(true) => (backoff, pause) = (Backoff::default(), RENEW_EVERY),
            Ok(false) => return,
            Err(error) => {
                tracing::warn!("the database does not hear this process: {error}");
                pause = backoff.next(clock::chance());
            }
        }
    }
}

async fn renew(replayer: &Replayer, process: Uuid) -> Result<bool, StoreError> {
    let parts = &replayer.0.parts;
    let now = parts.clock.now();
    parts.store.keep_alive(process, now, now + LIFE).await
}
