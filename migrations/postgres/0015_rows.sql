-- What is written all the time is bound as one array of such rows, not as an array for each column:
-- unnesting those beside each other takes a function and a place for its values for each of them, which
-- was half of what it cost to write a single call. No column has a constraint: those are the tables'.
--
-- A type stays as it is: a process of an earlier release still binds it. Whoever needs other columns makes
-- another type. The SQLite file of the same name has nothing to do.

CREATE TYPE new_session AS (
    session_id            UUID,
    id                    BIGINT,
    tenant_id             TEXT,
    character_slug        TEXT,
    character_owner       BIGINT,
    "user"                BIGINT,
    room_id               TEXT,
    room_name             TEXT,
    origin_url            TEXT,
    metadata              TEXT,
    started_at            TIMESTAMPTZ,
    ended_at              TIMESTAMPTZ,
    close_reason          TEXT,
    duration_ms           BIGINT,
    turn_count            INTEGER,
    interruption_count    INTEGER,
    llm_input_tokens      BIGINT,
    llm_output_tokens     BIGINT,
    llm_model             TEXT,
    llm_provider          TEXT,
    stt_audio_ms          BIGINT,
    stt_provider          TEXT,
    tts_characters        BIGINT,
    tts_provider          TEXT,
    cost_micros           BIGINT,
    cost_breakdown        TEXT,
    usage                 TEXT,
    transcript            TEXT,
    recording_expected    BOOLEAN,
    recording_egress_id   TEXT,
    recording_worker_url  TEXT,
    is_recording_found    BOOLEAN,
    is_recording_given_up BOOLEAN,
    recording_status      TEXT,
    recording_url         TEXT,
    recording_offset_ms   BIGINT,
    finalized_at          TIMESTAMPTZ,
    revision              INTEGER,
    version               INTEGER,
    digest                BYTEA,
    superseded            BYTEA,
    heard_at              TIMESTAMPTZ,
    checkpoint_sequence   BIGINT
);

CREATE TYPE new_message AS (
    row_id         UUID,
    message_id     BYTEA,
    type           TEXT,
    session_id     UUID,
    session_number BIGINT,
    egress_id      TEXT,
    thin           BYTEA,
    full_body      BYTEA,
    traceparent    TEXT
);

CREATE TYPE new_delivery AS (
    delivery_id       UUID,
    message_row       UUID,
    endpoint_id       UUID,
    payload           TEXT,
    state             TEXT,
    cause             TEXT,
    process_id        UUID,
    is_cancelled      BOOLEAN,
    redelivered_after INTEGER
);

CREATE TYPE new_result AS (
    delivery_id          UUID,
    state                TEXT,
    cause                TEXT,
    next_attempt_at      TIMESTAMPTZ,
    finished_at          TIMESTAMPTZ,
    number               INTEGER,
    started_at           TIMESTAMPTZ,
    duration_us          BIGINT,
    status               INTEGER,
    error                TEXT,
    response_head        TEXT,
    response_body        BYTEA,
    address              TEXT,
    is_connection_reused BOOLEAN
);
