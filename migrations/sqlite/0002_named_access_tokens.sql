-- Access tokens get names, scopes and limits. A token has one secret, and during an overlap also the ones before it.

ALTER TABLE access_tokens RENAME TO access_tokens_0001;

CREATE TABLE access_tokens (
    instance_key    INTEGER NOT NULL REFERENCES instances (instance_key) ON DELETE CASCADE,
    name            TEXT    NOT NULL,
    scope           TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    expires_at      INTEGER,
    last_used_at    INTEGER,
    -- So many requests in so many milliseconds.
    rate_requests   INTEGER,
    rate_per_ms     INTEGER,
    concurrency_max INTEGER,
    PRIMARY KEY (instance_key, name)
) STRICT;

CREATE TABLE access_token_secrets (
    hash         BLOB    NOT NULL PRIMARY KEY,
    instance_key INTEGER NOT NULL,
    name         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    -- Set once a newer one took its place.
    expires_at   INTEGER,
    FOREIGN KEY (instance_key, name) REFERENCES access_tokens (instance_key, name) ON DELETE CASCADE
) STRICT;
CREATE INDEX access_token_secrets_name ON access_token_secrets (instance_key, name);

INSERT INTO access_tokens (instance_key, name, scope, created_at)
    SELECT instance_key, 'default', '"all"', MIN(created_at) FROM access_tokens_0001 GROUP BY instance_key;
INSERT INTO access_token_secrets (hash, instance_key, name, created_at, expires_at)
    SELECT hash, instance_key, 'default', created_at, expires_at FROM access_tokens_0001;

DROP TABLE access_tokens_0001;
