-- A failure says how it stands and what its replays came to; replays of many failures are jobs. The
-- SQLite file of the same name does the same.

ALTER TABLE failures ADD COLUMN headers TEXT;
ALTER TABLE failures ADD COLUMN tenant_id TEXT;
ALTER TABLE failures ADD COLUMN character_slug TEXT;
ALTER TABLE failures ADD COLUMN state TEXT NOT NULL DEFAULT 'open';
ALTER TABLE failures ADD COLUMN closed_at TIMESTAMPTZ;
ALTER TABLE failures ADD COLUMN closed_by TEXT;
-- What the replay that closed it came to, and whether the event was edited for it.
ALTER TABLE failures ADD COLUMN outcome TEXT;
ALTER TABLE failures ADD COLUMN is_edited BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE failures ADD COLUMN replays INTEGER NOT NULL DEFAULT 0;
ALTER TABLE failures ADD COLUMN replayed_at TIMESTAMPTZ;
ALTER TABLE failures ADD COLUMN raw_expired_at TIMESTAMPTZ;
-- Committed before each attempt, gone with its end: of a process that is dead it says that the attempt
-- did not come back.
ALTER TABLE failures ADD COLUMN replaying_process UUID;
ALTER TABLE failures ADD COLUMN replaying_since TIMESTAMPTZ;

DROP INDEX failures_last_seen;
CREATE INDEX failures_last_seen ON failures (last_seen_at, failure_id);
CREATE INDEX failures_open ON failures (failure_id) WHERE state = 'open';
CREATE INDEX failures_open_by_code ON failures (code, failure_id) WHERE state = 'open';
CREATE INDEX failures_replaying ON failures (replaying_process) WHERE replaying_process IS NOT NULL;
CREATE INDEX failures_with_raw ON failures (last_seen_at) WHERE raw_expired_at IS NULL;

CREATE TABLE replays (
    replay_id      UUID PRIMARY KEY,
    code           TEXT,
    session_id     UUID,
    character_slug TEXT,
    tenant_id      TEXT,
    since          TIMESTAMPTZ NOT NULL,
    until          TIMESTAMPTZ NOT NULL,
    is_dry_run     BOOLEAN NOT NULL,
    is_superseding BOOLEAN NOT NULL,
    per_second     INTEGER NOT NULL,
    ordered_by     TEXT NOT NULL,
    state          TEXT NOT NULL,
    matched        BIGINT,
    finalized      BIGINT NOT NULL,
    accepted       BIGINT NOT NULL,
    duplicates     BIGINT NOT NULL,
    failed         BIGINT NOT NULL,
    skipped        BIGINT NOT NULL,
    -- How far it has come, and how far it goes.
    last_failure   UUID NOT NULL,
    end_failure    UUID NOT NULL,
    -- Who does it.
    process_id     UUID,
    created_at     TIMESTAMPTZ NOT NULL,
    finished_at    TIMESTAMPTZ
);
CREATE INDEX replays_running ON replays (replay_id) WHERE state = 'running';
