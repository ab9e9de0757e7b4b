//! A simulated node: the state machines of the real one, put together as `node/src/daemon/core` and
//! `node/src/daemon/engine.rs` put them together.
//!
//! Left out is what has no place in a simulation: the swarm (DHT, mDNS, relays), reflectors, the control socket. What
//! the daemon hands from thread to thread happens here at once, in the same order.
//!
//! - this file: the machine, its process, what goes in and out;
//! - [`session`]: the login and what a coordinator says;
//! - [`members`]: rosters, who is a member, where peers may be;
//! - [`networks`]: changing networks, and being offline in some;
//! - [`spread`]: what members tell each other;
//! - [`packets`]: the packet path.

mod members;
mod networks;
mod packets;
mod session;
mod spread;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use kanpachi_common::{
    Candidate, NetworkId, NodeId, OrgId, Signed, UnixTime,
    invite::Invite,
    org::{Address, Directory, Manifest},
    wire::{frame::FrameReader, member::Ask},
};
use kanpachi_coordinator::decide::Now;
use kanpachi_proto::{
    login::{Attempt, Login, State},
    roster::{self, Peer, Rosters},
    spread::Spread,
    tunnel::{self, CloseReason, Event, LocalIdentity, Tunnels},
};

use super::{
    clock::{Clock, Wall},
    disk::Disk,
    sleep::Sleep,
};
use crate::rng::Rng;

pub use self::packets::{Drops, Own, Sending};

/// How often the daemon looks at what ages.
const TICK: Duration = Duration::from_secs(25);

/// What a node wants done, or wants known.
#[derive(Debug)]
pub enum Out {
    /// A datagram on the underlay.
    Datagram(SocketAddr, Vec<u8>),
    /// Dial a coordinator.
    Dial(Attempt, Address),
    /// Bytes on a control stream.
    Bytes(Attempt, Vec<u8>),
    /// Close a control stream.
    Close(Attempt),
    /// An inner packet came out of the tunnel of this peer and passed all checks.
    Deliver(NodeId, Vec<u8>),
    /// A question to a member, at one of these addresses.
    Ask {
        number: u64,
        peer: NodeId,
        to: Vec<SocketAddr>,
        ask: Box<Ask>,
    },
    /// A line for the log.
    Note(String),
}

/// A machine.
#[derive(Debug)]
pub struct Node {
    pub index: usize,
    /// Where it is on the underlay.
    pub addr: SocketAddr,
    pub disk: Disk,
    /// Its wall clock, which somebody may set.
    pub wall: Wall,
    /// Settings of the tunnels, for the next process.
    pub tunnels: tunnel::Config,
    /// Counts processes.
    pub life: u64,
    /// The running daemon.
    pub process: Option<Process>,
    /// The machine sleeps.
    pub asleep: Option<Sleep>,
    /// Time that the machine's monotonic clock has not counted.
    pub behind: Duration,
    outs: VecDeque<Out>,
    rng: Rng,
}

/// How a join went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// Nobody asked for one.
    Never,
    /// Under way.
    Waiting,
    /// The node is in.
    Done,
    /// It is in when an owner approves.
    AwaitsApproval,
    /// It is not, and why.
    Failed(String),
}

/// A join under way.
#[derive(Debug)]
struct Joining {
    invite: Box<Invite>,
    deadline: Instant,
    joined: Option<NetworkId>,
}

/// Everything that hangs on the organisation.
#[derive(Debug)]
pub struct Session {
    pub rosters: Rosters,
    pub login: Login,
    lines: BTreeMap<Attempt, FrameReader>,
    hints: Vec<Address>,
}

