//! A message that takes its worker with it: it stays one bad message, and those that were dragged along
//! with it are finalized.

use bytes::Bytes;
use finalizer::event::FailureCode;
use finalizer::store::FailureState;
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use uuid::Uuid;

use crate::harness::broker::{Broker, DEAD_QUEUE, EXCHANGE, QUEUE};
use crate::harness::proxy::Proxy;
use crate::harness::service::Site;
use crate::harness::{bytes_of, ended, fresh_id, number, postgres, until};

/// What tells the poison's session, on its way to the database, from all others and from its event.
const POISON: &str = r#""text":"poison","turn_index""#;

/// The variable that says how many good messages there are.
const COUNT: &str = "FINALIZER_TEST_POISON";

/// So many workers may die of a message before the broker gives it up.
const DELIVERY_LIMIT: i64 = 2;

/// Our queues, with a limit that is reached sooner.
async fn declare(broker: &Broker) {
    let opened = broker.open().await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments = FieldTable::default();
    for (name, value) in [
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(DEAD_QUEUE)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ] {
        arguments.insert(name.into(), value);
    }
    let mut dead = FieldTable::default();
    dead.insert("x-queue-type".into(), text("quorum"));
    for (queue, arguments) in [(DEAD_QUEUE, dead), (QUEUE, arguments)] {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        opened.channel.queue_declare(queue.into(), durable, arguments).await.unwrap();
    }
    let (exchange, bind) = (
        ExchangeDeclareOptions { durable: true, ..Default::default() },
        QueueBindOptions::default(),
    );
    let (topic, none) = (ExchangeKind::Topic, FieldTable::default);
    opened.channel.exchange_declare(EXCHANGE.into(), topic, exchange, none()).await.unwrap();
    opened
        .channel
        .queue_bind(QUEUE.into(), EXCHANGE.into(), "#".into(), bind, none())
        .await
        .unwrap();
}

/// Good calls, and in their midst the poison: its session, those of the others, and all events.
fn calls(count: usize) -> (Uuid, Vec<Uuid>, Vec<Bytes>) {
    let sessions: Vec<Uuid> = (0..count).map(|_| fresh_id()).collect();
    let mut events: Vec<_> = sessions.iter().copied().map(ended).collect();
    let poison = fresh_id();
    let mut event = ended(poison);
    event["messages"][0]["text"] = json!("poison");
    events.insert(count / 2, event);
    (poison, sessions, bytes_of(&events))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_takes_every_worker_with_it_is_set_aside_and_its_neighbours_are_finalized() {
    let mut site = Site::with_broker(postgres().await).await.with("FINALIZER_NO_DECLARE", "true");
    declare(site.broker()).await;
    let (poison, sessions, events) = calls(number(COUNT, 300));
    site.broker().publish_undeclared(&events).await;
    let mut deaths = 0;
    loop {
        // The transaction that has the poison never ends, and its worker dies with it.
        let database = Proxy::to(&site.test.url).await;
        database.hold_the_commit_of(POISON);
        site = site.with("FINALIZER_DATABASE_URL", &database.url);
        let process = site.start().await;
        until("a worker is over it, or everything else is done", async || {
            database.caught() > 0 || is_settled(&site, &sessions).await
        })
        .await;
        if database.caught() == 0 {
            process.stop().await;
            break;
        }
        process.kill();
        deaths += 1;
        assert!(deaths < 10, "the poison is tried again and again");
    }
    assert_eq!(deaths, DELIVERY_LIMIT + 2, "what the broker allows, and once alone");
    assert_eq!(site.finalized(&sessions).await, sessions.len());
    assert_eq!(site.finalized(&[poison]).await, 0);
    let open: Vec<_> =
        site.failures().await.into_iter().filter(|f| f.state == FailureState::Open).collect();
    assert_eq!(open.len(), 1, "only the poison is still a failure");
    assert_eq!(open[0].rejection.code, FailureCode::DeliveryLimit);
    assert_eq!(open[0].rejection.session_id, Some(poison));
    assert!(site.broker().is_all_acknowledged().await);
}

/// All good calls are finalized, the poison is set aside, and nothing is left to be taken.
async fn is_settled(site: &Site, sessions: &[Uuid]) -> bool {
    let waits = async |queue| site.broker().queue(queue).await.is_none_or(|(left, _)| left > 0);
    if waits(QUEUE).await || waits(DEAD_QUEUE).await {
        return false;
    }
    let failures = site.failures().await;
    let open = failures.iter().filter(|failure| failure.state == FailureState::Open).count();
    open == 1 && site.finalized(sessions).await == sessions.len()
}
