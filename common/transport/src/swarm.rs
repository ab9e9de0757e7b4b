//! The whole stack as one transport: QUIC on the shared socket, TCP or WebSocket with Noise and Yamux, circuits over relays.

use std::{
    error::Error as StdError,
    fmt, io,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, ListenerId, OptionalTransport, Transport, TransportError},
        upgrade::Version,
    },
    identity::Keypair,
    multiaddr::Protocol,
    noise, relay,
    swarm::{Config, NetworkBehaviour, SwarmEvent},
    tcp,
};
use thiserror::Error;

use crate::{
    budget::{Budgeted, DialBudget},
    filter::{AddressFilter, Filtered},
    proxy::{ProxiedTcp, Proxy},
    quic::{self, QuicTransport},
    socket::SharedSocket,
    websocket::Carried,
    yamux,
};

/// How long a connection that nobody uses stays open. The default of 10 s closes it between two of our messages; keeping
/// it alive costs packets and wakes both ends.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(40);
/// An upgrade of a TCP connection or circuit (Noise, Yamux) that takes longer has failed.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// Events that one connection may have waiting for the swarm.
const CONNECTION_EVENTS: usize = 32;

/// Why there is no transport.
#[derive(Debug, Error)]
pub enum Error {
    /// QUIC could not be set up.
    #[error(transparent)]
    Quic(#[from] quic::Error),
    /// Noise could not be set up with this key.
    #[error("Noise: {0}")]
    Noise(#[from] noise::Error),
}

/// What a transport is made of.
pub struct Options {
    /// Who we are.
    pub keypair: Keypair,
    /// The socket for QUIC. Start its reader as well.
    pub socket: SharedSocket,
    /// Which addresses may be used.
    pub filter: AddressFilter,
    /// The client half of circuit relay v2, from [`relay::client::new`].
    pub relay: Option<relay::client::Transport>,
    /// Speak TCP too?
    pub tcp: bool,
    /// Reach others by TCP through this proxy as well.
    pub proxy: Option<Proxy>,
    /// Whom to dial how often; as often as anybody likes where there is none.
    pub dials: Option<DialBudget>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("peer", &self.keypair.public().to_peer_id())
            .field("socket", &self.socket.local_addr())
            .field("relay", &self.relay.is_some())
            .field("tcp", &self.tcp)
            .finish_non_exhaustive()
    }
}

/// Builds the transport. Must be called inside a tokio runtime.
///
/// # Errors
/// [`Error`]
pub fn transport(options: Options) -> Result<Boxed<(PeerId, StreamMuxerBox)>, Error> {
    let Options {
        keypair,
        socket,
        filter,
        relay,
        tcp,
        proxy,
        dials,
    } = options;
    let quic = QuicTransport::new(socket, &keypair)?
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
        .map_err(with_kind);
    let tcp = if tcp {
        // A message that waits for the acknowledgement of the one before it would double every round trip.
        let config = tcp::Config::default().nodelay(true);
        OptionalTransport::some(
            Carried::new(ProxiedTcp::new(tcp::tokio::Transport::new(config), proxy))
                .map_err(System)
                .upgrade(Version::V1Lazy)
                .authenticate(noise::Config::new(&keypair)?)
                .multiplex(yamux::Config::default())
                .timeout(UPGRADE_TIMEOUT)
                .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
                .map_err(with_kind),
        )
    } else {
        OptionalTransport::none()
    };
    let relay = match relay {
        Some(relay) => OptionalTransport::some(
            relay
                .upgrade(Version::V1Lazy)
                .authenticate(noise::Config::new(&keypair)?)
                .multiplex(yamux::Config::default())
                .timeout(UPGRADE_TIMEOUT)
                .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
                .map_err(with_kind),
        ),
        None => OptionalTransport::none(),
    };
    let all = relay
        .or_transport(quic)
        .map(|either, _| either.into_inner())
        .map_err(|either| either.into_inner())
        .or_transport(tcp)
        .map(|either, _| either.into_inner())
        .map_err(|either| either.into_inner());
    let all = Filtered::new(all, filter);
    Ok(match dials {
        Some(budget) => Budgeted::new(all, budget).boxed(),
        None => all.boxed(),
    })
}

/// A swarm on such a transport. Must be called inside a tokio runtime.
///
/// # Errors
/// [`Error`]
pub fn swarm<B: NetworkBehaviour>(options: Options, behaviour: B) -> Result<Swarm<B>, Error> {
    let peer = options.keypair.public().to_peer_id();
    let config = Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_TIMEOUT)
        .with_per_connection_event_buffer_size(CONNECTION_EVENTS);
    Ok(Swarm::new(transport(options)?, behaviour, peer, config))
}

