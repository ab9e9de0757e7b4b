//! The session with the coordinators: who is dialled when, the hello, pings, and coming back.
//!
//! Coordinators are dialled in parallel, staggered by 250 ms, as Happy Eyeballs (RFC 8305) does it for addresses.
//! The first one that says [`Welcome`] and belongs to the organisation wins; the others are let go. A coordinator that
//! is reached at several of its addresses is told the hello over one stream at a time: to it a second one is a machine
//! that logs in again, and the first session ends. One more stream is held in case that comes to nothing. A lost session
//! is dialled again after a wait that doubles, with jitter, up to 8 s or what the coordinator asked for.

mod announce;
mod claims;
mod session;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use kanpachi_common::{
    NodeId, OrgId, UnixTime, Verified,
    org::{Address, Directory, Manifest},
    wire::{
        control::{
            ClientMessage, Hello, MISSED_PINGS, PING_MS, REST_MS, Refused, Registration,
            ServerMessage,
        },
        frame::Frame,
    },
};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

pub use claims::Claims;

/// Pause between two dials of one round.
pub const STAGGER: Duration = Duration::from_millis(250);
/// A dial or an unanswered hello is given up after this.
pub const ATTEMPT: Duration = Duration::from_secs(6);
/// Longest wait between two rounds, unless a coordinator asks for more.
pub const MAX_BACKOFF: Duration = Duration::from_secs(8);
/// Shortest wait between two rounds.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// Longest wait that a coordinator may ask for.
const MAX_ASKED: Duration = Duration::from_secs(300);
const PING: Duration = Duration::from_millis(PING_MS);
/// The same while nobody has looked for a while: whoever looks then is told when the coordinator has been asked.
const PING_AT_REST: Duration = Duration::from_millis(REST_MS);
/// For so long after somebody has looked.
const LOOKED_AT: Duration = Duration::from_secs(60);
/// Streams to one coordinator at once: the one that was told the hello, and one that waits. It keeps as many of one node, and
/// counts them all alike.
const STREAMS: usize = 2;
/// A ping counts as missed after this, and the next one goes out: so three missed ones are noticed within
/// 5 s + 3 × 1.2 s of the last sign of life.
const PING_ANSWER: Duration = Duration::from_millis(1200);
/// On another network the session is asked so often, so far apart, whether it lives. Each question also makes a transport
/// that can move send from the new address.
const HURRIED_PINGS: u32 = 5;
const HURRY: Duration = Duration::from_millis(250);

/// One dial and what became of it. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u64);

/// What the shell is to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Dial this address and open the control stream; report with `handle_opened` or `handle_failed`.
    Dial {
        /// Names the attempt from here on.
        attempt: Attempt,
        /// Where.
        address: Address,
    },
    /// Send a frame on the attempt's stream.
    Send {
        /// On which stream.
        attempt: Attempt,
        /// What.
        frame: Frame,
    },
    /// Close the attempt's stream, or stop dialling.
    Close(Attempt),
}

/// What the node should know.
#[derive(Clone, Debug)]
pub enum Event {
    /// Logged in. Keys and servers are verified; they are newer than or the same as those known.
    Welcome(Box<Welcomed>),
    /// A push, or the answer to the request of this id.
    Message {
        /// Request that it answers, or 0.
        id: u64,
        /// What it says.
        message: ServerMessage,
    },
    /// The session is lost, or a round of dials went by without one.
    Unreachable(Trouble),
    /// A coordinator answered, and the answer is no. Dialling goes on: another one may know better.
    Refused {
        /// Where.
        address: Address,
        /// Its words.
        refused: Refused,
    },
}

