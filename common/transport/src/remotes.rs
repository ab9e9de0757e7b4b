//! Says under which address a connected peer is seen, from before its first stream comes.
//!
//! A connection's task starts to take streams while the swarm's owner has yet to read that there is a connection. A table
//! that is filled from the swarm's events is too late for the first stream then; this one is filled before the task starts.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};

/// For each peer its connections in the order in which they came, with the address seen.
type Table = HashMap<PeerId, Vec<(ConnectionId, Multiaddr)>>;

/// The peers that are connected, for whoever asks. Short locks, never held across a wait.
#[derive(Clone, Debug, Default)]
pub struct Remotes(Arc<RwLock<Table>>);

impl Remotes {
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address under which a connected peer is seen: of its newest connection that is not relayed.
    #[must_use]
    pub fn address(&self, peer: &PeerId) -> Option<Multiaddr> {
        let table = self.read();
        let direct = |addr: &&Multiaddr| !addr.iter().any(|p| p == Protocol::P2pCircuit);
        let connections = table.get(peer)?.iter().rev();
        connections.map(|(_, addr)| addr).find(direct).cloned()
    }

    /// The addresses of all connections of a peer, the oldest first.
    #[must_use]
    pub fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let table = self.read();
        let connections = table.get(peer).into_iter().flatten();
        connections.map(|(_, addr)| addr.clone()).collect()
    }

    /// Everybody who is connected.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerId> {
        self.read().keys().copied().collect()
    }

    fn insert(&self, peer: PeerId, connection: ConnectionId, addr: Multiaddr) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.entry(peer).or_default().push((connection, addr));
    }

    fn remove(&self, peer: &PeerId, connection: ConnectionId) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(connections) = table.get_mut(peer) {
            connections.retain(|(id, _)| *id != connection);
            if connections.is_empty() {
                table.remove(peer);
            }
        }
    }
}

/// Fills [`Remotes`]. Behind whatever refuses connections, so that it sees few that come to nothing.
#[derive(Debug, Default)]
pub struct Behaviour(Remotes);

impl Behaviour {
    /// A behaviour that has seen nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What it has seen, now and from now on.
    #[must_use]
    pub fn remotes(&self) -> Remotes {
        self.0.clone()
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0.insert(peer, connection, remote.clone());
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0.insert(peer, connection, remote.clone());
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let (peer, connection) = match event {
            FromSwarm::ConnectionClosed(closed) => (Some(closed.peer_id), closed.connection_id),
            // Another behaviour refused it after this one had seen it.
            FromSwarm::ListenFailure(failed) => (failed.peer_id, failed.connection_id),
            FromSwarm::DialFailure(failed) => (failed.peer_id, failed.connection_id),
            _ => return,
        };
        if let Some(peer) = peer {
            self.0.remove(&peer, connection);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use libp2p::swarm::{DialError, DialFailure, ListenError, ListenFailure};

    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn comes(behaviour: &mut Behaviour, peer: PeerId, id: usize, from: &Multiaddr) {
        let id = ConnectionId::new_unchecked(id);
        let own = addr("/ip4/198.51.100.1/udp/12975/quic-v1");
        behaviour
            .handle_established_inbound_connection(id, peer, &own, from)
            .unwrap();
    }

    #[test]
    fn a_peer_is_known_before_the_swarm_tells_of_it_and_by_its_newest_direct_address() {
        let mut behaviour = Behaviour::new();
        let remotes = behaviour.remotes();
        let peer = PeerId::random();
        let first = addr("/ip4/203.0.113.7/udp/34001/quic-v1");
        let second = addr("/ip4/203.0.113.7/tcp/34002");
        let relayed = first.clone().with(Protocol::P2pCircuit);
        assert_eq!(remotes.address(&peer), None);
        for (id, from) in [&first, &second, &relayed].into_iter().enumerate() {
            comes(&mut behaviour, peer, id, from);
        }
        assert_eq!(remotes.address(&peer), Some(second.clone()));
        assert_eq!(remotes.addresses(&peer), [first, second, relayed]);
        assert_eq!(remotes.peers(), [peer]);
    }

    #[test]
    fn a_connection_that_others_refuse_is_forgotten() {
        let mut behaviour = Behaviour::new();
        let remotes = behaviour.remotes();
        let peer = PeerId::random();
        let from = addr("/ip4/203.0.113.7/udp/34001/quic-v1");
        comes(&mut behaviour, peer, 1, &from);
        comes(&mut behaviour, peer, 2, &from);
        behaviour.on_swarm_event(FromSwarm::ListenFailure(ListenFailure {
            local_addr: &from,
            send_back_addr: &from,
            error: &ListenError::Aborted,
            connection_id: ConnectionId::new_unchecked(1),
            peer_id: Some(peer),
        }));
        assert_eq!(remotes.addresses(&peer).len(), 1);
        behaviour.on_swarm_event(FromSwarm::DialFailure(DialFailure {
            peer_id: Some(peer),
            error: &DialError::Aborted,
            connection_id: ConnectionId::new_unchecked(2),
        }));
        assert_eq!(remotes.peers(), []);
    }
}
