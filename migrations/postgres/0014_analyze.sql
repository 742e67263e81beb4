-- ANALYZE reads 30,000 pages of a table, anywhere in it. With thousands of calls a second it did so every
-- minute, and where the table is larger than memory the disk had seconds of work with it, for which every
-- commit waited. What is taken is planned without statistics; lists and totals need no fresher ones.

ALTER TABLE sessions SET (autovacuum_analyze_scale_factor = 0.2);
ALTER TABLE messages SET (autovacuum_analyze_scale_factor = 0.2);
ALTER TABLE deliveries SET (autovacuum_analyze_scale_factor = 0.2);
ALTER TABLE attempts SET (autovacuum_analyze_scale_factor = 0.2);
