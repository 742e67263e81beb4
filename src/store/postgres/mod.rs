//! Everything in PostgreSQL, for as many processes as wanted.
//!
//! Batches are bound as arrays and unnested: one statement a table, however many rows. What is written
//! all the time is one array of rows (`new_rows.rs`), the rest an array for each column. Sessions are
//! locked as they are read, in the order of their ids, and written before recordings, which are not
//! locked: a recording that another worker wrote in between has another version, and the batch is taken
//! again. Locking both would deadlock the start of a call with its end.

mod new_rows;

use std::collections::{BTreeSet, HashSet};
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::{
    ConnectOptions as _, Connection as _, FromRow as _, PgConnection, Postgres as Db, Row as _,
    query, query_as, query_scalar,
};
use uuid::Uuid;

use self::new_rows::rows;
use super::failures::FailureRows;
use super::prune::{OldDelivery, OldMessage, PrunePosition, Pruned};
use super::redelivery::ToldMessage;
use super::rows::{
    ApiKeyRow, AttemptRow, AwaitedFileRow, BillRow, DeliveryRow, DeliveryStoryRow, DueEndpointRow,
    EgressRow, EndpointRow, FailureRow, FinalizedCallRow, FinalizedRow, HealthRow, IntakeRow,
    OldDeliveryRow, OwedRow, RawFailureRow, RedeliveryRow, ReplayRow, RoomRow, SessionRow,
    SilentRow, ToldMessageRow, TotalsRow, backlog, bills, checkpoint, checkpoint_json,
    delivery_state, event_type_list, position, read_all, walked,
};
use super::shared::{COUNTED_AT_ONCE, MOST_COUNTED, number};
use super::sql::{
    deliveries_of_message, egress_columns, egress_upsert, endpoint_columns, finalized_after,
    finalized_lately, has_bytes, history_filter, messages_told, redeliver, redeliver_range,
    room_columns, session_columns, session_upsert, unjoined_egresses,
};
use super::take::{Blank, TakesNew};
use super::transaction::{
    DeliveryToKeep, EgressKeys, FailureToKeep, Health, MessageToKeep, RoomKeys, Rowwise,
    SessionKeys, Transaction, WhenLocked,
};
use super::{
    ApiKey, ApiKeyChange, AttemptResult, AwaitedFile, Backlog, Batch, Beginning, Bills, Cause,
    Cursor, Delivery, DeliveryFilter, DeliveryState, DeliveryStory, DueEndpoint, Ending, Endpoint,
    EndpointHealth, Expired, Failure, FailureFilter, FinalizedCall, HistoryFilter, IntakeState,
    MOST_LOOKED_AT, OpenFailures, Owed, Progress, Recorded, Redelivery, RedeliveryRange, Refusal,
    Replay, SilentCall, Slot, Store, StoreError, Taken, Terms, Tried, Unjoined, WORKLOAD_COUNTED,
    Walked, Workload, erase, failures, prune, record, recording, redelivery, replays, sql, take,
    within,
};
#[cfg(feature = "crash-points")]
use crate::crash::{self, Defect};
use crate::event::FailureCode;
use crate::finalize::{
    Bill, Erased, FinishedRoom, JoinedBy, JoinedEgress, Plan, Prepared, Repriced, Session, Silence,
    Totals, recording_files,
};
use crate::webhook::{MessageId, PayloadKind, RateLimit};

const MIGRATIONS: &[super::MigrationFile] = &[
    (1, "initial", include_str!("../../../migrations/postgres/0001_initial.sql")),
    (2, "webhooks", include_str!("../../../migrations/postgres/0002_webhooks.sql")),
    (3, "history", include_str!("../../../migrations/postgres/0003_history.sql")),
    (4, "keys", include_str!("../../../migrations/postgres/0004_keys.sql")),
    (5, "recordings", include_str!("../../../migrations/postgres/0005_recordings.sql")),
    (6, "failures", include_str!("../../../migrations/postgres/0006_failures.sql")),
    (7, "checkpoints", include_str!("../../../migrations/postgres/0007_checkpoints.sql")),
    (8, "erasure", include_str!("../../../migrations/postgres/0008_erasure.sql")),
    (9, "traces", include_str!("../../../migrations/postgres/0009_traces.sql")),
    (10, "retention", include_str!("../../../migrations/postgres/0010_retention.sql")),
    (11, "new_calls", include_str!("../../../migrations/postgres/0011_new_calls.sql")),
    (12, "rising", include_str!("../../../migrations/postgres/0012_rising.sql")),
    (13, "rooms", include_str!("../../../migrations/postgres/0013_rooms.sql")),
    (14, "analyze", include_str!("../../../migrations/postgres/0014_analyze.sql")),
    (15, "rows", include_str!("../../../migrations/postgres/0015_rows.sql")),
    (16, "statistics", include_str!("../../../migrations/postgres/0016_statistics.sql")),
];

macro_rules! message_columns {
    () => {
        "row_id, message_id, type, session_id, session_number, egress_id, thin, full_body, traceparent, \
         created_at"
    };
}

macro_rules! delivery_columns {
    () => {
        "delivery_id, message_row, endpoint_id, payload, state, cause, process_id, finished_at, \
         redelivered_after, is_retry, attempts, next_attempt_at, created_at"
    };
}

