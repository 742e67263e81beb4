-- Old deliveries go, with their attempts and the bytes of their messages; what stays of a message says
-- that it was told. The SQLite file of the same name does the same.

ALTER TABLE messages ADD COLUMN is_pruned BOOLEAN NOT NULL DEFAULT FALSE;

-- In the order in which they go, and in which a redelivery looks for what an endpoint was never told.
DROP INDEX messages_created;
CREATE INDEX messages_kept ON messages (created_at, message_id) WHERE NOT is_pruned;

-- A table of a hundred million rows would else be left alone until twenty million of them are dead: its
-- indexes would have grown by a fifth, and what is new would not be marked as visible to index-only scans.
ALTER TABLE sessions SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE messages SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE deliveries SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE attempts SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.05);

-- Whoever erases a session looks for its failures.
CREATE INDEX failures_session ON failures (session_id) WHERE session_id IS NOT NULL;
