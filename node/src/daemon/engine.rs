//! The thread that owns the tunnels: it drives the sans-IO core with real time and real datagrams, and publishes
//! what the packet threads look things up in. It decides nothing about members; the core task tells it who they are.

mod command;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kanpachi_common::{
    NodeId, OrgId,
    wire::relay::{RelayMessage, datagram},
};
use kanpachi_proto::{
    netcheck::{Answered, Asker},
    relay::{self, Relays},
    tunnel::{self, PeerConfig, PeerStatus, Session, Tunnels},
};
use kanpachi_transport::{
    SharedSocket,
    reflect::{Response, Via},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::backlog::Backlog;
pub(super) use super::backlog::Event;
use super::park;
pub(super) use super::report::{Report, Traffic};
use crate::{
    clock,
    dataplane::{
        Dataplane, FromPeer, FromStranger, Inbox, Member, Parking, Publisher, RelayTable, Streamed,
        Waiting,
    },
    platform::{LocalAddress, PacketWriter, is_on_link},
};
pub(super) use command::{Command, FromRelay, Pong};

/// Commands waiting for the engine, at the most.
const QUEUE: usize = 256;
/// So many commands are carried out in one turn, so many messages of peers are handled, and of everybody else.
const COMMANDS: usize = 64;
const PEERS: usize = 64;
const OTHERS: usize = 32;
/// Pairs at rest are kept alive at the same moments by all nodes whose clocks are set.
const KEEPALIVE: Duration = tunnel::timers::PERSISTENT_KEEPALIVE;
/// How often timers go off at the most while this machine has no network.
const WITHOUT_NETWORK: Duration = Duration::from_secs(5);
/// Pings under way at once.
const MAX_PINGS: usize = 1024;

/// The handle of the thread.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// Of an engine that is a channel.
    #[cfg(test)]
    pub(super) fn deaf() -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(QUEUE);
        (Self { commands }, receiver)
    }

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
    /// Whether this machine has a network. `None` where nobody can tell: that is not the same as none.
    pub(super) network: Option<watch::Receiver<bool>>,
}

/// An open stream to a relay.
struct RelayStream {
    messages: mpsc::Sender<Box<RelayMessage>>,
    datagrams: mpsc::Sender<Streamed>,
    _held: oneshot::Sender<Infallible>,
}

/// The thread.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) thread: std::thread::JoinHandle<()>,
    /// Cancelled when it has ended, however.
    pub(super) ended: CancellationToken,
}

/// Starts the thread.
pub(super) fn start<W: PacketWriter + 'static>(
    parts: Parts<W>,
    stop: CancellationToken,
) -> std::io::Result<(Handle, mpsc::Receiver<Event>, Running)> {
    let (commands, command_rx) = mpsc::channel(QUEUE);
    let (events, event_rx) = mpsc::channel(QUEUE);
    let engine = Engine::new(parts, events)?;
    let ended = CancellationToken::new();
    let ending = ended.clone();
    let thread = std::thread::Builder::new()
        .name("tunnels".to_owned())
        .spawn(move || {
            let _ended = ending.drop_guard();
            park::run(engine.run(command_rx, stop));
        })?;
    let running = Running { thread, ended };
    Ok((Handle { commands }, event_rx, running))
}

fn seed() -> std::io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(std::io::Error::other)?;
    Ok(seed)
}

/// Returns when the core task has room for an event, or has ended.
async fn room(events: &mpsc::Sender<Event>) {
    drop(events.reserve().await);
}

/// What woke the engine.
enum Came {
    Command(Command),
    Peer(FromPeer),
    Waiting(Waiting),
    Stranger(FromStranger),
    Nothing,
}

struct Engine<W> {
    parts: Parts<W>,
    events: mpsc::Sender<Event>,
    relays: Relays,
    /// Where messages and datagrams for each relay with a stream go.
    streams: HashMap<NodeId, RelayStream>,
    parking: Parking,
    pings: HashMap<u64, (Instant, oneshot::Sender<Pong>)>,
    next_ping: u64,
    /// Live sessions, and what went through those that ended.
    sessions: HashMap<u32, Arc<Session>>,
    ended: BTreeMap<NodeId, Traffic>,
    /// Questions to reflectors.
    asker: Asker,
    /// When timers went off last.
    timed: Instant,
    /// Events that the core task had no room for yet.
    backlog: Backlog,
}

