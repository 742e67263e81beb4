//! What every store must do, run on both.

use bytes::Bytes;
use finalizer::event::{FailureCode, TraceParent};
use finalizer::finalize::{Outcome, Prepared, RecordingStatus, Session};
use finalizer::store::{
    ApiKey, ApiKeyChange, Attempt, AttemptResult, Delivery, DeliveryState, DueEndpoint, Endpoint,
    FailureFilter, Next, Owed, Slot, Verdict, Workload,
};
use finalizer::webhook::{EventType, PayloadKind};
use serde_json::json;
use uuid::Uuid;

use crate::harness::{
    TestDesk, TestStore, after, ended, endpoint, fresh_id, nanoseconds, noon, on_both_stores,
    prepared, recording, started,
};

on_both_stores![
    a_finalized_session_reads_back_with_everything_it_was_given,
    a_session_in_progress_is_visible_and_then_finalized,
    a_late_start_never_changes_a_finalized_session,
    copies_in_one_batch_and_in_many_make_one_session_and_one_message,
    other_content_for_a_finalized_session_is_a_failure_that_counts_up,
    another_owner_is_a_failure,
    workers_that_take_the_same_sessions_at_once_make_each_once,
    endpoints_hear_of_what_they_asked_for,
    a_disabled_endpoints_deliveries_are_born_cancelled,
    a_delivery_has_the_trace_of_its_event_whoever_claims_it,
    the_workload_is_what_is_owed_due_and_open,
    a_reserved_delivery_is_held_and_the_others_wait_to_be_claimed,
    a_claim_takes_no_more_than_the_free_slots_first_attempts_first,
    results_count_only_from_the_process_that_holds_the_delivery,
    a_result_that_comes_again_does_not_undo_the_next_claim,
    what_a_dead_process_held_is_given_back,
    a_process_that_leaves_gives_back_what_it_holds,
    released_deliveries_can_be_claimed_again,
    disabling_an_endpoint_cancels_what_it_is_owed,
    a_recording_is_joined_by_its_room_in_any_order,
    a_recording_and_its_session_that_arrive_at_once_find_each_other,
    reports_on_one_recording_that_arrive_at_once_are_merged,
    a_recording_in_a_room_of_two_sessions_waits,
    a_recording_is_joined_by_its_room_if_its_time_and_the_calls_have_a_moment_in_common,
    failures_keep_the_raw_bytes_and_can_be_filtered,
    keys_are_found_by_their_hash,
    a_key_is_changed_and_deleted_by_its_user_or_by_staff,
    the_last_use_of_a_key_never_goes_back,
    an_unknown_id_is_nothing,
];

async fn a_finalized_session_reads_back_with_everything_it_was_given(test: TestStore) {
    let session_id = fresh_id();
    let event = ended(session_id);
    let taken = test.take(std::slice::from_ref(&event)).await;
    assert_eq!(taken.outcomes, [Outcome::Finalized(session_id)]);
    let session = read(&test, session_id).await;
    let finalizer::finalize::Change::Ended(prepared) = prepared(&event).change.unwrap() else {
        panic!("the event ends a session")
    };
    let expected = Session {
        id: session.id,
        revision: 1,
        version: 1,
        finalized_at: Some(noon()),
        ..*prepared
    };
    assert_eq!(session, expected);
    assert!(session.id > 0);
    assert_eq!((session.turn_count, session.duration_ms), (2, 180_000));
}

async fn a_session_in_progress_is_visible_and_then_finalized(test: TestStore) {
    let session_id = fresh_id();
    let taken = test.take(&[started(session_id)]).await;
    assert_eq!(taken.outcomes, [Outcome::Accepted(Some(session_id))]);
    let in_progress = read(&test, session_id).await;
    assert_eq!((in_progress.revision, in_progress.finalized_at), (0, None));
    let taken = test.take(&[ended(session_id)]).await;
    assert_eq!(taken.outcomes, [Outcome::Finalized(session_id)]);
    let finalized = read(&test, session_id).await;
    assert_eq!((finalized.revision, finalized.finalized_at), (1, Some(noon())));
    assert_eq!(finalized.id, in_progress.id);
    assert!(finalized.version > in_progress.version);
}

