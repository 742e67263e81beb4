//! The statements that both databases read alike. Columns are listed, never `*`; the present is
//! always bound, never the database's `now()`.

/// The columns of a session, as [`super::rows::SessionRow`] reads them.
macro_rules! session_columns {
    () => {
        "session_id, id, tenant_id, character_slug, character_owner, \"user\", room_id, room_name, \
         origin_url, metadata, started_at, ended_at, close_reason, duration_ms, turn_count, \
         interruption_count, llm_input_tokens, llm_output_tokens, llm_model, llm_provider, \
         stt_audio_ms, stt_provider, tts_characters, tts_provider, cost_micros, cost_breakdown, \
         usage, transcript, recording_expected, recording_egress_id, recording_worker_url, \
         is_recording_found, is_recording_given_up, recording_status, recording_url, \
         recording_offset_ms, finalized_at, revision, version, digest, superseded, heard_at, \
         checkpoint_sequence"
    };
}

/// Every column of a session but its keys takes the new value; a row that another worker made
/// in the meantime has another `id` and stays as it is. The given column says when the session was
/// finalized in the order of all: a revision takes its place anew, any other change keeps it.
macro_rules! session_upsert {
    ($finalized_order:literal) => {
        concat!(
        " ON CONFLICT (session_id) DO UPDATE SET
            tenant_id = excluded.tenant_id, character_slug = excluded.character_slug,
            character_owner = excluded.character_owner, \"user\" = excluded.\"user\",
            room_id = excluded.room_id, room_name = excluded.room_name,
            origin_url = excluded.origin_url, metadata = excluded.metadata,
            started_at = excluded.started_at, ended_at = excluded.ended_at,
            close_reason = excluded.close_reason, duration_ms = excluded.duration_ms,
            turn_count = excluded.turn_count, interruption_count = excluded.interruption_count,
            llm_input_tokens = excluded.llm_input_tokens,
            llm_output_tokens = excluded.llm_output_tokens, llm_model = excluded.llm_model,
            llm_provider = excluded.llm_provider, stt_audio_ms = excluded.stt_audio_ms,
            stt_provider = excluded.stt_provider, tts_characters = excluded.tts_characters,
            tts_provider = excluded.tts_provider, cost_micros = excluded.cost_micros,
            cost_breakdown = excluded.cost_breakdown, usage = excluded.usage,
            transcript = excluded.transcript, recording_expected = excluded.recording_expected,
            recording_egress_id = excluded.recording_egress_id,
            recording_worker_url = excluded.recording_worker_url,
            is_recording_found = excluded.is_recording_found,
            is_recording_given_up = excluded.is_recording_given_up,
            recording_status = excluded.recording_status, recording_url = excluded.recording_url,
            recording_offset_ms = excluded.recording_offset_ms,
            finalized_at = excluded.finalized_at, revision = excluded.revision,
            version = excluded.version, digest = excluded.digest, superseded = excluded.superseded,
            heard_at = excluded.heard_at, checkpoint_sequence = excluded.checkpoint_sequence,
            ",
            $finalized_order,
            " = CASE WHEN excluded.revision <> sessions.revision THEN excluded.",
            $finalized_order,
            " ELSE sessions.",
            $finalized_order,
            " END
          WHERE sessions.id = excluded.id"
        )
    };
}

/// The columns of a recording, as [`super::rows::EgressRow`] reads them.
macro_rules! egress_columns {
    () => {
        "egress_id, report, room_id, room_name, named_session_id, session_id, joined_by, \
         version, first_seen_at"
    };
}

/// A recording's row takes what the merge made of it; a row that another worker wrote in the
/// meantime has another version and stays as it is.
macro_rules! egress_upsert {
    () => {
        " ON CONFLICT (egress_id) DO UPDATE SET
            report = excluded.report, room_id = excluded.room_id, room_name = excluded.room_name,
            named_session_id = excluded.named_session_id, session_id = excluded.session_id,
            joined_by = excluded.joined_by, version = excluded.version
          WHERE egresses.version = excluded.version - 1"
    };
}

/// The columns of a closed room, as [`super::rows::RoomRow`] reads them.
macro_rules! room_columns {
    () => {
        "digest, session_id, room_id, room_name, finished_at, heard_at"
    };
}

/// The columns of a process's intake, as [`super::rows::IntakeRow`] reads them.
macro_rules! intake_columns {
    () => {
        "process_id, is_consuming, current_since, seen_at"
    };
}

