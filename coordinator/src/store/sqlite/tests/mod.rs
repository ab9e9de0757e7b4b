//! The suite for every kind of store, in memory and on a file; then what only SQLite and its file can suffer.

mod crash;
mod faults;
mod files;
mod ids;
mod old;
mod wal;

use std::{ops::Deref, sync::Arc};

use super::{Database, SqliteStore};
use futures::executor::block_on;

use crate::{org::Organisation, store::conformance::Subject};

pub(super) use crate::store::conformance::{
    LAN, NOW, hash_of, key, new_network, node, refused, secret,
};

mod in_memory {
    use super::Fixture;
    crate::store::conformance::conformance!(Fixture::in_memory, Fixture::small);
}

mod on_a_file {
    use super::Fixture;
    crate::store::conformance::conformance!(Fixture::on_file, Fixture::small_on_file);
}

/// A store, and the connection and directory behind it.
#[derive(Debug)]
pub(super) struct Fixture {
    pub(super) subject: Subject,
    pub(super) sqlite: Arc<SqliteStore>,
    /// The file's directory, when there is one.
    pub(super) dir: Option<tempfile::TempDir>,
}

impl Deref for Fixture {
    type Target = Subject;

    fn deref(&self) -> &Subject {
        &self.subject
    }
}

impl Fixture {
    pub(super) fn in_memory() -> Self {
        Self::new(Database::in_memory().unwrap(), None, "10.9.0.0/16")
    }

    pub(super) fn small() -> Self {
        Self::new(Database::in_memory().unwrap(), None, "10.9.0.0/28")
    }

    pub(super) fn on_file() -> Self {
        Self::in_directory("10.9.0.0/16")
    }

    pub(super) fn small_on_file() -> Self {
        Self::in_directory("10.9.0.0/28")
    }

    fn in_directory(pool: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::new(Database::open(dir.path()).unwrap(), Some(dir), pool)
    }

    fn new(mut database: Database, dir: Option<tempfile::TempDir>, pool: &str) -> Self {
        let pool = Some(pool.parse().unwrap());
        let organisation = Organisation::open(&mut database, pool, NOW).unwrap();
        let signer = organisation.signer;
        let sqlite = Arc::new(database.into_store(signer.clone()).unwrap());
        Self {
            subject: Subject::new(Arc::clone(&sqlite) as _, signer),
            sqlite,
            dir,
        }
    }

    /// What a directory holds, as it is.
    pub(super) fn open(path: &std::path::Path, dir: Option<tempfile::TempDir>) -> Self {
        let mut database = Database::open(path).unwrap();
        let organisation = Organisation::open(&mut database, None, NOW).unwrap();
        let (org, signer) = (organisation.org(), organisation.signer);
        let sqlite = Arc::new(database.into_store(signer.clone()).unwrap());
        let subject = Subject {
            store: Arc::clone(&sqlite) as _,
            org,
            signer,
        };
        Self {
            subject,
            sqlite,
            dir,
        }
    }

    /// Stops the store; what is left is its directory.
    pub(super) fn stop(self) -> tempfile::TempDir {
        self.dir.expect("a fixture on a file")
    }

    /// Stops the store and opens its file again.
    pub(super) fn reopen(self) -> Self {
        let dir = self.stop();
        let path = dir.path().to_owned();
        Self::open(&path, Some(dir))
    }
}

#[test]
fn everything_is_there_after_a_restart() {
    let f = Fixture::on_file();
    f.make_invite(1, Some(5));
    let joined = f.join(1, 1).unwrap();
    let before = f.changes();
    let org = f.org;
    let f = f.reopen();
    assert_eq!(f.org, org);
    assert_eq!(f.changes().head, before.head);
    assert_eq!(
        block_on(f.store.registration(node(1))).unwrap(),
        Some(joined.registration)
    );
    f.join(2, 1).unwrap();
}