/// A call is found by its room in the weeks in which it may have ended: from that in which the room's time
/// begins, over each in which a call ended, to the one that never comes, of those that go on.
macro_rules! sessions_by_keys {
    ($locked:literal) => {
        concat!(
            "WITH RECURSIVE weeks (week) AS (
        SELECT week_of_end(min(starts)) FROM unnest($5::timestamptz[]) AS starts
        UNION ALL
        SELECT (SELECT week_of_end(ended_at) FROM sessions
                WHERE week_of_end(ended_at) > week AND week_of_end(ended_at) < 'infinity'
                ORDER BY week_of_end(ended_at) LIMIT 1)
        FROM weeks WHERE week IS NOT NULL),
    rooms (id, name, starts, ends, week) AS MATERIALIZED (
        SELECT id, name, starts, ends, COALESCE(week, 'infinity')
        FROM unnest($3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[])
            AS room (id, name, starts, ends)
        JOIN weeks ON week IS NULL OR week >= week_of_end(starts))
    SELECT ",
            session_columns!(),
            " FROM sessions WHERE session_id IN (
        SELECT unnest($1::uuid[])
        UNION SELECT session_id FROM sessions WHERE recording_egress_id = ANY($2)
        UNION SELECT session_id FROM sessions
            JOIN rooms ON week_of_end(ended_at) = week AND room_id = rooms.id
            WHERE started_at <= ends AND (ended_at IS NULL OR ended_at >= starts)
        UNION SELECT session_id FROM sessions
            JOIN rooms ON week_of_end(ended_at) = week AND room_name = rooms.name
            WHERE started_at <= ends AND (ended_at IS NULL OR ended_at >= starts))
    ORDER BY session_id
    FOR UPDATE",
            $locked
        )
    };
}

const SESSIONS_BY_KEYS: &str = sessions_by_keys!("");

const SESSIONS_BY_KEYS_AT_ONCE: &str = sessions_by_keys!(" NOWAIT");

const SESSIONS_BY_ID: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM sessions WHERE session_id = ANY($1) ORDER BY session_id FOR UPDATE"
);

const EGRESSES_BY_KEYS: &str = concat!(
    "SELECT ",
    egress_columns!(),
    " FROM egresses WHERE egress_id IN (
        SELECT unnest($1::text[])
        UNION SELECT egress_id FROM egresses WHERE session_id = ANY($2)
        UNION SELECT egress_id FROM egresses WHERE named_session_id = ANY($2)
        UNION SELECT egress_id FROM egresses WHERE session_id IS NULL AND room_id = ANY($3)
        UNION SELECT egress_id FROM egresses WHERE session_id IS NULL AND room_name = ANY($4))
    ORDER BY egress_id"
);

const UNJOINED_EGRESSES: &str = unjoined_egresses!(
    " AND (egress_id = ANY($1) OR named_session_id = ANY($2) OR room_id = ANY($3) OR room_name = ANY($4))"
);

/// Whoever is writing one of the sessions at the moment is not waited for.
const AWAITED_FILES: &str = "UPDATE sessions SET recording_look_at = $2
    WHERE session_id IN (
        SELECT session_id FROM sessions
        WHERE recording_status IN ('PENDING', 'PROCESSING')
          AND recording_worker_url IS NOT NULL AND recording_egress_id IS NULL
          AND finalized_at IS NOT NULL AND recording_look_at <= $1
        ORDER BY recording_look_at
        LIMIT $3
        FOR UPDATE SKIP LOCKED)
    RETURNING session_id, recording_worker_url, finalized_at";

const ENDPOINTS_OF: &str = concat!(
    "SELECT ",
    endpoint_columns!(),
    " FROM endpoints
    WHERE (owner IS NULL OR owner = ANY($1)) AND deleted_at IS NULL
    ORDER BY created_at, endpoint_id"
);

macro_rules! insert_sessions {
    () => {
        concat!(
            "INSERT INTO sessions (",
            session_columns!(),
            ") SELECT * FROM unnest($1::new_session[])"
        )
    };
}

/// Inserts the messages of the parameter `rows`, made at the one that is `now`.
macro_rules! insert_messages {
    ($rows:literal, $now:literal) => {
        concat!(
            "INSERT INTO messages (",
            message_columns!(),
            ") SELECT *, ",
            $now,
            "::timestamptz FROM unnest(",
            $rows,
            "::new_message[])"
        )
    };
}

/// Inserts the deliveries of the parameter `rows`, made at the one that is `now`.
macro_rules! insert_deliveries {
    ($rows:literal, $now:literal) => {
        concat!(
            "INSERT INTO deliveries (",
            delivery_columns!(),
            ") SELECT delivery_id, message_row, endpoint_id, payload, state, cause, process_id,
        CASE WHEN is_cancelled THEN ",
            $now,
            "::timestamptz END, redelivered_after, redelivered_after IS NOT NULL, 0, ",
            $now,
            "::timestamptz, ",
            $now,
            "::timestamptz
    FROM unnest(",
            $rows,
            "::new_delivery[])"
        )
    };
}

const PUT_SESSIONS: &str = concat!(insert_sessions!(), session_upsert!("finalized_xid"));

/// Whether something is known of a call: of the sessions, of recordings by id, or of recordings that wait
/// for a session in one of the rooms. If not, a number for each, beside each endpoint of their owners.
const LOOK: &str = concat!(
    "WITH looked AS MATERIALIZED (SELECT CASE WHEN
        EXISTS (SELECT FROM sessions WHERE session_id = ANY($1))
        OR EXISTS (SELECT FROM erased_sessions WHERE session_id = ANY($1))
        OR EXISTS (SELECT FROM egresses WHERE egress_id = ANY($2))
        OR EXISTS (SELECT FROM egresses WHERE session_id = ANY($1))
        OR EXISTS (SELECT FROM egresses WHERE named_session_id = ANY($1))
        OR EXISTS (SELECT FROM egresses WHERE session_id IS NULL AND room_id = ANY($3))
        OR EXISTS (SELECT FROM egresses WHERE session_id IS NULL AND room_name = ANY($4))
    THEN NULL
    ELSE ARRAY(SELECT nextval('session_numbers') FROM generate_series(1, cardinality($1)))
    END AS numbers)
    SELECT numbers, ",
    endpoint_columns!(),
    " FROM looked LEFT JOIN endpoints ON numbers IS NOT NULL
        AND (owner IS NULL OR owner = ANY($5)) AND deleted_at IS NULL
    ORDER BY created_at, endpoint_id"
);

