//! Deliveries that ended long ago are forgotten, and that they were told is not.

use chrono::{DateTime, TimeDelta, Utc};
use finalizer::finalize::Outcome;
use finalizer::store::{AttemptResult, Delivery, Next, Owed, Pruned, RedeliveryRange, Statuses};
use finalizer::webhook::Endpoint;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, query};
use uuid::Uuid;

use crate::harness::service::Site;
use crate::harness::{
    TestDesk, TestStore, after, bytes_of, ended, endpoint, fresh_id, noon, on_both_stores,
    postgres, sqlite, until,
};
use crate::store::{attempt, claim, deliveries, enter, recorded};

on_both_stores![
    what_ended_long_ago_is_forgotten_and_that_it_was_told_is_not,
    the_deliveries_of_a_message_are_forgotten_together_after_the_last_has_ended,
    what_was_forgotten_was_not_missed_by_anybody,
    a_dry_run_changes_nothing,
    two_at_once_forget_each_message_once,
];

/// Few, so that there are several steps.
const IN_STEP: u32 = 20;

/// Forgets what ended before then, in steps.
async fn prune(test: &TestStore, before: DateTime<Utc>, is_dry_run: bool) -> Pruned {
    let mut all = Pruned::default();
    let mut next = Some((DateTime::UNIX_EPOCH, Vec::new()));
    while let Some(after) = next {
        let step;
        (step, next) = test.store.prune(before, &after, IN_STEP, is_dry_run).await.unwrap();
        all.messages += step.messages;
        all.deliveries += step.deliveries;
        all.attempts += step.attempts;
    }
    all
}

fn pruned(messages: u64, deliveries: u64, attempts: u64) -> Pruned {
    Pruned { messages, deliveries, attempts }
}

async fn add(test: &TestStore, endpoint: Endpoint) -> Endpoint {
    test.store.add_endpoint(&endpoint).await.unwrap();
    endpoint
}

/// What came of an attempt that began so many seconds after noon.
fn ended_at(owed: &Owed, seconds: i64, next: Next) -> AttemptResult {
    let mut result = attempt(owed, next);
    result.attempt.started_at = after(seconds);
    result
}

/// Takes the end of a call so many seconds after noon, and delivers it to the endpoint.
async fn told(test: &TestStore, process: Uuid, endpoint: &Endpoint, seconds: i64) -> Value {
    let event = ended(fresh_id());
    test.take_with(&TestDesk::closed(), after(seconds), std::slice::from_ref(&event)).await;
    let owed = claim(test, process, seconds, endpoint, 1).await.remove(0);
    assert_eq!(recorded(test, process, &[ended_at(&owed, seconds, Next::Done)]).await.len(), 1);
    event
}

async fn deliveries_of(test: &TestStore, event: &Value) -> Vec<Delivery> {
    deliveries(test, event["session_id"].as_str().unwrap().parse().unwrap()).await
}