async fn a_late_start_never_changes_a_finalized_session(test: TestStore) {
    let session_id = fresh_id();
    test.take(&[ended(session_id)]).await;
    let before = read(&test, session_id).await;
    let taken = test.take(&[started(session_id)]).await;
    assert_eq!(taken.outcomes, [Outcome::Duplicate(Some(session_id))]);
    assert_eq!(read(&test, session_id).await, before);
}

async fn copies_in_one_batch_and_in_many_make_one_session_and_one_message(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let session_id = fresh_id();
    let event = ended(session_id);
    let mut copy = event.clone();
    copy["event_id"] = json!("another-name-for-the-same");
    let outcomes = test.take(&[event.clone(), copy, started(session_id)]).await.outcomes;
    let duplicate = Outcome::Duplicate(Some(session_id));
    assert_eq!(outcomes, [Outcome::Finalized(session_id), duplicate.clone(), duplicate.clone()]);
    assert_eq!(test.take(&[event]).await.outcomes, [duplicate]);
    assert_eq!(read(&test, session_id).await.revision, 1);
    assert_eq!(deliveries(&test, session_id).await.len(), 1);
}

async fn other_content_for_a_finalized_session_is_a_failure_that_counts_up(test: TestStore) {
    let session_id = fresh_id();
    test.take(&[ended(session_id)]).await;
    let before = read(&test, session_id).await;
    let mut other = ended(session_id);
    other["messages"][0]["text"] = json!("Something else.");
    let first = test.take(std::slice::from_ref(&other)).await.outcomes;
    let second = test.take(&[other.clone(), other]).await.outcomes;
    let Outcome::Failed { failure_id, rejection } = &first[0] else { panic!("{first:?}") };
    assert_eq!(rejection.code, FailureCode::ConflictingEvent);
    assert_eq!(second, [first[0].clone(), first[0].clone()]);
    assert_eq!(read(&test, session_id).await, before);
    let failures = test.store.failures(&everything()).await.unwrap();
    assert_eq!(failures.len(), 1);
    assert_eq!((failures[0].failure_id, failures[0].seen), (*failure_id, 3));
    assert_eq!(failures[0].rejection.session_id, Some(session_id));
}

async fn another_owner_is_a_failure(test: TestStore) {
    let session_id = fresh_id();
    test.take(&[started(session_id)]).await;
    let mut other = ended(session_id);
    other["character_owner"] = json!(8);
    let outcomes = test.take(&[other]).await.outcomes;
    let Outcome::Failed { rejection, .. } = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(rejection.code, FailureCode::ConflictingEvent);
    assert_eq!(rejection.pointer.as_deref(), Some("/character_owner"));
    assert_eq!(read(&test, session_id).await.revision, 0);
}

async fn workers_that_take_the_same_sessions_at_once_make_each_once(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let ids: Vec<Uuid> = (0..40).map(|_| fresh_id()).collect();
    let forwards: Vec<_> = ids.iter().copied().map(ended).collect();
    let backwards: Vec<_> = forwards.iter().rev().cloned().collect();
    let (one, other) = tokio::join!(test.take(&forwards), test.take(&backwards));
    let finalized = |outcomes: &[Outcome]| {
        outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Finalized(_))).count()
    };
    assert_eq!(finalized(&one.outcomes) + finalized(&other.outcomes), 40);
    for session_id in ids {
        assert_eq!(read(&test, session_id).await.revision, 1);
        assert_eq!(deliveries(&test, session_id).await.len(), 1);
    }
}

