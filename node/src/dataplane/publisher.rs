//! The one writer of the packet threads' tables. The engine owns it and tells it what rosters and tunnels decide.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kanpachi_common::NodeId;
use kanpachi_proto::path::Limit;
use kanpachi_proto::tunnel::{Event, FRAGMENTS, Session};

use super::peers::{Member, Own, Peer, Receiving, Routes, Sending, Sessions, Tables};

/// The only writer of the tables.
#[derive(Debug)]
pub struct Publisher {
    tables: Arc<Tables>,
    own: Own,
    members: Vec<Member>,
    peers: HashMap<NodeId, Arc<Peer>>,
    sessions: Sessions,
    /// What the tunnels said last of the size of a peer's path: its address is the one that data takes or is about to take.
    limits: HashMap<NodeId, (SocketAddr, Limit)>,
}

impl Publisher {
    pub(super) fn new(tables: Arc<Tables>) -> Self {
        Self {
            tables,
            own: Own::default(),
            members: Vec::new(),
            peers: HashMap::new(),
            sessions: HashMap::new(),
            limits: HashMap::new(),
        }
    }

    /// Sets this node's own addresses.
    pub fn set_own(&mut self, own: Own) {
        self.own = own;
        self.publish_routes();
    }

    /// Sets all peers that this node may talk to: the union over its networks, with the rules applied. Sessions of
    /// peers that are no longer among them go with them.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = Member>) {
        self.members = members.into_iter().collect();
        let mut kept = HashMap::with_capacity(self.members.len());
        for member in &self.members {
            // The same peer stays the same value: its session and the source check hang on it.
            let peer = self
                .peers
                .remove(&member.node_id)
                .unwrap_or_else(|| Arc::new(Peer::new(member.node_id)));
            kept.entry(member.node_id).or_insert(peer);
        }
        let gone = std::mem::replace(&mut self.peers, kept);
        self.publish_routes();
        for peer in gone.values() {
            peer.set_sending(None);
            self.limits.remove(&peer.node_id());
        }
        let before = self.sessions.len();
        self.sessions
            .retain(|_, receiving| !gone.contains_key(&receiving.peer.node_id()));
        if self.sessions.len() != before {
            self.publish_sessions();
        }
    }

    /// Carries out what the tunnels say about sessions and endpoints; other events are not for the packet path.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::SessionPending { session, .. } => self.install(session),
            Event::SessionUp {
                peer,
                session,
                endpoint,
            } => {
                self.install(session);
                self.send_with(peer, Arc::clone(session), *endpoint);
            }
            Event::SessionClosed {
                peer, local_index, ..
            } => self.remove(peer, *local_index),
            Event::EndpointChanged { peer, endpoint, .. } => {
                if let Some(current) = self.peers.get(peer).and_then(|known| known.sending()) {
                    self.send_with(peer, Arc::clone(&current.session), *endpoint);
                }
            }
            Event::PathMtu {
                peer,
                endpoint,
                limit,
            } => self.set_limit(peer, *endpoint, *limit),
            _ => {}
        }
    }

    fn set_limit(&mut self, node_id: &NodeId, endpoint: SocketAddr, limit: Limit) {
        let Some(peer) = self.peers.get(node_id) else {
            return;
        };
        self.limits.insert(*node_id, (endpoint, limit));
        if let Some(current) = peer.sending()
            && current.endpoint == endpoint
        {
            self.send_with(node_id, Arc::clone(&current.session), endpoint);
        }
    }

    /// What may be sent to an address of a peer. A peer that cannot put fragments together is sent everything whole.
    fn limit(&self, node_id: &NodeId, session: &Session, endpoint: SocketAddr) -> Limit {
        let known = self.limits.get(node_id).filter(|(at, _)| *at == endpoint);
        let limit = known.map_or(Limit::UNKNOWN, |(_, limit)| *limit);
        Limit {
            full: limit.full || session.capabilities() & FRAGMENTS == 0,
            ..limit
        }
    }

    /// A peer by name.
    pub fn peer(&self, node_id: &NodeId) -> Option<&Arc<Peer>> {
        self.peers.get(node_id)
    }

    fn install(&mut self, session: &Arc<Session>) {
        // A peer that was evicted meanwhile has no entry, and its session no place here.
        let Some(peer) = self.peers.get(&session.peer()) else {
            return;
        };
        if self.sessions.contains_key(&session.local_index()) {
            return;
        }
        let receiving = Receiving::new(Arc::clone(session), Arc::clone(peer));
        self.sessions
            .insert(session.local_index(), Arc::new(receiving));
        self.publish_sessions();
    }

    fn send_with(&self, node_id: &NodeId, session: Arc<Session>, endpoint: SocketAddr) {
        if let Some(peer) = self.peers.get(node_id) {
            let limit = self.limit(node_id, &session, endpoint);
            peer.set_sending(Some(Sending {
                session,
                endpoint,
                limit,
            }));
        }
    }

    fn remove(&mut self, node_id: &NodeId, local_index: u32) {
        if let Some(peer) = self.peers.get(node_id)
            && peer
                .sending()
                .is_some_and(|sending| sending.session.local_index() == local_index)
        {
            peer.set_sending(None);
        }
        if self.sessions.remove(&local_index).is_some() {
            self.publish_sessions();
        }
    }

    fn publish_routes(&self) {
        let mut routes = Routes::new(self.own);
        for peer in self.peers.values() {
            routes.add_peer(Arc::clone(peer));
        }
        for member in &self.members {
            let Some(peer) = self.peers.get(&member.node_id) else {
                continue;
            };
            let addresses = [member.ipv4.map(IpAddr::V4), member.ipv6.map(IpAddr::V6)];
            for address in addresses.into_iter().flatten() {
                if !routes.add_address(address, peer) {
                    tracing::warn!(node = ?member.node_id, "the roster gives a member an address it cannot have");
                }
            }
        }
        self.tables.routes.store(Arc::new(routes));
    }

    fn publish_sessions(&self) {
        self.tables.sessions.store(Arc::new(self.sessions.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::peers::Destination;
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn node(id: u8) -> NodeId {
        NodeId([id; 32])
    }

    fn member(id: u8, host: u8) -> Member {
        Member {
            node_id: node(id),
            ipv4: Some(Ipv4Addr::new(198, 19, 0, host)),
            ipv6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host))),
        }
    }

    fn publisher() -> Publisher {
        let mut publisher = Publisher::new(Arc::default());
        publisher.set_own(Own {
            ipv4: Some(Ipv4Addr::new(198, 19, 0, 250)),
            broadcast: Some(Ipv4Addr::new(198, 19, 0, 255)),
            ipv6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 250)),
        });
        publisher
    }

    fn v4(host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(198, 19, 0, host))
    }

    #[test]
    fn a_peer_stays_the_same_value_over_roster_changes() {
        let mut publisher = publisher();
        publisher.set_members([member(1, 1), member(2, 2)]);
        let before = Arc::clone(publisher.peer(&node(1)).unwrap());
        publisher.set_members([member(1, 1), member(3, 3)]);
        assert!(Arc::ptr_eq(&before, publisher.peer(&node(1)).unwrap()));
        let routes = publisher.tables.routes();
        assert!(routes.peer(v4(2)).is_none() && publisher.peer(&node(2)).is_none());
        assert_eq!(routes.everyone().len(), 2);
    }

    #[test]
    fn a_member_in_two_networks_is_sent_to_once() {
        let mut publisher = publisher();
        publisher.set_members([member(1, 1), member(2, 2), member(1, 1)]);
        let routes = publisher.tables.routes();
        assert_eq!(routes.everyone().len(), 2);
        assert!(routes.accepts_source(publisher.peer(&node(1)).unwrap(), v4(1)));
    }

    #[test]
    fn only_own_and_common_addresses_are_delivered_here() {
        let publisher = publisher();
        let routes = publisher.tables.routes();
        for ours in [
            "198.19.0.250",
            "fd00::fa",
            "198.19.0.255",
            "255.255.255.255",
            "224.0.0.251",
            "ff02::1",
        ] {
            assert!(routes.accepts_destination(ours.parse().unwrap()), "{ours}");
        }
        for other in [
            "198.19.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "fd00::1",
            "::1",
            "8.8.8.8",
        ] {
            assert!(
                !routes.accepts_destination(other.parse().unwrap()),
                "{other}"
            );
        }
    }

    #[test]
    fn no_member_can_have_an_address_of_ours_or_of_everyone() {
        let mut publisher = publisher();
        publisher.set_members([member(1, 250), member(2, 255)]);
        let routes = publisher.tables.routes();
        assert!(routes.peer(v4(250)).is_none() && routes.peer(v4(255)).is_none());
        assert!(matches!(routes.destination(v4(255)), Destination::Everyone));
    }

    proptest! {
        /// Cryptokey routing in one line: a source is accepted from a peer exactly if packets to it go to that peer.
        #[test]
        fn a_source_is_accepted_exactly_from_the_peer_it_routes_to(
            hosts in prop::collection::vec((0u8..12, 0u8..12), 0..16),
            sender in 0u8..12,
            source in 0u8..14,
            six: bool,
        ) {
            let mut publisher = publisher();
            publisher.set_members(hosts.iter().map(|(id, host)| member(*id, *host)));
            let routes = publisher.tables.routes();
            let source = match six {
                false => v4(source),
                true => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(source))),
            };
            // The model: the first member with that address has it.
            let host = match source { IpAddr::V4(v4) => v4.octets()[3], IpAddr::V6(v6) => v6.octets()[15] };
            let owner = hosts.iter().find(|(_, h)| *h == host).map(|(id, _)| node(*id));
            let routed = match routes.destination(source) {
                Destination::Peer(peer) => Some(peer.node_id()),
                Destination::Everyone | Destination::Nobody => None,
            };
            prop_assert_eq!(routed, owner);
            if let Some(peer) = publisher.peer(&node(sender)) {
                prop_assert_eq!(routes.accepts_source(peer, source), routed == Some(node(sender)));
            }
        }
    }
}
