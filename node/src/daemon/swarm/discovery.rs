//! Finding others: the DHT, the local network, and what peers tell about themselves.

use std::{collections::BTreeSet, net::SocketAddr};

use kanpachi_common::wire::relay::PROTOCOL;
use kanpachi_transport::{node_id, routing};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, identify,
    kad::{self, store::MemoryStore},
};

use super::{
    Event, Task,
    addresses::{dialable, quic_socket_addr},
};

impl Task {
    pub(super) fn kad(&mut self) -> &mut kad::Behaviour<MemoryStore> {
        &mut self.swarm.behaviour_mut().for_known.inner_mut().kad
    }

    /// A peer that is believed says where it sees this node.
    pub(super) fn handle_observed(&mut self, peer: &PeerId, info: &identify::Info) {
        let known = self.members.contains(peer) || self.bootstraps.contains_key(peer);
        if let Some(addr) = quic_socket_addr(&info.observed_addr).filter(|_| known) {
            if let Some(node) = node_id(peer) {
                // Each connection says it once.
                self.tell(Event::Observed(node, addr));
            }
            let seen = info.observed_addr.clone();
            self.swarm.behaviour_mut().observed.report(seen);
        }
    }

    pub(super) fn handle_identified(&mut self, peer: PeerId, info: &identify::Info, relayed: bool) {
        let known = self.members.contains(&peer) || self.bootstraps.contains_key(&peer);
        if known && self.speaks_dht(info) {
            routing::add(self.kad(), &peer, dialable(&info.listen_addrs).cloned());
            self.note_server(peer);
        }
        if let Some(node) = node_id(&peer).filter(|_| self.members.contains(&peer)) {
            let addrs = info
                .listen_addrs
                .iter()
                .filter_map(quic_socket_addr)
                .collect();
            self.tell(Event::Addresses {
                node,
                addrs,
                relayed,
            });
            let relays = info.protocols.contains(&StreamProtocol::new(PROTOCOL));
            self.tell(Event::Relaying { node, relays });
        }
    }

    fn speaks_dht(&self, info: &identify::Info) -> bool {
        let ours = self
            .swarm
            .behaviour()
            .for_known
            .inner()
            .kad
            .protocol_names();
        info.protocols.iter().any(|p| ours.contains(p))
    }

    pub(super) fn handle_on_lan(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        for (peer, addr) in found {
            if let Some(addr) = quic_socket_addr(&addr) {
                self.on_lan.note(peer, addr, &self.members);
                self.tell_on_lan(&peer, addr);
            }
        }
    }

    pub(super) fn forget_on_lan(&mut self, gone: &[(PeerId, Multiaddr)]) {
        for (peer, addr) in gone {
            if let Some(addr) = quic_socket_addr(addr) {
                self.on_lan.forget(peer, addr);
            }
        }
    }

    /// Says where those who have become members were seen before.
    pub(super) fn greet_on_lan(&mut self, before: &BTreeSet<PeerId>) {
        for (peer, addr) in self.on_lan.of_new(&self.members, before) {
            self.tell_on_lan(&peer, addr);
        }
    }

    fn tell_on_lan(&mut self, peer: &PeerId, addr: SocketAddr) {
        if let Some(node) = node_id(peer).filter(|_| self.members.contains(peer)) {
            self.tell(Event::OnLan { node, addr });
        }
    }

    pub(super) fn set_bootstraps(&mut self, bootstraps: Vec<(PeerId, Vec<Multiaddr>)>) {
        let before = std::mem::replace(&mut self.bootstraps, bootstraps.into_iter().collect());
        let local = *self.swarm.local_peer_id();
        let new: Vec<PeerId> = self
            .bootstraps
            .keys()
            .filter(|p| !before.contains_key(p) && **p != local)
            .copied()
            .collect();
        self.meet();
        self.shun_servers();
        let kad = &mut self.swarm.behaviour_mut().for_known.inner_mut().kad;
        for (peer, addrs) in &self.bootstraps {
            for addr in addrs {
                kad.add_address(peer, addr.clone());
            }
        }
        for peer in new {
            self.reserve(peer);
        }
        let _ = self.kad().bootstrap();
    }
}
