//! The libp2p side of the node: logging in, the DHT, the LAN, relays. One task owns the swarm; it is told what to
//! do by [`Command`] and tells what happened by [`Event`], and decides nothing itself.

mod addresses;
mod backlog;
mod calls;
mod cut;
mod dial;
mod direct;
mod discovery;
mod records;
mod relays;
mod sightings;
mod standing;
mod trickle;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use futures::StreamExt as _;
use kanpachi_common::{
    NodeId, OrgId, SecretKey,
    org::{Address, transports},
    wire::member::{Ask, MemberMessage},
};
use kanpachi_proto::{login::Attempt, records as records_core};
use kanpachi_transport::{
    AddressFilter, DialBudget, Proxy, SharedSocket, keypair_from_seed, peer_id, swarm as stack,
};
use libp2p::{
    Multiaddr, PeerId, Swarm, identify, mdns, relay,
    swarm::{ConnectionId, SwarmEvent},
};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::behaviour::{Behaviour, BehaviourEvent, ForKnownEvent, Members};
use super::control_io::Line;
use super::core::NativeWriter;
use super::{engine, member_io, relaying::Relaying};
use crate::dataplane::Dataplane;
use addresses::relay_of;
pub(super) use addresses::{quic_addr, tcp_addr, web_addr};
use backlog::Backlog;
pub(super) use dial::Whereabouts;
use dial::plain;
pub(super) use records::RecordEvent;
use sightings::Sightings;
pub(super) use standing::Way;

/// Commands waiting for the swarm task, at the most.
const QUEUE: usize = 256;
/// A TCP dial follows a QUIC dial to the same place after this: UDP may be blocked there.
const TCP_DELAY: Duration = Duration::from_millis(400);
/// And WebSocket this much: TCP that is let in but not through may be long in failing.
const WEB_DELAY: Duration = Duration::from_millis(1200);
/// Peers are told that this node leaves, and waited for this long.
const GOODBYE: Duration = Duration::from_millis(500);
/// A circuit is kept for this long after the tunnel is up: the last answer may still be on its way.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often the routing table of the DHT is gone through, which connects to many. Members come into it by the rosters.
const REFRESH: Duration = Duration::from_secs(6 * 60 * 60);
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
    /// Where a member may be, for the routing table.
    Addresses(NodeId, Vec<SocketAddr>),
    /// What the records want of the DHT.
    Record(records_core::Action),
    /// Where this node may be reached.
    Own(Vec<SocketAddr>),
    /// Have a reservation at a member, which is dialled at these addresses unless it is connected.
    Stand { node: NodeId, at: Whereabouts },
    /// Have it no more.
    Leave(NodeId),
    /// Reach a member over a relay, so that both sides can punch.
    Introduce { node: NodeId, ways: Vec<Way> },
    /// A tunnel to a member is up that was introduced.
    Met(NodeId),
    /// Ask a member what is new, at these addresses and by these ways unless it is connected.
    Ask {
        node: NodeId,
        at: Whereabouts,
        ways: Vec<Way>,
        ask: Box<Ask>,
    },
    /// The relays to keep a stream to.
    Relays(Vec<NodeId>),
    /// A drill: have nothing to do with any server, until told otherwise.
    CutOff(bool),
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A control stream is open, or a frame came on it, or it ended.
    Line { attempt: Attempt, line: Line },
    /// Somebody sees our UDP packets come from here.
    Observed(NodeId, SocketAddr),
    /// mDNS saw a node on the local network.
    OnLan { node: NodeId, addr: SocketAddr },
    /// A node told its addresses (identify), over a relay or without one.
    Addresses {
        node: NodeId,
        addrs: Vec<SocketAddr>,
        relayed: bool,
    },
    /// A relay brought a member and this node together.
    Introduced(NodeId),
    /// A member gave this node a reservation.
    Stands(NodeId),
    /// It did not, or there is none any more.
    StandEnded(NodeId),
    /// A member relays, or does so no more (identify).
    Relaying { node: NodeId, relays: bool },
    /// Something about records in the DHT.
    Record(RecordEvent),
    /// A member asks what is new.
    Asked {
        node: NodeId,
        ask: Box<Ask>,
        reply: oneshot::Sender<Vec<MemberMessage>>,
    },
    /// A piece of a member's answer.
    Answer {
        node: NodeId,
        message: MemberMessage,
    },
    /// A question to a member ended.
    AskEnded { node: NodeId, answered: bool },
}

