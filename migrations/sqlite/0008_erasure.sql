-- Sessions can be erased: what is left of one says that every later event for it is a copy. The
-- PostgreSQL file of the same name does the same.

CREATE TABLE erased_sessions (
    session_id         BLOB PRIMARY KEY,
    id                 INTEGER NOT NULL,
    character_owner    INTEGER NOT NULL,
    -- Of the event that made its last revision, and of those before, 32 bytes each.
    digests            BLOB NOT NULL,
    -- Recordings that are still to be deleted, a JSON list of URLs.
    files              TEXT NOT NULL,
    erased_at          TEXT NOT NULL,
    -- Nobody else gets its place in the order of all.
    finalized_sequence INTEGER NOT NULL
) STRICT;
CREATE INDEX erased_sessions_id ON erased_sessions (id);
CREATE INDEX erased_sessions_finalized ON erased_sessions (finalized_sequence);

-- Their recordings: reports on them seldom name the session.
CREATE TABLE erased_egresses (
    egress_id  TEXT PRIMARY KEY,
    session_id BLOB NOT NULL
) STRICT;
