//! The task in the middle of the daemon: it owns what the node knows, and tells engine and swarm what to do.
//!
//! Everything verified is written to disk before it is acted on, here and nowhere else.

mod candidates;
mod events;
#[cfg(test)]
mod fixture;
mod joins;
mod lookup;
mod networks;
mod refusals;
mod requests;
mod rosters;
mod session;
mod standby;
mod status;

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use kanpachi_common::{
    Candidate, ClientId, NodeId, OrgId, UnixTime,
    invite::Invite,
    wire::{control::ServerMessage, membership::Waiting},
};
use kanpachi_proto::roster::{Peer, Rosters};
use kanpachi_transport::SharedSocket;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    engine,
    state::{Database, Keys},
    swarm,
};
use crate::{
    cli::steps::Progress,
    dataplane::{Dataplane, OutboundThread},
    ipc::{
        api::{
            ChangeReply, ChangeRequest, InviteReply, InviteRequest, JoinReply, NetworkRequest,
            NickReply, SessionReply, Status,
        },
        error::ApiError,
    },
    platform::{LocalAddress, Native, Platform},
};

use requests::Reply;
pub(super) use session::Session;

/// The adapter of this system.
pub(super) type NativeAdapter = <Native as Platform>::Adapter;
/// What writes to it.
pub(super) type NativeWriter = <NativeAdapter as crate::platform::Adapter>::Writer;

/// How often reflectors are asked, and expiry is looked at.
const TICK: Duration = Duration::from_secs(25);
/// What the control socket asks of the task.
#[derive(Debug)]
pub(super) enum Request {
    Status(oneshot::Sender<Status>),
    Join(Box<Invite>, Reply<JoinReply>),
    Create(NetworkRequest, Reply<JoinReply>),
    JoinNetwork(NetworkRequest, Reply<JoinReply>),
    Change(ChangeRequest, Reply<ChangeReply>),
    SetLoggedIn(bool, Reply<SessionReply>),
    Invite(InviteRequest, Reply<InviteReply>),
    SetNick(String, Reply<NickReply>),
    /// Nothing but an answer: the watchdog asks.
    Alive(oneshot::Sender<()>),
}

/// A request that the coordinator has not answered yet.
#[derive(Debug)]
enum Pending {
    Join,
    Invite(InviteRequest, Reply<InviteReply>),
    SetNick(Reply<NickReply>),
    Change(networks::About, Reply<ChangeReply>),
}

/// What the task is made of.
pub(super) struct Core {
    /// Held as long as the state is in use.
    _dir: super::state::StateDir,
    pub(super) keys: Keys,
    pub(super) db: Database,
    pub(super) boot: u64,
    pub(super) name: String,
    pub(super) interface: String,
    pub(super) socket: SharedSocket,
    pub(super) tcp_port: u16,
    pub(super) overlay: super::overlay::Overlay,
    pub(super) engine: engine::Handle,
    pub(super) dataplane: Arc<Dataplane<NativeWriter>>,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) local: Arc<[LocalAddress]>,
    pub(super) stop: CancellationToken,
    /// Addresses of a coordinator in this very process.
    pub(super) own_coordinator: Vec<kanpachi_common::org::Address>,
    pub(super) complaints: super::complaints::Complaints,
    state: State,
}

/// What the task knows and has under way.
#[derive(Default)]
struct State {
    session: Option<Session>,
    swarm_events: Option<mpsc::Receiver<swarm::Event>>,
    ipv4: Option<Option<Ipv4Addr>>,
    adapter: Option<NativeAdapter>,
    outbound: Option<OutboundThread>,
    peers: BTreeMap<NodeId, Peer>,
    /// What the coordinator says of who is online, and where.
    online: BTreeMap<NodeId, Vec<Candidate>>,
    /// What the local network and other nodes say.
    heard: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// Where peers were last, from the disk.
    known: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// Where others see this node.
    observed: Vec<SocketAddr>,
    pending: HashMap<u64, Pending>,
    joining: Option<joins::Joining>,
    /// Networks in which this node awaits approval, as the coordinator said last.
    waiting: Vec<Waiting>,
    /// What the coordinator says that this node's client id is.
    client_id: Option<ClientId>,
    /// Somebody logged this machine out.
    logged_out: bool,
    /// What is known of the organisation while there is no session with it.
    resting: Option<Rosters>,
    coordinator_since: Option<jiff::Timestamp>,
    last_error: Option<String>,
    last_address: Option<String>,
    clock_warned: bool,
    /// News could not be written. The coordinator takes them for delivered, so they have to be asked for again.
    unsaved: bool,
    /// What the coordinator's clock said at the last login, or this machine's at the start, and when. What the
    /// machine's clock shows later is not asked: a jump within the life of a process is not believed.
    clock: Option<(Instant, UnixTime)>,
    /// Keys and servers of the coordinator that a join is under way with: they count when it lets this node in.
    offered: Option<(
        kanpachi_common::Signed<kanpachi_common::org::Manifest>,
        kanpachi_common::Signed<kanpachi_common::org::Directory>,
    )>,
}

