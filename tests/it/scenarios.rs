//! The whole service, as those live with it who publish events, get webhooks and read sessions.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta};
use finalizer::clock::SystemClock;
use finalizer::event::FailureCode;
use finalizer::store::{
    DeliveryState, Endpoint, Failure, Redelivery, RedeliveryRange, RedeliveryState, Statuses,
};
use finalizer::webhook::EventType;
use http::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::broker::QUEUE;
use crate::harness::inside::{HandClock, Inside};
use crate::harness::receiver::{Receiver, Reply, SECRET, Told};
use crate::harness::service::{Process, Site, subscription};
use crate::harness::{
    TestStore, bytes_of, ended, fresh_id, noon, on_both_stores, recording, started, until,
};

on_both_stores![
    events_from_the_broker_in_any_order_become_sessions_told_once_and_readable_at_once,
    events_over_http_in_any_order_become_sessions_told_once_and_readable_at_once,
    what_cannot_be_finalized_is_kept_as_it_came_and_holds_nothing_up,
    too_large_events_are_kept_whole,
    a_receiver_that_fails_twice_gets_the_same_webhook_a_third_time,
    a_receiver_that_always_fails_exhausts_the_schedule,
    a_receiver_that_is_gone_is_asked_no_more,
    an_endpoint_that_hangs_delays_nobody_elses_webhooks,
    an_endpoint_that_only_fails_is_disabled_its_owner_told_and_everything_can_be_had_later,
    a_secret_is_rotated_beside_the_running_service_without_losing_a_webhook,
    a_redelivery_goes_on_after_its_process_was_killed,
    what_a_dead_process_was_sending_is_sent_by_another,
];

/// How events come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Amqp,
    Http,
    File,
}

impl Way {
    /// The ways into this installation.
    fn all(site: &Site) -> Vec<Self> {
        let ways = [Self::Http, Self::File].into_iter();
        ways.chain(site.broker.as_ref().map(|_| Self::Amqp)).collect()
    }

    async fn send(self, site: &Site, process: &Process, events: &[Bytes]) {
        match self {
            Self::Amqp => site.broker().publish(events).await,
            Self::Http => {
                let (status, answers) = process.caller().send_lines(events).await;
                assert_eq!(status, StatusCode::OK, "{answers}");
            }
            Self::File => {
                std::fs::write(site.folder().join("events.ndjson"), events.join(&b'\n')).unwrap();
                site.run(&["ingest", "events.ndjson"]);
            }
        }
    }

    fn source(self) -> &'static str {
        match self {
            Self::Amqp => "amqp:finalizer.events",
            Self::Http => "http",
            Self::File => "file:events.ndjson:",
        }
    }
}

async fn events_from_the_broker_in_any_order_become_sessions_told_once_and_readable_at_once(
    test: TestStore,
) {
    let site = Site::with_broker(test).await;
    in_any_order(&site, Way::Amqp).await;
    assert!(site.broker().is_all_acknowledged().await);
}

async fn events_over_http_in_any_order_become_sessions_told_once_and_readable_at_once(
    test: TestStore,
) {
    in_any_order(&Site::embedded(test).await, Way::Http).await;
}