/// A running daemon: what is lost when it dies.
#[derive(Debug)]
pub struct Process {
    pub tunnels: Tunnels,
    pub session: Option<Session>,
    pub joined: Joined,
    /// Sessions that ended in this process, and why.
    pub closed: Vec<(NodeId, CloseReason)>,
    pub drops: Drops,
    packets: packets::Tables,
    boot: u64,
    peers: BTreeMap<NodeId, Peer>,
    online: BTreeMap<NodeId, Vec<Candidate>>,
    spread: Spread,
    asking: BTreeMap<u64, spread::Asking>,
    next_question: u64,
    /// No coordinator answers.
    alone: bool,
    observed: Vec<SocketAddr>,
    /// A join that was sent and is not answered.
    pending_join: Option<u64>,
    joining: Option<Joining>,
    offered: Option<(Signed<Manifest>, Signed<Directory>)>,
    next_tick: Instant,
    /// News could not be written: they are asked for again.
    unsaved: bool,
    /// A moment and its wall time, as the machine's clock showed it when the process began, or the coordinator's at
    /// the last welcome. What the machine's clock shows later is not asked.
    clock: (Instant, UnixTime),
}

impl Process {
    /// Wall time to judge expiry by. A clock that is set during the life of the process changes nothing.
    fn wall(&self, now: Instant) -> UnixTime {
        let (at, wall) = self.clock;
        wall.plus(now.saturating_duration_since(at).as_secs())
    }

    /// Rosters, once there is an organisation.
    pub fn rosters(&self) -> Option<&Rosters> {
        self.session.as_ref().map(|s| &s.rosters)
    }

    /// What was refused of what coordinators said.
    pub fn refused(&self) -> roster::Counters {
        self.rosters().map(Rosters::counters).unwrap_or_default()
    }

    /// Who may talk to this node, by the rosters that it holds.
    pub fn members(&self, now: Instant) -> BTreeMap<NodeId, Peer> {
        let wall = self.wall(now);
        self.rosters().map(|r| r.peers(wall)).unwrap_or_default()
    }

    /// Number of the current start, as it was written to disk.
    pub fn boot(&self) -> u64 {
        self.boot
    }
}

impl Node {
    pub fn new(index: usize, addr: SocketAddr, tunnels: tunnel::Config, mut rng: Rng) -> Self {
        Self {
            index,
            addr,
            disk: Disk::new(&mut rng),
            wall: Wall::default(),
            tunnels,
            life: 0,
            process: None,
            asleep: None,
            behind: Duration::ZERO,
            outs: VecDeque::new(),
            rng,
        }
    }

    pub fn id(&self) -> NodeId {
        self.disk.identity.node_id()
    }

    /// Now, by this machine's monotonic clock.
    pub fn now(&self, clock: &Clock) -> Instant {
        clock.now() - self.behind
    }

    /// State of the login, as `status` shows it.
    pub fn login(&self) -> Option<State> {
        Some(self.process.as_ref()?.session.as_ref()?.login.state())
    }

    pub fn is_connected(&self) -> bool {
        matches!(self.login(), Some(State::Connected { .. }))
    }

    pub fn is_unreachable(&self) -> bool {
        matches!(self.login(), Some(State::Unreachable { .. }))
    }

    pub fn joined(&self) -> Joined {
        self.process
            .as_ref()
            .map_or(Joined::Never, |p| p.joined.clone())
    }

    /// Starts the daemon. `false`: the disk is full and there is none.
    pub fn start(&mut self, clock: &Clock) -> bool {
        let now = Now {
            at: self.now(clock),
            wall: self.wall.read(clock),
        };
        self.life += 1;
        self.asleep = None;
        let Ok(boot) = self.disk.next_boot(now.wall) else {
            return false;
        };
        let org = self.disk.org().unwrap_or(OrgId([0; 32]));
        let identity = LocalIdentity::new(self.id(), org, &self.disk.tunnel);
        let mut seed = [0; 32];
        self.rng.fill(&mut seed);
        self.process = Some(Process {
            tunnels: Tunnels::new(identity, self.tunnels.clone(), seed, boot, now.at),
            session: None,
            joined: Joined::Never,
            closed: Vec::new(),
            drops: Drops::default(),
            packets: packets::Tables::default(),
            boot,
            peers: BTreeMap::new(),
            online: BTreeMap::new(),
            spread: Spread::default(),
            asking: BTreeMap::new(),
            next_question: 0,
            alone: false,
            observed: Vec::new(),
            pending_join: None,
            joining: None,
            offered: None,
            next_tick: now.at + TICK,
            unsaved: false,
            clock: (now.at, now.wall),
        });
        self.note(format_args!("starts, boot {boot}"));
        if let Some(org) = self.disk.org() {
            let hints = self.disk.hints();
            self.begin_session(org, hints, now.at);
            self.bring_adapter_up();
            self.members_changed(now.at);
        }
        self.drive(now.at);
        true
    }