/// Sessions first: who makes one of them at the same moment is waited for there, as in a transaction.
const PUT_NEW: &str = concat!(
    "WITH session AS (",
    insert_sessions!(),
    " RETURNING session_id),
    message AS (",
    insert_messages!("$2", "$4"),
    "),
    delivery AS (",
    insert_deliveries!("$3", "$4"),
    ") SELECT refuse_erased(array_agg(session_id), count(*)) FROM session"
);

/// Below the oldest transaction that is still open nothing can be added any more: whatever commits
/// late is at or above it.
macro_rules! settled_after {
    ($of:literal) => {
        finalized_after!(
            "finalized_xid",
            "CAST($5 AS XID8)",
            "finalized_xid < pg_snapshot_xmin(pg_current_snapshot())",
            $of
        )
    };
}

const FINALIZED_AFTER: &str = settled_after!("");

const FINALIZED_AFTER_OF: &str = settled_after!(" AND character_owner = $8");

const FINALIZED_LATELY: &str = finalized_lately!("finalized_xid", "");

const FINALIZED_LATELY_OF: &str = finalized_lately!("finalized_xid", " AND character_owner = $3");

/// The epoch, and where no session can be yet.
const HISTORY_END: &str = "SELECT history_epoch,
        CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS settled
    FROM installation";

/// What is committed is always behind the next transaction, unless another cluster counted it.
const IS_AHEAD: &str = "SELECT finalized_xid >= pg_snapshot_xmax(pg_current_snapshot())
    FROM sessions WHERE finalized_at IS NOT NULL
    ORDER BY finalized_xid DESC, id DESC
    LIMIT 1";

const BRING_BACK: &str = "UPDATE sessions SET finalized_xid = pg_current_xact_id()
    WHERE finalized_at IS NOT NULL AND finalized_xid >= pg_current_xact_id()";

const BEGIN_EPOCH: &str = "UPDATE installation SET history_epoch = history_epoch + 1";

const PUT_EGRESSES: &str = concat!(
    "INSERT INTO egresses (",
    egress_columns!(),
    ") SELECT *, $9 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[],
        $6::uuid[], $7::int2[], $8::int4[])",
    egress_upsert!()
);

const CHECKPOINTS: &str = "SELECT session FROM checkpoints WHERE session_id = ANY($1)";

const PUT_CHECKPOINTS: &str = "INSERT INTO checkpoints (session_id, session)
    SELECT * FROM unnest($1::uuid[], $2::text[])
    ON CONFLICT (session_id) DO UPDATE SET session = excluded.session";

const DROP_CHECKPOINTS: &str = "DELETE FROM checkpoints WHERE session_id = ANY($1)";

const ADD_ERASED: &str = "INSERT INTO erased_sessions
        (session_id, id, character_owner, digests, files, erased_at)
    VALUES ($1, $2, $3, $4, $5, $6)";

const ERASED_SESSIONS: &str = "SELECT session_id FROM erased_sessions WHERE session_id = ANY($1)";

const ERASED_EGRESSES: &str = "SELECT egress_id FROM erased_egresses WHERE egress_id = ANY($1)";

const ROOMS_BY_KEYS: &str = concat!(
    "SELECT ",
    room_columns!(),
    " FROM finished_rooms WHERE digest IN (
        SELECT unnest($1::bytea[])
        UNION SELECT digest FROM finished_rooms WHERE session_id = ANY($2)
        UNION SELECT digest FROM finished_rooms WHERE room_id = ANY($3)
        UNION SELECT digest FROM finished_rooms WHERE room_name = ANY($4))"
);

/// In the order of the digests, in which all others insert them.
const PUT_ROOMS: &str = concat!(
    "INSERT INTO finished_rooms (",
    room_columns!(),
    ") SELECT * FROM unnest($1::bytea[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[],
        $6::timestamptz[]) AS room (digest) ORDER BY room.digest
    ON CONFLICT DO NOTHING"
);

const PUT_MESSAGES: &str =
    concat!(insert_messages!("$1", "$2"), " ON CONFLICT DO NOTHING RETURNING message_id");

const PUT_DELIVERIES: &str = insert_deliveries!("$1", "$2");

/// Two things keep this from reading every delivery that is due. `ORDER BY process_id`: that it is
/// null does not tell the planner that the index has the order that is wanted. The array: of a
/// limit that is not a constant it expects a tenth of the table, and would join all of it.
const CLAIM: &str = "WITH due AS (
        SELECT delivery_id FROM unnest($2::uuid[], $3::int8[]) AS slot (endpoint_id, free)
        CROSS JOIN LATERAL (
            SELECT delivery_id FROM deliveries
            WHERE state = 'pending' AND process_id IS NULL
              AND deliveries.endpoint_id = slot.endpoint_id
              AND is_retry = $4 AND next_attempt_at <= $5
            ORDER BY process_id, next_attempt_at LIMIT slot.free
            FOR UPDATE SKIP LOCKED) AS found),
    claimed AS (
        UPDATE deliveries SET process_id = $1
        WHERE delivery_id = ANY (ARRAY(SELECT delivery_id FROM due))
        RETURNING delivery_id, process_id, message_row, endpoint_id, attempts, payload,
            redelivered_after)
    SELECT delivery_id, process_id, message_id, claimed.endpoint_id, owner, attempts,
        redelivered_after, type, messages.created_at AS told_at, traceparent,
        CASE claimed.payload WHEN 'full' THEN full_body ELSE thin END AS body
    FROM claimed
    JOIN messages ON row_id = message_row
    JOIN endpoints ON endpoints.endpoint_id = claimed.endpoint_id";