async fn in_any_order(site: &Site, way: Way) {
    let receiver = Receiver::start().await;
    site.subscribe(&receiver).await;
    let process = site.start().await;
    receiver.reads(process.caller());
    let sessions: Vec<Uuid> = (0..24).map(|_| fresh_id()).collect();
    let mut events = Vec::new();
    for copy in 0..3 {
        for (order, session_id) in sessions.iter().enumerate() {
            events.extend(in_order(order + copy * 7, story(*session_id)));
        }
    }
    way.send(site, &process, &bytes_of(&events)).await;
    until("every session is told", async || receiver.told().len() >= 48).await;
    if way == Way::Amqp {
        until("the queue is empty", async || site.broker().queue(QUEUE).await.unwrap().0 == 0)
            .await;
    }
    process.stop().await;

    let told = receiver.told();
    assert_eq!(told.len(), 48, "each webhook came once");
    assert_eq!(told.iter().map(|told| &told.id).collect::<HashSet<_>>().len(), 48);
    for session_id in sessions {
        let of_session: Vec<&Told> =
            told.iter().filter(|told| told.session_id() == session_id).collect();
        let types: HashSet<String> = of_session.iter().map(|told| told.event_type()).collect();
        assert_eq!(
            types,
            ["session.finalized", "session.recording_ready"].map(str::to_owned).into()
        );
        for told in of_session {
            let (status, session) = told.read.clone().unwrap();
            assert_eq!(status, StatusCode::OK);
            assert_eq!((&session["revision"], &session["turn_count"]), (&json!(1), &json!(2)));
            assert!(session["finalized_at"].is_string(), "{session}");
            if told.event_type() == "session.recording_ready" {
                assert_eq!(session["recording_status"], json!("READY"));
            }
        }
    }
    assert_eq!(site.failures().await, []);
}

/// All that is told of one call.
fn story(session_id: Uuid) -> [Value; 4] {
    let egress_id = format!("EG_{session_id}");
    let mut ended = ended(session_id);
    ended["recording"] = json!({"expected": true});
    [
        started(session_id),
        ended,
        recording(session_id, &egress_id, "EGRESS_ACTIVE"),
        recording(session_id, &egress_id, "EGRESS_COMPLETE"),
    ]
}

/// One of the 24 orders of four things.
fn in_order<T>(order: usize, things: [T; 4]) -> Vec<T> {
    let mut things = Vec::from(things);
    let mut rest = order % 24;
    (1..=4)
        .rev()
        .map(|left| {
            let next = things.remove(rest % left);
            rest /= left;
            next
        })
        .collect()
}

async fn what_cannot_be_finalized_is_kept_as_it_came_and_holds_nothing_up(test: TestStore) {
    let site = Site::with_broker(test).await;
    let process = site.start().await;
    for way in Way::all(&site) {
        let (mut events, mut good, mut bad) = (Vec::new(), Vec::new(), Vec::new());
        for (code, first, event) in unfit(way) {
            let behind = fresh_id();
            events.extend(first);
            events.extend([event.clone(), ended(behind).to_string().into()]);
            good.push(behind);
            bad.push((code, event));
        }
        way.send(&site, &process, &events).await;
        until("the good events are finalized", async || site.finalized(&good).await == good.len())
            .await;
        assert_kept(&site, way, &bad).await;
    }
}

/// Events that nobody can finalize, each different by the way it goes; with each the code it
/// fails by, and what must come before it.
fn unfit(way: Way) -> Vec<(FailureCode, Option<Bytes>, Bytes)> {
    let session_id = fresh_id();
    let changed = |key: &str, value: Value| {
        let mut event = ended(fresh_id());
        event[key] = value;
        Bytes::from(event.to_string())
    };
    let mut untimed = ended(fresh_id());
    untimed["source"] = json!({"kind": "livekit_history"});
    untimed["history"] = json!({"items": [
        {"id": "item_1", "type": "message", "role": "user", "content": ["Hello?"]},
    ]});
    let mut other = ended(session_id);
    other["messages"][0]["text"] = json!("Something else.");
    let cut_off = format!("{{\"type\": \"session.ended\", \"event_id\": \"{way:?}\", \"mess");
    let alone = |code, event| (code, None, event);
    vec![
        alone(FailureCode::MalformedJson, cut_off.into()),
        alone(FailureCode::UnsupportedType, changed("type", json!("session.exploded"))),
        alone(FailureCode::UnsupportedVersion, changed("schema_version", json!(99))),
        alone(FailureCode::InvalidEvent, changed("character_owner", json!("seven"))),
        alone(FailureCode::InvalidSessionId, changed("session_id", json!(format!("sess_{way:?}")))),
        alone(FailureCode::UntimedTurns, untimed.to_string().into()),
        (
            FailureCode::ConflictingEvent,
            Some(ended(session_id).to_string().into()),
            other.to_string().into(),
        ),
    ]
}

