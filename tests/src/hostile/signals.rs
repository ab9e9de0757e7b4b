//! Somebody who wants a member to pass signals on: by a reservation there, and by a circuit to somebody else.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use kanpachi_common::{NodeId, SecretKey};
use kanpachi_transport::swarm as stack;
use kanpachi_transport::{AddressFilter, Reader, SharedSocket, keypair_from_seed, peer_id};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, Swarm, identify, relay};

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(NetworkBehaviour)]
struct Behaviour {
    relay: relay::client::Behaviour,
    identify: identify::Behaviour,
}

/// A peer that speaks the client's half of relaying. Inside a tokio runtime of the namespace.
pub struct SignalGuest {
    swarm: Swarm<Behaviour>,
    _reader: Reader,
}

impl std::fmt::Debug for SignalGuest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignalGuest").finish_non_exhaustive()
    }
}

impl SignalGuest {
    /// One with this identity.
    pub fn new(identity: &SecretKey) -> Result<Self> {
        let keypair = keypair_from_seed(&identity.seed());
        let (transport, relay) = relay::client::new(keypair.public().to_peer_id());
        let socket = SharedSocket::bind_port(0)?;
        let reader = socket.spawn_reader(super::Silent)?;
        let identify = identify::Config::new("/kanpachi/1".to_owned(), keypair.public());
        let behaviour = Behaviour {
            relay,
            identify: identify::Behaviour::new(identify),
        };
        let options = stack::Options {
            keypair,
            socket,
            filter: AddressFilter::allow_all(),
            relay: Some(transport),
            tcp: false,
            proxy: None,
            dials: None,
        };
        Ok(Self {
            swarm: stack::swarm(options, behaviour)?,
            _reader: reader,
        })
    }

    async fn until<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(SwarmEvent<BehaviourEvent>) -> Option<Result<T>>,
    ) -> Result<T> {
        let found = async {
            loop {
                if let Some(found) = wanted(self.swarm.select_next_some().await) {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.with_context(|| format!("{what} took too long"))?
    }

    fn over(relay: &NodeId, at: SocketAddr) -> Multiaddr {
        Multiaddr::from(at.ip())
            .with(Protocol::Udp(at.port()))
            .with(Protocol::QuicV1)
            .with(Protocol::P2p(peer_id(*relay)))
            .with(Protocol::P2pCircuit)
    }

    /// Asks a member for a reservation.
    ///
    /// # Errors
    /// When it gives none, with the reason.
    pub async fn reserve(&mut self, relay: &NodeId, at: SocketAddr) -> Result<()> {
        let listener = self.swarm.listen_on(Self::over(relay, at))?;
        self.until("a reservation", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Relay(
                relay::client::Event::ReservationReqAccepted { .. },
            )) => Some(Ok(())),
            SwarmEvent::ListenerClosed {
                listener_id,
                reason,
                ..
            } if listener_id == listener => {
                Some(Err(anyhow::anyhow!("no reservation: {reason:?}")))
            }
            _ => None,
        })
        .await
    }

    /// Reaches somebody over a member.
    ///
    /// # Errors
    /// When that makes no circuit, with the reason.
    pub async fn reach(&mut self, target: &NodeId, relay: &NodeId, at: SocketAddr) -> Result<()> {
        let peer = peer_id(*target);
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(vec![Self::over(relay, at).with(Protocol::P2p(peer))])
            .build();
        let connection = options.connection_id();
        self.swarm.dial(options)?;
        self.until("a circuit", |event| match event {
            SwarmEvent::ConnectionEstablished { connection_id, .. }
                if connection_id == connection =>
            {
                Some(Ok(()))
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } if connection_id == connection => Some(Err(anyhow::anyhow!("no circuit: {error}"))),
            _ => None,
        })
        .await
    }

    /// Waits until none of these has a connection to this peer any more.
    pub async fn is_left_by(&mut self, nodes: &[NodeId]) -> Result<()> {
        let swarm = &mut self.swarm;
        let left = async {
            while nodes.iter().any(|node| swarm.is_connected(&peer_id(*node))) {
                swarm.select_next_some().await;
            }
        };
        let left = tokio::time::timeout(PATIENCE, left).await;
        left.context("nobody hangs up")
    }
}
