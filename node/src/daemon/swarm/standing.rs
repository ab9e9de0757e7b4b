//! Reservations at members, circuits over them, and which connections are which.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use kanpachi_common::NodeId;
use kanpachi_transport::{node_id, peer_id};
use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, transport::ListenerId},
    multiaddr::Protocol,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};

use super::{
    Event, Later, RESERVE_AGAIN, Task, Whereabouts,
    addresses::{quic_addr, relay_of},
};

/// Changes of where this node is are collected for this long.
const PUSH: Duration = Duration::from_millis(100);

/// A relay that may lead to a member, and where it may be.
pub(in crate::daemon) type Way = (NodeId, Whereabouts);

/// How a connection goes.
#[derive(Debug)]
enum Route {
    Direct(Multiaddr),
    /// Over a relay.
    Circuit,
}

/// Reservations, and the connections that they and circuits are made of.
#[derive(Debug, Default)]
pub(super) struct Places {
    connections: BTreeMap<PeerId, Vec<(ConnectionId, Route)>>,
    /// Those over which the peer has said who it is.
    heard: BTreeSet<ConnectionId>,
    /// Reservations, given or asked for.
    listeners: HashMap<ListenerId, PeerId>,
    /// Members that are to give one as soon as there is a direct connection.
    seeking: BTreeSet<PeerId>,
    /// Servers that are asked again for one in a while.
    timed: BTreeSet<PeerId>,
    dials: HashMap<ConnectionId, PeerId>,
    /// Circuits being made, by the member at the other end.
    introducing: HashMap<ConnectionId, PeerId>,
    /// Where this node says that it is.
    own: BTreeSet<Multiaddr>,
    /// Peers are about to be told.
    pushing: bool,
}

impl Places {
    fn routes(&self, peer: &PeerId) -> &[(ConnectionId, Route)] {
        self.connections.get(peer).map_or(&[], Vec::as_slice)
    }

    /// The address that a direct connection to this peer was made to or from.
    fn direct(&self, peer: &PeerId) -> Option<&Multiaddr> {
        let mut routes = self.routes(peer).iter();
        routes.find_map(|(_, route)| match route {
            Route::Direct(addr) => Some(addr),
            Route::Circuit => None,
        })
    }

    fn circuits(&self, peer: &PeerId) -> Vec<ConnectionId> {
        let routes = self.routes(peer).iter();
        let circuits = routes.filter(|(_, route)| matches!(route, Route::Circuit));
        circuits.map(|(id, _)| *id).collect()
    }

    /// Does this connection to a peer go over a relay?
    pub(super) fn is_circuit(&self, peer: &PeerId, connection: ConnectionId) -> bool {
        self.circuits(peer).contains(&connection)
    }

    /// Looks for a reservation at a peer. If it has to wait, it is asked for as soon as there is a direct connection.
    fn seek(&mut self, relay: PeerId) -> Seek {
        if self.listeners.values().any(|peer| *peer == relay) {
            return Seek::Asked;
        }
        match self.direct(&relay).cloned() {
            Some(addr) => Seek::At(addr),
            None if self.seeking.insert(relay) => Seek::Wait,
            None => Seek::Asked,
        }
    }

    /// Is this the first that a peer says over a connection? What it says later of where it sees this node is what it
    /// saw first, wherever the connection has gone since.
    pub(super) fn is_first_word(&mut self, connection: ConnectionId) -> bool {
        self.heard.insert(connection)
    }

    pub(super) fn forget(&mut self, peer: &PeerId, connection: ConnectionId) {
        self.heard.remove(&connection);
        if let Some(routes) = self.connections.get_mut(peer) {
            routes.retain(|(id, _)| *id != connection);
            if routes.is_empty() {
                self.connections.remove(peer);
            }
        }
    }
}

/// How a reservation is to be had.
#[derive(Debug, PartialEq, Eq)]
enum Seek {
    /// It was given, or asked for, or is waited for.
    Asked,
    /// Over a connection to this address.
    At(Multiaddr),
    /// When there is a connection. A circuit is not listened on before: that would dial a peer that is dialled already,
    /// and fail with it.
    Wait,
}

/// The address of whatever is reached over a relay.
fn over(relay: PeerId, addr: Multiaddr) -> Multiaddr {
    let addr = match addr.iter().last() {
        Some(Protocol::P2p(_)) => addr,
        _ => addr.with(Protocol::P2p(relay)),
    };
    addr.with(Protocol::P2pCircuit)
}

