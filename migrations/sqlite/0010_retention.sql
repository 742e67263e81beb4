-- Old deliveries go, with their attempts and the bytes of their messages; what stays of a message says
-- that it was told. The PostgreSQL file of the same name does the same.

ALTER TABLE messages ADD COLUMN is_pruned INTEGER NOT NULL DEFAULT 0;

-- In the order in which they go, and in which a redelivery looks for what an endpoint was never told.
DROP INDEX messages_created;
CREATE INDEX messages_kept ON messages (created_at, message_id) WHERE NOT is_pruned;

-- Whoever erases a session looks for its failures.
CREATE INDEX failures_session ON failures (session_id) WHERE session_id IS NOT NULL;
