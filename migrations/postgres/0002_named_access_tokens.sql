-- Access tokens get names, scopes and limits. Same tables as for SQLite, see there for the reasons.

CREATE TABLE access_token_secrets (
    hash         BYTEA NOT NULL PRIMARY KEY,
    instance_key BIGINT NOT NULL,
    name         TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT
);
CREATE INDEX access_token_secrets_name ON access_token_secrets (instance_key, name);

INSERT INTO access_token_secrets (hash, instance_key, name, created_at, expires_at)
    SELECT hash, instance_key, 'default', created_at, expires_at FROM access_tokens;

-- It goes before its successor comes, so that the names of its indexes are free.
DROP TABLE access_tokens;

CREATE TABLE access_tokens (
    instance_key    BIGINT NOT NULL REFERENCES instances (instance_key) ON DELETE CASCADE,
    name            TEXT NOT NULL,
    scope           JSONB NOT NULL,
    created_at      BIGINT NOT NULL,
    expires_at      BIGINT,
    last_used_at    BIGINT,
    rate_requests   BIGINT,
    rate_per_ms     BIGINT,
    concurrency_max BIGINT,
    PRIMARY KEY (instance_key, name)
);

INSERT INTO access_tokens (instance_key, name, scope, created_at)
    SELECT instance_key, 'default', '"all"', MIN(created_at) FROM access_token_secrets GROUP BY instance_key;

ALTER TABLE access_token_secrets ADD CONSTRAINT access_token_secrets_token
    FOREIGN KEY (instance_key, name) REFERENCES access_tokens (instance_key, name) ON DELETE CASCADE;
