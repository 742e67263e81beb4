-- A failure says how it stands and what its replays came to; replays of many failures are jobs. The
-- PostgreSQL file of the same name does the same.

ALTER TABLE failures ADD COLUMN headers TEXT;
ALTER TABLE failures ADD COLUMN tenant_id TEXT;
ALTER TABLE failures ADD COLUMN character_slug TEXT;
ALTER TABLE failures ADD COLUMN state TEXT NOT NULL DEFAULT 'open';
ALTER TABLE failures ADD COLUMN closed_at TEXT;
ALTER TABLE failures ADD COLUMN closed_by TEXT;
-- What the replay that closed it came to, and whether the event was edited for it.
ALTER TABLE failures ADD COLUMN outcome TEXT;
ALTER TABLE failures ADD COLUMN is_edited INTEGER NOT NULL DEFAULT 0;
ALTER TABLE failures ADD COLUMN replays INTEGER NOT NULL DEFAULT 0;
ALTER TABLE failures ADD COLUMN replayed_at TEXT;
ALTER TABLE failures ADD COLUMN raw_expired_at TEXT;
-- Committed before each attempt, gone with its end: of a process that is dead it says that the attempt
-- did not come back.
ALTER TABLE failures ADD COLUMN replaying_process BLOB;
ALTER TABLE failures ADD COLUMN replaying_since TEXT;

DROP INDEX failures_last_seen;
CREATE INDEX failures_last_seen ON failures (last_seen_at, failure_id);
CREATE INDEX failures_open ON failures (failure_id) WHERE state = 'open';
CREATE INDEX failures_open_by_code ON failures (code, failure_id) WHERE state = 'open';
CREATE INDEX failures_replaying ON failures (replaying_process) WHERE replaying_process IS NOT NULL;
CREATE INDEX failures_with_raw ON failures (last_seen_at) WHERE raw_expired_at IS NULL;

CREATE TABLE replays (
    replay_id      BLOB PRIMARY KEY,
    code           TEXT,
    session_id     BLOB,
    character_slug TEXT,
    tenant_id      TEXT,
    since          TEXT NOT NULL,
    until          TEXT NOT NULL,
    is_dry_run     INTEGER NOT NULL,
    is_superseding INTEGER NOT NULL,
    per_second     INTEGER NOT NULL,
    ordered_by     TEXT NOT NULL,
    state          TEXT NOT NULL,
    matched        INTEGER,
    finalized      INTEGER NOT NULL,
    accepted       INTEGER NOT NULL,
    duplicates     INTEGER NOT NULL,
    failed         INTEGER NOT NULL,
    skipped        INTEGER NOT NULL,
    -- How far it has come, and how far it goes.
    last_failure   BLOB NOT NULL,
    end_failure    BLOB NOT NULL,
    -- Who does it.
    process_id     BLOB,
    created_at     TEXT NOT NULL,
    finished_at    TEXT
) STRICT;
CREATE INDEX replays_running ON replays (replay_id) WHERE state = 'running';
