//! Endpoints, how they fare, and redelivery: what every store must do, run on both.

use chrono::{DateTime, TimeDelta, Utc};
use finalizer::store::{
    AttemptResult, Delivery, DeliveryFilter, DeliveryState, EndpointHealth, Next, Owed, Redelivery,
    RedeliveryRange, RedeliveryState, Slot, Statuses, Verdict,
};
use finalizer::webhook::{Endpoint, EventType, MessageId, PayloadKind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    TestDesk, TestStore, after, ended, endpoint, fresh_id, noon, on_both_stores, recording,
};
use crate::store::{attempt, claim, deliveries, enter, recorded};

on_both_stores![
    an_endpoint_is_changed_by_whoever_has_seen_it_as_it_is,
    a_deleted_endpoint_is_gone_but_for_what_was_sent_to_it,
    an_enabled_endpoint_has_nothing_held_against_it,
    an_endpoint_that_is_disabled_is_told_to_the_owners_others,
    a_backlog_of_a_disabled_endpoint_is_cancelled_bit_by_bit,
    what_is_being_sent_to_a_disabled_endpoint_ends_as_it_ends,
    an_endpoint_that_only_fails_for_120_hours_is_warned_of_and_disabled,
    one_success_starts_it_anew,
    failures_of_what_was_sent_again_are_not_held_against_the_endpoint,
    an_endpoint_that_is_gone_is_disabled_with_the_result,
    what_another_url_has_said_is_not_held_against_the_present_one,
    retries_take_no_more_of_a_claim_than_is_theirs,
    a_pause_holds_for_every_process,
    a_limited_endpoint_is_never_handed_over_and_its_limit_counts_for_all_processes,
    deliveries_are_listed_page_by_page_and_by_what_is_asked,
    a_delivery_tells_its_story,
    a_delivery_is_owed_anew_from_the_beginning_of_the_schedule,
    what_is_pending_is_brought_forward_and_what_is_being_sent_is_left_alone,
    nothing_is_redelivered_to_an_endpoint_that_takes_no_more,
    a_range_is_redelivered_step_by_step_and_each_delivery_once,
    only_what_lies_in_the_range_and_has_a_wanted_status_is_redelivered,
    a_step_has_no_more_than_a_second_allows,
    messages_that_were_never_owed_are_owed_with_the_bytes_that_others_got,
    a_message_that_nobody_was_owed_is_made_if_it_is_still_true,
    a_redelivery_ends_when_its_endpoint_is_disabled,
    a_cancelled_redelivery_does_not_go_on,
    processes_that_go_on_at_once_do_each_step_once,
    a_redelivery_that_fails_does_not_hold_up_another,
];

const URL: &str = "https://api.example.com";

async fn add(test: &TestStore, endpoint: Endpoint) -> Endpoint {
    test.store.add_endpoint(&endpoint).await.unwrap();
    endpoint
}

async fn read(test: &TestStore, endpoint: &Endpoint) -> Option<Endpoint> {
    test.store.endpoint(endpoint.endpoint_id).await.unwrap()
}

/// An attempt that failed at a time.
fn failed_at(owed: &Owed, at: DateTime<Utc>, next: Next) -> AttemptResult {
    let mut result = AttemptResult { verdict: Verdict::Fails, ..attempt(owed, next) };
    (result.attempt.started_at, result.attempt.duration_us) = (at, 0);
    result.attempt.status = Some(500);
    result
}

async fn health(test: &TestStore, endpoint: &Endpoint) -> Option<EndpointHealth> {
    let all = test.store.endpoint_health(noon()).await.unwrap();
    all.into_iter().find(|health| health.endpoint_id == endpoint.endpoint_id)
}