/// The columns of an endpoint, as [`super::rows::EndpointRow`] reads them.
macro_rules! endpoint_columns {
    () => {
        "endpoint_id, owner, tenant_id, character_slug, event_types, payload, url, sealed_secret, \
         sealed_headers, timeout_seconds, rate_limit_per_minute, disabled_at, disabled_because, \
         created_at, version"
    };
}

/// The columns of a failure but its raw bytes, as [`super::rows::FailureRow`] reads them.
macro_rules! failure_columns {
    () => {
        "failure_id, code, pointer, message, session_id, event_id, event_type, source, headers, \
         tenant_id, character_slug, size_bytes, seen, first_seen_at, last_seen_at, state, \
         closed_at, closed_by, outcome, is_edited, replays, replayed_at, raw_expired_at, \
         replaying_process, replaying_since"
    };
}

/// The columns of an API key, as [`super::rows::ApiKeyRow`] reads them.
macro_rules! api_key_columns {
    () => {
        "key_id, hash, preview, name, \"user\", is_staff, is_active, created_at, last_used_at"
    };
}

/// The columns of a delivery with its message's, as [`super::rows::DeliveryRow`] reads them.
macro_rules! delivery_columns {
    () => {
        "delivery_id, message_id, type, session_id, endpoint_id, state, cause, attempts, \
         redelivered_after, \
         CASE WHEN state = 'pending' THEN next_attempt_at END AS next_attempt_at, \
         deliveries.created_at, finished_at"
    };
}

/// The columns of a redelivery, as [`super::rows::RedeliveryRow`] reads them.
macro_rules! redelivery_columns {
    () => {
        "redelivery_id, endpoint_id, since, until, statuses, per_second, state, matched, \
         redelivered, skipped, last_delivery, last_message_at, last_message, next_step_at, \
         created_at, finished_at"
    };
}

/// The columns of an endpoint's health, as [`super::rows::HealthRow`] reads them.
macro_rules! health_columns {
    () => {
        "endpoint_id, failing_since, last_failure_at, failures, failure_days, paused_until, \
         next_slot_at"
    };
}

use super::DeliveryState;

pub(super) use {
    delivery_columns, egress_columns, egress_upsert, endpoint_columns, failure_columns,
    room_columns, session_columns, session_upsert,
};

pub(super) const INSTALLATION: &str = "SELECT installation_id FROM installation";

pub(super) const SESSION: &str =
    concat!("SELECT ", session_columns!(), " FROM sessions WHERE session_id = $1");

/// The next sessions, whichever they are: however few were finalized since, a step is a short one.
pub(super) const BILLS: &str = "SELECT session_id, version, cost_micros,
        CASE WHEN finalized_at >= $1 THEN cost_breakdown END AS cost_breakdown,
        CASE WHEN finalized_at >= $1 THEN usage END AS usage
    FROM sessions
    WHERE session_id >= $2
    ORDER BY session_id
    LIMIT $3";

/// Only what a price book decides. Any other change of the session is another version.
pub(super) const REPRICE: &str = "UPDATE sessions
    SET cost_micros = $3, cost_breakdown = $4, version = version + 1
    WHERE session_id = $1 AND version = $2";

/// The conditions stand as the partial index has them, or SQLite would not use it.
pub(super) const OVERDUE_RECORDINGS: &str = "SELECT session_id FROM sessions
    WHERE recording_status IN ('PENDING', 'PROCESSING') AND finalized_at <= $1
    ORDER BY finalized_at
    LIMIT $2";

pub(super) const LOOK_AGAIN: &str =
    "UPDATE sessions SET recording_look_at = $2 WHERE session_id = $1";

/// A page of the calls in progress of which nothing was heard for a while, and whether each may be
/// over: nothing was heard for long, or there may be a room of theirs that is closed. The merge decides.
/// (`LIMIT` keeps PostgreSQL from reading all rooms for one hash table.)
pub(super) const SILENT_SESSIONS: &str = "SELECT session_id, heard_at,
        heard_at <= $2
        OR (SELECT 1 FROM finished_rooms AS room
            WHERE room.session_id = page.session_id AND room.heard_at <= $1
            LIMIT 1) IS NOT NULL
        OR (SELECT 1 FROM finished_rooms AS room
            WHERE room.room_id = page.room_id AND room.heard_at <= $1
              AND room.finished_at >= page.started_at
            LIMIT 1) IS NOT NULL
        OR (SELECT 1 FROM finished_rooms AS room
            WHERE room.room_name = page.room_name AND room.heard_at <= $1
              AND room.finished_at >= page.started_at
            LIMIT 1) IS NOT NULL AS may_be_over
    FROM (
        SELECT session_id, heard_at, room_id, room_name, started_at FROM sessions
        WHERE finalized_at IS NULL AND heard_at <= $1 AND (heard_at, session_id) > ($3, $4)
        ORDER BY heard_at, session_id
        LIMIT $5) AS page
    ORDER BY heard_at, session_id";

