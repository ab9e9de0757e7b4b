//! The task in the middle of the daemon: it owns what the node knows, and tells engine and swarm what to do.
//!
//! Everything verified is written to disk before it is acted on, here and nowhere else.

mod book;
mod candidates;
mod drill;
mod events;
#[cfg(test)]
mod fixture;
mod joins;
mod lookup;
mod netcheck;
mod networks;
mod problems;
mod records;
mod refusals;
mod relays;
mod requests;
mod rosters;
mod session;
mod showing;
mod spread;
mod standby;
mod standing;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use kanpachi_common::{
    ClientId, NatBehaviour, NetworkId, NodeId, OrgId, UnixTime,
    invite::Invite,
    wire::{control::ServerMessage, membership::Waiting},
};
use kanpachi_proto::{
    roster::{Peer, Rosters},
    spread::Spread,
};
use kanpachi_transport::{Proxy, SharedSocket, alarm::Alarms};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    engine,
    netcheck::Facts,
    state::{Database, Keys},
    swarm,
};
use crate::{
    cli::steps::Progress,
    clock,
    dataplane::{Dataplane, OutboundThread},
    ipc::{
        api::{
            ChangeReply, ChangeRequest, InviteReply, InviteRequest, JoinReply, NetworkRequest,
            NickReply, SessionReply, Status,
        },
        control::Drill,
        error::ApiError,
    },
    platform::{LocalAddress, Native, Platform, SleepWatch},
    portmap::PortMapper,
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
    Drill(Duration, Reply<Drill>),
    /// Answered by dropping the sender, when the check is over.
    CheckNetwork(oneshot::Sender<()>),
    NetworkFacts(oneshot::Sender<Box<Facts>>),
    /// Whether one was on.
    EndDrill(oneshot::Sender<bool>),
    /// What people call a relay.
    RelayName(NodeId, oneshot::Sender<String>),
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
    /// What the relay in this very process does.
    pub(super) own_relay: Option<super::OwnRelay>,
    /// Use no mDNS.
    pub(super) no_mdns: bool,
    pub(super) port_mapper: Option<PortMapper>,
    pub(super) complaints: super::complaints::Complaints,
    /// An HTTP proxy that leads out of this network.
    pub(super) proxy: Option<Proxy>,
    /// Use this relay only.
    pub(super) relay_via: Option<String>,
    /// The relay of this node, when it relays for others.
    pub(super) relaying: Option<super::relaying::Relaying>,
    /// Addresses of servers that were looked up.
    servers_found: (
        mpsc::Sender<Vec<relays::Server>>,
        mpsc::Receiver<Vec<relays::Server>>,
    ),
    /// The timer of this task.
    alarms: Arc<Alarms>,
    state: State,
}

/// What the coordinator says of a peer that is there.
#[derive(Debug)]
struct There {
    /// In which networks; `None` for all, from a coordinator that does not say.
    networks: Option<Vec<NetworkId>>,
}

