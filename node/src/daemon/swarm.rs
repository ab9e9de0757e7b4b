//! The libp2p side of the node: logging in, the DHT, the LAN, relays. One task owns the swarm; it is told what to
//! do by [`Command`] and tells what happened by [`Event`], and decides nothing itself.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use futures::StreamExt as _;
use kanpachi_common::{NodeId, OrgId, SecretKey, org::Address, org::transports, wire::control};
use kanpachi_proto::login::Attempt;
use kanpachi_transport::{
    AddressFilter, SharedSocket, keypair_from_seed, node_id, peer_id, swarm as stack,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, identify,
    kad::{self, store::MemoryStore},
    mdns,
    multiaddr::Protocol,
    relay,
    swarm::{ConnectionId, SwarmEvent, dial_opts::DialOpts},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::behaviour::{Behaviour, BehaviourEvent, ForKnownEvent};
use super::control_io::{self, Line};

/// Commands waiting for the swarm task, at the most.
const QUEUE: usize = 256;
/// A TCP dial follows a QUIC dial to the same place after this: UDP may be blocked there.
const TCP_DELAY: Duration = Duration::from_millis(400);
/// Peers are told that this node leaves, and waited for this long.
const GOODBYE: Duration = Duration::from_millis(500);
/// How long after a lost relay reservation it is asked for again.
const RESERVE_AGAIN: Duration = Duration::from_secs(10);

/// What the swarm task is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Dial a coordinator and open the control stream.
    Dial { attempt: Attempt, address: Address },
    /// Forget an attempt: its stream is closed, its dials do not count any more.
    Close(Attempt),
    /// The bootstraps: DHT entry points and relays.
    Bootstraps(Vec<(PeerId, Vec<Multiaddr>)>),
    /// The members of our networks: nobody else is let into the routing table.
    Members(BTreeSet<PeerId>),
    /// Reach a member over a relay, so that both sides can punch.
    Introduce(NodeId),
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A control stream is open, or a frame came on it, or it ended.
    Line { attempt: Attempt, line: Line },
    /// Somebody sees our UDP packets come from here.
    Observed(SocketAddr),
    /// mDNS saw a node on the local network.
    OnLan { node: NodeId, addr: SocketAddr },
    /// A node told its addresses (identify).
    Addresses {
        node: NodeId,
        addrs: Vec<SocketAddr>,
    },
}

/// The handle of the task.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// Tells the swarm what to do. Waits when it is behind.
    pub(super) async fn send(&self, command: Command) {
        // The task ends with the daemon; what is said after that has no addressee.
        let _ = self.commands.send(command).await;
    }
}

/// What the swarm is made of.
pub(super) struct Setup {
    pub(super) identity: SecretKey,
    pub(super) org: OrgId,
    pub(super) socket: SharedSocket,
    pub(super) filter: AddressFilter,
    pub(super) tcp_port: u16,
}

/// Starts the task.
pub(super) fn start(
    setup: Setup,
    stop: CancellationToken,
) -> anyhow::Result<(Handle, mpsc::Receiver<Event>, JoinHandle<()>)> {
    let keys = keypair_from_seed(&setup.identity.seed());
    let local = keys.public().to_peer_id();
    let (relay_transport, relay) = relay::client::new(local);
    let behaviour = Behaviour::new(&keys, &setup.org, relay)?;
    let options = stack::Options {
        keypair: keys,
        socket: setup.socket.clone(),
        filter: setup.filter,
        relay: Some(relay_transport),
        tcp: true,
    };
    let mut swarm =
        stack::swarm(options, behaviour).context("cannot put the libp2p stack together")?;
    let control = swarm.behaviour().streams.new_control();
    for addr in stack::listen_addresses(&setup.socket, &[setup.tcp_port]) {
        if let Err(error) = swarm.listen_on(addr.clone()) {
            tracing::debug!(%addr, %error, "not listening");
        }
    }
    let (commands, command_rx) = mpsc::channel(QUEUE);
    let (events, event_rx) = mpsc::channel(QUEUE);
    let task = Task {
        swarm,
        control,
        events,
        timers: mpsc::channel(QUEUE),
        attempts: BTreeMap::new(),
        dials: HashMap::new(),
        control_connections: HashMap::new(),
        members: BTreeSet::new(),
        bootstraps: BTreeMap::new(),
    };
    let running = tokio::spawn(task.run(command_rx, stop));
    Ok((Handle { commands }, event_rx, running))
}

/// A delayed step of the task's own.
#[derive(Debug)]
enum Later {
    Resolved {
        attempt: Attempt,
        addrs: Vec<SocketAddr>,
        transports: u8,
    },
    Failed {
        attempt: Attempt,
        reason: String,
    },
    DialTcp {
        attempt: Attempt,
        addr: SocketAddr,
    },
    Reserve(PeerId),
}