pub(super) const FORGET_ROOMS: &str = "DELETE FROM finished_rooms
    WHERE digest IN (
        SELECT digest FROM finished_rooms
        WHERE heard_at <= $1
        ORDER BY heard_at
        LIMIT $2)";

pub(super) const NOTE_INTAKE: &str = concat!(
    "INSERT INTO intakes (",
    intake_columns!(),
    ") VALUES ($1, $2, $3, $4)
    ON CONFLICT (process_id) DO UPDATE SET
        is_consuming = excluded.is_consuming, current_since = excluded.current_since,
        seen_at = excluded.seen_at"
);

pub(super) const FORGET_INTAKES: &str = "DELETE FROM intakes WHERE seen_at <= $1";

pub(super) const INTAKES: &str = concat!("SELECT ", intake_columns!(), " FROM intakes");

/// One that was joined a moment ago has a session when its row can be had.
pub(super) const EXPIRE_EGRESSES: &str = concat!(
    "DELETE FROM egresses
    WHERE session_id IS NULL AND egress_id IN (
        SELECT egress_id FROM egresses
        WHERE session_id IS NULL AND first_seen_at <= $1
        ORDER BY first_seen_at
        LIMIT $2)
    RETURNING ",
    egress_columns!()
);

/// Which sessions a history is asked for, but whose: `$1` to `$4`.
macro_rules! history_filter {
    () => {
        "started_at >= $1 AND started_at <= $2
            AND ($3 IS NULL OR tenant_id = $3) AND ($4 IS NULL OR character_slug = $4)"
    };
}

/// The page is found in an index that has all that is asked for; only its rows are read.
macro_rules! history_page {
    ($of:literal) => {
        concat!(
            "SELECT ",
            session_columns!(),
            " FROM (
                SELECT session_id FROM sessions WHERE ",
            history_filter!(),
            $of,
            "
                ORDER BY started_at DESC, id DESC
                LIMIT $5 OFFSET $6) AS page
            JOIN sessions USING (session_id)
            ORDER BY started_at DESC, id DESC"
        )
    };
}

macro_rules! history_totals {
    ($of:literal) => {
        concat!(
            "SELECT COUNT(*) AS sessions,
                COALESCE(CAST(SUM(llm_input_tokens) AS BIGINT), 0) AS llm_input_tokens,
                COALESCE(CAST(SUM(llm_output_tokens) AS BIGINT), 0) AS llm_output_tokens,
                COALESCE(CAST(SUM(stt_audio_ms) AS BIGINT), 0) AS stt_audio_ms,
                COALESCE(CAST(SUM(tts_characters) AS BIGINT), 0) AS tts_characters,
                COALESCE(CAST(SUM(cost_micros) AS BIGINT), 0) AS cost_micros
            FROM sessions WHERE ",
            history_filter!(),
            $of
        )
    };
}

/// The next finalized sessions in the order of a column, and of `id`: those after `$5` and `$6`
/// whose place is settled.
macro_rules! finalized_after {
    ($order:literal, $after:literal, $is_settled:literal, $of:literal) => {
        concat!(
            "SELECT ",
            session_columns!(),
            ", CAST(",
            $order,
            " AS TEXT) AS position FROM (
                SELECT session_id FROM sessions
                WHERE finalized_at IS NOT NULL AND (",
            $order,
            ", id) > (",
            $after,
            ", $6) AND ",
            $is_settled,
            " AND ",
            history_filter!(),
            $of,
            "
                ORDER BY ",
            $order,
            ", id
                LIMIT $7) AS part
            JOIN sessions USING (session_id)
            ORDER BY ",
            $order,
            ", id"
        )
    };
}

pub(super) use {finalized_after, history_filter};

pub(super) const HISTORY: &str = history_page!("");

pub(super) const HISTORY_OF: &str = history_page!(" AND character_owner = $7");

pub(super) const HISTORY_TOTALS: &str = history_totals!("");

pub(super) const HISTORY_TOTALS_OF: &str = history_totals!(" AND character_owner = $5");

