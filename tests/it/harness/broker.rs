//! RabbitMQ for tests: the names of exchange and queues are fixed, so each test has a virtual
//! host of its own.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use finalizer::intake::RawEvent;
use finalizer::intake::amqp::{AmqpSettings, HOLD_AT_MOST, Publisher, Unconfirmed};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::sync::OnceCell;

use super::{fresh_id, setting, until};

pub(crate) const EXCHANGE: &str = "voice.events";
pub(crate) const QUEUE: &str = "finalizer.events";
pub(crate) const DEAD_QUEUE: &str = "finalizer.events.dead";

/// Virtual hosts, made at once: asking the broker to make one takes it a second of start-up.
const HOSTS: usize = 48;
static MADE: OnceCell<String> = OnceCell::const_new();
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// A virtual host of a test's own.
pub(crate) struct Broker {
    pub(crate) url: String,
}

/// An open channel; closed when it is dropped.
pub(crate) struct Opened {
    pub(crate) channel: Channel,
    _connection: Connection,
}

impl Broker {
    pub(crate) async fn new() -> Self {
        let prefix = MADE.get_or_init(async || make_hosts()).await;
        let number = TAKEN.fetch_add(1, Ordering::SeqCst);
        assert!(number < HOSTS, "raise HOSTS: more tests use the broker");
        let server = setting("FINALIZER_TEST_AMQP_URL");
        Self { url: format!("{server}/{prefix}-{number}") }
    }

    /// Publishes events as a voice worker does, and waits for all confirms.
    pub(crate) async fn publish(&self, events: &[Bytes]) {
        self.publish_with(events, true).await;
    }

    /// Publishes to what is there; nothing is declared.
    pub(crate) async fn publish_undeclared(&self, events: &[Bytes]) {
        self.publish_with(events, false).await;
    }

    async fn publish_with(&self, events: &[Bytes], is_declaring: bool) {
        let settings = AmqpSettings {
            url: self.url.clone(),
            prefetch: 1,
            is_declaring,
            hold_at_most: HOLD_AT_MOST,
        };
        let mut left: Vec<usize> = (0..events.len()).collect();
        // A queue that others declare at the same moment may refuse what comes too early.
        until("the broker has confirmed all events", async || {
            let mut publisher = Publisher::connect(&settings).await.unwrap();
            let mut refused = Vec::new();
            for number in left.drain(..) {
                let (bytes, source) = (events[number].clone(), number.to_string().into());
                let event = RawEvent { bytes, source, headers: None };
                refused.extend(publisher.publish(event).await.unwrap());
            }
            refused.extend(publisher.finish().await.unwrap());
            for Unconfirmed { source, reason } in refused {
                assert!(reason.starts_with("the broker refused it"), "{reason}");
                left.push(source.parse().unwrap());
            }
            left.is_empty()
        })
        .await;
    }

    /// Publishes an event that belongs to a trace.
    pub(crate) async fn publish_traced(&self, event: &[u8], traceparent: &str) {
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString(traceparent.into()));
        let properties = BasicProperties::default().with_headers(headers);
        let (opened, options) = (self.open().await, BasicPublishOptions::default());
        opened.channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let (exchange, key) = (EXCHANGE.into(), "session.ended".into());
        let publish = opened.channel.basic_publish(exchange, key, options, event, properties);
        assert!(publish.await.unwrap().await.unwrap().is_ack());
    }

    pub(crate) async fn open(&self) -> Opened {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&self.url, properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Opened { channel, _connection: connection }
    }

    /// Messages that wait in a queue, and its consumers; nothing if there is no such queue.
    /// What a consumer holds unacknowledged does not wait.
    pub(crate) async fn queue(&self, name: &str) -> Option<(u32, u32)> {
        let opened = self.open().await;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = opened.channel.queue_declare(name.into(), passive, FieldTable::default()).await;
        found.ok().map(|queue| (queue.message_count(), queue.consumer_count()))
    }

    /// Both queues are there, empty, and nobody consumes: what was in hand is acknowledged.
    pub(crate) async fn is_all_acknowledged(&self) -> bool {
        self.queue(QUEUE).await == Some((0, 0)) && self.queue(DEAD_QUEUE).await == Some((0, 0))
    }
}

fn make_hosts() -> String {
    let prefix = format!("test-{}", fresh_id().simple());
    let make = format!(
        "[begin \
            Host = list_to_binary(\"{prefix}-\" ++ integer_to_list(Number)), \
            rabbit_vhost:add(Host, <<\"tests\">>), \
            rabbit_auth_backend_internal:set_permissions( \
                <<\"guest\">>, Host, <<\".*\">>, <<\".*\">>, <<\".*\">>, <<\"tests\">>) \
         end || Number <- lists:seq(0, {HOSTS} - 1)], ok."
    );
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services"))
        .args(["rabbitmqctl", &setting("FINALIZER_TEST_SERVICES"), "eval", &make])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    prefix
}