async fn endpoints_hear_of_what_they_asked_for(test: TestStore) {
    let everyone = endpoint();
    let owners = Endpoint { owner: Some(7), ..endpoint() };
    let full = Endpoint {
        character_slug: Some("support-bot".to_owned()),
        payload: PayloadKind::Full,
        ..endpoint()
    };
    let others = [
        Endpoint { owner: Some(8), ..endpoint() },
        Endpoint { tenant_id: Some("other".to_owned()), ..endpoint() },
        Endpoint { character_slug: Some("other".to_owned()), ..endpoint() },
        Endpoint { event_types: vec![EventType::RecordingReady], ..endpoint() },
    ];
    for endpoint in [&everyone, &owners, &full].into_iter().chain(&others) {
        test.store.add_endpoint(endpoint).await.unwrap();
        let kept = test.store.endpoint(endpoint.endpoint_id).await.unwrap();
        assert_eq!(kept.as_ref(), Some(endpoint));
    }
    assert_eq!(test.store.endpoints(None).await.unwrap().len(), 7);
    assert_eq!(test.store.endpoints(Some(8)).await.unwrap(), [others[0].clone()]);
    let process = enter(&test, 0).await;
    let desk = TestDesk::of(process, 10);
    let owed = test.take_with(&desk, noon(), &[ended(fresh_id())]).await.owed;
    let told: Vec<Uuid> = owed.iter().map(|owed| owed.endpoint_id).collect();
    let expected = [everyone.endpoint_id, owners.endpoint_id, full.endpoint_id];
    assert_eq!(sorted(told), sorted(expected.to_vec()));
    for owed in &owed {
        let body: serde_json::Value = serde_json::from_slice(&owed.body).unwrap();
        assert_eq!(body["type"], "session.finalized");
        let is_full = body["data"].get("transcript").is_some();
        assert_eq!(is_full, owed.endpoint_id == full.endpoint_id);
    }
    assert!(owed.windows(2).all(|pair| pair[0].message_id == pair[1].message_id));
}

async fn a_disabled_endpoints_deliveries_are_born_cancelled(test: TestStore) {
    let off = Endpoint { disabled: Some((noon(), "gone".to_owned())), ..endpoint() };
    test.store.add_endpoint(&off).await.unwrap();
    let (process, session_id) = (enter(&test, 0).await, fresh_id());
    let desk = TestDesk::of(process, 10);
    let taken = test.take_with(&desk, noon(), &[ended(session_id)]).await;
    assert!(taken.owed.is_empty());
    let deliveries = deliveries(&test, session_id).await;
    assert_eq!(deliveries.len(), 1);
    assert_eq!(deliveries[0].state, DeliveryState::Cancelled);
    assert_eq!(deliveries[0].finished_at, Some(noon()));
}

async fn a_delivery_has_the_trace_of_its_event_whoever_claims_it(test: TestStore) {
    let endpoint = endpoint();
    test.store.add_endpoint(&endpoint).await.unwrap();
    let process = enter(&test, 0).await;
    let trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let traced = || Prepared { trace, ..prepared(&ended(fresh_id())) };
    let events = [prepared(&ended(fresh_id())), traced(), prepared(&ended(fresh_id()))];
    // Two are handed over at once, the others are claimed.
    let desk = TestDesk::of(process, 2);
    let held = test.take_prepared(&desk, noon(), &events).await.owed;
    assert_eq!(held.iter().map(|owed| owed.trace).collect::<Vec<_>>(), [None, trace]);
    test.take_prepared(&TestDesk::closed(), after(5), &[traced()]).await;
    let claimed = claim(&test, process, 60, &endpoint, 10).await;
    let mut found: Vec<_> = claimed.iter().map(|owed| (owed.told_at, owed.trace)).collect();
    found.sort_by_key(|(told_at, _)| *told_at);
    assert_eq!(found, [(noon(), None), (after(5), trace)]);
}

async fn the_workload_is_what_is_owed_due_and_open(test: TestStore) {
    let nothing = Workload { pending: 0, due_since: None, open_failures: 0 };
    assert_eq!(test.store.workload(noon()).await.unwrap(), nothing);
    let endpoint = endpoint();
    test.store.add_endpoint(&endpoint).await.unwrap();
    let process = enter(&test, 0).await;
    let desk = TestDesk::of(process, 1);
    test.take_with(&desk, noon(), &[ended(fresh_id())]).await;
    // What a process holds is owed, but does not wait.
    let held = Workload { pending: 1, ..nothing };
    assert_eq!(test.store.workload(after(60)).await.unwrap(), held);
    test.take_with(&desk, after(1), &[ended(fresh_id()), ended(fresh_id())]).await;
    let waiting = Workload { pending: 3, due_since: Some(after(1)), open_failures: 0 };
    assert_eq!(test.store.workload(after(60)).await.unwrap(), waiting);
    assert_eq!(test.store.workload(noon()).await.unwrap(), Workload { pending: 3, ..nothing });
    let mut conflicting = ended(fresh_id());
    test.take_with(&desk, after(2), std::slice::from_ref(&conflicting)).await;
    conflicting["messages"][0]["text"] = json!("Something else.");
    test.take_with(&desk, after(2), &[conflicting]).await;
    let failed = Workload { pending: 4, open_failures: 1, ..waiting };
    assert_eq!(test.store.workload(after(60)).await.unwrap(), failed);
    test.store.disable_endpoint(endpoint.endpoint_id, "by hand", after(3)).await.unwrap();
    let workload = test.store.workload(after(60)).await.unwrap();
    assert_eq!((workload.pending, workload.due_since), (1, None), "only what is being sent");
}

