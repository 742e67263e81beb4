//! The database goes away, answers are lost, code panics: nothing is lost, nothing comes twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use finalizer::clock::{Clock, SystemClock};
use finalizer::event::FailureCode;
use finalizer::finalize::{Outcome, PriceBook};
use finalizer::intake::amqp::{self, AmqpSettings, BrokerError};
use finalizer::intake::{
    Desk, Disposition, Intake, IntakeParts, NoDesk, Patience, RawEvent, Replayer, Ticket,
};
use finalizer::store::{FailureFilter, HandOff, OpenFailures, OpenMode, Owed, Replay, ReplayState};
use http::StatusCode;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::broker::QUEUE;
use crate::harness::proxy::Proxy;
use crate::harness::receiver::{Receiver, Told};
use crate::harness::service::{Process, Site};
use crate::harness::{
    TestDesk, bytes_of, ended, endpoint, fresh_id, noon, postgres, prepared, recording, sqlite,
    started, terms, until,
};

/// A site whose processes reach Postgres through a network that can fail.
async fn site_behind_a_network(has_broker: bool) -> (Site, Proxy) {
    let test = postgres().await;
    let database = Proxy::to(&test.url).await;
    let site = if has_broker { Site::with_broker(test).await } else { Site::embedded(test).await };
    (site.with("FINALIZER_DATABASE_URL", &database.url), database)
}

