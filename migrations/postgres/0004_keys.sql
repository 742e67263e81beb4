-- When an API key was last used, to the minute. The SQLite file of the same name does the same.

ALTER TABLE api_keys ADD COLUMN last_used_at TIMESTAMPTZ;