async fn assert_kept(site: &Site, way: Way, bad: &[(FailureCode, Bytes)]) {
    let is_of =
        |kept: &Failure, code| kept.rejection.code == code && kept.source.starts_with(way.source());
    // Two batches may be under way: what came later may be done earlier.
    until("everything unfit is kept", async || {
        let failures = site.failures().await;
        bad.iter().all(|(code, _)| failures.iter().any(|kept| is_of(kept, *code)))
    })
    .await;
    let failures = site.failures().await;
    for (code, event) in bad {
        let mut of_code = failures.iter().filter(|kept| is_of(kept, *code));
        let kept = of_code.next().unwrap_or_else(|| panic!("{code:?} over {way:?}: {failures:?}"));
        assert!(of_code.next().is_none(), "{code:?} over {way:?} is kept once");
        assert!(!kept.rejection.message.is_empty());
        let (_, raw) = site.test.store.failure(kept.failure_id).await.unwrap().unwrap();
        assert_eq!(raw, event, "{code:?} over {way:?}");
    }
}

async fn too_large_events_are_kept_whole(test: TestStore) {
    let site = Site::with_broker(test).await.with("FINALIZER_MAX_EVENT_BYTES", "64KiB");
    let process = site.start().await;
    for way in Way::all(&site) {
        let (mut large, behind) = (ended(fresh_id()), fresh_id());
        large["messages"][0]["text"] = json!("la ".repeat(100_000));
        let events = bytes_of(&[large, ended(behind)]);
        way.send(&site, &process, &events).await;
        until("the event behind it is finalized", async || site.finalized(&[behind]).await == 1)
            .await;
        assert_kept(&site, way, &[(FailureCode::TooLarge, events[0].clone())]).await;
    }
}

async fn a_receiver_that_fails_twice_gets_the_same_webhook_a_third_time(test: TestStore) {
    let receiver = Receiver::that(|told| match told.copies_before {
        0 | 1 => Reply::Say(500),
        _ => Reply::Say(204),
    })
    .await;
    test.store.add_endpoint(&subscription(&receiver)).await.unwrap();
    let clock = Arc::<HandClock>::default();
    let inside = Inside::start(&test.store, &clock).await;
    let session_id = fresh_id();
    inside.take(&ended(session_id)).await;
    for failed in [1, 2] {
        let delivery = inside.attempted(session_id, failed).await;
        assert_eq!((delivery.attempts, delivery.state), (failed, DeliveryState::Pending));
        inside.until_due(&delivery).await;
    }
    let delivery = inside.attempted(session_id, 3).await;
    assert_eq!((delivery.attempts, delivery.state), (3, DeliveryState::Delivered));
    inside.stop().await;

    let told = receiver.told();
    let [first, second, third] = &told[..] else { panic!("{told:?}") };
    for again in [second, third] {
        assert_eq!((&again.id, &again.body), (&first.id, &first.body));
    }
    assert!(second.timestamp >= first.timestamp + 5, "{told:?}");
    assert!(third.timestamp >= second.timestamp + 300, "{told:?}");
}

