//! What it costs to take due deliveries from a table: `claim DATABASE_URL COUNT` claims and
//! records so many through the store, as the courier does, and prints of each call how many
//! milliseconds it took, all in all and for each delivery.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use finalizer::clock::{SystemClock, new_id};
use finalizer::store::{
    Attempt, AttemptResult, DueEndpoint, Next, OpenMode, Owed, SharedStore, Slot, StoreError,
    Verdict, open,
};
use uuid::Uuid;

use super::Arguments;

/// What one claim may take at most: 64 of each of 16 endpoints.
const ENDPOINTS: usize = 16;
const PER_ENDPOINT: u32 = 64;
/// Results in one write.
const RECORDED_AT_ONCE: usize = 200;

#[tokio::main]
pub(crate) async fn run(mut arguments: Arguments) -> anyhow::Result<()> {
    const USAGE: &str = "usage: claim DATABASE_URL COUNT";
    let url = arguments.next().context(USAGE)?;
    let count: usize = arguments.next().context(USAGE)?.parse()?;
    let store = open(&url, OpenMode::Existing).await?;
    let now = SystemClock::machine_now();
    let process = new_id(now);
    store.enter(process, now, now + TimeDelta::hours(1)).await?;
    let mut sweep = Sweep { store, process, now, turn: 0, times: Times::default() };
    let mut claimed = 0;
    while claimed < count {
        let owed = sweep.claim(count - claimed).await?;
        ensure!(!owed.is_empty(), "only {claimed} deliveries were due");
        claimed += owed.len();
        sweep.record(&owed).await?;
    }
    sweep.store.leave(process).await?;
    sweep.times.print(claimed);
    Ok(())
}

/// One sweep after another, by one process.
struct Sweep {
    store: SharedStore,
    process: Uuid,
    now: DateTime<Utc>,
    turn: usize,
    times: Times,
}

impl Sweep {
    async fn claim(&mut self, at_most: usize) -> Result<Vec<Owed>, StoreError> {
        let Self { store, process, now, turn, times } = self;
        times.of("rescue", store.rescue(*now)).await?;
        let mut due = times.of("due_endpoints", store.due_endpoints(*now)).await?;
        // Each time another endpoint comes first, as the courier has it.
        *turn += 1;
        let first = *turn % due.len().max(1);
        due.rotate_left(first);
        let mut left = u32::try_from(at_most).unwrap_or(u32::MAX);
        let slots = due.into_iter().take(ENDPOINTS).map(|due| {
            let free = left.min(PER_ENDPOINT);
            left -= free;
            let DueEndpoint { endpoint_id, rate_limit_per_minute, .. } = due;
            Slot { endpoint_id, free, free_for_retries: free, rate_limit_per_minute }
        });
        let slots: Vec<_> = slots.filter(|slot| slot.free > 0).collect();
        times.of("claim", store.claim(*process, *now, &slots)).await
    }

    async fn record(&mut self, owed: &[Owed]) -> anyhow::Result<()> {
        for some in owed.chunks(RECORDED_AT_ONCE) {
            let results: Vec<_> = some.iter().map(|owed| delivered(owed, self.now)).collect();
            let work = self.store.record(self.process, &results, self.now);
            let recorded = self.times.of("record", work).await?;
            ensure!(recorded.deliveries.len() == some.len(), "some results did not count");
        }
        self.times.of("next_due", self.store.next_due()).await?;
        Ok(())
    }
}

fn delivered(owed: &Owed, now: DateTime<Utc>) -> AttemptResult {
    let attempt = Attempt {
        number: owed.attempts + 1,
        started_at: now,
        duration_us: 1000,
        status: Some(204),
        error: None,
        response_head: Some("HTTP/1.1 204 No Content".to_owned()),
        response_body: Bytes::new(),
        address: Some("127.0.0.1:9000".to_owned()),
        is_connection_reused: true,
    };
    AttemptResult {
        delivery_id: owed.delivery_id,
        endpoint_id: owed.endpoint_id,
        url: "http://127.0.0.1:9000/".into(),
        attempt,
        next: Next::Done,
        verdict: Verdict::Works,
        pause_until: None,
    }
}

/// How long calls took, and how many there were, by their names.
#[derive(Default)]
struct Times(BTreeMap<&'static str, (Duration, u32)>);

impl Times {
    async fn of<T>(&mut self, name: &'static str, call: impl Future<Output = T>) -> T {
        let begin = Instant::now();
        let result = call.await;
        let (time, calls) = self.0.entry(name).or_default();
        *time += begin.elapsed();
        *calls += 1;
        result
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn print(&self, deliveries: usize) {
        for (name, (time, calls)) in &self.0 {
            let ms = time.as_secs_f64() * 1e3;
            println!("{name} {:.4} {:.5}", ms / f64::from(*calls), ms / deliveries as f64);
        }
    }
}