/// Whoever is writing one of them at the moment is not waited for, nor is waited for by them.
const CANCEL_PENDING: &str = "UPDATE deliveries
    SET state = 'cancelled', cause = $2, finished_at = $3
    WHERE delivery_id IN (
        SELECT delivery_id FROM deliveries
        WHERE state = 'pending' AND process_id IS NULL AND endpoint_id = $1
        LIMIT $4 FOR UPDATE SKIP LOCKED)
      AND EXISTS (
        SELECT 1 FROM endpoints
        WHERE endpoint_id = $1 AND (disabled_at IS NOT NULL OR deleted_at IS NOT NULL))";

/// Whoever is writing one of them at the moment is not waited for.
const EXPIRE_RAW: &str = "UPDATE failures SET raw = $3, raw_expired_at = $2
    WHERE failure_id IN (
        SELECT failure_id FROM failures
        WHERE raw_expired_at IS NULL AND last_seen_at <= $1
        ORDER BY last_seen_at
        LIMIT $4
        FOR UPDATE SKIP LOCKED)";

/// Whoever is writing one of them at the moment is not waited for.
const OLD_MESSAGES: &str = "SELECT created_at, message_id, row_id FROM messages
    WHERE NOT is_pruned AND created_at < $1 AND (created_at, message_id) > ($2, $3)
    ORDER BY created_at, message_id
    LIMIT $4
    FOR UPDATE SKIP LOCKED";

const OLD_DELIVERIES: &str = "SELECT delivery_id, message_row,
        state <> 'pending' AND finished_at < $2 AS is_over
    FROM deliveries WHERE message_row = ANY($1)
    FOR UPDATE NOWAIT";

const DROP_ATTEMPTS: &str = "DELETE FROM attempts WHERE delivery_id = ANY($1)";

const DROP_DELIVERIES: &str = "DELETE FROM deliveries WHERE delivery_id = ANY($1)";

const DROP_BODIES: &str = "UPDATE messages SET thin = NULL, full_body = NULL, is_pruned = TRUE
    WHERE row_id = ANY($1)";

const DELIVERIES_OF_MESSAGE: &str = deliveries_of_message!("SELECT message_row($1)");

const REDELIVER: &str = redeliver!(" FOR SHARE");

const REDELIVER_RANGE: &str = redeliver_range!(" FOR SHARE");

/// Their deliveries are made in the same transaction: nobody may drop their bytes meanwhile.
const MESSAGES_TOLD: &str = messages_told!(" FOR SHARE");

const FAILING: &str = "SELECT endpoint_id FROM endpoint_health
    WHERE failing_since IS NOT NULL AND endpoint_id = ANY($1)";

const RELEASE: &str = "UPDATE deliveries SET process_id = NULL
    WHERE process_id = $1 AND state = 'pending' AND delivery_id = ANY($2)";

/// That it says `IS NOT DISTINCT FROM` leaves the planner no index but that of the deliveries' ids: it believes
/// that a process holds next to nothing, and would walk through all that it held since the last vacuum.
const RECORD: &str = "WITH changed AS (
        UPDATE deliveries
        SET state = result.state, cause = result.cause, process_id = NULL, is_retry = TRUE,
            attempts = result.number,
            next_attempt_at = COALESCE(result.next_attempt_at, deliveries.next_attempt_at),
            finished_at = result.finished_at
        FROM unnest($2::new_result[]) AS result
        WHERE deliveries.delivery_id = result.delivery_id
          AND deliveries.process_id IS NOT DISTINCT FROM $1
          AND deliveries.state IS NOT DISTINCT FROM 'pending'
          AND deliveries.attempts < result.number
        RETURNING result.*),
    kept AS (
        INSERT INTO attempts (delivery_id, number, started_at, duration_us, status, error,
            response_head, response_body, address, is_connection_reused)
        SELECT delivery_id, number, started_at, duration_us, status, error, response_head,
            response_body, address, is_connection_reused
        FROM changed)
    SELECT delivery_id FROM changed";

/// What records results, with the defect that the process was given.
#[cfg(feature = "crash-points")]
fn record_statement() -> String {
    let held = "deliveries.process_id IS NOT DISTINCT FROM $1";
    assert!(RECORD.contains(held), "the defect is one");
    let instead =
        if crash::has(Defect::RecordWithoutLease) { "$1::uuid IS NOT NULL" } else { held };
    RECORD.replace(held, instead)
}

/// Binds one array for each column of a batch.
macro_rules! bind_columns {
    ($query:expr, $rows:expr, $($column:expr),+ $(,)?) => {
        $query$(.bind($rows.iter().map($column).collect::<Vec<_>>()))+
    };
}

/// The store in a PostgreSQL database.
#[derive(Debug)]
pub struct Postgres {
    /// For what goes on all the time. Few, so that each has the tables, the statements and their plans at
    /// hand.
    batches: PgPool,
    writer: PgPool,
    readers: PgPool,
    installation: Uuid,
}

/// For what goes on all the time. Its statements look up by an index: a plan that was made when the tables
/// were small would go on to read the whole of them, until they are analyzed. And they are planned once:
/// planning one for the values of the moment takes about as long as running it, and comes to the same.
const PLANNED_ONCE: [(&str, &str); 4] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// Two batches, an event that is late, a claim, results.
const BATCH_CONNECTIONS: u32 = 5;

/// For everything else.
const OTHER_CONNECTIONS: u32 = 7;

/// How long a connection may take to come.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long one that is there may take to answer. Most that do not are still waiting for a statement that nobody
/// waits for any more.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// A connection that answered so lately is taken at its word.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// For statements that take as long as the tables are.
const NO_TIMEOUT: Duration = Duration::ZERO;

