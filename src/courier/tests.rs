//! The courier as a whole: real receivers, a table in memory, a clock moved by hand.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use standardwebhooks::Webhook;

use super::table::{Row, Table};
use super::testing::{Receiver, Reply, nobody, ok};
use super::*;
use crate::clock;
use crate::store::{
    AttemptResult, Cause, DeliveryState, Endpoint, HandOff as _, Next, Owed, Verdict,
};
use crate::webhook::{EventType, MessageId, OwnHeaders, Secret};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";
const OLD_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const PATIENCE: Duration = Duration::from_secs(20);

/// The machine's time, and what the test added to it.
#[derive(Default)]
struct HandClock(AtomicI64);

impl HandClock {
    fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> DateTime<Utc> {
        SystemClock::machine_now() + TimeDelta::seconds(self.0.load(Ordering::SeqCst))
    }
}

struct World {
    table: Arc<Table>,
    clock: Arc<HandClock>,
    keyring: Keyring,
    desk: Arc<Desk>,
    courier: Option<Courier>,
    running: Option<tokio::task::JoinHandle<Result<(), CourierDied>>>,
    shutdown: CancellationToken,
}

impl World {
    fn new() -> Self {
        let (table, clock) = (Arc::new(Table::default()), Arc::<HandClock>::default());
        let keyring = Keyring::new([7; 32]);
        let guard = Guard { allow: vec!["127.0.0.0/8".parse().unwrap()], allow_http: false };
        let courier = Courier::new(CourierParts {
            metrics: Arc::default(),
            store: Arc::<Table>::clone(&table),
            clock: Arc::<HandClock>::clone(&clock),
            system_clock: None,
            keyring: keyring.clone(),
            client: Client::new(Arc::new(guard), ClientOptions::default()),
            longest_attempt: Duration::from_secs(5),
            public_url: "https://voice.example.com".into(),
        });
        let desk = courier.desk();
        let (running, shutdown) = (None, CancellationToken::new());
        Self { table, clock, keyring, desk, courier: Some(courier), running, shutdown }
    }

    /// A world whose courier is running and alive.
    async fn running() -> Self {
        let mut world = Self::new();
        world.run();
        world.until(|world| world.desk.lively_process().is_some()).await;
        world
    }

    fn run(&mut self) {
        let courier = self.courier.take().unwrap();
        self.running = Some(tokio::spawn(courier.run(self.shutdown.clone())));
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.running.take().unwrap()).await.unwrap().unwrap().unwrap();
    }

    /// Waits until the world is so.
    async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("it should have become so");
    }

    fn add_endpoint(&self, number: u128, url: &str) -> Uuid {
        let endpoint_id = Uuid::from_u128(number);
        let now = self.clock.now();
        let [old, new] = [OLD_SECRET, SECRET].map(|text| Secret::parse(text).unwrap());
        let endpoint = new_endpoint(&self.keyring, (url.to_owned(), None), old, now);
        let endpoint = rotate(&self.keyring, &endpoint, new, now, TimeDelta::hours(24)).unwrap();
        self.table.lock().endpoints.push(Endpoint { endpoint_id, ..endpoint });
        endpoint_id
    }

    /// A delivery in the table, due now, held by nobody.
    fn add_delivery(&self, endpoint_id: Uuid, attempts: u32) -> Owed {
        let delivery_id = clock::new_id(self.clock.now());
        let owed = Owed {
            delivery_id,
            process_id: Uuid::nil(),
            message_id: MessageId(*delivery_id.as_bytes()),
            endpoint_id,
            owner: None,
            event_type: EventType::SessionFinalized,
            body: Bytes::from(format!("{{\"delivery\":\"{delivery_id}\"}}")),
            attempts,
            redelivered_after: None,
            told_at: self.clock.now(),
            trace: None,
        };
        let row = Row {
            owed: owed.clone(),
            process: None,
            state: DeliveryState::Pending,
            next_attempt_at: self.clock.now(),
        };
        self.table.lock().rows.insert(delivery_id, row);
        owed
    }

    /// What intake does: reserve, commit, hand over. The delivery, and whether there was room.
    fn hand_over(&self, endpoint_id: Uuid) -> (Owed, bool) {
        let process = self.desk.reserve(endpoint_id, None);
        let mut owed = self.add_delivery(endpoint_id, 0);
        self.table.lock().rows.get_mut(&owed.delivery_id).unwrap().process = process;
        if let Some(process_id) = process {
            owed.process_id = process_id;
            self.desk.accept(vec![owed.clone()]);
        }
        (owed, process.is_some())
    }

    fn row(&self, owed: &Owed) -> Row {
        self.table.lock().rows[&owed.delivery_id].clone()
    }

    fn results(&self, owed: &Owed) -> Vec<AttemptResult> {
        let table = self.table.lock();
        let of_delivery = table.results.iter().filter(|r| r.delivery_id == owed.delivery_id);
        of_delivery.cloned().collect()
    }

    async fn attempted(&self, owed: &Owed, times: usize) -> AttemptResult {
        self.until(|world| world.results(owed).len() >= times).await;
        self.results(owed).remove(times - 1)
    }
}

