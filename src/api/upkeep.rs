//! The API as one task of the process: it serves, and does meanwhile what no request waits for.

use std::convert::Infallible;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};

use super::{ApiState, router, serve};

/// How often is looked whether the published keys are due.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Uses of keys are written after so many looks: once a minute.
const LOOKS_PER_WRITE: u32 = 6;

/// Serves until `shutdown` is done and the requests under way have ended.
pub async fn run(listener: TcpListener, state: ApiState, shutdown: impl Future<Output = ()>) {
    let serving = serve(listener, router(state.clone()), shutdown);
    tokio::select! {
        () = serving => {}
        never = keep_up(&state) => match never {},
    }
    state.authenticator.write_uses(&*state.store).await;
}

async fn keep_up(state: &ApiState) -> Infallible {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        for _ in 0..LOOKS_PER_WRITE {
            looks.tick().await;
            state.authenticator.refresh(state.clock.now()).await;
        }
        state.authenticator.write_uses(&*state.store).await;
    }
}