pub(super) const ADD_ENDPOINT: &str = concat!(
    "INSERT INTO endpoints (",
    endpoint_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
);

pub(super) const ENDPOINTS: &str = concat!(
    "SELECT ",
    endpoint_columns!(),
    " FROM endpoints WHERE ($1 IS NULL OR owner = $1) AND deleted_at IS NULL
    ORDER BY created_at, endpoint_id"
);

pub(super) const ENDPOINT: &str = concat!(
    "SELECT ",
    endpoint_columns!(),
    " FROM endpoints WHERE endpoint_id = $1 AND deleted_at IS NULL"
);

pub(super) const CHANGE_ENDPOINT: &str = "UPDATE endpoints
    SET tenant_id = $3, character_slug = $4, event_types = $5, payload = $6, url = $7,
        sealed_secret = $8, sealed_headers = $9, timeout_seconds = $10,
        rate_limit_per_minute = $11, version = version + 1
    WHERE endpoint_id = $1 AND version = $2 AND deleted_at IS NULL";

pub(super) const DISABLE_ENDPOINT: &str = concat!(
    "UPDATE endpoints SET disabled_at = $2, disabled_because = $3, version = version + 1
    WHERE endpoint_id = $1 AND disabled_at IS NULL AND deleted_at IS NULL
    RETURNING ",
    endpoint_columns!()
);

pub(super) const ENABLE_ENDPOINT: &str = "UPDATE endpoints
    SET disabled_at = NULL, disabled_because = NULL, version = version + 1
    WHERE endpoint_id = $1 AND disabled_at IS NOT NULL AND deleted_at IS NULL";

/// What is left says to whom deliveries went.
pub(super) const DELETE_ENDPOINT: &str = "UPDATE endpoints
    SET deleted_at = $2, sealed_secret = $3, sealed_headers = NULL, version = version + 1
    WHERE endpoint_id = $1 AND deleted_at IS NULL";

// An endpoint's health is always locked before the endpoint itself.

pub(super) const FORGET_HEALTH: &str = "DELETE FROM endpoint_health WHERE endpoint_id = $1";

pub(super) const FORGET_HEALTH_OF_DISABLED: &str = "DELETE FROM endpoint_health
    WHERE endpoint_id = $1
      AND EXISTS (SELECT 1 FROM endpoints WHERE endpoint_id = $1 AND disabled_at IS NOT NULL)";

pub(super) const FORGET_HEALTH_OF_OTHER_URL: &str = "DELETE FROM endpoint_health
    WHERE endpoint_id = $1
      AND EXISTS (SELECT 1 FROM endpoints WHERE endpoint_id = $1 AND version = $2 AND url <> $3)";

pub(super) const FORGET_FAILING: &str = "UPDATE endpoint_health
    SET failing_since = NULL, last_failure_at = NULL, failures = 0, failure_days = 0
    WHERE endpoint_id = $1 AND failing_since IS NOT NULL";

/// Reads the row, which is made if there is none, and locks it.
pub(super) const LOCK_HEALTH: &str = concat!(
    "INSERT INTO endpoint_health (endpoint_id, failures, failure_days) VALUES ($1, 0, 0)
    ON CONFLICT (endpoint_id) DO UPDATE SET failures = endpoint_health.failures
    RETURNING ",
    health_columns!()
);

pub(super) const PUT_HEALTH: &str = "UPDATE endpoint_health
    SET failing_since = $2, last_failure_at = $3, failures = $4, failure_days = $5,
        paused_until = $6, next_slot_at = $7
    WHERE endpoint_id = $1";

pub(super) const UNWELL: &str = concat!(
    "SELECT ",
    health_columns!(),
    " FROM endpoint_health WHERE failing_since IS NOT NULL OR paused_until > $1"
);

/// An endpoint that takes no more, and to which something is still pending that nobody is sending.
pub(super) const UNDELIVERABLE: &str = "SELECT endpoint_id, deleted_at IS NOT NULL AS is_deleted
    FROM endpoints
    WHERE (disabled_at IS NOT NULL OR deleted_at IS NOT NULL)
      AND EXISTS (
        SELECT 1 FROM deliveries
        WHERE state = 'pending' AND process_id IS NULL
          AND deliveries.endpoint_id = endpoints.endpoint_id)
    LIMIT 1";

pub(super) const ENTER: &str = "INSERT INTO processes (process_id, alive_until) VALUES ($1, $2)";

