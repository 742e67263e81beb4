//! The whole life of a recording, on both databases: what LiveKit tells of it in any order, and what
//! the sweep finds out when nobody tells anything.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use finalizer::clock::Clock;
use finalizer::event::{Event, FailureCode, decode};
use finalizer::finalize::{Prepared, RecordingState, RecordingStatus, Session};
use finalizer::intake::livekit::event_of;
use finalizer::recordings::{Places, PlacesSettings, Sweep, SweepParts};
use finalizer::store::FailureFilter;
use finalizer::webhook::EventType;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::harness::receiver::Receiver;
use crate::harness::service::Site;
use crate::harness::{
    TestDesk, TestStore, after, ended, endpoint, fresh_id, noon, on_both_stores, prepared,
    prepared_raw, recording, started, until,
};

on_both_stores![
    every_report_comes_to_the_same_whenever_it_comes,
    every_report_comes_to_the_same_beside_the_end_of_its_call,
    all_reports_of_a_recording_come_to_the_same_in_any_order,
    a_recording_of_which_nothing_is_heard_is_given_up_once_at_the_deadline,
    a_recording_that_comes_after_the_deadline_still_counts,
    what_is_heard_after_the_deadline_and_is_not_final_changes_nothing,
    an_egress_that_is_given_up_and_then_fails_is_told_once,
    a_session_that_is_in_progress_has_no_deadline,
    a_file_that_the_worker_stored_is_found_when_it_is_there,
    a_file_that_is_not_there_is_looked_for_with_growing_pauses_until_the_deadline,
    a_file_in_no_place_of_ours_is_taken_at_the_workers_word,
    a_file_that_two_processes_find_is_told_once,
    a_recording_without_a_session_is_a_failure_after_seven_days,
    a_recording_that_only_livekit_told_of_is_forgotten_after_seven_days,
    the_running_service_gives_up_what_nobody_tells_of,
];

const MINUTE: i64 = 60;

/// Every kind of report there is: what it comes to, and what is told of it.
const SAMPLES: [(&str, RecordingStatus, Option<EventType>); 8] = [
    ("egress_started__EGRESS_STARTING", RecordingStatus::Pending, None),
    ("egress_updated__EGRESS_ACTIVE", RecordingStatus::Pending, None),
    ("egress_updated__EGRESS_ENDING", RecordingStatus::Processing, None),
    ("egress_ended__EGRESS_ABORTED", RecordingStatus::Failed, Some(EventType::RecordingFailed)),
    ("egress_ended__EGRESS_FAILED", RecordingStatus::Failed, Some(EventType::RecordingFailed)),
    (
        "egress_ended__EGRESS_COMPLETE_no_files",
        RecordingStatus::Failed,
        Some(EventType::RecordingFailed),
    ),
    ("egress_ended__EGRESS_COMPLETE", RecordingStatus::Ready, Some(EventType::RecordingReady)),
    (
        "egress_ended__EGRESS_COMPLETE.snake_case",
        RecordingStatus::Ready,
        Some(EventType::RecordingReady),
    ),
];

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// What LiveKit sent, of a recording and a room that are this session's.
pub(crate) fn sample(name: &str, session_id: Uuid) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let path = format!("{root}/tests/fixtures/egress/livekit_webhook.{name}.json");
    std::fs::read_to_string(path)
        .unwrap()
        .replace("EG_sample0001", &format!("EG_{session_id}"))
        .replace("RM_sample00001", &format!("RM_{session_id}"))
        .replace("oshara-voice-support-bot-user123-abc12", &format!("room-{session_id}"))
}

/// The start and the end of the call in the room of the samples.
pub(crate) fn call_of_samples(session_id: Uuid) -> [Value; 2] {
    let at =
        |seconds| DateTime::from_timestamp(1_780_000_000, 0).unwrap() + TimeDelta::seconds(seconds);
    let [mut start, mut end] = [started(session_id), ended(session_id)];
    start["started_at"] = json!(at(0));
    end["started_at"] = json!(at(0));
    end["ended_at"] = json!(at(185));
    end["messages"] = json!([{"role": "user", "text": "Hello?", "started_at": at(1)}]);
    end["recording"] = json!({"expected": true});
    [start, end]
}

fn from_livekit(name: &str, session_id: Uuid) -> Prepared {
    prepared_raw(event_of(&sample(name, session_id).into()).unwrap())
}

