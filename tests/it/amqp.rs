//! What the broker does to the service, and the service to the broker.

use std::collections::HashSet;

use bytes::Bytes;
use finalizer::clock::SystemClock;
use finalizer::event::FailureCode;
use finalizer::store::FailureState;
use lapin::ExchangeKind;
use lapin::options::{
    BasicGetOptions, BasicNackOptions, BasicPublishOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::broker::{DEAD_QUEUE, EXCHANGE, QUEUE};
use crate::harness::proxy::Proxy;
use crate::harness::receiver::{Receiver, Told};
use crate::harness::service::{Process, Site};
use crate::harness::{
    TestStore, bytes_of, ended, fresh_id, on_both_stores, postgres, sqlite, until,
};

on_both_stores![
    a_process_that_is_told_to_stop_finishes_what_it_has_in_hand,
    processes_that_are_killed_lose_nothing,
];

/// So many calls that ended.
fn calls(count: usize) -> (Vec<Uuid>, Vec<Bytes>) {
    let sessions: Vec<Uuid> = (0..count).map(|_| fresh_id()).collect();
    let events: Vec<Value> = sessions.iter().copied().map(ended).collect();
    (sessions, bytes_of(&events))
}

async fn until_consuming(site: &Site) {
    until("the queue is consumed", async || {
        site.broker().queue(QUEUE).await.is_some_and(|(_, consumers)| consumers == 1)
    })
    .await;
}

async fn until_finalized(site: &Site, sessions: &[Uuid]) {
    until("all are finalized", async || site.finalized(sessions).await == sessions.len()).await;
}

/// Every session was told exactly once.
fn assert_told_once(receiver: &Receiver, sessions: &[Uuid]) {
    let mut told: Vec<Uuid> = receiver.told().iter().map(Told::session_id).collect();
    let mut expected = sessions.to_vec();
    told.sort();
    expected.sort();
    assert!(told == expected, "{} were told, {} there are", told.len(), expected.len());
}

/// It was kept as a failure, and tried once more.
async fn assert_dead_letter_is_kept_and_taken(site: &Site, event: &Bytes) {
    until("the dead letter is taken", async || {
        let failures = site.failures().await;
        failures.first().is_some_and(|failure| failure.state == FailureState::Replayed)
    })
    .await;
    let failures = site.failures().await;
    assert_eq!((failures.len(), failures[0].seen), (1, 1));
    assert_eq!(failures[0].rejection.code, FailureCode::DeliveryLimit);
    assert_eq!(failures[0].source, "amqp:finalizer.events.dead");
    let (_, raw) = site.test.store.failure(failures[0].failure_id).await.unwrap().unwrap();
    assert_eq!(raw, event);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_the_dead_queue_becomes_a_failure() {
    let site = Site::with_broker(sqlite().await).await;
    let process = site.start().await;
    until_consuming(&site).await;
    let (sessions, events) = calls(1);
    let opened = site.broker().open().await;
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    opened
        .channel
        .basic_publish("".into(), DEAD_QUEUE.into(), options, &events[0], properties)
        .await
        .unwrap();
    assert_dead_letter_is_kept_and_taken(&site, &events[0]).await;
    assert_eq!(site.finalized(&sessions).await, 1);
    process.stop().await;
    assert!(site.broker().is_all_acknowledged().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_handed_out_too_often_becomes_a_failure() {
    let site = Site::with_broker(postgres().await).await;
    let (_, events) = calls(1);
    site.broker().publish(&events).await;
    let opened = site.broker().open().await;
    let mut handed_out = 0;
    until("the message is dead", async || {
        let got = opened.channel.basic_get(QUEUE.into(), BasicGetOptions::default()).await;
        if let Some(message) = got.unwrap() {
            handed_out += 1;
            message.nack(BasicNackOptions { requeue: true, multiple: false }).await.unwrap();
        }
        site.broker().queue(DEAD_QUEUE).await == Some((1, 0))
    })
    .await;
    assert_eq!(handed_out, 21, "twenty times are allowed");
    let process = site.start().await;
    assert_dead_letter_is_kept_and_taken(&site, &events[0]).await;
    let failure = &site.failures().await[0];
    let because = &failure.rejection.message;
    assert!(because.contains("delivery_limit"), "{because}");
    let headers: Vec<Value> = serde_json::from_str(failure.headers.as_ref().unwrap()).unwrap();
    let header =
        |name: &str| headers.iter().find(|one| one["name"] == name).map(|one| &one["value"]);
    assert_eq!(header("x-first-death-reason"), Some(&json!("delivery_limit")), "{headers:?}");
    assert_eq!(header("type"), Some(&json!("session.ended")));
    assert_eq!(failure.tenant_id.as_deref(), Some("acme"));
    process.stop().await;
    assert!(site.broker().is_all_acknowledged().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_with_events_in_hand_costs_and_repeats_nothing() {
    let (test, receiver) = (postgres().await, Receiver::start().await);
    let database = Proxy::to(&test.url).await;
    let site = Site::with_broker(test).await.with("FINALIZER_DATABASE_URL", &database.url);
    let network = Proxy::to(&site.broker().url).await;
    let site = site.with("FINALIZER_AMQP_URL", &network.url);
    site.subscribe(&receiver).await;
    let process = site.start().await;
    until_consuming(&site).await;

    database.cut();
    let (sessions, events) = calls(100);
    site.broker().publish(&events).await;
    until("all are in hand", async || site.broker().queue(QUEUE).await.unwrap().0 == 0).await;
    network.cut();
    until("the broker has them back", async || site.broker().queue(QUEUE).await == Some((100, 0)))
        .await;
    network.open();
    database.open();
    until_finalized(&site, &sessions).await;
    // The copies that the broker handed out again stand before one that comes now.
    let (last, event) = calls(1);
    site.broker().publish(&event).await;
    until_finalized(&site, &last).await;
    until("all are told", async || receiver.told().len() >= 101).await;
    process.stop().await;
    assert_told_once(&receiver, &[sessions, last].concat());
    assert!(site.broker().is_all_acknowledged().await);
    assert_eq!(site.failures().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_went_silent_is_found_and_replaced() {
    let site = Site::with_broker(sqlite().await).await;
    let network = Proxy::to(&site.broker().url).await;
    let site = site.with("FINALIZER_AMQP_URL", &network.url);
    let process = site.start().await;
    until_consuming(&site).await;
    network.swallow();
    until("the silence is noticed", async || process.log().contains("consuming stopped")).await;
    network.open();
    let (sessions, events) = calls(3);
    site.broker().publish(&events).await;
    until_finalized(&site, &sessions).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_is_made_again() {
    let site = Site::with_broker(sqlite().await).await;
    let process = site.start().await;
    until_consuming(&site).await;
    let opened = site.broker().open().await;
    opened.channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await.unwrap();
    until_consuming(&site).await;
    let (sessions, events) = calls(3);
    site.broker().publish_undeclared(&events).await;
    until_finalized(&site, &sessions).await;
    process.stop().await;
}

/// Classic queues under our names, as somebody may have made them.
async fn declare_by_hand(channel: &Channel) {
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    for queue in [QUEUE, DEAD_QUEUE] {
        channel.queue_declare(queue.into(), durable, FieldTable::default()).await.unwrap();
    }
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let none = FieldTable::default;
    channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, none()).await.unwrap();
    let bind = QueueBindOptions::default();
    channel.queue_bind(QUEUE.into(), EXCHANGE.into(), "#".into(), bind, none()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_with_other_arguments_stop_the_start_unless_they_are_to_be_taken_as_they_are() {
    let site = Site::with_broker(sqlite().await).await;
    let opened = site.broker().open().await;
    declare_by_hand(&opened.channel).await;
    let refused = site.run(&["run"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    let last = said.lines().last().unwrap();
    assert!(!refused.status.success(), "{said}");
    assert!(last.contains("other arguments") && last.contains("--no-declare"), "{said}");

    let site = site.with("FINALIZER_NO_DECLARE", "true");
    let process = site.start().await;
    let (sessions, events) = calls(3);
    site.broker().publish_undeclared(&events).await;
    until_finalized(&site, &sessions).await;
    process.stop().await;
    assert!(site.broker().is_all_acknowledged().await);
}

async fn a_process_that_is_told_to_stop_finishes_what_it_has_in_hand(test: TestStore) {
    let site = Site::with_broker(test).await;
    let receiver = Receiver::start().await;
    site.subscribe(&receiver).await;
    let (sessions, events) = calls(600);
    site.broker().publish(&events).await;
    let process = site.start().await;
    until("some are told", async || !receiver.told().is_empty()).await;
    process.stop().await;
    let finalized = site.finalized(&sessions).await;
    let (waiting, _) = site.broker().queue(QUEUE).await.unwrap();
    assert_eq!(finalized + waiting as usize, 600, "what is committed is acknowledged");
    let left_behind = site.test.store.rescue(SystemClock::machine_now()).await.unwrap();
    assert_eq!(left_behind, 0, "it gave back what it did not send");

    let process = site.start().await;
    until_finalized(&site, &sessions).await;
    until("all are told", async || receiver.told().len() >= 600).await;
    process.stop().await;
    assert_told_once(&receiver, &sessions);
    assert!(site.broker().is_all_acknowledged().await);
}

async fn processes_that_are_killed_lose_nothing(test: TestStore) {
    let site = Site::with_broker(test).await;
    let receiver = Receiver::start().await;
    site.subscribe(&receiver).await;
    let (sessions, events) = calls(600);
    site.broker().publish(&events).await;
    for so_many in [1, 200] {
        let process = site.start().await;
        until("some are told", async || receiver.told().len() >= so_many).await;
        process.kill();
    }
    let process = site.start().await;
    until_finalized(&site, &sessions).await;
    let of_sessions = || receiver.told().iter().map(Told::session_id).collect::<HashSet<_>>();
    until("all are told", async || of_sessions().len() == 600).await;
    process.stop().await;
    let ids: HashSet<String> = receiver.told().into_iter().map(|told| told.id).collect();
    assert_eq!(ids.len(), 600, "what came again came as the same webhook");
    assert!(site.broker().is_all_acknowledged().await);
    assert_eq!(site.failures().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_told_to_stop_while_the_database_is_away_does_so_soon() {
    let test = postgres().await;
    let database = Proxy::to(&test.url).await;
    // More in hand than intake takes at once.
    let site = Site::with_broker(test).await.with("FINALIZER_PREFETCH", "2000");
    let site = site.with("FINALIZER_DATABASE_URL", &database.url);
    let process = site.start().await;
    until_consuming(&site).await;
    database.cut();
    let (sessions, events) = calls(1000);
    site.broker().publish(&events).await;
    until("intake is paused", async || process.log().contains("intake is paused")).await;
    let mut process: Process = process;
    let told = std::time::Instant::now();
    process.terminate();
    let status = process.ended().await;
    assert!(status.success(), "{status}: {}", process.log());
    assert!(told.elapsed().as_secs() < 9, "{:?}", told.elapsed());
    assert_eq!(site.broker().queue(QUEUE).await, Some((1000, 0)));

    database.open();
    let process = site.start().await;
    until_finalized(&site, &sessions).await;
    process.stop().await;
}
