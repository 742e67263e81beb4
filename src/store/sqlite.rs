//! Everything in one SQLite file: nothing to install, one machine.
//!
//! One connection writes, several read (WAL). A write waits at most `busy_timeout` for another
//! process; every one is `BEGIN IMMEDIATE`, because a deferred transaction that reads and then
//! writes fails at once when somebody else wrote in between. `synchronous=FULL`: what was
//! committed survives a power cut.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Sqlite as Db, query, query_as, query_scalar};
use uuid::Uuid;

use super::failures::FailureRows;
use super::prune::{OldDelivery, OldMessage, PrunePosition, Pruned};
use super::redelivery::ToldMessage;
use super::rows::{
    ApiKeyRow, AttemptRow, AwaitedFileRow, BillRow, DeliveryRow, DeliveryStoryRow, DueEndpointRow,
    EgressRow, EndpointRow, FailureRow, FinalizedCallRow, FinalizedRow, HealthRow, IntakeRow,
    OldDeliveryRow, OwedRow, RawFailureRow, RedeliveryRow, ReplayRow, RoomRow, SessionRow,
    SilentRow, ToldMessageRow, TotalsRow, backlog, bills, checkpoint, checkpoint_json,
    delivery_state, event_type_list, read_all, walked,
};
use super::shared::{COUNTED_AT_ONCE, MOST_COUNTED, number};
use super::sql::{
    deliveries_of_message, egress_columns, egress_upsert, endpoint_columns, finalized_after,
    finalized_lately, has_bytes, history_filter, redeliver, redeliver_range, room_columns,
    session_columns, session_upsert, unjoined_egresses,
};
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
use crate::event::FailureCode;
use crate::finalize::{
    Bill, Erased, FinishedRoom, JoinedBy, JoinedEgress, Prepared, Repriced, Session, Silence,
    Totals, recording_files,
};
use crate::webhook::{MessageId, PayloadKind, RateLimit};

const MIGRATIONS: &[super::MigrationFile] = &[
    (1, "initial", include_str!("../../migrations/sqlite/0001_initial.sql")),
    (2, "webhooks", include_str!("../../migrations/sqlite/0002_webhooks.sql")),
    (3, "history", include_str!("../../migrations/sqlite/0003_history.sql")),
    (4, "keys", include_str!("../../migrations/sqlite/0004_keys.sql")),
    (5, "recordings", include_str!("../../migrations/sqlite/0005_recordings.sql")),
    (6, "failures", include_str!("../../migrations/sqlite/0006_failures.sql")),
    (7, "checkpoints", include_str!("../../migrations/sqlite/0007_checkpoints.sql")),
    (8, "erasure", include_str!("../../migrations/sqlite/0008_erasure.sql")),
    (9, "traces", include_str!("../../migrations/sqlite/0009_traces.sql")),
    (10, "retention", include_str!("../../migrations/sqlite/0010_retention.sql")),
    (11, "new_calls", include_str!("../../migrations/sqlite/0011_new_calls.sql")),
    (12, "rising", include_str!("../../migrations/sqlite/0012_rising.sql")),
    (13, "rooms", include_str!("../../migrations/sqlite/0013_rooms.sql")),
    (14, "analyze", include_str!("../../migrations/sqlite/0014_analyze.sql")),
    (15, "rows", include_str!("../../migrations/sqlite/0015_rows.sql")),
    (16, "statistics", include_str!("../../migrations/sqlite/0016_statistics.sql")),
];

const SESSIONS_BY_KEYS: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM sessions WHERE session_id IN (
        SELECT unhex(value) FROM json_each($1)
        UNION SELECT session_id FROM sessions
            WHERE recording_egress_id IN (SELECT value FROM json_each($2)))
    ORDER BY session_id"
);

const SESSIONS_BY_ROOM: &str = concat!(
    "SELECT ",
    session_columns!(),
    " FROM sessions WHERE (room_id = $1 OR room_name = $2)
        AND started_at <= $4 AND (ended_at IS NULL OR ended_at >= $3)
    ORDER BY session_id"
);

