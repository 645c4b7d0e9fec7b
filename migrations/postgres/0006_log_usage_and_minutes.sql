-- How many lines of each instance there are, and how many bytes of text, kept with every write and every deletion: to
-- count them when a bound is to be held would read the whole table.
CREATE TABLE log_usage (
    instance_key BIGINT PRIMARY KEY,
    lines        BIGINT NOT NULL,
    text_bytes   BIGINT NOT NULL
);
INSERT INTO log_usage (instance_key, lines, text_bytes)
SELECT instance_key, COUNT(*), SUM(octet_length(line)) FROM logs GROUP BY instance_key;

-- Between which ids the lines of each minute lie: a search in a time becomes one in a range of ids, for which there is an
-- index. An index by time would cost every line more than this costs a batch.
CREATE TABLE log_minutes (
    minute   BIGINT PRIMARY KEY,
    first_id BIGINT NOT NULL,
    last_id  BIGINT NOT NULL
);
INSERT INTO log_minutes (minute, first_id, last_id)
SELECT at / 60000, MIN(id), MAX(id) FROM logs GROUP BY at / 60000;
