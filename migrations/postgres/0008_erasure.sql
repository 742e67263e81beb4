-- Sessions can be erased: what is left of one says that every later event for it is a copy. The SQLite
-- file of the same name does the same.

CREATE TABLE erased_sessions (
    session_id      UUID PRIMARY KEY,
    id              BIGINT NOT NULL,
    character_owner BIGINT NOT NULL,
    -- Of the event that made its last revision, and of those before, 32 bytes each.
    digests         BYTEA NOT NULL,
    -- Recordings that are still to be deleted, a JSON list of URLs.
    files           TEXT NOT NULL,
    erased_at       TIMESTAMPTZ NOT NULL
);

-- Their recordings: reports on them seldom name the session.
CREATE TABLE erased_egresses (
    egress_id  TEXT PRIMARY KEY,
    session_id UUID NOT NULL
);