const EGRESSES_BY_KEYS: &str = concat!(
    "SELECT ",
    egress_columns!(),
    " FROM egresses WHERE egress_id IN (
        SELECT value FROM json_each($1)
        UNION SELECT egress_id FROM egresses
            WHERE session_id IN (SELECT unhex(value) FROM json_each($2))
        UNION SELECT egress_id FROM egresses
            WHERE named_session_id IN (SELECT unhex(value) FROM json_each($2))
        UNION SELECT egress_id FROM egresses
            WHERE session_id IS NULL AND room_id IN (SELECT value FROM json_each($3))
        UNION SELECT egress_id FROM egresses
            WHERE session_id IS NULL AND room_name IN (SELECT value FROM json_each($4)))
    ORDER BY egress_id"
);

const UNJOINED_EGRESSES: &str = unjoined_egresses!(
    " AND (egress_id IN (SELECT value FROM json_each($1))
        OR named_session_id IN (SELECT unhex(value) FROM json_each($2))
        OR room_id IN (SELECT value FROM json_each($3))
        OR room_name IN (SELECT value FROM json_each($4)))"
);

const AWAITED_FILES: &str = "UPDATE sessions SET recording_look_at = $2
    WHERE session_id IN (
        SELECT session_id FROM sessions
        WHERE recording_status IN ('PENDING', 'PROCESSING')
          AND recording_worker_url IS NOT NULL AND recording_egress_id IS NULL
          AND finalized_at IS NOT NULL AND recording_look_at <= $1
        ORDER BY recording_look_at
        LIMIT $3)
    RETURNING session_id, recording_worker_url, finalized_at";

const ENDPOINTS_OF: &str = concat!(
    "SELECT ",
    endpoint_columns!(),
    " FROM endpoints
    WHERE (owner IS NULL OR owner IN (SELECT value FROM json_each($1))) AND deleted_at IS NULL
    ORDER BY created_at, endpoint_id"
);

const PUT_SESSION: &str = concat!(
    "INSERT INTO sessions (",
    session_columns!(),
    ", finalized_sequence) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
        $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36,
        $37, $38, $39, $40, $41, $42, $43,
        1 + MAX(
            (SELECT COALESCE(MAX(finalized_sequence), 0) FROM sessions
             WHERE finalized_at IS NOT NULL),
            (SELECT COALESCE(MAX(finalized_sequence), 0) FROM erased_sessions)))",
    session_upsert!("finalized_sequence")
);

const FINALIZED_AFTER: &str = finalized_after!("finalized_sequence", "$5", "TRUE", "");

const FINALIZED_AFTER_OF: &str =
    finalized_after!("finalized_sequence", "$5", "TRUE", " AND character_owner = $8");

const FINALIZED_LATELY: &str = finalized_lately!("finalized_sequence", "");

const FINALIZED_LATELY_OF: &str =
    finalized_lately!("finalized_sequence", " AND character_owner = $3");

/// Numbers of sessions that were erased are not given again.
const LAST_NUMBER: &str = "SELECT MAX(
    (SELECT COALESCE(MAX(id), 0) FROM sessions),
    (SELECT COALESCE(MAX(id), 0) FROM erased_sessions))";

const NEWEST: &str = "SELECT COALESCE(MAX(finalized_sequence), 0) FROM sessions
    WHERE finalized_at IS NOT NULL";

const PUT_EGRESS: &str = concat!(
    "INSERT INTO egresses (",
    egress_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    egress_upsert!()
);

const CHECKPOINT: &str = "SELECT session FROM checkpoints WHERE session_id = $1";

const PUT_CHECKPOINT: &str = "INSERT INTO checkpoints (session_id, session) VALUES ($1, $2)
    ON CONFLICT (session_id) DO UPDATE SET session = excluded.session";

const DROP_CHECKPOINT: &str = "DELETE FROM checkpoints WHERE session_id = $1";