async fn only_delivery(test: &TestStore, session_id: Uuid) -> Delivery {
    let mut all = deliveries(test, session_id).await;
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

async fn an_endpoint_is_changed_by_whoever_has_seen_it_as_it_is(test: TestStore) {
    let before = add(&test, endpoint()).await;
    let changed = Endpoint {
        tenant_id: Some("acme".to_owned()),
        character_slug: Some("support-bot".to_owned()),
        event_types: vec![EventType::RecordingReady, EventType::SessionFinalized],
        payload: PayloadKind::Full,
        url: "https://example.com/other".to_owned(),
        sealed_secret: vec![9],
        sealed_headers: Some(vec![8]),
        timeout_seconds: 30,
        rate_limit_per_minute: Some(60),
        ..before.clone()
    };
    assert!(test.store.change_endpoint(&changed).await.unwrap());
    let expected = Endpoint { version: 2, ..changed.clone() };
    assert_eq!(read(&test, &before).await, Some(expected));
    assert!(!test.store.change_endpoint(&before).await.unwrap(), "somebody else was first");
    assert!(!test.store.change_endpoint(&endpoint()).await.unwrap(), "there is none");
}

async fn a_deleted_endpoint_is_gone_but_for_what_was_sent_to_it(test: TestStore) {
    let deleted = add(&test, endpoint()).await;
    let session_id = fresh_id();
    test.take(&[ended(session_id)]).await;
    assert!(test.store.delete_endpoint(deleted.endpoint_id, after(1)).await.unwrap());
    assert!(!test.store.delete_endpoint(deleted.endpoint_id, after(1)).await.unwrap());
    assert_eq!(read(&test, &deleted).await, None);
    assert_eq!(test.store.endpoints(None).await.unwrap(), []);
    let delivery = only_delivery(&test, session_id).await;
    assert_eq!(delivery.state, DeliveryState::Cancelled);
    assert_eq!(delivery.cause.as_deref(), Some("endpoint_deleted"));
    let later = fresh_id();
    test.take(&[ended(later)]).await;
    assert_eq!(deliveries(&test, later).await, []);
    let enabled = test.store.enable_endpoint(deleted.endpoint_id).await.unwrap();
    assert!(!enabled && !test.store.change_endpoint(&deleted).await.unwrap());
}

async fn an_enabled_endpoint_has_nothing_held_against_it(test: TestStore) {
    let endpoint = add(&test, endpoint()).await;
    let process = enter(&test, 0).await;
    test.take(&[ended(fresh_id())]).await;
    let owed = claim(&test, process, 0, &endpoint, 1).await.remove(0);
    let failed = failed_at(&owed, noon(), Next::RetryAt(after(5)));
    recorded(&test, process, &[failed]).await;
    assert!(health(&test, &endpoint).await.is_some());
    test.store.disable_endpoint(endpoint.endpoint_id, "by_hand", after(1)).await.unwrap();
    assert!(test.store.enable_endpoint(endpoint.endpoint_id).await.unwrap());
    assert!(!test.store.enable_endpoint(endpoint.endpoint_id).await.unwrap(), "it is enabled");
    assert_eq!(read(&test, &endpoint).await.unwrap().disabled, None);
    assert_eq!(health(&test, &endpoint).await, None);
}

async fn an_endpoint_that_is_disabled_is_told_to_the_owners_others(test: TestStore) {
    let of = |owner| Endpoint { owner, ..endpoint() };
    let disabled = add(&test, of(Some(7))).await;
    let own = add(&test, Endpoint { tenant_id: Some("else".to_owned()), ..of(Some(7)) }).await;
    let staffs = add(&test, Endpoint { payload: PayloadKind::Full, ..of(None) }).await;
    let off = Endpoint { disabled: Some((noon(), "gone".to_owned())), ..of(Some(7)) };
    let off = add(&test, off).await;
    add(&test, of(Some(8))).await;
    add(&test, Endpoint { event_types: vec![EventType::SessionFinalized], ..of(None) }).await;
    test.store.disable_endpoint(disabled.endpoint_id, "gone", after(1)).await.unwrap();

    let everything = DeliveryFilter { limit: 100, ..DeliveryFilter::default() };
    let mut told = test.store.deliveries(&everything).await.unwrap();
    told.sort_by_key(|delivery| delivery.endpoint_id);
    let mut expected = [own.endpoint_id, staffs.endpoint_id, off.endpoint_id];
    expected.sort();
    assert_eq!(told.iter().map(|told| told.endpoint_id).collect::<Vec<_>>(), expected);
    for delivery in &told {
        let is_off = delivery.endpoint_id == off.endpoint_id;
        assert_eq!(delivery.event_type, EventType::EndpointDisabled);
        assert_eq!(delivery.state == DeliveryState::Cancelled, is_off);
        assert_eq!((delivery.message_id, delivery.session_id), (told[0].message_id, None));
        let story = test.store.delivery(delivery.delivery_id).await.unwrap().unwrap();
        let body: Value = serde_json::from_slice(&story.body).unwrap();
        assert_eq!(body["type"], "endpoint.disabled");
        let expected = json!({
            "endpoint_id": disabled.endpoint_id, "url": disabled.url, "reason": "gone",
            "failing_since": null, "failures": 0,
        });
        assert_eq!(body["data"], expected);
    }
    let process = enter(&test, 0).await;
    assert_eq!(claim(&test, process, 1, &own, 9).await.len(), 1, "it is sent like any other");
}

async fn a_backlog_of_a_disabled_endpoint_is_cancelled_bit_by_bit(test: TestStore) {
    let endpoint = add(&test, endpoint()).await;
    let events: Vec<Value> = (0..1200).map(|_| ended(fresh_id())).collect();
    for batch in events.chunks(200) {
        test.take(batch).await;
    }
    test.store.disable_endpoint(endpoint.endpoint_id, "by_hand", after(1)).await.unwrap();
    let pending = async || {
        let counts = test.store.delivery_counts().await.unwrap();
        counts.iter().find(|(state, _)| *state == DeliveryState::Pending).map_or(0, |(_, n)| *n)
    };
    assert_eq!(pending().await, 200, "one transaction has an end");
    assert_eq!(test.store.due_endpoints(after(2)).await.unwrap(), [], "none of them is sent");
    assert_eq!(test.store.cancel_undeliverable(after(2)).await.unwrap(), 200);
    assert_eq!(test.store.cancel_undeliverable(after(2)).await.unwrap(), 0);
    assert_eq!(pending().await, 0);
}

async fn what_is_being_sent_to_a_disabled_endpoint_ends_as_it_ends(test: TestStore) {
    let endpoint = add(&test, endpoint()).await;
    let (process, sessions) = (enter(&test, 0).await, [fresh_id(), fresh_id()]);
    test.take(&sessions.map(ended)).await;
    let owed = claim(&test, process, 0, &endpoint, 2).await;
    test.store.disable_endpoint(endpoint.endpoint_id, "by_hand", after(1)).await.unwrap();
    let retry = Next::RetryAt(after(5));
    let results = [attempt(&owed[0], Next::Done), failed_at(&owed[1], noon(), retry)];
    assert_eq!(recorded(&test, process, &results).await.len(), 2);
    assert_eq!(test.store.cancel_undeliverable(after(2)).await.unwrap(), 1);
    let mut states = Vec::new();
    for session_id in sessions {
        states.push(only_delivery(&test, session_id).await.state.as_str());
    }
    states.sort_unstable();
    assert_eq!(states, ["cancelled", "delivered"]);
}

/// Has an endpoint fail once at each of these hours; what was told of it.
async fn fail_hourly(
    test: &TestStore,
    endpoint: &Endpoint,
    hours: impl Iterator<Item = i64>,
) -> Vec<String> {
    let process = fresh_id();
    test.store.enter(process, noon(), noon() + TimeDelta::days(30)).await.unwrap();
    test.take(&[ended(fresh_id())]).await;
    let mut told = Vec::new();
    for hour in hours {
        let at = noon() + TimeDelta::hours(hour);
        let seconds = (at - noon()).num_seconds();
        let Some(owed) = claim(test, process, seconds, endpoint, 1).await.pop() else { break };
        let failed = failed_at(&owed, at, Next::RetryAt(at));
        let recorded = test.store.record(process, &[failed], at).await.unwrap();
        for (endpoint_id, failing, percent) in recorded.warned {
            assert_eq!(endpoint_id, endpoint.endpoint_id);
            told.push(format!("{hour} h: {percent} %, {} failures", failing.failures));
        }
        for (endpoint_id, reason) in recorded.disabled {
            assert_eq!(endpoint_id, endpoint.endpoint_id);
            told.push(format!("{hour} h: disabled, {reason}"));
        }
    }
    told
}

async fn an_endpoint_that_only_fails_for_120_hours_is_warned_of_and_disabled(test: TestStore) {
    let failing = add(&test, Endpoint { owner: Some(7), ..endpoint() }).await;
    let told = fail_hourly(&test, &failing, 0..200).await;
    assert_eq!(
        told,
        [
            "60 h: 50 %, 61 failures",
            "84 h: 70 %, 85 failures",
            "108 h: 90 %, 109 failures",
            "120 h: disabled, failing",
        ]
    );
    let (at, because) = read(&test, &failing).await.unwrap().disabled.unwrap();
    assert_eq!((at, because.as_str()), (noon() + TimeDelta::hours(120), "failing"));
    let counts = test.store.delivery_counts().await.unwrap();
    assert_eq!(counts, [(DeliveryState::Cancelled, 1)]);
    let last = health(&test, &failing).await.unwrap().failing.unwrap();
    assert_eq!((last.since, last.failures, last.days), (noon(), 121, 6));
}

async fn one_success_starts_it_anew(test: TestStore) {
    let endpoint = add(&test, endpoint()).await;
    assert_eq!(fail_hourly(&test, &endpoint, 0..119).await.len(), 3);
    let process = enter(&test, 0).await;
    test.take(&[ended(fresh_id())]).await;
    let done = claim(&test, process, 0, &endpoint, 1).await.remove(0);
    let done = AttemptResult { verdict: Verdict::Works, ..attempt(&done, Next::Done) };
    recorded(&test, process, &[done]).await;
    assert_eq!(health(&test, &endpoint).await, None);
    assert_eq!(fail_hourly(&test, &endpoint, 130..190).await, Vec::<String>::new());
}

async fn failures_of_what_was_sent_again_are_not_held_against_the_endpoint(test: TestStore) {
    let endpoint = add(&test, endpoint()).await;
    let process = enter(&test, 0).await;
    test.take(&[ended(fresh_id())]).await;
    let owed = claim(&test, process, 0, &endpoint, 1).await.remove(0);
    let failed = failed_at(&owed, noon(), Next::Exhausted);
    let manual = AttemptResult { verdict: Verdict::Nothing, ..failed };
    recorded(&test, process, &[manual]).await;
    assert_eq!(health(&test, &endpoint).await, None);
}

async fn an_endpoint_that_is_gone_is_disabled_with_the_result(test: TestStore) {
    let gone = add(&test, endpoint()).await;
    let (process, sessions) = (enter(&test, 0).await, [fresh_id(), fresh_id()]);
    test.take(&sessions.map(ended)).await;
    let owed = claim(&test, process, 0, &gone, 1).await.remove(0);
    let cancelled = Next::Cancelled(finalizer::store::Cause::EndpointDisabled);
    let result = AttemptResult { verdict: Verdict::Gone, ..attempt(&owed, cancelled) };
    let recorded = test.store.record(process, &[result], after(3)).await.unwrap();
    assert_eq!(recorded.disabled, [(gone.endpoint_id, "gone")]);
    let disabled = read(&test, &gone).await.unwrap().disabled;
    assert_eq!(disabled, Some((after(3), "gone".to_owned())));
    for session_id in sessions {
        let delivery = only_delivery(&test, session_id).await;
        assert_eq!(delivery.state, DeliveryState::Cancelled);
        assert_eq!(delivery.cause.as_deref(), Some("endpoint_disabled"));
    }
}

async fn what_another_url_has_said_is_not_held_against_the_present_one(test: TestStore) {
    let before = add(&test, endpoint()).await;
    let process = enter(&test, 0).await;
    test.take(&[ended(fresh_id()), ended(fresh_id()), ended(fresh_id())]).await;
    let owed = claim(&test, process, 0, &before, 3).await;
    recorded(&test, process, &[failed_at(&owed[0], noon(), Next::RetryAt(after(5)))]).await;
    assert!(health(&test, &before).await.is_some());
    let changed = Endpoint { url: "https://example.com/new".to_owned(), ..before.clone() };
    assert!(test.store.change_endpoint(&changed).await.unwrap());
    assert_eq!(health(&test, &before).await, None, "the new one has not failed");

    let cancelled = Next::Cancelled(finalizer::store::Cause::EndpointDisabled);
    let gone = AttemptResult { verdict: Verdict::Gone, ..attempt(&owed[1], cancelled) };
    let mut failed = failed_at(&owed[2], noon(), Next::RetryAt(after(5)));
    failed.pause_until = Some(after(500));
    assert_eq!(recorded(&test, process, &[gone, failed]).await.len(), 2);
    assert_eq!(read(&test, &before).await.unwrap().disabled, None);
    assert_eq!(health(&test, &before).await, None);
    let renamed = Endpoint { tenant_id: Some("acme".to_owned()), version: 2, ..changed };
    let mut fails = failed_at(&owed[0], noon(), Next::RetryAt(after(9)));
    fails.url = renamed.url.as_str().into();
    fails.delivery_id = claim(&test, process, 5, &renamed, 1).await[0].delivery_id;
    fails.attempt.number = 2;
    assert_eq!(recorded(&test, process, &[fails]).await.len(), 1);
    assert!(test.store.change_endpoint(&renamed).await.unwrap());
    assert!(health(&test, &renamed).await.is_some(), "another filter changes nothing");
}

async fn retries_take_no_more_of_a_claim_than_is_theirs(test: TestStore) {
    let endpoint = add(&test, endpoint()).await;
    let process = enter(&test, 0).await;
    let events: Vec<Value> = (0..6).map(|_| ended(fresh_id())).collect();
    test.take(&events).await;
    let owed = claim(&test, process, 0, &endpoint, 6).await;
    let retry = |owed| failed_at(owed, noon(), Next::RetryAt(after(5)));
    recorded(&test, process, &owed.iter().map(retry).collect::<Vec<_>>()).await;
    test.take(&[ended(fresh_id()), ended(fresh_id())]).await;
    let slot = Slot {
        endpoint_id: endpoint.endpoint_id,
        free: 6,
        free_for_retries: 3,
        rate_limit_per_minute: None,
    };
    let claimed = test.store.claim(process, after(5), &[slot]).await.unwrap();
    let retries = claimed.iter().filter(|owed| owed.is_retry()).count();
    assert_eq!((claimed.len(), retries), (5, 3));
}

async fn a_pause_holds_for_every_process(test: TestStore) {
    let paused = add(&test, endpoint()).await;
    let process = enter(&test, 0).await;
    test.take(&[ended(fresh_id()), ended(fresh_id())]).await;
    let owed = claim(&test, process, 0, &paused, 1).await.remove(0);
    let mut result = failed_at(&owed, noon(), Next::RetryAt(after(60)));
    result.pause_until = Some(after(60));
    recorded(&test, process, &[result.clone()]).await;
    assert_eq!(test.store.due_endpoints(after(59)).await.unwrap(), []);
    assert_eq!(test.store.due_endpoints(after(60)).await.unwrap().len(), 1);
    assert_eq!(health(&test, &paused).await.unwrap().paused_until, Some(after(60)));

    let owed = claim(&test, process, 5, &paused, 1).await.remove(0);
    let mut shorter = failed_at(&owed, after(5), Next::RetryAt(after(60)));
    shorter.pause_until = Some(after(20));
    recorded(&test, process, &[shorter]).await;
    let until = health(&test, &paused).await.unwrap().paused_until;
    assert_eq!(until, Some(after(60)), "the longest counts");
}

async fn a_limited_endpoint_is_never_handed_over_and_its_limit_counts_for_all_processes(
    test: TestStore,
) {
    let limited = Endpoint { rate_limit_per_minute: Some(120), ..endpoint() };
    let limited = add(&test, limited).await;
    let (one, other) = (enter(&test, 0).await, enter(&test, 0).await);
    let desk = TestDesk::of(one, 100);
    let events: Vec<Value> = (0..20).map(|_| ended(fresh_id())).collect();
    assert!(test.take_with(&desk, noon(), &events).await.owed.is_empty());
    let due = test.store.due_endpoints(noon()).await.unwrap();
    assert_eq!(due[0].rate_limit_per_minute, Some(120));
    let mut claimed = Vec::new();
    for seconds in [0, 0, 1, 3, 3, 4] {
        for process in [one, other] {
            claimed.push(claim(&test, process, seconds, &limited, 64).await.len());
        }
    }
    // Two a second, and no more than one second's worth is saved up.
    assert_eq!(claimed, [2, 0, 0, 0, 2, 0, 2, 0, 0, 0, 2, 0]);
}

async fn deliveries_are_listed_page_by_page_and_by_what_is_asked(test: TestStore) {
    let one = add(&test, endpoint()).await;
    let other = add(&test, Endpoint { owner: Some(8), ..endpoint() }).await;
    let process = enter(&test, 0).await;
    for second in 0..5 {
        let mut event = ended(fresh_id());
        event["character_owner"] = json!(if second == 4 { 8 } else { 7 });
        test.take_with(&TestDesk::closed(), after(second), &[event]).await;
    }
    let owed = claim(&test, process, 5, &one, 2).await;
    let exhausted = failed_at(&owed[0], after(5), Next::Exhausted);
    recorded(&test, process, &[exhausted, attempt(&owed[1], Next::Done)]).await;
    let count = async |filter: DeliveryFilter| {
        test.store.deliveries(&DeliveryFilter { limit: 100, ..filter }).await.unwrap().len()
    };
    let any = DeliveryFilter::default();
    let to = |endpoint: &Endpoint| Some(endpoint.endpoint_id);
    assert_eq!(count(any.clone()).await, 6);
    assert_eq!(count(DeliveryFilter { endpoint_id: to(&other), ..any.clone() }).await, 1);
    for (state, to_one, to_all) in [
        (DeliveryState::Pending, 3, 4),
        (DeliveryState::Delivered, 1, 1),
        (DeliveryState::Exhausted, 1, 1),
        (DeliveryState::Cancelled, 0, 0),
    ] {
        let all = DeliveryFilter { state: Some(state), ..any.clone() };
        let of_one = DeliveryFilter { endpoint_id: to(&one), ..all.clone() };
        assert_eq!((count(of_one).await, count(all).await), (to_one, to_all), "{state:?}");
    }
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let filter = DeliveryFilter { endpoint_id: to(&one), before, limit: 2, ..any.clone() };
        let page = test.store.deliveries(&filter).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.delivery_id);
        all.extend(page);
    }
    assert_eq!(all.len(), 5);
    assert!(all.windows(2).all(|pair| pair[0].delivery_id > pair[1].delivery_id));
    assert_eq!(all[0].created_at, after(4), "the newest first");
    let of_message = test.store.deliveries_of_message(all[0].message_id).await.unwrap();
    assert_eq!(of_message.len(), 2, "one for each endpoint");
    let unknown = test.store.deliveries_of_message(MessageId([7; 16])).await.unwrap();
    assert!(unknown.is_empty());
}

