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
    /// Its X25519 tunnel key.
    pub tunnel_key: PublicKey,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Networks behind it.
    pub prefixes: Vec<Prefix>,
    /// The networks in common, with its name in each.
    pub networks: Vec<PeerNetwork>,
    /// May a new session be opened? Not after the hard expiry of every network in common.
    pub may_open: bool,
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
    /// update.
    #[must_use]
    pub fn peers(&self, clock: UnixTime) -> BTreeMap<NodeId, Peer> {
        let wall = self.wall(clock);
        let mut peers = BTreeMap::new();
        for roster in self.rosters() {
            if !self.is_online(&roster.head().network) {
                continue;
            }
            let Some(me) = roster.member(&self.me) else {
                continue;
            };
            let open = roster.head().freshness(wall) != Freshness::Expired;
            for member in roster
                .members()
                .filter(|m| m.node != self.me && allowed(roster.settings().kind, me.caps, m.caps))
            {
                let peer = peers.entry(member.node).or_insert_with(|| new_peer(member));
                peer.may_open |= open;
                peer.networks.push(PeerNetwork {
                    network: roster.head().network,
                    name: member.name.clone(),
                    caps: member.caps,
                });
                for prefix in &member.prefixes {
                    if !peer.prefixes.contains(prefix) {
                        peer.prefixes.push(*prefix);
                    }
                }
            }
        }
        peers
    }
}

fn new_peer(member: &Member) -> Peer {
    Peer {
        node: member.node,
        tunnel_key: member.tunnel.key,
        ipv4: member.ipv4,
        ipv6: member.ipv6,
        prefixes: vec![],
        networks: vec![],
        may_open: false,
    }
}
