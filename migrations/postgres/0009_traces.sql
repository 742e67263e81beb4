-- A message carries on the trace of the event that it is told because of, on every attempt. The SQLite
-- file of the same name does the same.

ALTER TABLE messages ADD COLUMN traceparent TEXT;