impl Task {
    /// Notes a connection. One over a relay introduces two members to each other.
    pub(super) fn note_connection(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        self.places.dials.remove(&connection);
        self.places.introducing.remove(&connection);
        let at = match endpoint {
            ConnectedPoint::Dialer { address, .. } => address,
            ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => local_addr,
            ConnectedPoint::Listener { send_back_addr, .. } => send_back_addr,
        };
        let relay = endpoint.is_relayed().then(|| relay_of(at)).flatten();
        let route = relay.map_or_else(|| Route::Direct(at.clone()), |_| Route::Circuit);
        let routes = self.places.connections.entry(peer).or_default();
        routes.push((connection, route));
        if let Some(relay) = relay {
            if let Some(node) = node_id(&peer).filter(|_| self.members.contains(&peer)) {
                tracing::debug!(%peer, %relay, "introduced by a relay");
                self.tell(Event::Introduced(node));
            }
        } else if self.places.seeking.remove(&peer) {
            self.reserve_at(peer, at.clone());
        }
    }

    /// A connection that was dialled is not there.
    pub(super) fn note_dial_failure(&mut self, connection: ConnectionId) {
        self.places.introducing.remove(&connection);
        if let Some(peer) = self.places.dials.remove(&connection)
            && self.places.seeking.remove(&peer)
        {
            self.stand_ended(&peer);
        }
    }

    fn stand_ended(&self, peer: &PeerId) {
        if let Some(node) = node_id(peer) {
            // Not a hint: whoever misses it takes a lost reservation for one that is held.
            self.later(Duration::ZERO, Later::StandEnded(node));
        }
    }

    /// Connects to a member directly, and asks it for a reservation.
    pub(super) fn stand(&mut self, node: NodeId, at: Whereabouts) {
        let relay = peer_id(node);
        if let Some(addr) = self.places.direct(&relay).cloned() {
            return self.reserve_at(relay, addr);
        }
        self.places.seeking.insert(relay);
        let options = DialOpts::peer_id(relay)
            .condition(PeerCondition::NotDialing)
            .addresses(self.dialled(node, &at, usize::MAX))
            .build();
        let connection = options.connection_id();
        // One that is being made serves as well; the member is given up when nothing comes of it.
        match self.swarm.dial(options) {
            Ok(()) => drop(self.places.dials.insert(connection, relay)),
            Err(error) => tracing::trace!(%relay, %error, "not dialled"),
        }
    }

    /// Gives up a reservation, or asks for it no more.
    pub(super) fn leave(&mut self, node: &NodeId) {
        let relay = peer_id(*node);
        self.places.seeking.remove(&relay);
        let listeners = self.places.listeners.iter();
        let at_relay: Vec<ListenerId> = listeners
            .filter(|(_, peer)| **peer == relay)
            .map(|(id, _)| *id)
            .collect();
        for id in at_relay {
            self.places.listeners.remove(&id);
            self.swarm.remove_listener(id);
        }
    }

    /// Asks a bootstrap again for a reservation, if it has not come to one.
    pub(super) fn reserve_again(&mut self, relay: PeerId) {
        self.places.timed.remove(&relay);
        self.places.seeking.remove(&relay);
        self.reserve(relay);
    }

    /// Asks a bootstrap for a reservation, so that members can be introduced to this node.
    pub(super) fn reserve(&mut self, relay: PeerId) {
        if self.cut_off || !self.bootstraps.contains_key(&relay) {
            return;
        }
        match self.places.seek(relay) {
            Seek::Asked => {}
            Seek::At(addr) => self.reserve_at(relay, addr),
            Seek::Wait => {
                self.reach_bootstraps();
                self.reserve_later(relay);
            }
        }
    }

    /// One timer for each of them, however often its reservation is lost.
    fn reserve_later(&mut self, relay: PeerId) {
        if self.places.timed.insert(relay) {
            self.later(RESERVE_AGAIN, Later::Reserve(relay));
        }
    }

    /// A drill begins: reservations of bootstraps are not waited for meanwhile.
    pub(super) fn seek_no_servers(&mut self) {
        let servers = &self.bootstraps;
        self.places.seeking.retain(|p| !servers.contains_key(p));
    }

    fn reserve_at(&mut self, relay: PeerId, addr: Multiaddr) {
        match self.swarm.listen_on(over(relay, addr)) {
            Ok(id) => drop(self.places.listeners.insert(id, relay)),
            Err(error) => {
                tracing::debug!(%relay, %error, "no reservation");
                self.stand_ended(&relay);
            }
        }
    }

    /// A relay gave this node a reservation.
    pub(super) fn note_reservation(&mut self, relay: PeerId) {
        tracing::debug!(%relay, "reservation at a relay");
        if let Some(node) = node_id(&relay).filter(|_| !self.bootstraps.contains_key(&relay)) {
            self.tell(Event::Stands(node));
        }
    }

    /// A listener is closed: a lost reservation is not asked for again by itself.
    pub(super) fn note_listener_closed(&mut self, id: ListenerId) {
        let Some(relay) = self.places.listeners.remove(&id) else {
            return;
        };
        tracing::debug!(%relay, "no reservation any more");
        if self.bootstraps.contains_key(&relay) {
            self.reserve_later(relay);
        } else {
            self.stand_ended(&relay);
        }
    }