pub(super) const KEEP_ALIVE: &str = "UPDATE processes SET alive_until = $3
    WHERE process_id = $1 AND alive_until > $2";

pub(super) const FORGET_DEAD: &str = "DELETE FROM processes WHERE alive_until <= $1";

pub(super) const RESCUE: &str = "UPDATE deliveries SET process_id = NULL
    WHERE state = 'pending'
      AND process_id IS NOT NULL
      AND NOT EXISTS (
        SELECT 1 FROM processes
        WHERE processes.process_id = deliveries.process_id AND processes.alive_until > $1)";

pub(super) const LEAVE: &str = "DELETE FROM processes WHERE process_id = $1";

pub(super) const GIVE_BACK: &str = "UPDATE deliveries SET process_id = NULL
    WHERE process_id = $1 AND state = 'pending'";

// The first of an index, asked for in the index's own order: else PostgreSQL sorts all that are due.

pub(super) const DUE_ENDPOINTS: &str = "SELECT endpoint_id, owner, rate_limit_per_minute
    FROM endpoints
    WHERE disabled_at IS NULL AND deleted_at IS NULL
      AND NOT EXISTS (
        SELECT 1 FROM endpoint_health
        WHERE endpoint_health.endpoint_id = endpoints.endpoint_id
          AND (paused_until > $1
            OR (rate_limit_per_minute IS NOT NULL AND next_slot_at > $1)))
      AND ((
        SELECT next_attempt_at FROM deliveries
        WHERE state = 'pending' AND process_id IS NULL
          AND deliveries.endpoint_id = endpoints.endpoint_id
          AND NOT is_retry
        ORDER BY process_id, next_attempt_at LIMIT 1) <= $1
      OR (
        SELECT next_attempt_at FROM deliveries
        WHERE state = 'pending' AND process_id IS NULL
          AND deliveries.endpoint_id = endpoints.endpoint_id
          AND is_retry
        ORDER BY process_id, next_attempt_at LIMIT 1) <= $1)";

/// In the order of the index: whoever looks for `pending` in the table may read all of it.
pub(super) const PENDING_COUNTED: &str = "SELECT COUNT(*) FROM (
        SELECT 1 AS one FROM deliveries
        WHERE state = 'pending'
        ORDER BY process_id, endpoint_id, is_retry, next_attempt_at
        LIMIT $1) AS counted";

pub(super) const OPEN_FAILURES_COUNTED: &str = "SELECT COUNT(*) FROM (
        SELECT 1 AS one FROM failures
        WHERE state = 'open'
        ORDER BY failure_id
        LIMIT $1) AS counted";

/// The longest due of an endpoint's first attempts, or of its retries.
macro_rules! longest_due {
    ($is_retry:literal) => {
        concat!(
            "SELECT (
                SELECT next_attempt_at FROM deliveries
                WHERE state = 'pending' AND process_id IS NULL
                  AND deliveries.endpoint_id = endpoints.endpoint_id
                  AND ",
            $is_retry,
            "
                ORDER BY process_id, next_attempt_at LIMIT 1) AS due
            FROM endpoints
            WHERE disabled_at IS NULL AND deleted_at IS NULL
              AND NOT EXISTS (
                SELECT 1 FROM endpoint_health
                WHERE endpoint_health.endpoint_id = endpoints.endpoint_id AND paused_until > $1)"
        )
    };
}

pub(super) const DUE_SINCE: &str = concat!(
    "SELECT MIN(due) FROM (",
    longest_due!("NOT is_retry"),
    " UNION ALL ",
    longest_due!("is_retry"),
    ") AS longest WHERE due <= $1"
);

pub(super) const NEXT_DUE: &str = "SELECT MIN((
        SELECT next_attempt_at FROM deliveries
        WHERE state = 'pending' AND process_id IS NULL
          AND deliveries.endpoint_id = endpoints.endpoint_id
          AND is_retry
        ORDER BY process_id, next_attempt_at LIMIT 1)) AS next_due
    FROM endpoints
    WHERE disabled_at IS NULL AND deleted_at IS NULL";

/// A page of deliveries. States stand in the statement: few deliveries are in some of them, and each
/// of those has an index of its own.
macro_rules! page_of_deliveries {
    ($($condition:literal)?) => {
        concat!(
            "SELECT ",
            delivery_columns!(),
            " FROM deliveries JOIN messages ON row_id = message_row
            WHERE delivery_id < $1",
            $(" AND ", $condition,)?
            " ORDER BY delivery_id DESC LIMIT $2"
        )
    };
}

