-- Networks that this machine is not to be there in. "logged_out" in meta says the same of all of them.
CREATE TABLE offline (network BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