async fn a_reserved_delivery_is_held_and_the_others_wait_to_be_claimed(test: TestStore) {
    let endpoint = endpoint();
    test.store.add_endpoint(&endpoint).await.unwrap();
    let process = enter(&test, 0).await;
    let desk = TestDesk::of(process, 1);
    let events = [ended(fresh_id()), ended(fresh_id())];
    let held = test.take_with(&desk, noon(), &events).await.owed;
    assert_eq!(held.len(), 1);
    let due =
        DueEndpoint { endpoint_id: endpoint.endpoint_id, owner: None, rate_limit_per_minute: None };
    assert_eq!(test.store.due_endpoints(noon()).await.unwrap(), [due]);
    let claimed = claim(&test, process, 0, &endpoint, 10).await;
    assert_eq!(claimed.len(), 1);
    assert_ne!(claimed[0].delivery_id, held[0].delivery_id);
    assert!(!claimed[0].body.is_empty());
    assert_eq!(test.store.due_endpoints(noon()).await.unwrap(), []);
}

async fn a_claim_takes_no_more_than_the_free_slots_first_attempts_first(test: TestStore) {
    let endpoint = endpoint();
    test.store.add_endpoint(&endpoint).await.unwrap();
    let process = enter(&test, 0).await;
    test.take(&[ended(fresh_id()), ended(fresh_id())]).await;
    let old = claim(&test, process, 0, &endpoint, 2).await;
    let retry = |owed: &Owed, at| attempt(owed, Next::RetryAt(after(at)));
    recorded(&test, process, &[retry(&old[0], 5), retry(&old[1], 500)]).await;
    assert_eq!(test.store.next_due().await.unwrap(), Some(after(5)));
    let fresh: Vec<_> = (0..3).map(|_| ended(fresh_id())).collect();
    test.take_with(&TestDesk::closed(), after(8), &fresh).await;
    let first = claim(&test, process, 9, &endpoint, 2).await;
    assert!(first.len() == 2 && first.iter().all(|owed| owed.attempts == 0));
    let then = claim(&test, process, 9, &endpoint, 5).await;
    let attempts: Vec<u32> = then.iter().map(|owed| owed.attempts).collect();
    assert_eq!(attempts, [0, 1]);
    assert_eq!(then[1].delivery_id, old[0].delivery_id);
    assert_eq!(then[1].body, old[0].body);
}

async fn results_count_only_from_the_process_that_holds_the_delivery(test: TestStore) {
    let endpoint = endpoint();
    test.store.add_endpoint(&endpoint).await.unwrap();
    let (process, stranger) = (enter(&test, 0).await, enter(&test, 0).await);
    let session_id = fresh_id();
    test.take(&[ended(session_id)]).await;
    let owed = claim(&test, process, 0, &endpoint, 1).await.remove(0);
    let done = [attempt(&owed, Next::Done)];
    assert_eq!(recorded(&test, stranger, &done).await, Vec::<Uuid>::new());
    assert_eq!(deliveries(&test, session_id).await[0].state, DeliveryState::Pending);
    assert_eq!(recorded(&test, process, &done).await, [owed.delivery_id]);
    let delivery = deliveries(&test, session_id).await.remove(0);
    assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Delivered, 1));
    assert!(delivery.finished_at.is_some() && delivery.next_attempt_at.is_none());
    assert_eq!(recorded(&test, process, &done).await, Vec::<Uuid>::new());
    assert_eq!(test.store.delivery_counts().await.unwrap(), [(DeliveryState::Delivered, 1)]);
}

