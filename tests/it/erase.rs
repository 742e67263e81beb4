//! Erased sessions: nothing of them is left, and nothing that comes later brings them back.

use finalizer::finalize::{Outcome, RecordingStatus};
use finalizer::store::{
    Cursor, DeliveryState, FailureFilter, FailureState, HistoryFilter, SharedStore, Slot,
};
use finalizer::webhook::Endpoint;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, query, query_scalar};
use uuid::Uuid;

use crate::harness::{
    TestDesk, TestStore, after, ended, endpoint, fresh_id, noon, on_both_stores, postgres,
    recorded, recording, started, until,
};
use crate::store::{claim, enter};

on_both_stores![
    what_was_erased_is_not_there_and_its_recording_is_still_to_be_deleted,
    every_later_event_of_an_erased_session_is_a_duplicate,
    a_call_in_progress_is_erased_with_its_checkpoint,
    pending_deliveries_are_cancelled_and_cannot_be_sent_again,
    its_failures_lose_their_bytes_and_are_closed,
    other_sessions_keep_everything,
    the_place_of_an_erased_session_in_the_order_of_all_is_not_taken,
    events_that_arrive_while_their_session_is_erased_never_bring_it_back,
    a_session_that_never_was_cannot_be_erased,
    what_is_sent_again_while_its_session_is_erased_is_owed_to_nobody,
    a_delivery_whose_bytes_are_gone_keeps_no_other_from_being_claimed,
    a_recording_that_two_sessions_name_stays_with_the_other,
];

const PLACE: &str = "s3://recordings";

async fn erase(test: &TestStore, session_id: Uuid) -> Option<Vec<String>> {
    test.store.erase(session_id, PLACE, after(600)).await.unwrap()
}

fn checkpoint(session_id: Uuid, sequence: i64) -> Value {
    let mut event = ended(session_id);
    event["type"] = json!("session.checkpoint");
    event["sequence"] = json!(sequence);
    event
}

async fn what_was_erased_is_not_there_and_its_recording_is_still_to_be_deleted(test: TestStore) {
    let session_id = fresh_id();
    test.take(&[ended(session_id), recorded(session_id, "recordings", "call.mp4")]).await;
    let files = vec!["s3://recordings/call.mp4".to_owned()];
    assert_eq!(erase(&test, session_id).await, Some(files.clone()));
    assert_eq!(test.store.session(session_id).await.unwrap(), None);
    let everything = HistoryFilter::default();
    assert!(test.store.history(&everything, 10, 0).await.unwrap().is_empty());
    assert_eq!(test.store.history_totals(&everything).await.unwrap().sessions, 0);
    // Whoever was interrupted begins again.
    assert_eq!(erase(&test, session_id).await, Some(files));
    test.store.keep_files(session_id, &[]).await.unwrap();
    assert_eq!(erase(&test, session_id).await, Some(vec![]));
}

async fn every_later_event_of_an_erased_session_is_a_duplicate(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let session_id = fresh_id();
    let egress_id = format!("EG_{session_id}");
    test.take(&[ended(session_id), recording(session_id, &egress_id, "EGRESS_ACTIVE")]).await;
    erase(&test, session_id).await;
    let mut other = ended(session_id);
    other["messages"][0]["text"] = json!("Something else.");
    let mut foreign = ended(session_id);
    foreign["character_owner"] = json!(8);
    let mut wrong = ended(session_id);
    wrong["started_at"] = json!("at noon");
    let mut named = recording(fresh_id(), "EG_another", "EGRESS_COMPLETE");
    named["session_id"] = json!(session_id);
    let mut room = json!({
        "type": "room.finished", "schema_version": 1, "event_id": "room", "occurred_at": after(181),
    });
    room["session_id"] = json!(session_id);
    let events = [
        started(session_id),
        checkpoint(session_id, 3),
        ended(session_id),
        other,
        foreign,
        wrong,
        recorded(session_id, "recordings", "call.mp4"),
        named,
        room,
    ];
    let together = test.take(&events).await.outcomes;
    for (event, outcome) in events.iter().zip(&together) {
        assert!(matches!(outcome, Outcome::Duplicate(_)), "{event}: {outcome:?}");
        let alone = test.take(std::slice::from_ref(event)).await.outcomes;
        assert_eq!(&alone[0], outcome, "{event}");
    }
    assert_eq!(test.store.session(session_id).await.unwrap(), None);
    assert!(test.store.failures(&all_failures()).await.unwrap().is_empty());
    let in_days = after(9_000_000);
    let expired = test.store.expire_recordings(in_days, in_days, 10).await.unwrap();
    assert_eq!(expired.failed, 0);
}

async fn a_call_in_progress_is_erased_with_its_checkpoint(test: TestStore) {
    let session_id = fresh_id();
    test.take(&[started(session_id), checkpoint(session_id, 1)]).await;
    assert_eq!(erase(&test, session_id).await, Some(vec![]));
    let outcomes = test.take(&[ended(session_id)]).await.outcomes;
    assert_eq!(outcomes, [Outcome::Duplicate(Some(session_id))]);
    assert_eq!(test.store.session(session_id).await.unwrap(), None);
}

