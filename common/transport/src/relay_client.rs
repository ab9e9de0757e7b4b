//! libp2p's relay client, with a guard against a fault of it that would end the whole swarm.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    relay::client,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};

/// [`client::Behaviour`] as it is, but for one thing: a reservation that is given up while it is being asked for, and is
/// granted after that, makes libp2p-relay 0.22 panic ("Relay connection exist"), and with it whichever task polls the
/// swarm. The relay at the other end decides when it answers, so it decides about that, too.
pub struct RelayClient(client::Behaviour);

impl fmt::Debug for RelayClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayClient")
    }
}

impl From<client::Behaviour> for RelayClient {
    fn from(inner: client::Behaviour) -> Self {
        Self(inner)
    }
}

impl NetworkBehaviour for RelayClient {
    type ConnectionHandler = <client::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = client::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.0
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.0
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0
            .handle_established_outbound_connection(connection, peer, addr, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.0.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        let inner = &mut self.0;
        // It panics while it looks for what it gave up, before it has changed anything: there is nothing half done.
        let told = catch_unwind(AssertUnwindSafe(|| {
            inner.on_connection_handler_event(peer, connection, event);
        }));
        if told.is_err() {
            tracing::info!(%peer, "a reservation came that was given up; the panic above this line did no harm");
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.0.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt as _;
    use libp2p::{
        Swarm, Transport as _,
        core::{transport::MemoryTransport, upgrade::Version},
        identity::Keypair,
        multiaddr::Protocol,
        noise,
        relay::{self, client},
        swarm::{self, SwarmEvent},
        yamux,
    };
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_millis(200);

    fn config() -> swarm::Config {
        swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE)
    }

    fn server() -> Swarm<relay::Behaviour> {
        let keys = Keypair::generate_ed25519();
        let local = keys.public().to_peer_id();
        let transport = MemoryTransport::default()
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&keys).unwrap())
            .multiplex(yamux::Config::default());
        let mut behaviour = relay::Behaviour::new(local, relay::Config::default());
        behaviour.set_status(Some(relay::Status::Enable));
        Swarm::new(transport.boxed(), behaviour, local, config())
    }

    fn guest() -> Swarm<RelayClient> {
        let keys = Keypair::generate_ed25519();
        let local = keys.public().to_peer_id();
        let (by_relay, behaviour) = client::new(local);
        let transport = by_relay
            .or_transport(MemoryTransport::default())
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&keys).unwrap())
            .multiplex(yamux::Config::default());
        Swarm::new(transport.boxed(), behaviour.into(), local, config())
    }

    #[tokio::test]
    async fn a_reservation_that_comes_after_it_was_given_up_ends_nothing() {
        let (mut server, mut guest) = (server(), guest());
        server.listen_on("/memory/0".parse().unwrap()).unwrap();
        let at = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = server.select_next_some().await {
                break address;
            }
        };
        server.add_external_address(at.clone());
        let relay = at
            .with(Protocol::P2p(*server.local_peer_id()))
            .with(Protocol::P2pCircuit);
        let listener = guest.listen_on(relay).unwrap();
        // As soon as there is a connection the reservation is asked for over it, and is given up here.
        let asked = async {
            loop {
                tokio::select! {
                    event = guest.select_next_some() => {
                        if matches!(event, SwarmEvent::ConnectionEstablished { .. }) {
                            return;
                        }
                    }
                    _ = server.select_next_some() => {}
                }
            }
        };
        timeout(LIMIT, asked).await.expect("no connection");
        assert!(guest.remove_listener(listener));
        // It is granted all the same. Then the guest closes the connection, which it has no use for any more.
        let mut granted = false;
        let goes_on = async {
            loop {
                tokio::select! {
                    event = guest.select_next_some() => {
                        if matches!(event, SwarmEvent::ConnectionClosed { .. }) {
                            return;
                        }
                    }
                    event = server.select_next_some() => {
                        granted |= matches!(
                            event,
                            SwarmEvent::Behaviour(relay::Event::ReservationReqAccepted { .. })
                        );
                    }
                }
            }
        };
        timeout(LIMIT, goes_on).await.expect("the guest hangs");
        assert!(granted, "the relay was not asked");
    }
}