/// The page's statement, by state and whether it is of one endpoint (`$3`).
pub(super) fn page_of_deliveries(state: Option<DeliveryState>, is_of_one: bool) -> &'static str {
    use DeliveryState::{Cancelled, Delivered, Exhausted, Pending};
    match (state, is_of_one) {
        (None, false) => page_of_deliveries!(),
        (None, true) => page_of_deliveries!("endpoint_id = $3"),
        (Some(Pending), false) => page_of_deliveries!("state = 'pending'"),
        (Some(Pending), true) => page_of_deliveries!("state = 'pending' AND endpoint_id = $3"),
        (Some(Delivered), false) => page_of_deliveries!("state = 'delivered'"),
        (Some(Delivered), true) => page_of_deliveries!("state = 'delivered' AND endpoint_id = $3"),
        (Some(Exhausted), false) => page_of_deliveries!("state = 'exhausted'"),
        (Some(Exhausted), true) => page_of_deliveries!("state = 'exhausted' AND endpoint_id = $3"),
        (Some(Cancelled), false) => page_of_deliveries!("state = 'cancelled'"),
        (Some(Cancelled), true) => page_of_deliveries!("state = 'cancelled' AND endpoint_id = $3"),
    }
}

pub(super) const DELIVERIES_OF: &str = concat!(
    "SELECT ",
    delivery_columns!(),
    " FROM deliveries JOIN messages ON row_id = message_row
    WHERE session_number IN (
        SELECT id FROM sessions WHERE session_id = $1
        UNION ALL SELECT id FROM erased_sessions WHERE session_id = $1)
    ORDER BY deliveries.created_at, delivery_id"
);

/// Recordings without a session, those that `$which`; the newest first: one that has waited for long has
/// no session to be joined to, and must not stand in the way of one whose join was lost a moment ago.
macro_rules! unjoined_egresses {
    ($which:literal) => {
        concat!(
            "SELECT ",
            $crate::store::sql::egress_columns!(),
            " FROM egresses WHERE session_id IS NULL",
            $which,
            " ORDER BY first_seen_at DESC, egress_id
    LIMIT 1000"
        )
    };
}

pub(super) const ALL_UNJOINED: &str = unjoined_egresses!("");

/// Deliveries of one message, which the databases find in different ways.
macro_rules! deliveries_of_message {
    ($row_id:literal) => {
        concat!(
            "SELECT ",
            $crate::store::sql::delivery_columns!(),
            " FROM deliveries JOIN messages ON row_id = message_row
    WHERE row_id = (",
            $row_id,
            ")
    ORDER BY delivery_id"
        )
    };
}

pub(super) const DELIVERY: &str = concat!(
    "SELECT ",
    delivery_columns!(),
    ", CASE payload WHEN 'full' THEN full_body ELSE thin END AS body
    FROM deliveries JOIN messages ON row_id = message_row
    WHERE delivery_id = $1"
);

pub(super) const ATTEMPTS: &str = "SELECT number, started_at, duration_us, status, error,
        response_head, response_body, address, is_connection_reused
    FROM attempts
    WHERE delivery_id = $1
    ORDER BY number";

/// The delivery's message still has its bytes: what was erased has none, and whoever erases it waits.
macro_rules! has_bytes {
    ($locked:literal) => {
        concat!(
            "EXISTS (
        SELECT 1 FROM messages
        WHERE row_id = message_row
          AND (thin IS NOT NULL OR full_body IS NOT NULL)",
            $locked,
            ")"
        )
    };
}

/// What is pending is only brought forward.
macro_rules! redeliver {
    ($locked:literal) => {
        concat!(
            "UPDATE deliveries
    SET redelivered_after = CASE state WHEN 'pending' THEN redelivered_after ELSE attempts END,
        state = 'pending', cause = NULL, is_retry = TRUE, next_attempt_at = $2, finished_at = NULL
    WHERE delivery_id = $1 AND process_id IS NULL
      AND EXISTS (
        SELECT 1 FROM endpoints
        WHERE endpoints.endpoint_id = deliveries.endpoint_id
          AND disabled_at IS NULL AND deleted_at IS NULL)
      AND ",
            has_bytes!($locked)
        )
    };
}

pub(super) const COUNT_RANGE: &str = "SELECT COUNT(*) FROM (
    SELECT 1 FROM deliveries
    WHERE endpoint_id = $1 AND delivery_id >= $2 AND delivery_id < $3
      AND state IN ('exhausted', 'cancelled')
      AND ((state = 'exhausted' AND $4) OR (state = 'cancelled' AND $5))
    LIMIT $6) AS found";