async fn pending_deliveries_are_cancelled_and_cannot_be_sent_again(test: TestStore) {
    let endpoint = endpoint();
    test.store.add_endpoint(&endpoint).await.unwrap();
    let (waiting, held) = (fresh_id(), fresh_id());
    test.take(&[ended(waiting)]).await;
    let process = fresh_id();
    test.store.enter(process, noon(), after(10)).await.unwrap();
    test.take_with(&TestDesk::of(process, 1), noon(), &[ended(held)]).await;
    for session_id in [waiting, held] {
        erase(&test, session_id).await;
        let deliveries = test.store.deliveries_of(session_id).await.unwrap();
        let [delivery] = &deliveries[..] else { panic!("{deliveries:?}") };
        assert_eq!(delivery.state, DeliveryState::Cancelled);
        assert_eq!(delivery.cause.as_deref(), Some("session_erased"));
        let again = test.store.redeliver(&[delivery.delivery_id], after(601)).await.unwrap();
        assert!(again.is_empty());
        let story = test.store.delivery(delivery.delivery_id).await.unwrap().unwrap();
        assert!(story.body.is_empty());
    }
    let slot = Slot {
        endpoint_id: endpoint.endpoint_id,
        free: 10,
        free_for_retries: 10,
        rate_limit_per_minute: None,
    };
    assert!(test.store.claim(process, after(900_000), &[slot]).await.unwrap().is_empty());
}

async fn its_failures_lose_their_bytes_and_are_closed(test: TestStore) {
    let session_id = fresh_id();
    test.take(&[ended(session_id)]).await;
    let mut other = ended(session_id);
    other["messages"][0]["text"] = json!("Something else.");
    test.take(&[other]).await;
    erase(&test, session_id).await;
    let failures = test.store.failures(&all_failures()).await.unwrap();
    let [failure] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!(failure.state, FailureState::Discarded);
    assert_eq!(failure.raw_expired_at, Some(after(600)));
    assert_eq!(failure.headers, None);
    let (_, raw) = test.store.failure(failure.failure_id).await.unwrap().unwrap();
    assert!(raw.is_empty());
}

async fn other_sessions_keep_everything(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let (gone, kept) = (fresh_id(), fresh_id());
    test.take(&[ended(gone), ended(kept), recorded(kept, "recordings", "kept.mp4")]).await;
    let before =
        (test.store.session(kept).await.unwrap(), test.store.deliveries_of(kept).await.unwrap());
    erase(&test, gone).await;
    let after =
        (test.store.session(kept).await.unwrap(), test.store.deliveries_of(kept).await.unwrap());
    assert_eq!(after, before);
    for delivery in &after.1 {
        let story = test.store.delivery(delivery.delivery_id).await.unwrap().unwrap();
        assert!(!story.body.is_empty());
    }
}

async fn the_place_of_an_erased_session_in_the_order_of_all_is_not_taken(test: TestStore) {
    let (first, second, third) = (fresh_id(), fresh_id(), fresh_id());
    test.take(&[ended(first)]).await;
    test.take(&[ended(second)]).await;
    let seen = walk(&test.store, Cursor::default(), &[first, second]).await;
    let id = test.store.session(second).await.unwrap().unwrap().id;
    erase(&test, second).await;
    test.take(&[ended(third)]).await;
    walk(&test.store, seen, &[third]).await;
    assert!(test.store.session(third).await.unwrap().unwrap().id > id);
}

async fn events_that_arrive_while_their_session_is_erased_never_bring_it_back(test: TestStore) {
    for _ in 0..20 {
        let session_id = fresh_id();
        test.take(&[started(session_id)]).await;
        let events = [ended(session_id), recorded(session_id, "recordings", "call.mp4")];
        let (erased, ..) = tokio::join!(
            erase(&test, session_id),
            test.take(&events),
            test.take(&events[..1]),
            test.take(&events[1..]),
        );
        assert!(erased.is_some());
        test.take(&events).await;
        assert_eq!(test.store.session(session_id).await.unwrap(), None);
        for delivery in test.store.deliveries_of(session_id).await.unwrap() {
            assert_eq!(delivery.state, DeliveryState::Cancelled);
        }
    }
}

/// Another worker makes the session and it is erased, all in the time between the question whether it is
/// known and its writing.
#[tokio::test]
async fn a_new_call_that_is_erased_while_it_is_written_stays_erased() {
    let test = postgres().await;
    let session_id = fresh_id();
    test.take(&[ended(fresh_id())]).await;
    let mut other = PgConnection::connect(&test.url).await.unwrap();
    let copied = "INSERT INTO sessions SELECT (jsonb_populate_record(NULL::sessions,
        to_jsonb(known) || jsonb_build_object('session_id', $1))).* FROM sessions AS known";
    query("BEGIN").execute(&mut other).await.unwrap();
    query(copied).bind(session_id).execute(&mut other).await.unwrap();
    let taking = async { test.take(&[ended(session_id)]).await.outcomes.pop() };
    let erasing = async {
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock')";
        // Within a transaction the answer would stay the same.
        let mut watch = PgConnection::connect(&test.url).await.unwrap();
        while !query_scalar::<_, bool>(waits).fetch_one(&mut watch).await.unwrap() {}
        let erased = "INSERT INTO erased_sessions
            SELECT session_id, id, character_owner, digest, '[]', $2 FROM sessions
            WHERE session_id = $1";
        query(erased).bind(session_id).bind(noon()).execute(&mut other).await.unwrap();
        let gone = "DELETE FROM sessions WHERE session_id = $1";
        query(gone).bind(session_id).execute(&mut other).await.unwrap();
        query("COMMIT").execute(&mut other).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(taking, erasing);
    assert_eq!(outcome, Some(Outcome::Duplicate(Some(session_id))));
    assert_eq!(test.store.session(session_id).await.unwrap(), None);
}

