-- How much memory instances of a template were measured to need: what a launch is admitted by, also after a restart.
CREATE TABLE template_needs (
    template     TEXT    PRIMARY KEY,
    memory_bytes INTEGER NOT NULL,
    noted_at     INTEGER NOT NULL
) STRICT;