/// How to connect, so that what is committed stays committed; to a database that can be used.
async fn options(url: &str, statement_timeout: Duration) -> Result<PgConnectOptions, StoreError> {
    let timeout_ms = statement_timeout.as_millis().to_string();
    let silence_ms = super::DEADLINE.as_millis().to_string();
    let options = PgConnectOptions::from_str(url)
        .map_err(|error| StoreError::Broken(error.into()))?
        .application_name("finalizer")
        // Every statement here is short: compiling one takes longer than running it.
        .options([
            ("synchronous_commit", "on"),
            ("statement_timeout", timeout_ms.as_str()),
            ("jit", "off"),
            // A process that has gone silent in a transaction locks sessions that others have
            // events of; on its own PostgreSQL would wait for it for hours.
            ("idle_in_transaction_session_timeout", timeout_ms.as_str()),
            // Nor may one that waits for a lock, once nobody waits for it.
            ("client_connection_check_interval", "1000"),
            ("tcp_user_timeout", silence_ms.as_str()),
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
        ])
        // A slow statement would be logged with its whole text.
        .disable_statement_logging();
    require_primary(&options).await?;
    Ok(options)
}

fn pool(options: PgConnectOptions, connections: u32) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(connections).acquire_timeout(CONNECT_WITHIN);
    let pool = pool.after_release(|connection, _| Box::pin(is_answering(connection)));
    // The pool would ask each time, one more round trip for every statement.
    let pool = pool.test_before_acquire(false).before_acquire(|connection, known| {
        Box::pin(async move { Ok(known.idle_for < FRESH_FOR || is_answering(connection).await?) })
    });
    pool.connect_lazy_with(options)
}

/// Whether a connection may be used again. The pool asks by itself, but for as long as it takes:
/// connections whose network is silent would keep their places in it for ever.
async fn is_answering(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match tokio::time::timeout(ANSWER_WITHIN, connection.ping()).await {
        Ok(answer) => answer.map(|()| true),
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Asks with a connection of its own: a pool tries again until its time is up, and then does not
/// know why.
async fn require_primary(options: &PgConnectOptions) -> Result<(), StoreError> {
    let ask = async {
        let mut connection = PgConnection::connect_with(options).await?;
        let is_standby: bool =
            query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(is_standby)
    };
    let answer = tokio::time::timeout(CONNECT_WITHIN, ask).await;
    match answer.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
        Ok(false) => Ok(()),
        Ok(true) => Err(StoreError::Broken(anyhow::anyhow!(
            "this PostgreSQL is a read-only standby; give the address of the primary"
        ))),
        Err(error) => Err(unusable(options, error)),
    }
}

/// Says where and why, without the password.
fn unusable(options: &PgConnectOptions, error: sqlx::Error) -> StoreError {
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let reason = match &error {
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::PoolTimedOut => format!("no answer within {CONNECT_WITHIN:?}"),
        other => other.to_string(),
    };
    let sentence = anyhow::anyhow!("PostgreSQL at {place}: {reason}");
    match failed(error) {
        StoreError::Transient(_) => StoreError::Transient(sentence),
        StoreError::Rejected(_) | StoreError::Broken(_) => StoreError::Broken(sentence),
    }
}

impl Postgres {
    /// Opens a database that is up to date.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let options = options(url, super::DEADLINE).await?;
        let batches = pool(options.clone().options(PLANNED_ONCE), BATCH_CONNECTIONS);
        let others = pool(options, OTHER_CONNECTIONS);
        require_migrated(&others).await?;
        require_own_cluster(&others).await?;
        let installation =
            query_scalar(sql::INSTALLATION).fetch_one(&others).await.map_err(failed)?;
        Ok(Self { batches, writer: others.clone(), readers: others, installation })
    }

    /// Brings a database up to date.
    pub async fn migrate(url: &str) -> Result<(), StoreError> {
        let pool = pool(options(url, NO_TIMEOUT).await?, OTHER_CONNECTIONS);
        super::migrator(MIGRATIONS)
            .run(&pool)
            .await
            .map_err(|error| StoreError::Broken(error.into()))?;
        bring_back(&pool).await
    }

    async fn begin(&self) -> Result<sqlx::Transaction<'static, Db>, StoreError> {
        self.writer.begin().await.map_err(failed)
    }

    /// For what goes on all the time.
    async fn begin_batch(&self) -> Result<sqlx::Transaction<'static, Db>, StoreError> {
        self.batches.begin().await.map_err(failed)
    }

    async fn take_batch(&self, batch: Batch<'_>) -> Result<Taken, StoreError> {
        if let Some(taken) = take::take_new(self, self.installation, batch).await? {
            return Ok(taken);
        }
        let begin = || async {
            Ok(Box::new(Writing(self.begin_batch().await?)) as Box<dyn Transaction + 'static>)
        };
        take::take(begin, self.installation, batch).await
    }

    async fn ask_time(&self) -> Result<DateTime<Utc>, StoreError> {
        query_scalar("SELECT clock_timestamp()").fetch_one(&self.readers).await.map_err(failed)
    }

    async fn unjoined(&self, which: &Unjoined) -> Result<Vec<JoinedEgress>, StoreError> {
        let Unjoined { keys, is_everything } = which;
        if *is_everything {
            return all::<EgressRow, _>(query_as(sql::ALL_UNJOINED), &self.readers).await;
        }
        all::<EgressRow, _>(
            query_as(UNJOINED_EGRESSES)
                .bind(keys.ids.iter().map(String::as_str).collect::<Vec<_>>())
                .bind(keys.sessions.iter().copied().collect::<Vec<_>>())
                .bind(keys.room_ids.iter().map(String::as_str).collect::<Vec<_>>())
                .bind(keys.room_names.iter().map(String::as_str).collect::<Vec<_>>()),
            &self.batches,
        )
        .await
    }

    async fn walk(
        &self,
        filter: &HistoryFilter,
        cursor: Cursor,
        limit: u32,
    ) -> Result<Walked, StoreError> {
        // Asked first: what is brought back from another cluster in between bears the old epoch
        // then, and is walked over again.
        let (epoch, settled): (i32, String) =
            query_as(HISTORY_END).fetch_one(&self.readers).await.map_err(failed)?;
        let from = cursor.or_beginning(epoch, position(&settled)?);
        let (start, end) = filter.range();
        let mut asked = query_as(filter.owner.map_or(FINALIZED_AFTER, |_| FINALIZED_AFTER_OF))
            .bind(start)
            .bind(end)
            .bind(&filter.tenant_id)
            .bind(&filter.character_slug)
            .bind(from.position.to_string())
            .bind(from.id)
            .bind(i64::from(limit));
        if let Some(owner) = filter.owner {
            asked = asked.bind(owner);
        }
        let rows: Vec<FinalizedRow> = asked.fetch_all(&self.readers).await.map_err(failed)?;
        walked(rows, from)
    }

    async fn claim_due(
        &self,
        process: Uuid,
        now: DateTime<Utc>,
        slots: &[Slot],
    ) -> Result<Vec<Owed>, StoreError> {
        let (limited, unlimited): (Vec<Slot>, Vec<Slot>) =
            slots.iter().partition(|slot| slot.rate_limit_per_minute.is_some());
        let mut rows = Vec::new();
        if !unlimited.is_empty() {
            let mut connection = self.batches.acquire().await.map_err(failed)?;
            rows = claim(&mut connection, process, now, &unlimited).await?;
        }
        for slot in limited {
            let mut tx = Writing(self.begin().await?);
            let (health, slot) = tx.limited(slot, now).await?;
            let claimed = claim(&mut tx.0, process, now, &[slot]).await?;
            tx.started(&slot, health, now, claimed.len()).await?;
            Box::new(tx).commit().await?;
            rows.extend(claimed);
        }
        read_all(rows)
    }

    async fn give_back(&self, process: Uuid, deliveries: &[Uuid]) -> Result<(), StoreError> {
        query(RELEASE)
            .bind(process)
            .bind(deliveries)
            .execute(&self.writer)
            .await
            .map_err(failed)?;
        Ok(())
    }
}