async fn a_receiver_that_always_fails_exhausts_the_schedule(test: TestStore) {
    let receiver = Receiver::that(|_| Reply::Say(500)).await;
    test.store.add_endpoint(&subscription(&receiver)).await.unwrap();
    let inside = Inside::start(&test.store, &Arc::default()).await;
    let session_id = fresh_id();
    inside.take(&ended(session_id)).await;
    for failed in 1..10 {
        let delivery = inside.attempted(session_id, failed).await;
        assert_eq!((delivery.attempts, delivery.state), (failed, DeliveryState::Pending));
        inside.until_due(&delivery).await;
    }
    let delivery = inside.attempted(session_id, 10).await;
    assert_eq!((delivery.attempts, delivery.state), (10, DeliveryState::Exhausted));
    assert!(delivery.finished_at.is_some() && delivery.next_attempt_at.is_none());
    inside.stop().await;

    let times: Vec<i64> = receiver.told().iter().map(|told| told.timestamp).collect();
    let schedule = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
    assert_eq!(times.len(), 10, "{times:?}");
    for (pair, least) in times.windows(2).zip(schedule) {
        let waited = pair[1] - pair[0];
        assert!((least..=least + least / 10 + 60).contains(&waited), "{waited} for {least}");
    }
}

async fn a_receiver_that_is_gone_is_asked_no_more(test: TestStore) {
    let goner = fresh_id();
    let receiver =
        Receiver::that(move |told| Reply::Say(if told.session_id() == goner { 410 } else { 500 }))
            .await;
    let endpoint = subscription(&receiver);
    test.store.add_endpoint(&endpoint).await.unwrap();
    let inside = Inside::start(&test.store, &Arc::default()).await;
    let (waiting, later) = (fresh_id(), fresh_id());
    inside.take(&ended(waiting)).await;
    inside.attempted(waiting, 1).await;
    inside.take(&ended(goner)).await;
    until("the endpoint is disabled", async || {
        let endpoint = test.store.endpoint(endpoint.endpoint_id).await.unwrap().unwrap();
        endpoint.disabled.is_some_and(|(_, because)| because == "gone")
    })
    .await;
    inside.take(&ended(later)).await;
    for session_id in [waiting, goner, later] {
        assert_eq!(inside.state(session_id).await, DeliveryState::Cancelled);
    }
    inside.stop().await;
    assert_eq!(receiver.told().len(), 2);
}

async fn an_endpoint_that_hangs_delays_nobody_elses_webhooks(test: TestStore) {
    let (hanging, healthy) = (Receiver::that(|_| Reply::Hang).await, Receiver::start().await);
    let site = Site::embedded(test).await;
    site.subscribe(&hanging).await;
    site.subscribe(&healthy).await;
    let process = site.start().await;
    let sessions: Vec<Uuid> = (0..200).map(|_| fresh_id()).collect();
    let events: Vec<Value> = sessions.iter().copied().map(ended).collect();
    Way::Http.send(&site, &process, &bytes_of(&events)).await;
    until("the healthy one knows all", async || healthy.told().len() == 200).await;
    let mut attempts = 0;
    for session_id in sessions {
        let deliveries = site.test.store.deliveries_of(session_id).await.unwrap();
        attempts += deliveries.iter().map(|delivery| delivery.attempts).sum::<u32>();
    }
    assert!(attempts <= 200, "none of the hanging attempts has ended yet");
    assert!(hanging.told().len() <= 64, "so many may hang at once");
}

async fn what_a_dead_process_was_sending_is_sent_by_another(test: TestStore) {
    let receiver = Receiver::that(|told| match told.copies_before {
        0 => Reply::Hang,
        _ => Reply::Say(204),
    })
    .await;
    test.store.add_endpoint(&subscription(&receiver)).await.unwrap();
    let clock = Arc::<HandClock>::default();
    let (dying, other) =
        tokio::join!(Inside::start(&test.store, &clock), Inside::start(&test.store, &clock));
    let session_id = fresh_id();
    dying.take(&ended(session_id)).await;
    until("it is being sent", async || receiver.told().len() == 1).await;
    dying.die().await;
    assert_eq!(other.state(session_id).await, DeliveryState::Pending);
    clock.advance(TimeDelta::seconds(11));
    let delivery = other.attempted(session_id, 1).await;
    assert_eq!((delivery.attempts, delivery.state), (1, DeliveryState::Delivered));
    other.stop().await;
    let told = receiver.told();
    assert_eq!(told.len(), 2);
    assert_eq!((&told[0].id, &told[0].body), (&told[1].id, &told[1].body));
    let finalized_at = told[0].json()["timestamp"].as_str().unwrap().to_owned();
    assert!(finalized_at.parse::<chrono::DateTime<chrono::Utc>>().unwrap() > noon());
}

