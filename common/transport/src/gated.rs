//! Protocols that are for known peers only.
//!
//! [`Gated`] stands around a behaviour. On the connections of a peer that is not known the behaviour does not exist:
//! they get libp2p's dummy handler, which speaks none of its protocols, and the behaviour hears nothing of them. What
//! strangers may hold open together is bounded, and the oldest goes first. That a circuit leads here stays inside: a relay
//! that took it for an address of its own would hand out circuits over circuits.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    io,
    task::{Context, Poll, Waker},
};

use crate::budget::is_refusal;
use libp2p::{
    Multiaddr, PeerId,
    core::{
        Endpoint,
        transport::{PortUse, TransportError},
    },
    multiaddr::Protocol,
    swarm::{
        AddressChange, CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId,
        DialError, DialFailure, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        derive_prelude::{ConnectionEstablished, Either},
        dummy,
    },
};

/// Dials that [`Gated::expect`] remembers at the most; more than any caller has under way.
const MAX_EXPECTED: usize = 256;

/// Addresses at which the behaviour has a peer dialled at the most. Kademlia names those of its table first, and then all that
/// some server says in an answer.
const MAX_ADDRESSES: usize = 8;

/// The error without those addresses that were not dialled at all, if there are any: Kademlia forgets what it takes for dead.
fn without_refusals(error: &DialError) -> Option<DialError> {
    let DialError::Transport(errors) = error else {
        return None;
    };
    if !errors.iter().any(|(_, error)| is_refusal(error)) {
        return None;
    }
    let dialled = errors.iter().filter(|(_, error)| !is_refusal(error));
    // What a transport said cannot be cloned, and nobody asks for more than the address.
    let dialled = dialled.map(|(addr, _)| {
        let failed = io::Error::from(io::ErrorKind::NotConnected);
        (addr.clone(), TransportError::Other(failed))
    });
    let dialled: Vec<_> = dialled.collect();
    Some(if dialled.is_empty() {
        DialError::NoAddresses
    } else {
        DialError::Transport(dialled)
    })
}

/// What a connection is to the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its peer was known when it was made.
    Known,
    /// Made by us to whom we wanted, known or not.
    Expected,
    Stranger,
}

/// A behaviour for known peers only.
pub struct Gated<B> {
    inner: B,
    known: BTreeSet<PeerId>,
    /// Dials whose outcome is welcome whoever answers.
    expected: HashSet<ConnectionId>,
    connections: BTreeMap<PeerId, Vec<(ConnectionId, Standing)>>,
    /// Connections of strangers, oldest first.
    strangers: VecDeque<(PeerId, ConnectionId)>,
    max_strangers: usize,
    /// To be closed.
    closing: VecDeque<(PeerId, ConnectionId)>,
    waker: Option<Waker>,
}

impl<B: std::fmt::Debug> std::fmt::Debug for Gated<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gated")
            .field("inner", &self.inner)
            .field("known", &self.known.len())
            .field("strangers", &self.strangers.len())
            .finish_non_exhaustive()
    }
}

impl<B> Gated<B> {
    /// A gate that knows nobody yet. Strangers keep `max_strangers` connections at the most, all together.
    pub fn new(inner: B, max_strangers: usize) -> Self {
        Self {
            inner,
            known: BTreeSet::new(),
            expected: HashSet::new(),
            connections: BTreeMap::new(),
            strangers: VecDeque::new(),
            max_strangers,
            closing: VecDeque::new(),
            waker: None,
        }
    }

    /// The behaviour behind the gate.
    pub const fn inner(&self) -> &B {
        &self.inner
    }

    /// The behaviour behind the gate.
    pub const fn inner_mut(&mut self) -> &mut B {
        &mut self.inner
    }

    /// Is this peer known?
    #[must_use]
    pub fn knows(&self, peer: &PeerId) -> bool {
        self.known.contains(peer)
    }

    /// Replaces whom the gate knows. Connections whose peer has changed sides are closed: a handler cannot be
    /// exchanged while they live, and they come again with the right one.
    pub fn set_known(&mut self, known: BTreeSet<PeerId>) {
        self.known = known;
        for (peer, connections) in &self.connections {
            let wrong = if self.known.contains(peer) {
                Standing::Stranger
            } else {
                Standing::Known
            };
            let wrong = connections.iter().filter(|(_, s)| *s == wrong);
            self.closing.extend(wrong.map(|(id, _)| (*peer, *id)));
        }
        self.wake();
    }

