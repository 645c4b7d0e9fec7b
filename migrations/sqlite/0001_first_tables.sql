-- Times are unix milliseconds, JSON is text. STRICT keeps a wrong type from ever entering a column.

CREATE TABLE instances (
    -- AUTOINCREMENT: the key of a deleted instance must not come back while its log rows are still being removed.
    instance_key     INTEGER PRIMARY KEY AUTOINCREMENT,
    id               TEXT    NOT NULL,
    owner            TEXT    NOT NULL,
    name             TEXT    NOT NULL,
    template         TEXT    NOT NULL,
    spec             TEXT    NOT NULL,
    desired          TEXT    NOT NULL,
    state            TEXT    NOT NULL,
    generation       INTEGER NOT NULL,
    ttl_ms           INTEGER,
    expires_at       INTEGER,
    restore_until    INTEGER,
    warned           INTEGER NOT NULL,
    restart_row      TEXT    NOT NULL,
    restarts         INTEGER NOT NULL,
    last_exit        TEXT,
    handshake        TEXT,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    last_accessed_at INTEGER
) STRICT;
CREATE UNIQUE INDEX instances_id ON instances (id);
CREATE UNIQUE INDEX instances_owner_name ON instances (owner, name);

-- A port has one row while it is leased or resting, none while it is free.
CREATE TABLE port_leases (
    port             INTEGER PRIMARY KEY,
    instance_key     INTEGER REFERENCES instances (instance_key),
    leased_at        INTEGER NOT NULL,
    quarantine_until INTEGER
) STRICT;
CREATE UNIQUE INDEX port_leases_instance_key ON port_leases (instance_key);

CREATE TABLE access_tokens (
    hash         BLOB    NOT NULL PRIMARY KEY,
    instance_key INTEGER NOT NULL REFERENCES instances (instance_key) ON DELETE CASCADE,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER
) STRICT;
CREATE INDEX access_tokens_instance_key ON access_tokens (instance_key);

CREATE TABLE credentials (
    owner      TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    key_id     TEXT    NOT NULL,
    nonce      BLOB    NOT NULL,
    ciphertext BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (owner, name)
) STRICT;
CREATE INDEX credentials_key_id ON credentials (key_id, owner, name);

-- A known text sealed by each master key: tells a wrong key at start.
CREATE TABLE key_checks (
    key_id     TEXT    NOT NULL PRIMARY KEY,
    nonce      BLOB    NOT NULL,
    ciphertext BLOB    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- No foreign key: the rows outlive their instance.
CREATE TABLE logs (
    -- AUTOINCREMENT: ids are cursors, so one must not be given twice when the newest rows are deleted.
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    instance_key INTEGER NOT NULL,
    generation   INTEGER NOT NULL,
    stream       INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    line         TEXT    NOT NULL,
    continued    INTEGER NOT NULL
) STRICT;
CREATE INDEX logs_instance_key ON logs (instance_key, id);

CREATE TABLE events (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    instance_id TEXT    NOT NULL,
    generation  INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    kind        TEXT    NOT NULL,
    message     TEXT    NOT NULL
) STRICT;
CREATE INDEX events_instance_id ON events (instance_id, id);

CREATE TABLE idempotency_keys (
    owner        TEXT    NOT NULL,
    key          TEXT    NOT NULL,
    request_hash BLOB    NOT NULL,
    status       INTEGER NOT NULL,
    body         BLOB    NOT NULL,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT;
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);
