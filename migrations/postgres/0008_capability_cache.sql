-- What the server of an instance offered when it was last asked, in its own words: answered while it sleeps or starts.
-- Text, not JSON of the database's own making, which would change digits. A list that is NULL is not known.
CREATE TABLE capability_cache (
    instance_key       BIGINT PRIMARY KEY REFERENCES instances (instance_key) ON DELETE CASCADE,
    basis              TEXT    NOT NULL,
    heard_at           BIGINT  NOT NULL,
    handshake          TEXT    NOT NULL,
    tools              TEXT,
    prompts            TEXT,
    resources          TEXT,
    resource_templates TEXT
);
