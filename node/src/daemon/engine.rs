//! The thread that owns the tunnels: it drives the sans-IO core with real time and real datagrams, and publishes
//! what the packet threads look things up in. It decides nothing about members; the core task tells it who they are.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kanpachi_common::{NetworkId, NodeId, OrgId};
use kanpachi_proto::{
    path::Candidate,
    tunnel::{self, Counters, PeerConfig, PeerStatus, Session, Tunnels},
};
use kanpachi_transport::{SharedSocket, reflect};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    dataplane::{
        Dataplane, FromPeer, FromStranger, Inbox, Member, Own, Parking, Publisher, Waiting,
    },
    platform::{LocalAddress, PacketWriter, is_on_link},
};

/// Commands waiting for the engine, at the most.
const QUEUE: usize = 256;
/// Messages of strangers handled in one go, between which nobody else gets a turn.
const STRANGERS: usize = 32;
/// Pings under way at once.
const MAX_PINGS: usize = 1024;

/// What the engine is told.
#[derive(Debug)]
pub(super) enum Command {
    /// The organisation is known now.
    Organisation(OrgId),
    /// Everybody this node may talk to. Whoever is not among them any more loses its session at once.
    Members(Vec<(PeerConfig, Member)>),
    /// This node's own overlay addresses.
    Own(Own),
    /// Where a peer may be reached.
    Candidates(NodeId, Vec<Candidate>),
    /// The rosters held, told to every peer.
    Epochs(u64, Vec<(NetworkId, u64)>),
    /// A peer is online: keep a tunnel to it.
    Connect(NodeId),
    /// A peer is gone: no tunnel is kept.
    Disconnect(NodeId),
    /// The addresses of this machine changed.
    NetworkChanged,
    /// Ask these reflectors how they see us.
    Reflect(Vec<SocketAddr>),
    /// Measure a round trip inside the tunnel. Dropped without a word when there is none.
    Ping(NodeId, oneshot::Sender<Pong>),
    /// How every peer is.
    Status(oneshot::Sender<Report>),
}

/// An answered ping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pong {
    pub(super) endpoint: SocketAddr,
    pub(super) rtt: Duration,
    /// Is the endpoint on a network that this machine is on?
    pub(super) on_link: bool,
}

/// How every peer is.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) peers: BTreeMap<NodeId, PeerStatus>,
    pub(super) counters: Counters,
    pub(super) traffic: BTreeMap<NodeId, Traffic>,
}

/// Bytes of tunnel datagrams since the daemon started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

impl Traffic {
    fn add(&mut self, session: &Session) {
        let stats = session.stats();
        self.rx_bytes += stats.rx_bytes;
        self.tx_bytes += stats.tx_bytes;
    }
}

/// What the core task should know.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A tunnel is up, at this address.
    Up(NodeId, SocketAddr),
    /// A tunnel that should be up is not.
    Down(NodeId),
    /// A peer holds these rosters.
    Epochs {
        peer: NodeId,
        generation: u64,
        epochs: Vec<(NetworkId, u64)>,
    },
    /// A peer or a reflector sees our packets come from here.
    Observed(SocketAddr),
}

/// The handle of the thread.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// Tells the engine something. Waits when it is behind.
    pub(super) async fn send(&self, command: Command) {
        // The engine ends with the daemon; what is said after that has no addressee.
        let _ = self.commands.send(command).await;
    }

    /// How every peer is; `None` while the daemon stops.
    pub(super) async fn report(&self) -> Option<Report> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Status(sender)).await;
        receiver.await.ok()
    }
}

/// What the engine works with.
pub(super) struct Parts<W> {
    pub(super) tunnels: Tunnels,
    pub(super) dataplane: Arc<Dataplane<W>>,
    pub(super) publisher: Publisher,
    pub(super) inbox: Inbox,
    pub(super) socket: SharedSocket,
    pub(super) local: watch::Receiver<Arc<[LocalAddress]>>,
}

/// Starts the thread.
pub(super) fn start<W: PacketWriter + 'static>(
    parts: Parts<W>,
    stop: CancellationToken,
) -> std::io::Result<(Handle, mpsc::Receiver<Event>, std::thread::JoinHandle<()>)> {
    let (commands, command_rx) = mpsc::channel(QUEUE);
    let (events, event_rx) = mpsc::channel(QUEUE);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let engine = Engine {
        parts,
        events,
        parking: Parking::default(),
        pings: HashMap::new(),
        next_ping: 1,
        sessions: HashMap::new(),
        ended: BTreeMap::new(),
        asked: Vec::new(),
        backlog: Vec::new(),
    };
    let thread = std::thread::Builder::new()
        .name("tunnels".to_owned())
        .spawn(move || runtime.block_on(engine.run(command_rx, stop)))?;
    Ok((Handle { commands }, event_rx, thread))
}