#[tokio::test]
async fn a_delivery_that_is_handed_over_arrives_signed_at_once() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let (owed, is_taken) = world.hand_over(endpoint);
    assert!(is_taken);

    let request = receiver.next().await;
    assert_eq!(request.body, owed.body);
    assert_eq!(request.headers["webhook-id"], owed.message_id.to_string());
    for secret in [SECRET, OLD_SECRET] {
        Webhook::new(secret).unwrap().verify(&request.body, &request.headers).unwrap();
    }
    let result = world.attempted(&owed, 1).await;
    assert_eq!(
        (result.attempt.number, result.attempt.status, result.next),
        (1, Some(200), Next::Done)
    );
    assert_eq!(result.attempt.address, Some(receiver.address.to_string()));
    assert_eq!(&*result.attempt.response_body, b"ok");
    assert_eq!(world.row(&owed).state, DeliveryState::Delivered);
}

#[tokio::test]
async fn a_failed_attempt_is_repeated_when_it_is_due_with_the_same_id_and_bytes() {
    let mut receiver = Receiver::start(|request| match request.number {
        0 => Reply::Say(500, "", "oh no".to_owned()),
        _ => ok(),
    })
    .await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let (owed, _) = world.hand_over(endpoint);
    let first = receiver.next().await;
    let result = world.attempted(&owed, 1).await;
    let Next::RetryAt(at) = result.next else { panic!("{:?}", result.next) };
    let pause = at - result.attempt.finished_at();
    assert!(pause >= TimeDelta::seconds(5) && pause < TimeDelta::seconds(6), "{pause}");

    world.clock.advance(6);
    let second = receiver.next().await;
    assert_eq!(
        (&second.body, &second.headers["webhook-id"]),
        (&first.body, &first.headers["webhook-id"])
    );
    assert_ne!(second.headers["webhook-timestamp"], first.headers["webhook-timestamp"]);
    let result = world.attempted(&owed, 2).await;
    assert_eq!((result.attempt.number, result.next), (2, Next::Done));
}

#[tokio::test]
async fn the_last_attempt_exhausts_the_delivery() {
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &format!("http://{}/", nobody().await));
    let owed = world.add_delivery(endpoint, 9);
    let result = world.attempted(&owed, 1).await;
    assert_eq!((result.attempt.number, result.next), (10, Next::Exhausted));
    assert_eq!((result.attempt.status, result.attempt.error.as_deref()), (None, Some("connect")));
    assert_eq!(world.row(&owed).state, DeliveryState::Exhausted);
}

#[tokio::test]
async fn gone_disables_the_endpoint() {
    let receiver = Receiver::start(|_| Reply::Say(410, "", String::new())).await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let (owed, _) = world.hand_over(endpoint);
    world.until(|world| world.table.lock().endpoints[0].disabled.is_some()).await;
    assert_eq!(world.table.lock().endpoints[0].disabled.as_ref().unwrap().1, "gone");
    let result = world.attempted(&owed, 1).await;
    assert_eq!(
        (result.attempt.status, result.next),
        (Some(410), Next::Cancelled(Cause::EndpointDisabled))
    );
    assert_eq!(world.row(&owed).state, DeliveryState::Cancelled);
}

#[tokio::test]
async fn deliveries_to_endpoints_that_are_gone_or_disabled_are_given_back_unsent() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let world = World::running().await;
    let disabled = world.add_endpoint(1, &receiver.url());
    world.table.lock().endpoints[0].disabled = Some((world.clock.now(), "by hand".to_owned()));
    for endpoint in [disabled, Uuid::from_u128(2)] {
        let (owed, is_taken) = world.hand_over(endpoint);
        assert!(is_taken);
        // Whoever looks after such deliveries cancels them: here, the test.
        world.until(|world| world.row(&owed).process.is_none()).await;
        world.table.lock().rows.remove(&owed.delivery_id);
    }
    assert!(receiver.already().is_none());
}