    /// Ends the daemon: at a word, with farewells to its peers, or by SIGKILL.
    pub fn stop(&mut self, farewell: bool, now: Instant) {
        if farewell && let Some(process) = &mut self.process {
            let peers: Vec<NodeId> = process.tunnels.peers().collect();
            for peer in peers {
                process.tunnels.disconnect(&peer, now);
            }
            self.drive(now);
        }
        self.process = None;
        self.note(if farewell { "stops" } else { "is killed" });
    }

    /// When [`Node::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let process = self.process.as_ref()?;
        [
            Some(process.next_tick),
            process.tunnels.poll_timeout(),
            process.session.as_ref().map(|s| s.login.poll_timeout()),
            process.joining.as_ref().map(|j| j.deadline),
            process.packets.poll_timeout(),
            process.session.as_ref().and(process.spread.poll_timeout()),
            process.asking.values().map(|a| a.deadline).min(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(process) = &mut self.process else {
            return;
        };
        process.packets.expire(now, &mut process.drops);
        process.tunnels.handle_timeout(now);
        if let Some(session) = &mut process.session {
            session.login.handle_timeout(now);
        }
        if process.next_tick <= now {
            process.next_tick = now + TICK;
            if std::mem::take(&mut process.unsaved) {
                process.spread.handle_unsaved(now);
                self.pull();
            }
            self.members_changed(now);
        }
        self.expire_questions(now);
        self.check_join(now);
        self.drive(now);
    }

    /// What the node wants next.
    pub fn poll_out(&mut self) -> Option<Out> {
        self.outs.pop_front()
    }

    /// Carries out what the machines want, until they want nothing more.
    fn drive(&mut self, now: Instant) {
        loop {
            if self.drive_tunnels(now) || self.drive_login(now) {
                continue;
            }
            return self.ask_members(now);
        }
    }

    fn drive_tunnels(&mut self, now: Instant) -> bool {
        let Some(process) = &mut self.process else {
            return false;
        };
        if let Some(event) = process.tunnels.poll_event() {
            self.handle_tunnel(event, now);
        } else if let Some(transmit) = process.tunnels.poll_transmit() {
            self.outs
                .push_back(Out::Datagram(transmit.to, transmit.data));
        } else {
            return false;
        }
        true
    }

    fn handle_tunnel(&mut self, event: Event, now: Instant) {
        let Some(process) = &mut self.process else {
            return;
        };
        process.packets.apply(&event);
        let me = self.index;
        match event {
            Event::SessionUp { peer, session, .. } => {
                let index = session.local_index();
                self.note(format_args!("session {index:08x} with {}", peer.short()));
                self.send_parked(&peer, now);
            }
            Event::SessionClosed {
                peer,
                local_index,
                reason,
            } => {
                process.closed.push((peer, reason));
                let text = format!("{me} closes {local_index:08x}: {reason:?}");
                self.outs.push_back(Out::Note(text));
            }
            Event::PathState { peer, state } => match state {
                tunnel::PathState::Up { endpoint, .. } => {
                    process.spread.handle_up(&peer, now);
                    self.remember(peer, &[endpoint]);
                }
                tunnel::PathState::Down => self.handle_down(peer, now),
                tunnel::PathState::Connecting => {}
            },
            Event::Epochs {
                peer,
                generation,
                epochs,
            } => self.compare_epochs(&peer, generation, &epochs, now),
            Event::Observed { addr, .. } => self.note_observed(addr, now),
            _ => {}
        }
    }

    fn note(&mut self, text: impl std::fmt::Display) {
        self.outs
            .push_back(Out::Note(format!("{} {text}", self.index)));
    }
}
