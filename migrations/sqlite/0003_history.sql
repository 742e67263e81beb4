-- Sessions are listed: the newest first, and in the order in which they became readable. The
-- PostgreSQL file of the same name does the same.

-- How many finalizations there were when the session was finalized: one transaction writes at a time.
ALTER TABLE sessions ADD COLUMN finalized_sequence INTEGER NOT NULL DEFAULT 0;
UPDATE sessions SET finalized_sequence = id WHERE finalized_at IS NOT NULL;

-- What is listed is found, and totals are computed, in these alone.
CREATE INDEX sessions_finalized ON sessions (finalized_sequence, id,
    session_id, tenant_id, character_slug, started_at, finalized_at) WHERE finalized_at IS NOT NULL;
CREATE INDEX sessions_finalized_owner ON sessions (character_owner, finalized_sequence, id,
    session_id, tenant_id, character_slug, started_at, finalized_at) WHERE finalized_at IS NOT NULL;
CREATE INDEX sessions_history ON sessions (started_at, id,
    session_id, tenant_id, character_slug, llm_input_tokens, llm_output_tokens, stt_audio_ms, tts_characters, cost_micros);
CREATE INDEX sessions_history_owner ON sessions (character_owner, started_at, id,
    session_id, tenant_id, character_slug, llm_input_tokens, llm_output_tokens, stt_audio_ms, tts_characters, cost_micros);

-- New sessions take the next number.
CREATE INDEX sessions_id ON sessions (id);