/// A coordinator took the node in.
#[derive(Clone, Debug)]
pub struct Welcomed {
    /// Where it was reached.
    pub address: Address,
    /// Which one it is.
    pub server: NodeId,
    /// Keys.
    pub manifest: Verified<Manifest>,
    /// Servers.
    pub directory: Verified<Directory>,
    /// The node, if it is registered.
    pub registration: Option<Registration>,
    /// The coordinator's clock.
    pub time: UnixTime,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nobody answered.
    #[error("{address} does not answer: {reason}")]
    NoAnswer {
        /// Where.
        address: Address,
        /// What the transport said.
        reason: String,
    },
    /// Three pings went unanswered.
    #[error("{0} stopped answering")]
    Silent(Address),
    /// The stream ended.
    #[error("{0} closed the connection")]
    Closed(Address),
    /// Another organisation lives there now.
    #[error(
        "another organisation answers at {0}, not the one this machine belongs to; the coordinator was probably set up anew, and its invites are for the new one"
    )]
    OtherOrganisation(Address),
    /// Somebody who can show the organisation's papers but is not among its coordinators.
    #[error("{0} is no coordinator of this organisation")]
    NotACoordinator(Address),
    /// It says things that make no sense.
    #[error("{address} does not speak the protocol: {reason}")]
    Protocol {
        /// Where.
        address: Address,
        /// What was wrong.
        reason: String,
    },
    /// There is no address to dial.
    #[error("no address of a coordinator is known")]
    NoAddress,
}

/// As in the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Logged in.
    Connected {
        /// Where.
        address: Address,
        /// Which one.
        server: NodeId,
        /// Since when.
        since: Instant,
    },
    /// The first round of dials is under way.
    Connecting,
    /// Nobody answers.
    Unreachable {
        /// Since when.
        since: Instant,
        /// Why.
        trouble: Trouble,
    },
}

#[derive(Debug)]
struct Dialling {
    address: Address,
    deadline: Instant,
    /// Who is there, once the stream is open.
    server: Option<NodeId>,
    /// It was told the hello.
    greeted: bool,
}

impl Dialling {
    /// The server is being asked over another stream.
    const fn is_held(&self) -> bool {
        self.server.is_some() && !self.greeted
    }
}

#[derive(Debug)]
struct Live {
    attempt: Attempt,
    address: Address,
    server: NodeId,
    since: Instant,
    next_ping: Instant,
    /// The last sign of life.
    heard: Instant,
    /// The coordinator was told that this node may be silent for longer.
    resting: bool,
    unanswered: u32,
    /// Questions left since the network changed.
    hurried: u32,
    announcing: announce::Announcing,
}

#[derive(Debug)]
enum Phase {
    /// Dials go out one by one; the queue holds what is left of the round.
    Round {
        left: VecDeque<Address>,
        next_dial: Instant,
    },
    Waiting {
        until: Instant,
    },
    Live(Box<Live>),
}

/// The session with the coordinators.
#[derive(Debug)]
pub struct Login {
    org: OrgId,
    manifest: Option<Verified<Manifest>>,
    addresses: Vec<Address>,
    hello: Hello,
    phase: Phase,
    attempts: BTreeMap<Attempt, Dialling>,
    next_attempt: u64,
    next_request: u64,
    backoff: Duration,
    asked_wait: Duration,
    /// When the coordinator is asked at rest.
    beat: Option<Instant>,
    /// When somebody wanted to know last whether the coordinator is there.
    looked: Instant,
    unreachable: Option<(Instant, Trouble)>,
    last_trouble: Option<Trouble>,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    rng: ChaCha20Rng,
}

impl Login {
    /// Starts to dial. `hello` is what the first coordinator that answers is told.
    #[must_use]
    pub fn new(
        org: OrgId,
        manifest: Option<Verified<Manifest>>,
        addresses: Vec<Address>,
        hello: Hello,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let mut this = Self {
            org,
            manifest,
            addresses,
            hello,
            phase: Phase::Waiting { until: now },
            attempts: BTreeMap::new(),
            next_attempt: 1,
            next_request: 1,
            backoff: MIN_BACKOFF,
            asked_wait: Duration::ZERO,
            beat: None,
            looked: now,
            unreachable: None,
            last_trouble: None,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            rng: ChaCha20Rng::from_seed(seed),
        };
        this.handle_timeout(now);
        this
    }

    /// Where the coordinators are, best first. Counts from the next round on.
    pub fn set_addresses(&mut self, addresses: Vec<Address>) {
        self.addresses = addresses;
    }

    /// What the next coordinator is told.
    pub fn set_hello(&mut self, hello: Hello) {
        self.hello = hello;
    }