/// The handle of the task.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
    budget: DialBudget,
}

impl Handle {
    /// Tells the swarm what to do. Waits when it is behind.
    pub(super) async fn send(&self, command: Command) {
        // The task ends with the daemon; what is said after that has no addressee.
        let _ = self.commands.send(command).await;
    }

    /// A tunnel to a member is up there.
    pub(super) fn note_up(&self, node: NodeId, at: SocketAddr) {
        self.budget.note_up(&peer_id(node), at);
    }
}

/// What the swarm is made of.
pub(super) struct Setup {
    pub(super) identity: SecretKey,
    pub(super) org: OrgId,
    pub(super) socket: SharedSocket,
    pub(super) filter: AddressFilter,
    pub(super) tcp_port: u16,
    pub(super) mdns: bool,
    pub(super) proxy: Option<Proxy>,
    pub(super) engine: engine::Handle,
    pub(super) dataplane: Arc<Dataplane<NativeWriter>>,
    pub(super) relaying: Option<Relaying>,
}

/// Starts the task.
pub(super) fn start(
    setup: Setup,
    stop: CancellationToken,
) -> anyhow::Result<(Handle, mpsc::Receiver<Event>, JoinHandle<()>)> {
    let keys = keypair_from_seed(&setup.identity.seed());
    let local = keys.public().to_peer_id();
    let (relay_transport, relay) = relay::client::new(local);
    let allowed = Members::default();
    let behaviour = Behaviour::new(&keys, &setup.org, relay, &allowed, setup.mdns)?;
    let dials = DialBudget::default();
    let options = stack::Options {
        keypair: keys,
        socket: setup.socket.clone(),
        filter: setup.filter,
        relay: Some(relay_transport),
        tcp: true,
        proxy: setup.proxy,
        dials: Some(dials.clone()),
    };
    let mut swarm =
        stack::swarm(options, behaviour).context("cannot put the libp2p stack together")?;
    let mut control = swarm.behaviour().streams.new_control();
    if let Some(relaying) = &setup.relaying {
        relaying.serve(&mut control);
    }
    for addr in stack::listen_addresses(&setup.socket, &[setup.tcp_port]) {
        if let Err(error) = swarm.listen_on(addr.clone()) {
            tracing::debug!(%addr, %error, "not listening");
        }
    }
    let (commands, command_rx) = mpsc::channel(QUEUE);
    let (events, event_rx) = mpsc::channel(QUEUE);
    let serving = member_io::serve(control.clone(), events.clone(), Arc::clone(&allowed));
    tokio::spawn(serving);
    let task = Task {
        swarm,
        control,
        events,
        timers: mpsc::channel(QUEUE),
        attempts: BTreeMap::new(),
        dials: HashMap::new(),
        control_connections: HashMap::new(),
        opening: HashMap::new(),
        members: BTreeSet::new(),
        allowed,
        bootstraps: BTreeMap::new(),
        cut_off: false,
        shunned: Vec::new(),
        dht: records::Dht::default(),
        relays: relays::Links::new(setup.engine, setup.dataplane),
        places: standing::Places::default(),
        waiting: Backlog::default(),
        asks: HashMap::new(),
        asked: 0,
        on_lan: Sightings::default(),
        budget: dials.clone(),
    };
    let running = tokio::spawn(task.run(command_rx, stop));
    let handle = Handle {
        commands,
        budget: dials,
    };
    Ok((handle, event_rx, running))
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
    Dial {
        attempt: Attempt,
        addr: Multiaddr,
    },
    Reserve(PeerId),
    /// The member of this question has not answered, so others are asked to help.
    Introduce(NodeId, u64),
    Push,
    /// The bootstraps were asked for a record.
    Asked(records_core::Query),
    Met(NodeId),
    StandEnded(NodeId),
    /// Nobody is connected for this question.
    NotAsked(NodeId, u64),
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
    control: kanpachi_transport::streams::Control,
    events: mpsc::Sender<Event>,
    /// What the core had no room for, oldest first.
    waiting: Backlog,
    /// What members are to be asked that are not connected yet.
    asks: HashMap<PeerId, dial::Question>,
    asked: u64,
    /// Where mDNS saw whom: it says so once, and the roster may name that node only later.
    on_lan: Sightings,
    budget: DialBudget,
    timers: (mpsc::Sender<Later>, mpsc::Receiver<Later>),
    attempts: BTreeMap<Attempt, Dialled>,
    dials: HashMap<ConnectionId, Attempt>,
    /// Connections that control streams were opened on, for which attempt.
    control_connections: HashMap<ConnectionId, (PeerId, Attempt)>,
    /// Those on which one is being opened.
    opening: HashMap<ConnectionId, (PeerId, Attempt)>,
    members: BTreeSet<PeerId>,
    /// The same, for the relay.
    allowed: Members,
    bootstraps: BTreeMap<PeerId, Vec<Multiaddr>>,
    /// A drill is on.
    cut_off: bool,
    /// Servers that are blocked by it.
    shunned: Vec<PeerId>,
    dht: records::Dht,
    relays: relays::Links,
    places: standing::Places,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut refresh = tokio::time::interval(REFRESH);
        let events = self.events.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                event = self.swarm.select_next_some() => self.handle_swarm(event),
                command = commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => break,
                },
                Some(later) = self.timers.1.recv() => self.handle_later(later),
                Ok(room) = events.reserve(), if !self.waiting.is_empty() => {
                    if let Some(event) = self.waiting.pop() {
                        room.send(event);
                    }
                }
                _ = refresh.tick() => { let _ = self.kad().bootstrap(); }
            }
        }
        stack::shutdown(self.swarm, GOODBYE).await;
    }

    /// Tells the core, which is never waited for: it may be waiting for this task.
    fn tell(&mut self, event: Event) {
        let event = if self.waiting.is_empty() {
            match self.events.try_send(event) {
                Err(TrySendError::Full(event)) => event,
                Ok(()) | Err(TrySendError::Closed(_)) => return,
            }
        } else {
            event
        };
        self.waiting.push(event);
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
            Command::Dial { attempt, .. } if self.cut_off => self.fail_attempt(attempt),
            Command::Dial { attempt, address } => self.resolve(attempt, address),
            Command::Close(attempt) => {
                if let Some(dialled) = self.attempts.remove(&attempt) {
                    dialled.stop.cancel();
                }
            }
            Command::Members(members) => self.set_members(members),
            Command::Bootstraps(bootstraps) => self.set_bootstraps(bootstraps),
            Command::Addresses(node, addrs) => self.set_addresses(&node, &addrs),
            Command::Record(action) => self.handle_record_action(action),
            Command::Own(addrs) => self.set_own(addrs),
            Command::Stand { node, at } => self.stand(node, at),
            Command::Leave(node) => self.leave(&node),
            Command::Introduce { node, ways } => drop(self.introduce(&node, ways)),
            Command::Met(node) => self.later(FAREWELL, Later::Met(node)),
            Command::Ask {
                node,
                at,
                ways,
                ask,
            } => self.ask(node, &at, ways, ask),
            Command::Relays(relays) => self.set_relays(relays),
            Command::CutOff(cut_off) => self.set_cut_off(cut_off),
        }
    }

    fn handle_later(&mut self, later: Later) {
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
                    if transports & transports::TCP != 0 {
                        self.dial_later(TCP_DELAY, attempt, tcp_addr(addr));
                    }
                    if transports & transports::WEBSOCKET != 0 {
                        self.dial_later(WEB_DELAY, attempt, web_addr(addr));
                    }
                }
                self.check_failed(attempt);
            }
            Later::Dial { attempt, addr } => {
                if let Some(dialled) = self.attempts.get_mut(&attempt) {
                    dialled.pending -= 1;
                    if !dialled.open {
                        self.dial(attempt, addr);
                    }
                    self.check_failed(attempt);
                }
            }
            Later::Failed { attempt, reason } => {
                if let Some(dialled) = self.attempts.get_mut(&attempt) {
                    dialled.last_error = reason;
                }
                self.check_failed(attempt);
            }
            Later::Reserve(relay) => self.reserve_again(relay),
            Later::Introduce(node, number) => self.introduce_asked(node, number),
            Later::Push => self.push(),
            Later::Asked(query) => self.handle_asked(query),
            Later::Met(node) => self.end_circuits(&node),
            Later::StandEnded(node) => self.tell(Event::StandEnded(node)),
            Later::NotAsked(node, number) => self.give_up_asking(node, number),
        }
    }

    fn handle_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                self.note_connection(peer_id, connection_id, &endpoint);
                self.ask_connected(&peer_id);
                self.handle_connection(peer_id, connection_id);
                self.handle_called(connection_id, true);
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                peer_id,
            } => {
                self.note_dial_failure(connection_id);
                let again = self.handle_called(connection_id, false);
                if let Some(peer) = peer_id.filter(|_| !again) {
                    self.note_ask_failure(&peer, connection_id);
                }
                if let Some(attempt) = self.dials.remove(&connection_id) {
                    if let Some(dialled) = self.attempts.get_mut(&attempt) {
                        dialled.pending -= 1;
                        dialled.last_error = plain(&error);
                    }
                    self.check_failed(attempt);
                }
            }
            SwarmEvent::ConnectionClosed {
                connection_id,
                peer_id,
                num_established,
                ..
            } => {
                self.control_connections.remove(&connection_id);
                self.places.forget(&peer_id, connection_id);
                if num_established == 0 {
                    self.dht.servers.remove(&peer_id);
                }
            }
            SwarmEvent::NewListenAddr { address, .. }
            | SwarmEvent::ExpiredListenAddr { address, .. }
                if relay_of(&address).is_none() =>
            {
                self.push_soon();
            }
            SwarmEvent::ListenerClosed { listener_id, .. } => {
                self.note_listener_closed(listener_id);
            }
            SwarmEvent::Behaviour(event) => self.handle_behaviour(event),
            _ => {}
        }
    }

    fn handle_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                connection_id,
            }) => {
                let relayed = self.places.is_circuit(&peer_id, connection_id);
                if self.places.is_first_word(connection_id) {
                    self.handle_observed(&peer_id, &info);
                }
                self.handle_identified(peer_id, &info, relayed);
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => self.handle_on_lan(found),
            BehaviourEvent::Mdns(mdns::Event::Expired(gone)) => self.forget_on_lan(&gone),
            BehaviourEvent::ForKnown(ForKnownEvent::Kad(event)) => self.handle_kad(event),
            BehaviourEvent::ForKnown(ForKnownEvent::Relay(
                relay::client::Event::ReservationReqAccepted { relay_peer_id, .. },
            )) => self.note_reservation(relay_peer_id),
            BehaviourEvent::Control(event) => self.handle_control(event),
            BehaviourEvent::ForKnown(event) => tracing::debug!(?event, "relaying and punching"),
            _ => {}
        }
    }

    /// Tells the gate whom it lets pass.
    fn meet(&mut self) {
        let servers: BTreeSet<PeerId> = self.bootstraps.keys().copied().collect();
        let known = servers.union(&self.members).copied().collect();
        self.budget.set_known(servers, &self.members);
        self.swarm.behaviour_mut().for_known.set_known(known);
    }

    fn set_members(&mut self, members: BTreeSet<PeerId>) {
        self.allowed.store(Arc::new(members.clone()));
        let before = std::mem::replace(&mut self.members, members);
        self.meet();
        self.greet_on_lan(&before);
        for gone in before.difference(&self.members) {
            if !self.bootstraps.contains_key(gone) {
                let kad = &mut self.swarm.behaviour_mut().for_known.inner_mut().kad;
                kad.remove_peer(gone);
            }
        }
    }
}
