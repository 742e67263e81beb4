//! What tests stand on: databases of their own, events, a clock that is moved by hand; and for
//! the whole service: a broker, a network that fails, receivers, processes.

pub(crate) mod broker;
pub(crate) mod browser;
pub(crate) mod bucket;
#[path = "../../../src/courier/hostile.rs"]
pub(crate) mod hostile;
pub(crate) mod inside;
pub(crate) mod programs;
pub(crate) mod proxy;
pub(crate) mod receiver;
pub(crate) mod service;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use finalizer::finalize::{Prepared, PriceBook};
use finalizer::intake::{RawEvent, prepare};
use finalizer::store::{
    Batch, Endpoint, HandOff, OpenMode, Owed, SharedStore, Taken, Terms, Unjoined,
};
use finalizer::webhook::PayloadKind;
use serde_json::{Value, json};
use sqlx::Connection;
use uuid::Uuid;

/// Where the tests find PostgreSQL; `scripts/test` sets it.
pub(crate) const POSTGRES_URL: &str = "FINALIZER_TEST_POSTGRES_URL";

/// A database of a test's own, gone with the test.
pub(crate) struct TestStore {
    pub(crate) store: SharedStore,
    pub(crate) url: String,
    _folder: Option<tempfile::TempDir>,
}

/// A number that the test run may set, or the usual one.
#[expect(clippy::disallowed_methods, reason = "the test run is configured by its environment")]
pub(crate) fn number(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

/// A setting of the test run, which must be there: a skipped half would look like success.
#[expect(clippy::disallowed_methods, reason = "the test run is configured by its environment")]
pub(crate) fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run scripts/test"))
}

pub(crate) async fn sqlite() -> TestStore {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("test.db").display());
    let store = finalizer::store::open(&url, OpenMode::Create).await.unwrap();
    TestStore { store, url, _folder: Some(folder) }
}

/// A new, empty database on the server of the test run.
pub(crate) async fn empty_postgres() -> url::Url {
    let server = setting(POSTGRES_URL);
    let name = format!("test_{}", fresh_id().simple());
    let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::query(create).execute(&mut connection).await.unwrap();
    let mut url = url::Url::parse(&server).unwrap();
    url.set_path(&name);
    url
}

pub(crate) async fn postgres() -> TestStore {
    let url = empty_postgres().await;
    finalizer::store::migrate(url.as_str()).await.unwrap();
    let store = finalizer::store::open(url.as_str(), OpenMode::Existing).await.unwrap();
    TestStore { store, url: url.into(), _folder: None }
}

/// Runs each case on both databases, under `sqlite::` and `postgres::`.
macro_rules! on_both_stores {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(crate::harness::sqlite().await).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(crate::harness::postgres().await).await;
            })+
        }
    };
}
pub(crate) use on_both_stores;

/// Waits until it is so; a test that waits for long has failed.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_mins(1), waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

pub(crate) fn fresh_id() -> Uuid {
    finalizer::clock::new_id(finalizer::clock::SystemClock::machine_now())
}

/// The first moment of the tests' time.
pub(crate) fn noon() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 5, 28, 12, 0, 0).unwrap()
}

pub(crate) fn after(seconds: i64) -> DateTime<Utc> {
    noon() + TimeDelta::seconds(seconds)
}

/// A desk with room for a number of deliveries.
#[derive(Debug, Default)]
pub(crate) struct TestDesk {
    process: Option<Uuid>,
    room: AtomicUsize,
}

impl TestDesk {
    pub(crate) fn closed() -> Self {
        Self::default()
    }

    pub(crate) fn of(process: Uuid, room: usize) -> Self {
        Self { process: Some(process), room: room.into() }
    }
}

impl HandOff for TestDesk {
    fn reserve(&self, _endpoint_id: Uuid, _owner: Option<i64>) -> Option<Uuid> {
        let take = |room: usize| room.checked_sub(1);
        self.room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok()?;
        self.process
    }

    fn cancel(&self, _endpoint_id: Uuid) {
        self.room.fetch_add(1, Ordering::SeqCst);
    }

    fn disown(&self, _process_id: Uuid) {}
}

pub(crate) fn terms(desk: &TestDesk, now: DateTime<Utc>) -> Terms<'_> {
    Terms { now, public_url: "https://api.example.com", recordings_place: "s3://recordings", desk }
}

impl TestStore {
    /// Changes the database behind the store's back.
    pub(crate) async fn execute(&self, statement: &'static str) {
        if self.url.starts_with("sqlite") {
            let mut connection = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
            sqlx::query(statement).execute(&mut connection).await.unwrap();
        } else {
            let mut connection = sqlx::PgConnection::connect(&self.url).await.unwrap();
            sqlx::query(statement).execute(&mut connection).await.unwrap();
        }
    }

    /// Takes events in one batch, as a worker without a courier.
    pub(crate) async fn take(&self, events: &[Value]) -> Taken {
        self.take_with(&TestDesk::closed(), noon(), events).await
    }

