-- One row for each call of a tool. Same table as for SQLite, see there for the reasons.

CREATE TABLE calls (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instance_key  BIGINT NOT NULL,
    generation    BIGINT NOT NULL,
    token         TEXT NOT NULL,
    tool          TEXT NOT NULL,
    stateless     BOOLEAN NOT NULL,
    started_at    BIGINT NOT NULL,
    duration_us   BIGINT NOT NULL,
    outcome       TEXT NOT NULL,
    code          BIGINT,
    request_bytes BIGINT NOT NULL,
    answer_bytes  BIGINT NOT NULL,
    arguments     TEXT
);
CREATE INDEX calls_instance_key ON calls (instance_key, id);
