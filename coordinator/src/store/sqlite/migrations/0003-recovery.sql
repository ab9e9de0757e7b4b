-- The row is there while members know more than this database: nothing is signed until the operator takes it away.
CREATE TABLE recovery (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    since INTEGER NOT NULL
) STRICT;

-- Heads that were shown in recovery: which, and by whom. The empty blob stands for a mirror.
CREATE TABLE shown (
    network    BLOB NOT NULL,
    node       BLOB NOT NULL,
    generation INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    root       BLOB NOT NULL CHECK (length(root) = 32),
    PRIMARY KEY (network, node)
) STRICT;

-- Heads that this database signed before it knew better. Whoever shows one proves nothing.
CREATE TABLE abandoned (
    network    BLOB NOT NULL,
    generation INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    root       BLOB NOT NULL CHECK (length(root) = 32),
    PRIMARY KEY (network, generation, epoch)
) STRICT;

-- Nodes whose address turned out to be another's. They get a new one when the recovery ends.
CREATE TABLE displaced (
    node BLOB PRIMARY KEY,
    ipv4 INTEGER NOT NULL
) STRICT;

-- Suspensions that came during a recovery, carried out when it ends.
CREATE TABLE suspension (
    network    BLOB NOT NULL,
    member     BLOB NOT NULL,
    by_member  BLOB NOT NULL,
    -- Whose key signed it: counts while that is the node of the member, and an owner.
    key        BLOB NOT NULL CHECK (length(key) = 32),
    seq        INTEGER NOT NULL,
    brought_at INTEGER NOT NULL,
    PRIMARY KEY (network, member, by_member, key)
) STRICT;

-- No head below this epoch is signed any more.
ALTER TABLE network ADD COLUMN epoch_floor INTEGER NOT NULL DEFAULT 0;