    /// Takes events in one batch and joins what it could not see, as intake does.
    pub(crate) async fn take_with(
        &self,
        desk: &TestDesk,
        now: DateTime<Utc>,
        events: &[Value],
    ) -> Taken {
        let events: Vec<Prepared> = events.iter().map(prepared).collect();
        self.take_prepared(desk, now, &events).await
    }

    pub(crate) async fn take_prepared(
        &self,
        desk: &TestDesk,
        now: DateTime<Utc>,
        events: &[Prepared],
    ) -> Taken {
        let terms = terms(desk, now);
        let mut taken = self.store.take(Batch { terms, events }).await.unwrap();
        let unjoined: Unjoined = taken.unjoined.clone();
        let owed: Vec<Owed> = self.store.join_recordings(terms, &unjoined).await.unwrap();
        taken.owed.extend(owed);
        taken
    }
}

/// An event as intake prepares it.
pub(crate) fn prepared(event: &Value) -> Prepared {
    let bytes = serde_json::to_vec(event).unwrap().into();
    prepared_raw(RawEvent { bytes, source: Arc::from("test"), headers: None })
}

pub(crate) fn prepared_raw(event: RawEvent) -> Prepared {
    prepare(event, &PriceBook::builtin(), 4 << 20, noon())
}

/// `session.started` of a call that began at noon.
pub(crate) fn started(session_id: Uuid) -> Value {
    json!({
        "type": "session.started", "schema_version": 1, "event_id": fresh_id(),
        "session_id": session_id, "tenant_id": "acme", "character_slug": "support-bot",
        "character_owner": 7, "user": 70, "room_name": format!("room-{session_id}"),
        "started_at": noon(), "metadata": {"plan": "pro"},
    })
}

/// `session.ended` of that call: two turns, three minutes, some usage.
pub(crate) fn ended(session_id: Uuid) -> Value {
    json!({
        "type": "session.ended", "schema_version": 1, "event_id": fresh_id(),
        "session_id": session_id, "tenant_id": "acme", "character_slug": "support-bot",
        "character_owner": 7, "user": 70, "room_name": format!("room-{session_id}"),
        "started_at": noon(), "ended_at": after(180), "metadata": {"plan": "pro"},
        "source": {"kind": "messages"},
        "messages": [
            {"role": "assistant", "text": "Hi! How can I help you today?", "started_at": after(1)},
            {"role": "user", "text": "I want to book a demo.", "started_at": after(4)},
        ],
        "usage": [
            {"type": "llm", "provider": "openai", "model": "gpt-4o-mini",
             "input_tokens": 1840, "output_tokens": 612},
        ],
    })
}

/// `recording.updated` for the room of that call.
pub(crate) fn recording(session_id: Uuid, egress_id: &str, status: &str) -> Value {
    json!({
        "type": "recording.updated", "schema_version": 1, "event_id": fresh_id(),
        "egress": {
            "egressId": egress_id, "roomName": format!("room-{session_id}"), "status": status,
            "startedAt": nanoseconds(noon()),
            "endedAt": nanoseconds(after(180)),
            "updatedAt": nanoseconds(after(190)),
            "roomComposite": {"fileOutputs": [{"s3": {"bucket": "recordings"}}]},
            "fileResults": [{
                "filename": "call.mp4", "size": "2956123",
                "startedAt": nanoseconds(after(2)),
                "location": "https://recordings.s3.amazonaws.com/call.mp4",
            }],
        },
    })
}

/// `recording.updated` for a recording of that call that is stored there; without a bucket in the
/// default place.
pub(crate) fn recorded(session_id: Uuid, bucket: &str, filename: &str) -> Value {
    let egress_id = format!("EG_{session_id}");
    let mut complete = recording(session_id, &egress_id, "EGRESS_COMPLETE");
    let egress = &mut complete["egress"];
    egress["fileResults"][0]["filename"] = json!(filename);
    egress["roomComposite"]["fileOutputs"][0]["s3"]["bucket"] = json!(bucket);
    complete
}

/// A time as LiveKit writes it.
pub(crate) fn nanoseconds(time: DateTime<Utc>) -> String {
    time.timestamp_nanos_opt().unwrap().to_string()
}

/// An endpoint that hears of everything.
pub(crate) fn endpoint() -> Endpoint {
    Endpoint {
        endpoint_id: fresh_id(),
        owner: None,
        tenant_id: None,
        character_slug: None,
        event_types: Vec::new(),
        payload: PayloadKind::Thin,
        url: "https://example.com/hook".to_owned(),
        sealed_secret: vec![1, 2, 3],
        sealed_headers: None,
        timeout_seconds: 15,
        rate_limit_per_minute: None,
        disabled: None,
        created_at: noon(),
        version: 1,
    }
}

/// Events as they travel.
pub(crate) fn bytes_of(events: &[Value]) -> Vec<bytes::Bytes> {
    events.iter().map(|event| event.to_string().into()).collect()
}
