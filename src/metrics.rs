//! What the program counts and measures of itself, as Prometheus reads it. Every metric is named
//! here, and `docs/metrics.md` describes all of them.
//!
//! Labels have few values, and all are known here: what customers and receivers say is none. Each
//! combination is there from the start, so that counting is one atomic addition, and a rate is right
//! from the first event on.

use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::event::FailureCode;
use crate::finalize::UsageKind;

/// What [`Metrics::encode`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From a call's end to the reader: publishers and retries may take their time.
const LAGS: [f64; 14] =
    [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 14400.0];
/// Of transactions and requests; the longest timeout of an endpoint is 30 s.
const TIMES: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];
/// Events in a batch.
const SIZES: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0];

/// The values that a label can have.
macro_rules! label {
    ($(#[$about:meta])* $name:ident { $($(#[$value_about:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$value_about])* $value,)+ }

        impl $name {
            const ALL: &[Self] = &[$(Self::$value),+];

            /// The value as it stands in the label.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }
    };
}

/// How long requests took, by route and class of status.
type Requests = Family<[(&'static str, String); 2], Histogram, fn() -> Histogram>;

label! {
    /// Where an event came from.
    Source {
        /// The queue.
        Amqp = "amqp",
        /// The queue of dead letters.
        DeadLetter = "dead_letter",
        /// `POST /api/events/`.
        Http = "http",
        /// LiveKit's webhooks.
        Livekit = "livekit",
        /// A failure that is replayed.
        Replay = "replay",
        /// Anything else.
        Other = "other",
    }
}

label! {
    /// What became of an event.
    Became {
        /// A revision of a session.
        Finalized = "finalized",
        /// Any other effect.
        Accepted = "accepted",
        /// Nothing: it had been taken before.
        Duplicate = "duplicate",
        /// A failure.
        Failed = "failed",
    }
}

label! {
    /// What a transaction is for.
    Work {
        /// Takes a batch of events.
        Take = "take",
        /// Claims deliveries that are due.
        Claim = "claim",
        /// Records what became of attempts.
        Record = "record",
    }
}

label! {
    /// How a transaction ended.
    Ended {
        /// It happened.
        Committed = "committed",
        /// It did not, or nobody knows.
        Failed = "failed",
    }
}

label! {
    /// What came of an attempt.
    Attempted {
        /// 2xx.
        Delivered = "delivered",
        /// 3xx, which is not followed.
        Redirect = "redirect",
        /// 410: the receiver wants no more.
        Gone = "gone",
        /// 429.
        Throttled = "throttled",
        /// Any other 4xx, and what is no status.
        ClientError = "client_error",
        /// 5xx.
        ServerError = "server_error",
        /// The URL may not be called.
        InvalidUrl = "invalid_url",
        /// The name could not be resolved.
        Dns = "dns",
        /// The address may not be called.
        RefusedAddress = "refused_address",
        /// No connection.
        Connect = "connect",
        /// No TLS.
        Tls = "tls",
        /// Not done in time.
        Timeout = "timeout",
        /// Closed too soon.
        Closed = "closed",
        /// No HTTP.
        Protocol = "protocol",
        /// The reason lies with us.
        Internal = "internal_error",
    }
}

label! {
    /// Which attempt of its delivery.
    Try {
        /// The first one.
        First = "first",
        /// One of the others.
        Retry = "retry",
    }
}

label! {
    /// What a look for a recording's file came to.
    Look {
        /// It is there.
        Found = "found",
        /// It is not there.
        Missing = "missing",
        /// The place did not answer.
        Unavailable = "unavailable",
    }
}

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// A metric for each combination of labels.
#[derive(Debug)]
pub struct Each<K, M>(Vec<(K, M)>);

impl<K: Copy + PartialEq, M: Clone> Each<K, M> {
    fn new<const N: usize, C: MetricConstructor<M>>(
        family: &Family<Labels<N>, M, C>,
        all: impl Iterator<Item = (K, Labels<N>)>,
    ) -> Self {
        Self(all.map(|(key, labels)| (key, family.get_or_create_owned(&labels))).collect())
    }

    /// The one with these labels.
    pub fn of(&self, key: K) -> &M {
        let found = self.0.iter().find(|(known, _)| *known == key);
        &found.expect("each combination has its own").1
    }
}

/// A gauge that is not there as long as nobody knows its value.
#[derive(Debug, Clone, Default)]
pub struct Known(Family<Labels<0>, Gauge<f64, std::sync::atomic::AtomicU64>>);

impl Known {
    /// Shows the value, or nothing.
    pub fn set(&self, value: Option<f64>) {
        match value {
            Some(value) => {
                self.0.get_or_create(&[]).set(value);
            }
            None => self.0.clear(),
        }
    }
}

/// Everything that is counted and measured in this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Events in.
    pub intake: IntakeMetrics,
    /// The broker.
    pub broker: BrokerMetrics,
    /// Webhooks out.
    pub courier: CourierMetrics,
    /// Transactions, by what they are for.
    pub transactions: Transactions,
    /// Looks for recordings' files, by what came of them.
    pub looks: Each<Look, Histogram>,
    /// Requests to the API, by route and class of status.
    pub requests: Requests,
    /// What is read only when somebody asks.
    pub asked: AskedMetrics,
}

/// Of events.
#[derive(Debug)]
pub struct IntakeMetrics {
    /// Events, by where they came from and what became of them.
    pub events: Each<(Source, Became), Counter>,
    /// Failures, by code.
    pub failures: Each<FailureCode, Counter>,
    /// Events in a batch.
    pub batch_size: Histogram,
    /// From the end of a call to its being readable.
    pub readable_after: Histogram,
    /// Finalized sessions of which some usage has no price, by what was used.
    pub unpriced: Each<UsageKind, Counter>,
    /// Batches that had to wait for the database.
    pub pauses: Counter,
}

/// Of the broker.
#[derive(Debug)]
pub struct BrokerMetrics {
    /// Messages that wait in a queue, by queue; nothing as long as there is no consumer.
    pub waiting: Family<Labels<1>, Gauge>,
    /// Events that the broker handed over and that are not acknowledged.
    pub in_hand: Gauge,
    /// How often consuming ended with an error.
    pub interruptions: Counter,
}

/// Of deliveries.
#[derive(Debug)]
pub struct CourierMetrics {
    /// Attempts, by what came of them.
    pub attempts: Each<Attempted, Counter>,
    /// How long attempts take.
    pub attempt_time: Histogram,
    /// From a session's being readable to a receiver's 2xx, by which attempt it was.
    pub delivered_after: Each<Try, Histogram>,
    /// Attempts under way.
    pub in_flight: Gauge,
    /// Deliveries that this process holds.
    pub held: Gauge,
    /// How often this process's lease on its deliveries ran out.
    pub lease_expiries: Counter,
    /// Deliveries freed that processes held which are dead.
    pub rescued: Counter,
    /// Results that came too late to count.
    pub late_results: Counter,
    /// Endpoints that were disabled because of their answers.
    pub disabled_endpoints: Counter,
}

/// What the database and the parts of the process say when somebody asks.
#[derive(Debug)]
pub struct AskedMetrics {
    /// 1 if the part works, 0 if something ails it.
    pub healthy: Family<Labels<1>, Gauge>,
    /// Deliveries that are owed.
    pub pending: Known,
    /// For how long the delivery that waits longest has been due.
    pub overdue: Known,
    /// Failures that nobody has looked after.
    pub open_failures: Known,
}

/// Transactions, by what they are for and how they ended.
#[derive(Debug)]
pub struct Transactions(Each<(Work, Ended), Histogram>);

impl Transactions {
    /// One took so long.
    pub fn took(&self, work: Work, time: Duration, is_committed: bool) {
        let ended = if is_committed { Ended::Committed } else { Ended::Failed };
        self.0.of((work, ended)).observe(time.as_secs_f64());
    }
}

/// The seconds between two times; none if clocks differ so that they are in the wrong order.
pub fn seconds_between(earlier: DateTime<Utc>, later: DateTime<Utc>) -> f64 {
    (later - earlier).to_std().unwrap_or_default().as_secs_f64()
}

fn lags() -> Histogram {
    Histogram::new(LAGS)
}

fn times() -> Histogram {
    Histogram::new(TIMES)
}

/// Where metrics are entered under their names.
struct Book(Registry);

impl Book {
    fn count<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn time<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register_with_unit(name, help, Unit::Seconds, metric.clone());
        metric
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut book = Book(Registry::with_prefix("finalizer"));
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        book.0.register("build", "The release", build);
        let intake = IntakeMetrics::new(&mut book);
        let broker = BrokerMetrics::new(&mut book);
        let courier = CourierMetrics::new(&mut book);
        let transactions = Transactions::new(&mut book);
        let looks = book.time(
            "recording_look_duration",
            "How long it takes to look for a recording's file, by what came of it",
            Family::new_with_constructor(times as fn() -> Histogram),
        );
        let looks = Each::new(&looks, Look::ALL.iter().map(|l| (*l, [("outcome", l.as_str())])));
        let requests = book.time(
            "http_request_duration",
            "How long requests take, by route and class of status",
            Family::new_with_constructor(times as fn() -> Histogram),
        );
        let asked = AskedMetrics::new(&mut book);
        let Book(registry) = book;
        Self { registry, intake, broker, courier, transactions, looks, requests, asked }
    }
}

impl Metrics {
    /// All of it, in the text format of OpenMetrics.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes everything");
        text
    }
}

impl IntakeMetrics {
    fn new(book: &mut Book) -> Self {
        let events = book.count(
            "events",
            "Events taken, by where they came from and what became of them",
            Family::<Labels<2>, Counter>::default(),
        );
        let failures = book.count(
            "failures",
            "Events that became failures, by code",
            Family::<Labels<1>, Counter>::default(),
        );
        let unpriced = book.count(
            "unpriced_sessions",
            "Finalized sessions with usage that has no price, by what was used",
            Family::<Labels<1>, Counter>::default(),
        );
        let pairs =
            Source::ALL.iter().flat_map(|from| Became::ALL.iter().map(move |to| (*from, *to)));
        let labels = |(from, to): (Source, Became)| {
            ((from, to), [("source", from.as_str()), ("outcome", to.as_str())])
        };
        Self {
            events: Each::new(&events, pairs.map(labels)),
            failures: Each::new(
                &failures,
                FailureCode::ALL.into_iter().map(|code| (code, [("code", code.as_str())])),
            ),
            batch_size: book.count(
                "batch_events",
                "Events in a batch that was committed",
                Histogram::new(SIZES),
            ),
            readable_after: book.time(
                "call_end_to_readable",
                "From the end of a call to its session being readable",
                lags(),
            ),
            unpriced: Each::new(
                &unpriced,
                [UsageKind::Llm, UsageKind::Stt, UsageKind::Tts]
                    .into_iter()
                    .map(|kind| (kind, [("kind", kind.as_str())])),
            ),
            pauses: book.count(
                "intake_pauses",
                "Batches that were held back because the database was away",
                Counter::default(),
            ),
        }
    }
}

impl BrokerMetrics {
    fn new(book: &mut Book) -> Self {
        Self {
            waiting: book.count(
                "queue_messages",
                "Messages that wait in the queue; not there as long as nothing is consumed",
                Family::default(),
            ),
            in_hand: book.count(
                "events_in_hand",
                "Events that the broker handed over and that are not acknowledged",
                Gauge::default(),
            ),
            interruptions: book.count(
                "consumer_interruptions",
                "How often consuming ended with an error and was begun anew",
                Counter::default(),
            ),
        }
    }
}

impl CourierMetrics {
    fn new(book: &mut Book) -> Self {
        let attempts = book.count(
            "attempts",
            "Attempts to deliver a webhook, by what came of them",
            Family::<Labels<1>, Counter>::default(),
        );
        let delivered_after = book.time(
            "readable_to_delivered",
            "From a session being readable to a receiver's 2xx, by which attempt that was; what was \
             sent again by hand is not in it",
            Family::new_with_constructor(lags as fn() -> Histogram),
        );
        let counter = |book: &mut Book, name, help| book.count(name, help, Counter::default());
        let gauge = |book: &mut Book, name, help| book.count(name, help, Gauge::default());
        Self {
            attempts: Each::new(
                &attempts,
                Attempted::ALL.iter().map(|came| (*came, [("outcome", came.as_str())])),
            ),
            attempt_time: book.time("attempt_duration", "How long attempts take", times()),
            delivered_after: Each::new(
                &delivered_after,
                Try::ALL.iter().map(|which| (*which, [("attempt", which.as_str())])),
            ),
            in_flight: gauge(book, "attempts_in_flight", "Attempts under way"),
            held: gauge(book, "deliveries_held", "Deliveries that this process holds"),
            lease_expiries: counter(
                book,
                "lease_expiries",
                "How often this process lost its id, and with it the deliveries it held",
            ),
            rescued: counter(
                book,
                "deliveries_rescued",
                "Deliveries freed that were held by processes which are dead",
            ),
            late_results: counter(
                book,
                "late_results",
                "Results of attempts that came too late to count",
            ),
            disabled_endpoints: counter(
                book,
                "endpoints_disabled",
                "Endpoints that were disabled because of their answers",
            ),
        }
    }
}

impl Transactions {
    fn new(book: &mut Book) -> Self {
        let family = book.time(
            "transaction_duration",
            "How long transactions take, by what they are for and how they ended",
            Family::new_with_constructor(times as fn() -> Histogram),
        );
        let pairs =
            Work::ALL.iter().flat_map(|work| Ended::ALL.iter().map(move |end| (*work, *end)));
        let labels = |(work, end): (Work, Ended)| {
            ((work, end), [("work", work.as_str()), ("outcome", end.as_str())])
        };
        Self(Each::new(&family, pairs.map(labels)))
    }
}

impl AskedMetrics {
    fn new(book: &mut Book) -> Self {
        let known = |book: &mut Book, name, help| {
            let gauge = Known::default();
            book.count(name, help, gauge.0.clone());
            gauge
        };
        let overdue = Known::default();
        book.time(
            "deliveries_overdue",
            "For how long the delivery that waits longest has been due",
            overdue.0.clone(),
        );
        Self {
            healthy: book.count(
                "part_healthy",
                "1 if the part works, 0 if something ails it, as in /readyz",
                Family::default(),
            ),
            pending: known(
                book,
                "deliveries_pending",
                "Deliveries that are owed; 10000 stands for more as well",
            ),
            overdue,
            open_failures: known(
                book,
                "failures_open",
                "Failures that are open; 10000 stands for more as well",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_combination_is_there_before_anything_is_counted() {
        let metrics = Metrics::default();
        let text = metrics.encode();
        assert!(text.ends_with("# EOF\n"), "{text}");
        for line in [
            r#"finalizer_events_total{source="dead_letter",outcome="failed"} 0"#,
            r#"finalizer_failures_total{code="untimed_turns"} 0"#,
            r#"finalizer_attempts_total{outcome="refused_address"} 0"#,
            r#"finalizer_transaction_duration_seconds_count{work="claim",outcome="failed"} 0"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is missing in {text}");
        }
    }

    #[test]
    fn what_nobody_knows_is_not_there() {
        let metrics = Metrics::default();
        let shows = || metrics.encode().contains("\nfinalizer_deliveries_overdue_seconds ");
        assert!(!shows());
        metrics.asked.overdue.set(Some(1.5));
        assert!(shows());
        metrics.asked.overdue.set(None);
        assert!(!shows());
    }

    #[test]
    fn a_duration_is_never_negative() {
        let (earlier, later) = (DateTime::UNIX_EPOCH, DateTime::from_timestamp(2, 500_000_000));
        assert!((seconds_between(earlier, later.unwrap()) - 2.5).abs() < f64::EPSILON);
        assert!(seconds_between(later.unwrap(), earlier).abs() < f64::EPSILON);
    }
}
