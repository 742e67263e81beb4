-- A message's id is a hash. What is made of it falls anywhere in an index of such ids, so that nothing that
-- happens all the time looks for one there. The PostgreSQL file of the same name does the same.

CREATE TABLE messages_then (
    -- What its deliveries know it by; begins with the time at which it was told.
    row_id         BLOB PRIMARY KEY,
    message_id     BLOB NOT NULL,
    type           TEXT NOT NULL,
    session_id     BLOB,
    -- `sessions.id`; null for what tells of no session.
    session_number INTEGER,
    egress_id      TEXT,
    thin           BLOB,
    full_body      BLOB,
    created_at     TEXT NOT NULL,
    traceparent    TEXT,
    is_pruned      INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO messages_then
    SELECT unhex(printf('%012x', CAST(unixepoch(created_at, 'subsec') * 1000 AS INTEGER))
            || hex(substr(message_id, 1, 10))),
        message_id, type, session_id,
        COALESCE(
            (SELECT id FROM sessions WHERE sessions.session_id = messages.session_id),
            (SELECT id FROM erased_sessions WHERE erased_sessions.session_id = messages.session_id)),
        egress_id, thin, full_body, created_at, traceparent, is_pruned
    FROM messages;

CREATE TABLE deliveries_then (
    delivery_id       BLOB PRIMARY KEY,
    message_row       BLOB NOT NULL,
    endpoint_id       BLOB NOT NULL,
    payload           TEXT NOT NULL,
    state             TEXT NOT NULL,
    cause             TEXT,
    process_id        BLOB,
    is_retry          INTEGER NOT NULL,
    attempts          INTEGER NOT NULL,
    next_attempt_at   TEXT NOT NULL,
    created_at        TEXT NOT NULL,
    finished_at       TEXT,
    redelivered_after INTEGER,
    UNIQUE (message_row, endpoint_id)
) STRICT;
INSERT INTO deliveries_then
    SELECT delivery_id, row_id, endpoint_id, payload, state, cause, process_id, is_retry, attempts,
        next_attempt_at, deliveries.created_at, finished_at, redelivered_after
    FROM deliveries JOIN messages_then ON messages_then.message_id = deliveries.message_id;

DROP TABLE deliveries;
DROP TABLE messages;
ALTER TABLE deliveries_then RENAME TO deliveries;
ALTER TABLE messages_then RENAME TO messages;

CREATE INDEX deliveries_open ON deliveries (process_id, endpoint_id, is_retry, next_attempt_at) WHERE state = 'pending';
CREATE INDEX deliveries_endpoint ON deliveries (endpoint_id, delivery_id);
CREATE INDEX deliveries_undelivered ON deliveries (endpoint_id, delivery_id)
    WHERE state IN ('exhausted', 'cancelled');
CREATE INDEX deliveries_undelivered_all ON deliveries (delivery_id)
    WHERE state IN ('exhausted', 'cancelled');
CREATE INDEX messages_kept ON messages (created_at, message_id) WHERE NOT is_pruned;
-- Nothing is told twice of a session. What tells of none has an id that only this once can come to.
CREATE UNIQUE INDEX messages_of_session ON messages (session_number, message_id);
-- For whoever asks about a webhook's id.
CREATE INDEX messages_by_id ON messages (message_id);
