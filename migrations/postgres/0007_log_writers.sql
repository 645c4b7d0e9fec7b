-- How far each writer of log lines came. Same table as for SQLite, see there for the reasons.
CREATE TABLE log_writers (
    writer      BIGINT PRIMARY KEY,
    last_number BIGINT NOT NULL,
    written_at  BIGINT NOT NULL
);