#[async_trait]
impl TakesNew for Postgres {
    async fn look(&self, keys: &EgressKeys, owners: &[i64]) -> Result<Option<Blank>, StoreError> {
        let rows = query(LOOK)
            .bind(keys.sessions.iter().copied().collect::<Vec<_>>())
            .bind(keys.ids.iter().map(String::as_str).collect::<Vec<_>>())
            .bind(keys.room_ids.iter().map(String::as_str).collect::<Vec<_>>())
            .bind(keys.room_names.iter().map(String::as_str).collect::<Vec<_>>())
            .bind(owners)
            .fetch_all(&self.batches)
            .await
            .map_err(failed)?;
        blank(&rows)
    }

    async fn put_new(
        &self,
        plan: &Plan,
        messages: &[MessageToKeep<'_>],
        deliveries: &[DeliveryToKeep],
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let query = query(PUT_NEW)
            .bind(rows(&plan.sessions))
            .bind(rows(messages))
            .bind(rows(deliveries))
            .bind(now);
        match query.execute(&self.batches).await {
            Ok(_) => Ok(true),
            Err(error) if is_second(&error) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}

/// What the rows of [`LOOK`] say.
fn blank(rows: &[PgRow]) -> Result<Option<Blank>, StoreError> {
    let Some(first) = rows.first() else { return Ok(None) };
    let Some(numbers) = first.try_get("numbers").map_err(failed)? else { return Ok(None) };
    let mut endpoints = Vec::with_capacity(rows.len());
    for row in rows {
        let is_one: Option<Uuid> = row.try_get("endpoint_id").map_err(failed)?;
        if is_one.is_some() {
            endpoints.push(EndpointRow::from_row(row).map_err(failed)?.try_into()?);
        }
    }
    Ok(Some(Blank { numbers, endpoints }))
}

/// Somebody else was first: 23505 says that a row is there, class 40 that the statement was the victim of
/// a deadlock, or that `refuse_erased` refused.
fn is_second(error: &sqlx::Error) -> bool {
    code_of(error).is_some_and(|code| code == "23505" || code.starts_with("40"))
}

async fn claim(
    connection: &mut PgConnection,
    process: Uuid,
    now: DateTime<Utc>,
    slots: &[Slot],
) -> Result<Vec<OwedRow>, StoreError> {
    let mut rows: Vec<OwedRow> = Vec::new();
    let mut free: Vec<(Uuid, i64)> =
        slots.iter().map(|slot| (slot.endpoint_id, i64::from(slot.free))).collect();
    for is_retry in [false, true] {
        if is_retry {
            for ((_, free), slot) in free.iter_mut().zip(slots) {
                *free = (*free).min(i64::from(slot.free_for_retries));
            }
        }
        let claimed: Vec<OwedRow> = query_as(CLAIM)
            .bind(process)
            .bind(free.iter().map(|(endpoint_id, _)| *endpoint_id).collect::<Vec<_>>())
            .bind(free.iter().map(|(_, free)| *free).collect::<Vec<_>>())
            .bind(is_retry)
            .bind(now)
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
        for row in &claimed {
            if let Some(slot) = free.iter_mut().find(|(id, _)| *id == row.endpoint_id()) {
                slot.1 -= 1;
            }
        }
        rows.extend(claimed);
    }
    Ok(rows)
}

/// Refuses a database that this release's migrations have not all been run on.
async fn require_migrated(pool: &PgPool) -> Result<(), StoreError> {
    let newest = MIGRATIONS.last().map_or(0, |(version, ..)| *version);
    let applied: Result<Option<i64>, _> =
        query_scalar("SELECT MAX(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(pool)
            .await;
    match applied {
        Ok(Some(version)) if version >= newest => Ok(()),
        Ok(_) => Err(unmigrated()),
        // 42P01: the table that records migrations does not exist.
        Err(error) if code_of(&error).as_deref() == Some("42P01") => Err(unmigrated()),
        Err(error) => Err(failed(error)),
    }
}

/// Refuses a database that was restored from another cluster, whose transactions have other numbers:
/// sessions that are finalized from now on would come before those that were.
async fn require_own_cluster(pool: &PgPool) -> Result<(), StoreError> {
    let is_ahead: Option<bool> =
        query_scalar(IS_AHEAD).fetch_optional(pool).await.map_err(failed)?;
    if is_ahead != Some(true) {
        return Ok(());
    }
    Err(StoreError::Broken(anyhow::anyhow!(
        "the PostgreSQL database was restored from another cluster; run `finalizer migrate`"
    )))
}

/// Puts what another cluster counted before what this one will, and begins a new epoch.
async fn bring_back(pool: &PgPool) -> Result<(), StoreError> {
    let mut tx = pool.begin().await.map_err(failed)?;
    let brought = query(BRING_BACK).execute(&mut *tx).await.map_err(failed)?;
    if brought.rows_affected() > 0 {
        query(BEGIN_EPOCH).execute(&mut *tx).await.map_err(failed)?;
    }
    tx.commit().await.map_err(failed)
}

fn unmigrated() -> StoreError {
    StoreError::Broken(anyhow::anyhow!(
        "the PostgreSQL database is not up to date; run `finalizer migrate`"
    ))
}

fn code_of(error: &sqlx::Error) -> Option<String> {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .map(std::borrow::Cow::into_owned)
}

/// What a database error means for whoever asked: by SQLSTATE class,
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub(super) fn failed(error: sqlx::Error) -> StoreError {
    let Some(code) = code_of(&error) else { return super::failed_without_code(error) };
    match code.get(..2).unwrap_or_default() {
        // Data exceptions, broken constraints, values too large for an index or a row.
        "22" | "23" | "54" => StoreError::Rejected(error.into()),
        // A statement took too long.
        _ if code == "57014" => StoreError::Transient(super::Late.into()),
        // Connection, transaction rollback (deadlock), resources, locks, operator intervention
        // (shutdown, time-out), system errors; a standby that was a primary a moment ago.
        "08" | "40" | "53" | "55" | "57" | "58" => StoreError::Transient(error.into()),
        // Nor was a transaction that went on too slowly for PostgreSQL to wait for it.
        _ if code == "25006" || code == "25P03" => StoreError::Transient(error.into()),
        _ => StoreError::Broken(error.into()),
    }
}

struct Writing(sqlx::Transaction<'static, Db>);

#[async_trait]
impl Transaction for Writing {
    async fn sessions(
        &mut self,
        keys: &SessionKeys,
        locked: WhenLocked,
    ) -> Result<Vec<Session>, StoreError> {
        let ids: Vec<Uuid> = keys.ids.iter().copied().collect();
        let is_by_id = keys.egress_ids.is_empty() && keys.rooms.is_empty();
        let rows: Vec<SessionRow> = if is_by_id && locked == WhenLocked::Wait {
            query_as(SESSIONS_BY_ID).bind(ids).fetch_all(&mut *self.0).await.map_err(failed)?
        } else {
            let egress_ids: Vec<&str> = keys.egress_ids.iter().map(String::as_str).collect();
            let statement = match locked {
                WhenLocked::Wait => SESSIONS_BY_KEYS,
                WhenLocked::Fail => SESSIONS_BY_KEYS_AT_ONCE,
            };
            let query = query_as(statement).bind(ids).bind(egress_ids);
            bind_columns!(
                query,
                keys.rooms,
                |room| room.room_id.as_deref(),
                |room| room.room_name.as_deref(),
                |room| room.from,
                |room| room.to,
            )
            .fetch_all(&mut *self.0)
            .await
            .map_err(failed)?
        };
        read_all(rows)
    }

    async fn egresses(&mut self, keys: &EgressKeys) -> Result<Vec<JoinedEgress>, StoreError> {
        all::<EgressRow, _>(
            query_as(EGRESSES_BY_KEYS)
                .bind(keys.ids.iter().map(String::as_str).collect::<Vec<_>>())
                .bind(keys.sessions.iter().copied().collect::<Vec<_>>())
                .bind(keys.room_ids.iter().map(String::as_str).collect::<Vec<_>>())
                .bind(keys.room_names.iter().map(String::as_str).collect::<Vec<_>>()),
            &mut *self.0,
        )
        .await
    }

    async fn endpoints(&mut self, owners: &[i64]) -> Result<Vec<Endpoint>, StoreError> {
        all::<EndpointRow, _>(query_as(ENDPOINTS_OF).bind(owners), &mut *self.0).await
    }

    async fn numbers(&mut self, count: usize) -> Result<Vec<i64>, StoreError> {
        query_scalar("SELECT nextval('session_numbers') FROM generate_series(1, $1)")
            .bind(i64::try_from(count).unwrap_or(i64::MAX))
            .fetch_all(&mut *self.0)
            .await
            .map_err(failed)
    }

    async fn put_sessions(&mut self, sessions: &[Session]) -> Result<u64, StoreError> {
        let query = query(PUT_SESSIONS).bind(rows(sessions));
        let put = query.execute(&mut *self.0).await.map_err(failed)?;
        Ok(put.rows_affected())
    }

    async fn put_egresses(
        &mut self,
        egresses: &[JoinedEgress],
        now: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        let query = query(PUT_EGRESSES);
        let put = bind_columns!(
            query,
            egresses,
            |row| row.egress.egress_id.as_str(),
            |row| serde_json::to_string(&row.egress).expect("a report is JSON"),
            |row| row.egress.room_id.as_deref(),
            |row| row.egress.room_name.as_deref(),
            |row| row.named_session_id,
            |row| row.session_id,
            |row| row.joined_by.map(JoinedBy::as_number),
            |row| row.version,
        )
        .bind(now)
        .execute(&mut *self.0)
        .await
        .map_err(failed)?;
        Ok(put.rows_affected())
    }

    async fn checkpoints(&mut self, sessions: &BTreeSet<Uuid>) -> Result<Vec<Session>, StoreError> {
        let found: Vec<String> = query_scalar(CHECKPOINTS)
            .bind(sessions.iter().copied().collect::<Vec<_>>())
            .fetch_all(&mut *self.0)
            .await
            .map_err(failed)?;
        found.iter().map(|json| checkpoint(json)).collect()
    }

    async fn put_checkpoints(&mut self, checkpoints: &[Session]) -> Result<(), StoreError> {
        let query = query(PUT_CHECKPOINTS);
        bind_columns!(query, checkpoints, |checkpoint| checkpoint.session_id, checkpoint_json)
            .execute(&mut *self.0)
            .await
            .map_err(failed)?;
        Ok(())
    }

    async fn drop_checkpoints(&mut self, sessions: &[Uuid]) -> Result<(), StoreError> {
        query(DROP_CHECKPOINTS).bind(sessions).execute(&mut *self.0).await.map_err(failed)?;
        Ok(())
    }

    async fn erased(&mut self, candidates: &Erased) -> Result<Erased, StoreError> {
        let mut erased = Erased::default();
        if !candidates.sessions.is_empty() {
            let sessions: Vec<Uuid> = candidates.sessions.iter().copied().collect();
            let found: Vec<Uuid> = query_scalar(ERASED_SESSIONS)
                .bind(sessions)
                .fetch_all(&mut *self.0)
                .await
                .map_err(failed)?;
            erased.sessions.extend(found);
        }
        if !candidates.egresses.is_empty() {
            let egresses: Vec<String> = candidates.egresses.iter().cloned().collect();
            let found: Vec<String> = query_scalar(ERASED_EGRESSES)
                .bind(egresses)
                .fetch_all(&mut *self.0)
                .await
                .map_err(failed)?;
            erased.egresses.extend(found);
        }
        Ok(erased)
    }

    async fn rooms(&mut self, keys: &RoomKeys) -> Result<Vec<FinishedRoom>, StoreError> {
        all::<RoomRow, _>(
            query_as(ROOMS_BY_KEYS)
                .bind(keys.digests.iter().map(|digest| &digest[..]).collect::<Vec<_>>())
                .bind(keys.sessions.iter().copied().collect::<Vec<_>>())
                .bind(keys.room_ids.iter().map(String::as_str).collect::<Vec<_>>())
                .bind(keys.room_names.iter().map(String::as_str).collect::<Vec<_>>()),
            &mut *self.0,
        )
        .await
    }

    async fn put_rooms(&mut self, rooms: &[FinishedRoom]) -> Result<(), StoreError> {
        let query = query(PUT_ROOMS);
        bind_columns!(
            query,
            rooms,
            |room| &room.digest[..],
            |room| room.session_id,
            |room| room.room_id.as_deref(),
            |room| room.room_name.as_deref(),
            |room| room.finished_at,
            |room| room.heard_at,
        )
        .execute(&mut *self.0)
        .await
        .map_err(failed)?;
        Ok(())
    }

    async fn put_messages(
        &mut self,
        messages: &[MessageToKeep<'_>],
        now: DateTime<Utc>,
    ) -> Result<HashSet<MessageId>, StoreError> {
        let new: Vec<Vec<u8>> = query_scalar(PUT_MESSAGES)
            .bind(rows(messages))
            .bind(now)
            .fetch_all(&mut *self.0)
            .await
            .map_err(failed)?;
        Ok(new.into_iter().filter_map(|id| id.try_into().ok().map(MessageId)).collect())
    }

    async fn put_deliveries(
        &mut self,
        deliveries: &[DeliveryToKeep],
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        query(PUT_DELIVERIES)
            .bind(rows(deliveries))
            .bind(now)
            .execute(&mut *self.0)
            .await
            .map_err(failed)?;
        Ok(())
    }

    async fn put_results(
        &mut self,
        process: Uuid,
        results: &[AttemptResult],
    ) -> Result<Vec<Uuid>, StoreError> {
        #[cfg(not(feature = "crash-points"))]
        let statement = RECORD;
        #[cfg(feature = "crash-points")]
        let statement = sqlx::AssertSqlSafe(record_statement());
        query_scalar(statement)
            .bind(process)
            .bind(rows(results))
            .fetch_all(&mut *self.0)
            .await
            .map_err(failed)
    }

    async fn failing(&mut self, among: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
        query_scalar(FAILING).bind(among).fetch_all(&mut *self.0).await.map_err(failed)
    }

    async fn cancel_pending(
        &mut self,
        endpoint_id: Uuid,
        cause: Cause,
        now: DateTime<Utc>,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let cancelled = query(CANCEL_PENDING)
            .bind(endpoint_id)
            .bind(cause.as_str())
            .bind(now)
            .bind(i64::from(limit))
            .execute(&mut *self.0)
            .await
            .map_err(failed)?;
        Ok(cancelled.rows_affected())
    }

    async fn old_deliveries(
        &mut self,
        messages: &[Uuid],
        before: DateTime<Utc>,
    ) -> Result<Vec<OldDelivery>, StoreError> {
        all::<OldDeliveryRow, _>(query_as(OLD_DELIVERIES).bind(messages).bind(before), &mut *self.0)
            .await
    }

    async fn drop_deliveries(&mut self, deliveries: &[Uuid]) -> Result<u64, StoreError> {
        let dropped =
            query(DROP_ATTEMPTS).bind(deliveries).execute(&mut *self.0).await.map_err(failed)?;
        query(DROP_DELIVERIES).bind(deliveries).execute(&mut *self.0).await.map_err(failed)?;
        Ok(dropped.rows_affected())
    }

    async fn drop_bodies(&mut self, messages: &[Uuid]) -> Result<(), StoreError> {
        query(DROP_BODIES).bind(messages).execute(&mut *self.0).await.map_err(failed)?;
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.0.commit().await.map_err(failed)
    }
}

super::shared::impl_store!(Postgres);
