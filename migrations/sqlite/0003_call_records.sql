-- One row for each call of a tool. No foreign key: the rows outlive their instance, as log lines do.

CREATE TABLE calls (
    -- AUTOINCREMENT: ids are cursors, so one must not be given twice when the newest rows are deleted.
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    instance_key  INTEGER NOT NULL,
    generation    INTEGER NOT NULL,
    token         TEXT    NOT NULL,
    tool          TEXT    NOT NULL,
    stateless     INTEGER NOT NULL,
    started_at    INTEGER NOT NULL,
    duration_us   INTEGER NOT NULL,
    outcome       TEXT    NOT NULL,
    code          INTEGER,
    request_bytes INTEGER NOT NULL,
    answer_bytes  INTEGER NOT NULL,
    arguments     TEXT
) STRICT;
CREATE INDEX calls_instance_key ON calls (instance_key, id);