impl<W: PacketWriter + 'static> Engine<W> {
    fn new(parts: Parts<W>, events: mpsc::Sender<Event>) -> std::io::Result<Self> {
        Ok(Self {
            asker: Asker::new(seed()?),
            parts,
            events,
            relays: Relays::new(OrgId([0; 32]), seed()?),
            streams: HashMap::new(),
            parking: Parking::default(),
            pings: HashMap::new(),
            next_ping: 1,
            sessions: HashMap::new(),
            ended: BTreeMap::new(),
            timed: clock::now(),
            backlog: Backlog::default(),
        })
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        self.set_beat();
        while self.turn(&mut commands, &stop).await {}
        self.close();
    }

    /// Waits until there is something to do, and does so much of everything that there is. `false` at the end.
    async fn turn(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        stop: &CancellationToken,
    ) -> bool {
        let due = self.due();
        // Who comes first here comes one message earlier; what everybody gets of a turn is below.
        let came = tokio::select! {
            biased;
            () = stop.cancelled() => return false,
            command = commands.recv() => match command {
                Some(command) => Came::Command(command),
                None => return false,
            },
            Some(message) = self.parts.inbox.peers.recv() => Came::Peer(message),
            Some(waiting) = self.parts.inbox.waiting.recv() => Came::Waiting(waiting),
            () = park::until(due) => Came::Nothing,
            Some(message) = self.parts.inbox.strangers.recv() => Came::Stranger(message),
            () = room(&self.events), if !self.backlog.is_empty() => Came::Nothing,
        };
        // Older than whatever woke this task.
        for message in self.parts.inbox.later.take() {
            self.handle_peer(message);
        }
        match came {
            Came::Command(command) => self.carry_out(command),
            Came::Peer(message) => self.handle_peer(message),
            Came::Waiting(waiting) => self.handle_waiting(waiting),
            Came::Stranger(message) => self.handle_stranger(&message),
            Came::Nothing => {}
        }
        self.share(commands);
        if due.is_some_and(|at| at <= clock::now()) {
            self.handle_timeout();
        }
        self.drain_relays();
        self.drain();
        self.backlog.flush(&self.events);
        true
    }

    /// Takes a part of what waits: a flood of one kind makes the others wait for no more than its part. What this node
    /// is told of its members comes first, and peers come before strangers.
    fn share(&mut self, commands: &mut mpsc::Receiver<Command>) {
        for _ in 0..COMMANDS {
            let Ok(command) = commands.try_recv() else {
                break;
            };
            self.carry_out(command);
        }
        for _ in 0..PEERS {
            let Ok(message) = self.parts.inbox.peers.try_recv() else {
                break;
            };
            self.handle_peer(message);
        }
        for _ in 0..OTHERS {
            let Ok(waiting) = self.parts.inbox.waiting.try_recv() else {
                break;
            };
            self.handle_waiting(waiting);
        }
        for _ in 0..OTHERS {
            let Ok(message) = self.parts.inbox.strangers.try_recv() else {
                break;
            };
            self.handle_stranger(&message);
        }
    }

    /// The next command finds everything in the state that this one led to.
    fn carry_out(&mut self, command: Command) {
        self.handle_command(command);
        self.drain_relays();
        self.drain();
    }

    /// When timers go off next.
    fn due(&self) -> Option<Instant> {
        let timeouts = [
            self.parts.tunnels.poll_timeout(),
            self.parking.poll_timeout(),
            self.relays.poll_timeout(),
            self.asker.poll_timeout(),
        ];
        let next = timeouts.into_iter().flatten().min();
        next.map(|at| at.max(self.earliest()))
    }

    fn set_beat(&mut self) {
        let beat = clock::next_beat(KEEPALIVE);
        self.parts.tunnels.set_beat(beat);
        self.relays.set_beat(beat);
    }

    /// Timers do not go off before this. A machine without a network has nobody to send to; its clocks go on, slowly, and
    /// [`Command::NetworkChanged`] comes when there is one again.
    fn earliest(&self) -> Instant {
        let network = self.parts.network.as_ref();
        if network.is_none_or(|network| *network.borrow()) {
            return self.timed;
        }
        self.timed + WITHOUT_NETWORK
    }

    fn handle_command(&mut self, command: Command) {
        let now = clock::now();
        let tunnels = &mut self.parts.tunnels;
        match command {
            Command::Organisation(org) => {
                tunnels.set_org(org);
                self.relays.set_org(org);
            }
            Command::Members(members) => self.set_members(members, now),
            Command::Own(own) => self.parts.publisher.set_own(own),
            Command::Candidates(peer, candidates) => {
                tunnels.set_candidates(&peer, &candidates, now)
            }
            Command::Epochs(generation, epochs) => tunnels.set_epochs(generation, epochs, now),
            Command::Connect(peer) => self.connect(&peer, now),
            Command::Disconnect(peer) => {
                tunnels.disconnect(&peer, now);
                self.relays.set_wanted(&peer, false, now);
            }
            Command::NetworkChanged => {
                tracing::debug!("the network changed");
                self.relays.handle_network_change(now);
                tunnels.handle_network_change(now);
            }
            Command::Relays(relays) => self.relays.set_relays(&relays, now),
            Command::Proofs(proofs, manifest) => {
                self.relays.set_proofs(proofs, manifest.map(|m| *m));
            }
            Command::Nat(nat) => tunnels.set_nat(nat, now),
            Command::PeerNat(peer, nat) => tunnels.set_peer_nat(&peer, nat, now),
            Command::RelayStream(relay, news) => self.handle_stream(relay, news, now),
            Command::Reflect(reflectors) => self.reflect(&reflectors, now),
            Command::Ping(peer, reply) => self.ping(&peer, reply, now),
            Command::Status(reply) => {
                let _ = reply.send(self.report(now));
            }
        }
    }

    fn report(&self, now: Instant) -> Report {
        let tunnels = &self.parts.tunnels;
        let peers: BTreeMap<NodeId, PeerStatus> = tunnels
            .peers()
            .filter_map(|peer| Some((peer, tunnels.status(&peer, now)?)))
            .collect();
        let via = |(peer, status): (&NodeId, &PeerStatus)| {
            let tunnel::PathState::Up { endpoint, .. } = status.state else {
                return None;
            };
            Some((*peer, self.relays.relay_of(endpoint)?))
        };
        Report {
            via: peers.iter().filter_map(via).collect(),
            peers,
            counters: tunnels.counters(),
            traffic: self.traffic(),
            relays: self.relays.status(),
        }
    }

    /// Keeps a tunnel to a peer from now on, over relays while there is nothing better.
    fn connect(&mut self, peer: &NodeId, now: Instant) {
        self.relays.set_wanted(peer, true, now);
        self.parts.tunnels.connect(peer, now);
    }

    fn handle_stream(&mut self, relay: NodeId, news: FromRelay, now: Instant) {
        match news {
            FromRelay::Open {
                messages,
                datagrams,
                held,
            } => {
                let stream = RelayStream {
                    messages,
                    datagrams,
                    _held: held,
                };
                self.streams.insert(relay, stream);
                self.relays.handle_stream(relay, now);
            }
            FromRelay::Alive => self.relays.handle_data(relay, now),
            FromRelay::Said(message) => self.relays.handle_message(relay, *message, now),
            FromRelay::Closed => {
                self.streams.remove(&relay);
                self.relays.handle_stream_closed(relay);
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
        self.relays
            .set_peers(members.iter().map(|(_, m)| m.node_id), now);
        for (config, _) in members {
            self.parts.tunnels.set_peer(config, now);
        }
    }

    fn handle_peer(&mut self, message: FromPeer) {
        let now = clock::now();
        match message {
            FromPeer::Control { receipt, payload } => {
                self.parts
                    .tunnels
                    .handle_opened_control(receipt, &payload, now);
            }
            FromPeer::Attended {
                receipt,
                payload,
                at,
            } => self.parts.tunnels.handle_attended(receipt, &payload, at),
            FromPeer::Woken { local_index } => self.parts.tunnels.handle_woken(local_index, now),
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
        if message.datagram.first() == Some(&datagram::BOUND) {
            return self
                .relays
                .handle_answer(message.from, &message.datagram, clock::now());
        }
        let (from, bytes, now) = (message.from, &message.datagram, clock::now());
        if Response::decode(bytes).is_none() {
            return self.parts.tunnels.handle_datagram(from, bytes, now);
        }
        let answered = self.asker.handle_datagram(from, bytes, now);
        if let Some(Answered { to, observed, .. }) = answered {
            self.backlog.push(Event::Reflected {
                reflector: to,
                observed,
            });
        }
    }

    fn handle_waiting(&mut self, waiting: Waiting) {
        let (now, peer) = (clock::now(), waiting.peer);
        let (dataplane, publisher) = (&self.parts.dataplane, &self.parts.publisher);
        if dataplane.send_or_park(publisher, &mut self.parking, waiting, now) {
            self.connect(&peer, now);
        }
    }

    fn handle_timeout(&mut self) {
        let now = clock::now();
        self.timed = now;
        // The wall clock may have been set since.
        self.set_beat();
        let expired = self.parking.expire(now);
        self.parts.dataplane.counters().drop_waiting.add(expired);
        self.pings.retain(|_, (_, reply)| !reply.is_closed());
        self.relays.handle_timeout(now);
        self.parts.tunnels.handle_timeout(now);
        self.asker.handle_timeout(now);
    }

    fn ping(&mut self, peer: &NodeId, reply: oneshot::Sender<Pong>, now: Instant) {
        let token = self.next_ping;
        self.next_ping += 1;
        self.connect(peer, now);
        if self.pings.len() < MAX_PINGS && self.parts.tunnels.ping(peer, token, now) {
            self.pings.insert(token, (now, reply));
        }
    }

    fn reflect(&mut self, reflectors: &[SocketAddr], now: Instant) {
        if reflectors.is_empty() {
            self.asker.clear();
        }
        for to in reflectors {
            self.asker.ask(*to, Via::Same, now);
        }
    }

    /// Carries out what the relays want.
    fn drain_relays(&mut self) {
        let now = clock::now();
        let mut table = false;
        while let Some(output) = self.relays.poll_output() {
            match output {
                relay::Output::Table => table = true,
                relay::Output::Transmit(transmit) => {
                    if let Err(error) = self.parts.socket.send(transmit.to, &transmit.data, None) {
                        tracing::trace!(to = %transmit.to, %error, "not sent");
                    }
                }
                relay::Output::Say(relay, message) => self.say(relay, message),
                relay::Output::Reopen(relay) => {
                    tracing::debug!(%relay, "the relay does not answer on its stream");
                    self.streams.remove(&relay);
                }
                relay::Output::Ways(peer, ways) => {
                    self.publish_relays();
                    self.parts.tunnels.set_relayed(&peer, &ways, now);
                }
            }
        }
        if table {
            self.publish_relays();
        }
    }

    fn say(&mut self, relay: NodeId, message: Box<RelayMessage>) {
        let full = self
            .streams
            .get(&relay)
            .is_some_and(|stream| stream.messages.try_send(message).is_err());
        if full {
            // What is not said would be waited for. The stream is opened again, and all is said anew.
            tracing::debug!(%relay, "the relay does not read");
            self.streams.remove(&relay);
            self.relays.handle_stream_closed(relay);
        }
    }

    fn publish_relays(&self) {
        let streams = self.streams.iter();
        let streams = streams.map(|(relay, stream)| (*relay, stream.datagrams.clone()));
        let table = RelayTable::new(&self.relays.table(), &streams.collect());
        self.parts.dataplane.set_relays(table);
    }

    /// Carries out what the tunnels want.
    fn drain(&mut self) {
        while let Some(event) = self.parts.tunnels.poll_event() {
            if let tunnel::Event::EndpointChanged {
                peer,
                endpoint,
                kind,
            } = &event
            {
                tracing::debug!(%peer, %endpoint, ?kind, "path");
            }
            self.parts.publisher.apply(&event);
            if let tunnel::Event::SessionUp { peer, .. } = &event {
                let (dataplane, publisher) = (&self.parts.dataplane, &self.parts.publisher);
                dataplane.send_parked(publisher, &mut self.parking, peer);
            }
            self.note(event);
        }
        while let Some(transmit) = self.parts.tunnels.poll_transmit() {
            // An address that cannot be reached right now is one candidate less; the timers see to the rest.
            let sent = self.parts.dataplane.transmit(transmit.to, &transmit.data);
            if let Err(error) = sent {
                tracing::trace!(to = %transmit.to, %error, "not sent");
            }
        }
        while let Some((to, data)) = self.asker.poll_transmit() {
            // It is asked again.
            let _ = self.parts.socket.send(to, &data, None);
        }
        while self.asker.poll_silent().is_some() {}
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
            tunnel::Event::OpenSockets { peer, attempt, to } => {
                if let Err(error) = self.parts.dataplane.open_sockets(attempt, to) {
                    tracing::debug!(%peer, %error, "no birthday punch");
                }
            }
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
            } => {
                let endpoint = self.parts.dataplane.leads_to(endpoint).unwrap_or(endpoint);
                self.backlog.push(Event::Up(peer, endpoint));
            }
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
            tunnel::Event::Trouble { .. } => {
                self.doubt_relays();
                self.backlog.push(Event::Trouble);
            }
            tunnel::Event::Unanswered { .. } => self.doubt_relays(),
            tunnel::Event::Observed { peer, addr } => {
                self.backlog.push(Event::Observed(peer, addr));
            }
            tunnel::Event::Pong {
                token,
                endpoint,
                rtt,
                ..
            } => {
                if let Some((_, reply)) = self.pings.remove(&token) {
                    let on_link = is_on_link(&self.parts.local.borrow(), endpoint.ip());
                    let relay = self.relays.relay_of(endpoint);
                    let endpoint = self.parts.dataplane.leads_to(endpoint).unwrap_or(endpoint);
                    let _ = reply.send(Pong {
                        endpoint,
                        rtt,
                        relay,
                        on_link,
                    });
                }
            }
            _ => {}
        }
    }

    fn doubt_relays(&mut self) {
        self.relays.handle_doubt(clock::now());
        self.drain_relays();
    }

    /// Says goodbye, so that nobody sends to a node that is gone.
    fn close(&mut self) {
        let now = clock::now();
        let peers: Vec<NodeId> = self.parts.tunnels.peers().collect();
        for peer in peers {
            self.parts.tunnels.disconnect(&peer, now);
        }
        self.drain();
    }
}

#[cfg(test)]
mod tests;
