-- Sessions are listed: the newest first, and in the order in which they became readable. The SQLite
-- file of the same name does the same.

-- What a walk's cursors are good for: a database that came from another cluster begins a new epoch.
ALTER TABLE installation ADD COLUMN history_epoch INTEGER NOT NULL DEFAULT 0;

-- The transaction that finalized the session (of one in progress: that made it). The default is
-- evaluated once for all rows that are there, so the table is not written anew.
ALTER TABLE sessions ADD COLUMN finalized_xid XID8 NOT NULL DEFAULT pg_current_xact_id();

-- What is listed is found, and totals are computed, in these alone.
CREATE INDEX sessions_finalized ON sessions (finalized_xid, id)
    INCLUDE (session_id, tenant_id, character_slug, started_at) WHERE finalized_at IS NOT NULL;
CREATE INDEX sessions_finalized_owner ON sessions (character_owner, finalized_xid, id)
    INCLUDE (session_id, tenant_id, character_slug, started_at) WHERE finalized_at IS NOT NULL;
CREATE INDEX sessions_history ON sessions (started_at, id)
    INCLUDE (session_id, tenant_id, character_slug, llm_input_tokens, llm_output_tokens, stt_audio_ms, tts_characters, cost_micros);
CREATE INDEX sessions_history_owner ON sessions (character_owner, started_at, id)
    INCLUDE (session_id, tenant_id, character_slug, llm_input_tokens, llm_output_tokens, stt_audio_ms, tts_characters, cost_micros);
