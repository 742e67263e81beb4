-- Everything that Finalizer keeps. Times are UTC with microseconds; amounts are whole numbers
-- (milliseconds, micro-dollars). The SQLite file of the same name keeps the same.

CREATE TABLE installation (
    installation_id UUID PRIMARY KEY
);
INSERT INTO installation VALUES (gen_random_uuid());

CREATE SEQUENCE session_numbers;

CREATE TABLE sessions (
    session_id            UUID PRIMARY KEY,
    id                    BIGINT NOT NULL,
    tenant_id             TEXT NOT NULL,
    character_slug        TEXT NOT NULL,
    character_owner       BIGINT NOT NULL,
    "user"                BIGINT,
    room_id               TEXT,
    room_name             TEXT,
    origin_url            TEXT,
    metadata              TEXT NOT NULL,
    started_at            TIMESTAMPTZ NOT NULL,
    ended_at              TIMESTAMPTZ,
    close_reason          TEXT,
    duration_ms           BIGINT NOT NULL,
    turn_count            INTEGER NOT NULL,
    interruption_count    INTEGER NOT NULL,
    llm_input_tokens      BIGINT NOT NULL,
    llm_output_tokens     BIGINT NOT NULL,
    llm_model             TEXT,
    llm_provider          TEXT,
    stt_audio_ms          BIGINT NOT NULL,
    stt_provider          TEXT,
    tts_characters        BIGINT NOT NULL,
    tts_provider          TEXT,
    cost_micros           BIGINT NOT NULL,
    cost_breakdown        TEXT NOT NULL,
    usage                 TEXT NOT NULL,
    transcript            TEXT COMPRESSION lz4 NOT NULL,
    recording_expected    BOOLEAN NOT NULL,
    recording_egress_id   TEXT,
    recording_worker_url  TEXT,
    is_recording_found    BOOLEAN NOT NULL,
    is_recording_given_up BOOLEAN NOT NULL,
    recording_status      TEXT NOT NULL,
    recording_url         TEXT,
    recording_offset_ms   BIGINT,
    finalized_at          TIMESTAMPTZ,
    revision              INTEGER NOT NULL,
    version               INTEGER NOT NULL,
    digest                BYTEA NOT NULL,
    superseded            BYTEA NOT NULL
);
CREATE INDEX sessions_room_id ON sessions (room_id, started_at) WHERE room_id IS NOT NULL;
CREATE INDEX sessions_room_name ON sessions (room_name, started_at) WHERE room_name IS NOT NULL;
CREATE INDEX sessions_egress ON sessions (recording_egress_id) WHERE recording_egress_id IS NOT NULL;

-- One row per recording, all reports on it merged. `report` is the merged report as JSON.
CREATE TABLE egresses (
    egress_id        TEXT PRIMARY KEY,
    report           TEXT NOT NULL,
    room_id          TEXT,
    room_name        TEXT,
    named_session_id UUID,
    session_id       UUID,
    joined_by        SMALLINT,
    version          INTEGER NOT NULL,
    first_seen_at    TIMESTAMPTZ NOT NULL
);
CREATE INDEX egresses_session ON egresses (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX egresses_named ON egresses (named_session_id) WHERE named_session_id IS NOT NULL;
CREATE INDEX egresses_waiting_room_id ON egresses (room_id) WHERE session_id IS NULL;
CREATE INDEX egresses_waiting_room_name ON egresses (room_name) WHERE session_id IS NULL;

CREATE TABLE endpoints (
    endpoint_id    UUID PRIMARY KEY,
    owner          BIGINT,
    tenant_id      TEXT,
    character_slug TEXT,
    event_types    TEXT NOT NULL,
    payload        TEXT NOT NULL,
    url            TEXT NOT NULL,
    sealed_secret  BYTEA NOT NULL,
    disabled_at    TIMESTAMPTZ,
    disabled_because TEXT,
    created_at     TIMESTAMPTZ NOT NULL
);
CREATE INDEX endpoints_owner ON endpoints (owner);

-- One row per thing told, with the exact bytes of each kind of body once one is owed.
CREATE TABLE messages (
    message_id  BYTEA PRIMARY KEY,
    type        TEXT NOT NULL,
    session_id  UUID,
    egress_id   TEXT,
    thin        BYTEA COMPRESSION lz4,
    full_body   BYTEA COMPRESSION lz4,
    created_at  TIMESTAMPTZ NOT NULL
);
CREATE INDEX messages_session ON messages (session_id);

-- `process_id` is who holds the delivery; nobody's when null. No foreign keys: this is the hot path.
CREATE TABLE deliveries (
    delivery_id     UUID PRIMARY KEY,
    message_id      BYTEA NOT NULL,
    endpoint_id     UUID NOT NULL,
    payload         TEXT NOT NULL,
    state           TEXT NOT NULL,
    cause           TEXT,
    process_id      UUID,
    is_retry        BOOLEAN NOT NULL,
    attempts        INTEGER NOT NULL,
    next_attempt_at TIMESTAMPTZ NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    finished_at     TIMESTAMPTZ,
    UNIQUE (message_id, endpoint_id)
);
CREATE INDEX deliveries_open ON deliveries (process_id, endpoint_id, is_retry, next_attempt_at) WHERE state = 'pending';

CREATE TABLE attempts (
    delivery_id          UUID NOT NULL,
    number               INTEGER NOT NULL,
    started_at           TIMESTAMPTZ NOT NULL,
    duration_us          BIGINT NOT NULL,
    status               INTEGER,
    error                TEXT,
    response_head        TEXT,
    response_body        BYTEA,
    address              TEXT,
    is_connection_reused BOOLEAN NOT NULL,
    PRIMARY KEY (delivery_id, number)
);

-- One row per process that delivers: it is alive until then, and renews in time.
CREATE TABLE processes (
    process_id  UUID PRIMARY KEY,
    alive_until TIMESTAMPTZ NOT NULL
);

CREATE TABLE failures (
    failure_id    UUID PRIMARY KEY,
    code          TEXT NOT NULL,
    pointer       TEXT,
    message       TEXT NOT NULL,
    session_id    UUID,
    event_id      TEXT,
    event_type    TEXT,
    source        TEXT NOT NULL,
    raw           BYTEA NOT NULL,
    raw_sha256    BYTEA NOT NULL,
    size_bytes    BIGINT NOT NULL,
    seen          INTEGER NOT NULL,
    first_seen_at TIMESTAMPTZ NOT NULL,
    last_seen_at  TIMESTAMPTZ NOT NULL,
    UNIQUE (raw_sha256, code)
);
CREATE INDEX failures_last_seen ON failures (last_seen_at);

CREATE TABLE api_keys (
    key_id     UUID PRIMARY KEY,
    hash       BYTEA NOT NULL UNIQUE,
    preview    TEXT NOT NULL,
    name       TEXT NOT NULL,
    "user"     BIGINT NOT NULL,
    is_staff   BOOLEAN NOT NULL,
    is_active  BOOLEAN NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);