async fn an_endpoint_that_only_fails_is_disabled_its_owner_told_and_everything_can_be_had_later(
    test: TestStore,
) {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let failing =
        Receiver::that(move |_| Reply::Say(if well.load(Ordering::SeqCst) { 204 } else { 500 }))
            .await;
    let healthy = Receiver::start().await;
    let failing_id = subscribe_owner(&test, &failing, &[]).await;
    subscribe_owner(&test, &healthy, &[EventType::EndpointDisabled]).await;
    let inside = Inside::start(&test.store, &Arc::default()).await;
    let disabled = async || {
        let endpoint = test.store.endpoint(failing_id).await.unwrap().unwrap();
        endpoint.disabled.map(|(_, because)| because)
    };
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(fresh_id());
        inside.take(&ended(sessions[sessions.len() - 1])).await;
        inside.attempted(sessions[sessions.len() - 1], 1).await;
        assert_eq!(disabled().await, None, "after {} calls", sessions.len());
        inside.leap(TimeDelta::hours(6) + TimeDelta::minutes(1)).await;
    }
    // Those 120 hours are over with what is tried again now.
    until("it is disabled", async || disabled().await.as_deref() == Some("failing")).await;
    until("its owner is told", async || healthy.told().len() == 1).await;
    assert_tells_of_disabled(&healthy, failing_id);
    let (during, first_ids) = (fresh_id(), ids_of(&failing));
    inside.take(&ended(during)).await;
    sessions.push(during);
    until("nothing is pending", async || {
        all_are(&test, &sessions, &[DeliveryState::Cancelled, DeliveryState::Exhausted]).await
    })
    .await;

    is_well.store(true, Ordering::SeqCst);
    assert!(test.store.enable_endpoint(failing_id).await.unwrap());
    let range = RedeliveryRange {
        endpoint_id: failing_id,
        since: DateTime::UNIX_EPOCH,
        until: SystemClock::machine_now() + TimeDelta::days(10),
        statuses: Statuses::ALL,
    };
    let matched = test.store.count_range(&range).await.unwrap();
    assert_eq!(matched, i64::try_from(sessions.len()).ok());
    let now = SystemClock::machine_now();
    let job = Redelivery::new(fresh_id(), range, None, matched, now);
    assert!(test.store.add_redelivery(&job).await.unwrap());
    until("everything has arrived", async || {
        all_are(&test, &sessions, &[DeliveryState::Delivered]).await
    })
    .await;
    let job = async || test.store.redelivery(job.redelivery_id).await.unwrap().unwrap();
    until("the redelivery is done", async || job().await.state == RedeliveryState::Done).await;
    assert_eq!(Some(job().await.redelivered), matched);
    inside.stop().await;
    let all_ids = ids_of(&failing);
    assert!(first_ids.is_subset(&all_ids), "the same ids");
    assert_eq!(all_ids.len(), sessions.len(), "and the one that was born cancelled");
}

fn assert_tells_of_disabled(receiver: &Receiver, endpoint_id: Uuid) {
    let told = receiver.told().remove(0).json();
    assert_eq!(told["type"], "endpoint.disabled");
    assert_eq!(told["data"]["endpoint_id"], json!(endpoint_id));
    assert_eq!(told["data"]["reason"], "failing");
    assert!(told["data"]["failures"].as_u64().unwrap() >= 20, "{told}");
}

fn ids_of(receiver: &Receiver) -> HashSet<String> {
    receiver.told().into_iter().map(|told| told.id).collect()
}

