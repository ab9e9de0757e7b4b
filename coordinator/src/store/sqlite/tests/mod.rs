//! One suite for every kind of store, then what only a file can suffer.

mod crash;
mod faults;
mod files;
mod races;
mod suite;

use std::sync::Arc;

use futures::executor::block_on;
use kanpachi_common::{
    MemberId, NetworkId, NodeId, OrgId, SecretKey, TunnelKey, UnixTime,
    id::Hash,
    invite::{InviteSecret, token_hash},
    secret::NetworkSecret,
};

use super::{Database, SqliteStore};
use crate::{
    org::Organisation,
    store::{
        Changes, JoinNetwork, JoinedNetwork, NewInvite, NewNetwork, Result, Store, StoreError,
    },
};

pub(super) const NOW: UnixTime = UnixTime(1_800_000_000);
pub(super) const LAN: NetworkId = NetworkId([0xaa; 32]);

/// A store with a network called "lan", and the means to join it.
#[derive(Debug)]
pub(super) struct Fixture {
    pub(super) store: Arc<SqliteStore>,
    pub(super) org: OrgId,
    /// The file's directory, when there is one.
    pub(super) dir: Option<tempfile::TempDir>,
}

pub(super) fn key(n: u16) -> SecretKey {
    let mut seed = [0x5a; 32];
    seed[..2].copy_from_slice(&n.to_be_bytes());
    SecretKey::from_seed(&seed)
}

pub(super) fn node(n: u16) -> NodeId {
    key(n).node_id()
}

pub(super) fn secret(n: u16) -> InviteSecret {
    let mut bytes = [0x77; 16];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    InviteSecret(bytes)
}

pub(super) fn hash_of(n: u16) -> Hash {
    token_hash(&secret(n).token())
}

impl Fixture {
    pub(super) fn in_memory() -> Self {
        Self::new(Database::in_memory().unwrap(), None, "10.9.0.0/16")
    }

    pub(super) fn with_pool(pool: &str) -> Self {
        Self::new(Database::in_memory().unwrap(), None, pool)
    }

    pub(super) fn on_file() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::new(
            Database::open(dir.path()).unwrap(),
            Some(dir),
            "10.9.0.0/16",
        )
    }

    fn new(mut database: Database, dir: Option<tempfile::TempDir>, pool: &str) -> Self {
        let pool = Some(pool.parse().unwrap());
        let organisation = Organisation::open(&mut database, pool, NOW).unwrap();
        let org = organisation.org();
        let store = Arc::new(database.into_store(organisation.signer).unwrap());
        let fixture = Self { store, org, dir };
        block_on(fixture.store.create_network(new_network(LAN, "lan"))).unwrap();
        fixture
    }

    /// Stops the store and opens its file again.
    pub(super) fn reopen(self) -> Self {
        let dir = self.dir.expect("a fixture on a file");
        drop(Arc::try_unwrap(self.store).unwrap());
        let mut database = Database::open(dir.path()).unwrap();
        let organisation = Organisation::open(&mut database, None, NOW).unwrap();
        Self {
            org: organisation.org(),
            store: Arc::new(database.into_store(organisation.signer).unwrap()),
            dir: Some(dir),
        }
    }

    pub(super) fn tunnel(&self, n: u16, serial: u64) -> TunnelKey {
        let key_bytes = [u8::try_from(serial % 251).unwrap(); 32];
        TunnelKey::sign(&key(n), &self.org, serial, key_bytes)
    }

    pub(super) fn invite(&self, n: u16, uses: Option<u32>) -> NewInvite {
        NewInvite {
            network: LAN,
            by: None,
            token_hash: hash_of(n),
            uses,
            expires_at: NOW.plus(3600),
            founder: false,
            now: NOW,
        }
    }

    pub(super) fn make_invite(&self, n: u16, uses: Option<u32>) {
        block_on(self.store.create_invite(self.invite(n, uses))).unwrap();
    }

    pub(super) fn joining(&self, n: u16, invite: u16) -> JoinNetwork {
        let mut member = [0x11; 32];
        member[..2].copy_from_slice(&n.to_be_bytes());
        JoinNetwork {
            token_hash: hash_of(invite),
            node: node(n),
            tunnel: self.tunnel(n, 1),
            name: format!("m{n}"),
            member: MemberId(member),
            salt: [9; 16],
            now: NOW.plus(1),
        }
    }

    pub(super) fn join(&self, n: u16, invite: u16) -> Result<JoinedNetwork> {
        block_on(self.store.join_network(self.joining(n, invite)))
    }

    pub(super) fn changes(&self) -> Changes {
        block_on(self.store.changes_since(LAN, vec![])).unwrap()
    }
}

pub(super) fn new_network(network: NetworkId, name: &str) -> NewNetwork {
    NewNetwork {
        network,
        name: name.to_owned(),
        secret: NetworkSecret::new(1, [0xcc; 32]),
        soft_seconds: kanpachi_common::roster::SOFT_SECONDS,
        hard_seconds: Some(kanpachi_common::roster::HARD_SECONDS),
        now: NOW,
    }
}

pub(super) fn refused<T: std::fmt::Debug>(result: Result<T>) -> crate::store::Refusal {
    match result {
        Err(StoreError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}