const ADD_ERASED: &str = "INSERT INTO erased_sessions
        (session_id, id, character_owner, digests, files, erased_at, finalized_sequence)
    VALUES ($1, $2, $3, $4, $5, $6,
        (SELECT finalized_sequence FROM sessions WHERE session_id = $1))";

const ERASED_SESSIONS: &str = "SELECT session_id FROM erased_sessions
    WHERE session_id IN (SELECT unhex(value) FROM json_each($1))";

const ERASED_EGRESSES: &str = "SELECT egress_id FROM erased_egresses
    WHERE egress_id IN (SELECT value FROM json_each($1))";

const ROOMS_BY_KEYS: &str = concat!(
    "SELECT ",
    room_columns!(),
    " FROM finished_rooms WHERE digest IN (
        SELECT unhex(value) FROM json_each($1)
        UNION SELECT digest FROM finished_rooms
            WHERE session_id IN (SELECT unhex(value) FROM json_each($2))
        UNION SELECT digest FROM finished_rooms
            WHERE room_id IN (SELECT value FROM json_each($3))
        UNION SELECT digest FROM finished_rooms
            WHERE room_name IN (SELECT value FROM json_each($4)))"
);

const PUT_ROOM: &str = concat!(
    "INSERT INTO finished_rooms (",
    room_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING"
);

const PUT_MESSAGE: &str = "INSERT INTO messages
        (row_id, message_id, type, session_id, session_number, egress_id, thin, full_body,
         traceparent, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    ON CONFLICT DO NOTHING";

const PUT_DELIVERY: &str = "INSERT INTO deliveries
        (delivery_id, message_row, endpoint_id, payload, state, cause, process_id, is_retry,
         attempts, next_attempt_at, created_at, finished_at, redelivered_after)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $10 IS NOT NULL, 0, $8, $8, $9, $10)";

const CLAIM: &str = "UPDATE deliveries SET process_id = $1
    WHERE delivery_id IN (
        SELECT delivery_id FROM deliveries
        WHERE state = 'pending' AND process_id IS NULL AND endpoint_id = $2
          AND is_retry = $3 AND next_attempt_at <= $4
        ORDER BY next_attempt_at LIMIT $5)
    RETURNING delivery_id, process_id, endpoint_id, attempts, redelivered_after,
        (SELECT owner FROM endpoints WHERE endpoints.endpoint_id = deliveries.endpoint_id) AS owner,
        (SELECT message_id FROM messages WHERE row_id = message_row) AS message_id,
        (SELECT type FROM messages WHERE row_id = message_row) AS type,
        (SELECT created_at FROM messages WHERE row_id = message_row) AS told_at,
        (SELECT traceparent FROM messages WHERE row_id = message_row) AS traceparent,
        (SELECT CASE payload WHEN 'full' THEN full_body ELSE thin END
         FROM messages WHERE row_id = message_row) AS body";

const CANCEL_PENDING: &str = "UPDATE deliveries
    SET state = 'cancelled', cause = $2, finished_at = $3
    WHERE delivery_id IN (
        SELECT delivery_id FROM deliveries
        WHERE state = 'pending' AND process_id IS NULL AND endpoint_id = $1
        LIMIT $4)
      AND EXISTS (
        SELECT 1 FROM endpoints
        WHERE endpoint_id = $1 AND (disabled_at IS NOT NULL OR deleted_at IS NOT NULL))";

const EXPIRE_RAW: &str = "UPDATE failures SET raw = $3, raw_expired_at = $2
    WHERE failure_id IN (
        SELECT failure_id FROM failures
        WHERE raw_expired_at IS NULL AND last_seen_at <= $1
        ORDER BY last_seen_at
        LIMIT $4)";

const OLD_MESSAGES: &str = "SELECT created_at, message_id, row_id FROM messages
    WHERE NOT is_pruned AND created_at < $1 AND (created_at, message_id) > ($2, $3)
    ORDER BY created_at, message_id
    LIMIT $4";