pub(super) const UNDELIVERED: &str = "SELECT delivery_id FROM deliveries
    WHERE endpoint_id = $1 AND delivery_id > $2 AND delivery_id < $3
      AND state IN ('exhausted', 'cancelled')
    ORDER BY delivery_id LIMIT $4";

macro_rules! redeliver_range {
    ($locked:literal) => {
        concat!(
            "UPDATE deliveries
    SET redelivered_after = attempts, state = 'pending', cause = NULL, is_retry = TRUE,
        next_attempt_at = $6, finished_at = NULL
    WHERE endpoint_id = $1 AND delivery_id > $2 AND delivery_id <= $3
      AND state IN ('exhausted', 'cancelled')
      AND ((state = 'exhausted' AND $4) OR (state = 'cancelled' AND $5))
      AND ",
            has_bytes!($locked)
        )
    };
}

/// A bounded number of messages is looked at, whoever they are about: the endpoint may hear of none.
/// Those whose deliveries are forgotten are not.
macro_rules! messages_told {
    ($locked:literal) => {
        concat!(
            "SELECT told.row_id, told.message_id, type, told.session_id, egress_id,
        told.created_at, has_body, character_owner, tenant_id, character_slug,
        EXISTS (
            SELECT 1 FROM deliveries
            WHERE message_row = told.row_id AND deliveries.endpoint_id = $5)
            AS is_owed
    FROM (
        SELECT row_id, message_id, type, session_id, egress_id, created_at,
            CASE $6 WHEN 'full' THEN full_body IS NOT NULL ELSE thin IS NOT NULL END AS has_body
        FROM messages
        WHERE NOT is_pruned AND (created_at, message_id) > ($1, $2) AND created_at < $3
        ORDER BY created_at, message_id LIMIT $4",
            $locked,
            ") AS told
    LEFT JOIN sessions ON sessions.session_id = told.session_id
    ORDER BY told.created_at, told.message_id"
        )
    };
}

pub(super) use {
    deliveries_of_message, has_bytes, messages_told, redeliver, redeliver_range, unjoined_egresses,
};

/// To count them: nothing of them is changed, and nobody is kept waiting.
pub(super) const MESSAGES_LOOKED_AT: &str = messages_told!("");

pub(super) const PUT_THIN: &str =
    "UPDATE messages SET thin = $2 WHERE row_id = $1 AND thin IS NULL";

pub(super) const PUT_FULL: &str =
    "UPDATE messages SET full_body = $2 WHERE row_id = $1 AND full_body IS NULL";

pub(super) const ADD_REDELIVERY: &str = concat!(
    "INSERT INTO redeliveries (",
    redelivery_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
    ON CONFLICT DO NOTHING"
);

pub(super) const DEFER_REDELIVERY: &str = "UPDATE redeliveries SET next_step_at = $2
    WHERE redelivery_id = $1 AND state = 'running'";

pub(super) const REDELIVERIES: &str = concat!(
    "SELECT ",
    redelivery_columns!(),
    " FROM redeliveries WHERE $1 IS NULL OR endpoint_id = $1
    ORDER BY redelivery_id DESC
    LIMIT 100"
);

pub(super) const REDELIVERY: &str =
    concat!("SELECT ", redelivery_columns!(), " FROM redeliveries WHERE redelivery_id = $1");

pub(super) const CANCEL_REDELIVERY: &str = "UPDATE redeliveries
    SET state = 'cancelled', finished_at = $2
    WHERE redelivery_id = $1 AND state = 'running'";

/// The row is locked until the step is done. Its time is moved on, so that whoever waited for the
/// lock sees that the step was another's.
pub(super) const TAKE_REDELIVERY: &str = concat!(
    "UPDATE redeliveries SET next_step_at = $2
    WHERE state = 'running' AND next_step_at <= $1
      AND redelivery_id = (
        SELECT redelivery_id FROM redeliveries
        WHERE state = 'running' AND next_step_at <= $1
        ORDER BY next_step_at LIMIT 1)
    RETURNING ",
    redelivery_columns!()
);

pub(super) const PUT_REDELIVERY: &str = "UPDATE redeliveries
    SET state = $2, redelivered = $3, skipped = $4, last_delivery = $5, last_message_at = $6,
        last_message = $7, next_step_at = $8, finished_at = $9
    WHERE redelivery_id = $1";

/// When the newest of the finalized sessions were finalized, in the order of an index.
macro_rules! finalized_lately {
    ($order:literal, $of:literal) => {
        concat!(
            "SELECT ended_at, finalized_at FROM (
                SELECT ended_at, finalized_at FROM sessions
                WHERE finalized_at IS NOT NULL",
            $of,
            "
                ORDER BY ",
            $order,
            " DESC, id DESC
                LIMIT $2) AS newest
            WHERE finalized_at >= $1"
        )
    };
}

