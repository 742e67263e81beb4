-- Rooms have random names, and what is said of one is said while its call goes on or soon after. So calls
-- are found by their room day by day: an event adds to the pages of one day, however many there were.

-- The day, UTC, on which a call ended; one that goes on ends on none that comes.
CREATE FUNCTION day_of_end(ended_at TIMESTAMPTZ) RETURNS DATE LANGUAGE SQL IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CAST(COALESCE(ended_at, 'infinity') AT TIME ZONE 'UTC' AS DATE) $$;

DROP INDEX sessions_room_id;
DROP INDEX sessions_room_name;
CREATE INDEX sessions_room_id ON sessions (day_of_end(ended_at), room_id) WHERE room_id IS NOT NULL;
-- Those without a name are in it as well: it tells on which days calls ended.
CREATE INDEX sessions_room_name ON sessions (day_of_end(ended_at), room_name);
