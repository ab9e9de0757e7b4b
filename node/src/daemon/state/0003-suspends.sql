-- Members that an owner put out while no coordinator could, until a roster settles it.
CREATE TABLE suspends (
    network BLOB NOT NULL, member BLOB NOT NULL, by BLOB NOT NULL, suspend BLOB NOT NULL, PRIMARY KEY (network, member)
) STRICT, WITHOUT ROWID;