impl There {
    fn is_in(&self, network: &NetworkId) -> bool {
        let networks = self.networks.as_ref();
        networks.is_none_or(|networks| networks.contains(network))
    }
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
    online: BTreeMap<NodeId, There>,
    /// What all sources say of where peers are.
    book: book::Book,
    /// Addresses of peers that are on disk.
    known: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// Peers with a tunnel.
    up: BTreeSet<NodeId>,
    /// Records of where members are.
    records: Option<kanpachi_proto::records::Records>,
    /// With whom this node stands.
    standing: Option<kanpachi_proto::standing::Standing>,
    /// What the swarm was told of where this node is.
    told_own: Vec<SocketAddr>,
    /// Peers that a relay brought here, and whose tunnels are not up yet.
    introduced: BTreeSet<NodeId>,
    /// How often a relay did that.
    introductions: u64,
    /// Other peers than before may have to be looked for.
    wants_changed: bool,
    /// Servers that relay, and members that do.
    servers: Vec<relays::Server>,
    relaying: BTreeSet<NodeId>,
    /// What the engine was told of the NAT.
    told_nat: Option<NatBehaviour>,
    /// The relays that engine and swarm were told of.
    relays: Vec<kanpachi_proto::relay::RelayAt>,
    /// Where others see this node, and what its network does.
    netcheck: netcheck::Netcheck,
    /// What the NAT in front of it does.
    nat: Option<NatBehaviour>,
    pending: HashMap<u64, Pending>,
    /// Who waits for a status until it is known whether the coordinator is there.
    want_status: Vec<oneshot::Sender<Status>>,
    joining: Option<joins::Joining>,
    drill: Option<drill::Drilling>,
    /// Peers that mDNS has shown.
    on_lan: BTreeSet<NodeId>,
    /// Networks in which this node awaits approval, as the coordinator said last.
    waiting: Vec<Waiting>,
    /// What is wrong with the rosters.
    problems: Vec<String>,
    /// What the coordinator says that this node's client id is.
    client_id: Option<ClientId>,
    /// Whom to ask for news, and when.
    spread: Spread,
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
    /// Why that was, of whatever was the last.
    not_stored: Option<ApiError>,
    /// No coordinator answers, and that has been told.
    lost: bool,
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
    pub(super) own_relay: Option<super::OwnRelay>,
    pub(super) no_mdns: bool,
    pub(super) port_mapper: Option<PortMapper>,
    pub(super) relay_via: Option<String>,
    pub(super) relaying: Option<super::relaying::Relaying>,
    pub(super) proxy: Option<Proxy>,
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
            own_relay,
            no_mdns,
            port_mapper,
            relay_via,
            relaying,
            proxy,
        } = parts;
        let local = Arc::from([]);
        let state = State::default();
        let alarms = Alarms::here().map_err(|e| {
            ApiError::failed(
                crate::ipc::error::code::FAILED,
                format_args!("the system gives no timer: {e}"),
            )
        })?;
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
            own_relay,
            no_mdns,
            proxy,
            port_mapper,
            relay_via,
            relaying,
            servers_found: mpsc::channel(4),
            alarms,
            state,
            complaints: super::complaints::Complaints::default(),
        };
        for known in core.db.known_candidates()? {
            let found = [book::plain(known.addr)];
            let (book, disk) = (&mut core.state.book, book::Origin::Disk);
            book.note(known.node, disk, found, known.seen);
            core.state
                .known
                .entry(known.node)
                .or_default()
                .push(known.addr);
        }
        core.state.clock = Some((clock::now(), clock::wall()));
        core.state.ipv4 = core.db.ipv4()?;
        core.state.waiting = core.db.waiting()?;
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
            Some((at, theirs)) => theirs.plus(clock::since(at).as_secs()),
            None => clock::wall(),
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
    ///
    /// # Errors
    /// When the swarm's task ended unasked: there is no going on without it.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut engine_events: mpsc::Receiver<engine::Event>,
        mut addresses: tokio::sync::watch::Receiver<Arc<[LocalAddress]>>,
        mut sleep: Option<SleepWatch>,
    ) -> Result<(), ApiError> {
        let mut tick = clock::now();
        let stop = self.stop.clone();
        let local = Arc::clone(&addresses.borrow_and_update());
        self.set_local(local);
        loop {
            self.drive().await;
            self.tell_statuses().await;
            self.drive_records().await;
            self.tell_own().await;
            self.drive_standing().await;
            self.tell_nat().await;
            self.ask_members().await;
            let due = self.next_timeout().map_or(tick, |due| due.min(tick));
            let alarms = Arc::clone(&self.alarms);
            let drill = self.state.drill.as_ref().map(drill::Drilling::end);
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
                slept = woken(&mut sleep) => self.wake(slept).await,
                Some(found) = self.servers_found.1.recv() => self.set_servers(found).await,
                () = mapped(&mut self.port_mapper) => self.announce(),
                checked = self.state.netcheck.finished() => self.note_checked(checked),
                () = drill::Drilling::ends(drill) => self.end_drill().await,
                () = clock::until_by(&alarms, Some(due)) => {
                    self.handle_timeout();
                    if tick <= clock::now() {
                        tick = clock::next_beat(TICK);
                        self.handle_tick().await;
                    }
                }
                () = swarm_ended(&mut self.state.session) => break,
            }
        }
        let outcome = self.check_swarm();
        self.shut_down().await;
        outcome
    }

    fn next_timeout(&self) -> Option<Instant> {
        let login = self.state.session.as_ref().map(|s| s.login.poll_timeout());
        let joining = self.state.joining.as_ref().map(|j| j.deadline);
        let spread = self
            .state
            .session
            .as_ref()
            .and(self.state.spread.poll_timeout());
        let records = self.records_timeout();
        let standing = self.standing_timeout();
        let all = [
            login,
            joining,
            spread,
            records,
            standing,
            self.doubts_timeout(),
        ];
        all.into_iter().flatten().min()
    }

    /// Lets go of a session whose swarm has ended. The daemon's own end is the only good reason.
    fn check_swarm(&mut self) -> Result<(), ApiError> {
        let running = self.state.session.as_ref().map(|s| &s.running);
        if !running.is_some_and(JoinHandle::is_finished) {
            return Ok(());
        }
        self.state.session = None;
        if self.stop.is_cancelled() {
            return Ok(());
        }
        let error = super::lost::lost("the task of the connections to other machines");
        tracing::error!("{error}");
        Err(error)
    }

    async fn shut_down(mut self) {
        if let Some(session) = self.state.session.take() {
            session.stop.cancel();
            // It says goodbye over the socket, whose reader is stopped after this.
            let _ = tokio::time::timeout(super::GOODBYE, session.running).await;
        }
        if let Some(port_mapper) = self.port_mapper.take() {
            port_mapper.stop(super::GOODBYE).await;
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

/// Returns when the swarm's task has ended; not to be waited for again then.
async fn swarm_ended(session: &mut Option<Session>) {
    match session {
        // Its panic was told when it happened.
        Some(session) => drop((&mut session.running).await),
        None => std::future::pending().await,
    }
}

/// Returns when the machine may have slept, with the sum of all its sleeps.
async fn woken(sleep: &mut Option<SleepWatch>) -> Duration {
    if let Some(sleep) = sleep
        && sleep.receiver.changed().await.is_ok()
    {
        return *sleep.receiver.borrow_and_update();
    }
    std::future::pending().await
}

/// Returns when the router forwards other ports than before, or is known to offer something else.
async fn mapped(port_mapper: &mut Option<PortMapper>) {
    if let Some(port_mapper) = port_mapper
        && port_mapper.state.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
