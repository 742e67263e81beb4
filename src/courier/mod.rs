//! How a webhook gets to its receiver.
//!
//! Deliveries come to the [`Desk`], from intake right after its commit and from the sweep of the
//! table; each endpoint has its own line; attempts run side by side, and what came of them is
//! written in batches. The table is the truth: what this process holds in memory it holds under
//! an id that must be renewed, and what it fails to renew is sent by others.

mod attempt;
mod carrier;
mod client;
mod connect;
mod desk;
mod directory;
mod guard;
#[cfg(test)]
mod hostile;
mod life;
mod queue;
mod recorder;
mod redelivery;
mod subscription;
mod sweep;
#[cfg(test)]
mod table;
#[cfg(test)]
mod testing;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use carrier::{Carrier, Feedback};
use directory::Directory;
use life::Heart;
use queue::{Job, Place, Queues};
use recorder::{Entry, Recorder};
use redelivery::Redeliverer;
use sweep::Sweeper;

pub use attempt::Answer;
pub(crate) use client::tls;
pub use client::{Client, ClientOptions, MAX_BODY_BYTES, PostError, Posted};
pub use connect::{Resolve, SystemResolver};
pub use desk::Desk;
pub use guard::{Guard, GuardError, is_public};
pub use subscription::{
    RotateError, SecretsError, new_endpoint, new_secret, open_headers, open_secrets, ping, reseal,
    rotate, seal_headers,
};

use crate::clock::{Clock, SystemClock};
use crate::metrics::{Metrics, Work};
use crate::secrets::Keyring;
use crate::shutdown;
use crate::store::{SharedStore, StoreError};
use crate::webhook::LONGEST_TIMEOUT_SECONDS;

/// No attempt takes longer: the longest timeout that an endpoint can have.
pub const LONGEST_ATTEMPT: Duration = Duration::from_secs(LONGEST_TIMEOUT_SECONDS as u64);
/// Attempts in flight in this process; one owner has half of it at most.
const IN_FLIGHT: usize = 2048;
/// Results that wait to be written; beyond that, attempts wait.
const UNWRITTEN: usize = 1024;
/// For attempts in flight at the shutdown, beyond their deadline.
const AFTER_DEADLINE: Duration = Duration::from_secs(1);
/// For the last results to be written, after the last attempt.
const LAST_WRITES: Duration = Duration::from_secs(10);
/// For taking leave of the database.
const LEAVING: Duration = Duration::from_secs(5);

/// What a courier needs.
pub struct CourierParts {
    /// Where deliveries are kept.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The clock to correct to the database's, if that is the clock in use.
    pub system_clock: Option<Arc<SystemClock>>,
    /// Opens the endpoints' secrets.
    pub keyring: Keyring,
    /// POSTs.
    pub client: Client,
    /// No attempt takes longer; [`LONGEST_ATTEMPT`] unless there is a reason.
    pub longest_attempt: Duration,
    /// What customers put before `/api/…`: stands in bodies that are made only now.
    pub public_url: Arc<str>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Delivers webhooks until it is told to stop.
pub struct Courier {
    parts: CourierParts,
    desk: Arc<Desk>,
    arrivals: mpsc::UnboundedReceiver<Vec<Job>>,
}

/// A part of the courier died.
#[derive(Debug, thiserror::Error)]
#[error("a part of it died: {0}")]
pub struct CourierDied(String);

impl Courier {
    /// A courier that does nothing yet.
    pub fn new(parts: CourierParts) -> Self {
        let (desk, arrivals) = Desk::new(Arc::clone(&parts.clock));
        Self { parts, desk: Arc::new(desk), arrivals }
    }

    /// Where deliveries are handed in.
    pub fn desk(&self) -> Arc<Desk> {
        Arc::clone(&self.desk)
    }

    /// Runs until the shutdown. Then it takes no more, gives back what it has not attempted,
    /// waits for the attempts in flight and writes their results.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), CourierDied> {
        let Self { parts, desk, arrivals } = self;
        let CourierParts { longest_attempt, public_url, .. } = parts;
        let CourierParts { store, clock, system_clock, keyring, client, metrics, .. } = parts;
        let directory = Directory::new(Arc::clone(&store), Arc::clone(&clock), keyring);
        let directory = Arc::new(directory);
        let office = Office { store, clock, desk, metrics };
        let stop_heart = CancellationToken::new();
        let (mut helpers, mut recording) = (JoinSet::new(), JoinSet::new());
        let heart = Heart { office: office.clone(), system_clock };
        helpers.spawn(heart.beat(stop_heart.clone()));
        helpers.spawn(Sweeper { office: office.clone() }.run(shutdown.clone()));
        let redeliverer = Redeliverer { office: office.clone(), public_url };
        helpers.spawn(redeliverer.run(shutdown.clone()));