async fn outage(fail: impl Fn(&Proxy)) {
    let (site, database) = site_behind_a_network(true).await;
    let receiver = Receiver::start().await;
    site.subscribe(&receiver).await;
    let process = site.start().await;
    receiver.reads(process.caller());
    let sessions: Vec<Uuid> = (0..150).map(|_| fresh_id()).collect();
    let events: Vec<Value> = sessions.iter().copied().map(ended).collect();
    let events = bytes_of(&events);
    site.broker().publish(&events[..50]).await;
    until("some are told", async || !receiver.told().is_empty()).await;
    fail(&database);
    site.broker().publish(&events[50..]).await;
    until("all are in hand", async || site.broker().queue(QUEUE).await.unwrap().0 == 0).await;
    until("the process says so", async || {
        let (status, body) = process.caller().get("/readyz").await;
        status == StatusCode::SERVICE_UNAVAILABLE && body["data"]["intake"].is_string()
    })
    .await;
    let healthy =
        |part: &str| process.metrics().value(&format!("finalizer_part_healthy{{part=\"{part}\"}}"));
    until("the metrics say so", async || healthy("store") == Some(0.0)).await;
    assert_eq!((healthy("intake"), healthy("consumer")), (Some(0.0), Some(1.0)));
    let metrics = process.metrics();
    assert!(metrics.value("finalizer_intake_pauses_total") >= Some(1.0), "{metrics:?}");
    assert!(metrics.value("finalizer_events_in_hand") > Some(0.0), "{metrics:?}");
    assert_eq!(metrics.value("finalizer_deliveries_pending"), None, "nobody knows");
    database.open();
    until("all are finalized", async || site.finalized(&sessions).await == 150).await;
    until("all are told", async || receiver.told().len() >= 150).await;
    until("it is ready again", async || process.caller().get("/readyz").await.0 == StatusCode::OK)
        .await;
    until("the metrics say so, too", async || healthy("store") == Some(1.0)).await;
    assert_eq!((healthy("intake"), healthy("consumer")), (Some(1.0), Some(1.0)));
    assert_eq!(process.log().matches("\"consuming\"").count(), 1, "no event came a second time");
    process.stop().await;
    assert!(site.broker().is_all_acknowledged().await);
    assert_eq!(site.failures().await, []);

    // A webhook whose result could not be recorded in time goes out again, as the same.
    let told = receiver.told();
    let of_sessions: HashSet<Uuid> = told.iter().map(Told::session_id).collect();
    assert!(of_sessions == sessions.into_iter().collect());
    let first_of = |id: &str| told.iter().find(|told| told.id == id).unwrap();
    assert!(told.iter().all(|told| told.body == first_of(&told.id).body));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_arrive_while_the_database_is_away_are_held_and_taken_once() {
    outage(Proxy::cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_arrive_while_the_database_is_silent_are_held_and_taken_once() {
    outage(Proxy::swallow).await;
}

/// What its end is taken in: a statement, or a transaction.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Call {
    New,
    Known,
}

impl Call {
    /// Its session.
    async fn begin(self, process: &Process) -> Uuid {
        let session_id = fresh_id();
        if self == Self::Known {
            let event = started(session_id).to_string();
            let (status, _) = process.caller().send_event(event.into()).await;
            assert_eq!(status, StatusCode::OK);
        }
        session_id
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_told_once() {
    for call in [Call::New, Call::Known] {
        let (site, database) = site_behind_a_network(true).await;
        let receiver = Receiver::start().await;
        site.subscribe(&receiver).await;
        let process = site.start().await;
        until("it consumes", async || {
            site.broker().queue(QUEUE).await.is_some_and(|(_, consumers)| consumers == 1)
        })
        .await;
        let session_id = call.begin(&process).await;
        database.lose_the_answer_to_the_commit_of("INSERT INTO sessions");
        site.broker().publish(&bytes_of(&[ended(session_id)])).await;
        until("it is told", async || !receiver.told().is_empty()).await;
        assert_eq!(database.caught(), 1, "{call:?}");
        process.stop().await;
        assert_eq!(receiver.told().len(), 1, "{call:?}");
        assert_eq!(site.failures().await, []);
        assert!(site.broker().is_all_acknowledged().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_for_a_commit_under_way_and_leaves_nothing_in_its_hands() {
    for call in [Call::New, Call::Known] {
        let (site, database) = site_behind_a_network(true).await;
        let receiver = Receiver::start().await;
        site.subscribe(&receiver).await;
        let mut process = site.start().await;
        let session_id = call.begin(&process).await;
        database.hold_the_commit_of("INSERT INTO sessions");
        site.broker().publish(&bytes_of(&[ended(session_id)])).await;
        until("the commit is under way", async || database.caught() == 1).await;
        process.terminate();
        until("the API is closed", async || !process.is_listening().await).await;
        database.let_go();
        assert!(process.ended().await.success(), "{}", process.log());
        assert_eq!(site.finalized(&[session_id]).await, 1, "{call:?}");
        assert!(site.broker().is_all_acknowledged().await);
        let left_behind = site.test.store.rescue(SystemClock::machine_now()).await.unwrap();
        assert_eq!(left_behind, 0, "{call:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_ready_again_when_the_database_is_although_no_event_comes() {
    let (site, database) = site_behind_a_network(false).await;
    let process = site.start().await;
    database.cut();
    let event = ended(fresh_id()).to_string();
    let (status, _) = process.caller().send_event(event.into()).await;
    assert_ne!(status, StatusCode::OK);
    database.open();
    until("it is ready", async || process.caller().get("/readyz").await.0 == StatusCode::OK).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_has_gone_silent_in_a_transaction_does_not_hold_up_the_others() {
    let (site, database) = site_behind_a_network(false).await;
    let silent = site.start().await;
    let direct = site.test.url.clone();
    let site = site.with("FINALIZER_DATABASE_URL", &direct);
    let healthy = site.start().await;
    let session_id = fresh_id();
    let (status, _) = healthy.caller().send_event(started(session_id).to_string().into()).await;
    assert_eq!(status, StatusCode::OK);
    database.hold_the_commit_of("INSERT INTO sessions");
    let caller = silent.caller();
    let event = ended(session_id).to_string();
    let unanswered = tokio::spawn(async move { caller.send_event(event.into()).await });
    until("the session is locked", async || database.caught() == 1).await;
    let event = ended(session_id).to_string();
    until("another finalizes it", async || {
        healthy.caller().send_event(event.clone().into()).await.0 == StatusCode::OK
    })
    .await;
    assert_ne!(unanswered.await.unwrap().0, StatusCode::OK, "nothing came back");
    healthy.stop().await;
    silent.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_session_stays_locked_holds_nobody_up_and_becomes_a_failure() {
    let site = Site::with_broker(postgres().await).await;
    let process = site.start().await;
    let session_id = fresh_id();
    let (status, _) = process.caller().send_event(started(session_id).to_string().into()).await;
    assert_eq!(status, StatusCode::OK);
    let mut locking = sqlx::PgConnection::connect(&site.test.url).await.unwrap();
    let mut locked = locking.begin().await.unwrap();
    let lock = "SELECT 1 FROM sessions WHERE session_id = $1 FOR UPDATE";
    sqlx::query(lock).bind(session_id).execute(&mut *locked).await.unwrap();
    // Some come together with it, the others later.
    let mut others: Vec<Uuid> = (0..30).map(|_| fresh_id()).collect();
    let events: Vec<Value> = others.iter().chain([&session_id]).copied().map(ended).collect();
    site.broker().publish(&bytes_of(&events)).await;
    let kept = tokio::time::timeout(Duration::from_mins(3), async {
        while site.failures().await.is_empty() {
            others.push(fresh_id());
            site.broker().publish(&bytes_of(&[ended(*others.last().unwrap())])).await;
            until("the others are taken", async || site.finalized(&others).await == others.len())
                .await;
        }
    });
    kept.await.expect("the event is kept");
    let failures = site.failures().await;
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].rejection.code, FailureCode::StoreRejected);
    assert_eq!(failures[0].rejection.session_id, Some(session_id));
    until("it is ready again", async || process.caller().get("/readyz").await.0 == StatusCode::OK)
        .await;
    process.stop().await;
    assert!(site.broker().is_all_acknowledged().await);

    locked.rollback().await.unwrap();
    let replayed = site.run(&["failures", "replay", &failures[0].failure_id.to_string()]);
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    assert_eq!(site.finalized(&[session_id]).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_session_that_only_its_recording_leads_to_is_waited_for() {
    let test = Arc::new(postgres().await);
    let session_id = fresh_id();
    // Without a room and an id nothing in the second report tells of the session.
    let report = |status| {
        let mut report = recording(session_id, "EG_late", status);
        report["egress"].as_object_mut().unwrap().remove("roomName");
        report
    };
    let mut first = report("EGRESS_ACTIVE");
    first["session_id"] = json!(session_id);
    test.take(&[started(session_id), first]).await;
    let mut watching = sqlx::PgConnection::connect(&test.url).await.unwrap();
    let mut locking = sqlx::PgConnection::connect(&test.url).await.unwrap();
    let mut locked = locking.begin().await.unwrap();
    let lock = "SELECT 1 FROM sessions WHERE session_id = $1 FOR UPDATE";
    sqlx::query(lock).bind(session_id).execute(&mut *locked).await.unwrap();

    let (one, other) = (Arc::clone(&test), Arc::clone(&test));
    let second = report("EGRESS_COMPLETE");
    let trial = prepared(&second);
    let taking = tokio::spawn(async move { one.take(&[second]).await.outcomes });
    let trying = tokio::spawn(async move {
        let desk = TestDesk::closed();
        other.store.try_out(terms(&desk, noon()), &trial).await.map(|tried| tried.outcome)
    });
    until("both wait for the lock", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut watching).await.unwrap() == 2
    })
    .await;
    locked.rollback().await.unwrap();
    assert_eq!(taking.await.unwrap(), [Outcome::Accepted(Some(session_id))]);
    trying.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_nobody_hears_of_again_are_replaced() {
    let (site, database) = site_behind_a_network(false).await;
    let process = site.start().await;
    let mut watching = sqlx::PgConnection::connect(&site.test.url).await.unwrap();
    let mut locking = sqlx::PgConnection::connect(&site.test.url).await.unwrap();
    let mut locked = locking.begin().await.unwrap();
    sqlx::query("LOCK TABLE api_keys").execute(&mut *locked).await.unwrap();
    // More than a process has connections; each waits for the lock.
    let callers = (0..20).map(|_| {
        let caller = process.caller();
        tokio::spawn(async move { caller.get("/api/billing/usage/").await.0 })
    });
    let callers: Vec<_> = callers.collect();
    until("every connection is in use", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut watching).await.unwrap() == 7
    })
    .await;
    database.abandon();
    locked.rollback().await.unwrap();
    for caller in callers {
        assert_ne!(caller.await.unwrap(), StatusCode::OK);
    }
    until("the process has others", async || {
        process.caller().get("/api/billing/usage/").await.0 == StatusCode::OK
    })
    .await;
    process.kill();
}

/// A desk that panics when a delivery to one endpoint is reserved.
struct TrappedDesk {
    endpoint_id: Uuid,
}

impl HandOff for TrappedDesk {
    fn reserve(&self, endpoint_id: Uuid, _owner: Option<i64>) -> Option<Uuid> {
        assert_ne!(endpoint_id, self.endpoint_id, "the trap");
        None
    }

    fn cancel(&self, _endpoint_id: Uuid) {}

    fn disown(&self, _process_id: Uuid) {}
}

impl Desk for TrappedDesk {
    fn accept(&self, _owed: Vec<Owed>) {}
}

fn parts(
    store: &finalizer::store::SharedStore,
    clock: Arc<dyn Clock>,
    desk: Arc<dyn Desk>,
) -> IntakeParts {
    IntakeParts {
        metrics: Arc::default(),
        store: Arc::clone(store),
        clock,
        prices: Arc::new(PriceBook::builtin()),
        public_url: "https://voice.example.com".to_owned(),
        recordings_place: "s3://recordings".to_owned(),
        desk,
        max_event_bytes: 4 << 20,
    }
}

fn raw(event: &Value) -> RawEvent {
    RawEvent { bytes: event.to_string().into(), source: "test".into(), headers: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_makes_its_transaction_panic_is_kept_and_its_neighbours_are_taken() {
    let test = sqlite().await;
    let trap = finalizer::store::Endpoint { character_slug: Some("trap".to_owned()), ..endpoint() };
    test.store.add_endpoint(&trap).await.unwrap();
    let desk = Arc::new(TrappedDesk { endpoint_id: trap.endpoint_id });
    let stop = CancellationToken::new();
    let clock = Arc::<SystemClock>::default();
    let (intake, batches) = Intake::new(parts(&test.store, clock, desk), stop.clone());
    let batches = tokio::spawn(batches);
    assert_third_alone_is_kept(&intake, FailureCode::InternalError).await;
    drop(intake);
    batches.await.unwrap().unwrap();
}

/// Of five events together the third, of the character `trap`, is kept with this code; the others
/// are finalized.
async fn assert_third_alone_is_kept(intake: &Intake, code: FailureCode) {
    let mut events: Vec<Value> = (0..5).map(|_| ended(fresh_id())).collect();
    events[2]["character_slug"] = json!("trap");
    let taken = intake.take(events.iter().map(raw).collect(), Patience::Wait).await;
    for (position, disposition) in taken.iter().enumerate() {
        match disposition {
            Disposition::Done { is_finalized: true, .. } => assert_ne!(position, 2),
            Disposition::Rejected { rejection, .. } => {
                assert_eq!((position, rejection.code), (2, code));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_database_refuses_is_kept_and_its_neighbours_are_taken() {
    let test = postgres().await;
    let mut connection = sqlx::PgConnection::connect(&test.url).await.unwrap();
    let refusal = "ALTER TABLE sessions ADD CHECK (character_slug <> 'trap')";
    sqlx::query(refusal).execute(&mut connection).await.unwrap();
    let parts = parts(&test.store, Arc::<SystemClock>::default(), Arc::new(NoDesk));
    let (intake, batches) = Intake::new(parts, CancellationToken::new());
    let batches = tokio::spawn(batches);
    assert_third_alone_is_kept(&intake, FailureCode::StoreRejected).await;
    drop(intake);
    batches.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_makes_its_transaction_panic_fails_and_the_job_goes_on() {
    let test = sqlite().await;
    let trap = finalizer::store::Endpoint { character_slug: Some("trap".to_owned()), ..endpoint() };
    test.store.add_endpoint(&trap).await.unwrap();
    let mut events: Vec<Value> = (0..3).map(|_| ended(fresh_id())).collect();
    events[1]["character_slug"] = json!("trap");
    for event in &events {
        let event = finalizer::intake::prepare(raw(event), &PriceBook::builtin(), 100, noon());
        test.take_prepared(&TestDesk::closed(), noon(), &[event]).await;
    }
    let desk = Arc::new(TrappedDesk { endpoint_id: trap.endpoint_id });
    let stop = CancellationToken::new();
    let clock = Arc::<SystemClock>::default();
    let replayer = Replayer::new(parts(&test.store, clock, desk), stop.clone());
    let running = tokio::spawn(replayer.run(true));
    let which = OpenFailures::all(SystemClock::machine_now());
    let state = ReplayState::Running;
    let job = Replay { which, state, per_second: 1000, ..crate::api_failures::job() };
    test.store.add_replay(&job).await.unwrap();
    let mut done = None;
    until("the job is done", async || {
        done = test.store.replay(job.replay_id).await.unwrap();
        done.as_ref().is_some_and(|job| job.state == ReplayState::Done)
    })
    .await;
    let progress = done.unwrap().progress;
    assert_eq!((progress.finalized, progress.failed, progress.skipped), (2, 1, 0));
    let code = Some(FailureCode::InternalError);
    let filter = FailureFilter { code, limit: 10, ..FailureFilter::default() };
    let failures = test.store.failures(&filter).await.unwrap();
    let [trapped] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!((trapped.replays, trapped.replaying), (1, None));
    assert_eq!(
        trapped.rejection.session_id,
        events[1]["session_id"].as_str().unwrap().parse().ok()
    );
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_lost_answers_and_outages_and_replays_each_failure_once() {
    let (site, database) = site_behind_a_network(false).await;
    let store = &site.test.store;
    store.add_endpoint(&endpoint()).await.unwrap();
    let sessions: Vec<Uuid> = (0..60).map(|_| fresh_id()).collect();
    for session_id in &sessions {
        let event = raw(&ended(*session_id));
        let event = finalizer::intake::prepare(event, &PriceBook::builtin(), 100, noon());
        // Bytes of long ago would be dropped.
        let now = SystemClock::machine_now();
        site.test.take_prepared(&TestDesk::closed(), now, &[event]).await;
    }
    let site = site.with("FINALIZER_ROLES", "api");
    let process = site.start().await;
    // The first one's effect is there, and nobody was told.
    database.lose_the_answer_to_the_commit_of("SET state = 'replayed'");
    let (status, job) = process.caller().order_replay(&json!({"per_second": 30})).await;
    assert_eq!(status, StatusCode::CREATED);
    let job = job["id"].as_str().unwrap().parse().unwrap();
    let store = &site.test.store;
    let count = async || store.replay(job).await.unwrap().unwrap().progress.count();
    until("some are replayed", async || count().await > 5).await;
    database.cut();
    let at_the_cut = count().await;
    database.open();
    until("the job goes on", async || count().await > at_the_cut + 5).await;
    until("the job is done", async || {
        store.replay(job).await.unwrap().unwrap().state == ReplayState::Done
    })
    .await;
    let progress = store.replay(job).await.unwrap().unwrap().progress;
    assert_eq!((progress.finalized, progress.duplicates, progress.failed), (60, 0, 0));
    assert_eq!((database.caught(), progress.skipped), (1, 0));
    for session_id in sessions {
        assert_eq!(store.deliveries_of(session_id).await.unwrap().len(), 1);
    }
    process.stop().await;
}

/// A clock that stands until it is told to break.
#[derive(Default)]
struct BrokenClock(AtomicBool);

impl Clock for BrokenClock {
    fn now(&self) -> DateTime<Utc> {
        assert!(!self.0.load(Ordering::SeqCst), "the clock is broken");
        SystemClock::machine_now()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_that_is_no_events_fault_ends_the_intake_instead_of_stopping_it_silently() {
    let test = sqlite().await;
    let clock = Arc::<BrokenClock>::default();
    let parts = parts(&test.store, Arc::<BrokenClock>::clone(&clock), Arc::new(NoDesk));
    let (intake, batches) = Intake::new(parts, CancellationToken::new());
    let batches = tokio::spawn(batches);
    let (answers, _answered) = mpsc::unbounded_channel();
    let prepared = intake.prepare(raw(&ended(fresh_id())));
    clock.0.store(true, Ordering::SeqCst);
    intake.submit(Ticket { prepared, patience: Patience::Wait, token: 1, answers }).await;
    let died = batches.await.unwrap().unwrap_err();
    assert!(died.to_string().contains("the clock is broken"), "{died}");
}

/// The service's intake alone, with its hands full for at most two seconds.
struct Consuming {
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), BrokerError>>,
}

impl Consuming {
    async fn start(database_url: &str, amqp_url: &str) -> Self {
        let store = finalizer::store::open(database_url, OpenMode::Existing).await.unwrap();
        let stop = CancellationToken::new();
        let parts = parts(&store, Arc::<SystemClock>::default(), Arc::new(NoDesk));
        let takers = Replayer::new(parts.clone(), stop.clone());
        let (intake, batches) = Intake::new(parts, stop.clone());
        tokio::spawn(batches);
        let settings = AmqpSettings {
            url: amqp_url.to_owned(),
            prefetch: 500,
            is_declaring: true,
            hold_at_most: Duration::from_secs(2),
        };
        let takers = (intake, takers);
        let ended = tokio::spawn(amqp::run(settings, takers, Arc::default(), stop.clone()));
        Self { stop, ended }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_long_outage_events_are_left_to_the_broker_and_not_fetched_again_before_its_end() {
    let (test, sessions) = (postgres().await, [fresh_id(), fresh_id()]);
    let database = Proxy::to(&test.url).await;
    let site = Site::with_broker(test).await;
    let consuming = Consuming::start(&database.url, &site.broker().url).await;
    site.broker().publish(&bytes_of(&[ended(sessions[0])])).await;
    until("it is taken", async || site.finalized(&sessions[..1]).await == 1).await;
    database.cut_off().await;
    site.broker().publish(&bytes_of(&[ended(sessions[1])])).await;
    until("it is in hand", async || site.broker().queue(QUEUE).await == Some((0, 1))).await;
    // The first may not be acknowledged yet.
    until("it is left to the broker", async || {
        matches!(site.broker().queue(QUEUE).await, Some((1.., 0)))
    })
    .await;
    database.open();
    until("it is taken", async || site.finalized(&sessions).await == 2).await;
    // An attempt that was under way all the time may have taken it before it was fetched again.
    until("it is in hand again", async || site.broker().queue(QUEUE).await == Some((0, 1))).await;
    consuming.stop.cancel();
    consuming.ended.await.unwrap().unwrap();
    assert!(site.broker().is_all_acknowledged().await);
    assert_eq!(site.failures().await, []);
}
