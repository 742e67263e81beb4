-- Endpoints say how they want to be called, how they fare is kept beside them, and deliveries can go
-- out again. The PostgreSQL file of the same name does the same.

ALTER TABLE endpoints ADD COLUMN sealed_headers BLOB;
ALTER TABLE endpoints ADD COLUMN timeout_seconds INTEGER NOT NULL DEFAULT 15;
ALTER TABLE endpoints ADD COLUMN rate_limit_per_minute INTEGER;
ALTER TABLE endpoints ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE endpoints ADD COLUMN deleted_at TEXT;

-- Deleted ones stay for the record, and out of the way.
DROP INDEX endpoints_owner;
CREATE INDEX endpoints_owner ON endpoints (owner) WHERE deleted_at IS NULL;

-- How an endpoint fares, apart from what it is: this changes with its traffic. No row: all is well.
CREATE TABLE endpoint_health (
    endpoint_id     BLOB PRIMARY KEY,
    failing_since   TEXT,
    last_failure_at TEXT,
    failures        INTEGER NOT NULL,
    failure_days    INTEGER NOT NULL,
    paused_until    TEXT,
    next_slot_at    TEXT
) STRICT;

-- Attempts before the delivery was last owed anew; null: it never was.
ALTER TABLE deliveries ADD COLUMN redelivered_after INTEGER;
CREATE INDEX deliveries_endpoint ON deliveries (endpoint_id, delivery_id);
CREATE INDEX deliveries_undelivered ON deliveries (endpoint_id, delivery_id)
    WHERE state IN ('exhausted', 'cancelled');
CREATE INDEX deliveries_undelivered_all ON deliveries (delivery_id)
    WHERE state IN ('exhausted', 'cancelled');
CREATE INDEX messages_created ON messages (created_at, message_id);

-- One row per range of deliveries that is to go out again: what of it, and how far it has come.
CREATE TABLE redeliveries (
    redelivery_id   BLOB PRIMARY KEY,
    endpoint_id     BLOB NOT NULL,
    since           TEXT NOT NULL,
    until           TEXT NOT NULL,
    statuses        TEXT NOT NULL,
    per_second      INTEGER NOT NULL,
    state           TEXT NOT NULL,
    matched         INTEGER,
    redelivered     INTEGER NOT NULL,
    skipped         INTEGER NOT NULL,
    last_delivery   BLOB NOT NULL,
    last_message_at TEXT NOT NULL,
    last_message    BLOB NOT NULL,
    next_step_at    TEXT NOT NULL,
    created_at      TEXT NOT NULL,
    finished_at     TEXT
) STRICT;
CREATE INDEX redeliveries_running ON redeliveries (next_step_at) WHERE state = 'running';
-- A second one to the same endpoint would send twice what both match.
CREATE UNIQUE INDEX redeliveries_one_each ON redeliveries (endpoint_id) WHERE state = 'running';
CREATE INDEX redeliveries_endpoint ON redeliveries (endpoint_id, redelivery_id);
