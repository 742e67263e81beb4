-- Where the hand-tuned pipeline keeps sessions and deliveries. What is written once and what changes
-- lie apart, and no index stands in the way of a change.

CREATE TABLE sessions (
    session_id      UUID PRIMARY KEY,
    tenant_id       TEXT NOT NULL,
    character_slug  TEXT NOT NULL,
    character_owner BIGINT NOT NULL,
    turn_count      INTEGER NOT NULL,
    usage           JSON COMPRESSION lz4 NOT NULL,
    transcript      JSON COMPRESSION lz4 NOT NULL,
    body            TEXT COMPRESSION lz4 NOT NULL,
    finalized_at    TIMESTAMPTZ NOT NULL
);

CREATE TABLE deliveries (
    session_id UUID PRIMARY KEY,
    state      TEXT NOT NULL
) WITH (fillfactor = 50);
