//! The disk of a simulated node: what `node/src/daemon/state` keeps, in memory. It survives the process.
//!
//! What is signed is kept as the bytes that travelled, and verified again when a process takes it up.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
};

use kanpachi_common::{
    Hash, MemberId, NetworkId, NodeId, OrgId, SecretKey, Signed, TunnelKey, UnixTime,
    identity::x25519_public,
    org::{Address, Directory, Manifest},
    roster::{Head, Position, Roster, Suspend},
    secret::NetworkSecret,
};
use kanpachi_proto::roster::{self, Stored, Update};

use crate::rng::Rng;

/// Addresses remembered per peer.
const MAX_KNOWN: usize = 16;

/// The disk says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFull;

/// A roster as it is stored, with the manifest that it is under.
type HeldRoster = (Signed<Manifest>, Signed<Head>, Roster);

/// Suspensions by network and member, each with the owner that signed it.
type Suspends = BTreeMap<(NetworkId, MemberId), (MemberId, Signed<Suspend>)>;

/// The disk of one node.
#[derive(Debug)]
pub struct Disk {
    pub identity: SecretKey,
    pub tunnel: [u8; 32],
    /// Nothing can be written while this is set.
    pub full: bool,
    /// Counts writes.
    pub writes: u64,
    org: Option<(OrgId, Vec<Address>)>,
    ipv4: Option<Option<Ipv4Addr>>,
    manifest: Option<Signed<Manifest>>,
    directory: Option<Signed<Directory>>,
    held: BTreeMap<NetworkId, HeldRoster>,
    seen_roots: BTreeMap<NetworkId, Hash>,
    secrets: BTreeMap<NetworkId, Vec<NetworkSecret>>,
    equivocations: Vec<(NetworkId, Position)>,
    known: BTreeMap<NodeId, Vec<SocketAddr>>,
    offline: BTreeSet<NetworkId>,
    suspends: Suspends,
    counters: Counters,
}

/// Everything on a disk that counts and must never go back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub boot: u64,
    /// Serial of the node's own tunnel key.
    pub serial: u64,
    pub generation: u64,
    /// Generation and number of the directory.
    pub directory: (u64, u64),
    pub seen: BTreeMap<NetworkId, Position>,
    /// Where the held rosters stand, also of networks that were left.
    pub held: BTreeMap<NetworkId, Position>,
    pub floors: BTreeMap<NetworkId, Position>,
    pub serials: BTreeMap<NodeId, u64>,
}

impl Counters {
    /// What of it is lower than it was before.
    pub fn fell_below(&self, before: &Self) -> Option<String> {
        fn map<K: Ord + Copy + std::fmt::Debug, V: Ord + Copy + std::fmt::Debug>(
            what: &str,
            before: &BTreeMap<K, V>,
            now: &BTreeMap<K, V>,
        ) -> Option<String> {
            before.iter().find_map(|(key, old)| {
                let new = now.get(key);
                (new < Some(old)).then(|| format!("{what} of {key:?} fell from {old:?} to {new:?}"))
            })
        }
        let single = [
            ("boot", before.boot, self.boot),
            ("tunnel key serial", before.serial, self.serial),
            ("generation", before.generation, self.generation),
        ];
        let single = single.into_iter().find(|(_, old, new)| new < old);
        single
            .map(|(what, old, new)| format!("{what} fell from {old} to {new}"))
            .or_else(|| {
                (self.directory < before.directory).then(|| "the directory fell".to_owned())
            })
            .or_else(|| map("the epoch seen", &before.seen, &self.seen))
            .or_else(|| map("the epoch held", &before.held, &self.held))
            .or_else(|| map("the floor", &before.floors, &self.floors))
            .or_else(|| map("the serial", &before.serials, &self.serials))
    }
}

