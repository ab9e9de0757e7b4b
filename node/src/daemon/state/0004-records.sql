-- Peer records of co-members, as they lie in the DHT, with the day that they were sealed for and when they came. A cache.
CREATE TABLE records (
    network BLOB NOT NULL, node BLOB NOT NULL, day INTEGER NOT NULL, received INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (network, node)
) STRICT;
