//! What the coordinator decides: sessions, presence and requests as a state machine.
//!
//! No clock, socket, disk, lock or system randomness. Inputs are `handle_*` with the time; what is to be done
//! comes out of [`Core::poll_output`] (bytes for sessions) and [`Core::poll_intent`] (transactions for the
//! store, whose outcomes come back in). A reply is made only from an outcome: decide, commit, then reply.
//!
//! After every `handle_*`, drain both `poll_*` to `None` and arm a timer for [`Core::poll_timeout`].

mod asked;
mod intent;
mod limits;
mod membership;
mod presence;
mod replies;
mod requests;
mod session;
mod showing;
mod sync;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kanpachi_common::{
    NetworkId, NodeId, OrgId, Pool, Signed, UnixTime,
    org::{Address, Directory, Manifest},
    wire::{
        control::{
            DirectoryIs, GONE_MS, MAX_TEXT, Nonce, PING_MS, Refused, SERVER_PING_MS, ServerMessage,
            codes,
        },
        frame::Frame,
    },
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

pub use intent::{Intent, IntentId, Outcome, PasswordJoin, run};
pub use session::{Remote, SessionId};
pub use showing::COMPARE_FOR;

use self::{
    limits::{Keyed, Rate, source},
    presence::{Overlay, View, encode},
    requests::Purpose,
    session::{MAX_OUTBOX, Phase, Session},
    showing::Comparing,
};
use crate::store::StoreError;

/// The first message must be there after this time.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// A node that is welcome and joins nothing is sent away after this time.
const GUEST_FOR: Duration = Duration::from_secs(60);
/// No byte could be written for this long: the other side does not read.
const STALLED: Duration = Duration::from_secs(15);
/// Time between two looks at all sessions.
const TICK: Duration = Duration::from_millis(500);
/// Sessions of one node at the most: the living one and one that is about to replace it, or a stream that the node holds in
/// case the other one comes to nothing.
const MAX_PER_NODE: usize = 2;
/// Sessions in total.
const MAX_SESSIONS: usize = 8192;
/// Sessions of nodes that are not known to be registered, in total and from one source.
const MAX_STRANGERS: usize = 512;
const MAX_STRANGERS_PER_SOURCE: usize = 128;
/// Logins of one node.
const LOGINS: Rate = Rate::new(10, Duration::from_secs(2));
/// Failed joins of one node, and from one source. An invite has 128 random bits: this is against the load, not
/// against luck. What succeeds is not counted, so a whole LAN party may join from behind one router.
const JOINS_OF_NODE: Rate = Rate::new(8, Duration::from_secs(5));
const JOINS_OF_SOURCE: Rate = Rate::new(128, Duration::from_millis(500));
/// Passwords that one node tries or sets, right or wrong: each costs a slow hash. And those that are tried from one
/// source, where what succeeds is not counted.
const PASSWORDS_OF_NODE: Rate = Rate::new(8, Duration::from_secs(10));
const PASSWORDS_OF_SOURCE: Rate = Rate::new(64, Duration::from_secs(2));
/// Networks that one node makes.
const CREATIONS: Rate = Rate::new(16, Duration::from_secs(60));
/// And those that came to be: what is deleted again leaves a last head behind, here and at every mirror, for good.
const MADE: Rate = Rate::new(32, Duration::from_secs(3600));

/// Time as an input: both clocks at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic.
    pub at: Instant,
    /// Wall clock.
    pub wall: UnixTime,
}

/// What the core must know of the organisation.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who signs.
    pub manifest: Signed<Manifest>,
    /// Where the servers are.
    pub directory: Signed<Directory>,
    /// The organisation.
    pub org: OrgId,
    /// Its IPv4 pool.
    pub pool: Pool,
    /// What invites say about where to find the coordinator, best first.
    pub addresses: Vec<Address>,
}