/// An endpoint of the calls' owner at the receiver.
async fn subscribe_owner(test: &TestStore, receiver: &Receiver, types: &[EventType]) -> Uuid {
    let endpoint =
        Endpoint { owner: Some(7), event_types: types.to_vec(), ..subscription(receiver) };
    test.store.add_endpoint(&endpoint).await.unwrap();
    endpoint.endpoint_id
}

async fn all_are(test: &TestStore, sessions: &[Uuid], states: &[DeliveryState]) -> bool {
    for session_id in sessions {
        let deliveries = test.store.deliveries_of(*session_id).await.unwrap();
        if !deliveries.iter().all(|delivery| states.contains(&delivery.state)) {
            return false;
        }
    }
    true
}

async fn a_secret_is_rotated_beside_the_running_service_without_losing_a_webhook(test: TestStore) {
    let receiver = Receiver::start().await;
    let site = Site::embedded(test).await;
    let id = site.subscribe(&receiver).await.to_string();
    let process = site.start().await;
    let tell = async |expected: usize| {
        let event = ended(fresh_id()).to_string().into();
        assert_eq!(process.caller().send_event(event).await.0, StatusCode::OK);
        until("it is told", async || receiver.all_told().len() == expected).await;
    };
    tell(1).await;
    let rotated = site.run(&["endpoints", "rotate-secret", &id, "--overlap", "1h", "--json"]);
    assert!(rotated.status.success(), "{rotated:?}");
    // What is handed over within the first second may still be signed with the old one alone.
    let signatures = async |wanted: usize| {
        let mut count = receiver.all_told().len();
        until("the change is seen", async || {
            count += 1;
            tell(count).await;
            receiver.all_told().last().unwrap().signatures == wanted
        })
        .await;
    };
    signatures(2).await;
    assert_eq!(receiver.told().len(), receiver.all_told().len(), "the old secret verifies all");
    let rotated = site.run(&["endpoints", "rotate-secret", &id, "--overlap", "0s", "--json"]);
    let secret: Value = serde_json::from_slice(&rotated.stdout).unwrap();
    let secret = secret["data"]["secret"].as_str().unwrap();
    signatures(1).await;
    let last = receiver.all_told().pop().unwrap();
    assert!(last.is_signed_with(secret) && !last.is_signed_with(SECRET));
    process.stop().await;
}

async fn a_redelivery_goes_on_after_its_process_was_killed(test: TestStore) {
    let receiver = Receiver::start().await;
    let off = Endpoint { disabled: Some((noon(), "gone".to_owned())), ..subscription(&receiver) };
    test.store.add_endpoint(&off).await.unwrap();
    let sessions: Vec<Uuid> = (0..600).map(|_| fresh_id()).collect();
    let events: Vec<Value> = sessions.iter().copied().map(ended).collect();
    for batch in events.chunks(200) {
        test.take(batch).await;
    }
    let site = Site::embedded(test).await;
    let id = off.endpoint_id.to_string();
    let process = site.start().await;
    assert!(site.run(&["endpoints", "enable", &id]).status.success());
    let order = ["deliveries", "redeliver", "--endpoint", &id, "--per-second", "150", "--detach"];
    assert!(site.run(&order).status.success());
    until("some have arrived", async || receiver.told().len() >= 150).await;
    process.kill();
    let before = receiver.told().len();
    assert!(before < 600, "it was killed in the middle");
    let process = site.start().await;
    until("all have arrived", async || ids_of(&receiver).len() == 600).await;
    let jobs = async || site.test.store.redeliveries(None).await.unwrap().remove(0);
    until("it is done", async || jobs().await.state == RedeliveryState::Done).await;
    assert_eq!(jobs().await.redelivered, 600);
    until("all is recorded", async || {
        all_are(&site.test, &sessions, &[DeliveryState::Delivered]).await
    })
    .await;
    process.stop().await;
    let again = receiver.told().len() - 600;
    assert!(again <= 64, "{again} came again: more than were in flight");
}
