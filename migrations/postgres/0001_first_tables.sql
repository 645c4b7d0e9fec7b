-- Times are unix milliseconds. Same tables as for SQLite, see there for the reasons.

CREATE TABLE instances (
    instance_key     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id               TEXT NOT NULL,
    owner            TEXT NOT NULL,
    name             TEXT NOT NULL,
    template         TEXT NOT NULL,
    spec             JSONB NOT NULL,
    desired          TEXT NOT NULL,
    state            JSONB NOT NULL,
    generation       BIGINT NOT NULL,
    ttl_ms           BIGINT,
    expires_at       BIGINT,
    restore_until    BIGINT,
    warned           BOOLEAN NOT NULL,
    restart_row      JSONB NOT NULL,
    restarts         BIGINT NOT NULL,
    last_exit        JSONB,
    handshake        JSONB,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    last_accessed_at BIGINT
);
CREATE UNIQUE INDEX instances_id ON instances (id);
CREATE UNIQUE INDEX instances_owner_name ON instances (owner, name);

-- A port has one row while it is leased or resting, none while it is free.
CREATE TABLE port_leases (
    port             INTEGER PRIMARY KEY,
    instance_key     BIGINT REFERENCES instances (instance_key),
    leased_at        BIGINT NOT NULL,
    quarantine_until BIGINT
);
CREATE UNIQUE INDEX port_leases_instance_key ON port_leases (instance_key);

CREATE TABLE access_tokens (
    hash         BYTEA NOT NULL PRIMARY KEY,
    instance_key BIGINT NOT NULL REFERENCES instances (instance_key) ON DELETE CASCADE,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT
);
CREATE INDEX access_tokens_instance_key ON access_tokens (instance_key);

CREATE TABLE credentials (
    owner      TEXT NOT NULL,
    name       TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    nonce      BYTEA NOT NULL,
    ciphertext BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (owner, name)
);
CREATE INDEX credentials_key_id ON credentials (key_id, owner, name);

-- A known text sealed by each master key: tells a wrong key at start.
CREATE TABLE key_checks (
    key_id     TEXT NOT NULL PRIMARY KEY,
    nonce      BYTEA NOT NULL,
    ciphertext BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);

-- No foreign key: the rows outlive their instance.
CREATE TABLE logs (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instance_key BIGINT NOT NULL,
    generation   BIGINT NOT NULL,
    stream       SMALLINT NOT NULL,
    at           BIGINT NOT NULL,
    line         TEXT NOT NULL,
    continued    BOOLEAN NOT NULL
);
CREATE INDEX logs_instance_key ON logs (instance_key, id);

CREATE TABLE events (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instance_id TEXT NOT NULL,
    generation  BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    kind        TEXT NOT NULL,
    message     TEXT NOT NULL
);
CREATE INDEX events_instance_id ON events (instance_id, id);

CREATE TABLE idempotency_keys (
    owner        TEXT NOT NULL,
    key          TEXT NOT NULL,
    request_hash BYTEA NOT NULL,
    status       INTEGER NOT NULL,
    body         BYTEA NOT NULL,
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (owner, key)
);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);