async fn what_ended_long_ago_is_forgotten_and_that_it_was_told_is_not(test: TestStore) {
    let endpoint = add(&test, endpoint()).await;
    let process = enter(&test, 0).await;
    let old = told(&test, process, &endpoint, 0).await;
    let young = told(&test, process, &endpoint, 100).await;
    let pending = ended(fresh_id());
    test.take(std::slice::from_ref(&pending)).await;
    let delivery_id = deliveries_of(&test, &old).await[0].delivery_id;

    assert_eq!(prune(&test, after(50), false).await, pruned(1, 1, 1));
    assert_eq!(prune(&test, after(50), false).await, Pruned::default());
    assert!(deliveries_of(&test, &old).await.is_empty());
    assert!(test.store.delivery(delivery_id).await.unwrap().is_none());
    assert!(test.store.redeliver(&[delivery_id], after(50)).await.unwrap().is_empty());
    for kept in [&young, &pending] {
        let [delivery] = &deliveries_of(&test, kept).await[..] else { panic!("one") };
        let story = test.store.delivery(delivery.delivery_id).await.unwrap().unwrap();
        assert!(!story.body.is_empty(), "{kept}");
    }
    // Its event comes again.
    let taken = test.take(std::slice::from_ref(&old)).await;
    assert!(matches!(taken.outcomes[..], [Outcome::Duplicate(_)]), "{:?}", taken.outcomes);
    assert!(deliveries_of(&test, &old).await.is_empty());
    let session_id = old["session_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(test.store.session(session_id).await.unwrap().unwrap().turn_count, 2);
}

async fn the_deliveries_of_a_message_are_forgotten_together_after_the_last_has_ended(
    test: TestStore,
) {
    let quick = add(&test, endpoint()).await;
    let slow = add(&test, endpoint()).await;
    let process = enter(&test, 0).await;
    let event = told(&test, process, &quick, 0).await;
    assert_eq!(prune(&test, after(1000), false).await, Pruned::default(), "one is pending");
    let owed = claim(&test, process, 0, &slow, 1).await.remove(0);
    assert_eq!(prune(&test, after(1000), false).await, Pruned::default(), "it is being sent");
    recorded(&test, process, &[ended_at(&owed, 60, Next::Exhausted)]).await;
    assert_eq!(prune(&test, after(50), false).await, Pruned::default(), "it ended after then");
    assert_eq!(deliveries_of(&test, &event).await.len(), 2);
    assert_eq!(prune(&test, after(70), false).await, pruned(1, 2, 2));
}

async fn what_was_forgotten_was_not_missed_by_anybody(test: TestStore) {
    let quick = add(&test, endpoint()).await;
    let process = enter(&test, 0).await;
    told(&test, process, &quick, 0).await;
    told(&test, process, &quick, 100).await;
    let late = add(&test, endpoint()).await;
    assert_eq!((missing(&test, &quick).await, missing(&test, &late).await), (0, 2));
    prune(&test, after(50), false).await;
    assert_eq!((missing(&test, &quick).await, missing(&test, &late).await), (0, 1));
}

/// How much could be sent again to an endpoint.
async fn missing(test: &TestStore, endpoint: &Endpoint) -> i64 {
    let range = RedeliveryRange {
        endpoint_id: endpoint.endpoint_id,
        since: noon() - TimeDelta::days(1),
        until: after(1000),
        statuses: Statuses::ALL,
    };
    test.store.count_range(&range).await.unwrap().unwrap()
}

#[tokio::test]
async fn who_counts_what_could_be_sent_again_waits_for_nobody() {
    let test = postgres().await;
    test.take(&[ended(fresh_id())]).await;
    let late = add(&test, endpoint()).await;
    let mut other = PgConnection::connect(&test.url).await.unwrap();
    query("BEGIN").execute(&mut other).await.unwrap();
    query("SELECT FROM messages FOR UPDATE").execute(&mut other).await.unwrap();
    assert_eq!(missing(&test, &late).await, 1);
}

async fn a_dry_run_changes_nothing(test: TestStore) {
    let endpoint = add(&test, endpoint()).await;
    let process = enter(&test, 0).await;
    let event = told(&test, process, &endpoint, 0).await;
    for _ in 0..2 {
        assert_eq!(prune(&test, after(50), true).await, pruned(1, 1, 1));
    }
    assert_eq!(deliveries_of(&test, &event).await.len(), 1);
    assert_eq!(prune(&test, after(50), false).await, pruned(1, 1, 1));
}

async fn two_at_once_forget_each_message_once(test: TestStore) {
    // Deliveries to it are born cancelled.
    let off = Endpoint { disabled: Some((noon(), "by_hand".to_owned())), ..endpoint() };
    add(&test, off).await;
    let events: Vec<Value> = (0..150).map(|_| ended(fresh_id())).collect();
    test.take(&events).await;
    let (one, other) = tokio::join!(prune(&test, after(50), false), prune(&test, after(50), false));
    assert_eq!(one.messages + other.messages, 150);
    assert_eq!(one.deliveries + other.deliveries, 150);
    assert_eq!(prune(&test, after(50), false).await, Pruned::default());
}

#[tokio::test]
async fn a_server_forgets_by_itself() {
    let test = sqlite().await;
    let off = Endpoint { disabled: Some((noon(), "by_hand".to_owned())), ..endpoint() };
    add(&test, off).await;
    let event = ended(fresh_id());
    test.take(std::slice::from_ref(&event)).await;
    let site = Site::embedded(test).await.with("FINALIZER_DELIVERY_RETENTION", "1h");
    let process = site.start().await;
    until("it is forgotten", async || deliveries_of(&site.test, &event).await.is_empty()).await;
    process.stop().await;
}

#[tokio::test]
async fn the_command_says_what_it_forgets() {
    let site = Site::embedded(sqlite().await).await;
    let url = "https://example.com/hook";
    let added = site.run(&["endpoints", "add", url, "--owner", "all", "--json"]);
    let added: Value = serde_json::from_slice(&added.stdout).unwrap();
    let id = added["data"]["id"].as_str().unwrap();
    assert!(site.run(&["endpoints", "disable", id]).status.success());
    let file = site.folder().join("calls.ndjson");
    let lines = bytes_of(&[ended(fresh_id()), ended(fresh_id())]);
    std::fs::write(&file, lines.join(&b'\n')).unwrap();
    assert!(site.run(&["ingest", file.to_str().unwrap()]).status.success());

    let prune = |arguments: &[&str]| {
        let done = site.run(&[&["prune", "--json"], arguments].concat());
        assert!(done.status.success(), "{done:?}");
        let said: Value = serde_json::from_slice(&done.stdout).unwrap();
        said["data"].clone()
    };
    let forgotten = |is_dry_run, (messages, deliveries): (u32, u32), failures: Option<u32>| {
        json!({
            "dry_run": is_dry_run, "messages": messages, "deliveries": deliveries, "attempts": 0,
            "failures": failures,
        })
    };
    assert_eq!(prune(&[]), forgotten(false, (0, 0), Some(0)), "they are young");
    // That the endpoint is disabled is a message, too.
    let at_once = ["--delivery-retention", "1ns"];
    assert_eq!(prune(&[&at_once[..], &["--dry-run"]].concat()), forgotten(true, (3, 2), None));
    assert_eq!(prune(&at_once), forgotten(false, (3, 2), Some(0)));
    assert_eq!(prune(&at_once), forgotten(false, (0, 0), Some(0)));
}
