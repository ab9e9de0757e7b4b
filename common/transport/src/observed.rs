//! Tells DCUtR the addresses under which others see us, ports included.
//!
//! identify reports what a peer saw, but before it offers that as a candidate for an external address it replaces
//! the port by our listening port whenever the two differ. Behind a NAT that does not preserve ports every
//! candidate is wrong then, and no hole is ever punched. Here the address goes on as it was seen.

use std::{
    collections::VecDeque,
    convert::Infallible,
    task::{Context, Poll, Waker},
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

/// Reports that wait for the swarm; it takes them at once, so more means that it is stuck.
const MAX_PENDING: usize = 32;

/// The behaviour. Feed it with `info.observed_addr` of each `identify::Event::Received`.
#[derive(Debug, Default)]
pub struct Behaviour {
    pending: VecDeque<Multiaddr>,
    waker: Option<Waker>,
}

impl Behaviour {
    /// A behaviour that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A peer saw us under this address. What is seen by way of a relay is the relay's address, or none, and is
    /// passed over.
    pub fn report(&mut self, addr: Multiaddr) {
        let direct = matches!(
            addr.iter().next(),
            Some(Protocol::Ip4(_) | Protocol::Ip6(_))
        ) && !addr.iter().any(|p| p == Protocol::P2pCircuit);
        if !direct || self.pending.len() >= MAX_PENDING {
            return;
        }
        self.pending.push_back(addr);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.pending.pop_front() {
            Some(addr) => Poll::Ready(ToSwarm::NewExternalAddrCandidate(addr)),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_seen_directly_are_passed_on() {
        let mut behaviour = Behaviour::new();
        let peer = PeerId::random();
        let seen: Multiaddr = "/ip4/203.0.113.7/udp/34001/quic-v1".parse().unwrap();
        let relayed = seen
            .clone()
            .with(Protocol::P2p(peer))
            .with(Protocol::P2pCircuit);
        for addr in [
            Multiaddr::empty(),
            Protocol::P2p(peer).into(),
            relayed,
            seen.clone(),
        ] {
            behaviour.report(addr);
        }
        assert_eq!(behaviour.pending, std::slice::from_ref(&seen));
        for _ in 0..100 {
            behaviour.report(seen.clone());
        }
        assert_eq!(behaviour.pending.len(), MAX_PENDING);
    }
}