async fn a_result_that_comes_again_does_not_undo_the_next_claim(test: TestStore) {
    let endpoint = endpoint();
    test.store.add_endpoint(&endpoint).await.unwrap();
    let process = enter(&test, 0).await;
    let session_id = fresh_id();
    test.take(&[ended(session_id)]).await;
    let owed = claim(&test, process, 0, &endpoint, 1).await.remove(0);
    let failed = [attempt(&owed, Next::RetryAt(after(5)))];
    assert_eq!(recorded(&test, process, &failed).await, [owed.delivery_id]);
    // Its answer was lost, and in the meantime the delivery fell due again.
    let again = claim(&test, process, 5, &endpoint, 1).await.remove(0);
    assert_eq!((again.delivery_id, again.attempts), (owed.delivery_id, 1));
    assert_eq!(recorded(&test, process, &failed).await, Vec::<Uuid>::new());
    let done = [attempt(&again, Next::Done)];
    assert_eq!(recorded(&test, process, &done).await, [owed.delivery_id]);
    let delivery = deliveries(&test, session_id).await.remove(0);
    assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Delivered, 2));
}

async fn what_a_dead_process_held_is_given_back(test: TestStore) {
    let endpoint = endpoint();
    test.store.add_endpoint(&endpoint).await.unwrap();
    let (dead, alive) = (enter(&test, 0).await, enter(&test, 0).await);
    test.take(&[ended(fresh_id())]).await;
    let owed = claim(&test, dead, 0, &endpoint, 1).await;
    assert!(test.store.keep_alive(alive, after(8), after(18)).await.unwrap());
    assert_eq!(test.store.rescue(after(9)).await.unwrap(), 0);
    assert_eq!(test.store.rescue(after(11)).await.unwrap(), 1);
    assert!(!test.store.keep_alive(dead, after(11), after(21)).await.unwrap());
    let claimed = claim(&test, alive, 11, &endpoint, 1).await;
    assert_eq!(claimed[0].delivery_id, owed[0].delivery_id);
    let late = [attempt(&owed[0], Next::Done)];
    assert_eq!(recorded(&test, dead, &late).await, Vec::<Uuid>::new());
}

async fn a_process_that_leaves_gives_back_what_it_holds(test: TestStore) {
    let endpoint = endpoint();
    test.store.add_endpoint(&endpoint).await.unwrap();
    let (leaving, staying) = (enter(&test, 0).await, enter(&test, 0).await);
    test.take(&[ended(fresh_id())]).await;
    assert_eq!(claim(&test, leaving, 0, &endpoint, 1).await.len(), 1);
    test.store.leave(leaving).await.unwrap();
    assert_eq!(claim(&test, staying, 0, &endpoint, 1).await.len(), 1);
    assert!(!test.store.keep_alive(leaving, noon(), after(10)).await.unwrap());
}

async fn released_deliveries_can_be_claimed_again(test: TestStore) {
    let endpoint = endpoint();
    test.store.add_endpoint(&endpoint).await.unwrap();
    let (one, other) = (enter(&test, 0).await, enter(&test, 0).await);
    test.take(&[ended(fresh_id())]).await;
    let owed = claim(&test, one, 0, &endpoint, 1).await;
    test.store.release(other, &[owed[0].delivery_id]).await.unwrap();
    assert!(claim(&test, other, 0, &endpoint, 1).await.is_empty());
    test.store.release(one, &[owed[0].delivery_id]).await.unwrap();
    assert_eq!(claim(&test, other, 0, &endpoint, 1).await.len(), 1);
}

async fn disabling_an_endpoint_cancels_what_it_is_owed(test: TestStore) {
    let endpoint = endpoint();
    test.store.add_endpoint(&endpoint).await.unwrap();
    let session_id = fresh_id();
    test.take(&[ended(session_id)]).await;
    let disable = async |reason, at| {
        test.store.disable_endpoint(endpoint.endpoint_id, reason, after(at)).await.unwrap()
    };
    assert!(disable("gone", 1).await);
    let cancelled = deliveries(&test, session_id).await.remove(0);
    assert_eq!(cancelled.state, DeliveryState::Cancelled);
    assert_eq!(cancelled.cause.as_deref(), Some("endpoint_disabled"));
    assert!(!disable("again", 2).await, "it is already");
    let kept = test.store.endpoint(endpoint.endpoint_id).await.unwrap().unwrap();
    assert_eq!(kept.disabled, Some((after(1), "gone".to_owned())));
}