const OLD_DELIVERIES: &str = "SELECT delivery_id, message_row,
        state <> 'pending' AND finished_at < $2 AS is_over
    FROM deliveries WHERE message_row IN (SELECT unhex(value) FROM json_each($1))";

const DROP_ATTEMPTS: &str = "DELETE FROM attempts
    WHERE delivery_id IN (SELECT unhex(value) FROM json_each($1))";

const DROP_DELIVERIES: &str = "DELETE FROM deliveries
    WHERE delivery_id IN (SELECT unhex(value) FROM json_each($1))";

const DROP_BODIES: &str = "UPDATE messages SET thin = NULL, full_body = NULL, is_pruned = TRUE
    WHERE row_id IN (SELECT unhex(value) FROM json_each($1))";

const DELIVERIES_OF_MESSAGE: &str =
    deliveries_of_message!("SELECT row_id FROM messages WHERE message_id = $1");

const REDELIVER: &str = redeliver!("");

const REDELIVER_RANGE: &str = redeliver_range!("");

const MESSAGES_TOLD: &str = sql::MESSAGES_LOOKED_AT;

const FAILING: &str = "SELECT endpoint_id FROM endpoint_health
    WHERE failing_since IS NOT NULL AND endpoint_id IN (SELECT unhex(value) FROM json_each($1))";

const RELEASE: &str = "UPDATE deliveries SET process_id = NULL
    WHERE process_id = $1 AND state = 'pending' AND delivery_id = $2";

const RECORD: &str = "UPDATE deliveries
    SET state = $3, cause = $4, process_id = NULL, is_retry = TRUE, attempts = $5,
        next_attempt_at = COALESCE($6, next_attempt_at), finished_at = $7
    WHERE delivery_id = $1 AND process_id = $2 AND state = 'pending'
      AND attempts < $5";

const PUT_ATTEMPT: &str = "INSERT INTO attempts
        (delivery_id, number, started_at, duration_us, status, error, response_head,
         response_body, address, is_connection_reused)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

/// The store in a SQLite file.
#[derive(Debug)]
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    installation: Uuid,
}