async fn take(test: &TestStore, event: &Prepared) {
    test.take_prepared(&TestDesk::closed(), noon(), std::slice::from_ref(event)).await;
}

async fn every_report_comes_to_the_same_whenever_it_comes(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    for (name, status, told) in SAMPLES {
        for order in ORDERS {
            let session_id = fresh_id();
            let [start, end] = call_of_samples(session_id).map(|event| prepared(&event));
            let events = [start, end, from_livekit(name, session_id)];
            for position in order {
                take(&test, &events[position]).await;
            }
            take(&test, &events[2]).await;
            assert_comes_to(&test, session_id, status, told).await;
        }
    }
}

async fn every_report_comes_to_the_same_beside_the_end_of_its_call(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    for (number, (name, status, told)) in SAMPLES.into_iter().enumerate() {
        for round in 0..4 {
            let session_id = fresh_id();
            let [start, end] = call_of_samples(session_id).map(|event| prepared(&event));
            let report = from_livekit(name, session_id);
            if (number + round) % 2 == 0 {
                tokio::join!(take(&test, &end), take(&test, &report));
                take(&test, &start).await;
            } else {
                tokio::join!(take(&test, &report), take(&test, &start), take(&test, &end));
            }
            assert_comes_to(&test, session_id, status, told).await;
        }
    }
}

async fn assert_comes_to(
    test: &TestStore,
    session_id: Uuid,
    status: RecordingStatus,
    told: Option<EventType>,
) {
    let is_ready = status == RecordingStatus::Ready;
    let url = is_ready.then(|| "s3://oshara-recordings/sess_a1b2c3.mp4".to_owned());
    let expected = RecordingState { status, url, offset_ms: is_ready.then_some(0) };
    let session = read(test, session_id).await;
    assert_eq!((session.recording, session.revision), (expected, 1));
    let mut all = vec![EventType::SessionFinalized];
    all.extend(told);
    assert_eq!(told_of(test, session_id).await, all);
}

async fn all_reports_of_a_recording_come_to_the_same_in_any_order(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let life = [
        "egress_started__EGRESS_STARTING",
        "egress_updated__EGRESS_ENDING",
        "egress_ended__EGRESS_COMPLETE",
    ];
    for order in ORDERS {
        for place in 0..4 {
            let session_id = fresh_id();
            let mut events: Vec<Prepared> =
                order.iter().map(|position| from_livekit(life[*position], session_id)).collect();
            events.insert(place, prepared(&call_of_samples(session_id)[1]));
            for event in &events {
                take(&test, event).await;
            }
            let ready = (RecordingStatus::Ready, Some(EventType::RecordingReady));
            assert_comes_to(&test, session_id, ready.0, ready.1).await;
        }
    }
}

async fn a_recording_of_which_nothing_is_heard_is_given_up_once_at_the_deadline(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let session_id = expecting(&test, json!({"expected": true})).await;
    let before = read(&test, session_id).await;
    let (one, other) = (Sweeper::new(&test), Sweeper::new(&test));
    one.settle_at(30 * MINUTE - 1).await;
    assert_eq!(read(&test, session_id).await, before);
    other.at(30 * MINUTE);
    tokio::join!(one.settle_at(30 * MINUTE), async { other.sweep.settle().await.unwrap() });
    one.settle_at(31 * MINUTE).await;
    let after = read(&test, session_id).await;
    let failed = RecordingState { status: RecordingStatus::Failed, ..RecordingState::default() };
    let expected = Session {
        is_recording_given_up: true,
        recording: failed,
        version: before.version + 1,
        ..before
    };
    assert_eq!(after, expected);
    let told = [EventType::SessionFinalized, EventType::RecordingFailed];
    assert_eq!(told_of(&test, session_id).await, told);
}

async fn a_recording_that_comes_after_the_deadline_still_counts(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let session_id = expecting(&test, json!({"egress_id": "EG_late"})).await;
    let sweeper = Sweeper::new(&test);
    sweeper.settle_at(31 * MINUTE).await;
    let given_up = read(&test, session_id).await;
    assert_eq!(given_up.recording.status, RecordingStatus::Failed);
    test.take(&[recording(session_id, "EG_late", "EGRESS_COMPLETE")]).await;
    sweeper.settle_at(62 * MINUTE).await;
    let late = read(&test, session_id).await;
    assert_eq!(late.recording.url.as_deref(), Some("s3://recordings/call.mp4"));
    assert_eq!(late.version, given_up.version + 1);
    let told = [EventType::SessionFinalized, EventType::RecordingReady, EventType::RecordingFailed];
    assert_eq!(told_of(&test, session_id).await, told);
    let bodies = bodies_of(&test, session_id).await;
    assert_eq!(bodies.iter().filter(|body| body["data"]["egress_id"] == "EG_late").count(), 2);
}