/// The multiaddrs to listen on: QUIC on the socket's port, TCP on the others. On all addresses of this machine, or
/// on the one that the socket is bound to.
#[must_use]
pub fn listen_addresses(socket: &SharedSocket, tcp_ports: &[u16]) -> Vec<Multiaddr> {
    let any = match socket.local_addr().ip() {
        IpAddr::V4(ip) => vec![Protocol::Ip4(ip)],
        IpAddr::V6(ip) if ip.is_unspecified() => {
            vec![Protocol::Ip4(Ipv4Addr::UNSPECIFIED), Protocol::Ip6(ip)]
        }
        IpAddr::V6(ip) => vec![Protocol::Ip6(ip)],
    };
    let quic = any.iter().map(|ip| {
        Multiaddr::from(ip.clone())
            .with(Protocol::Udp(socket.port()))
            .with(Protocol::QuicV1)
    });
    let tcp = tcp_ports.iter().flat_map(|port| {
        any.iter()
            .map(|ip| Multiaddr::from(ip.clone()).with(Protocol::Tcp(*port)))
    });
    quic.chain(tcp).collect()
}

/// Listens on an address, and says what the system said when that fails: libp2p's own `listen_on` wraps the error
/// until nobody can tell a taken port from a forbidden one.
///
/// # Errors
/// `AddrInUse`, `PermissionDenied`, `AddrNotAvailable` and whatever else the system has.
pub fn listen<B: NetworkBehaviour>(
    swarm: &mut Swarm<B>,
    addr: Multiaddr,
) -> io::Result<ListenerId> {
    swarm.listen_on(addr).map_err(|e| {
        let kind = innermost_kind(&e).unwrap_or(io::ErrorKind::Other);
        match e {
            TransportError::MultiaddrNotSupported(addr) => io::Error::new(
                io::ErrorKind::Unsupported,
                format!("{addr} is not an address to listen on"),
            ),
            TransportError::Other(e) => io::Error::new(kind, e),
        }
    })
}

/// An error of the system that is its own source: libp2p wraps it into an `Either`, which passes on the source of
/// what it holds and hides that itself.
#[derive(Debug, Error)]
#[error("{0}")]
struct System(#[source] io::Error);

/// The error with the kind that the system gave it, which the layers above bury.
fn with_kind<E: StdError + Send + Sync + 'static>(e: E) -> io::Error {
    io::Error::new(innermost_kind(&e).unwrap_or(io::ErrorKind::Other), e)
}

/// The kind of the system's error somewhere inside this one.
fn innermost_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let Some(io) = error.downcast_ref::<io::Error>() else {
        return error.source().and_then(innermost_kind);
    };
    let inside = match io.get_ref() {
        Some(inner) => innermost_kind(inner),
        None => None,
    };
    inside.or(Some(io.kind()).filter(|kind| *kind != io::ErrorKind::Other))
}

/// Says goodbye to all peers and waits until they have been told, at most `deadline`. Without it they notice only
/// after their idle timeout.
pub async fn shutdown<B: NetworkBehaviour>(mut swarm: Swarm<B>, deadline: Duration) {
    let peers: Vec<PeerId> = swarm.connected_peers().copied().collect();
    for peer in peers {
        // The error says that the peer has left by itself.
        let _ = swarm.disconnect_peer_id(peer);
    }
    let gone = async {
        while swarm.network_info().num_peers() > 0 {
            if let SwarmEvent::ConnectionEstablished { peer_id, .. } =
                swarm.select_next_some().await
            {
                let _ = swarm.disconnect_peer_id(peer_id);
            }
        }
    };
    // Time is up or everybody knows: either way this is the end.
    let _ = tokio::time::timeout(deadline, gone).await;
}