impl Sqlite {
    /// Opens a database and brings it up to date. `may_create`: make one where there is none.
    pub async fn open(path: &Path, may_create: bool) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(may_create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5))
            // A slow statement would be logged with its whole text.
            .disable_statement_logging();
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone());
        let writer = writer.await.map_err(failed)?;
        super::migrator(MIGRATIONS)
            .run(&writer)
            .await
            .map_err(|error| StoreError::Broken(error.into()))?;
        let readers = SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options);
        let installation =
            query_scalar(sql::INSTALLATION).fetch_one(&writer).await.map_err(failed)?;
        Ok(Self { writer, readers, installation })
    }

    async fn begin(&self) -> Result<sqlx::Transaction<'static, Db>, StoreError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)
    }

    async fn begin_batch(&self) -> Result<sqlx::Transaction<'static, Db>, StoreError> {
        self.begin().await
    }

    async fn take_batch(&self, batch: Batch<'_>) -> Result<Taken, StoreError> {
        let begin = || async {
            Ok(Box::new(Writing(self.begin().await?)) as Box<dyn Transaction + 'static>)
        };
        take::take(begin, self.installation, batch).await
    }

    async fn ask_time(&self) -> Result<DateTime<Utc>, StoreError> {
        let _: i64 = query_scalar("SELECT 1").fetch_one(&self.readers).await.map_err(failed)?;
        // The file has no clock of its own: all its users share this machine's.
        Ok(crate::clock::SystemClock::machine_now())
    }

    async fn unjoined(&self, which: &Unjoined) -> Result<Vec<JoinedEgress>, StoreError> {
        let Unjoined { keys, is_everything } = which;
        if *is_everything {
            return all::<EgressRow, _>(query_as(sql::ALL_UNJOINED), &self.readers).await;
        }
        all::<EgressRow, _>(
            query_as(UNJOINED_EGRESSES)
                .bind(texts_json(&keys.ids))
                .bind(ids_json(&keys.sessions))
                .bind(texts_json(&keys.room_ids))
                .bind(texts_json(&keys.room_names)),
            &self.readers,
        )
        .await
    }

    async fn walk(
        &self,
        filter: &HistoryFilter,
        cursor: Cursor,
        limit: u32,
    ) -> Result<Walked, StoreError> {
        let newest: i64 = query_scalar(NEWEST).fetch_one(&self.readers).await.map_err(failed)?;
        let from = cursor.or_beginning(0, u64::try_from(newest).unwrap_or(0));
        let (start, end) = filter.range();
        let mut asked = query_as(filter.owner.map_or(FINALIZED_AFTER, |_| FINALIZED_AFTER_OF))
            .bind(start)
            .bind(end)
            .bind(&filter.tenant_id)
            .bind(&filter.character_slug)
            .bind(i64::try_from(from.position).unwrap_or(i64::MAX))
            .bind(from.id)
            .bind(limit);
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
        let mut tx = Writing(self.begin().await?);
        let mut rows = Vec::new();
        for slot in slots {
            if slot.rate_limit_per_minute.is_some() {
                let (health, slot) = tx.limited(*slot, now).await?;
                let claimed = claim(&mut tx, process, now, &slot).await?;
                tx.started(&slot, health, now, claimed.len()).await?;
                rows.extend(claimed);
            } else {
                rows.extend(claim(&mut tx, process, now, slot).await?);
            }
        }
        Box::new(tx).commit().await?;
        read_all(rows)
    }

    async fn give_back(&self, process: Uuid, deliveries: &[Uuid]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for delivery_id in deliveries {
            query(RELEASE)
                .bind(process)
                .bind(delivery_id)
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }
}

async fn claim(
    tx: &mut Writing,
    process: Uuid,
    now: DateTime<Utc>,
    slot: &Slot,
) -> Result<Vec<OwedRow>, StoreError> {
    let (mut rows, mut free) = (Vec::new(), slot.free);
    for is_retry in [false, true] {
        if is_retry {
            free = free.min(slot.free_for_retries);
        }
        let claimed: Vec<OwedRow> = query_as(CLAIM)
            .bind(process)
            .bind(slot.endpoint_id)
            .bind(is_retry)
            .bind(now)
            .bind(free)
            .fetch_all(&mut *tx.0)
            .await
            .map_err(failed)?;
        free = free.saturating_sub(u32::try_from(claimed.len()).unwrap_or(u32::MAX));
        rows.extend(claimed);
    }
    Ok(rows)
}

async fn put_attempt(
    tx: &mut sqlx::Transaction<'static, Db>,
    result: &AttemptResult,
) -> Result<(), StoreError> {
    let attempt = &result.attempt;
    query(PUT_ATTEMPT)
        .bind(result.delivery_id)
        .bind(attempt.number)
        .bind(attempt.started_at)
        .bind(attempt.duration_us)
        .bind(attempt.status)
        .bind(&attempt.error)
        .bind(&attempt.response_head)
        .bind(&*attempt.response_body)
        .bind(&attempt.address)
        .bind(attempt.is_connection_reused)
        .execute(&mut **tx)
        .await
        .map_err(failed)?;
    Ok(())
}

/// What a database error means for whoever asked.
pub(super) fn failed(error: sqlx::Error) -> StoreError {
    // Primary result codes, https://www.sqlite.org/rescode.html; the extended ones keep them in
    // their low byte.
    let primary = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .and_then(|code| code.parse::<u32>().ok())
        .map(|code| code & 0xff);
    match primary {
        // TOOBIG, CONSTRAINT, MISMATCH.
        Some(18..=20) => StoreError::Rejected(error.into()),
        // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL.
        Some(5..=10 | 13..=15) => StoreError::Transient(error.into()),
        Some(_) => StoreError::Broken(error.into()),
        None => super::failed_without_code(error),
    }
}

/// Ids as JSON, for `json_each`: BLOBs travel as hexadecimal text.
fn ids_json<'a>(ids: impl IntoIterator<Item = &'a Uuid>) -> String {
    bytes_json(ids.into_iter().map(Uuid::as_bytes))
}

