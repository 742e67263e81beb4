//! Writes down what became of deliveries, many at a time, for as long as it takes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::Office;
use super::directory::Directory;
use super::queue::Job;
use crate::backoff::Backoff;
use crate::clock;
use crate::metrics::Work;
use crate::store::{AttemptResult, Recorded, StoreError};

/// Results in one write.
const BATCH: usize = 200;

/// A write that is not full begins so long after the one before, at the earliest: nobody waits for a
/// result, and each commit takes from what others wait for.
const GATHER: Duration = Duration::from_millis(10);

/// The end of this process's care for a delivery.
pub(super) enum Entry {
    /// It was attempted, or needs no attempt.
    Attempted {
        /// What was attempted.
        job: Job,
        /// What came of it.
        result: Box<AttemptResult>,
    },
    /// Others may attempt it.
    GivenBack(Job),
}

impl Entry {
    fn job(&self) -> &Job {
        match self {
            Self::Attempted { job, .. } | Self::GivenBack(job) => job,
        }
    }
}

pub(super) struct Recorder {
    pub(super) office: Office,
    pub(super) directory: Arc<Directory>,
}

impl Recorder {
    /// Runs until nobody can send entries any more. While one batch is written, the next gathers, and for
    /// as long as the last one is young.
    pub(super) async fn run(self, mut entries: mpsc::Receiver<Entry>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut next_at = Instant::now();
        while entries.recv_many(&mut batch, BATCH).await > 0 {
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                match timeout_at(next_at, entries.recv_many(&mut batch, room)).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => break,
                }
            }
            next_at = Instant::now() + GATHER;
            self.write(&batch).await;
            batch.drain(..).for_each(|entry| self.office.desk.free(entry.job()));
        }
    }

    async fn write(&self, batch: &[Entry]) {
        // One id, except just after it was lost.
        let processes: HashSet<Uuid> =
            batch.iter().map(|entry| entry.job().owed.process_id).collect();
        for process in processes {
            let of_process = || batch.iter().filter(|entry| entry.job().owed.process_id == process);
            let results: Vec<AttemptResult> = of_process()
                .filter_map(|entry| match entry {
                    Entry::Attempted { result, .. } => Some(AttemptResult::clone(result)),
                    Entry::GivenBack(_) => None,
                })
                .collect();
            let given_back: Vec<Uuid> = of_process()
                .filter(|entry| matches!(entry, Entry::GivenBack(_)))
                .map(|entry| entry.job().owed.delivery_id)
                .collect();
            self.record(process, results).await;
            self.give_back(process, &given_back).await;
        }
    }

    async fn record(&self, process: Uuid, results: Vec<AttemptResult>) {
        if results.is_empty() {
            return;
        }
        let now = self.office.clock.now();
        match persist(|| self.write_down(process, &results, now)).await {
            Ok(recorded) => self.tell(process, results.len(), recorded).await,
            Err(error) if results.len() == 1 => give_up(&results[0], &error),
            // One result that the database refuses must not cost the others theirs.
            Err(_) => {
                for result in results {
                    self.record_alone(process, result).await;
                }
            }
        }
    }

    /// What cannot be recorded as it is, is recorded without what the receiver said.
    async fn record_alone(&self, process: Uuid, result: AttemptResult) {
        let mut bare = result.clone();
        bare.attempt.response_head = None;
        bare.attempt.response_body = bytes::Bytes::new();
        let now = self.office.clock.now();
        for result in [result, bare] {
            let result = std::slice::from_ref(&result);
            match persist(|| self.write_down(process, result, now)).await {
                Ok(recorded) => return self.tell(process, 1, recorded).await,
                Err(error) => give_up(&result[0], &error),
            }
        }
    }

    async fn write_down(
        &self,
        process: Uuid,
        results: &[AttemptResult],
        now: DateTime<Utc>,
    ) -> Result<Recorded, StoreError> {
        self.office.timed(Work::Record, self.office.store.record(process, results, now)).await
    }

    async fn give_back(&self, process: Uuid, deliveries: &[Uuid]) {
        if deliveries.is_empty() {
            return;
        }
        if let Err(error) = persist(|| self.office.store.release(process, deliveries)).await {
            tracing::error!("deliveries stay with this process until it ends: {error}");
        }
    }

    /// Tells the operator what became of results and endpoints.
    async fn tell(&self, process: Uuid, results: usize, recorded: Recorded) {
        let Recorded { deliveries, disabled, warned } = recorded;
        let lost = results.saturating_sub(deliveries.len());
        let metrics = &self.office.metrics.courier;
        metrics.late_results.inc_by(lost as u64);
        metrics.disabled_endpoints.inc_by(disabled.len() as u64);
        if lost > 0 {
            tracing::info!(
                process.id = %process,
                "{lost} results do not count: their deliveries are no longer this process's, or \
                 were cancelled"
            );
        }
        for (endpoint_id, failing, percent) in warned {
            tracing::warn!(
                endpoint.id = %endpoint_id,
                failures = failing.failures,
                "this endpoint has only failed since {}: {percent} % of the way to being disabled",
                failing.since.format("%FT%TZ")
            );
        }
        for (endpoint_id, reason) in &disabled {
            tracing::warn!(endpoint.id = %endpoint_id, reason, "endpoint disabled");
        }
        if !disabled.is_empty() {
            self.directory.forget().await;
        }
    }
}

fn give_up(result: &AttemptResult, error: &StoreError) {
    tracing::error!(
        delivery.id = %result.delivery_id,
        attempt = result.attempt.number,
        "the result of an attempt cannot be recorded: {error}"
    );
}

/// Does a unit of work, again and again while the trouble is one that passes, or lies with the
/// database as a whole: a result that is dropped would leave its delivery held for good.
async fn persist<T, F>(work: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut backoff = Backoff::default();
    loop {
        match work().await {
            Err(error @ (StoreError::Transient(_) | StoreError::Broken(_))) => {
                tracing::warn!("results wait for the database: {error}");
            }
            done => return done,
        }
        sleep(backoff.next(clock::chance())).await;
    }
}