impl Disk {
    /// The disk of a machine that was just set up.
    pub fn new(rng: &mut Rng) -> Self {
        let (mut seed, mut tunnel) = ([0; 32], [0; 32]);
        rng.fill(&mut seed);
        rng.fill(&mut tunnel);
        Self {
            identity: SecretKey::from_seed(&seed),
            tunnel,
            full: false,
            writes: 0,
            org: None,
            ipv4: None,
            manifest: None,
            directory: None,
            held: BTreeMap::new(),
            seen_roots: BTreeMap::new(),
            secrets: BTreeMap::new(),
            equivocations: Vec::new(),
            known: BTreeMap::new(),
            offline: BTreeSet::new(),
            suspends: BTreeMap::new(),
            counters: Counters {
                serial: 1,
                ..Counters::default()
            },
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn org(&self) -> Option<OrgId> {
        self.org.as_ref().map(|(org, _)| *org)
    }

    /// Addresses of coordinators that an invite told.
    pub fn hints(&self) -> Vec<Address> {
        self.org
            .as_ref()
            .map(|(_, hints)| hints.clone())
            .unwrap_or_default()
    }

    /// The node's IPv4 address; the outer `None` before it is registered.
    pub fn ipv4(&self) -> Option<Option<Ipv4Addr>> {
        self.ipv4
    }

    pub fn known(&self) -> &BTreeMap<NodeId, Vec<SocketAddr>> {
        &self.known
    }

    /// The public half of the tunnel key, vouched for by the identity.
    pub fn tunnel_key(&self, org: &OrgId) -> TunnelKey {
        let public = x25519_public(&self.tunnel);
        TunnelKey::sign(&self.identity, org, self.counters.serial, public)
    }

    /// The tunnel key is lost, and another one takes its place.
    pub fn replace_tunnel_key(&mut self, rng: &mut Rng) {
        rng.fill(&mut self.tunnel);
        self.counters.serial += 1;
    }

    fn write(&mut self) -> Result<(), DiskFull> {
        if self.full {
            return Err(DiskFull);
        }
        self.writes += 1;
        Ok(())
    }

    /// A new number for this start, higher than any before.
    pub fn next_boot(&mut self, wall: UnixTime) -> Result<u64, DiskFull> {
        self.write()?;
        self.counters.boot = self.counters.boot.saturating_add(1).max(wall.0);
        Ok(self.counters.boot)
    }

    pub fn set_org(&mut self, org: OrgId, hints: Vec<Address>) -> Result<(), DiskFull> {
        self.write()?;
        self.org = Some((org, hints));
        Ok(())
    }

    pub fn set_ipv4(&mut self, ipv4: Option<Ipv4Addr>) -> Result<(), DiskFull> {
        self.write()?;
        self.ipv4 = Some(ipv4);
        Ok(())
    }

    pub fn set_floor(&mut self, network: NetworkId, floor: Position) -> Result<(), DiskFull> {
        self.write()?;
        let entry = self.counters.floors.entry(network).or_insert(floor);
        *entry = (*entry).max(floor);
        Ok(())
    }

    /// Keeps whether the node is there in a network.
    pub fn set_online(&mut self, network: NetworkId, online: bool) -> Result<(), DiskFull> {
        self.write()?;
        if online {
            self.offline.remove(&network);
        } else {
            self.offline.insert(network);
        }
        Ok(())
    }

    /// Remembers where a peer is, the newest first.
    pub fn remember(&mut self, node: NodeId, addrs: &[SocketAddr]) -> Result<(), DiskFull> {
        self.write()?;
        let known = self.known.entry(node).or_default();
        known.retain(|a| !addrs.contains(a));
        known.splice(0..0, addrs.iter().copied());
        known.truncate(MAX_KNOWN);
        Ok(())
    }

    /// Writes verified news, all of it or nothing.
    pub fn save(&mut self, update: &Update) -> Result<(), DiskFull> {
        self.write()?;
        match update {
            Update::Manifest(manifest) => {
                self.counters.generation = manifest.generation;
                self.manifest = Some(manifest.signed().clone());
            }
            Update::Directory(directory) => {
                self.counters.directory = (directory.generation, directory.seq);
                self.directory = Some(directory.signed().clone());
            }
            Update::Roster(roster) => {
                let (head, manifest) = (roster.head(), self.manifest.clone());
                let (network, position) = (head.network, head.position());
                if self.counters.seen.get(&network) <= Some(&position) {
                    self.counters.seen.insert(network, position);
                    self.seen_roots.insert(network, head.root);
                }
                self.counters.held.insert(network, position);
                for member in roster.members() {
                    let serial = self.counters.serials.entry(member.node).or_default();
                    *serial = (*serial).max(member.tunnel.serial);
                }
                let manifest = manifest.expect("no roster is believed before a manifest");
                let held = (manifest, head.signed().clone(), roster.body().clone());
                self.held.insert(network, held);
                self.suspends.retain(|(of, member), (by, _)| {
                    *of != network || roster::stands(roster, member, by)
                });
            }
            Update::Secret { network, secret } => {
                let secrets = self.secrets.entry(*network).or_default();
                secrets.retain(|s| s.id != secret.id);
                secrets.insert(0, secret.clone());
                secrets.truncate(2);
            }
            Update::Equivocation {
                network, position, ..
            } => self.equivocations.push((*network, *position)),
            Update::Suspend(suspend) => {
                let key = (suspend.network, suspend.member);
                let value = (suspend.by, suspend.signed().clone());
                self.suspends.entry(key).or_insert(value);
            }
            Update::Seen {
                network,
                position,
                root,
                ..
            } => {
                if self.counters.seen.get(network) <= Some(position) {
                    self.counters.seen.insert(*network, *position);
                    self.seen_roots.insert(*network, *root);
                }
            }
            Update::Removed(network) => {
                self.suspends.retain(|(of, _), _| of != network);
                self.held.remove(network);
                self.secrets.remove(network);
                self.offline.remove(network);
            }
        }
        Ok(())
    }

    /// Everything signed, to be verified again.
    pub fn stored(&self) -> Stored {
        let root = |network: &NetworkId| self.seen_roots.get(network).copied();
        let seen = self.counters.seen.iter();
        let secrets = self.secrets.iter();
        Stored {
            manifest: self.manifest.clone(),
            directory: self.directory.clone(),
            held: self.held.values().cloned().collect(),
            seen: seen
                .filter_map(|(network, at)| Some((*network, *at, root(network)?)))
                .collect(),
            floors: self.counters.floors.iter().map(|(n, p)| (*n, *p)).collect(),
            serials: (self.counters.serials.iter())
                .map(|(n, s)| (*n, *s))
                .collect(),
            secrets: secrets
                .flat_map(|(network, all)| all.iter().map(|s| (*network, s.clone())))
                .collect(),
            equivocations: self.equivocations.clone(),
            offline: self.offline.iter().copied().collect(),
            suspends: (self.suspends.values()).map(|(_, s)| s.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_falls_is_noticed() {
        let at = |epoch| Position {
            generation: 1,
            epoch,
        };
        let network = NetworkId([1; 32]);
        let counters = Counters {
            boot: 5,
            seen: [(network, at(7))].into(),
            held: [(network, at(7))].into(),
            ..Counters::default()
        };
        assert_eq!(counters.fell_below(&counters), None);
        assert_eq!(counters.fell_below(&Counters::default()), None);
        let mut lower = counters.clone();
        lower.seen.insert(network, at(6));
        assert!(lower.fell_below(&counters).is_some());
        let mut gone = counters.clone();
        gone.held.clear();
        assert!(gone.fell_below(&counters).is_some());
        let older = Counters {
            boot: 4,
            ..counters.clone()
        };
        assert!(older.fell_below(&counters).is_some());
    }
}
