-- Times are seconds since 1970, ids and keys are raw bytes, signed objects are the CBOR that was signed.

CREATE TABLE organisation (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    manifest     BLOB NOT NULL,
    signing_seed BLOB NOT NULL CHECK (length(signing_seed) = 32),
    -- The root key, encrypted under the recovery phrase, which is nowhere on the disk.
    sealed_root  BLOB NOT NULL,
    pool         TEXT NOT NULL,
    created_at   INTEGER NOT NULL
) STRICT;

-- The libp2p identity of this coordinator process.
CREATE TABLE server (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    seed BLOB NOT NULL CHECK (length(seed) = 32)
) STRICT;

CREATE TABLE directory (
    generation INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    signed     BLOB NOT NULL,
    PRIMARY KEY (generation, seq)
) STRICT;

CREATE TABLE network (
    network      BLOB PRIMARY KEY CHECK (length(network) = 32),
    folded       TEXT NOT NULL UNIQUE,
    name         TEXT NOT NULL,
    settings     BLOB NOT NULL,
    -- Epoch in which the settings changed last.
    settings_at  INTEGER NOT NULL,
    secret_id    INTEGER NOT NULL,
    soft_seconds INTEGER NOT NULL,
    hard_seconds INTEGER,
    created_at   INTEGER NOT NULL
) STRICT;

CREATE TABLE secret (
    network    BLOB NOT NULL REFERENCES network,
    secret_id  INTEGER NOT NULL,
    bytes      BLOB NOT NULL CHECK (length(bytes) = 32),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (network, secret_id)
) STRICT;

CREATE TABLE head (
    network    BLOB NOT NULL REFERENCES network,
    generation INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    root       BLOB NOT NULL CHECK (length(root) = 32),
    issued_at  INTEGER NOT NULL,
    signed     BLOB NOT NULL,
    UNIQUE (network, generation, epoch)
) STRICT;

CREATE TABLE node (
    node          BLOB PRIMARY KEY CHECK (length(node) = 32),
    tunnel        BLOB NOT NULL,
    serial        INTEGER NOT NULL,
    registered_at INTEGER NOT NULL
) STRICT;

-- One row for every address that was ever given out. The primary key is what makes addresses unique.
CREATE TABLE address (
    ipv4      INTEGER PRIMARY KEY,
    -- Who has it, NULL while it rests.
    node      BLOB UNIQUE REFERENCES node,
    last_node BLOB NOT NULL,
    freed_at  INTEGER
) STRICT;
CREATE INDEX address_last ON address (last_node);
CREATE INDEX address_freed ON address (freed_at) WHERE node IS NULL;

CREATE TABLE invite (
    invite     INTEGER PRIMARY KEY AUTOINCREMENT,
    token_hash BLOB NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    network    BLOB NOT NULL REFERENCES network,
    -- NULL for any number of times.
    uses_left  INTEGER CHECK (uses_left >= 0),
    founder    INTEGER NOT NULL CHECK (founder IN (0, 1)),
    -- Member that made it, NULL for the operator.
    made_by    BLOB,
    expires_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;
CREATE INDEX invite_network ON invite (network);

CREATE TABLE member (
    member     BLOB PRIMARY KEY CHECK (length(member) = 32),
    network    BLOB NOT NULL REFERENCES network,
    node       BLOB NOT NULL REFERENCES node,
    folded     TEXT NOT NULL,
    caps       INTEGER NOT NULL,
    public     BLOB NOT NULL,
    salt       BLOB NOT NULL CHECK (length(salt) = 16),
    private    BLOB NOT NULL,
    -- Epoch in which the entry changed last.
    changed_at INTEGER NOT NULL,
    came_by    INTEGER REFERENCES invite,
    joined_at  INTEGER NOT NULL,
    UNIQUE (network, node),
    UNIQUE (network, folded)
) STRICT;
CREATE INDEX member_node ON member (node);

-- Memberships that ended, for deltas; and the reason why an id is never used twice.
CREATE TABLE removed (
    member     BLOB PRIMARY KEY,
    network    BLOB NOT NULL REFERENCES network,
    node       BLOB NOT NULL,
    removed_at INTEGER NOT NULL
) STRICT;
CREATE INDEX removed_network ON removed (network, removed_at);