async fn what_is_heard_after_the_deadline_and_is_not_final_changes_nothing(test: TestStore) {
    let session_id = expecting(&test, json!({"egress_id": "EG_slow"})).await;
    let sweeper = Sweeper::new(&test);
    sweeper.settle_at(31 * MINUTE).await;
    let given_up = read(&test, session_id).await;
    for status in ["EGRESS_ACTIVE", "EGRESS_ENDING"] {
        test.take(&[recording(session_id, "EG_slow", status)]).await;
    }
    assert_eq!(read(&test, session_id).await, given_up);
}

async fn an_egress_that_is_given_up_and_then_fails_is_told_once(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let (session_id, unheard) = (
        expecting(&test, json!({"expected": true})).await,
        expecting(&test, json!({"expected": true})).await,
    );
    test.take(&[recording(session_id, "EG_open", "EGRESS_ENDING")]).await;
    assert_eq!(read(&test, session_id).await.recording.status, RecordingStatus::Processing);
    Sweeper::new(&test).settle_at(31 * MINUTE).await;
    for (session_id, egress_id) in [(session_id, Some("EG_open")), (unheard, None)] {
        let late = egress_id.unwrap_or("EG_late");
        test.take(&[recording(session_id, late, "EGRESS_FAILED")]).await;
        let told = [EventType::SessionFinalized, EventType::RecordingFailed];
        assert_eq!(told_of(&test, session_id).await, told);
        let bodies = bodies_of(&test, session_id).await;
        assert_eq!(bodies[1]["data"]["egress_id"].as_str(), egress_id);
    }
}

async fn a_session_that_is_in_progress_has_no_deadline(test: TestStore) {
    let session_id = fresh_id();
    test.take(&[started(session_id), recording(session_id, "EG_1", "EGRESS_ACTIVE")]).await;
    let before = read(&test, session_id).await;
    assert_eq!(before.recording.status, RecordingStatus::Pending);
    Sweeper::new(&test).settle_at(24 * 60 * MINUTE).await;
    assert_eq!(read(&test, session_id).await, before);
}

async fn a_file_that_the_worker_stored_is_found_when_it_is_there(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let sweeper = Sweeper::new(&test);
    let (file, url) = sweeper.file("call.mp4");
    let session_id = expecting(&test, json!({"url": url})).await;
    let before = read(&test, session_id).await;
    sweeper.look_at(0).await;
    std::fs::write(&file, b"").unwrap();
    sweeper.look_at(MINUTE).await;
    assert_eq!(read(&test, session_id).await, before, "an empty file is none");
    std::fs::write(&file, b"0123456789").unwrap();
    sweeper.look_at(2 * MINUTE).await;
    let found = read(&test, session_id).await;
    assert_eq!((found.recording.status, found.recording.url), (RecordingStatus::Ready, Some(url)));
    assert_eq!(found.version, before.version + 1);
    std::fs::remove_file(&file).unwrap();
    sweeper.look_at(60 * MINUTE).await;
    sweeper.settle_at(60 * MINUTE).await;
    assert_eq!(read(&test, session_id).await.recording.status, RecordingStatus::Ready);
    let told = [EventType::SessionFinalized, EventType::RecordingReady];
    assert_eq!(told_of(&test, session_id).await, told);
    let bodies = bodies_of(&test, session_id).await;
    assert_eq!(bodies[1]["data"].get("egress_id"), None, "there was no egress");
}

async fn a_file_that_is_not_there_is_looked_for_with_growing_pauses_until_the_deadline(
    test: TestStore,
) {
    let sweeper = Sweeper::new(&test);
    let session_id = expecting(&test, json!({"url": sweeper.file("never.mp4").1})).await;
    let mut looks = Vec::new();
    for minute in 0..40 {
        sweeper.at(minute * MINUTE);
        let leased_until = after(minute * MINUTE + 1);
        let awaited =
            test.store.awaited_files(after(minute * MINUTE), leased_until, 10).await.unwrap();
        if !awaited.is_empty() {
            looks.push(minute);
            test.store.look_again(&[(session_id, after(minute * MINUTE))]).await.unwrap();
            sweeper.sweep.look().await.unwrap();
        }
        sweeper.sweep.settle().await.unwrap();
    }
    assert_eq!(looks, [0, 1, 2, 3, 5, 8, 12, 18, 27, 29]);
    assert_eq!(read(&test, session_id).await.recording.status, RecordingStatus::Failed);
}