async fn a_recording_is_joined_by_its_room_in_any_order(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (number, order) in orders.into_iter().enumerate() {
        let (session_id, egress_id) = (fresh_id(), format!("EG_{number}"));
        let complete = recording(session_id, &egress_id, "EGRESS_COMPLETE");
        let events = [started(session_id), ended(session_id), complete.clone()];
        for position in order {
            test.take(&[events[position].clone()]).await;
        }
        test.take(&[complete]).await;
        let recording = read(&test, session_id).await.recording;
        assert_eq!(recording.status, RecordingStatus::Ready, "in the order {order:?}");
        assert_eq!(recording.url.as_deref(), Some("s3://recordings/call.mp4"));
        assert_eq!(recording.offset_ms, Some(2_000));
        let told: Vec<EventType> =
            deliveries(&test, session_id).await.iter().map(|d| d.event_type).collect();
        let expected = [EventType::SessionFinalized, EventType::RecordingReady];
        assert_eq!(sorted(told), expected, "in the order {order:?}");
    }
}

async fn a_recording_and_its_session_that_arrive_at_once_find_each_other(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    for number in 0..20 {
        let (session_id, egress_id) = (fresh_id(), format!("EG_{number}"));
        let event = [recording(session_id, &egress_id, "EGRESS_COMPLETE")];
        let ended = [ended(session_id)];
        tokio::join!(test.take(&event), test.take(&ended));
        let session = read(&test, session_id).await;
        assert_eq!(session.recording.status, RecordingStatus::Ready);
        assert_eq!(deliveries(&test, session_id).await.len(), 2);
    }
}

async fn reports_on_one_recording_that_arrive_at_once_are_merged(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    for number in 0..40 {
        let (session_id, egress_id) = (fresh_id(), format!("EG_{number}"));
        let report = |status| [recording(session_id, &egress_id, status)];
        let [active, complete] = ["EGRESS_ACTIVE", "EGRESS_COMPLETE"].map(report);
        let mut named = ended(session_id);
        named["recording"] = json!({"expected": true, "egress_id": egress_id});
        let (ended, started) = ([named], [started(session_id)]);
        if number % 2 == 0 {
            // The recording is known and the session is not.
            test.take(&active).await;
            tokio::join!(test.take(&ended), test.take(&complete));
        } else {
            tokio::join!(
                test.take(&ended),
                test.take(&complete),
                test.take(&active),
                test.take(&started)
            );
        }
        let session = read(&test, session_id).await;
        assert_eq!(session.recording.status, RecordingStatus::Ready, "call {number}");
        assert_eq!(deliveries(&test, session_id).await.len(), 2);
    }
}

async fn a_recording_in_a_room_of_two_sessions_waits(test: TestStore) {
    let (one, other) = (fresh_id(), fresh_id());
    let mut second = ended(other);
    second["room_name"] = json!(format!("room-{one}"));
    test.take(&[ended(one), second]).await;
    let complete = recording(one, "EG_1", "EGRESS_COMPLETE");
    assert_eq!(
        test.take(std::slice::from_ref(&complete)).await.outcomes,
        [Outcome::Accepted(None)]
    );
    let mut named = complete;
    named["session_id"] = json!(other);
    assert_eq!(test.take(&[named]).await.outcomes, [Outcome::Accepted(Some(other))]);
    assert_eq!(read(&test, one).await.recording.status, RecordingStatus::None);
    assert_eq!(read(&test, other).await.recording.status, RecordingStatus::Ready);
}

