//! A database that an earlier release has filled is brought up to date with all that is in it.

use finalizer::store::{
    Cursor, DeliveryState, FailureState, HistoryFilter, OpenMode, SharedStore, migrate, open,
};
use finalizer::webhook::{DEFAULT_TIMEOUT_SECONDS, MessageId, Secret, SigningSecrets};
use sqlx::migrate::{Migrate, Migration, MigrationType, Migrator};
use sqlx::{Connection as _, SqlStr};
use uuid::Uuid;

use crate::harness::{after, empty_postgres, until};

const ENDPOINT: Uuid = Uuid::from_u128(1);
const SESSION: Uuid = Uuid::from_u128(2);
const FAILURE: Uuid = Uuid::from_u128(3);
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The first release's layout.
fn first(statements: &'static str) -> Migrator {
    let statements = SqlStr::from_static(statements);
    let initial = Migration::new(1, "initial".into(), MigrationType::Simple, statements, false);
    Migrator::with_migrations(vec![initial])
}

async fn fill<C: Migrate>(connection: &mut C, statements: &'static str) {
    first(statements).run_direct(None, connection, false).await.unwrap();
}

/// An endpoint, a message, a delivery that is due, and a finalized session.
const ROWS: [&str; 5] = [
    "INSERT INTO endpoints (endpoint_id, event_types, payload, url, sealed_secret, created_at)
        VALUES ($1, 'session.finalized', 'thin', 'https://example.com/', $2, $3)",
    "INSERT INTO messages (message_id, type, session_id, thin, created_at)
        VALUES ($2, 'session.finalized', $1, $2, $3)",
    "INSERT INTO deliveries (delivery_id, message_id, endpoint_id, payload, state, is_retry,
            attempts, next_attempt_at, created_at)
        VALUES ($1, $2, $1, 'thin', 'pending', FALSE, 0, $3, $3)",
    "INSERT INTO sessions (session_id, id, tenant_id, character_slug, character_owner, metadata,
            started_at, duration_ms, turn_count, interruption_count, llm_input_tokens,
            llm_output_tokens, stt_audio_ms, tts_characters, cost_micros, cost_breakdown, usage,
            transcript, recording_expected, is_recording_found, is_recording_given_up,
            recording_status, finalized_at, revision, version, digest, superseded)
        VALUES ($1, 1, 'acme', 'support-bot', 7, '{}', $3, 0, 0, 0, 5, 0, 0, 0, 0, '{}', '{}',
            '[]', FALSE, FALSE, FALSE, 'NONE', $3, 1, 1, $2, $2)",
    "INSERT INTO failures (failure_id, code, message, source, raw, raw_sha256, size_bytes, seen,
            first_seen_at, last_seen_at)
        VALUES ($1, 'malformed_json', 'It is no JSON.', 'http', $2, $2, 32, 3, $3, $3)",
];

/// What the rows are bound to.
fn values() -> [(Uuid, Vec<u8>); 5] {
    let message_id = vec![7; 16];
    let digest = vec![7; 32];
    [
        (ENDPOINT, SECRET.into()),
        (SESSION, message_id.clone()),
        (ENDPOINT, message_id),
        (SESSION, digest.clone()),
        (FAILURE, digest),
    ]
}

async fn assert_up_to_date(store: SharedStore) {
    let endpoint = store.endpoint(ENDPOINT).await.unwrap().unwrap();
    assert_eq!(endpoint.timeout_seconds, DEFAULT_TIMEOUT_SECONDS);
    assert_eq!((endpoint.rate_limit_per_minute, endpoint.sealed_headers), (None, None));
    let secrets = std::str::from_utf8(&endpoint.sealed_secret).unwrap();
    let secrets = SigningSecrets::parse(secrets).unwrap();
    let live: Vec<String> = secrets.live(after(0)).map(Secret::reveal).collect();
    assert_eq!(live, [SECRET], "what was sealed then is read now");
    assert_eq!(store.due_endpoints(after(1)).await.unwrap().len(), 1);
    let delivery = store.deliveries_of(SESSION).await.unwrap().remove(0);
    assert_eq!((delivery.state, delivery.redelivered_after), (DeliveryState::Pending, None));
    let of_message = store.deliveries_of_message(MessageId([7; 16])).await.unwrap();
    assert_eq!(of_message, [delivery], "found by the message's id as well");
    let (failure, raw) = store.failure(FAILURE).await.unwrap().unwrap();
    assert_eq!((failure.state, failure.seen, raw.len()), (FailureState::Open, 3, 32));
    let all = HistoryFilter { owner: Some(7), ..HistoryFilter::default() };
    assert_eq!(store.history_totals(&all).await.unwrap().llm_input_tokens, 5);
    until("the walk has the session", async || {
        let walked = store.finalized_after(&all, Cursor::default(), 10).await.unwrap();
        walked.sessions.iter().any(|session| session.session_id == SESSION)
    })
    .await;
}

#[tokio::test]
async fn a_filled_postgres_is_brought_up_to_date() {
    let url = empty_postgres().await;
    let mut connection = sqlx::PgConnection::connect(url.as_str()).await.unwrap();
    fill(&mut connection, include_str!("../../migrations/postgres/0001_initial.sql")).await;
    for (statement, (id, bytes)) in ROWS.into_iter().zip(values()) {
        let row = sqlx::query(statement).bind(id).bind(bytes).bind(after(0));
        row.execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    migrate(url.as_str()).await.unwrap();
    assert_up_to_date(open(url.as_str(), OpenMode::Existing).await.unwrap()).await;
}

#[tokio::test]
async fn a_filled_sqlite_is_brought_up_to_date_by_opening_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    fill(&mut connection, include_str!("../../migrations/sqlite/0001_initial.sql")).await;
    for (statement, (id, bytes)) in ROWS.into_iter().zip(values()) {
        let row = sqlx::query(statement).bind(id).bind(bytes).bind(after(0));
        row.execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();
    let url = format!("sqlite://{}", path.display());
    assert_up_to_date(open(&url, OpenMode::Existing).await.unwrap()).await;
}

/// ANALYZE of a table reads 300 pages for each step of its finest column, and an index' expression is a column
/// as well.
#[tokio::test]
async fn postgres_takes_few_statistics_of_the_tables_that_an_event_adds_to() {
    let url = empty_postgres().await;
    migrate(url.as_str()).await.unwrap();
    let mut connection = sqlx::PgConnection::connect(url.as_str()).await.unwrap();
    let finer: Vec<String> = sqlx::query_scalar(
        "WITH grown AS (SELECT unnest('{sessions, messages, deliveries, attempts}'::regclass[]) AS relation),
             columns AS (
                 SELECT relation, attnum FROM grown JOIN pg_attribute ON attrelid = relation
                 WHERE attnum > 0 AND NOT attisdropped
                 UNION ALL
                 SELECT indexrelid, position FROM grown JOIN pg_index ON indrelid = relation,
                     unnest(indkey::int2[]) WITH ORDINALITY AS key (attribute, position)
                 WHERE attribute = 0
             )
         SELECT relation::regclass || '.' || attname FROM columns JOIN pg_attribute
             ON attrelid = relation AND pg_attribute.attnum = columns.attnum
         WHERE attstattarget IS DISTINCT FROM 10",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(
        finer, [""; 0],
        "a column that a migration adds needs SET STATISTICS 10 (0016_statistics.sql)"
    );
}
