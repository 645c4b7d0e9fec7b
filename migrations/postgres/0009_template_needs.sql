-- How much memory instances of a template were measured to need: what a launch is admitted by, also after a restart.
CREATE TABLE template_needs (
    template     TEXT   PRIMARY KEY,
    memory_bytes BIGINT NOT NULL,
    noted_at     BIGINT NOT NULL
);
