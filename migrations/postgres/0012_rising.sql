-- A message's id is a hash. What is made of it falls anywhere in an index of such ids: with millions of
-- messages every event touches pages that no other needs, and writes the whole of them to the WAL after a
-- checkpoint. So nothing that happens all the time looks for one in such an index. The SQLite file of the
-- same name does the same.

ALTER TABLE messages
    -- What its deliveries know it by; begins with the time at which it was told.
    ADD COLUMN row_id         UUID,
    -- `sessions.id`; null for what tells of no session.
    ADD COLUMN session_number BIGINT;
UPDATE messages SET
    row_id = CAST(lpad(to_hex(CAST(floor(EXTRACT(EPOCH FROM created_at) * 1000) AS BIGINT)), 12, '0')
        || encode(substr(message_id, 1, 10), 'hex') AS UUID),
    session_number = COALESCE(
        (SELECT id FROM sessions WHERE sessions.session_id = messages.session_id),
        (SELECT id FROM erased_sessions WHERE erased_sessions.session_id = messages.session_id));

ALTER TABLE deliveries ADD COLUMN message_row UUID;
UPDATE deliveries SET message_row = row_id FROM messages WHERE messages.message_id = deliveries.message_id;
ALTER TABLE deliveries DROP COLUMN message_id;
ALTER TABLE deliveries
    ALTER COLUMN message_row SET NOT NULL,
    ADD UNIQUE (message_row, endpoint_id);

DROP INDEX messages_session;
ALTER TABLE messages
    DROP CONSTRAINT messages_pkey,
    ALTER COLUMN message_id SET NOT NULL,
    ALTER COLUMN row_id SET NOT NULL,
    ADD PRIMARY KEY (row_id);
-- Nothing is told twice of a session. What tells of none has an id that only this once can come to.
CREATE UNIQUE INDEX messages_of_session ON messages (session_number, message_id);
-- For whoever asks about a webhook's id. It costs an insert next to nothing, and a search a look at each
-- 256 kB of messages, and at all that came since the last vacuum.
CREATE INDEX messages_by_id ON messages
    USING BRIN (message_id bytea_bloom_ops (n_distinct_per_range = 1000, false_positive_rate = 0.001))
    WITH (pages_per_range = 32);
-- The planner takes it for useless, as ids are in no order, and would read another index from end to end.
CREATE FUNCTION message_row(id BYTEA) RETURNS UUID LANGUAGE SQL STABLE
    SET enable_seqscan = off SET enable_indexscan = off
    AS $$ SELECT row_id FROM messages WHERE message_id = id $$;

ALTER TABLE messages SET (autovacuum_vacuum_insert_scale_factor = 0.02);
