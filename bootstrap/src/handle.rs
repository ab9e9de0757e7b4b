//! Starting a bootstrap, and what its owner can do with it while it runs.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use kanpachi_common::org::Address;
use kanpachi_transport::{
    AddressFilter, Reader, SharedSocket,
    quic::address::from_multiaddr,
    remotes::Remotes,
    resolve,
    streams::IncomingStreams,
    swarm::{self, Options, listen, listen_addresses},
};
use libp2p::{Multiaddr, PeerId, Swarm, multiaddr::Protocol};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    Config, Mirror, StartError,
    behaviour::Behaviour,
    datagrams::Datagrams,
    reflector::{Beside, Reflector},
    relay::Relay,
    server::{Command, Parts, Server},
};

/// File of the mirror in the state directory.
const MIRROR_FILE: &str = "mirror.cbor";
/// How long the start waits for the system to list this machine's addresses.
const ADDRESSES_TIMEOUT: Duration = Duration::from_secs(2);
/// Commands that wait for the server.
const COMMANDS: usize = 64;

/// What the running server tells its owner. Short locks, never held across a wait.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) listen: RwLock<Vec<Multiaddr>>,
    pub(crate) external: RwLock<Vec<Multiaddr>>,
}

/// Says under which address a connected peer is seen.
pub type RemoteLookup = Arc<dyn Fn(&PeerId) -> Option<Multiaddr> + Send + Sync>;

/// The bootstrap as a service.
#[derive(Debug)]
pub struct Bootstrap;

/// A running bootstrap. Dropping the handle stops it, without a goodbye to its peers: see [`Handle::shutdown`].
#[derive(Debug)]
pub struct Handle {
    peer: PeerId,
    socket: SharedSocket,
    mirror: Mirror,
    relay: Option<Relay>,
    control: StreamControl,
    shared: Arc<Shared>,
    remotes: Remotes,
    commands: mpsc::Sender<Command>,
    ended: watch::Receiver<Option<Option<String>>>,
    server: Option<JoinHandle<()>>,
    own: Option<IncomingStreams>,
    /// Reads the second socket of the reflector.
    _second: Option<Reader>,
}

/// `kanpachi_transport::streams::Control` has no `Debug`.
#[derive(Clone)]
struct StreamControl(kanpachi_transport::streams::Control);

impl std::fmt::Debug for StreamControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl Bootstrap {
    /// Starts everything and returns when it listens. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn start(config: Config) -> Result<Handle, StartError> {
        let file = config.state_dir.as_ref().map(|dir| dir.join(MIRROR_FILE));
        let mirror = Mirror::open(config.org, file)?;
        let external = advertised(&config.advertise).await?;
        let socket = bind(&config)?;
        let relay = relay(&config, &socket, &mirror)?;
        let packets = relay.as_ref().map(Relay::packet_part);
        let beside = Arc::new(Beside::open(&socket));
        let reflector = Reflector::new(socket.clone(), Arc::clone(&beside));
        let reader = socket.spawn_reader(Datagrams::new(reflector, packets))?;
        let second = beside.spawn_reader()?;
        let filter = filter(&config, &mirror);
        let options = Options {
            keypair: config.keypair.clone(),
            socket: socket.clone(),
            filter: filter.clone(),
            relay: None,
            tcp: true,
            proxy: None,
            dials: None,
        };
        let behaviour = Behaviour::new(&config.keypair, &config.org, &mirror);
        let mut swarm = swarm::swarm(options, behaviour)?;
        let mut control = swarm.behaviour().streams.new_control();
        // Before anybody can connect, who would be told that there is no such thing.
        let streams = streams(&mirror, relay.clone(), &mut control);
        let owners = config.own.clone();
        let owners = owners.and_then(|own| control.accept(own).ok());
        let remotes = swarm.behaviour().remotes.remotes();
        listen_all(&mut swarm, &config, &socket)?;

        let shared = Arc::new(Shared::default());
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (end, ended) = watch::channel(None);
        let mut server = Server::new(Parts {
            swarm,
            reader,
            mirror: mirror.clone(),
            filter,
            shared: Arc::clone(&shared),
            commands: receiver,
            announce_listeners: config.advertise.is_empty(),
            announce_loopback: config.listen_ip.is_some_and(|ip| ip.is_loopback()),
        });
        server.add_external(external);
        server.wait_for_addresses(ADDRESSES_TIMEOUT).await;
        let own = read(&shared.listen);
        beside.set_addresses(own.iter().filter_map(from_multiaddr).map(|a| a.ip()));
        let server = tokio::spawn(async move {
            let streams = async {
                streams.await;
                // The server says when it is over.
                std::future::pending::<()>().await;
            };
            let why = tokio::select! {
                why = server.run() => why,
                () = streams => None,
            };
            end.send_replace(Some(why));
        });
        Ok(Handle {
            peer: config.keypair.public().to_peer_id(),
            socket,
            mirror,
            relay,
            control: StreamControl(control),
            shared,
            remotes,
            commands,
            ended,
            server: Some(server),
            own: owners,
            _second: second,
        })
    }
}

/// Opens the UDP socket.
fn bind(config: &Config) -> Result<SharedSocket, StartError> {
    let port = config.listen;
    match config.listen_ip {
        Some(ip) => SharedSocket::bind((ip, port).into()),
        None => SharedSocket::bind_port(port),
    }
    .map_err(|e| StartError::listen("UDP", port, e))
}

