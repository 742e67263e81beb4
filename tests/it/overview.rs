//! How the work is going, counted for owners and for all: on both databases, and over the API.

use chrono::TimeDelta;
use finalizer::store::{Backlog, Endpoint, FinalizedCall};
use http::StatusCode;
use serde_json::{Value, json};

use crate::api::{Api, add_key};
use crate::harness::{
    TestDesk, TestStore, after, ended, endpoint, fresh_id, noon, on_both_stores, started,
};

on_both_stores!(
    calls_are_counted_when_they_were_finalized,
    the_backlog_is_what_has_not_arrived,
    too_much_is_not_counted,
);

fn ended_of(owner: i64) -> Value {
    let mut event = ended(fresh_id());
    event["character_owner"] = json!(owner);
    event
}

async fn calls_are_counted_when_they_were_finalized(test: TestStore) {
    let desk = TestDesk::closed();
    test.take_with(&desk, after(200), &[ended_of(7), started(fresh_id())]).await;
    test.take_with(&desk, after(260), &[ended_of(8)]).await;
    let lately = async |owner, since| test.store.finalized_lately(owner, since).await.unwrap();
    let call = |seconds| FinalizedCall { ended_at: Some(after(180)), finalized_at: after(seconds) };
    assert_eq!(lately(None, noon()).await, [call(260), call(200)]);
    assert_eq!(lately(Some(7), noon()).await, [call(200)]);
    assert_eq!(lately(Some(9), noon()).await, []);
    assert_eq!(lately(None, after(200)).await.len(), 2);
    assert_eq!(lately(None, after(201)).await, [call(260)]);
}

async fn add_endpoint_of(test: &TestStore, owner: i64) -> Endpoint {
    let added = Endpoint { owner: Some(owner), ..endpoint() };
    test.store.add_endpoint(&added).await.unwrap();
    added
}

async fn the_backlog_is_what_has_not_arrived(test: TestStore) {
    let nothing = Backlog { pending: Some(0), oldest_pending_at: None, exhausted: Some(0) };
    assert_eq!(test.store.backlog(None).await.unwrap(), nothing);
    for owner in [7, 8] {
        add_endpoint_of(&test, owner).await;
    }
    // One that a process holds is as pending as one that nobody does.
    let process = fresh_id();
    test.store.enter(process, noon(), after(3600)).await.unwrap();
    test.take_with(&TestDesk::of(process, 1), after(200), &[ended_of(7)]).await;
    test.take_with(&TestDesk::closed(), after(260), &[ended_of(7)]).await;
    test.take_with(&TestDesk::closed(), after(320), &[ended_of(8)]).await;
    let backlog = async |owner| test.store.backlog(owner).await.unwrap();
    let pending = |count, at| Backlog {
        pending: Some(count),
        oldest_pending_at: Some(after(at)),
        exhausted: Some(0),
    };
    assert_eq!(backlog(None).await, pending(3, 200));
    assert_eq!(backlog(Some(7)).await, pending(2, 200));
    assert_eq!(backlog(Some(8)).await, pending(1, 320));
    assert_eq!(backlog(Some(9)).await, nothing);
    test.execute("UPDATE deliveries SET state = 'exhausted' WHERE process_id IS NOT NULL").await;
    assert_eq!(backlog(None).await, Backlog { exhausted: Some(1), ..pending(2, 260) });
    assert_eq!(backlog(Some(7)).await, Backlog { exhausted: Some(1), ..pending(1, 260) });
    test.execute("UPDATE deliveries SET state = 'cancelled' WHERE state = 'exhausted'").await;
    assert_eq!(backlog(Some(7)).await, pending(1, 260));
    test.execute("UPDATE deliveries SET state = 'delivered'").await;
    assert_eq!(backlog(None).await, nothing);
}

/// More rows than are looked at, made of one.
const MULTIPLY_POSTGRES: &str = "INSERT INTO deliveries (delivery_id, message_row, endpoint_id,
        payload, state, is_retry, attempts, next_attempt_at, created_at)
    SELECT gen_random_uuid(), gen_random_uuid(), endpoint_id, payload, state, is_retry,
        attempts, next_attempt_at, created_at
    FROM deliveries, generate_series(1, 5000) AS n";

const MULTIPLY_SQLITE: &str = "WITH RECURSIVE numbers (n) AS (
        SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 5000)
    INSERT INTO deliveries (delivery_id, message_row, endpoint_id, payload, state, is_retry,
        attempts, next_attempt_at, created_at)
    SELECT randomblob(16), randomblob(16), endpoint_id, payload, state, is_retry, attempts,
        next_attempt_at, created_at
    FROM deliveries, numbers";

async fn too_much_is_not_counted(test: TestStore) {
    add_endpoint_of(&test, 7).await;
    test.take_with(&TestDesk::closed(), after(200), &[ended_of(7)]).await;
    let is_sqlite = test.url.starts_with("sqlite");
    test.execute(if is_sqlite { MULTIPLY_SQLITE } else { MULTIPLY_POSTGRES }).await;
    for owner in [None, Some(7)] {
        let backlog = test.store.backlog(owner).await.unwrap();
        assert_eq!((backlog.pending, backlog.exhausted), (None, Some(0)), "{owner:?}");
        assert_eq!(backlog.oldest_pending_at, Some(after(200)));
    }
    test.execute("UPDATE deliveries SET state = 'exhausted'").await;
    for owner in [None, Some(7)] {
        let backlog = test.store.backlog(owner).await.unwrap();
        assert_eq!((backlog.pending, backlog.exhausted), (Some(0), None), "{owner:?}");
    }
}

#[tokio::test]
async fn everybody_sees_how_their_own_work_is_going_and_staff_all_of_it() {
    let api = Api::start().await;
    add_endpoint_of(&api.test, 7).await;
    api.clock.forward(TimeDelta::seconds(200));
    api.take(&[ended_of(7), ended_of(8), json!({"type": "nothing"})]).await;
    api.clock.forward(TimeDelta::seconds(30));
    let other_key = add_key(&api.test, 3, 9, false).await;
    for (key, finalized, owed, failures) in [
        (&api.staff_key, 2, 1, json!(1)),
        (&api.owner_key, 1, 1, Value::Null),
        (&other_key, 0, 0, Value::Null),
    ] {
        let data = api.get("/api/overview/", key).await.json()["data"].take();
        let parts = data["parts"].as_array().unwrap();
        let total = |field: &str| parts.iter().map(|part| part[field].as_i64().unwrap()).sum();
        let (all_finalized, all_owed): (i64, i64) = (total("finalized"), total("owed"));
        assert_eq!((all_finalized, all_owed), (finalized, owed), "{data}");
        assert_eq!((&data["pending"], &data["open_failures"]), (&json!(owed), &failures));
        assert_eq!((parts.len(), &data["part_seconds"]), (60, &json!(60)));
        let now = parts.iter().find(|part| part["at"] == json!("2026-05-28T12:03:00Z")).unwrap();
        assert_eq!(now["finalized"], json!(finalized));
        assert_eq!(now["finalize_timed"], json!(finalized));
        let expected = if finalized > 0 { json!(20.0) } else { Value::Null };
        assert_eq!(now["finalize_seconds"], expected, "calls ended 20 seconds before");
    }
    for query in ["minutes=0", "minutes=1441", "hours=1"] {
        let answer = api.get(&format!("/api/overview/?{query}"), &api.owner_key).await;
        answer.assert_error(StatusCode::BAD_REQUEST);
    }
}