#[derive(Debug, Default)]
struct Dialled {
    /// Dials under way.
    pending: usize,
    /// Tells the stream's task to end.
    stop: CancellationToken,
    /// A connection is there, the stream has its own task.
    open: bool,
    last_error: String,
}

struct Task {
    swarm: Swarm<Behaviour>,
    control: libp2p_stream::Control,
    events: mpsc::Sender<Event>,
    timers: (mpsc::Sender<Later>, mpsc::Receiver<Later>),
    attempts: BTreeMap<Attempt, Dialled>,
    dials: HashMap<ConnectionId, Attempt>,
    /// Connections that control streams were opened on.
    control_connections: HashMap<ConnectionId, PeerId>,
    members: BTreeSet<PeerId>,
    bootstraps: BTreeMap<PeerId, Vec<Multiaddr>>,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut refresh = tokio::time::interval(Duration::from_secs(300));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                event = self.swarm.select_next_some() => self.handle_swarm(event).await,
                command = commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => break,
                },
                Some(later) = self.timers.1.recv() => self.handle_later(later).await,
                _ = refresh.tick() => { let _ = self.kad().bootstrap(); }
            }
        }
        stack::shutdown(self.swarm, GOODBYE).await;
    }

    async fn tell(&mut self, event: Event) {
        let _ = self.events.send(event).await;
    }

    /// Tells what may be lost: it comes again.
    fn hint(&self, event: Event) {
        let _ = self.events.try_send(event);
    }

    fn later(&self, delay: Duration, later: Later) {
        let sender = self.timers.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let _ = sender.send(later).await;
        });
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Dial { attempt, address } => self.resolve(attempt, address),
            Command::Close(attempt) => {
                if let Some(dialled) = self.attempts.remove(&attempt) {
                    dialled.stop.cancel();
                }
            }
            Command::Members(members) => self.set_members(members),
            Command::Bootstraps(bootstraps) => self.set_bootstraps(bootstraps),
            Command::Introduce(node) => self.introduce(&node),
        }
    }

    /// Names are looked up outside the task: it may take seconds.
    fn resolve(&mut self, attempt: Attempt, address: Address) {
        self.attempts.insert(attempt, Dialled::default());
        let sender = self.timers.0.clone();
        tokio::spawn(async move {
            let later = match tokio::net::lookup_host((address.host.as_str(), address.port)).await {
                Ok(addrs) => Later::Resolved {
                    attempt,
                    addrs: addrs.take(4).collect(),
                    transports: address.transports,
                },
                Err(error) => Later::Failed {
                    attempt,
                    reason: format!("cannot find the address: {error}"),
                },
            };
            let _ = sender.send(later).await;
        });
    }

    async fn handle_later(&mut self, later: Later) {
        match later {
            Later::Resolved {
                attempt,
                addrs,
                transports,
            } => {
                for addr in addrs {
                    if transports & transports::QUIC != 0 {
                        self.dial(attempt, quic_addr(addr));
                    }
                    if transports & transports::TCP != 0
                        && let Some(dialled) = self.attempts.get_mut(&attempt)
                    {
                        dialled.pending += 1;
                        self.later(TCP_DELAY, Later::DialTcp { attempt, addr });
                    }
                }
                self.check_failed(attempt).await;
            }
            Later::DialTcp { attempt, addr } => {
                if let Some(dialled) = self.attempts.get_mut(&attempt) {
                    dialled.pending -= 1;
                    if !dialled.open {
                        self.dial(attempt, tcp_addr(addr));
                    }
                    self.check_failed(attempt).await;
                }
            }
            Later::Failed { attempt, reason } => {
                if let Some(dialled) = self.attempts.get_mut(&attempt) {
                    dialled.last_error = reason;
                }
                self.check_failed(attempt).await;
            }
            Later::Reserve(relay) => self.reserve(relay),
        }
    }

    fn dial(&mut self, attempt: Attempt, addr: Multiaddr) {
        let Some(dialled) = self.attempts.get_mut(&attempt) else {
            return;
        };
        let options = DialOpts::unknown_peer_id().address(addr).build();
        let connection = options.connection_id();
        // Which of its peers is the coordinator is known from the directory only, and before the first login not at all.
        self.swarm.behaviour_mut().for_known.expect(connection);
        match self.swarm.dial(options) {
            Ok(()) => {
                dialled.pending += 1;
                self.dials.insert(connection, attempt);
            }
            Err(error) => dialled.last_error = plain(&error),
        }
    }

    async fn check_failed(&mut self, attempt: Attempt) {
        let Some(dialled) = self.attempts.get(&attempt) else {
            return;
        };
        if !dialled.open && dialled.pending == 0 {
            let reason = dialled.last_error.clone();
            self.attempts.remove(&attempt);
            self.tell(Event::Line {
                attempt,
                line: Line::Failed(reason),
            })
            .await;
        }
    }

    async fn handle_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            } => self.handle_connection(peer_id, connection_id),
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => {
                if let Some(attempt) = self.dials.remove(&connection_id) {
                    if let Some(dialled) = self.attempts.get_mut(&attempt) {
                        dialled.pending -= 1;
                        dialled.last_error = plain(&error);
                    }
                    self.check_failed(attempt).await;
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                self.control_connections.remove(&connection_id);
            }
            SwarmEvent::ListenerClosed { addresses, .. } => {
                // A lost reservation shows up as a closed listener and is not asked for again by itself.
                for relay in addresses.iter().filter_map(relay_of) {
                    self.later(RESERVE_AGAIN, Later::Reserve(relay));
                }
            }
            SwarmEvent::Behaviour(event) => self.handle_behaviour(event),
            _ => {}
        }
    }

    fn handle_connection(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(attempt) = self.dials.remove(&connection) else {
            return;
        };
        let Some(dialled) = self
            .attempts
            .get_mut(&attempt)
            .filter(|dialled| !dialled.open)
        else {
            self.swarm.close_connection(connection);
            return;
        };
        dialled.pending -= 1;
        dialled.open = true;
        // A stream is opened on any connection to the peer, dead ones included: a killed coordinator leaves one
        // behind that would swallow the stream for as long as QUIC's idle timeout.
        let old: Vec<ConnectionId> = self
            .control_connections
            .iter()
            .filter(|(_, p)| **p == peer)
            .map(|(c, _)| *c)
            .collect();
        for connection in old {
            self.control_connections.remove(&connection);
            self.swarm.close_connection(connection);
        }
        self.control_connections.insert(connection, peer);
        let stop = dialled.stop.clone();
        let Some(node) = node_id(&peer) else {
            return;
        };
        let mut control = self.control.clone();
        let events = self.events.clone();
        tokio::spawn(async move {
            let protocol = StreamProtocol::new(control::PROTOCOL);
            match control.open_stream(peer, protocol).await {
                Ok(stream) => control_io::run(attempt, node, stream, events, stop).await,
                Err(error) => {
                    let line = Line::Failed(format!("there is no coordinator: {error}"));
                    let _ = events.send(Event::Line { attempt, line }).await;
                }
            }
        });
    }

    fn handle_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                let known =
                    self.members.contains(&peer_id) || self.bootstraps.contains_key(&peer_id);
                if let Some(addr) = quic_socket_addr(&info.observed_addr).filter(|_| known) {
                    self.hint(Event::Observed(addr));
                }
                if known
                    && info.protocols.iter().any(|p| {
                        self.swarm
                            .behaviour()
                            .for_known
                            .inner()
                            .kad
                            .protocol_names()
                            .contains(p)
                    })
                {
                    for addr in dialable(&info.listen_addrs) {
                        self.kad().add_address(&peer_id, addr.clone());
                    }
                }
                if let Some(node) = node_id(&peer_id).filter(|_| self.members.contains(&peer_id)) {
                    let addrs = info
                        .listen_addrs
                        .iter()
                        .filter_map(quic_socket_addr)
                        .collect();
                    self.hint(Event::Addresses { node, addrs });
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, addr) in found {
                    if let (Some(node), Some(addr)) = (node_id(&peer), quic_socket_addr(&addr)) {
                        self.hint(Event::OnLan { node, addr });
                    }
                }
            }
            BehaviourEvent::ForKnown(ForKnownEvent::Relay(
                relay::client::Event::ReservationReqAccepted { relay_peer_id, .. },
            )) => {
                tracing::info!(relay = %relay_peer_id, "reservation at a relay");
            }
            BehaviourEvent::ForKnown(ForKnownEvent::Dcutr(event)) => {
                tracing::debug!(?event, "hole punching");
            }
            _ => {}
        }
    }

    fn kad(&mut self) -> &mut kad::Behaviour<MemoryStore> {
        &mut self.swarm.behaviour_mut().for_known.inner_mut().kad
    }

    /// Tells the gate whom it lets pass.
    fn meet(&mut self) {
        let known = self.bootstraps.keys().chain(&self.members).copied();
        let known = known.collect();
        self.swarm.behaviour_mut().for_known.set_known(known);
    }

    fn set_members(&mut self, members: BTreeSet<PeerId>) {
        let before = std::mem::replace(&mut self.members, members);
        self.meet();
        for gone in before.difference(&self.members) {
            if !self.bootstraps.contains_key(gone) {
                let kad = &mut self.swarm.behaviour_mut().for_known.inner_mut().kad;
                kad.remove_peer(gone);
            }
        }
    }

    fn set_bootstraps(&mut self, bootstraps: Vec<(PeerId, Vec<Multiaddr>)>) {
        let before = std::mem::replace(&mut self.bootstraps, bootstraps.into_iter().collect());
        let local = *self.swarm.local_peer_id();
        let new: Vec<PeerId> = self
            .bootstraps
            .keys()
            .filter(|p| !before.contains_key(p) && **p != local)
            .copied()
            .collect();
        self.meet();
        let kad = &mut self.swarm.behaviour_mut().for_known.inner_mut().kad;
        for (peer, addrs) in &self.bootstraps {
            for addr in addrs {
                kad.add_address(peer, addr.clone());
            }
        }
        for peer in new {
            self.reserve(peer);
        }
        let _ = self.kad().bootstrap();
    }

    /// Asks a bootstrap for a relay reservation, so that members can be introduced to this node.
    fn reserve(&mut self, relay: PeerId) {
        let Some(addr) = self.bootstraps.get(&relay).and_then(|addrs| addrs.first()) else {
            return;
        };
        let addr = addr
            .clone()
            .with(Protocol::P2p(relay))
            .with(Protocol::P2pCircuit);
        if let Err(error) = self.swarm.listen_on(addr) {
            tracing::debug!(%relay, %error, "no reservation");
        }
    }

    fn introduce(&mut self, node: &NodeId) {
        let peer = peer_id(*node);
        if self.swarm.is_connected(&peer) {
            return;
        }
        let circuit = |(relay, addrs): (&PeerId, &Vec<Multiaddr>)| {
            Some(
                addrs
                    .first()?
                    .clone()
                    .with(Protocol::P2p(*relay))
                    .with(Protocol::P2pCircuit)
                    .with(Protocol::P2p(peer)),
            )
        };
        let addrs: Vec<Multiaddr> = self.bootstraps.iter().filter_map(circuit).collect();
        if !addrs.is_empty()
            && let Err(error) = self
                .swarm
                .dial(DialOpts::peer_id(peer).addresses(addrs).build())
        {
            tracing::debug!(%peer, %error, "no introduction");
        }
    }
}

