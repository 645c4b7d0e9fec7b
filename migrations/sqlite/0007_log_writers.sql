-- How far each writer of log lines came, written with the lines: so a batch of which it is not known whether it was
-- committed can be written again. A start of the daemon is a writer.
CREATE TABLE log_writers (
    writer      INTEGER PRIMARY KEY,
    last_number INTEGER NOT NULL,
    written_at  INTEGER NOT NULL
) STRICT;
