-- Everything that Finalizer keeps. Times are UTC with microseconds; amounts are whole numbers
-- (milliseconds, micro-dollars). The PostgreSQL file of the same name keeps the same; here a UUID is
-- a BLOB of 16 bytes, a time is RFC 3339 text and a boolean is 0 or 1.

CREATE TABLE installation (
    installation_id BLOB PRIMARY KEY
) STRICT;
INSERT INTO installation VALUES (randomblob(16));

CREATE TABLE sessions (
    session_id            BLOB PRIMARY KEY,
    id                    INTEGER NOT NULL,
    tenant_id             TEXT NOT NULL,
    character_slug        TEXT NOT NULL,
    character_owner       INTEGER NOT NULL,
    "user"                INTEGER,
    room_id               TEXT,
    room_name             TEXT,
    origin_url            TEXT,
    metadata              TEXT NOT NULL,
    started_at            TEXT NOT NULL,
    ended_at              TEXT,
    close_reason          TEXT,
    duration_ms           INTEGER NOT NULL,
    turn_count            INTEGER NOT NULL,
    interruption_count    INTEGER NOT NULL,
    llm_input_tokens      INTEGER NOT NULL,
    llm_output_tokens     INTEGER NOT NULL,
    llm_model             TEXT,
    llm_provider          TEXT,
    stt_audio_ms          INTEGER NOT NULL,
    stt_provider          TEXT,
    tts_characters        INTEGER NOT NULL,
    tts_provider          TEXT,
    cost_micros           INTEGER NOT NULL,
    cost_breakdown        TEXT NOT NULL,
    usage                 TEXT NOT NULL,
    transcript            TEXT NOT NULL,
    recording_expected    INTEGER NOT NULL,
    recording_egress_id   TEXT,
    recording_worker_url  TEXT,
    is_recording_found    INTEGER NOT NULL,
    is_recording_given_up INTEGER NOT NULL,
    recording_status      TEXT NOT NULL,
    recording_url         TEXT,
    recording_offset_ms   INTEGER,
    finalized_at          TEXT,
    revision              INTEGER NOT NULL,
    version               INTEGER NOT NULL,
    digest                BLOB NOT NULL,
    superseded            BLOB NOT NULL
) STRICT;
CREATE INDEX sessions_room_id ON sessions (room_id, started_at) WHERE room_id IS NOT NULL;
CREATE INDEX sessions_room_name ON sessions (room_name, started_at) WHERE room_name IS NOT NULL;
CREATE INDEX sessions_egress ON sessions (recording_egress_id) WHERE recording_egress_id IS NOT NULL;

-- One row per recording, all reports on it merged. `report` is the merged report as JSON.
CREATE TABLE egresses (
    egress_id        TEXT PRIMARY KEY,
    report           TEXT NOT NULL,
    room_id          TEXT,
    room_name        TEXT,
    named_session_id BLOB,
    session_id       BLOB,
    joined_by        INTEGER,
    version          INTEGER NOT NULL,
    first_seen_at    TEXT NOT NULL
) STRICT;
CREATE INDEX egresses_session ON egresses (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX egresses_named ON egresses (named_session_id) WHERE named_session_id IS NOT NULL;
CREATE INDEX egresses_waiting_room_id ON egresses (room_id) WHERE session_id IS NULL;
CREATE INDEX egresses_waiting_room_name ON egresses (room_name) WHERE session_id IS NULL;

CREATE TABLE endpoints (
    endpoint_id    BLOB PRIMARY KEY,
    owner          INTEGER,
    tenant_id      TEXT,
    character_slug TEXT,
    event_types    TEXT NOT NULL,
    payload        TEXT NOT NULL,
    url            TEXT NOT NULL,
    sealed_secret  BLOB NOT NULL,
    disabled_at    TEXT,
    disabled_because TEXT,
    created_at     TEXT NOT NULL
) STRICT;
CREATE INDEX endpoints_owner ON endpoints (owner);

-- One row per thing told, with the exact bytes of each kind of body once one is owed.
CREATE TABLE messages (
    message_id  BLOB PRIMARY KEY,
    type        TEXT NOT NULL,
    session_id  BLOB,
    egress_id   TEXT,
    thin        BLOB,
    full_body   BLOB,
    created_at  TEXT NOT NULL
) STRICT;
CREATE INDEX messages_session ON messages (session_id);

-- `process_id` is who holds the delivery; nobody's when null. No foreign keys: this is the hot path.
CREATE TABLE deliveries (
    delivery_id     BLOB PRIMARY KEY,
    message_id      BLOB NOT NULL,
    endpoint_id     BLOB NOT NULL,
    payload         TEXT NOT NULL,
    state           TEXT NOT NULL,
    cause           TEXT,
    process_id      BLOB,
    is_retry        INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    next_attempt_at TEXT NOT NULL,
    created_at      TEXT NOT NULL,
    finished_at     TEXT,
    UNIQUE (message_id, endpoint_id)
) STRICT;
CREATE INDEX deliveries_open ON deliveries (process_id, endpoint_id, is_retry, next_attempt_at) WHERE state = 'pending';

CREATE TABLE attempts (
    delivery_id          BLOB NOT NULL,
    number               INTEGER NOT NULL,
    started_at           TEXT NOT NULL,
    duration_us          INTEGER NOT NULL,
    status               INTEGER,
    error                TEXT,
    response_head        TEXT,
    response_body        BLOB,
    address              TEXT,
    is_connection_reused INTEGER NOT NULL,
    PRIMARY KEY (delivery_id, number)
) STRICT;

-- One row per process that delivers: it is alive until then, and renews in time.
CREATE TABLE processes (
    process_id  BLOB PRIMARY KEY,
    alive_until TEXT NOT NULL
) STRICT;

CREATE TABLE failures (
    failure_id    BLOB PRIMARY KEY,
    code          TEXT NOT NULL,
    pointer       TEXT,
    message       TEXT NOT NULL,
    session_id    BLOB,
    event_id      TEXT,
    event_type    TEXT,
    source        TEXT NOT NULL,
    raw           BLOB NOT NULL,
    raw_sha256    BLOB NOT NULL,
    size_bytes    INTEGER NOT NULL,
    seen          INTEGER NOT NULL,
    first_seen_at TEXT NOT NULL,
    last_seen_at  TEXT NOT NULL,
    UNIQUE (raw_sha256, code)
) STRICT;
CREATE INDEX failures_last_seen ON failures (last_seen_at);

CREATE TABLE api_keys (
    key_id     BLOB PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE,
    preview    TEXT NOT NULL,
    name       TEXT NOT NULL,
    "user"     INTEGER NOT NULL,
    is_staff   INTEGER NOT NULL,
    is_active  INTEGER NOT NULL,
    created_at TEXT NOT NULL
) STRICT;