async fn a_recording_is_joined_by_its_room_if_its_time_and_the_calls_have_a_moment_in_common(
    test: TestStore,
) {
    // In hours after a Thursday's noon.
    const CALLS: [(i64, Option<i64>); 9] = [
        (-200, Some(-199)),
        (-60, Some(-59)),
        (-60, Some(20)),
        (-60, Some(900)),
        (-60, None),
        (-1, Some(1)),
        (10, Some(14)),
        (20, None),
        (30, Some(31)),
    ];
    const RECORDINGS: [(Option<i64>, Option<i64>); 7] = [
        (None, None),
        (None, Some(0)),
        (Some(-70), Some(-60)),
        (Some(0), Some(1)),
        (Some(0), None),
        (Some(13), Some(15)),
        (Some(29), Some(29)),
    ];
    let hour = |hours: i64| after(hours * 3_600);
    let (mut events, mut reports, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    for (in_call, in_report) in [("room_id", "roomId"), ("room_name", "roomName")] {
        for (start, end) in CALLS {
            for (from, to) in RECORDINGS {
                let session_id = fresh_id();
                let mut event = end.map_or_else(|| started(session_id), |_| ended(session_id));
                event["room_name"] = json!(null);
                event[in_call] = json!(format!("room-{session_id}"));
                event["started_at"] = json!(hour(start));
                if let Some(end) = end {
                    event["ended_at"] = json!(hour(end));
                    event["messages"] = json!([]);
                }
                events.push(event);
                let mut report =
                    recording(session_id, &format!("EG_{session_id}"), "EGRESS_ACTIVE");
                report["egress"] = json!({
                    "egressId": format!("EG_{session_id}"), "status": "EGRESS_ACTIVE",
                    in_report: format!("room-{session_id}"),
                    "startedAt": from.map(|from| nanoseconds(hour(from))),
                    "endedAt": to.map(|to| nanoseconds(hour(to))),
                });
                reports.push(report);
                let is_common = to.is_none_or(|to| start <= to)
                    && from.is_none_or(|from| end.is_none_or(|end| end >= from));
                expected.push(Outcome::Accepted(is_common.then_some(session_id)));
            }
        }
    }
    test.take(&events).await;
    let (together, alone) = reports.split_at(CALLS.len() * RECORDINGS.len());
    let mut outcomes = test.take(together).await.outcomes;
    for report in alone {
        outcomes.extend(test.take(std::slice::from_ref(report)).await.outcomes);
    }
    assert_eq!(outcomes, expected);
}

async fn failures_keep_the_raw_bytes_and_can_be_filtered(test: TestStore) {
    let session_id = fresh_id();
    let mut untimed = ended(session_id);
    untimed["messages"] = json!([{"role": "user", "text": "When?"}]);
    let unknown = json!({"type": "session.paused", "schema_version": 1, "event_id": "e\u{0}1"});
    test.take(&[untimed.clone(), unknown]).await;
    assert_eq!(test.store.failures(&everything()).await.unwrap().len(), 2);
    let filter = FailureFilter { code: Some(FailureCode::UnsupportedType), ..everything() };
    let found = test.store.failures(&filter).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].rejection.event_type.as_deref(), Some("session.paused"));
    let filter = FailureFilter { session_id: Some(session_id), ..everything() };
    let found = test.store.failures(&filter).await.unwrap();
    assert_eq!(found.len(), 1);
    let (failure, raw) = test.store.failure(found[0].failure_id).await.unwrap().unwrap();
    assert_eq!((&failure, failure.rejection.code), (&found[0], FailureCode::UntimedTurns));
    assert_eq!(raw, serde_json::to_vec(&untimed).unwrap());
    assert_eq!(failure.size_bytes, i64::try_from(raw.len()).unwrap());
}

fn api_key(byte: u8, user: i64, is_staff: bool) -> ApiKey {
    ApiKey {
        key_id: fresh_id(),
        hash: [byte; 32],
        preview: "sk_0a1b".to_owned(),
        name: "backend".to_owned(),
        user,
        is_staff,
        is_active: true,
        created_at: noon(),
        last_used_at: None,
    }
}

async fn keys_are_found_by_their_hash(test: TestStore) {
    let key = api_key(7, 7, true);
    test.store.add_api_key(&key).await.unwrap();
    assert_eq!(test.store.api_key(&[7; 32]).await.unwrap(), Some(key.clone()));
    assert_eq!(test.store.api_key(&[8; 32]).await.unwrap(), None);
    assert_eq!(test.store.api_keys(None).await.unwrap(), std::slice::from_ref(&key));
    assert_eq!(test.store.api_keys(Some(7)).await.unwrap(), [key]);
    assert_eq!(test.store.api_keys(Some(8)).await.unwrap(), []);
}