async fn a_delivery_tells_its_story(test: TestStore) {
    let endpoint = add(&test, endpoint()).await;
    let (process, session_id) = (enter(&test, 0).await, fresh_id());
    test.take(&[ended(session_id)]).await;
    let first = claim(&test, process, 0, &endpoint, 1).await.remove(0);
    let failed = failed_at(&first, noon(), Next::RetryAt(after(5)));
    recorded(&test, process, std::slice::from_ref(&failed)).await;
    let second = claim(&test, process, 5, &endpoint, 1).await.remove(0);
    let done = attempt(&second, Next::Done);
    recorded(&test, process, std::slice::from_ref(&done)).await;
    let story = test.store.delivery(first.delivery_id).await.unwrap().unwrap();
    assert_eq!(story.delivery, only_delivery(&test, session_id).await);
    assert_eq!(story.attempts, [failed.attempt, done.attempt]);
    assert_eq!(story.body, first.body);
    assert_eq!(test.store.delivery(fresh_id()).await.unwrap(), None);
}

/// A delivery whose last attempt has failed.
async fn exhausted(test: &TestStore, endpoint: &Endpoint, process: Uuid) -> (Uuid, Owed) {
    let session_id = fresh_id();
    test.take(&[ended(session_id)]).await;
    let mut owed = claim(test, process, 0, endpoint, 1).await.remove(0);
    owed.attempts = 9;
    recorded(test, process, &[failed_at(&owed, noon(), Next::Exhausted)]).await;
    (session_id, owed)
}