    /// The dial with this id is to somebody of whom we know only where to find it: let whoever answers pass.
    pub fn expect(&mut self, connection: ConnectionId) {
        if self.expected.len() < MAX_EXPECTED {
            self.expected.insert(connection);
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn passes(&self, peer: &PeerId, connection: ConnectionId) -> bool {
        self.known.contains(peer) || self.expected.contains(&connection)
    }

    /// Notes a connection; `true` if the behaviour may hear of it.
    fn opened(&mut self, peer: PeerId, connection: ConnectionId, passed: bool) -> bool {
        let standing = if self.expected.remove(&connection) {
            Standing::Expected
        } else if passed {
            Standing::Known
        } else {
            self.strangers.push_back((peer, connection));
            Standing::Stranger
        };
        let of_peer = self.connections.entry(peer).or_default();
        of_peer.push((connection, standing));
        if self.strangers.len() > self.max_strangers
            && let Some(oldest) = self.strangers.pop_front()
        {
            self.closing.push_back(oldest);
            self.wake();
        }
        standing != Standing::Stranger
    }

    /// Forgets a connection; `true` if the behaviour has heard of it.
    fn closed(&mut self, peer: &PeerId, connection: ConnectionId) -> bool {
        let Some(of_peer) = self.connections.get_mut(peer) else {
            return false;
        };
        let at = of_peer.iter().position(|(id, _)| *id == connection);
        let standing = at.map(|at| of_peer.swap_remove(at).1);
        if of_peer.is_empty() {
            self.connections.remove(peer);
        }
        if standing == Some(Standing::Stranger) {
            self.strangers.retain(|(_, id)| *id != connection);
        }
        standing.is_some_and(|standing| standing != Standing::Stranger)
    }

    /// Connections to this peer of which the behaviour has heard.
    fn passed(&self, peer: &PeerId) -> impl Iterator<Item = ConnectionId> {
        let of_peer = self.connections.get(peer).into_iter().flatten();
        of_peer
            .filter(|(_, standing)| *standing != Standing::Stranger)
            .map(|(id, _)| *id)
    }

    fn has_passed(&self, peer: &PeerId, connection: ConnectionId) -> bool {
        self.passed(peer).any(|id| id == connection)
    }
}

impl<B: NetworkBehaviour> Gated<B> {
    fn note_opened(&mut self, event: ConnectionEstablished<'_>, passed: bool) {
        let others = self.passed(&event.peer_id).count();
        if self.opened(event.peer_id, event.connection_id, passed) {
            self.inner
                .on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                    other_established: others,
                    // Among them are those that were not dialled at all, and which ones is not said.
                    failed_addresses: &[],
                    ..event
                }));
        }
    }

    fn note_closed(&mut self, event: ConnectionClosed<'_>) {
        if self.closed(&event.peer_id, event.connection_id) {
            let remaining_established = self.passed(&event.peer_id).count();
            self.inner
                .on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                    remaining_established,
                    ..event
                }));
        }
    }
}

/// The handler of a connection: the behaviour's own, or none.
type Handler<B> = Either<THandler<B>, dummy::ConnectionHandler>;

impl<B: NetworkBehaviour> NetworkBehaviour for Gated<B> {
    type ConnectionHandler = Handler<B>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.passes(&peer, connection) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        self.inner
            .handle_established_inbound_connection(connection, peer, local, remote)
            .map(Either::Left)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let more = self
            .inner
            .handle_pending_outbound_connection(connection, peer, addresses, role);
        more.map(|mut more| {
            more.truncate(MAX_ADDRESSES);
            more
        })
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.passes(&peer, connection) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        self.inner
            .handle_established_outbound_connection(connection, peer, addr, role, port_use)
            .map(Either::Left)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            // The swarm asks for the handler and tells this in one step, so the gate has not changed between.
            FromSwarm::ConnectionEstablished(event) => {
                let passed = self.passes(&event.peer_id, event.connection_id);
                self.note_opened(event, passed);
            }
            FromSwarm::ConnectionClosed(event) => self.note_closed(event),
            FromSwarm::AddressChange(AddressChange {
                peer_id,
                connection_id,
                ..
            }) if !self.has_passed(&peer_id, connection_id) => {}
            FromSwarm::DialFailure(failure) => {
                self.expected.remove(&failure.connection_id);
                let error = without_refusals(failure.error);
                let error = error.as_ref().unwrap_or(failure.error);
                self.inner
                    .on_swarm_event(FromSwarm::DialFailure(DialFailure { error, ..failure }));
            }
            other => self.inner.on_swarm_event(other),
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {
            Either::Left(event) => self
                .inner
                .on_connection_handler_event(peer, connection, event),
            Either::Right(never) => match never {},
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection)) = self.closing.pop_front() {
            return Poll::Ready(ToSwarm::CloseConnection {
                peer_id,
                connection: CloseConnection::One(connection),
            });
        }
        loop {
            let Poll::Ready(action) = self.inner.poll(cx) else {
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            if let ToSwarm::ExternalAddrConfirmed(addr) | ToSwarm::ExternalAddrExpired(addr) =
                &action
                && addr.iter().any(|part| part == Protocol::P2pCircuit)
            {
                continue;
            }
            let ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::Any,
                event,
            } = action
            else {
                return Poll::Ready(action.map_in(Either::Left));
            };
            // "Any" is any connection that has the handler. Without one, the connection has just ended.
            let connection = self.passed(&peer_id).next();
            if let Some(connection) = connection {
                return Poll::Ready(ToSwarm::NotifyHandler {
                    peer_id,
                    handler: NotifyHandler::One(connection),
                    event: Either::Left(event),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::refusal;

    fn failed(port: u16) -> (Multiaddr, TransportError<io::Error>) {
        let error = io::Error::from(io::ErrorKind::TimedOut);
        (address(port), TransportError::Other(error))
    }

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/203.0.113.9/udp/{port}/quic-v1")
            .parse()
            .unwrap()
    }

    #[test]
    fn what_was_not_dialled_has_not_failed() {
        let error = DialError::Transport(vec![failed(1), (address(2), refusal()), failed(3)]);
        let Some(DialError::Transport(told)) = without_refusals(&error) else {
            panic!("{error:?}");
        };
        let told: Vec<Multiaddr> = told.into_iter().map(|(addr, _)| addr).collect();
        assert_eq!(told, [address(1), address(3)]);
        let error = DialError::Transport(vec![(address(2), refusal())]);
        let told = without_refusals(&error);
        assert!(matches!(told, Some(DialError::NoAddresses)), "{told:?}");
        assert!(without_refusals(&DialError::Transport(vec![failed(1)])).is_none());
    }
}