struct Engine<W> {
    parts: Parts<W>,
    events: mpsc::Sender<Event>,
    parking: Parking,
    pings: HashMap<u64, (Instant, oneshot::Sender<Pong>)>,
    next_ping: u64,
    /// Live sessions, and what went through those that ended.
    sessions: HashMap<u32, Arc<Session>>,
    ended: BTreeMap<NodeId, Traffic>,
    /// Questions to reflectors that are not answered yet.
    asked: Vec<(reflect::TransactionId, SocketAddr)>,
    /// Events that the core task had no room for yet. Bounded by what one step of the tunnels can say.
    backlog: Vec<Event>,
}

impl<W: PacketWriter> Engine<W> {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut strangers = Vec::with_capacity(STRANGERS);
        loop {
            let timeout = [
                self.parts.tunnels.poll_timeout(),
                self.parking.poll_timeout(),
            ]
            .into_iter()
            .flatten()
            .min();
            // Peers come before strangers: a flood of handshakes does not make anybody wait who has a session.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(message) = self.parts.inbox.peers.recv() => self.handle_peer(message),
                command = commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => break,
                },
                Some(waiting) = self.parts.inbox.waiting.recv() => self.handle_waiting(waiting),
                () = super::clock::until(timeout) => self.handle_timeout(),
                1.. = self.parts.inbox.strangers.recv_many(&mut strangers, STRANGERS) => {
                    for message in strangers.drain(..) {
                        self.handle_stranger(&message);
                    }
                }
            }
            self.drain();
            self.flush();
        }
        self.close();
    }

    fn handle_command(&mut self, command: Command) {
        let now = Instant::now();
        let tunnels = &mut self.parts.tunnels;
        match command {
            Command::Organisation(org) => tunnels.set_org(org),
            Command::Members(members) => self.set_members(members, now),
            Command::Own(own) => self.parts.publisher.set_own(own),
            Command::Candidates(peer, candidates) => {
                tunnels.set_candidates(&peer, &candidates, now)
            }
            Command::Epochs(generation, epochs) => tunnels.set_epochs(generation, epochs, now),
            Command::Connect(peer) => tunnels.connect(&peer, now),
            Command::Disconnect(peer) => tunnels.disconnect(&peer, now),
            Command::NetworkChanged => tunnels.handle_network_change(now),
            Command::Reflect(reflectors) => self.reflect(&reflectors),
            Command::Ping(peer, reply) => self.ping(&peer, reply, now),
            Command::Status(reply) => {
                let peers = tunnels
                    .peers()
                    .filter_map(|peer| Some((peer, tunnels.status(&peer, now)?)))
                    .collect();
                let counters = tunnels.counters();
                let _ = reply.send(Report {
                    peers,
                    counters,
                    traffic: self.traffic(),
                });
            }
        }
    }

    fn set_members(&mut self, members: Vec<(PeerConfig, Member)>, now: Instant) {
        let tunnels = &mut self.parts.tunnels;
        let gone: Vec<NodeId> = tunnels
            .peers()
            .filter(|peer| !members.iter().any(|(_, m)| m.node_id == *peer))
            .collect();
        for peer in gone {
            tunnels.remove_peer(&peer, now);
        }
        self.parts
            .publisher
            .set_members(members.iter().map(|(_, member)| *member));
        for (config, _) in members {
            self.parts.tunnels.set_peer(config, now);
        }
    }

    fn handle_peer(&mut self, message: FromPeer) {
        let now = Instant::now();
        match message {
            FromPeer::Control {
                local_index,
                from,
                counter,
                payload,
            } => {
                self.parts
                    .tunnels
                    .handle_opened_control(local_index, from, counter, &payload, now);
            }
            FromPeer::Authenticated {
                local_index,
                from,
                counter,
            } => {
                self.parts
                    .tunnels
                    .handle_authenticated(local_index, from, counter, now);
            }
        }
    }

    fn handle_stranger(&mut self, message: &FromStranger) {
        let Some((id, observed)) = reflect::decode_response(&message.datagram) else {
            return self.parts.tunnels.handle_datagram(
                message.from,
                &message.datagram,
                Instant::now(),
            );
        };
        // Only the reflector that was asked knows the number: nobody else can tell us where we are.
        if let Some(at) = self
            .asked
            .iter()
            .position(|(asked, to)| *asked == id && *to == message.from)
        {
            self.asked.swap_remove(at);
            self.backlog.push(Event::Observed(observed));
        }
    }

    fn handle_waiting(&mut self, waiting: Waiting) {
        let (now, peer) = (Instant::now(), waiting.peer);
        let (dataplane, publisher) = (&self.parts.dataplane, &self.parts.publisher);
        if dataplane.send_or_park(publisher, &mut self.parking, waiting, now) {
            self.parts.tunnels.connect(&peer, now);
        }
    }

    fn handle_timeout(&mut self) {
        let now = Instant::now();
        let expired = self.parking.expire(now);
        self.parts.dataplane.counters().drop_waiting.add(expired);
        self.pings.retain(|_, (_, reply)| !reply.is_closed());
        self.parts.tunnels.handle_timeout(now);
    }

    fn ping(&mut self, peer: &NodeId, reply: oneshot::Sender<Pong>, now: Instant) {
        let token = self.next_ping;
        self.next_ping += 1;
        self.parts.tunnels.connect(peer, now);
        if self.pings.len() < MAX_PINGS && self.parts.tunnels.ping(peer, token, now) {
            self.pings.insert(token, (now, reply));
        }
    }

    fn reflect(&mut self, reflectors: &[SocketAddr]) {
        self.asked.clear();
        for to in reflectors {
            let mut id = [0; 8];
            if getrandom::fill(&mut id).is_ok()
                && self
                    .parts
                    .socket
                    .send(*to, &reflect::encode_request(id), None)
                    .is_ok()
            {
                self.asked.push((id, *to));
            }
        }
    }

    /// Carries out what the tunnels want.
    fn drain(&mut self) {
        while let Some(event) = self.parts.tunnels.poll_event() {
            self.parts.publisher.apply(&event);
            if let tunnel::Event::SessionUp { peer, .. } = &event {
                let (dataplane, publisher) = (&self.parts.dataplane, &self.parts.publisher);
                dataplane.send_parked(publisher, &mut self.parking, peer);
            }
            self.note(event);
        }
        while let Some(transmit) = self.parts.tunnels.poll_transmit() {
            // An address that cannot be reached right now is one candidate less; the timers see to the rest.
            if let Err(error) = self.parts.socket.send(transmit.to, &transmit.data, None) {
                tracing::trace!(to = %transmit.to, %error, "not sent");
            }
        }
    }

    fn traffic(&self) -> BTreeMap<NodeId, Traffic> {
        let mut out = self.ended.clone();
        for session in self.sessions.values() {
            out.entry(session.peer()).or_default().add(session);
        }
        out
    }

    fn note(&mut self, event: tunnel::Event) {
        match event {
            tunnel::Event::SessionPending { session, .. }
            | tunnel::Event::SessionUp { session, .. } => {
                self.sessions.insert(session.local_index(), session);
            }
            tunnel::Event::SessionClosed {
                peer, local_index, ..
            } => {
                if let Some(session) = self.sessions.remove(&local_index) {
                    self.ended.entry(peer).or_default().add(&session);
                }
            }
            tunnel::Event::PathState {
                peer,
                state: tunnel::PathState::Up { endpoint, .. },
            } => self.backlog.push(Event::Up(peer, endpoint)),
            tunnel::Event::PathState {
                peer,
                state: tunnel::PathState::Down,
            } => self.backlog.push(Event::Down(peer)),
            tunnel::Event::Epochs {
                peer,
                generation,
                epochs,
            } => self.backlog.push(Event::Epochs {
                peer,
                generation,
                epochs,
            }),
            tunnel::Event::Observed { addr, .. } => self.backlog.push(Event::Observed(addr)),
            tunnel::Event::Pong {
                token,
                endpoint,
                rtt,
                ..
            } => {
                if let Some((_, reply)) = self.pings.remove(&token) {
                    let on_link = is_on_link(&self.parts.local.borrow(), endpoint.ip());
                    let _ = reply.send(Pong {
                        endpoint,
                        rtt,
                        on_link,
                    });
                }
            }
            _ => {}
        }
    }

    fn flush(&mut self) {
        for event in self.backlog.drain(..) {
            // The core task is never waited for: it may be waiting for us. What it misses it asks for with the status.
            if self.events.try_send(event).is_err() {
                tracing::debug!("the core task is behind");
            }
        }
    }

    /// Says goodbye, so that nobody sends to a node that is gone.
    fn close(&mut self) {
        let now = Instant::now();
        let peers: Vec<NodeId> = self.parts.tunnels.peers().collect();
        for peer in peers {
            self.parts.tunnels.disconnect(&peer, now);
        }
        self.drain();
    }
}
