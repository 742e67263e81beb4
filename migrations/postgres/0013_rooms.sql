-- Rooms have random names, and what is said of one is said while its call goes on or soon after. So calls
-- are found by their room week by week: an event adds to the pages of one week, however many there were.

-- The Monday, UTC, of the week in which a call ended; one that goes on ends in none that comes.
CREATE FUNCTION week_of_end(ended_at TIMESTAMPTZ) RETURNS DATE LANGUAGE SQL IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CAST(date_trunc('week', COALESCE(ended_at, 'infinity') AT TIME ZONE 'UTC') AS DATE) $$;

-- Sessions can be read while these are made.
CREATE INDEX sessions_of_room_id ON sessions (week_of_end(ended_at), room_id) WHERE room_id IS NOT NULL;
-- Those without a name are in it as well: it tells in which weeks calls ended.
CREATE INDEX sessions_of_room_name ON sessions (week_of_end(ended_at), room_name);
DROP INDEX sessions_room_id;
DROP INDEX sessions_room_name;
