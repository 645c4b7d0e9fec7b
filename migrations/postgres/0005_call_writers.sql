-- How far each writer of call records came. Same table as for SQLite, see there for the reasons.
CREATE TABLE call_writers (
    writer      BIGINT PRIMARY KEY,
    last_number BIGINT NOT NULL,
    written_at  BIGINT NOT NULL
);
