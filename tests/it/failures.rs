//! Failures and their replays, on both databases: what is kept, what a replay does and does not do,
//! and who may do it at the same time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use finalizer::clock::SystemClock;
use finalizer::event::FailureCode;
use finalizer::finalize::{Outcome, PriceBook};
use finalizer::intake::{IntakeParts, NoDesk, RawEvent, ReplayOrder, Replayed, Replayer};
use finalizer::retention::Retention;
use finalizer::store::{
    Beginning, Ending, Failure, FailureFilter, FailurePlace, FailureState, OpenFailures, Progress,
    Refusal, Replay, ReplayOutcome, ReplayState, SharedStore,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::{
    TestDesk, TestStore, after, ended, endpoint, fresh_id, noon, on_both_stores, prepared,
    prepared_raw, started, terms, until,
};

on_both_stores![
    a_failure_tells_what_is_known_of_its_event,
    failures_are_listed_page_by_page_by_what_is_asked,
    a_replay_has_its_effect_and_closes_the_failure,
    a_replay_that_fails_again_leaves_the_failure_open_for_the_present_reason,
    the_same_event_that_is_kept_for_the_present_reason_too_keeps_it,
    an_event_that_was_taken_meanwhile_is_a_duplicate_and_fine,
    of_replays_at_once_one_has_the_effect,
    what_is_closed_is_neither_replayed_nor_discarded_again,
    a_closed_failure_whose_event_comes_again_is_open_again,
    what_a_process_died_over_is_tried_again_by_name_alone,
    an_attempt_that_was_taken_over_has_no_effect,
    an_attempt_of_a_living_process_is_waited_for,
    an_edited_event_is_taken_and_the_original_kept,
    a_conflicting_event_supersedes_when_somebody_says_so,
    nothing_supersedes_into_the_session_of_another_owner,
    a_dry_run_changes_nothing_and_tells_the_differences,
    old_bytes_are_dropped_and_come_back_with_their_event,
    a_job_goes_through_what_its_filter_finds,
    a_dry_run_by_a_job_changes_nothing,
    a_job_goes_on_where_a_dead_process_left_it,
    a_step_of_a_cancelled_job_has_no_effect,
];

/// Replays as a process of its own.
struct Worker {
    replayer: Replayer,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Worker {
    fn new(test: &TestStore) -> Self {
        Self::with(&test.store, 4 << 20, false)
    }

    fn with(store: &SharedStore, max_event_bytes: usize, does_jobs: bool) -> Self {
        let parts = IntakeParts {
            metrics: Arc::default(),
            store: Arc::clone(store),
            clock: Arc::new(SystemClock::default()),
            prices: Arc::new(PriceBook::builtin()),
            public_url: "https://voice.example.com".to_owned(),
            recordings_place: "s3://recordings".to_owned(),
            desk: Arc::new(NoDesk),
            max_event_bytes,
        };
        let stop = CancellationToken::new();
        let replayer = Replayer::new(parts, stop.clone());
        let running = tokio::spawn(replayer.clone().run(does_jobs));
        Self { replayer, stop, running }
    }

    async fn replay(&self, failure_id: Uuid) -> Replayed {
        self.replayer.replay(failure_id, order()).await.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

fn order() -> ReplayOrder {
    ReplayOrder { by: "user 1".into(), is_superseding: false, instead: None, is_named: true }
}

fn superseding() -> ReplayOrder {
    ReplayOrder { is_superseding: true, ..order() }
}

/// An event that is larger than it may be, as it is kept.
async fn too_large(test: &TestStore, event: &Value) -> Uuid {
    let bytes = Bytes::from(event.to_string());
    let raw = RawEvent { bytes, source: "http".into(), headers: None };
    let event = finalizer::intake::prepare(raw, &PriceBook::builtin(), 100, noon());
    kept(&test.take_prepared(&TestDesk::closed(), noon(), &[event]).await.outcomes)
}

async fn failed(test: &TestStore, event: &Value) -> Uuid {
    kept(&test.take(std::slice::from_ref(event)).await.outcomes)
}

fn kept(outcomes: &[Outcome]) -> Uuid {
    match outcomes {
        [Outcome::Failed { failure_id, .. }] => *failure_id,
        other => panic!("{other:?}"),
    }
}

async fn failure(test: &TestStore, failure_id: Uuid) -> Failure {
    test.store.failure(failure_id).await.unwrap().unwrap().0
}

async fn revision(test: &TestStore, session_id: Uuid) -> Option<i32> {
    test.store.session(session_id).await.unwrap().map(|session| session.revision)
}

/// Another process, that is known as alive until then.
async fn process(test: &TestStore, alive_for: TimeDelta) -> Uuid {
    let (process, now) = (fresh_id(), SystemClock::machine_now());
    test.store.enter(process, now, now + alive_for).await.unwrap();
    process
}

fn beginning(failure_id: Uuid, process: Uuid) -> Beginning {
    let now = SystemClock::machine_now();
    Beginning { failure_id, process, is_named: false, is_edited: false, now }
}

async fn a_failure_tells_what_is_known_of_its_event(test: TestStore) {
    let session_id = fresh_id();
    let mut wrong = ended(session_id);
    wrong["started_at"] = json!("yesterday");
    let raw = RawEvent {
        bytes: wrong.to_string().into(),
        source: "amqp:finalizer.events".into(),
        headers: Some(r#"[{"name":"type","value":"session.ended"}]"#.into()),
    };
    test.take_prepared(&TestDesk::closed(), noon(), &[prepared_raw(raw)]).await;
    let all = test.store.failures(&everything()).await.unwrap();
    let [failure] = &all[..] else { panic!("{all:?}") };
    assert_eq!(failure.rejection.session_id, Some(session_id));
    assert_eq!(failure.tenant_id.as_deref(), Some("acme"));
    assert_eq!(failure.character_slug.as_deref(), Some("support-bot"));
    assert_eq!(failure.headers.as_deref(), Some(r#"[{"name":"type","value":"session.ended"}]"#));
    assert_eq!((failure.state, failure.replays, failure.seen), (FailureState::Open, 0, 1));
    let (closed, replaying) = (&failure.closed, failure.replaying);
    assert_eq!((closed, replaying, failure.raw_expired_at), (&None, None, None));
}

fn everything() -> FailureFilter {
    FailureFilter { limit: 1000, ..FailureFilter::default() }
}

async fn failures_are_listed_page_by_page_by_what_is_asked(test: TestStore) {
    let mut events = Vec::new();
    for index in 0..7 {
        let mut wrong = started(fresh_id());
        wrong["character_slug"] = json!(if index % 2 == 0 { "even" } else { "odd" });
        wrong["tenant_id"] = json!(format!("tenant-{index}"));
        wrong["started_at"] = json!(format!("day {index}"));
        events.push(wrong);
    }
    for (index, event) in (0..).zip(&events) {
        let desk = TestDesk::closed();
        test.take_prepared(&desk, after(index / 2), &[prepared(event)]).await;
    }
    let list = async |filter: FailureFilter| test.store.failures(&filter).await.unwrap();
    let whole = list(everything()).await;
    assert_eq!(whole.len(), 7);
    let mut paged = Vec::new();
    let mut before = None;
    loop {
        let page = list(FailureFilter { before, limit: 2, ..everything() }).await;
        let Some(end) = page.last() else { break };
        before = Some(FailurePlace::of(end));
        paged.extend(page);
    }
    assert_eq!(paged, whole);
    let times: Vec<_> = whole.iter().map(|failure| failure.last_seen_at).collect();
    assert!(times.is_sorted_by(|one, other| one >= other), "{times:?}");
    let count = async |filter: FailureFilter| list(filter).await.len();
    let slug = Some("even".to_owned());
    assert_eq!(count(FailureFilter { character_slug: slug, ..everything() }).await, 4);
    let tenant_id = Some("tenant-3".to_owned());
    assert_eq!(count(FailureFilter { tenant_id, ..everything() }).await, 1);
    let (since, until) = (Some(after(1)), Some(after(3)));
    assert_eq!(count(FailureFilter { since, until, ..everything() }).await, 4);
    let state = Some(FailureState::Replayed);
    assert_eq!(count(FailureFilter { state, ..everything() }).await, 0);
    let code = Some(FailureCode::InvalidEvent);
    assert_eq!(count(FailureFilter { code, ..everything() }).await, 7);
}

async fn a_replay_has_its_effect_and_closes_the_failure(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let session_id = fresh_id();
    let failure_id = too_large(&test, &ended(session_id)).await;
    let worker = Worker::new(&test);
    assert_eq!(worker.replay(failure_id).await, Ok(Outcome::Finalized(session_id)));
    assert_eq!(revision(&test, session_id).await, Some(1));
    let deliveries = test.store.deliveries_of(session_id).await.unwrap();
    assert_eq!(deliveries.len(), 1, "it is told of, as of any other");
    let failure = failure(&test, failure_id).await;
    assert_eq!((failure.state, failure.replays), (FailureState::Replayed, 1));
    let closed = failure.closed.unwrap();
    assert_eq!((&*closed.by, closed.outcome), ("user 1", Some(ReplayOutcome::Finalized)));
    assert_eq!((closed.is_edited, failure.replaying), (false, None));
    worker.stop().await;
}

async fn a_replay_that_fails_again_leaves_the_failure_open_for_the_present_reason(test: TestStore) {
    let mut wrong = ended(fresh_id());
    wrong["started_at"] = json!("yesterday");
    let failure_id = too_large(&test, &wrong).await;
    let worker = Worker::new(&test);
    for replays in 1..=2 {
        let replayed = worker.replay(failure_id).await.unwrap();
        let Outcome::Failed { rejection, .. } = &replayed else { panic!("{replayed:?}") };
        assert_eq!(rejection.code, FailureCode::InvalidEvent);
        let failure = failure(&test, failure_id).await;
        assert_eq!((failure.state, failure.replays), (FailureState::Open, replays));
        assert_eq!(failure.rejection.code, FailureCode::InvalidEvent);
        assert_eq!(failure.rejection.pointer.as_deref(), Some("/started_at"));
        assert_eq!(failure.seen, 1, "it did not come again");
        assert!(failure.last_seen_at > noon() && failure.replaying.is_none());
    }
    assert_eq!(test.store.failures(&everything()).await.unwrap().len(), 1);
    worker.stop().await;
}

async fn the_same_event_that_is_kept_for_the_present_reason_too_keeps_it(test: TestStore) {
    let mut wrong = ended(fresh_id());
    wrong["started_at"] = json!("yesterday");
    let large = too_large(&test, &wrong).await;
    let invalid = failed(&test, &wrong).await;
    let worker = Worker::new(&test);
    let replayed = worker.replay(large).await.unwrap();
    assert!(matches!(replayed, Outcome::Failed { .. }), "{replayed:?}");
    let large = failure(&test, large).await;
    assert_eq!((large.rejection.code, large.replays), (FailureCode::TooLarge, 1));
    assert_eq!((large.state, large.replaying), (FailureState::Open, None));
    assert_eq!(failure(&test, invalid).await.replays, 0);
    worker.stop().await;
}

async fn an_event_that_was_taken_meanwhile_is_a_duplicate_and_fine(test: TestStore) {
    let session_id = fresh_id();
    let event = ended(session_id);
    let failure_id = too_large(&test, &event).await;
    test.take(&[event]).await;
    let worker = Worker::new(&test);
    let replayed = worker.replay(failure_id).await;
    assert_eq!(replayed, Ok(Outcome::Duplicate(Some(session_id))));
    let failure = failure(&test, failure_id).await;
    assert_eq!(failure.state, FailureState::Replayed);
    assert_eq!(failure.closed.unwrap().outcome, Some(ReplayOutcome::Duplicate));
    worker.stop().await;
}

async fn of_replays_at_once_one_has_the_effect(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let workers = [Worker::new(&test), Worker::new(&test)];
    for _ in 0..5 {
        let session_id = fresh_id();
        let failure_id = too_large(&test, &ended(session_id)).await;
        let attempts = (0..8).map(|index| workers[index % 2].replay(failure_id));
        let (done, refused): (Vec<_>, Vec<_>) =
            join_all(attempts).await.into_iter().partition(Result::is_ok);
        assert_eq!(done, [Ok(Outcome::Finalized(session_id))]);
        for refusal in refused {
            let refusal = refusal.unwrap_err();
            let is_told =
                matches!(refusal, Refusal::BeingReplayed { .. } | Refusal::Replayed { .. });
            assert!(is_told, "{refusal:?}");
        }
        assert_eq!(failure(&test, failure_id).await.replays, 1);
        assert_eq!(test.store.deliveries_of(session_id).await.unwrap().len(), 1);
    }
    for worker in workers {
        worker.stop().await;
    }
}

async fn what_is_closed_is_neither_replayed_nor_discarded_again(test: TestStore) {
    let worker = Worker::new(&test);
    let (replayed, discarded) =
        (too_large(&test, &ended(fresh_id())).await, too_large(&test, &ended(fresh_id())).await);
    worker.replay(replayed).await.unwrap();
    let discard = async |failure_id| {
        test.store.discard_failure(failure_id, "user 2", after(60)).await.unwrap()
    };
    assert_eq!(discard(discarded).await, Ok(()));
    let closed = failure(&test, discarded).await;
    assert_eq!(closed.state, FailureState::Discarded);
    let closed = closed.closed.unwrap();
    assert_eq!((closed.at, &*closed.by, closed.outcome), (after(60), "user 2", None));
    for failure_id in [replayed, discarded] {
        let before = failure(&test, failure_id).await;
        let refusal = worker.replay(failure_id).await.unwrap_err();
        assert_eq!(discard(failure_id).await, Err(refusal.clone()));
        assert!(matches!(refusal, Refusal::Replayed { .. } | Refusal::Discarded { .. }));
        assert_eq!(failure(&test, failure_id).await, before);
    }
    let nothing = fresh_id();
    assert_eq!(worker.replay(nothing).await, Err(Refusal::Unknown));
    assert_eq!(discard(nothing).await, Err(Refusal::Unknown));
    worker.stop().await;
}

async fn a_closed_failure_whose_event_comes_again_is_open_again(test: TestStore) {
    let event = ended(fresh_id());
    let failure_id = too_large(&test, &event).await;
    test.store.discard_failure(failure_id, "user 2", after(60)).await.unwrap().unwrap();
    assert_eq!(too_large(&test, &event).await, failure_id);
    let again = failure(&test, failure_id).await;
    assert_eq!((again.state, again.closed, again.seen), (FailureState::Open, None, 2));
    let worker = Worker::new(&test);
    assert!(worker.replay(failure_id).await.is_ok());
    worker.stop().await;
}

async fn what_a_process_died_over_is_tried_again_by_name_alone(test: TestStore) {
    let session_id = fresh_id();
    let failure_id = too_large(&test, &ended(session_id)).await;
    let dead = process(&test, TimeDelta::milliseconds(-1)).await;
    let begun = test.store.begin_replay(beginning(failure_id, dead)).await.unwrap();
    assert_eq!(begun.unwrap().1.len(), ended(session_id).to_string().len());
    let worker = Worker::new(&test);
    let by_a_job = ReplayOrder { is_named: false, ..order() };
    let refused = worker.replayer.replay(failure_id, by_a_job.clone()).await.unwrap();
    assert!(matches!(refused, Err(Refusal::Died { .. })), "{refused:?}");
    let refused = worker.replayer.dry_run(failure_id, &by_a_job).await.unwrap();
    assert!(refused.is_err(), "not even a dry run of a job tries it");
    assert_eq!(revision(&test, session_id).await, None);
    assert_eq!(worker.replay(failure_id).await, Ok(Outcome::Finalized(session_id)));
    worker.stop().await;
}

async fn an_attempt_that_was_taken_over_has_no_effect(test: TestStore) {
    let session_id = fresh_id();
    let event = ended(session_id);
    let failure_id = too_large(&test, &event).await;
    let slow = process(&test, TimeDelta::milliseconds(-1)).await;
    test.store.begin_replay(beginning(failure_id, slow)).await.unwrap().unwrap();
    let other = process(&test, TimeDelta::minutes(1)).await;
    let named = Beginning { is_named: true, ..beginning(failure_id, other) };
    test.store.begin_replay(named).await.unwrap().unwrap();
    let (desk, event) = (TestDesk::closed(), prepared(&event));
    let ending = |process| Ending {
        terms: terms(&desk, after(90)),
        failure_id,
        process,
        event: &event,
        is_edited: false,
        by: "user 1",
        replay_id: None,
    };
    assert!(test.store.end_replay(ending(slow)).await.unwrap().is_none());
    assert_eq!(revision(&test, session_id).await, None);
    assert!(test.store.end_replay(ending(other)).await.unwrap().is_some());
    assert_eq!(revision(&test, session_id).await, Some(1));
    assert!(test.store.end_replay(ending(other)).await.unwrap().is_none());
}

async fn an_attempt_of_a_living_process_is_waited_for(test: TestStore) {
    let failure_id = too_large(&test, &ended(fresh_id())).await;
    let other = process(&test, TimeDelta::minutes(1)).await;
    test.store.begin_replay(beginning(failure_id, other)).await.unwrap().unwrap();
    let worker = Worker::new(&test);
    let refusal = worker.replay(failure_id).await.unwrap_err();
    assert!(matches!(refusal, Refusal::BeingReplayed { .. }), "{refusal:?}");
    let now = SystemClock::machine_now();
    let refusal = test.store.discard_failure(failure_id, "user 1", now).await.unwrap();
    assert!(matches!(refusal, Err(Refusal::BeingReplayed { .. })), "{refusal:?}");
    // It goes without having come to anything.
    test.store.leave_replays(other).await.unwrap();
    assert!(worker.replay(failure_id).await.is_ok());
    worker.stop().await;
}

async fn an_edited_event_is_taken_and_the_original_kept(test: TestStore) {
    let session_id = fresh_id();
    let mut wrong = ended(session_id);
    wrong["started_at"] = json!("yesterday");
    let failure_id = failed(&test, &wrong).await;
    let before = failure(&test, failure_id).await;
    let worker = Worker::new(&test);
    let with = |event: &Value| ReplayOrder { instead: Some(event.to_string().into()), ..order() };
    let other = with(&json!({"type": "nothing"}));
    let again = worker.replayer.replay(failure_id, other).await.unwrap().unwrap();
    assert!(matches!(again, Outcome::Failed { .. }), "{again:?}");
    let still = failure(&test, failure_id).await;
    assert_eq!((still.replays, still.state), (1, FailureState::Open));
    assert_eq!(still.rejection, before.rejection, "it says nothing of the original");
    let replayed = worker.replayer.replay(failure_id, with(&ended(session_id))).await.unwrap();
    assert_eq!(replayed, Ok(Outcome::Finalized(session_id)));
    let (closed, raw) = test.store.failure(failure_id).await.unwrap().unwrap();
    assert!(closed.closed.unwrap().is_edited);
    let original: Value = serde_json::from_slice(&raw).unwrap();
    assert_eq!(original["started_at"], "yesterday");
    worker.stop().await;
}

async fn a_conflicting_event_supersedes_when_somebody_says_so(test: TestStore) {
    test.store.add_endpoint(&endpoint()).await.unwrap();
    let session_id = fresh_id();
    let first = ended(session_id);
    test.take(std::slice::from_ref(&first)).await;
    let mut second = first.clone();
    second["messages"][0]["text"] = json!("Something else.");
    let failure_id = failed(&test, &second).await;
    let worker = Worker::new(&test);
    let replayed = worker.replay(failure_id).await.unwrap();
    assert!(matches!(replayed, Outcome::Failed { .. }), "{replayed:?}");
    let before = test.store.session(session_id).await.unwrap().unwrap();
    let replayed = worker.replayer.replay(failure_id, superseding()).await.unwrap();
    assert_eq!(replayed, Ok(Outcome::Finalized(session_id)));
    let session = test.store.session(session_id).await.unwrap().unwrap();
    assert_eq!((session.id, session.revision), (before.id, 2));
    assert!(session.version > before.version && session.finalized_at > before.finalized_at);
    assert_eq!(session.superseded, [before.digest]);
    assert!(session.transcript.contains("Something else."));
    let deliveries = test.store.deliveries_of(session_id).await.unwrap();
    let messages: Vec<_> = deliveries.iter().map(|owed| owed.message_id).collect();
    assert!(messages.len() == 2 && messages[0] != messages[1], "{messages:?}");
    // Copies of both are known from now on.
    let duplicate = Outcome::Duplicate(Some(session_id));
    assert_eq!(test.take(&[first, second]).await.outcomes, [duplicate.clone(), duplicate]);
    assert_eq!(test.store.deliveries_of(session_id).await.unwrap().len(), 2);
    worker.stop().await;
}

async fn nothing_supersedes_into_the_session_of_another_owner(test: TestStore) {
    let session_id = fresh_id();
    test.take(&[ended(session_id)]).await;
    let before = test.store.session(session_id).await.unwrap();
    let mut foreign = ended(session_id);
    foreign["character_owner"] = json!(8);
    let failure_id = failed(&test, &foreign).await;
    let worker = Worker::new(&test);
    let replayed = worker.replayer.replay(failure_id, superseding()).await.unwrap().unwrap();
    let Outcome::Failed { rejection, .. } = &replayed else { panic!("{replayed:?}") };
    assert_eq!(rejection.pointer.as_deref(), Some("/character_owner"));
    assert_eq!(test.store.session(session_id).await.unwrap(), before);
    worker.stop().await;
}

async fn a_dry_run_changes_nothing_and_tells_the_differences(test: TestStore) {
    let (session_id, new) = (fresh_id(), fresh_id());
    test.take(&[ended(session_id)]).await;
    let mut other = ended(session_id);
    other["messages"][1]["text"] = json!("I want nothing.");
    other["close_reason"] = json!("user_hung_up");
    let conflicting = failed(&test, &other).await;
    let fine = too_large(&test, &ended(new)).await;
    let before = test.store.failures(&everything()).await.unwrap();
    let worker = Worker::new(&test);
    let tried = worker.replayer.dry_run(conflicting, &order()).await.unwrap().unwrap();
    assert!(matches!(tried.outcome, Outcome::Failed { .. }), "{tried:?}");
    let fields: Vec<&str> = tried.differences.iter().map(|found| found.field.as_str()).collect();
    assert_eq!(fields, ["close_reason", "transcript[1]"]);
    assert_eq!(tried.differences[0].event, json!("user_hung_up"));
    let tried = worker.replayer.dry_run(conflicting, &superseding()).await.unwrap().unwrap();
    assert_eq!(tried.outcome, Outcome::Finalized(session_id));
    assert_eq!(tried.differences.len(), 2);
    let tried = worker.replayer.dry_run(fine, &order()).await.unwrap().unwrap();
    assert_eq!((tried.outcome, tried.differences), (Outcome::Finalized(new), vec![]));
    assert_eq!(test.store.failures(&everything()).await.unwrap(), before);
    assert_eq!(revision(&test, new).await, None);
    assert_eq!(revision(&test, session_id).await, Some(1));
    worker.stop().await;
}

async fn old_bytes_are_dropped_and_come_back_with_their_event(test: TestStore) {
    let event = ended(fresh_id());
    let failure_id = too_large(&test, &event).await;
    let young = failed(&test, &json!({"type": "nothing"})).await;
    let retention = Retention {
        store: Arc::clone(&test.store),
        clock: Arc::new(SystemClock::default()),
        failures: Duration::from_hours(24),
        deliveries: Duration::MAX,
    };
    // It is about events of long ago; this one comes again now.
    let now = SystemClock::machine_now();
    let mut again = prepared(&json!({"type": "nothing"}));
    again.failure_id = fresh_id();
    test.take_prepared(&TestDesk::closed(), now, &[again]).await;
    assert_eq!(retention.drop_failures().await.unwrap(), 1);
    assert_eq!(retention.drop_failures().await.unwrap(), 0);
    let (old, raw) = test.store.failure(failure_id).await.unwrap().unwrap();
    assert!(raw.is_empty() && old.raw_expired_at.is_some() && old.size_bytes > 100);
    assert_eq!(failure(&test, young).await.raw_expired_at, None);
    let worker = Worker::new(&test);
    let refusal = worker.replay(failure_id).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Expired { .. }), "{refusal:?}");
    assert!(refusal.to_string().contains("--failure-retention"), "{refusal}");
    assert!(worker.replayer.dry_run(failure_id, &order()).await.unwrap().is_err());
    assert_eq!(too_large(&test, &event).await, failure_id);
    let (back, raw) = test.store.failure(failure_id).await.unwrap().unwrap();
    assert_eq!((back.raw_expired_at, &*raw), (None, event.to_string().as_bytes()));
    assert!(worker.replay(failure_id).await.is_ok());
    worker.stop().await;
}

fn job(which: OpenFailures) -> Replay {
    Replay {
        replay_id: fresh_id(),
        which,
        is_dry_run: false,
        is_superseding: false,
        per_second: 5000,
        ordered_by: "user 1".to_owned(),
        state: ReplayState::Running,
        matched: None,
        progress: Progress::default(),
        created_at: SystemClock::machine_now(),
        finished_at: None,
    }
}

fn all_open() -> OpenFailures {
    OpenFailures::all(SystemClock::machine_now())
}

async fn done(test: &TestStore, replay_id: Uuid) -> Replay {
    let mut found = None;
    until("the replay has ended", async || {
        found = test.store.replay(replay_id).await.unwrap();
        found.as_ref().is_some_and(|job| job.state != ReplayState::Running)
    })
    .await;
    found.unwrap()
}

async fn a_job_goes_through_what_its_filter_finds(test: TestStore) {
    let sessions: Vec<Uuid> = (0..7).map(|_| fresh_id()).collect();
    let mut failures = Vec::new();
    for session_id in &sessions {
        failures.push(too_large(&test, &ended(*session_id)).await);
    }
    let invalid = failed(&test, &json!({"type": "nothing"})).await;
    // One is being replayed by another process.
    let other = process(&test, TimeDelta::minutes(1)).await;
    test.store.begin_replay(beginning(failures[3], other)).await.unwrap().unwrap();
    let which = OpenFailures { code: Some(FailureCode::TooLarge), ..all_open() };
    assert_eq!(test.store.count_open_failures(&which).await.unwrap(), Some(7));
    assert_eq!(test.store.count_open_failures(&all_open()).await.unwrap(), Some(8));
    let ordered = job(which);
    test.store.add_replay(&ordered).await.unwrap();
    assert_eq!(test.store.replay(ordered.replay_id).await.unwrap(), Some(ordered.clone()));
    assert_eq!(test.store.replays().await.unwrap(), std::slice::from_ref(&ordered));
    let worker = Worker::with(&test.store, 4 << 20, true);
    let job = done(&test, ordered.replay_id).await;
    assert_eq!(job.state, ReplayState::Done);
    let Progress { finalized, skipped, failed, .. } = job.progress;
    assert_eq!((finalized, skipped, failed), (6, 1, 0));
    for (index, session_id) in sessions.iter().enumerate() {
        let expected = (index != 3).then_some(1);
        assert_eq!(revision(&test, *session_id).await, expected, "{index}");
    }
    assert_eq!(failure(&test, invalid).await.replays, 0);
    assert!(!test.store.cancel_replay(job.replay_id, after(9)).await.unwrap());
    worker.stop().await;
}

async fn a_dry_run_by_a_job_changes_nothing(test: TestStore) {
    let session_id = fresh_id();
    too_large(&test, &ended(session_id)).await;
    failed(&test, &json!({"type": "nothing"})).await;
    let before = test.store.failures(&everything()).await.unwrap();
    let ordered = Replay { is_dry_run: true, ..job(all_open()) };
    test.store.add_replay(&ordered).await.unwrap();
    let worker = Worker::with(&test.store, 4 << 20, true);
    let Progress { finalized, failed, .. } = done(&test, ordered.replay_id).await.progress;
    assert_eq!((finalized, failed), (1, 1));
    assert_eq!(test.store.failures(&everything()).await.unwrap(), before);
    assert_eq!(revision(&test, session_id).await, None);
    worker.stop().await;
}

async fn a_job_goes_on_where_a_dead_process_left_it(test: TestStore) {
    let sessions: Vec<Uuid> = (0..6).map(|_| fresh_id()).collect();
    for session_id in &sessions {
        too_large(&test, &ended(*session_id)).await;
    }
    let ordered = job(all_open());
    test.store.add_replay(&ordered).await.unwrap();
    let dead = process(&test, TimeDelta::milliseconds(-1)).await;
    let now = SystemClock::machine_now();
    let taken = test.store.take_replay(dead, now).await.unwrap().unwrap();
    let open = test.store.open_failures(&taken.which, Uuid::nil(), 10).await.unwrap();
    // It ends two, and dies over the third.
    for failure_id in &open[..2] {
        let (_, raw) =
            test.store.begin_replay(beginning(*failure_id, dead)).await.unwrap().unwrap();
        let raw = RawEvent { bytes: raw, source: "http".into(), headers: None };
        let (desk, event) = (TestDesk::closed(), prepared_raw(raw));
        let ending = Ending {
            terms: terms(&desk, now),
            failure_id: *failure_id,
            process: dead,
            event: &event,
            is_edited: false,
            by: "user 1",
            replay_id: Some(ordered.replay_id),
        };
        assert!(test.store.end_replay(ending).await.unwrap().is_some());
    }
    test.store.begin_replay(beginning(open[2], dead)).await.unwrap().unwrap();
    let worker = Worker::with(&test.store, 4 << 20, true);
    let job = done(&test, ordered.replay_id).await;
    let Progress { finalized, skipped, .. } = job.progress;
    assert_eq!((job.state, finalized, skipped), (ReplayState::Done, 5, 1));
    let left = test.store.open_failures(&all_open(), Uuid::nil(), 10).await.unwrap();
    assert_eq!(left, [open[2]]);
    assert!(worker.replay(open[2]).await.is_ok());
    for session_id in sessions {
        assert_eq!(revision(&test, session_id).await, Some(1));
    }
    worker.stop().await;
}

async fn a_step_of_a_cancelled_job_has_no_effect(test: TestStore) {
    let session_id = fresh_id();
    let event = ended(session_id);
    let failure_id = too_large(&test, &event).await;
    let ordered = job(all_open());
    test.store.add_replay(&ordered).await.unwrap();
    let own = process(&test, TimeDelta::minutes(1)).await;
    let now = SystemClock::machine_now();
    test.store.take_replay(own, now).await.unwrap().unwrap();
    assert_eq!(test.store.take_replay(fresh_id(), now).await.unwrap(), None, "it has its process");
    test.store.begin_replay(beginning(failure_id, own)).await.unwrap().unwrap();
    assert!(test.store.cancel_replay(ordered.replay_id, now).await.unwrap());
    let (desk, event) = (TestDesk::closed(), prepared(&event));
    let ending = Ending {
        terms: terms(&desk, now),
        failure_id,
        process: own,
        event: &event,
        is_edited: false,
        by: "user 1",
        replay_id: Some(ordered.replay_id),
    };
    assert!(test.store.end_replay(ending).await.unwrap().is_none());
    assert_eq!(revision(&test, session_id).await, None);
    let failure = failure(&test, failure_id).await;
    assert_eq!((failure.state, failure.replays), (FailureState::Open, 0));
    let job = test.store.replay(ordered.replay_id).await.unwrap().unwrap();
    assert_eq!((job.state, job.progress.count()), (ReplayState::Cancelled, 0));
}