async fn a_session_that_never_was_cannot_be_erased(test: TestStore) {
    let session_id = fresh_id();
    assert_eq!(erase(&test, session_id).await, None);
    let outcomes = test.take(&[ended(session_id)]).await.outcomes;
    assert_eq!(outcomes, [Outcome::Finalized(session_id)]);
}

async fn what_is_sent_again_while_its_session_is_erased_is_owed_to_nobody(test: TestStore) {
    let off = Endpoint { disabled: Some((noon(), "by_hand".to_owned())), ..endpoint() };
    test.store.add_endpoint(&off).await.unwrap();
    let sessions: Vec<Uuid> = (0..20).map(|_| fresh_id()).collect();
    for session_id in &sessions {
        test.take(&[ended(*session_id)]).await;
    }
    test.store.enable_endpoint(off.endpoint_id).await.unwrap();
    for session_id in sessions {
        let delivery_id = test.store.deliveries_of(session_id).await.unwrap()[0].delivery_id;
        let again = async {
            for _ in 0..20 {
                test.store.redeliver(&[delivery_id], after(60)).await.unwrap();
            }
        };
        tokio::join!(erase(&test, session_id), again);
        let [delivery] = &test.store.deliveries_of(session_id).await.unwrap()[..] else {
            panic!("it has one")
        };
        assert_eq!(delivery.state, DeliveryState::Cancelled);
    }
}

async fn a_delivery_whose_bytes_are_gone_keeps_no_other_from_being_claimed(test: TestStore) {
    let endpoint = endpoint();
    test.store.add_endpoint(&endpoint).await.unwrap();
    test.take(&[ended(fresh_id())]).await;
    test.take_with(&TestDesk::closed(), after(1), &[ended(fresh_id())]).await;
    let first = "UPDATE messages SET thin = NULL
        WHERE created_at = (SELECT MIN(created_at) FROM messages)";
    test.execute(first).await;
    let process = enter(&test, 2).await;
    let owed = claim(&test, process, 2, &endpoint, 5).await;
    let mut has_bytes: Vec<bool> = owed.iter().map(|owed| !owed.body.is_empty()).collect();
    has_bytes.sort_unstable();
    assert_eq!(has_bytes, [false, true]);
}

async fn a_recording_that_two_sessions_name_stays_with_the_other(test: TestStore) {
    let egress_id = format!("EG_{}", fresh_id());
    let sessions = [fresh_id(), fresh_id()];
    let naming = sessions.map(|session_id| {
        let mut event = ended(session_id);
        event["recording"] = json!({"egress_id": egress_id});
        event
    });
    test.take(&naming).await;
    let mut report = recording(fresh_id(), &egress_id, "EGRESS_ENDING");
    report.as_object_mut().unwrap().remove("session_id");
    test.take(&[report.clone()]).await;
    let status = async |session_id| {
        let session = test.store.session(session_id).await.unwrap().unwrap();
        session.recording.status
    };
    let mut joined = Vec::new();
    for session_id in sessions {
        joined.push(status(session_id).await == RecordingStatus::Processing);
    }
    let (owner, other) =
        if joined[0] { (sessions[0], sessions[1]) } else { (sessions[1], sessions[0]) };
    assert_eq!(status(owner).await, RecordingStatus::Processing, "{joined:?}");
    erase(&test, other).await;
    let mut end = report;
    end["egress"]["status"] = json!("EGRESS_FAILED");
    let outcomes = test.take(&[end]).await.outcomes;
    assert!(!matches!(outcomes[..], [Outcome::Duplicate(_)]), "{outcomes:?}");
    assert_eq!(status(owner).await, RecordingStatus::Failed);
}

fn all_failures() -> FailureFilter {
    FailureFilter { limit: 10, ..FailureFilter::default() }
}

/// Walks on from a cursor until it has seen these; where to go on.
async fn walk(store: &SharedStore, from: Cursor, expected: &[Uuid]) -> Cursor {
    let mut cursor = from;
    until("the walk has come to them", async || {
        let walked = store.finalized_after(&HistoryFilter::default(), from, 10).await.unwrap();
        cursor = walked.cursor;
        walked.sessions.iter().map(|session| session.session_id).eq(expected.iter().copied())
    })
    .await;
    cursor
}