/// The relay, unless it is switched off.
fn relay(
    config: &Config,
    socket: &SharedSocket,
    mirror: &Mirror,
) -> Result<Option<Relay>, StartError> {
    let Some(limits) = config.relay else {
        return Ok(None);
    };
    let relay = Relay::new(socket.clone(), Arc::new(mirror.clone()), limits);
    relay.map(Some).map_err(|e| StartError::System(e.into()))
}

/// Serves mirror and relay.
fn streams(
    mirror: &Mirror,
    relay: Option<Relay>,
    control: &mut kanpachi_transport::streams::Control,
) -> impl Future<Output = ()> + use<> {
    let serving = crate::mirror::service::serve(mirror.clone(), control);
    let relaying = relay.map(|relay| relay.serve(control, mirror.watch()));
    async move {
        match relaying {
            Some(relaying) => {
                tokio::join!(serving, relaying);
            }
            None => serving.await,
        }
    }
}

/// What the swarm may use: nothing of the overlay, and nothing the owner forbids.
fn filter(config: &Config, mirror: &Mirror) -> AddressFilter {
    let owner = config.filter.clone();
    let mirror = mirror.clone();
    AddressFilter::new(move |ip| {
        owner.allows_ip(ip) && !mirror.overlay().iter().any(|prefix| prefix.contains(ip))
    })
}

/// The addresses to advertise, names looked up.
async fn advertised(addresses: &[Address]) -> Result<Vec<Multiaddr>, StartError> {
    let mut all = Vec::new();
    for address in addresses {
        let found = resolve(address)
            .await
            .map_err(|source| StartError::Advertise {
                host: address.host.clone(),
                source,
            })?;
        all.extend(found);
    }
    Ok(all)
}

fn listen_all(
    swarm: &mut Swarm<Behaviour>,
    config: &Config,
    socket: &SharedSocket,
) -> Result<(), StartError> {
    // A free port means the same free port for both: what it prints is one address.
    let ports: Vec<u16> = config
        .listen_tcp
        .iter()
        .map(|port| if *port == 0 { socket.port() } else { *port })
        .collect();
    for addr in listen_addresses(socket, &ports) {
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

fn read<T: Clone>(lock: &RwLock<T>) -> T {
    // Values are replaced or changed in one step, so that no panic leaves half of one.
    lock.read().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Handle {
    /// Its libp2p identity.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.peer
    }

    /// The UDP socket: its port and counters.
    #[must_use]
    pub fn socket(&self) -> &SharedSocket {
        &self.socket
    }

    /// Where it listens, as of now.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        read(&self.shared.listen)
    }

    /// What it tells others about where it is, as of now.
    #[must_use]
    pub fn external_addresses(&self) -> Vec<Multiaddr> {
        read(&self.shared.external)
    }

    /// The streams of [`Config::own`], once; `None` also if relay or mirror have that name.
    pub const fn take_own(&mut self) -> Option<IncomingStreams> {
        self.own.take()
    }

    /// Opens and accepts streams in the same swarm: how a coordinator serves on the same port.
    #[must_use]
    pub fn stream_control(&self) -> kanpachi_transport::streams::Control {
        self.control.0.clone()
    }

    /// The mirror, to fill and to ask from inside the process.
    #[must_use]
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// The relay of data, unless it is switched off.
    #[must_use]
    pub fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// The address under which a connected peer is seen, of its newest direct connection.
    #[must_use]
    pub fn remote_address(&self, peer: &PeerId) -> Option<Multiaddr> {
        self.remotes.address(peer)
    }

    /// [`Handle::remote_address`] for somebody who outlives the borrow: the coordinator in the same process.
    #[must_use]
    pub fn remote_lookup(&self) -> RemoteLookup {
        let remotes = self.remotes.clone();
        Arc::new(move |peer| remotes.address(peer))
    }

    /// All connected peers and the addresses of their connections.
    #[must_use]
    pub fn peers(&self) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let peers = self.remotes.peers().into_iter();
        peers
            .map(|peer| (peer, self.remotes.addresses(&peer)))
            .collect()
    }

    /// Tells others about one more address, for example one that a router has mapped.
    pub async fn add_external_address(&self, addr: Multiaddr) {
        self.send(Command::AddExternal(addr)).await;
    }

    /// Stops telling about it.
    pub async fn remove_external_address(&self, addr: Multiaddr) {
        self.send(Command::RemoveExternal(addr)).await;
    }

    /// Closes all connections of a peer.
    pub async fn disconnect(&self, peer: PeerId) {
        self.send(Command::Disconnect(peer)).await;
    }

    async fn send(&self, command: Command) {
        // A server that has ended has nothing left to change.
        let _ = self.commands.send(command).await;
    }

    /// Waits until it has ended by itself; the reason is one sentence.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        let why = match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone().flatten(),
            // The task was torn down with its runtime, or panicked.
            Err(_) => None,
        };
        why.unwrap_or_else(|| "the bootstrap has stopped".to_owned())
    }

    /// Says goodbye to all peers and stops. Takes at most a second.
    ///
    /// # Panics
    /// With the panic of the server or its packet handler, if that is how it ended.
    pub async fn shutdown(mut self) {
        self.send(Command::Stop).await;
        if let Some(server) = self.server.take()
            && let Err(e) = server.await
            && let Ok(panic) = e.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}