    /// Makes a circuit to a member, by whichever relay leads there first: both sides then tell where they are. Returns the
    /// dial that is under way, if nobody is to be waited for in vain.
    pub(super) fn introduce(&mut self, node: &NodeId, ways: Vec<Way>) -> Option<ConnectionId> {
        let peer = peer_id(*node);
        let mut under_way = self.places.introducing.iter();
        if let Some((dial, _)) = under_way.find(|(_, p)| **p == peer) {
            return Some(*dial);
        }
        if !self.places.circuits(&peer).is_empty() {
            return None;
        }
        let addrs = self.circuits_to(peer, ways);
        if addrs.is_empty() {
            return None;
        }
        tracing::debug!(%peer, relays = addrs.len(), "to be introduced");
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(addrs)
            .build();
        let connection = options.connection_id();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "no introduction");
            return None;
        }
        self.places.introducing.insert(connection, peer);
        Some(connection)
    }

    /// Addresses of a member by whoever may lead to it, those that are connected first.
    fn circuits_to(&mut self, peer: PeerId, ways: Vec<Way>) -> Vec<Multiaddr> {
        let (mut near, mut far) = (Vec::new(), Vec::new());
        let circuit = |relay, addr| over(relay, addr).with(Protocol::P2p(peer));
        for (node, at) in ways {
            let relay = peer_id(node);
            if let Some(addr) = self.places.direct(&relay) {
                near.push(circuit(relay, addr.clone()));
            } else if relay != peer {
                // One place is enough: this is about somebody else.
                let one = self.dialled(node, &at, 1).into_iter().next();
                far.extend(one.map(|addr| circuit(relay, addr)));
            }
        }
        let servers = self.bootstraps.iter().filter(|(relay, _)| **relay != peer);
        for (relay, addrs) in servers.filter(|_| !self.cut_off) {
            match (self.places.direct(relay), addrs.first()) {
                (Some(addr), _) => near.push(circuit(*relay, addr.clone())),
                (None, Some(addr)) => far.push(circuit(*relay, addr.clone())),
                (None, None) => {}
            }
        }
        near.append(&mut far);
        near
    }

    /// A tunnel to this member is up: relays have better to do than to keep circuits to it.
    pub(super) fn end_circuits(&mut self, node: &NodeId) {
        for connection in self.places.circuits(&peer_id(*node)) {
            self.swarm.close_connection(connection);
        }
    }

    /// Where this node is changed. Peers are told, and whoever stands here learns it with the reservation.
    pub(super) fn set_own(&mut self, addrs: Vec<SocketAddr>) {
        let own: BTreeSet<Multiaddr> = addrs.into_iter().map(quic_addr).collect();
        let before = std::mem::replace(&mut self.places.own, own);
        for gone in before.difference(&self.places.own) {
            self.swarm.remove_external_address(gone);
        }
        let new: Vec<Multiaddr> = self.places.own.difference(&before).cloned().collect();
        for addr in new {
            self.swarm.add_external_address(addr);
        }
        self.push_soon();
    }

    /// Where this node is changed, and there may be more of that in a moment: peers are told once.
    pub(super) fn push_soon(&mut self) {
        if !std::mem::replace(&mut self.places.pushing, true) {
            self.later(PUSH, Later::Push);
        }
    }

    pub(super) fn push(&mut self) {
        self.places.pushing = false;
        let known = self.places.connections.keys();
        let known = known.filter(|peer| self.members.contains(peer));
        let known: Vec<PeerId> = known.copied().collect();
        self.swarm.behaviour_mut().identify.push(known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_waits_for_a_connection_and_is_asked_for_once() {
        let (mut places, relay) = (Places::default(), PeerId::random());
        assert_eq!(places.seek(relay), Seek::Wait);
        assert!(places.seeking.contains(&relay), "a connection is noticed");
        assert_eq!(places.seek(relay), Seek::Asked);
        places.seeking.clear();
        let addr: Multiaddr = "/ip4/192.0.2.1/udp/1/quic-v1".parse().unwrap();
        let id = ConnectionId::new_unchecked(1);
        places.connections.insert(relay, vec![(id, Route::Circuit)]);
        assert_eq!(places.seek(relay), Seek::Wait, "no circuit over a circuit");
        let direct = ConnectionId::new_unchecked(2);
        let routes = places.connections.get_mut(&relay).unwrap();
        routes.push((direct, Route::Direct(addr.clone())));
        assert_eq!(places.seek(relay), Seek::At(addr));
        places.listeners.insert(ListenerId::next(), relay);
        assert_eq!(places.seek(relay), Seek::Asked);
    }
}