/// Everything that a [`Core`] is given.
pub(super) struct Parts {
    pub(super) dir: super::state::StateDir,
    pub(super) keys: Keys,
    pub(super) db: Database,
    pub(super) boot: u64,
    pub(super) name: String,
    pub(super) interface: String,
    pub(super) socket: SharedSocket,
    pub(super) tcp_port: u16,
    pub(super) overlay: super::overlay::Overlay,
    pub(super) engine: engine::Handle,
    pub(super) dataplane: Arc<Dataplane<NativeWriter>>,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) stop: CancellationToken,
    pub(super) own_coordinator: Vec<kanpachi_common::org::Address>,
}

impl Core {
    /// Takes up what is on disk: the organisation, the address, the peers.
    pub(super) async fn start(parts: Parts) -> Result<Self, ApiError> {
        let Parts {
            dir,
            keys,
            db,
            boot,
            name,
            interface,
            socket,
            tcp_port,
            overlay,
            engine,
            dataplane,
            progress,
            stop,
            own_coordinator,
        } = parts;
        let local = Arc::from([]);
        let state = State::default();
        let mut core = Self {
            _dir: dir,
            keys,
            db,
            boot,
            name,
            interface,
            socket,
            tcp_port,
            overlay,
            engine,
            dataplane,
            progress,
            local,
            stop,
            own_coordinator,
            state,
            complaints: super::complaints::Complaints::default(),
        };
        for known in core.db.known_candidates()? {
            core.state
                .known
                .entry(known.node)
                .or_default()
                .push(known.addr);
        }
        core.state.clock = Some((Instant::now(), super::clock::wall()));
        core.state.ipv4 = core.db.ipv4()?;
        core.take_up_state().await?;
        Ok(core)
    }

    /// What `up` prints: nothing before the first join.
    pub(super) fn standing(&self) -> Option<JoinReply> {
        Some(self.join_reply(self.own_name()?))
    }

    /// This node.
    pub(super) fn me(&self) -> NodeId {
        self.keys.identity.node_id()
    }

    /// Wall time to judge expiry by.
    fn wall(&self) -> UnixTime {
        match self.state.clock {
            Some((at, theirs)) => theirs.plus(at.elapsed().as_secs()),
            None => super::clock::wall(),
        }
    }

    /// The organisation, once there is one.
    fn org(&self) -> Option<OrgId> {
        self.rosters().map(Rosters::org)
    }

    /// What is known of the organisation, logged in or not.
    fn rosters(&self) -> Option<&Rosters> {
        let session = self.state.session.as_ref().map(|s| &s.rosters);
        session.or(self.state.resting.as_ref())
    }

    fn rosters_mut(&mut self) -> Option<&mut Rosters> {
        let session = self.state.session.as_mut().map(|s| &mut s.rosters);
        session.or(self.state.resting.as_mut())
    }

    /// Runs until the daemon stops.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut engine_events: mpsc::Receiver<engine::Event>,
        mut addresses: tokio::sync::watch::Receiver<Arc<[LocalAddress]>>,
    ) {
        let mut tick = tokio::time::interval(TICK);
        let stop = self.stop.clone();
        let local = Arc::clone(&addresses.borrow_and_update());
        self.set_local(local);
        loop {
            self.drive().await;
            let due = self.next_timeout();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(request) = requests.recv() => self.handle_request(request).await,
                event = next(&mut self.state.swarm_events) => self.handle_swarm(event).await,
                Some(event) = engine_events.recv() => self.handle_engine(event).await,
                Ok(()) = addresses.changed() => {
                    let local = Arc::clone(&addresses.borrow_and_update());
                    self.set_local(local);
                    self.engine.send(engine::Command::NetworkChanged).await;
                }
                _ = tick.tick() => self.handle_tick().await,
                () = super::clock::until(due) => self.handle_timeout(),
            }
        }
        self.shut_down().await;
    }

    fn next_timeout(&self) -> Option<Instant> {
        let login = self.state.session.as_ref().map(|s| s.login.poll_timeout());
        let joining = self.state.joining.as_ref().map(|j| j.deadline);
        [login, joining].into_iter().flatten().min()
    }

    async fn shut_down(mut self) {
        if let Some(session) = self.state.session.take() {
            session.stop.cancel();
            // It says goodbye over the socket, whose reader is stopped after this.
            let _ = tokio::time::timeout(super::GOODBYE, session.running).await;
        }
        self.take_adapter_down().await;
    }

    /// An answer without a question is for the log only.
    fn unexpected(&self, message: &ServerMessage) {
        tracing::debug!(?message, "unexpected from the coordinator");
    }
}

/// The next event of the swarm, once there is one.
async fn next(events: &mut Option<mpsc::Receiver<swarm::Event>>) -> swarm::Event {
    if let Some(receiver) = events
        && let Some(event) = receiver.recv().await
    {
        return event;
    }
    std::future::pending().await
}
