//! What a thief finds on the disk of a coordinator or of a node.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use kanpachi_common::addr::ipv6_of;
use kanpachi_common::org::{Directory, Manifest};
use kanpachi_common::roster::{Entry, Head, Member, Proof, Roster, VerifiedRoster};
use kanpachi_common::wire::control::Registration;
use kanpachi_common::{NetworkId, NodeId, OrgId, SecretKey, Signed, cbor};
use rusqlite::{Connection, Row};

/// More than any signed object takes.
const MAX_OBJECT: usize = 128 * 1024;

/// A coordinator's database, without its signing key.
#[derive(Debug, Clone)]
pub struct StolenCoordinator {
    /// The libp2p identity of the machine.
    pub identity: SecretKey,
    pub manifest: Signed<Manifest>,
    pub directory: Signed<Directory>,
    /// All heads of the one network, oldest first.
    pub heads: Vec<Signed<Head>>,
    pub network: NetworkId,
    pub settings: Vec<u8>,
    /// The members' entries in the order of the roster.
    pub entries: Vec<Entry>,
    addresses: BTreeMap<NodeId, Ipv4Addr>,
}

impl StolenCoordinator {
    /// Reads a copy of the database found below a state directory, whether its coordinator runs or not.
    pub fn read(state_dir: &Path) -> Result<Self> {
        let database = find(state_dir, "coordinator.db")?;
        let copy = state_dir.with_extension("stolen");
        fs::create_dir_all(&copy)?;
        for suffix in ["", "-wal"] {
            let from = database.with_file_name(format!("coordinator.db{suffix}"));
            if from.exists() {
                fs::copy(&from, copy.join(format!("coordinator.db{suffix}")))?;
            }
        }
        let db = Connection::open(copy.join("coordinator.db"))?;
        let seed: [u8; 32] = db.query_row("SELECT seed FROM server", [], |row| row.get(0))?;
        let (network, settings): ([u8; 32], Vec<u8>) =
            db.query_row("SELECT network, settings FROM network", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let entry = |row: &Row<'_>| {
            Ok(Entry {
                public: row.get(0)?,
                salt: row.get(1)?,
                private: row.get(2)?,
            })
        };
        let address = |row: &Row<'_>| Ok((NodeId(row.get(0)?), Ipv4Addr::from_bits(row.get(1)?)));
        let stolen = Self {
            identity: SecretKey::from_seed(&seed),
            manifest: object(&db, "SELECT manifest FROM organisation")?,
            directory: object(
                &db,
                "SELECT signed FROM directory ORDER BY generation DESC, seq DESC LIMIT 1",
            )?,
            heads: rows(
                &db,
                "SELECT signed FROM head ORDER BY generation, epoch",
                |row| row.get::<_, Vec<u8>>(0),
            )?
            .iter()
            .map(|bytes| Ok(cbor::decode(bytes, MAX_OBJECT)?))
            .collect::<Result<_>>()?,
            network: NetworkId(network),
            settings,
            entries: rows(
                &db,
                "SELECT public, salt, private FROM member ORDER BY member",
                entry,
            )?,
            addresses: rows(
                &db,
                "SELECT node, ipv4 FROM address WHERE node IS NOT NULL",
                address,
            )?
            .into_iter()
            .collect(),
        };
        drop(db);
        fs::remove_dir_all(&copy)?;
        Ok(stolen)
    }

    pub fn org(&self) -> OrgId {
        OrgId::of_root(&self.manifest.key)
    }

    /// The newest head.
    pub fn head(&self) -> Result<&Signed<Head>> {
        self.heads
            .last()
            .context("the coordinator has signed no head")
    }

    /// The roster behind it.
    pub fn roster(&self) -> Result<VerifiedRoster> {
        let roster = Roster {
            settings: self.settings.clone(),
            entries: self.entries.clone(),
        };
        let manifest = Manifest::verify(&self.manifest, &self.org())?;
        Ok(roster.verify(Head::verify(self.head()?, &manifest)?)?)
    }

    /// The proof that a node is a member by the newest head that was stolen.
    pub fn proof(&self, node: &NodeId) -> Result<Proof> {
        Proof::of(&self.roster()?, node, false).context("it is no member")
    }

    /// A member by its name.
    pub fn member(&self, name: &str) -> Result<Member> {
        let members = self
            .entries
            .iter()
            .filter_map(|entry| entry.open(&self.org()).ok());
        members
            .into_iter()
            .find(|member| member.name == name)
            .with_context(|| format!("no member {name}"))
    }

    /// What a coordinator tells a node of itself.
    pub fn registration(&self, node: &NodeId) -> Option<Registration> {
        let ipv4 = *self.addresses.get(node)?;
        Some(Registration {
            ipv4: Some(ipv4),
            ipv6: ipv6_of(&self.org(), node),
            networks: vec![self.network],
            client_id: None,
            waiting: vec![],
        })
    }
}

/// The keys in a node's state directory.
#[derive(Debug)]
pub struct NodeKeys {
    pub identity: SecretKey,
    pub tunnel: [u8; 32],
}

impl NodeKeys {
    pub fn read(state_dir: &Path) -> Result<Self> {
        let secret = |file: &str| {
            let path = find(state_dir, file)?;
            let text = fs::read_to_string(&path)?;
            let hex = text
                .split_ascii_whitespace()
                .last()
                .with_context(|| format!("{} is empty", path.display()))?;
            decode_hex(hex).with_context(|| format!("no key in {}", path.display()))
        };
        Ok(Self {
            identity: SecretKey::from_seed(&secret("identity.key")?),
            tunnel: secret("tunnel.key")?,
        })
    }

    /// Keys that no organisation knows.
    pub fn of_a_stranger() -> Self {
        Self {
            identity: SecretKey::from_seed(&[0x51; 32]),
            tunnel: [0x52; 32],
        }
    }
}

fn decode_hex(text: &str) -> Result<[u8; 32]> {
    ensure!(
        text.len() == 64 && text.is_ascii(),
        "{} characters",
        text.len()
    );
    let mut out = [0; 32];
    for (byte, at) in out.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16)?;
    }
    Ok(out)
}

/// A file of this name in a directory or one level below it.
fn find(directory: &Path, name: &str) -> Result<PathBuf> {
    let below = fs::read_dir(directory)?
        .flatten()
        .map(|entry| entry.path().join(name));
    let mut places = [directory.join(name)].into_iter().chain(below);
    places
        .find(|path| path.is_file())
        .with_context(|| format!("no {name} in {}", directory.display()))
}

fn object<T: serde::de::DeserializeOwned>(db: &Connection, query: &str) -> Result<T> {
    let bytes: Vec<u8> = db.query_row(query, [], |row| row.get(0))?;
    Ok(cbor::decode(&bytes, MAX_OBJECT)?)
}

fn rows<T>(
    db: &Connection,
    query: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    Ok(db
        .prepare(query)?
        .query_map([], read)?
        .collect::<Result<_, _>>()?)
}