#[tokio::test]
async fn an_endpoint_that_is_new_or_just_enabled_gets_what_it_is_owed() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let world = World::running().await;
    let known = world.add_endpoint(1, &receiver.url());
    let enabled = world.add_endpoint(2, &receiver.url());
    let now = world.clock.now();
    world.table.lock().endpoints[1].disabled = Some((now, "by hand".to_owned()));
    // The endpoints are read for this one, and then change.
    world.hand_over(known);
    receiver.next().await;
    world.table.lock().endpoints[1].disabled = None;
    let new = world.add_endpoint(3, &receiver.url());
    for endpoint in [enabled, new] {
        let (owed, _) = world.hand_over(endpoint);
        receiver.next().await;
        assert_eq!(world.attempted(&owed, 1).await.next, Next::Done);
    }
}

#[tokio::test]
async fn an_endpoint_that_asks_to_wait_is_left_alone() {
    let mut receiver = Receiver::start(|request| match request.number {
        0 => Reply::Say(429, "retry-after: 7\r\n", String::new()),
        _ => ok(),
    })
    .await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let (owed, _) = world.hand_over(endpoint);
    let result = world.attempted(&owed, 1).await;
    let Next::RetryAt(at) = result.next else { panic!("{:?}", result.next) };
    assert!(at - result.attempt.finished_at() >= TimeDelta::seconds(6), "not before it asked");

    receiver.next().await;
    world.until(|world| world.desk.is_paused(endpoint)).await;
    let (later, is_taken) = world.hand_over(endpoint);
    assert!(!is_taken, "nothing is handed over meanwhile");
    let other = Receiver::start(|_| ok()).await;
    let elsewhere = world.add_endpoint(2, &other.url());
    let elsewhere = world.add_delivery(elsewhere, 1);
    world.attempted(&elsewhere, 1).await;
    assert!(receiver.already().is_none(), "nor swept");

    world.clock.advance(8);
    assert_eq!(world.attempted(&later, 1).await.next, Next::Done);
    assert_eq!(world.attempted(&owed, 2).await.next, Next::Done);
}

#[tokio::test]
async fn an_endpoint_that_hangs_does_not_hold_up_others() {
    let mut hanging = Receiver::start(|_| Reply::Hang).await;
    let mut healthy = Receiver::start(|_| ok()).await;
    let world = World::running().await;
    let stuck = world.add_endpoint(1, &hanging.url());
    let fine = world.add_endpoint(2, &healthy.url());
    let taken = (0..600).filter(|_| world.hand_over(stuck).1).count();
    assert_eq!(taken, 512);
    for _ in 0..64 {
        hanging.next().await;
    }
    let (owed, _) = world.hand_over(fine);
    healthy.next().await;
    assert_eq!(world.attempted(&owed, 1).await.next, Next::Done);
    assert!(world.table.lock().results.len() == 1, "the other endpoint is still hanging");
}

#[tokio::test]
async fn a_backlog_in_the_table_is_worked_off_without_waiting_for_the_next_sweep() {
    let receiver = Receiver::start(|_| ok()).await;
    let mut world = World::new();
    let endpoint = world.add_endpoint(1, &receiver.url());
    let backlog: Vec<_> = (0..1000).map(|n| world.add_delivery(endpoint, n % 2)).collect();
    let begin = tokio::time::Instant::now();
    world.run();
    world.until(|world| world.table.lock().results.len() == backlog.len()).await;
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(backlog.iter().all(|owed| world.row(owed).state == DeliveryState::Delivered));
    assert!(world.table.lock().most_claimed <= 64);
}

#[tokio::test]
async fn what_a_dead_process_held_is_sent() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let owed = world.add_delivery(endpoint, 0);
    world.table.lock().rows.get_mut(&owed.delivery_id).unwrap().process = Some(Uuid::nil());
    receiver.next().await;
    assert_eq!(world.attempted(&owed, 1).await.next, Next::Done);
}

#[tokio::test]
async fn results_wait_for_a_database_that_is_away() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let (first, _) = world.hand_over(endpoint);
    world.attempted(&first, 1).await;

    let (second, _) = world.hand_over(endpoint);
    receiver.next().await;
    world.table.is_away.store(true, Ordering::SeqCst);
    let (third, _) = world.hand_over(endpoint);
    world.until(|world| world.table.refused.load(Ordering::SeqCst) > 3).await;
    world.table.is_away.store(false, Ordering::SeqCst);
    for owed in [second, third] {
        assert_eq!(world.attempted(&owed, 1).await.next, Next::Done);
    }
}

#[tokio::test]
async fn a_result_that_the_database_refuses_costs_no_other_its_own() {
    let receiver = Receiver::start(|request| match request.number {
        0..3 => Reply::Say(200, "", "poison".to_owned()),
        _ => ok(),
    })
    .await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let all: Vec<_> = (0..20).map(|_| world.hand_over(endpoint).0).collect();
    for owed in all {
        assert_eq!(world.attempted(&owed, 1).await.next, Next::Done);
    }
}