async fn a_delivery_is_owed_anew_from_the_beginning_of_the_schedule(test: TestStore) {
    let endpoint = add(&test, endpoint()).await;
    let process = enter(&test, 0).await;
    let (session_id, before) = exhausted(&test, &endpoint, process).await;
    let again = test.store.redeliver(&[before.delivery_id, fresh_id()], after(7)).await.unwrap();
    assert_eq!(again, [before.delivery_id]);
    let delivery = only_delivery(&test, session_id).await;
    assert_eq!((delivery.state, delivery.finished_at), (DeliveryState::Pending, None));
    assert_eq!((delivery.attempts, delivery.redelivered_after), (10, Some(10)));
    assert_eq!(delivery.next_attempt_at, Some(after(7)));
    assert!(claim(&test, process, 6, &endpoint, 1).await.is_empty());
    let owed = claim(&test, process, 7, &endpoint, 1).await.remove(0);
    assert_eq!((owed.message_id, &owed.body), (before.message_id, &before.body));
    assert!(owed.is_retry() && owed.attempts_of_round() == 0);
    recorded(&test, process, &[attempt(&owed, Next::Done)]).await;
    let delivery = only_delivery(&test, session_id).await;
    assert_eq!((delivery.state, delivery.attempts), (DeliveryState::Delivered, 11));
    // Even what has arrived can be had again.
    assert_eq!(test.store.redeliver(&again, after(8)).await.unwrap(), again);
    assert_eq!(only_delivery(&test, session_id).await.redelivered_after, Some(11));
}