async fn a_file_in_no_place_of_ours_is_taken_at_the_workers_word(test: TestStore) {
    let url = "s3://somebody-elses/call.mp4";
    let session_id = expecting(&test, json!({"url": url})).await;
    Sweeper::new(&test).look_at(0).await;
    let recording = read(&test, session_id).await.recording;
    assert_eq!((recording.status, recording.url.as_deref()), (RecordingStatus::Ready, Some(url)));
}

async fn a_file_that_two_processes_find_is_told_once(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let (one, other) = (Sweeper::new(&test), Sweeper::new(&test));
    let sessions: Vec<Uuid> = {
        let mut sessions = Vec::new();
        for number in 0..100 {
            let (file, url) = one.file(&format!("{number}.mp4"));
            std::fs::write(file, b"0123456789").unwrap();
            sessions.push(expecting(&test, json!({"url": url})).await);
        }
        sessions
    };
    // For the other one it lies outside of what it may see.
    let looking = async |sweeper: &Sweeper| while sweeper.sweep.look().await.unwrap() {};
    tokio::join!(looking(&one), looking(&other));
    for session_id in sessions {
        assert_eq!(read(&test, session_id).await.recording.status, RecordingStatus::Ready);
        let told = [EventType::SessionFinalized, EventType::RecordingReady];
        assert_eq!(told_of(&test, session_id).await, told);
    }
}

async fn a_recording_without_a_session_is_a_failure_after_seven_days(test: TestStore) {
    let session_id = fresh_id();
    let mut event = recording(fresh_id(), "EG_lost", "EGRESS_COMPLETE");
    event["session_id"] = json!(session_id);
    let (other, mut named) = (fresh_id(), recording(session_id, "EG_2", "EGRESS_COMPLETE"));
    named["session_id"] = json!(other);
    test.take(&[event, ended(other), named]).await;
    let sweeper = Sweeper::new(&test);
    sweeper.settle_at(7 * 24 * 60 * MINUTE - 1).await;
    let filter = FailureFilter { limit: 10, ..FailureFilter::default() };
    assert_eq!(test.store.failures(&filter).await.unwrap(), []);
    for _ in 0..2 {
        sweeper.settle_at(7 * 24 * 60 * MINUTE).await;
    }
    let failures = test.store.failures(&filter).await.unwrap();
    let [failure] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!((failure.rejection.code, failure.seen), (FailureCode::UnmatchedRecording, 1));
    assert_eq!(failure.rejection.session_id, Some(session_id));
    let (_, raw) = test.store.failure(failure.failure_id).await.unwrap().unwrap();
    let Ok(Event::Recording(lost)) = decode(&raw) else { panic!("{raw:?}") };
    assert_eq!(lost.egress.egress_id, "EG_lost");
    // The row is gone: the session that comes now has nothing to join.
    test.take(&[ended(session_id)]).await;
    assert_eq!(read(&test, session_id).await.recording.status, RecordingStatus::None);
    // What the failure kept can be sent again.
    test.take(&[serde_json::from_slice(&raw).unwrap()]).await;
    assert_eq!(read(&test, session_id).await.recording.status, RecordingStatus::Ready);
    assert_eq!(read(&test, other).await.recording.status, RecordingStatus::Ready);
}

async fn a_recording_that_only_livekit_told_of_is_forgotten_after_seven_days(test: TestStore) {
    let (foreign, ours) = (fresh_id(), fresh_id());
    for session_id in [foreign, ours] {
        take(&test, &from_livekit("egress_updated__EGRESS_ACTIVE", session_id)).await;
    }
    let mut told = recording(ours, &format!("EG_{ours}"), "EGRESS_ACTIVE");
    told["egress"]["updatedAt"] = json!("7");
    test.take(&[told]).await;
    Sweeper::new(&test).settle_at(7 * 24 * 60 * MINUTE).await;
    let filter = FailureFilter { limit: 10, ..FailureFilter::default() };
    let failures = test.store.failures(&filter).await.unwrap();
    let ids: Vec<_> = failures.iter().map(|failure| failure.rejection.event_id.clone()).collect();
    assert_eq!(ids, [Some(format!("EG_{ours}"))]);
    for session_id in [foreign, ours] {
        test.take(&[call_of_samples(session_id)[0].clone()]).await;
        let recording = read(&test, session_id).await.recording;
        assert_eq!(recording.status, RecordingStatus::None, "the row is gone");
    }
}

