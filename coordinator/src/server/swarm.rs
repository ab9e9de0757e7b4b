//! The swarm of a coordinator that runs by itself: control streams, identify, ping, and connections to bootstraps.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::StreamExt as _;
use kanpachi_common::{Prefix, org::Server};
use kanpachi_transport::{
    AddressFilter, DatagramHandler, Reader, SharedSocket, peer_id, pings, reflect, remotes,
    resolve,
    swarm::{self, Options, listen, listen_addresses, shutdown},
};
use libp2p::{
    Swarm,
    connection_limits::{self, ConnectionLimits},
    identify,
    identity::Keypair,
    multiaddr::Protocol,
    swarm::{NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Config, GOODBYE, StartError};
use crate::service::RemoteLookup;

/// Connections at once at the most.
const MAX_CONNECTIONS: u32 = 8192;
/// Of one peer: QUIC, TCP, and one that replaces a lost one; and as many again that died without a word when the peer was
/// killed and are not missed yet.
const MAX_CONNECTIONS_PER_PEER: u32 = 8;
/// Inbound handshakes at once.
const MAX_PENDING: u32 = 256;
/// Time between two exchanges of addresses with a peer that nothing new is heard of; news is told at once.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);
/// On TCP connections, which NATs forget after some minutes.
const PING_INTERVAL: Duration = Duration::from_secs(60);
/// How often bootstraps that are not connected are dialled.
const REDIAL: Duration = Duration::from_secs(10);

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    // First, so that it refuses before the others count a connection.
    limits: connection_limits::Behaviour,
    remotes: remotes::Behaviour,
    identify: identify::Behaviour,
    pings: pings::Behaviour,
    streams: kanpachi_transport::streams::Behaviour,
}

/// The swarm with everything that its event loop needs.
pub(super) struct Loop {
    swarm: Swarm<Behaviour>,
    socket: SharedSocket,
    reader: Reader,
    bootstraps: Vec<Server>,
    stop: CancellationToken,
}

/// Tells whoever asks the address that it was seen under: 32 bytes for 32 bytes.
struct Reflector(SharedSocket);

impl DatagramHandler for Reflector {
    fn handle(&mut self, from: SocketAddr, datagram: &mut [u8]) {
        if let Some(answer) = reflect::answer(from, datagram) {
            // An answer that is lost is asked for again.
            let _ = self.0.send(from, &answer, None);
        }
    }
}

impl Loop {
    /// Opens the ports.
    pub(super) fn bind(
        config: &Config,
        keypair: &Keypair,
        overlay: [Prefix; 2],
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let socket = SharedSocket::bind_port(config.listen)
            .map_err(|e| StartError::listen("UDP", config.listen, e))?;
        let reader = socket.spawn_reader(Reflector(socket.clone()))?;
        let options = Options {
            keypair: keypair.clone(),
            socket: socket.clone(),
            filter: AddressFilter::new(move |ip| !overlay.iter().any(|p| p.contains(ip))),
            relay: None,
            tcp: true,
            proxy: None,
            dials: None,
        };
        let mut swarm = swarm::swarm(options, behaviour(keypair))?;
        listen_all(&mut swarm, &socket, &config.listen_tcp)?;
        Ok(Self {
            swarm,
            socket,
            reader,
            bootstraps: config.bootstraps.clone(),
            stop,
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.socket.port()
    }

    pub(super) fn control(&self) -> kanpachi_transport::streams::Control {
        self.swarm.behaviour().streams.new_control()
    }

    /// The newest connection of a peer that is not relayed.
    pub(super) fn remote_lookup(&self) -> RemoteLookup {
        let remotes = self.swarm.behaviour().remotes.remotes();
        Arc::new(move |peer| remotes.address(peer))
    }

    /// Runs until it is told to stop, or until it cannot go on: then with the reason.
    pub(super) async fn run(mut self) -> Result<(), String> {
        let (dial, mut dials) = mpsc::channel(kanpachi_common::org::MAX_SERVERS);
        let mut redial = tokio::time::interval(REDIAL);
        let ended = loop {
            tokio::select! {
                () = self.stop.cancelled() => break Ok(()),
                event = self.swarm.select_next_some() => on_event(event),
                () = self.reader.ended() => break Err("the UDP socket of the coordinator failed".to_owned()),
                Some(opts) = dials.recv() => self.on_dial(opts),
                _ = redial.tick() => self.look_up_bootstraps(&dial),
            }
        };
        shutdown(self.swarm, GOODBYE).await;
        match (ended, self.reader.stop()) {
            (Err(_), Err(e)) => Err(format!("the UDP socket of the coordinator failed: {e}")),
            (ended, _) => ended,
        }
    }

    fn on_dial(&mut self, opts: DialOpts) {
        if let Err(error) = self.swarm.dial(opts) {
            tracing::debug!(%error, "a bootstrap is not dialled");
        }
    }

    /// Looks up the bootstraps that are not connected; what is found comes back to be dialled.
    fn look_up_bootstraps(&self, dial: &mpsc::Sender<DialOpts>) {
        for server in &self.bootstraps {
            let peer = peer_id(server.id);
            if self.swarm.is_connected(&peer) {
                continue;
            }
            let (server, dial) = (server.clone(), dial.clone());
            tokio::spawn(async move {
                let mut found = Vec::new();
                for address in &server.addresses {
                    match resolve(address).await {
                        Ok(addresses) => found.extend(addresses),
                        Err(error) => tracing::debug!(%address, %error, "cannot be looked up"),
                    }
                }
                let opts = DialOpts::peer_id(peer).addresses(found).build();
                // The loop has ended: nobody dials any more.
                let _ = dial.send(opts).await;
            });
        }
    }
}

fn on_event(event: SwarmEvent<BehaviourEvent>) {
    match event {
        SwarmEvent::NewListenAddr { address, .. } => tracing::debug!(%address, "listening"),
        SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
            tracing::debug!(?peer_id, %error, "a bootstrap cannot be reached");
        }
        // Nothing else concerns a coordinator: streams come by their own way.
        _ => {}
    }
}

fn behaviour(keypair: &Keypair) -> Behaviour {
    let agent = concat!("kanpachi-coordinator/", env!("CARGO_PKG_VERSION"));
    Behaviour {
        limits: connection_limits::Behaviour::new(
            ConnectionLimits::default()
                .with_max_pending_incoming(Some(MAX_PENDING))
                .with_max_established(Some(MAX_CONNECTIONS))
                .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER)),
        ),
        remotes: remotes::Behaviour::new(),
        identify: identify::Behaviour::new(
            identify::Config::new("/kanpachi/1".to_owned(), keypair.public())
                .with_agent_version(agent.to_owned())
                .with_interval(IDENTIFY_INTERVAL),
        ),
        pings: pings::Behaviour::new(PING_INTERVAL),
        streams: kanpachi_transport::streams::Behaviour::new(),
    }
}

fn listen_all(
    swarm: &mut Swarm<Behaviour>,
    socket: &SharedSocket,
    tcp_ports: &[u16],
) -> Result<(), StartError> {
    for addr in listen_addresses(socket, tcp_ports) {
        let tcp = addr.iter().find_map(|part| match part {
            Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        let (protocol, port) = match tcp {
            Some(port) => ("TCP", port),
            None => ("UDP", socket.port()),
        };
        match listen(swarm, addr) {
            Ok(_) => {}
            // An address family that this machine has switched off is no reason to stay down.
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {
                tracing::debug!(error = %e, "one address family is not available");
            }
            Err(e) => return Err(StartError::listen(protocol, port, e)),
        }
    }
    Ok(())
}