fn bytes_json(ids: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let ids: Vec<String> = ids.into_iter().map(hex::encode).collect();
    serde_json::to_string(&ids).expect("strings are JSON")
}

fn texts_json<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    let texts: Vec<&String> = texts.into_iter().collect();
    serde_json::to_string(&texts).expect("strings are JSON")
}

struct Writing(sqlx::Transaction<'static, Db>);

#[async_trait]
impl Transaction for Writing {
    /// There is one writer: nobody else locks anything.
    async fn sessions(
        &mut self,
        keys: &SessionKeys,
        _: WhenLocked,
    ) -> Result<Vec<Session>, StoreError> {
        let mut rows: Vec<SessionRow> = query_as(SESSIONS_BY_KEYS)
            .bind(ids_json(&keys.ids))
            .bind(texts_json(&keys.egress_ids))
            .fetch_all(&mut *self.0)
            .await
            .map_err(failed)?;
        for room in &keys.rooms {
            let found: Vec<SessionRow> = query_as(SESSIONS_BY_ROOM)
                .bind(&room.room_id)
                .bind(&room.room_name)
                .bind(room.from)
                .bind(room.to)
                .fetch_all(&mut *self.0)
                .await
                .map_err(failed)?;
            rows.extend(found);
        }
        read_all(rows)
    }

    async fn egresses(&mut self, keys: &EgressKeys) -> Result<Vec<JoinedEgress>, StoreError> {
        all::<EgressRow, _>(
            query_as(EGRESSES_BY_KEYS)
                .bind(texts_json(&keys.ids))
                .bind(ids_json(&keys.sessions))
                .bind(texts_json(&keys.room_ids))
                .bind(texts_json(&keys.room_names)),
            &mut *self.0,
        )
        .await
    }

    async fn endpoints(&mut self, owners: &[i64]) -> Result<Vec<Endpoint>, StoreError> {
        all::<EndpointRow, _>(
            query_as(ENDPOINTS_OF).bind(serde_json::to_string(owners).expect("numbers are JSON")),
            &mut *self.0,
        )
        .await
    }

    async fn numbers(&mut self, count: usize) -> Result<Vec<i64>, StoreError> {
        let last: i64 = query_scalar(LAST_NUMBER).fetch_one(&mut *self.0).await.map_err(failed)?;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        Ok((last + 1..=last + count).rev().collect())
    }

    async fn put_sessions(&mut self, sessions: &[Session]) -> Result<u64, StoreError> {
        let mut put = 0;
        for session in sessions {
            put += put_session(&mut self.0, session).await?;
        }
        Ok(put)
    }

    async fn put_egresses(
        &mut self,
        egresses: &[JoinedEgress],
        now: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        let mut put = 0;
        for row in egresses {
            put += query(PUT_EGRESS)
                .bind(&row.egress.egress_id)
                .bind(serde_json::to_string(&row.egress).expect("a report is JSON"))
                .bind(&row.egress.room_id)
                .bind(&row.egress.room_name)
                .bind(row.named_session_id)
                .bind(row.session_id)
                .bind(row.joined_by.map(JoinedBy::as_number))
                .bind(row.version)
                .bind(now)
                .execute(&mut *self.0)
                .await
                .map_err(failed)?
                .rows_affected();
        }
        Ok(put)
    }

    async fn checkpoints(&mut self, sessions: &BTreeSet<Uuid>) -> Result<Vec<Session>, StoreError> {
        let mut found = Vec::new();
        for session_id in sessions {
            let json: Option<String> = query_scalar(CHECKPOINT)
                .bind(session_id)
                .fetch_optional(&mut *self.0)
                .await
                .map_err(failed)?;
            found.extend(json.map(|json| checkpoint(&json)).transpose()?);
        }
        Ok(found)
    }

    async fn put_checkpoints(&mut self, checkpoints: &[Session]) -> Result<(), StoreError> {
        for checkpoint in checkpoints {
            query(PUT_CHECKPOINT)
                .bind(checkpoint.session_id)
                .bind(checkpoint_json(checkpoint))
                .execute(&mut *self.0)
                .await
                .map_err(failed)?;
        }
        Ok(())
    }

    async fn drop_checkpoints(&mut self, sessions: &[Uuid]) -> Result<(), StoreError> {
        for session_id in sessions {
            query(DROP_CHECKPOINT).bind(session_id).execute(&mut *self.0).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn erased(&mut self, candidates: &Erased) -> Result<Erased, StoreError> {
        let sessions: Vec<Uuid> = query_scalar(ERASED_SESSIONS)
            .bind(ids_json(&candidates.sessions))
            .fetch_all(&mut *self.0)
            .await
            .map_err(failed)?;
        let egresses: Vec<String> = query_scalar(ERASED_EGRESSES)
            .bind(texts_json(&candidates.egresses))
            .fetch_all(&mut *self.0)
            .await
            .map_err(failed)?;
        Ok(Erased {
            sessions: sessions.into_iter().collect(),
            egresses: egresses.into_iter().collect(),
        })
    }

    async fn rooms(&mut self, keys: &RoomKeys) -> Result<Vec<FinishedRoom>, StoreError> {
        let digests: Vec<String> = keys.digests.iter().map(hex::encode).collect();
        all::<RoomRow, _>(
            query_as(ROOMS_BY_KEYS)
                .bind(texts_json(&digests))
                .bind(ids_json(&keys.sessions))
                .bind(texts_json(&keys.room_ids))
                .bind(texts_json(&keys.room_names)),
            &mut *self.0,
        )
        .await
    }

    async fn put_rooms(&mut self, rooms: &[FinishedRoom]) -> Result<(), StoreError> {
        for room in rooms {
            query(PUT_ROOM)
                .bind(&room.digest[..])
                .bind(room.session_id)
                .bind(&room.room_id)
                .bind(&room.room_name)
                .bind(room.finished_at)
                .bind(room.heard_at)
                .execute(&mut *self.0)
                .await
                .map_err(failed)?;
        }
        Ok(())
    }

    async fn put_messages(
        &mut self,
        messages: &[MessageToKeep<'_>],
        now: DateTime<Utc>,
    ) -> Result<HashSet<MessageId>, StoreError> {
        let mut new = HashSet::with_capacity(messages.len());
        for MessageToKeep { row_id, message } in messages {
            let put = query(PUT_MESSAGE)
                .bind(row_id)
                .bind(&message.message_id.0[..])
                .bind(message.event_type.as_str())
                .bind(message.session_id)
                .bind(message.session_number)
                .bind(&message.egress_id)
                .bind(message.thin.as_deref())
                .bind(message.full.as_deref())
                .bind(message.trace.map(|trace| trace.to_string()))
                .bind(now)
                .execute(&mut *self.0)
                .await
                .map_err(failed)?;
            if put.rows_affected() > 0 {
                new.insert(message.message_id);
            }
        }
        Ok(new)
    }

    async fn put_deliveries(
        &mut self,
        deliveries: &[DeliveryToKeep],
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        for delivery in deliveries {
            query(PUT_DELIVERY)
                .bind(delivery.delivery_id)
                .bind(delivery.message_row)
                .bind(delivery.endpoint_id)
                .bind(delivery.payload.as_str())
                .bind(delivery.state().as_str())
                .bind(delivery.cause())
                .bind(delivery.process_id)
                .bind(now)
                .bind(delivery.is_cancelled.then_some(now))
                .bind(delivery.redelivered_after())
                .execute(&mut *self.0)
                .await
                .map_err(failed)?;
        }
        Ok(())
    }

    async fn put_results(
        &mut self,
        process: Uuid,
        results: &[AttemptResult],
    ) -> Result<Vec<Uuid>, StoreError> {
        let mut recorded = Vec::with_capacity(results.len());
        for result in results {
            let (state, next_attempt_at) = result.next.as_row();
            let is_final = state != DeliveryState::Pending;
            let changed = query(RECORD)
                .bind(result.delivery_id)
                .bind(process)
                .bind(state.as_str())
                .bind(result.next.cause())
                .bind(result.attempt.number)
                .bind(next_attempt_at)
                .bind(is_final.then(|| result.attempt.finished_at()))
                .execute(&mut *self.0)
                .await
                .map_err(failed)?;
            if changed.rows_affected() > 0 {
                recorded.push(result.delivery_id);
                put_attempt(&mut self.0, result).await?;
            }
        }
        Ok(recorded)
    }

    async fn failing(&mut self, among: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
        query_scalar(FAILING).bind(ids_json(among)).fetch_all(&mut *self.0).await.map_err(failed)
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
            .bind(limit)
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
        all::<OldDeliveryRow, _>(
            query_as(OLD_DELIVERIES).bind(ids_json(messages)).bind(before),
            &mut *self.0,
        )
        .await
    }

    async fn drop_deliveries(&mut self, deliveries: &[Uuid]) -> Result<u64, StoreError> {
        let ids = ids_json(deliveries);
        let dropped =
            query(DROP_ATTEMPTS).bind(&ids).execute(&mut *self.0).await.map_err(failed)?;
        query(DROP_DELIVERIES).bind(ids).execute(&mut *self.0).await.map_err(failed)?;
        Ok(dropped.rows_affected())
    }

    async fn drop_bodies(&mut self, messages: &[Uuid]) -> Result<(), StoreError> {
        query(DROP_BODIES).bind(ids_json(messages)).execute(&mut *self.0).await.map_err(failed)?;
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.0.commit().await.map_err(failed)
    }
}

async fn put_session(
    tx: &mut sqlx::Transaction<'static, Db>,
    session: &Session,
) -> Result<u64, StoreError> {
    let put = query(PUT_SESSION)
        .bind(session.session_id)
        .bind(session.id)
        .bind(&session.tenant_id)
        .bind(&session.character_slug)
        .bind(session.character_owner)
        .bind(session.user)
        .bind(&session.room_id)
        .bind(&session.room_name)
        .bind(&session.origin_url)
        .bind(&session.metadata)
        .bind(session.started_at)
        .bind(session.ended_at)
        .bind(&session.close_reason)
        .bind(session.duration_ms)
        .bind(session.turn_count)
        .bind(session.interruption_count)
        .bind(session.llm_input_tokens)
        .bind(session.llm_output_tokens)
        .bind(&session.llm_model)
        .bind(&session.llm_provider)
        .bind(session.stt_audio_ms)
        .bind(&session.stt_provider)
        .bind(session.tts_characters)
        .bind(&session.tts_provider)
        .bind(session.cost_micros)
        .bind(&session.cost_breakdown)
        .bind(&session.usage)
        .bind(&session.transcript)
        .bind(session.recording_expected)
        .bind(&session.recording_egress_id)
        .bind(&session.recording_worker_url)
        .bind(session.is_recording_found)
        .bind(session.is_recording_given_up)
        .bind(session.recording.status.as_str())
        .bind(&session.recording.url)
        .bind(session.recording.offset_ms)
        .bind(session.finalized_at)
        .bind(session.revision)
        .bind(session.version)
        .bind(&session.digest[..])
        .bind(session.superseded.concat())
        .bind(session.heard_at)
        .bind(session.checkpoint_sequence)
        .execute(&mut **tx)
        .await
        .map_err(failed)?;
    Ok(put.rows_affected())
}

super::shared::impl_store!(Sqlite);
