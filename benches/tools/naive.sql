-- Where the naive worker keeps sessions and deliveries.

CREATE TABLE sessions (
    session_id      UUID PRIMARY KEY,
    tenant_id       TEXT NOT NULL,
    character_slug  TEXT NOT NULL,
    character_owner BIGINT NOT NULL,
    turn_count      INTEGER NOT NULL,
    usage           JSONB NOT NULL,
    transcript      JSONB NOT NULL,
    transcript_text TEXT NOT NULL,
    finalized_at    TIMESTAMPTZ NOT NULL
);

CREATE TABLE deliveries (
    delivery_id  UUID PRIMARY KEY,
    session_id   UUID NOT NULL REFERENCES sessions,
    body         TEXT NOT NULL,
    state        TEXT NOT NULL,
    leased_until TIMESTAMPTZ,
    created_at   TIMESTAMPTZ NOT NULL
);
CREATE INDEX deliveries_pending ON deliveries (created_at) WHERE state = 'pending';
