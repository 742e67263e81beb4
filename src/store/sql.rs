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
         recording_offset_ms, finalized_at, revision, version, digest, superseded"
    };
}

/// Every column of a session but its keys takes the new value; a row that another worker made
/// in the meantime has another `id` and stays as it is.
macro_rules! session_upsert {
    () => {
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
            version = excluded.version, digest = excluded.digest, superseded = excluded.superseded
          WHERE sessions.id = excluded.id"
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

/// The columns of an endpoint, as [`super::rows::EndpointRow`] reads them.
macro_rules! endpoint_columns {
    () => {
        "endpoint_id, owner, tenant_id, character_slug, event_types, payload, url, sealed_secret, \
         disabled_at, disabled_because, created_at"
    };
}

/// The columns of a failure but its raw bytes, as [`super::rows::FailureRow`] reads them.
macro_rules! failure_columns {
    () => {
        "failure_id, code, pointer, message, session_id, event_id, event_type, source, \
         size_bytes, seen, first_seen_at, last_seen_at"
    };
}

/// The columns of an API key, as [`super::rows::ApiKeyRow`] reads them.
macro_rules! api_key_columns {
    () => {
        "key_id, hash, preview, name, \"user\", is_staff, is_active, created_at"
    };
}

pub(super) use {egress_columns, egress_upsert, session_columns, session_upsert};

pub(super) const INSTALLATION: &str = "SELECT installation_id FROM installation";

pub(super) const SESSION: &str =
    concat!("SELECT ", session_columns!(), " FROM sessions WHERE session_id = $1");

pub(super) const ADD_ENDPOINT: &str = concat!(
    "INSERT INTO endpoints (",
    endpoint_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
);

pub(super) const ENDPOINTS: &str = concat!(
    "SELECT ",
    endpoint_columns!(),
    " FROM endpoints WHERE $1 IS NULL OR owner = $1 ORDER BY created_at, endpoint_id"
);

pub(super) const ENDPOINT: &str =
    concat!("SELECT ", endpoint_columns!(), " FROM endpoints WHERE endpoint_id = $1");

pub(super) const DISABLE_ENDPOINT: &str = "UPDATE endpoints
    SET disabled_at = $2, disabled_because = $3
    WHERE endpoint_id = $1 AND disabled_at IS NULL";

pub(super) const CANCEL_PENDING: &str = "UPDATE deliveries
    SET state = 'cancelled', cause = 'endpoint_disabled', process_id = NULL, finished_at = $2
    WHERE endpoint_id = $1 AND state = 'pending'";

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

pub(super) const DUE_ENDPOINTS: &str = "SELECT endpoint_id FROM endpoints
    WHERE EXISTS (
        SELECT 1 FROM deliveries
        WHERE state = 'pending' AND process_id IS NULL
          AND deliveries.endpoint_id = endpoints.endpoint_id
          AND NOT is_retry AND next_attempt_at <= $1)
      OR EXISTS (
        SELECT 1 FROM deliveries
        WHERE state = 'pending' AND process_id IS NULL
          AND deliveries.endpoint_id = endpoints.endpoint_id
          AND is_retry AND next_attempt_at <= $1)";

pub(super) const NEXT_DUE: &str = "SELECT MIN((
        SELECT next_attempt_at FROM deliveries
        WHERE state = 'pending' AND process_id IS NULL
          AND deliveries.endpoint_id = endpoints.endpoint_id
          AND is_retry
        ORDER BY next_attempt_at LIMIT 1)) AS next_due
    FROM endpoints";

pub(super) const DELIVERIES_OF: &str =
    "SELECT delivery_id, deliveries.message_id, type, endpoint_id, state, attempts,
        CASE WHEN state = 'pending' THEN next_attempt_at END AS next_attempt_at,
        deliveries.created_at, finished_at
    FROM deliveries JOIN messages ON messages.message_id = deliveries.message_id
    WHERE session_id = $1
    ORDER BY deliveries.created_at, delivery_id";

pub(super) const DELIVERY_COUNTS: &str =
    "SELECT state, COUNT(*) AS count FROM deliveries GROUP BY state";

pub(super) const PUT_FAILURE: &str = concat!(
    "INSERT INTO failures (",
    failure_columns!(),
    ", raw, raw_sha256) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10, $10, $11, $12)
    ON CONFLICT (raw_sha256, code) DO UPDATE SET
        seen = failures.seen + 1, last_seen_at = excluded.last_seen_at,
        pointer = excluded.pointer, message = excluded.message, source = excluded.source
    RETURNING failure_id"
);

pub(super) const FAILURES: &str = concat!(
    "SELECT ",
    failure_columns!(),
    " FROM failures
    WHERE ($1 IS NULL OR code = $1) AND ($2 IS NULL OR session_id = $2)
    ORDER BY last_seen_at DESC, failure_id DESC
    LIMIT $3"
);

pub(super) const FAILURE: &str =
    concat!("SELECT ", failure_columns!(), ", raw FROM failures WHERE failure_id = $1");

pub(super) const ADD_API_KEY: &str = concat!(
    "INSERT INTO api_keys (",
    api_key_columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
);

pub(super) const API_KEY: &str =
    concat!("SELECT ", api_key_columns!(), " FROM api_keys WHERE hash = $1");

pub(super) const API_KEYS: &str =
    concat!("SELECT ", api_key_columns!(), " FROM api_keys ORDER BY created_at, key_id");
