-- Endpoints say how they want to be called, how they fare is kept beside them, and deliveries can go
-- out again. The SQLite file of the same name does the same.

ALTER TABLE endpoints
    ADD COLUMN sealed_headers        BYTEA,
    ADD COLUMN timeout_seconds       INTEGER NOT NULL DEFAULT 15,
    ADD COLUMN rate_limit_per_minute INTEGER,
    ADD COLUMN version               INTEGER NOT NULL DEFAULT 1,
    ADD COLUMN deleted_at            TIMESTAMPTZ;

-- Deleted ones stay for the record, and out of the way.
DROP INDEX endpoints_owner;
CREATE INDEX endpoints_owner ON endpoints (owner) WHERE deleted_at IS NULL;

-- How an endpoint fares, apart from what it is: this changes with its traffic. No row: all is well.
CREATE TABLE endpoint_health (
    endpoint_id     UUID PRIMARY KEY,
    failing_since   TIMESTAMPTZ,
    last_failure_at TIMESTAMPTZ,
    failures        INTEGER NOT NULL,
    failure_days    INTEGER NOT NULL,
    paused_until    TIMESTAMPTZ,
    next_slot_at    TIMESTAMPTZ
);

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
    redelivery_id   UUID PRIMARY KEY,
    endpoint_id     UUID NOT NULL,
    since           TIMESTAMPTZ NOT NULL,
    until           TIMESTAMPTZ NOT NULL,
    statuses        TEXT NOT NULL,
    per_second      INTEGER NOT NULL,
    state           TEXT NOT NULL,
    matched         BIGINT,
    redelivered     BIGINT NOT NULL,
    skipped         BIGINT NOT NULL,
    last_delivery   UUID NOT NULL,
    last_message_at TIMESTAMPTZ NOT NULL,
    last_message    BYTEA NOT NULL,
    next_step_at    TIMESTAMPTZ NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    finished_at     TIMESTAMPTZ
);
CREATE INDEX redeliveries_running ON redeliveries (next_step_at) WHERE state = 'running';
-- A second one to the same endpoint would send twice what both match.
CREATE UNIQUE INDEX redeliveries_one_each ON redeliveries (endpoint_id) WHERE state = 'running';
CREATE INDEX redeliveries_endpoint ON redeliveries (endpoint_id, redelivery_id);