#[tokio::test]
async fn a_process_that_lost_its_id_takes_a_new_one_and_its_deliveries_go_out_again() {
    let mut receiver = Receiver::start(|request| match request.number {
        0 => Reply::Hang,
        _ => ok(),
    })
    .await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let (owed, _) = world.hand_over(endpoint);
    receiver.next().await;
    let old = world.desk.process().unwrap();
    world.table.lock().processes.clear();
    world.until(|world| world.desk.lively_process().is_some_and(|new| new != old)).await;
    assert_eq!(receiver.next().await.headers["webhook-id"], owed.message_id.to_string());
    assert_eq!(world.attempted(&owed, 1).await.next, Next::Done);
    assert_eq!(world.results(&owed).len(), 1, "the old id's attempt does not count");
}

#[tokio::test]
async fn a_process_that_is_disowned_takes_a_new_id() {
    let world = World::running().await;
    let old = world.desk.process().unwrap();
    world.desk.disown(old);
    assert_eq!(world.desk.reserve(Uuid::from_u128(1), None), None);
    world.until(|world| world.desk.lively_process().is_some_and(|new| new != old)).await;
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_sent_all_the_same() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let old = world.desk.process().unwrap();
    world.table.loses_claims.store(true, Ordering::SeqCst);
    let owed = world.add_delivery(endpoint, 0);
    world.until(|world| world.row(&owed).process == Some(old)).await;
    // What that id held is free when its time is over, and only then.
    world.until(|world| world.desk.lively_process().is_some_and(|new| new != old)).await;
    world.clock.advance(11);
    receiver.next().await;
    assert_eq!(world.attempted(&owed, 1).await.next, Next::Done);
}

#[tokio::test]
async fn a_delivery_that_was_reserved_under_a_lost_id_is_left_to_whoever_rescues_it() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let lost = world.desk.reserve(endpoint, None).unwrap();
    let owed = world.add_delivery(endpoint, 0);
    world.table.lock().rows.get_mut(&owed.delivery_id).unwrap().process = Some(lost);
    world.desk.disown(lost);
    world.until(|world| world.desk.lively_process().is_some()).await;
    world.desk.accept(vec![Owed { process_id: lost, ..owed.clone() }]);
    let (other, _) = world.hand_over(endpoint);
    world.attempted(&other, 1).await;
    receiver.next().await;
    assert!(receiver.already().is_none(), "its result would not count");
    world.clock.advance(11);
    assert_eq!(world.attempted(&owed, 1).await.next, Next::Done);
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_in_flight_and_gives_back_the_rest() {
    static IS_LET_GO: AtomicBool = AtomicBool::new(false);
    let mut receiver = Receiver::start(|_| Reply::After(&IS_LET_GO)).await;
    let mut world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let all: Vec<_> = (0..100).map(|_| world.hand_over(endpoint).0).collect();
    for _ in 0..64 {
        receiver.next().await;
    }
    let stop = world.shutdown.clone();
    stop.cancel();
    world
        .until(|world| all.iter().filter(|owed| world.row(owed).process.is_none()).count() == 36)
        .await;
    assert_eq!(world.desk.reserve(endpoint, None), None);
    IS_LET_GO.store(true, Ordering::SeqCst);
    world.stop().await;
    let delivered = all.iter().filter(|owed| world.row(owed).state == DeliveryState::Delivered);
    assert_eq!(delivered.count(), 64);
    assert!(all.iter().all(|owed| world.row(owed).process.is_none()));
    assert!(world.table.lock().processes.is_empty(), "it took its leave");
}

#[tokio::test]
async fn a_shutdown_ends_although_results_cannot_be_written() {
    let receiver =
        Receiver::start(|_| Reply::Say(429, "retry-after: 900\r\n", String::new())).await;
    let mut world = World::new();
    world.courier.as_mut().unwrap().parts.longest_attempt = Duration::from_millis(500);
    world.run();
    world.until(|world| world.desk.lively_process().is_some()).await;
    world.table.takes_nothing.store(true, Ordering::SeqCst);
    // Each puts off all that wait for it, and more than fit into the recorder's hands.
    for number in 1..=12 {
        let endpoint = world.add_endpoint(number, &receiver.url());
        (0..256).for_each(|_| assert!(world.hand_over(endpoint).1));
    }
    world.until(|world| world.desk.is_paused(Uuid::from_u128(1))).await;
    world.stop().await;
    assert!(world.table.lock().processes.is_empty(), "it took its leave");
}

