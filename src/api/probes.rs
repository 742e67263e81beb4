//! What is asked of any process, whatever its roles: does it live, can it work, what has it counted?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::FromRef;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::serve::serve;
use super::{ApiState, health, metrics};
use crate::clock::Clock;
use crate::health::Health;
use crate::intake::Intake;
use crate::metrics::{Metrics, seconds_between};
use crate::store::{SharedStore, Workload};

/// A store that takes longer is no store to work with.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// The database is not asked more often, however often we are.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// What a process knows of itself.
#[derive(Clone)]
pub struct Probes {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    intake: Option<Intake>,
    metrics: Arc<Metrics>,
    /// When the database was last asked, and whether it answered.
    asked: Arc<Mutex<Option<(Instant, bool)>>>,
}

/// The parts of the process, by name, with what ails them.
pub(super) type Troubles = BTreeMap<&'static str, Option<String>>;

impl FromRef<ApiState> for Probes {
    fn from_ref(state: &ApiState) -> Self {
        state.probes.clone()
    }
}

impl Probes {
    /// The probes of a process; of its intake, if it takes events.
    pub fn new(
        store: SharedStore,
        clock: Arc<dyn Clock>,
        health: Arc<Health>,
        intake: Option<Intake>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { store, clock, health, intake, metrics, asked: Arc::default() }
    }

    /// What is counted.
    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What ails the parts of the process. Asks the database.
    pub(super) async fn troubles(&self) -> Troubles {
        let answer = timeout(STORE_TIMEOUT, self.store.now()).await;
        self.troubles_with(matches!(answer, Ok(Ok(_))))
    }

    fn troubles_with(&self, is_store_there: bool) -> Troubles {
        let mut parts = self.health.parts();
        let trouble = "The database is not answering.".to_owned();
        parts.insert("store", (!is_store_there).then_some(trouble));
        let Some(intake) = &self.intake else { return parts };
        let trouble = "Events are held back until the database answers.".to_owned();
        parts.insert("intake", intake.is_paused().then_some(trouble));
        if intake.is_stalled() {
            let trouble = "Events are waiting, and for minutes none was taken.".to_owned();
            parts.entry("consumer").or_default().get_or_insert(trouble);
        }
        parts
    }

    /// All metrics. The database is asked for some, but not often; what it does not tell in time is
    /// left out.
    pub(super) async fn scrape(&self) -> String {
        let mut asked = self.asked.lock().await;
        let recent = asked.filter(|(at, _)| at.elapsed() < ASK_EVERY);
        let is_store_there = match recent {
            Some((_, is_there)) => is_there,
            None => self.ask().await,
        };
        if recent.is_none() {
            *asked = Some((Instant::now(), is_store_there));
        }
        let healthy = &self.metrics.asked.healthy;
        for (part, trouble) in self.troubles_with(is_store_there) {
            healthy.get_or_create(&[("part", part)]).set(i64::from(trouble.is_none()));
        }
        self.metrics.encode()
    }

    /// Asks the database how much there is to do; whether it answers at all.
    async fn ask(&self) -> bool {
        let now = self.clock.now();
        let answer = timeout(STORE_TIMEOUT, self.store.workload(now)).await;
        let workload = answer.ok().and_then(Result::ok);
        let asked = &self.metrics.asked;
        let count = |of: fn(&Workload) -> u32| workload.as_ref().map(|found| f64::from(of(found)));
        asked.pending.set(count(|found| found.pending));
        asked.open_failures.set(count(|found| found.open_failures));
        let due_since =
            |found: &Workload| found.due_since.map_or(0.0, |at| seconds_between(at, now));
        asked.overdue.set(workload.as_ref().map(due_since));
        // It may be there and take long to count.
        workload.is_some() || matches!(timeout(STORE_TIMEOUT, self.store.now()).await, Ok(Ok(_)))
    }
}

/// Answers probes until `shutdown` is done: all that a process without the API serves.
pub async fn run_probes(listener: TcpListener, probes: Probes, shutdown: impl Future<Output = ()>) {
    let router = Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::show))
        .with_state(probes);
    serve(listener, router, shutdown).await;
}
