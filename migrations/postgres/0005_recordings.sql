-- The sweep over recordings finds what it is to do by these. Most sessions and recordings are in none
-- of the indexes. The SQLite file of the same name does the same.

-- When the sweep looks for the worker's own file the next time; nobody else writes it.
ALTER TABLE sessions ADD COLUMN recording_look_at TIMESTAMPTZ NOT NULL DEFAULT '1970-01-01T00:00:00+00:00';

CREATE INDEX sessions_recording_open ON sessions (finalized_at)
    WHERE recording_status IN ('PENDING', 'PROCESSING');
CREATE INDEX sessions_recording_awaited ON sessions (recording_look_at)
    WHERE recording_status IN ('PENDING', 'PROCESSING')
      AND recording_worker_url IS NOT NULL AND recording_egress_id IS NULL;
CREATE INDEX egresses_unmatched ON egresses (first_seen_at) WHERE session_id IS NULL;
