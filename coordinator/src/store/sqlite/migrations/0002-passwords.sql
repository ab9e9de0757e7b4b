-- What a network is joined by, an Argon2id hash in PHC form; NULL for none.
ALTER TABLE network ADD COLUMN password TEXT;
-- Set when the network has ended. Its row stays: the last head, of no members, must outlive what members hold.
ALTER TABLE network ADD COLUMN deleted_at INTEGER;
ALTER TABLE network ADD COLUMN deleted_by BLOB;

-- Nine digits; filled in by the program for nodes that came before.
ALTER TABLE node ADD COLUMN client_id INTEGER;
CREATE UNIQUE INDEX node_client_id ON node (client_id);

-- Who was evicted: no way back by password, nor by an invite up to the last one of then.
CREATE TABLE ban (
    network     BLOB NOT NULL REFERENCES network,
    node        BLOB NOT NULL,
    last_invite INTEGER NOT NULL,
    banned_at   INTEGER NOT NULL,
    PRIMARY KEY (network, node)
) STRICT;