async fn what_is_pending_is_brought_forward_and_what_is_being_sent_is_left_alone(test: TestStore) {
    let endpoint = add(&test, endpoint()).await;
    let (process, session_id) = (enter(&test, 0).await, fresh_id());
    test.take(&[ended(session_id)]).await;
    let owed = claim(&test, process, 0, &endpoint, 1).await.remove(0);
    let ids = [owed.delivery_id];
    assert!(test.store.redeliver(&ids, after(1)).await.unwrap().is_empty(), "it is being sent");
    recorded(&test, process, &[failed_at(&owed, noon(), Next::RetryAt(after(500)))]).await;
    assert_eq!(test.store.redeliver(&ids, after(2)).await.unwrap(), ids);
    let delivery = only_delivery(&test, session_id).await;
    assert_eq!((delivery.next_attempt_at, delivery.redelivered_after), (Some(after(2)), None));
}

async fn nothing_is_redelivered_to_an_endpoint_that_takes_no_more(test: TestStore) {
    let endpoint = add(&test, endpoint()).await;
    let process = enter(&test, 0).await;
    let (_, owed) = exhausted(&test, &endpoint, process).await;
    let ids = [owed.delivery_id];
    test.store.disable_endpoint(endpoint.endpoint_id, "by_hand", after(1)).await.unwrap();
    assert!(test.store.redeliver(&ids, after(2)).await.unwrap().is_empty());
    test.store.enable_endpoint(endpoint.endpoint_id).await.unwrap();
    assert_eq!(test.store.redeliver(&ids, after(2)).await.unwrap(), ids);
    test.store.delete_endpoint(endpoint.endpoint_id, after(3)).await.unwrap();
    assert!(test.store.redeliver(&ids, after(4)).await.unwrap().is_empty());
}