#[tokio::test]
async fn an_endpoint_that_changed_is_seen_within_a_second() {
    let (mut old, mut new) = (Receiver::start(|_| ok()).await, Receiver::start(|_| ok()).await);
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &old.url());
    world.hand_over(endpoint);
    old.next().await;
    world.table.lock().endpoints[0].url = new.url();
    // Not to wait for something to be done: the second is the promise that is put to the test.
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.hand_over(endpoint);
    new.next().await;
    assert!(old.already().is_none());
}

#[tokio::test]
async fn a_secret_that_cannot_be_opened_fails_the_attempt_and_posts_nothing() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    world.table.lock().endpoints[0].sealed_secret = Keyring::new([8; 32]).seal(SECRET.as_bytes());
    let (owed, _) = world.hand_over(endpoint);
    let result = world.attempted(&owed, 1).await;
    assert_eq!(result.attempt.error.as_deref(), Some("unreadable_secret"));
    assert!(matches!(result.next, Next::RetryAt(_)) && receiver.already().is_none());
}

#[tokio::test]
async fn what_has_no_bytes_any_more_is_cancelled_and_not_posted() {
    let mut receiver = Receiver::start(|_| ok()).await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    world.until(|world| world.desk.lively_process().is_some()).await;
    let process_id = world.desk.reserve(endpoint, None).unwrap();
    let owed = Owed { process_id, body: Bytes::new(), ..world.add_delivery(endpoint, 0) };
    world.table.lock().rows.get_mut(&owed.delivery_id).unwrap().process = Some(process_id);
    world.desk.accept(vec![owed.clone()]);
    let result = world.attempted(&owed, 1).await;
    assert_eq!(result.next, Next::Cancelled(Cause::SessionErased));
    assert!(receiver.already().is_none());
}

#[tokio::test]
async fn an_endpoint_is_called_with_its_own_headers_and_within_its_own_time() {
    let mut receiver = Receiver::start(|_| Reply::Hang).await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let own = [("x-env", "prod"), ("authorization", "Bearer hunter2")];
    let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let own = OwnHeaders::new(own.into_iter().collect()).unwrap();
    {
        let mut table = world.table.lock();
        table.endpoints[0].sealed_headers = seal_headers(&world.keyring, &own);
        table.endpoints[0].timeout_seconds = 1;
    }
    let (owed, _) = world.hand_over(endpoint);
    let request = receiver.next().await;
    assert_eq!(request.headers["x-env"], "prod");
    assert_eq!(request.headers["authorization"], "Bearer hunter2");
    assert_eq!(request.headers["webhook-id"], owed.message_id.to_string());
    let attempt = world.attempted(&owed, 1).await.attempt;
    assert_eq!(attempt.error.as_deref(), Some("timeout"));
    assert!((1_000_000..4_000_000).contains(&attempt.duration_us), "{}", attempt.duration_us);
}

#[tokio::test]
async fn what_somebody_has_sent_again_goes_through_the_schedule_anew_and_behind_what_is_new() {
    let receiver = Receiver::start(|_| Reply::Say(500, "", String::new())).await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let owed = {
        let owed = world.add_delivery(endpoint, 10);
        let mut table = world.table.lock();
        let row = table.rows.get_mut(&owed.delivery_id).unwrap();
        row.owed.redelivered_after = Some(10);
        assert!(row.owed.is_retry() && row.owed.attempts_of_round() == 0);
        owed
    };
    let result = world.attempted(&owed, 1).await;
    assert_eq!((result.attempt.number, result.verdict), (11, Verdict::Nothing));
    let Next::RetryAt(at) = result.next else { panic!("{:?}", result.next) };
    let pause = at - result.attempt.finished_at();
    assert!(pause >= TimeDelta::seconds(5) && pause < TimeDelta::seconds(6), "{pause}");
}

#[tokio::test]
async fn failures_are_held_against_the_endpoint_and_successes_for_it() {
    let receiver = Receiver::start(|request| match request.number {
        0 => Reply::Say(503, "", String::new()),
        _ => ok(),
    })
    .await;
    let world = World::running().await;
    let endpoint = world.add_endpoint(1, &receiver.url());
    let unreachable = world.add_endpoint(2, &format!("http://{}/", nobody().await));
    for (endpoint, verdict) in
        [(endpoint, Verdict::Fails), (endpoint, Verdict::Works), (unreachable, Verdict::Fails)]
    {
        let (owed, _) = world.hand_over(endpoint);
        assert_eq!(world.attempted(&owed, 1).await.verdict, verdict);
    }
}
