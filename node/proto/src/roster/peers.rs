//! Who may talk to this node, and from which addresses: the union of all rosters held.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use kanpachi_common::{
    NetworkId, NodeId, Prefix, PublicKey, UnixTime,
    roster::{Caps, Freshness, Member, NetworkType},
};

use super::Rosters;

/// A peer: one node, in all networks that it shares with this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its X25519 tunnel key, the newest that any of the networks in common knows.
    pub tunnel_key: PublicKey,
    /// Serial of that key.
    pub serial: u64,
    /// Its IPv4 address; none where another member has a better claim to it.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Networks behind it.
    pub prefixes: Vec<Prefix>,
    /// The networks in common, with its name in each.
    pub networks: Vec<PeerNetwork>,
    /// May a new session be opened? Not after the hard expiry of every network in common.
    pub may_open: bool,
    /// Let in on its own proof alone: the roster that names it is not here yet.
    pub unconfirmed: bool,
}

/// A peer's place in one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerNetwork {
    /// The network.
    pub network: NetworkId,
    /// Its name there.
    pub name: String,
    /// What it may do there.
    pub caps: Caps,
}

impl Peer {
    /// The addresses that inner packets of this peer may come from.
    pub fn sources(&self) -> impl Iterator<Item = IpAddr> {
        self.ipv4
            .map(IpAddr::from)
            .into_iter()
            .chain([self.ipv6.into()])
    }
}

impl Peer {
    /// It is in this network too.
    fn join(&mut self, network: NetworkId, member: &Member, unconfirmed: bool) {
        self.unconfirmed &= unconfirmed;
        if member.tunnel.serial > self.serial {
            (self.tunnel_key, self.serial) = (member.tunnel.key, member.tunnel.serial);
        }
        self.networks.push(PeerNetwork {
            network,
            name: member.name.clone(),
            caps: member.caps,
        });
        for prefix in &member.prefixes {
            if !self.prefixes.contains(prefix) {
                self.prefixes.push(*prefix);
            }
        }
    }
}

/// May these two members of a network talk to each other?
fn allowed(kind: NetworkType, a: Caps, b: Caps) -> bool {
    let listed = !a.has(Caps::PENDING) && !b.has(Caps::PENDING);
    listed
        && match kind {
            NetworkType::Mesh => true,
            NetworkType::HubAndSpoke | NetworkType::Gateway => a.has(Caps::HUB) || b.has(Caps::HUB),
        }
}

impl Rosters {
    /// All peers, from the rosters held of networks that this node is there in. Computed anew after every committed
    /// update. Of several who were given one address one has it here.
    #[must_use]
    pub fn peers(&self, clock: UnixTime) -> BTreeMap<NodeId, Peer> {
        let mut peers = self.claimed(clock);
        for conflict in self.conflicts_of(&peers) {
            if let Some(loser) = peers.get_mut(&conflict.loses) {
                loser.ipv4 = None;
            }
        }
        peers
    }

    /// The same with the addresses that the rosters give them.
    pub(super) fn claimed(&self, clock: UnixTime) -> BTreeMap<NodeId, Peer> {
        let wall = self.wall(clock);
        let mut peers = BTreeMap::new();
        for (network, slot) in &self.networks {
            let Some(roster) = slot.held.as_ref().filter(|_| self.is_online(network)) else {
                continue;
            };
            let Some(me) = roster.member(&self.me) else {
                continue;
            };
            if slot.is_suspended(&me.member) {
                continue;
            }
            let open = roster.head().freshness(wall) != Freshness::Expired;
            let kind = roster.settings().kind;
            let confirmed = roster
                .members()
                .filter(|m| !slot.is_suspended(&m.member) && !slot.bearers.contains_key(&m.node))
                .map(|m| (m, false));
            let unconfirmed = slot.admitted().map(|m| (m, true));
            for (member, unconfirmed) in confirmed.chain(unconfirmed) {
                if member.node == self.me || !allowed(kind, me.caps, member.caps) {
                    continue;
                }
                let peer = peers
                    .entry(member.node)
                    .or_insert_with(|| new_peer(member, unconfirmed));
                peer.may_open |= open;
                peer.join(*network, member, unconfirmed);
            }
        }
        peers
    }
}

fn new_peer(member: &Member, unconfirmed: bool) -> Peer {
    Peer {
        node: member.node,
        tunnel_key: member.tunnel.key,
        serial: member.tunnel.serial,
        ipv4: member.ipv4,
        ipv6: member.ipv6,
        prefixes: vec![],
        networks: vec![],
        may_open: false,
        unconfirmed,
    }
}
