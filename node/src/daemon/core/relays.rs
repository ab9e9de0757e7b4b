//! Which relays this node uses, and what they are called.

use std::net::SocketAddr;

use kanpachi_common::{NodeId, name::fold, roster::Proof};
use kanpachi_proto::{
    relay::{MAX_RELAYS, RelayAt},
    roster::Rosters,
};

use super::{Core, engine, swarm};

/// A server that relays: who, what it is called in the directory, where.
pub(super) type Server = (NodeId, Vec<String>, Vec<SocketAddr>);

impl Core {
    /// The servers of the directory were looked up.
    pub(super) async fn set_servers(&mut self, servers: Vec<Server>) {
        self.state.servers = servers;
        self.choose_relays().await;
    }

    /// A member relays, or does so no more.
    pub(super) async fn note_relaying(&mut self, node: NodeId, relays: bool) {
        let known = self.state.peers.contains_key(&node);
        let changed = if relays && known {
            self.state.relaying.insert(node)
        } else {
            self.state.relaying.remove(&node)
        };
        if changed {
            self.choose_relays().await;
        }
    }

    /// Tells engine and swarm which relays to use: servers before members, or the one that was asked for.
    pub(super) async fn choose_relays(&mut self) {
        let peers = &self.state.peers;
        self.state.relaying.retain(|node| peers.contains_key(node));
        let mut relays = self.possible_relays();
        if let Some(via) = &self.relay_via {
            relays.retain(|relay| self.is_called(relay, via));
        }
        relays.truncate(MAX_RELAYS);
        if relays == self.state.relays {
            return;
        }
        self.state.relays.clone_from(&relays);
        let Some(session) = &self.state.session else {
            return;
        };
        let nodes = relays.iter().map(|relay| relay.node).collect();
        self.engine.send(engine::Command::Relays(relays)).await;
        session.swarm.send(swarm::Command::Relays(nodes)).await;
    }

    fn possible_relays(&self) -> Vec<RelayAt> {
        let me = self.me();
        // In a drill there are no servers.
        let servers = self.state.servers.iter();
        let servers = servers.filter(|_| self.state.drill.is_none());
        let servers = servers.map(|(node, _, addrs)| (*node, addrs.clone()));
        let members = self.state.relaying.iter().map(|node| {
            let candidates = self.candidates_of(node).into_iter();
            (*node, candidates.map(|c| c.addr).collect())
        });
        let mut relays: Vec<RelayAt> = servers
            .chain(members)
            .filter(|(node, _)| *node != me)
            .map(|(node, addrs)| {
                let usable = |addr: &SocketAddr| {
                    self.overlay.is_underlay(addr) && self.socket.speaks(addr.ip())
                };
                let addrs: Vec<SocketAddr> = addrs;
                RelayAt {
                    node,
                    addrs: addrs.into_iter().filter(usable).collect(),
                }
            })
            .collect();
        // A host whose coordinator is its bootstrap too is in the directory once for each address.
        let mut seen = std::collections::BTreeSet::new();
        relays.retain(|relay| seen.insert(relay.node));
        relays
    }

    /// Is this the relay that a person means?
    fn is_called(&self, relay: &RelayAt, text: &str) -> bool {
        let servers = self.state.servers.iter().filter(|(n, ..)| *n == relay.node);
        let mut names = servers.flat_map(|(_, names, _)| names);
        let by_address = |addr: &SocketAddr| {
            addr.to_string() == text
                || text
                    .parse()
                    .is_ok_and(|ip: std::net::IpAddr| addr.ip() == ip)
        };
        fold(&self.relay_name(&relay.node)) == fold(text)
            || NodeId::parse(text) == Some(relay.node)
            || names.any(|name| fold(name) == fold(text))
            || relay.addrs.iter().any(by_address)
    }

    /// What a person calls a relay: a member's name, or where a server is.
    pub(super) fn relay_name(&self, node: &NodeId) -> String {
        let rosters = self.rosters().into_iter().flat_map(Rosters::rosters);
        let member = rosters.filter_map(|r| r.member(node)).next();
        if let Some(member) = member {
            return member.name.clone();
        }
        let server = self.state.servers.iter().find(|(n, ..)| n == node);
        server
            .and_then(|(_, names, _)| names.first())
            .map_or_else(|| node.short(), Clone::clone)
    }

    /// This node's memberships, as relays want to see them.
    pub(super) fn relay_proofs(&self) -> Vec<Proof> {
        let me = self.me();
        let rosters = self.rosters().into_iter().flat_map(Rosters::rosters);
        rosters.filter_map(|r| Proof::of(r, &me, false)).collect()
    }
}