/// Everything of an endpoint that was made by `until`.
fn range(endpoint: &Endpoint, until: DateTime<Utc>) -> RedeliveryRange {
    let since = noon() - TimeDelta::days(1);
    RedeliveryRange { endpoint_id: endpoint.endpoint_id, since, until, statuses: Statuses::ALL }
}

async fn order(test: &TestStore, range: RedeliveryRange, per_second: u32) -> Redelivery {
    let matched = test.store.count_range(&range).await.unwrap();
    let job = Redelivery::new(fresh_id(), range, Some(per_second), matched, after(10));
    assert!(test.store.add_redelivery(&job).await.unwrap());
    assert_eq!(test.store.redelivery(job.redelivery_id).await.unwrap(), Some(job.clone()));
    job
}

/// Goes on with redeliveries until none runs; the last one, and how many steps it took.
async fn finish(test: &TestStore) -> (Redelivery, usize) {
    let mut now = after(10);
    for steps in 1..1000 {
        if let Some(job) = test.store.advance_redelivery(URL, now).await.unwrap()
            && job.state != RedeliveryState::Running
        {
            return (job, steps);
        }
        now += TimeDelta::seconds(1);
    }
    panic!("it does not end")
}

/// Sessions whose deliveries to a disabled endpoint were born cancelled; the endpoint is enabled.
async fn cancelled(test: &TestStore, count: usize) -> (Endpoint, Vec<Uuid>) {
    let off = Endpoint { disabled: Some((noon(), "gone".to_owned())), ..endpoint() };
    let endpoint = add(test, off).await;
    let sessions: Vec<Uuid> = (0..count).map(|_| fresh_id()).collect();
    let events: Vec<Value> = sessions.iter().copied().map(ended).collect();
    for batch in events.chunks(200) {
        test.take(batch).await;
    }
    test.store.enable_endpoint(endpoint.endpoint_id).await.unwrap();
    (endpoint, sessions)
}

