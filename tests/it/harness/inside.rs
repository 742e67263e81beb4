//! The parts of one process inside the test, under a clock that is moved by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use finalizer::clock::{Clock, SystemClock};
use finalizer::courier::{
    Client, ClientOptions, Courier, CourierDied, CourierParts, Desk, Guard, LONGEST_ATTEMPT,
};
use finalizer::finalize::PriceBook;
use finalizer::intake::{Disposition, Intake, IntakeParts, Patience, RawEvent};
use finalizer::store::{Delivery, DeliveryState, HandOff as _, SharedStore};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::service::keyring;
use super::until;

/// The machine's time, and what the test added to it.
#[derive(Default)]
pub(crate) struct HandClock(AtomicI64);

impl HandClock {
    pub(crate) fn advance(&self, by: TimeDelta) {
        self.0.fetch_add(by.num_microseconds().unwrap(), Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> DateTime<Utc> {
        SystemClock::machine_now() + TimeDelta::microseconds(self.0.load(Ordering::SeqCst))
    }
}

/// Intake and courier of one process.
pub(crate) struct Inside {
    store: SharedStore,
    clock: Arc<HandClock>,
    intake: Intake,
    desk: Arc<Desk>,
    courier: JoinHandle<Result<(), CourierDied>>,
    shutdown: CancellationToken,
}

impl Inside {
    /// Starts them, and waits until the process is known as alive.
    pub(crate) async fn start(store: &SharedStore, clock: &Arc<HandClock>) -> Self {
        let guard = Guard { allow: vec!["127.0.0.0/8".parse().unwrap()], allow_http: false };
        let courier = Courier::new(CourierParts {
            metrics: Arc::default(),
            store: Arc::clone(store),
            clock: Arc::<HandClock>::clone(clock),
            system_clock: None,
            keyring: keyring(),
            client: Client::new(Arc::new(guard), ClientOptions::default()),
            longest_attempt: LONGEST_ATTEMPT,
            public_url: "https://voice.example.com".into(),
        });
        let (desk, shutdown) = (courier.desk(), CancellationToken::new());
        let parts = IntakeParts {
            metrics: Arc::default(),
            store: Arc::clone(store),
            clock: Arc::<HandClock>::clone(clock),
            prices: Arc::new(PriceBook::builtin()),
            public_url: "https://voice.example.com".to_owned(),
            recordings_place: "s3://recordings".to_owned(),
            desk: Arc::<Desk>::clone(&desk),
            max_event_bytes: 4 << 20,
        };
        let (intake, batches) = Intake::new(parts, shutdown.clone());
        tokio::spawn(batches);
        let courier = tokio::spawn(courier.run(shutdown.clone()));
        let (store, clock) = (Arc::clone(store), Arc::clone(clock));
        let inside = Self { store, clock, intake, desk, courier, shutdown };
        until("the process is alive", async || inside.process().is_some()).await;
        inside
    }

    /// The id under which it holds deliveries.
    fn process(&self) -> Option<Uuid> {
        let nobody = Uuid::nil();
        let process = self.desk.reserve(nobody, None);
        if process.is_some() {
            self.desk.cancel(nobody);
        }
        process
    }

    pub(crate) async fn take(&self, event: &Value) {
        let bytes = Bytes::from(event.to_string());
        let event = RawEvent { bytes, source: "test".into(), headers: None };
        let taken = self.intake.take(vec![event], Patience::Wait).await;
        assert!(matches!(taken[..], [Disposition::Done { .. }]), "{taken:?}");
    }

    /// Moves the clock to a moment when the delivery is due.
    pub(crate) async fn until_due(&self, delivery: &Delivery) {
        let due = delivery.next_attempt_at.unwrap() - self.clock.now();
        let just_before = due - TimeDelta::seconds(2);
        if just_before > TimeDelta::zero() {
            self.leap(just_before).await;
        }
        self.clock.advance(TimeDelta::seconds(3));
    }

    /// Moves the clock. A process that hears of the new time has been dead for long, so it takes a
    /// new id: what falls due meanwhile would go out under the old one, and might go out again.
    pub(crate) async fn leap(&self, by: TimeDelta) {
        self.clock.advance(by);
        let old = self.process().unwrap();
        self.desk.disown(old);
        until("it has a new id", async || self.process().is_some_and(|id| id != old)).await;
    }

    /// The only delivery of a session, once so many attempts are recorded.
    pub(crate) async fn attempted(&self, session_id: Uuid, attempts: u32) -> Delivery {
        let mut found = None;
        until("the attempt is recorded", async || {
            let deliveries = self.store.deliveries_of(session_id).await.unwrap();
            found = deliveries.into_iter().next();
            found.as_ref().is_some_and(|found| found.attempts >= attempts)
        })
        .await;
        found.unwrap()
    }

    pub(crate) async fn state(&self, session_id: Uuid) -> DeliveryState {
        self.store.deliveries_of(session_id).await.unwrap()[0].state
    }

    /// Ends as a process does that is killed: without another word.
    pub(crate) async fn die(self) {
        self.courier.abort();
        drop(self.courier.await);
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.courier.await.unwrap().unwrap();
    }
}