        let (entries, unwritten) = mpsc::channel(UNWRITTEN);
        let recorder = Recorder { office: office.clone(), directory: Arc::clone(&directory) };
        recording.spawn(recorder.run(unwritten));
        let carrier =
            Carrier { office: office.clone(), client, directory, entries, longest_attempt };
        let round = Round::new(Arc::new(carrier), arrivals);
        let ran = tokio::select! {
            () = round.run(shutdown.clone()) => Ok(()),
            () = overdue(shutdown, longest_attempt + AFTER_DEADLINE) => Ok(()),
            died = death(&mut helpers) => Err(died),
            died = death(&mut recording) => Err(died),
        };
        office.desk.close();
        // With the last sender gone the recorder ends when it has written everything.
        let last_writes = async { while recording.join_next().await.is_some() {} };
        if timeout(LAST_WRITES, last_writes).await.is_err() {
            tracing::warn!("the last results could not be written: those webhooks go out again");
        }
        stop_heart.cancel();
        helpers.shutdown().await;
        office.leave().await;
        ran
    }
}

/// What every part of the courier works with.
#[derive(Clone)]
struct Office {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    desk: Arc<Desk>,
    metrics: Arc<Metrics>,
}

impl Office {
    /// Waits for a transaction, and notes how long it took.
    async fn timed<T>(
        &self,
        work: Work,
        transaction: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let done = transaction.await;
        self.metrics.transactions.took(work, began.elapsed(), done.is_ok());
        done
    }

    async fn leave(&self) {
        let Some(process) = self.desk.process() else { return };
        self.desk.lose();
        match timeout(LEAVING, self.store.leave(process)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("left without a word to the database: {error}"),
            Err(_) => tracing::warn!("left without a word to the database: no answer in time"),
        }
    }
}

/// Waits until the time for attempts in flight at the shutdown is over.
async fn overdue(shutdown: CancellationToken, grace: Duration) {
    shutdown.cancelled().await;
    // This is the time that they have.
    sleep(grace).await;
    tracing::warn!("attempts in flight were cut off: those webhooks go out again");
}

/// Waits until one of the tasks dies; an end without a panic is none.
async fn death(tasks: &mut JoinSet<()>) -> CourierDied {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            return CourierDied(shutdown::describe(error));
        }
    }
    std::future::pending().await
}

/// The loop: starts an attempt whenever one may start.
struct Round {
    carrier: Arc<Carrier>,
    arrivals: mpsc::UnboundedReceiver<Vec<Job>>,
    queues: Queues,
    /// The id under which everything in the queues is held.
    process: Option<Uuid>,
    attempts: JoinSet<(Place, Feedback)>,
}

impl Round {
    fn new(carrier: Arc<Carrier>, arrivals: mpsc::UnboundedReceiver<Vec<Job>>) -> Self {
        let queues = Queues::new(IN_FLIGHT);
        Self { carrier, arrivals, queues, process: None, attempts: JoinSet::new() }
    }

    async fn run(mut self, shutdown: CancellationToken) {
        let carrier = Arc::clone(&self.carrier);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = carrier.office.desk.changed.notified() => {}
                Some(ended) = self.attempts.join_next() => self.finish(ended).await,
                Some(jobs) = self.arrivals.recv() => self.arrive(jobs).await,
            }
            self.drop_lost();
            self.start();
        }
        self.stop().await;
    }

    async fn arrive(&mut self, jobs: Vec<Job>) {
        self.drop_lost();
        for job in jobs {
            if Some(job.owed.process_id) != self.process {
                self.carrier.office.desk.free(&job);
            } else if self.carrier.office.desk.is_paused(job.owed.endpoint_id) {
                self.give_back(job).await;
            } else {
                self.queues.push(job);
            }
        }
    }

    /// What is held under an id that is lost belongs to others.
    fn drop_lost(&mut self) {
        let process = self.carrier.office.desk.process();
        if self.process != process {
            self.process = process;
            for job in self.queues.take_all() {
                self.carrier.office.desk.free(&job);
            }
        }
    }

    fn start(&mut self) {
        while self.carrier.office.desk.lively_process().is_some_and(|id| Some(id) == self.process)
            && let Some((place, job)) = self.queues.next()
        {
            let carrier = Arc::clone(&self.carrier);
            carrier.office.metrics.courier.in_flight.inc();
            self.attempts.spawn(async move { (place, carrier.carry(job).await) });
        }
    }

    async fn finish(&mut self, ended: Result<(Place, Feedback), JoinError>) {
        self.carrier.office.metrics.courier.in_flight.dec();
        // Attempts catch their panics, and are aborted only together with this loop.
        let Ok((place, feedback)) = ended else { return };
        self.queues.finished(place, feedback.pace);
        if let Some(until) = feedback.pause_until {
            self.carrier.office.desk.pause(place.endpoint_id, until);
            for job in self.queues.take(place.endpoint_id) {
                self.give_back(job).await;
            }
        }
    }

    async fn give_back(&self, job: Job) {
        // Nobody receives only when the process is ending in haste: its deliveries are rescued.
        drop(self.carrier.entries.send(Entry::GivenBack(job)).await);
    }

    /// Gives back what has not been attempted, and waits for what is being.
    async fn stop(&mut self) {
        self.carrier.office.desk.close();
        self.arrivals.close();
        while let Some(jobs) = self.arrivals.recv().await {
            self.arrive(jobs).await;
        }
        for job in self.queues.take_all() {
            self.give_back(job).await;
        }
        while self.attempts.join_next().await.is_some() {
            self.carrier.office.metrics.courier.in_flight.dec();
        }
    }
}

#[cfg(test)]
mod tests;