async fn a_range_is_redelivered_step_by_step_and_each_delivery_once(test: TestStore) {
    let (endpoint, sessions) = cancelled(&test, 1100).await;
    let job = order(&test, range(&endpoint, after(10)), 5000).await;
    assert_eq!(job.matched, Some(1100));
    let (job, steps) = finish(&test).await;
    assert_eq!((job.state, job.redelivered, job.skipped), (RedeliveryState::Done, 1100, 0));
    assert!(job.finished_at.is_some() && steps >= 3, "{steps} steps");
    for session_id in &sessions {
        let delivery = only_delivery(&test, *session_id).await;
        assert_eq!((delivery.state, delivery.cause), (DeliveryState::Pending, None));
        assert_eq!(delivery.redelivered_after, Some(0));
    }
    assert_eq!(test.store.advance_redelivery(URL, after(9000)).await.unwrap(), None);
    assert_eq!(test.store.count_range(&job.range).await.unwrap(), Some(0));
    let listed = test.store.redeliveries(Some(endpoint.endpoint_id)).await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&job));
    assert_eq!(test.store.redeliveries(None).await.unwrap(), [job]);
    assert_eq!(test.store.redeliveries(Some(fresh_id())).await.unwrap(), []);
}

async fn only_what_lies_in_the_range_and_has_a_wanted_status_is_redelivered(test: TestStore) {
    let endpoint = add(&test, endpoint()).await;
    let process = enter(&test, 0).await;
    let (early, _) = exhausted(&test, &endpoint, process).await;
    let late = fresh_id();
    test.take_with(&TestDesk::closed(), after(5), &[ended(late)]).await;
    let owed = claim(&test, process, 5, &endpoint, 1).await.remove(0);
    recorded(&test, process, &[failed_at(&owed, after(5), Next::Exhausted)]).await;
    let statuses = |names: &[&str]| Statuses::parse(names.iter().copied()).unwrap();
    let everything = range(&endpoint, after(10));
    for (range, expected) in [
        (everything.clone(), 2),
        (RedeliveryRange { since: after(5), ..everything.clone() }, 1),
        (RedeliveryRange { until: after(5), ..everything.clone() }, 1),
        (
            RedeliveryRange { statuses: statuses(&["cancelled", "missing"]), ..everything.clone() },
            0,
        ),
        (RedeliveryRange { statuses: statuses(&["exhausted"]), ..everything.clone() }, 2),
    ] {
        assert_eq!(test.store.count_range(&range).await.unwrap(), Some(expected), "{range:?}");
    }
    order(&test, RedeliveryRange { since: after(5), ..everything }, 200).await;
    assert_eq!(finish(&test).await.0.redelivered, 1);
    assert_eq!(only_delivery(&test, early).await.state, DeliveryState::Exhausted);
    assert_eq!(only_delivery(&test, late).await.state, DeliveryState::Pending);
}

async fn a_step_has_no_more_than_a_second_allows(test: TestStore) {
    let (endpoint, _) = cancelled(&test, 30).await;
    order(&test, range(&endpoint, after(10)), 10).await;
    let job = test.store.advance_redelivery(URL, after(10)).await.unwrap().unwrap();
    assert_eq!((job.redelivered, job.next_step_at), (10, after(11)));
    assert_eq!(test.store.advance_redelivery(URL, after(10)).await.unwrap(), None);
    let job = test.store.advance_redelivery(URL, after(11)).await.unwrap().unwrap();
    assert_eq!((job.redelivered, job.next_step_at), (20, after(12)));
}

async fn messages_that_were_never_owed_are_owed_with_the_bytes_that_others_got(test: TestStore) {
    let early = add(&test, endpoint()).await;
    let sessions: Vec<Uuid> = (0..450).map(|_| fresh_id()).collect();
    let events: Vec<Value> = sessions.iter().copied().map(ended).collect();
    for batch in events.chunks(200) {
        test.take(batch).await;
    }
    let late = add(&test, Endpoint { owner: Some(7), ..endpoint() }).await;
    let deaf = [
        Endpoint { owner: Some(8), ..endpoint() },
        Endpoint { event_types: vec![EventType::RecordingReady], ..endpoint() },
        Endpoint { tenant_id: Some("other".to_owned()), ..endpoint() },
        early.clone(),
    ];
    for endpoint in &deaf {
        assert_eq!(test.store.count_range(&range(endpoint, after(10))).await.unwrap(), Some(0));
    }
    let job = order(&test, range(&late, after(10)), 5000).await;
    assert_eq!(job.matched, Some(450));
    let (job, _) = finish(&test).await;
    assert_eq!((job.state, job.redelivered, job.skipped), (RedeliveryState::Done, 450, 0));
    for session_id in sessions.iter().step_by(50) {
        let all = deliveries(&test, *session_id).await;
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].message_id, all[1].message_id);
        let made = all.iter().find(|one| one.endpoint_id == late.endpoint_id).unwrap();
        assert_eq!((made.state, made.redelivered_after), (DeliveryState::Pending, Some(0)));
        let mut bodies = Vec::new();
        for delivery in &all {
            bodies.push(test.store.delivery(delivery.delivery_id).await.unwrap().unwrap().body);
        }
        assert!(!bodies[0].is_empty() && bodies[0] == bodies[1]);
    }
    assert_eq!(test.store.count_range(&job.range).await.unwrap(), Some(0));
}

