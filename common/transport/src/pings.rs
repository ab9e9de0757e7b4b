//! libp2p's pings, on TCP connections only.
//!
//! NATs forget a TCP connection on which nothing comes for some minutes, and nothing else may come on one to a server. QUIC keeps its
//! connections itself, and a circuit is over sooner: there a ping would be two streams more for each new connection, and packets
//! that wake both ends up for nothing.

use std::{
    fmt,
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    ping,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, derive_prelude::Either, dummy,
    },
};

/// The behaviour. Its events are ping's own.
pub struct Behaviour {
    inner: ping::Behaviour,
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Behaviour").finish_non_exhaustive()
    }
}

impl Behaviour {
    /// Pings at once on a new TCP connection, and then so long after each answer.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        let config = ping::Config::new().with_interval(interval);
        Self {
            inner: ping::Behaviour::new(config),
        }
    }
}

/// Is it TCP, or what is carried on it, all the way to the peer?
fn is_tcp(remote: &Multiaddr) -> bool {
    let has = |wanted: fn(&Protocol<'_>) -> bool| remote.iter().any(|part| wanted(&part));
    has(|part| matches!(part, Protocol::Tcp(_))) && !has(|part| *part == Protocol::P2pCircuit)
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Either<THandler<ping::Behaviour>, dummy::ConnectionHandler>;
    type ToSwarm = ping::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !is_tcp(remote) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        let inner = &mut self.inner;
        let handler =
            inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(Either::Left(handler))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !is_tcp(remote) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        let handler = self
            .inner
            .handle_established_outbound_connection(connection, peer, remote, role, port_use)?;
        Ok(Either::Left(handler))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
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
        self.inner
            .poll(cx)
            .map(|action| action.map_in(Either::Left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_is_what_a_nat_has_to_keep() {
        for (addr, tcp) in [
            ("/ip4/192.0.2.1/tcp/443", true),
            ("/ip4/192.0.2.1/tcp/443/ws", true),
            ("/dns4/relay.example/tcp/443/ws", true),
            ("/ip4/192.0.2.1/udp/12975/quic-v1", false),
            ("/ip4/192.0.2.1/tcp/443/p2p-circuit", false),
            ("/p2p-circuit", false),
        ] {
            assert_eq!(is_tcp(&addr.parse().unwrap()), tcp, "{addr}");
        }
    }
}
