-- Calls in progress are looked after: what their workers said so far, and when they were last heard of. A
-- call whose worker died is finalized from that. The PostgreSQL file of the same name does the same.

-- When something new was last heard of a call in progress, and the newest checkpoint of it; both null
-- once it is over.
ALTER TABLE sessions ADD COLUMN heard_at TEXT;
ALTER TABLE sessions ADD COLUMN checkpoint_sequence INTEGER;
UPDATE sessions SET heard_at = started_at WHERE finalized_at IS NULL;

CREATE INDEX sessions_silent ON sessions (heard_at, session_id) WHERE finalized_at IS NULL;

-- What finalization would make of the newest checkpoint of a call in progress, as JSON.
CREATE TABLE checkpoints (
    session_id BLOB PRIMARY KEY,
    session    TEXT NOT NULL
) STRICT;

-- Rooms that are closed, for a week. A call in progress is matched with them when it has fallen silent.
CREATE TABLE finished_rooms (
    digest      BLOB PRIMARY KEY,
    session_id  BLOB,
    room_id     TEXT,
    room_name   TEXT,
    finished_at TEXT NOT NULL,
    heard_at    TEXT NOT NULL
) STRICT;
CREATE INDEX finished_rooms_session ON finished_rooms (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX finished_rooms_id ON finished_rooms (room_id) WHERE room_id IS NOT NULL;
CREATE INDEX finished_rooms_name ON finished_rooms (room_name) WHERE room_name IS NOT NULL;
CREATE INDEX finished_rooms_heard ON finished_rooms (heard_at);

-- How far each process that takes events has come with them: while one is behind, no call is given up.
CREATE TABLE intakes (
    process_id    BLOB PRIMARY KEY,
    is_consuming  INTEGER NOT NULL,
    current_since TEXT,
    seen_at       TEXT NOT NULL
) STRICT;