/// Something for the shell to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Write these bytes to the session's stream, and say so by [`Core::handle_sent`].
    Send(SessionId, Arc<[u8]>),
    /// Close the stream when everything before is written. The session is gone from the core.
    Close(SessionId),
    /// Something happened that others want to know.
    Event(Event),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node is logged in.
    LoggedIn(NodeId),
    /// A node is gone.
    LoggedOut(NodeId),
    /// A roster changed, or its head was renewed: mirrors want it.
    Changed(NetworkId),
    /// A node says that it holds a newer roster than the store has. Unproven; it is asked for it, and mirrors know more.
    ClaimsNewer(NodeId, NetworkId),
    /// A member proved that it knows more than the store: nothing is signed until the operator ends the recovery.
    Recovery,
    /// A member showed a newer roster, and it was taken over.
    Adopted(NodeId, NetworkId),
    /// An invite was shown that nobody made, a password was wrong, or joins came too fast.
    Guess(NodeId, Option<IpAddr>),
    /// The store failed an intent.
    StoreFailed(StoreError),
}

/// The coordinator's state that may be lost: who is logged in, and what is on its way.
#[derive(Debug)]
pub struct Core {
    config: Config,
    overlay: Overlay,
    rng: ChaCha20Rng,
    sessions: BTreeMap<SessionId, Session>,
    /// The session that speaks for a registered node.
    online: BTreeMap<NodeId, SessionId>,
    networks: BTreeMap<NetworkId, View>,
    intents: VecDeque<(IntentId, Intent)>,
    waiting: BTreeMap<IntentId, Purpose>,
    next_intent: u64,
    outputs: VecDeque<Output>,
    logins: Keyed<NodeId>,
    joins_of_node: Keyed<NodeId>,
    joins_of_source: Keyed<IpAddr>,
    passwords_of_node: Keyed<NodeId>,
    passwords_of_source: Keyed<IpAddr>,
    creations: Keyed<NodeId>,
    made: Keyed<NodeId>,
    next_tick: Instant,
    comparing: Comparing,
    /// Why nothing may be signed, when that is so.
    recovery: Option<String>,
}

impl Core {
    /// A core without sessions. `seed` is 32 random bytes; invites and membership ids come from it.
    #[must_use]
    pub fn new(config: Config, seed: [u8; 32], now: Now) -> Self {
        Self {
            overlay: Overlay::new(&config.org, config.pool),
            comparing: Comparing::new(&config, now.at),
            config,
            rng: ChaCha20Rng::from_seed(seed),
            sessions: BTreeMap::new(),
            online: BTreeMap::new(),
            networks: BTreeMap::new(),
            intents: VecDeque::new(),
            waiting: BTreeMap::new(),
            next_intent: 0,
            outputs: VecDeque::new(),
            logins: Keyed::new(LOGINS, now.at),
            joins_of_node: Keyed::new(JOINS_OF_NODE, now.at),
            joins_of_source: Keyed::new(JOINS_OF_SOURCE, now.at),
            passwords_of_node: Keyed::new(PASSWORDS_OF_NODE, now.at),
            passwords_of_source: Keyed::new(PASSWORDS_OF_SOURCE, now.at),
            creations: Keyed::new(CREATIONS, now.at),
            made: Keyed::new(MADE, now.at),
            next_tick: now.at + TICK,
            recovery: None,
        }
    }

    /// A stream was opened by an authenticated node.
    pub fn handle_open(&mut self, id: SessionId, node: NodeId, remote: Remote, now: Now) {
        self.sessions.insert(id, Session::new(node, remote, now.at));
        if self.count(|s| s.node == node) > MAX_PER_NODE {
            self.make_room(id, node);
        }
        if self.sessions.len() > MAX_SESSIONS {
            self.refuse_and_close(id, codes::BUSY, "this coordinator is full", Some(30_000));
            return;
        }
        // Newcomers take a place for a second. When all are taken, the one that sat longest goes: a flood of
        // idle strangers does not lock the next member out.
        let busy = "too many machines are joining at once";
        let from = remote.ip.map(source);
        let same_source = |s: &Session| s.is_stranger() && s.remote.ip.map(source) == from;
        if self.count(same_source) > MAX_STRANGERS_PER_SOURCE {
            self.close_oldest(same_source, codes::BUSY, busy);
        }
        if self.count(Session::is_stranger) > MAX_STRANGERS {
            self.close_oldest(Session::is_stranger, codes::BUSY, busy);
        }
    }

