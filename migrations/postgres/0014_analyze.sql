-- ANALYZE reads 30,000 pages of a table, anywhere in it. With thousands of calls a second it did so every
-- minute, and where those pages were not in memory the disk had seconds of work with it, for which every
-- commit waited. The statements that run all the time go by index, whatever the statistics say.

ALTER TABLE sessions SET (autovacuum_analyze_scale_factor = 0.2);
ALTER TABLE messages SET (autovacuum_analyze_scale_factor = 0.2);
ALTER TABLE deliveries SET (autovacuum_analyze_scale_factor = 0.2);
ALTER TABLE attempts SET (autovacuum_analyze_scale_factor = 0.2);