    /// Something changed that makes a new try worth while at once: the network came back, or an address.
    pub fn handle_network_change(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Waiting { .. } => {
                self.backoff = MIN_BACKOFF;
                self.start_round(now);
            }
            Phase::Live(live) => {
                live.hurried = HURRIED_PINGS;
                live.next_ping = now;
            }
            Phase::Round { .. } => {}
        }
    }

    /// As [`Tunnels::set_beat`](crate::tunnel::Tunnels::set_beat).
    pub fn set_beat(&mut self, moment: Instant) {
        self.beat = Some(moment);
    }

    /// Somebody wants to know whether the coordinator is there. `false` while [`state`](Self::state) claims more than is known:
    /// then the coordinator is being asked, and an answer or the end of the session comes within 3.6 s.
    pub fn look(&mut self, now: Instant) -> bool {
        self.looked = now;
        let Phase::Live(live) = &mut self.phase else {
            return true;
        };
        if live.resting {
            self.end_rest(now);
        }
        self.is_sure(now)
    }

    /// Is the state what has been seen lately?
    #[must_use]
    pub fn is_sure(&self, now: Instant) -> bool {
        match &self.phase {
            Phase::Live(live) => now < live.heard + PING + PING_ANSWER * (MISSED_PINGS + 1),
            Phase::Waiting { .. } | Phase::Round { .. } => true,
        }
    }

    /// Sends a request; `None` when there is no session. The answer is an [`Event::Message`] with this id.
    pub fn request(&mut self, message: &ClientMessage) -> Option<u64> {
        let Phase::Live(live) = &self.phase else {
            return None;
        };
        let id = self.next_request;
        self.next_request += 1;
        self.actions.push_back(Action::Send {
            attempt: live.attempt,
            frame: message.frame(id),
        });
        Some(id)
    }

    /// As in the status.
    #[must_use]
    pub fn state(&self) -> State {
        match (&self.phase, &self.unreachable) {
            (Phase::Live(live), _) => State::Connected {
                address: live.address.clone(),
                server: live.server,
                since: live.since,
            },
            (_, Some((since, trouble))) => State::Unreachable {
                since: *since,
                trouble: trouble.clone(),
            },
            (_, None) => State::Connecting,
        }
    }

    /// The stream of an attempt is open, to this server.
    pub fn handle_opened(&mut self, attempt: Attempt, server: NodeId, now: Instant) {
        let theirs = self.attempts.values().filter(|d| d.server == Some(server));
        if theirs.count() >= STREAMS {
            // The round goes on with those that are there.
            self.attempts.remove(&attempt);
        }
        let Some(dialling) = self.attempts.get_mut(&attempt) else {
            self.actions.push_back(Action::Close(attempt));
            return;
        };
        dialling.server = Some(server);
        self.greet(server, now);
    }

    /// Says hello to a server over the first stream that is open to it, unless it was told already.
    fn greet(&mut self, server: NodeId, now: Instant) {
        let mut theirs = self.attempts.values().filter(|d| d.server == Some(server));
        if theirs.any(|d| d.greeted) {
            return;
        }
        let held = (self.attempts.iter_mut()).find(|(_, d)| d.server == Some(server));
        if let Some((attempt, dialling)) = held {
            (dialling.greeted, dialling.deadline) = (true, now + ATTEMPT);
            let frame = ClientMessage::Hello(self.hello.clone()).frame(0);
            let attempt = *attempt;
            self.actions.push_back(Action::Send { attempt, frame });
        }
    }

    /// An attempt is over: its server is asked over another stream, if there is one.
    fn take_attempt(&mut self, attempt: Attempt, now: Instant) -> Option<Dialling> {
        let dialling = self.attempts.remove(&attempt)?;
        if let Some(server) = dialling.server {
            self.greet(server, now);
        }
        Some(dialling)
    }

    /// A dial failed, or a stream ended.
    pub fn handle_failed(&mut self, attempt: Attempt, reason: String, now: Instant) {
        if let Phase::Live(live) = &self.phase
            && live.attempt == attempt
        {
            self.actions.push_back(Action::Close(attempt));
            let trouble = Trouble::Closed(live.address.clone());
            self.lose(trouble, now);
        } else if let Some(dialling) = self.take_attempt(attempt, now) {
            self.actions.push_back(Action::Close(attempt));
            self.give_up(
                Trouble::NoAnswer {
                    address: dialling.address,
                    reason,
                },
                now,
            );
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late: Vec<Attempt> = self
            .attempts
            .iter()
            .filter(|(_, d)| d.deadline <= now && !d.is_held())
            .map(|(a, _)| *a)
            .collect();
        for attempt in late {
            self.actions.push_back(Action::Close(attempt));
            if let Some(dialling) = self.take_attempt(attempt, now) {
                self.give_up(
                    Trouble::NoAnswer {
                        address: dialling.address,
                        reason: "timed out".into(),
                    },
                    now,
                );
            }
        }
        match &mut self.phase {
            Phase::Waiting { until } if *until <= now => self.start_round(now),
            Phase::Round { .. } => self.continue_round(now),
            Phase::Live(live) if live.next_ping <= now => self.ping(now),
            Phase::Waiting { .. } | Phase::Live(_) => {}
        }
        self.drive_announcing(now);
    }

    /// When [`Login::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let asked = self.attempts.values().filter(|d| !d.is_held());
        let deadline = asked.map(|d| d.deadline).min();
        let phase = match &self.phase {
            Phase::Waiting { until } => Some(*until),
            Phase::Round { left, next_dial } => (!left.is_empty()).then_some(*next_dial),
            Phase::Live(live) => {
                let said = live.announcing.due();
                Some(said.map_or(live.next_ping, |at| at.min(live.next_ping)))
            }
        };
        // A round always has an attempt under way or one to come, so there is always a time.
        [deadline, phase]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(match &self.phase {
                Phase::Round { next_dial, .. } => *next_dial,
                Phase::Waiting { until } => *until,
                Phase::Live(live) => live.next_ping,
            })
    }

    /// What the shell is to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What the node should know next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn start_round(&mut self, now: Instant) {
        self.phase = Phase::Round {
            left: self.addresses.iter().cloned().collect(),
            next_dial: now,
        };
        if self.addresses.is_empty() {
            self.end_round(Trouble::NoAddress, now);
        } else {
            self.continue_round(now);
        }
    }

    fn continue_round(&mut self, now: Instant) {
        let Phase::Round { left, next_dial } = &mut self.phase else {
            return;
        };
        if *next_dial > now {
            return;
        }
        if let Some(address) = left.pop_front() {
            *next_dial = now + STAGGER;
            let attempt = Attempt(self.next_attempt);
            self.next_attempt += 1;
            self.attempts.insert(
                attempt,
                Dialling {
                    address: address.clone(),
                    deadline: now + ATTEMPT,
                    server: None,
                    greeted: false,
                },
            );
            self.actions.push_back(Action::Dial { attempt, address });
        } else if self.attempts.is_empty() {
            let trouble = self.last_trouble.take().unwrap_or(Trouble::NoAddress);
            self.end_round(trouble, now);
        }
    }

    /// An attempt came to nothing. The next one goes out at once; when it was the last, the round is over.
    fn give_up(&mut self, trouble: Trouble, now: Instant) {
        // What a server that answered says outweighs the silence of another.
        if self.last_trouble.is_none() || !matches!(trouble, Trouble::NoAnswer { .. }) {
            self.last_trouble = Some(trouble);
        }
        if let Phase::Round { next_dial, .. } = &mut self.phase {
            *next_dial = now;
            self.continue_round(now);
        }
    }

    fn end_round(&mut self, trouble: Trouble, now: Instant) {
        let since = self.unreachable.as_ref().map_or(now, |(since, _)| *since);
        self.unreachable = Some((since, trouble.clone()));
        self.events.push_back(Event::Unreachable(trouble));
        self.wait(now);
    }

    fn wait(&mut self, now: Instant) {
        let jitter = self.rng.next_u32() % 1000;
        let wait = self.backoff / 2 + self.backoff * jitter / 2000;
        self.phase = Phase::Waiting {
            until: now + wait.max(self.asked_wait),
        };
        self.asked_wait = Duration::ZERO;
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
    }
}

#[cfg(test)]
mod tests;
