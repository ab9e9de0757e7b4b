-- Small values: boot, org, hints, ipv4, port, manifest, directory.
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;

-- The highest head seen of each network, whether or not its roster is here.
CREATE TABLE seen (
    network BLOB PRIMARY KEY, generation INTEGER NOT NULL, epoch INTEGER NOT NULL, root BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The newest roster of each network that is here in full, in the bytes that were signed and hashed, with the manifest
-- that its head is under.
CREATE TABLE held (
    network BLOB PRIMARY KEY, manifest BLOB NOT NULL, head BLOB NOT NULL, roster BLOB NOT NULL
) STRICT;

-- Below this nothing of a network is believed: an invite said so.
CREATE TABLE floors (network BLOB PRIMARY KEY, generation INTEGER NOT NULL, epoch INTEGER NOT NULL) STRICT, WITHOUT ROWID;

-- Highest serial seen of each node's tunnel key.
CREATE TABLE serials (node BLOB PRIMARY KEY, serial INTEGER NOT NULL) STRICT, WITHOUT ROWID;

-- Current and previous secret of each network.
CREATE TABLE secrets (network BLOB NOT NULL, id INTEGER NOT NULL, secret BLOB NOT NULL, PRIMARY KEY (network, id)) STRICT, WITHOUT ROWID;

-- Second roots of one epoch: evidence.
CREATE TABLE equivocations (
    network BLOB NOT NULL, generation INTEGER NOT NULL, epoch INTEGER NOT NULL, root BLOB NOT NULL,
    PRIMARY KEY (network, generation, epoch, root)
) STRICT, WITHOUT ROWID;

-- Where peers were last. A cache.
CREATE TABLE candidates (node BLOB NOT NULL, addr TEXT NOT NULL, seen INTEGER NOT NULL, PRIMARY KEY (node, addr)) STRICT, WITHOUT ROWID;