async fn a_key_is_changed_and_deleted_by_its_user_or_by_staff(test: TestStore) {
    let (own, staffs) = (api_key(7, 7, false), api_key(8, 7, true));
    for key in [&own, &staffs] {
        test.store.add_api_key(key).await.unwrap();
    }
    let rename = ApiKeyChange { name: Some("crm".to_owned()), is_active: None };
    let stop = ApiKeyChange { name: None, is_active: Some(false) };
    for (key, user) in [(&own, Some(8)), (&staffs, Some(7))] {
        assert_eq!(test.store.change_api_key(key.key_id, user, &stop).await.unwrap(), None);
        assert_eq!(test.store.delete_api_key(key.key_id, user).await.unwrap(), None);
    }
    let renamed = ApiKey { name: "crm".to_owned(), ..own };
    let changed = test.store.change_api_key(renamed.key_id, Some(7), &rename).await.unwrap();
    assert_eq!(changed.as_ref(), Some(&renamed));
    let stopped = ApiKey { is_active: false, ..staffs };
    let changed = test.store.change_api_key(stopped.key_id, None, &stop).await.unwrap();
    assert_eq!(changed.as_ref(), Some(&stopped));
    assert_eq!(test.store.api_key(&stopped.hash).await.unwrap(), changed);
    assert_eq!(test.store.delete_api_key(renamed.key_id, Some(7)).await.unwrap(), Some(renamed));
    assert_eq!(test.store.delete_api_key(stopped.key_id, None).await.unwrap(), Some(stopped));
    assert_eq!(test.store.api_keys(None).await.unwrap(), []);
}

async fn the_last_use_of_a_key_never_goes_back(test: TestStore) {
    let (used, unused) = (api_key(7, 7, false), api_key(8, 7, false));
    for key in [&used, &unused] {
        test.store.add_api_key(key).await.unwrap();
    }
    for second in [60, 120, 90] {
        let at = after(second);
        test.store.note_api_key_uses(&[(used.key_id, at), (fresh_id(), at)]).await.unwrap();
    }
    for (key, last) in [(&used, Some(after(120))), (&unused, None)] {
        let found = test.store.api_key(&key.hash).await.unwrap();
        assert_eq!(found.unwrap().last_used_at, last);
    }
}

async fn an_unknown_id_is_nothing(test: TestStore) {
    assert_eq!(test.store.session(fresh_id()).await.unwrap(), None);
    assert_eq!(test.store.endpoint(fresh_id()).await.unwrap(), None);
    assert_eq!(test.store.failure(fresh_id()).await.unwrap(), None);
    assert_eq!(test.store.next_due().await.unwrap(), None);
    assert!(test.store.now().await.is_ok());
    assert_eq!(test.store.installation().await.unwrap(), test.store.installation().await.unwrap());
}

async fn read(test: &TestStore, session_id: Uuid) -> Session {
    test.store.session(session_id).await.unwrap().expect("the session is readable")
}

pub(crate) async fn deliveries(test: &TestStore, session_id: Uuid) -> Vec<Delivery> {
    test.store.deliveries_of(session_id).await.unwrap()
}

/// A process that is alive for ten seconds from `seconds` after noon.
pub(crate) async fn enter(test: &TestStore, seconds: i64) -> Uuid {
    let process = fresh_id();
    test.store.enter(process, after(seconds), after(seconds + 10)).await.unwrap();
    process
}

pub(crate) async fn claim(
    test: &TestStore,
    process: Uuid,
    seconds: i64,
    endpoint: &Endpoint,
    slots: u32,
) -> Vec<Owed> {
    let rate_limit_per_minute = endpoint.rate_limit_per_minute;
    let endpoint_id = endpoint.endpoint_id;
    let slot = Slot { endpoint_id, free: slots, free_for_retries: slots, rate_limit_per_minute };
    test.store.claim(process, after(seconds), &[slot]).await.unwrap()
}

/// Records results at noon; which count.
pub(crate) async fn recorded(
    test: &TestStore,
    process: Uuid,
    results: &[AttemptResult],
) -> Vec<Uuid> {
    test.store.record(process, results, noon()).await.unwrap().deliveries
}

pub(crate) fn attempt(owed: &Owed, next: Next) -> AttemptResult {
    AttemptResult {
        delivery_id: owed.delivery_id,
        endpoint_id: owed.endpoint_id,
        url: endpoint().url.into(),
        attempt: Attempt {
            number: owed.attempts + 1,
            started_at: noon(),
            duration_us: 1_500,
            status: Some(200),
            error: None,
            response_head: Some("HTTP/1.1 200 OK".to_owned()),
            response_body: Bytes::from_static(b"ok"),
            address: Some("192.0.2.1:443".to_owned()),
            is_connection_reused: false,
        },
        next,
        verdict: Verdict::Nothing,
        pause_until: None,
    }
}

fn everything() -> FailureFilter {
    FailureFilter { limit: 100, ..FailureFilter::default() }
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values
}
