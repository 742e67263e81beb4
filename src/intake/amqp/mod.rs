//! Events from RabbitMQ, and dead letters into failures.
//!
//! One broker *generation* is a connection, its channels and consumers, and the deliveries they
//! brought that are not acknowledged yet. On any error, and when a consumer's stream ends, the
//! whole generation is dropped and a new one built: delivery tags mean nothing outside theirs.
//! Trouble that passes is never a `nack`, because a requeue burns the delivery limit in
//! milliseconds; events are held instead.

mod generation;
mod ledger;
mod mark;
mod publish;
mod topology;

use std::sync::Arc;
use std::time::Duration;

use lapin::uri::AMQPUri;
use tokio_util::sync::CancellationToken;

use super::{Intake, Replayer};
use crate::backoff::Backoff;
use crate::clock::chance;
use crate::health::Health;
use crate::metrics::BrokerMetrics;

pub(super) use topology::{DEAD_QUEUE, QUEUE};

pub use publish::{Publisher, Unconfirmed};

/// Why the broker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL is none.
    #[error("{0}; give amqp://user:password@host:5672/vhost")]
    BadUrl(String),
    /// The broker refuses what we declare: a queue or exchange exists with other arguments.
    #[error(
        "the broker has a queue or exchange with other arguments than ours ({0}); delete it, or \
         use --no-declare to take it as it is"
    )]
    Refused(String),
    /// It is away.
    #[error("the broker cannot be used: {0}")]
    Away(#[from] lapin::Error),
    /// It does not answer in time.
    #[error("the broker did not answer within {0:?}")]
    TimedOut(Duration),
    /// The database is away, so nothing is consumed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The database has been away for so long that the broker would lose patience.
    #[error("the database is away: events are left to the broker until it is back")]
    Held,
    /// A consumer was cancelled by the broker (its queue was deleted or moved).
    #[error("the broker ended the consumer")]
    Ended,
}

/// How to consume.
#[derive(Debug, Clone)]
pub struct AmqpSettings {
    /// `amqp://…` or `amqps://…`.
    pub url: String,
    /// Most events handed to this process and not acknowledged.
    pub prefetch: u16,
    /// Make exchange and queues; else take them as they are.
    pub is_declaring: bool,
    /// How long events are held while the database is away, before they are left to the broker.
    pub hold_at_most: Duration,
}

/// Well below the half hour after which RabbitMQ takes unacknowledged messages back by closing the
/// channel (`consumer_timeout`), and long enough that an ordinary restart of a database costs no
/// redelivery.
pub const HOLD_AT_MOST: Duration = Duration::from_mins(5);

/// What [`Health`] calls this part.
const PART: &str = "consumer";

/// How long a question to the broker may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The longest frame, in bytes, unless the URL says another `frame_max`: RabbitMQ's default. lapin
/// keeps two buffers of 32 frames: it makes them at once if it knows their size, and memory that was
/// never used costs nothing then. If it learns the size from the broker, it makes them longer, and
/// writes zeros to all of them.
const FRAME_MAX: u32 = 128 << 10;

/// Consumes until `shutdown`, through every outage of the broker and the database. Ends with an
/// error only if trying again cannot help. `health` is told whether events are consumed; `replayer`
/// tries dead letters once more.
pub async fn run(
    settings: AmqpSettings,
    (intake, replayer): (Intake, Replayer),
    health: Arc<Health>,
    shutdown: CancellationToken,
) -> Result<(), BrokerError> {
    let mut backoff = Backoff::default();
    health.ill(PART, "Events are not consumed yet.");
    loop {
        let started = tokio::time::Instant::now();
        let ended = generation::run(&settings, (&intake, &replayer), &health, &shutdown).await;
        let metrics = &intake.parts().metrics.broker;
        rest(&intake, metrics);
        let Err(error) = ended else { return Ok(()) };
        metrics.interruptions.inc();
        health.ill(PART, "Events are not consumed: the broker or the database is away.");
        if matches!(error, BrokerError::BadUrl(_) | BrokerError::Refused(_)) {
            return Err(error);
        }
        tracing::warn!(%error, "consuming stopped; it will be tried again");
        if started.elapsed() > Duration::from_secs(30) {
            backoff = Backoff::default();
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next(chance())) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Nothing is consumed any more: how much waits is not known, and nothing is in hand.
fn rest(intake: &Intake, metrics: &BrokerMetrics) {
    intake.progress.rest();
    metrics.waiting.clear();
    metrics.in_hand.set(0);
}

/// Asks whether the broker is there and takes our topology.
pub async fn check(settings: &AmqpSettings) -> Result<(), BrokerError> {
    let connection = connect(&settings.url).await?;
    let channel = answered(connection.create_channel()).await?;
    if settings.is_declaring {
        topology::declare(&channel).await?;
    } else {
        topology::require(&channel).await?;
    }
    answered(connection.close(200, "checked".into())).await
}

async fn connect(url: &str) -> Result<lapin::Connection, BrokerError> {
    let mut uri: AMQPUri = url.parse().map_err(BrokerError::BadUrl)?;
    // Half-open connections are found after two missed heartbeats.
    uri.query.heartbeat.get_or_insert(5);
    uri.query.frame_max.get_or_insert(FRAME_MAX);
    let runtime = async_rs::Runtime::tokio_current();
    let properties =
        lapin::ConnectionProperties::default().with_connection_name("finalizer".into());
    answered(lapin::Connection::connect_uri_with_runtime(uri, properties, runtime)).await
}

/// Waits for an answer of the broker, but not for ever.
async fn answered<T>(
    question: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(ANSWER_WITHIN, question).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(BrokerError::TimedOut(ANSWER_WITHIN)),
    }
}