async fn the_running_service_gives_up_what_nobody_tells_of(test: TestStore) {
    let receiver = Receiver::start().await;
    let site = Site::embedded(test).await.with("FINALIZER_RECORDING_DEADLINE", "90s");
    site.subscribe(&receiver).await;
    // It was finalized in the tests' time, long ago for the service.
    let session_id = expecting(&site.test, json!({"egress_id": "EG_1"})).await;
    let process = site.start().await;
    until("both are told", async || receiver.told().len() == 2).await;
    let told = receiver.told();
    let failed = told.iter().find(|told| told.event_type() == "session.recording_failed").unwrap();
    assert_eq!(
        (failed.session_id(), &failed.json()["data"]["egress_id"]),
        (session_id, &json!("EG_1"))
    );
    let (_, session) = process.caller().session(session_id).await;
    assert_eq!(session["recording_status"], json!("FAILED"));
    process.stop().await;
}

/// A session that was finalized at noon, with this to say of its recording.
async fn expecting(test: &TestStore, request: Value) -> Uuid {
    let session_id = fresh_id();
    let mut event = ended(session_id);
    event["recording"] = request;
    test.take(&[event]).await;
    assert_eq!(read(test, session_id).await.recording.status, RecordingStatus::Pending);
    session_id
}

async fn read(test: &TestStore, session_id: Uuid) -> Session {
    test.store.session(session_id).await.unwrap().expect("the session is readable")
}

/// What was told of a session, by type.
async fn told_of(test: &TestStore, session_id: Uuid) -> Vec<EventType> {
    let deliveries = test.store.deliveries_of(session_id).await.unwrap();
    let mut told: Vec<EventType> = deliveries.iter().map(|delivery| delivery.event_type).collect();
    told.sort();
    told
}

async fn bodies_of(test: &TestStore, session_id: Uuid) -> Vec<Value> {
    let mut bodies = Vec::new();
    for delivery in test.store.deliveries_of(session_id).await.unwrap() {
        let story = test.store.delivery(delivery.delivery_id).await.unwrap().unwrap();
        bodies.push(serde_json::from_slice(&story.body).unwrap());
    }
    bodies
}

struct HandClock(Mutex<DateTime<Utc>>);

impl Clock for HandClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

/// The sweep of one process, over a folder of its own.
struct Sweeper {
    sweep: Sweep,
    clock: Arc<HandClock>,
    folder: TempDir,
}

impl Sweeper {
    fn new(test: &TestStore) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().canonicalize().unwrap().to_str().unwrap().to_owned();
        let places = Places::new(&PlacesSettings {
            places: &[place],
            public_url: "https://voice.example.com",
            link_key: [7; 32],
            link_lifetime: Duration::from_mins(15),
        });
        let clock = Arc::new(HandClock(Mutex::new(noon())));
        let sweep = Sweep::new(SweepParts {
            metrics: Arc::default(),
            store: Arc::clone(&test.store),
            clock: Arc::<HandClock>::clone(&clock),
            places: Arc::new(places.unwrap()),
            public_url: "https://voice.example.com".to_owned(),
            deadline: Duration::from_mins(30),
        });
        Self { sweep, clock, folder }
    }

    /// A file in the folder, and its address.
    fn file(&self, name: &str) -> (std::path::PathBuf, String) {
        let path = Path::canonicalize(self.folder.path()).unwrap().join(name);
        let url = format!("file://{}", path.display());
        (path, url)
    }

    /// It is so many seconds after noon.
    fn at(&self, seconds: i64) {
        *self.clock.0.lock().unwrap() = after(seconds);
    }

    async fn settle_at(&self, seconds: i64) {
        self.at(seconds);
        assert!(!self.sweep.settle().await.unwrap(), "there is no more to do");
    }

    async fn look_at(&self, seconds: i64) {
        self.at(seconds);
        assert!(!self.sweep.look().await.unwrap(), "there is no more to do");
    }
}