fn ip(addr: IpAddr) -> Multiaddr {
    Multiaddr::from(addr.to_canonical())
}

/// The QUIC address of a socket address.
pub(super) fn quic_addr(addr: SocketAddr) -> Multiaddr {
    ip(addr.ip())
        .with(Protocol::Udp(addr.port()))
        .with(Protocol::QuicV1)
}

/// The TCP address of a socket address.
pub(super) fn tcp_addr(addr: SocketAddr) -> Multiaddr {
    ip(addr.ip()).with(Protocol::Tcp(addr.port()))
}

/// The UDP socket address of a direct QUIC address; `None` for circuits and other transports.
fn quic_socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let Protocol::Udp(port) = parts.next()? else {
        return None;
    };
    let direct = matches!(parts.next()?, Protocol::QuicV1)
        && !parts.any(|p| matches!(p, Protocol::P2pCircuit));
    direct.then(|| SocketAddr::new(ip.to_canonical(), port))
}

/// The addresses of a node that are worth dialling: QUIC where it has any. All addresses of a peer are dialled at
/// once, and two connections to everybody would be one too many.
fn dialable(addrs: &[Multiaddr]) -> impl Iterator<Item = &Multiaddr> {
    let any = addrs.iter().any(|addr| quic_socket_addr(addr).is_some());
    addrs
        .iter()
        .filter(move |addr| !any || quic_socket_addr(addr).is_some())
}

/// The relay in a circuit address.
fn relay_of(addr: &Multiaddr) -> Option<PeerId> {
    let mut parts = addr.iter();
    let relay = parts.find_map(|p| {
        if let Protocol::P2p(peer) = p {
            Some(peer)
        } else {
            None
        }
    })?;
    parts
        .any(|p| matches!(p, Protocol::P2pCircuit))
        .then_some(relay)
}

/// A dial error in words for people.
fn plain(error: &libp2p::swarm::DialError) -> String {
    use libp2p::swarm::DialError;
    match error {
        DialError::Transport(errors) => errors
            .last()
            .map_or_else(|| "no answer".to_owned(), |(_, e)| innermost(e)),
        other => other.to_string(),
    }
}

fn innermost(error: &libp2p::TransportError<std::io::Error>) -> String {
    let mut at: &dyn std::error::Error = error;
    while let Some(next) = at.source() {
        at = next;
    }
    at.to_string()
}