async fn a_message_that_nobody_was_owed_is_made_if_it_is_still_true(test: TestStore) {
    let session_id = fresh_id();
    let failed = recording(session_id, "EG_1", "EGRESS_FAILED");
    test.take(&[ended(session_id), failed]).await;
    let ready = recording(session_id, "EG_2", "EGRESS_COMPLETE");
    test.take_with(&TestDesk::closed(), after(1), &[ready]).await;
    let late = add(&test, Endpoint { payload: PayloadKind::Full, ..endpoint() }).await;
    let job = order(&test, range(&late, after(10)), 200).await;
    assert_eq!(job.matched, Some(3), "finalized, failed, ready");
    let (job, _) = finish(&test).await;
    // The recording has not failed any more.
    assert_eq!((job.redelivered, job.skipped), (2, 1));
    let made = deliveries(&test, session_id).await;
    for delivery in &made {
        let story = test.store.delivery(delivery.delivery_id).await.unwrap().unwrap();
        let body: Value = serde_json::from_slice(&story.body).unwrap();
        assert_eq!(body["type"], json!(delivery.event_type));
        assert_eq!(body["data"]["session_id"], json!(session_id));
        let url = format!("{URL}/api/billing/sessions/{session_id}/");
        assert_eq!((&body["data"]["url"], &body["data"]["turn_count"]), (&json!(url), &json!(2)));
        let expected =
            if delivery.event_type == EventType::SessionFinalized { noon() } else { after(1) };
        assert_eq!(body["timestamp"], json!(expected));
    }
}

async fn a_redelivery_ends_when_its_endpoint_is_disabled(test: TestStore) {
    let (endpoint, sessions) = cancelled(&test, 30).await;
    order(&test, range(&endpoint, after(10)), 10).await;
    test.store.advance_redelivery(URL, after(10)).await.unwrap();
    test.store.disable_endpoint(endpoint.endpoint_id, "by_hand", after(11)).await.unwrap();
    let (job, _) = finish(&test).await;
    assert_eq!((job.state, job.redelivered), (RedeliveryState::Cancelled, 10));
    for session_id in sessions {
        assert_eq!(only_delivery(&test, session_id).await.state, DeliveryState::Cancelled);
    }
}

async fn a_cancelled_redelivery_does_not_go_on(test: TestStore) {
    let (endpoint, _) = cancelled(&test, 30).await;
    let job = order(&test, range(&endpoint, after(10)), 10).await;
    test.store.advance_redelivery(URL, after(10)).await.unwrap();
    assert!(test.store.cancel_redelivery(job.redelivery_id, after(11)).await.unwrap());
    assert!(!test.store.cancel_redelivery(job.redelivery_id, after(11)).await.unwrap());
    assert_eq!(test.store.advance_redelivery(URL, after(99)).await.unwrap(), None);
    let job = test.store.redelivery(job.redelivery_id).await.unwrap().unwrap();
    assert_eq!((job.state, job.redelivered), (RedeliveryState::Cancelled, 10));
}

async fn processes_that_go_on_at_once_do_each_step_once(test: TestStore) {
    let (endpoint, _) = cancelled(&test, 400).await;
    order(&test, range(&endpoint, after(10)), 50).await;
    let mut redelivered = Vec::new();
    for second in 10..30 {
        let step = || test.store.advance_redelivery(URL, after(second));
        let (a, b, c) = tokio::join!(step(), step(), step());
        let steps = [a, b, c].map(Result::unwrap);
        redelivered.extend(steps.into_iter().flatten().map(|job| job.redelivered));
    }
    let expected: Vec<i64> = (1..=8).map(|step| step * 50).collect();
    redelivered.dedup();
    assert_eq!(redelivered, expected);
    assert_eq!(test.store.count_range(&range(&endpoint, after(10))).await.unwrap(), Some(0));
}

async fn a_redelivery_that_fails_does_not_hold_up_another(test: TestStore) {
    let session_id = fresh_id();
    test.take(&[ended(session_id)]).await;
    let (one, other) = (add(&test, endpoint()).await, add(&test, endpoint()).await);
    let statuses = Statuses::parse(["missing"]).unwrap();
    let missing = |endpoint| RedeliveryRange { statuses, ..range(endpoint, after(10)) };
    let failing = order(&test, missing(&one), 200).await;
    let waiting = Redelivery { next_step_at: after(11), ..failing.clone() };
    let waiting = Redelivery { redelivery_id: fresh_id(), range: missing(&other), ..waiting };
    assert!(test.store.add_redelivery(&waiting).await.unwrap());
    let twice = Redelivery { redelivery_id: fresh_id(), ..waiting.clone() };
    assert!(!test.store.add_redelivery(&twice).await.unwrap(), "one to an endpoint at a time");

    // What the session has become, this release cannot read.
    test.execute("UPDATE sessions SET recording_status = 'LOST'").await;
    assert!(test.store.advance_redelivery(URL, after(11)).await.is_err());
    test.execute("UPDATE sessions SET recording_status = 'NONE'").await;
    let job = test.store.advance_redelivery(URL, after(12)).await.unwrap().unwrap();
    assert_eq!(job.redelivery_id, waiting.redelivery_id, "the other one is next");
    assert_eq!((job.state, job.redelivered), (RedeliveryState::Done, 1));
    let (job, _) = finish(&test).await;
    assert_eq!((job.redelivery_id, job.redelivered), (failing.redelivery_id, 1));
}