pub(super) use finalized_lately;

pub(super) const PENDING: &str = "SELECT COUNT(*) AS count, MIN(created_at) AS oldest
    FROM (
        SELECT created_at FROM deliveries
        WHERE state = 'pending'
        ORDER BY process_id, endpoint_id
        LIMIT $1) AS counted";

/// Endpoint by endpoint, what nobody holds and what each process holds, as the index has it. SQLite
/// keeps to the order in which a `CROSS JOIN` names its tables.
pub(super) const PENDING_OF: &str = "SELECT COUNT(*) AS count, MIN(created_at) AS oldest
    FROM (
        SELECT deliveries.created_at
        FROM endpoints CROSS JOIN deliveries
        WHERE owner = $2 AND deleted_at IS NULL
          AND deliveries.endpoint_id = endpoints.endpoint_id
          AND state = 'pending' AND process_id IS NULL
        UNION ALL
        SELECT deliveries.created_at
        FROM endpoints CROSS JOIN processes CROSS JOIN deliveries
        WHERE owner = $2 AND deleted_at IS NULL
          AND deliveries.endpoint_id = endpoints.endpoint_id
          AND state = 'pending' AND deliveries.process_id = processes.process_id
        LIMIT $1) AS counted";

pub(super) const GIVEN_UP: &str = "SELECT COUNT(*) AS count,
        COUNT(CASE WHEN state = 'exhausted' THEN 1 END) AS exhausted
    FROM (
        SELECT state FROM deliveries
        WHERE state IN ('exhausted', 'cancelled')
        ORDER BY delivery_id DESC
        LIMIT $1) AS counted";

/// Endpoint by endpoint: a join would read what everybody was not told.
pub(super) const GIVEN_UP_OF: &str = "SELECT COALESCE(CAST(SUM((
            SELECT COUNT(*)
            FROM (
                SELECT 1 FROM deliveries
                WHERE deliveries.endpoint_id = endpoints.endpoint_id
                  AND state IN ('exhausted', 'cancelled')
                ORDER BY delivery_id DESC
                LIMIT $1) AS counted)) AS BIGINT), 0) AS count,
        COALESCE(CAST(SUM((
            SELECT COUNT(CASE WHEN state = 'exhausted' THEN 1 END)
            FROM (
                SELECT state FROM deliveries
                WHERE deliveries.endpoint_id = endpoints.endpoint_id
                  AND state IN ('exhausted', 'cancelled')
                ORDER BY delivery_id DESC
                LIMIT $1) AS counted)) AS BIGINT), 0) AS exhausted
    FROM endpoints
    WHERE owner = $2 AND deleted_at IS NULL";

pub(super) const DELIVERY_COUNTS: &str =
    "SELECT state, COUNT(*) AS count FROM deliveries GROUP BY state";

pub(super) const ADD_API_KEY: &str = concat!(
    "INSERT INTO api_keys (",
    api_key_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
);

pub(super) const API_KEY: &str =
    concat!("SELECT ", api_key_columns!(), " FROM api_keys WHERE hash = $1");

pub(super) const API_KEYS: &str = concat!(
    "SELECT ",
    api_key_columns!(),
    " FROM api_keys WHERE $1 IS NULL OR \"user\" = $1
    ORDER BY created_at, key_id"
);

pub(super) const CHANGE_API_KEY: &str = concat!(
    "UPDATE api_keys SET name = COALESCE($3, name), is_active = COALESCE($4, is_active)
    WHERE key_id = $1 AND ($2 IS NULL OR (\"user\" = $2 AND NOT is_staff))
    RETURNING ",
    api_key_columns!()
);

pub(super) const DELETE_API_KEY: &str = concat!(
    "DELETE FROM api_keys
    WHERE key_id = $1 AND ($2 IS NULL OR (\"user\" = $2 AND NOT is_staff))
    RETURNING ",
    api_key_columns!()
);

pub(super) const NOTE_API_KEY_USE: &str = "UPDATE api_keys SET last_used_at = $2
    WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < $2)";