    /// A frame arrived.
    pub fn handle_frame(&mut self, id: SessionId, frame: &Frame, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.heard = now.at;
        self.handle_message(id, frame, now);
        self.settle();
        self.compare(now);
    }

    /// What arrived is no frame: the stream cannot be read any further.
    pub fn handle_garbage(&mut self, id: SessionId, why: &str) {
        self.refuse_and_close(id, codes::BAD_REQUEST, why, None);
    }

    /// The stream ended.
    pub fn handle_closed(&mut self, id: SessionId) {
        self.forget(id);
        self.settle();
    }

    /// So many bytes were written to the stream.
    pub fn handle_sent(&mut self, id: SessionId, bytes: usize, now: Now) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let full = session.outbox >= session::HIGH_WATER;
            session.outbox = session.outbox.saturating_sub(bytes);
            session.progress = now.at;
            if full && session.outbox < session::HIGH_WATER {
                for network in session.unsynced.clone() {
                    self.mark(network);
                }
            }
        }
        self.settle();
    }

    /// A roster changed without a session asking for it: by the operator, by renewal, by another coordinator.
    pub fn handle_changed(&mut self, network: NetworkId) {
        self.changed(network);
        self.settle();
    }

    /// The directory was signed again.
    pub fn handle_directory(&mut self, directory: Signed<Directory>, addresses: Vec<Address>) {
        self.config.addresses = addresses;
        if self.config.directory == directory {
            return;
        }
        self.config.directory = directory;
        let message = ServerMessage::Directory(Box::new(DirectoryIs {
            manifest: self.config.manifest.clone(),
            directory: self.config.directory.clone(),
        }));
        let bytes = encode(&message, 0);
        let welcome = |s: &Session| matches!(s.phase, Phase::Guest | Phase::Member);
        let all: Vec<_> = self.ids_of(welcome);
        for id in all {
            self.push(id, Arc::clone(&bytes));
        }
    }

    /// From now on nothing is signed: the members know more than this coordinator.
    pub fn handle_recovery(&mut self, why: String) {
        self.recovery = Some(why);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Now) {
        if now.at < self.next_tick {
            return;
        }
        self.next_tick = now.at + TICK;
        let ids: Vec<_> = self.sessions.keys().copied().collect();
        for id in ids {
            self.tick(id, now);
        }
        self.retry_sync();
        self.settle();
        self.compare(now);
    }

    /// When [`Self::handle_timeout`] wants to be called; `None` while nobody is there and nothing waits.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.sessions.is_empty() || self.comparing.waits()).then_some(self.next_tick)
    }

    /// Bytes and events, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next transaction that is wanted. The shell may leave some here while many are under way.
    pub fn poll_intent(&mut self) -> Option<(IntentId, Intent)> {
        self.intents.pop_front()
    }

    /// How many nodes are logged in.
    #[must_use]
    pub fn online(&self) -> usize {
        self.online.len()
    }

    fn tick(&mut self, id: SessionId, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.outbox == 0 {
            // Nothing waits. What is pushed next has as long as ever to be written.
            session.progress = now.at;
        }
        // A node at rest speaks the more seldom; it is late by as much as any before it is asked, and before it is gone.
        let rest = (session.rest).saturating_sub(Duration::from_millis(PING_MS));
        let ping = Duration::from_millis(SERVER_PING_MS) + rest;
        let gone = Duration::from_millis(GONE_MS) + rest;
        let silent = now.at.saturating_duration_since(session.heard);
        let stuck = now.at.saturating_duration_since(session.progress);
        let age = now.at.saturating_duration_since(session.opened);
        match session.phase {
            Phase::Greeting if age >= HELLO_WITHIN => {
                self.refuse_and_close(id, codes::BAD_REQUEST, "nothing was said", None);
            }
            Phase::Guest if age >= GUEST_FOR => {
                let text = "this machine joined nothing";
                self.refuse_and_close(id, codes::NOT_REGISTERED, text, Some(GUEST_MS));
            }
            Phase::Greeting | Phase::Checking => {}
            // While bytes wait to be written, a missing answer says nothing: the question may be behind them.
            Phase::Guest | Phase::Member if session.outbox > 0 && stuck >= STALLED => {
                self.drop_session(id);
            }
            Phase::Guest | Phase::Member if session.outbox == 0 && silent >= gone => {
                self.drop_session(id);
            }
            Phase::Guest | Phase::Member => {
                // Nodes ask by themselves, and are heard by that.
                let pinged = now.at.saturating_duration_since(session.pinged);
                if silent >= ping && pinged >= ping {
                    session.pinged = now.at;
                    let message = ServerMessage::Ping(Nonce(now.wall.0));
                    self.push(id, encode(&message, 0));
                }
            }
        }
    }

    /// Hands bytes to the shell, or drops the session when it does not read.
    fn push(&mut self, id: SessionId, bytes: Arc<[u8]>) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.outbox + bytes.len() > MAX_OUTBOX {
            self.drop_session(id);
            return;
        }
        session.outbox += bytes.len();
        self.outputs.push_back(Output::Send(id, bytes));
    }

    fn send(&mut self, id: SessionId, request: u64, message: &ServerMessage) {
        self.push(id, encode(message, request));
    }

    fn refuse(&mut self, id: SessionId, request: u64, code: u16, text: &str, retry: Option<u64>) {
        let message = ServerMessage::Refused(Refused {
            code,
            message: text[..text.floor_char_boundary(MAX_TEXT)].to_owned(),
            retry_ms: retry,
        });
        self.send(id, request, &message);
    }

    /// Says why and ends the conversation.
    fn refuse_and_close(&mut self, id: SessionId, code: u16, text: &str, retry: Option<u64>) {
        self.refuse(id, 0, code, text, retry);
        self.drop_session(id);
    }

    fn drop_session(&mut self, id: SessionId) {
        if self.sessions.contains_key(&id) {
            self.forget(id);
            self.outputs.push_back(Output::Close(id));
        }
    }

    /// Takes a session out. When it spoke for its node, the others are told.
    fn forget(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let node = session.node;
        if self.online.get(&node) == Some(&id) {
            self.tell_offline(id);
            self.online.remove(&node);
            self.outputs
                .push_back(Output::Event(Event::LoggedOut(node)));
        }
        self.sessions.remove(&id);
        self.comparing.forget(id);
    }

    fn ids_of(&self, which: impl Fn(&Session) -> bool) -> Vec<SessionId> {
        let all = self.sessions.iter();
        all.filter(|(_, s)| which(s)).map(|(id, _)| *id).collect()
    }

    fn count(&self, which: impl Fn(&Session) -> bool) -> usize {
        self.sessions.values().filter(|s| which(s)).count()
    }

    /// Closes a stream of a node that has opened one too many: the oldest that said nothing, without a word, since a refusal
    /// is for the node and not for the stream. Otherwise the oldest of all.
    fn make_room(&mut self, newest: SessionId, node: NodeId) {
        let mut theirs = self.sessions.iter().filter(|(_, s)| s.node == node);
        let silent = theirs.find(|(id, s)| **id != newest && s.phase == Phase::Greeting);
        match silent.map(|(id, _)| *id) {
            Some(id) => self.drop_session(id),
            None => {
                let text = "this machine logged in again";
                self.close_oldest(|s| s.node == node, codes::REPLACED, text);
            }
        }
    }

    fn close_oldest(&mut self, which: impl Fn(&Session) -> bool, code: u16, why: &str) {
        // Session ids are counted up.
        let oldest = self.sessions.iter().find(|(_, s)| which(s));
        if let Some(id) = oldest.map(|(id, _)| *id) {
            self.refuse_and_close(id, code, why, None);
        }
    }

    fn intend(&mut self, intent: Intent, purpose: Purpose) {
        let id = IntentId(self.next_intent);
        self.next_intent += 1;
        self.waiting.insert(id, purpose);
        if intent.signs() && !self.comparing.is_over() {
            self.comparing.hold(id, intent);
        } else {
            self.intents.push_back((id, intent));
        }
    }
}

/// How long a guest that was sent away should wait, in milliseconds.
const GUEST_MS: u64 = 60_000;
