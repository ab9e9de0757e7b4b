//! The organisation that the node is with: rosters, the login, the swarm.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use kanpachi_common::{
    OrgId,
    org::Address,
    wire::{
        MAX_VERSION, MIN_VERSION,
        control::{Announce, Hello, Pull},
        frame::Frame,
    },
};
use kanpachi_proto::{
    login::{Action, Attempt, Claims, Login},
    roster::Rosters,
};
use kanpachi_transport::peer_id;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Core, swarm};
use crate::{
    clock,
    ipc::error::{ApiError, code},
};

/// How long the socket may be held by a session that ended, and how often that is looked at.
const SOCKET_PATIENCE: Duration = Duration::from_secs(3);
const SOCKET_RETRY: Duration = Duration::from_millis(50);

/// Everything that hangs on one organisation.
#[derive(Debug)]
pub(in crate::daemon) struct Session {
    pub(super) rosters: Rosters,
    pub(super) login: Login,
    /// What members said that the coordinator has, and that it was asked for.
    pub(super) claims: Claims,
    pub(super) swarm: swarm::Handle,
    /// Where frames of each open control stream go.
    pub(super) lines: HashMap<Attempt, mpsc::Sender<Frame>>,
    /// Addresses of coordinators that an invite told.
    pub(super) hints: Vec<Address>,
    pub(super) stop: CancellationToken,
    /// The swarm's task.
    pub(super) running: JoinHandle<()>,
}

/// The sentence for what of the state does not verify.
fn refused(error: &kanpachi_proto::roster::Refusal) -> ApiError {
    ApiError::failed(code::STATE_DAMAGED, format_args!("what is stored of the organisation does not verify: {error}"))
        .hint("move node.db in the state directory away and join again; the key beside it keeps the addresses of this machine")
}

impl Core {
    /// Takes an organisation up: verifies what is stored of it, starts the swarm, dials.
    pub(super) async fn begin_session(
        &mut self,
        org: OrgId,
        hints: Vec<Address>,
    ) -> Result<(), ApiError> {
        let rosters = self.load_rosters(org)?;
        self.engine
            .send(super::engine::Command::Organisation(org))
            .await;
        self.set_overlay(&org, rosters.directory().map(|d| d.pool));
        let stop = self.stop.child_token();
        let (swarm, events, running) = self.start_swarm(org, &stop).await?;
        let hello = self.hello(&org, &rosters);
        let addresses = coordinators(&self.own_coordinator, &hints, &rosters);
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| {
            ApiError::failed(
                code::FAILED,
                format_args!("the system gives no random numbers: {e}"),
            )
        })?;
        let login = Login::new(
            org,
            rosters.manifest().cloned(),
            addresses,
            hello,
            seed,
            clock::now(),
        );
        self.start_records()?;
        self.start_standing();
        self.state.relays.clear();
        self.state.resting = None;
        self.state.session = Some(Session {
            rosters,
            login,
            claims: Claims::default(),
            swarm,
            lines: HashMap::new(),
            hints,
            stop,
            running,
        });
        self.state.swarm_events = Some(events);
        self.state.coordinator_since = Some(jiff::Timestamp::now());
        self.state.lost = false;
        self.cut_off_if_drilling().await;
        self.own_changed();
        Ok(())
    }

    /// Verifies what is stored of an organisation.
    pub(super) fn load_rosters(&self, org: OrgId) -> Result<Rosters, ApiError> {
        let stored = if self.db.org()? == Some(org) {
            self.db.stored()?
        } else {
            kanpachi_proto::roster::Stored::default()
        };
        Rosters::load(org, self.me(), stored).map_err(|e| refused(&e))
    }

    /// Starts the swarm. The one of a session that ended a moment ago may still hold the socket: its connections take
    /// their leave.
    async fn start_swarm(
        &mut self,
        org: OrgId,
        stop: &CancellationToken,
    ) -> Result<(swarm::Handle, mpsc::Receiver<swarm::Event>, JoinHandle<()>), ApiError> {
        let deadline = clock::now() + SOCKET_PATIENCE;
        loop {
            let setup = swarm::Setup {
                identity: self.keys.identity.clone(),
                org,
                socket: self.socket.clone(),
                filter: self.overlay.filter(),
                tcp_port: self.tcp_port,
                mdns: !self.no_mdns,
                proxy: self.proxy.clone(),
                engine: self.engine.clone(),
                dataplane: std::sync::Arc::clone(&self.dataplane),
                relaying: self.relaying.clone(),
            };
            match swarm::start(setup, stop.clone()) {
                Ok(started) => return Ok(started),
                Err(error) if clock::now() >= deadline => {
                    return Err(ApiError::failed(code::FAILED, format_args!("{error:#}")));
                }
                Err(error) => {
                    tracing::debug!(%error, "the swarm does not start yet");
                    tokio::time::sleep(SOCKET_RETRY).await;
                }
            }
        }
    }

    /// Lets go of an organisation that was never joined.
    pub(super) fn end_session(&mut self) {
        if let Some(session) = self.state.session.take() {
            session.stop.cancel();
        }
        if let Some(relaying) = &self.relaying {
            relaying.set_rosters(None);
        }
        self.state.swarm_events = None;
        self.state.records = None;
        self.state.standing = None;
        self.state.coordinator_since = None;
    }

    pub(super) fn set_overlay(&self, org: &OrgId, pool: Option<kanpachi_common::Pool>) {
        let pool = pool.unwrap_or_default();
        self.overlay
            .set(vec![pool.prefix(), kanpachi_common::addr::ipv6_prefix(org)]);
    }

    fn hello(&self, org: &OrgId, rosters: &Rosters) -> Hello {
        Hello {
            min_version: MIN_VERSION,
            max_version: MAX_VERSION,
            caps: 0,
            client: format!("kanpachi/{}", env!("CARGO_PKG_VERSION")),
            org: *org,
            tunnel: self.keys.tunnel_key(org),
            boot: self.boot,
            held: rosters.held(),
            candidates: self.own_candidates(),
            nat: self.nat(),
            away: rosters.offline().collect(),
            ext: vec![],
        }
    }

    /// What the next coordinator is told, after rosters or addresses changed.
    pub(super) fn refresh_hello(&mut self) {
        let Some(session) = &self.state.session else {
            return;
        };
        let hello = self.hello(&session.rosters.org(), &session.rosters);
        if let Some(session) = &mut self.state.session {
            session.login.set_hello(hello);
        }
    }

    /// Tells the coordinator where this node is now.
    pub(super) fn announce(&mut self) {
        self.refresh_hello();
        self.own_changed();
        let (candidates, nat) = (self.own_candidates(), self.nat());
        if let Some(session) = &mut self.state.session {
            let announce = Announce { candidates, nat };
            session.login.announce(announce, clock::now());
        }
    }

    /// The directory changed: dial by it, and use its bootstraps.
    pub(super) fn servers_changed(&mut self) {
        let Some(session) = &mut self.state.session else {
            return;
        };
        let addresses = coordinators(&self.own_coordinator, &session.hints, &session.rosters);
        session.login.set_addresses(addresses);
        let Some(directory) = session.rosters.directory() else {
            return;
        };
        let (org, pool, servers) = (directory.org, directory.pool, directory.bootstraps.clone());
        let swarm = session.swarm.clone();
        let told = self.servers_found.0.clone();
        // Names may take seconds to look up, or for ever when the network is down: nobody waits for that here.
        tokio::spawn(async move {
            let (mut bootstraps, mut found) = (Vec::new(), Vec::new());
            for server in servers {
                let addrs = resolve(&server.addresses).await;
                let names = server.addresses.into_iter().map(|a| a.host).collect();
                found.push((server.id, names, addrs.clone()));
                let addrs = addrs
                    .into_iter()
                    .flat_map(|a| [swarm::quic_addr(a), swarm::tcp_addr(a)])
                    .collect();
                bootstraps.push((peer_id(server.id), addrs));
            }
            swarm.send(swarm::Command::Bootstraps(bootstraps)).await;
            // The task in the middle ends with the daemon, and with it what is told here.
            let _ = told.send(found).await;
        });
        self.set_overlay(&org, Some(pool));
        self.ask_reflectors();
        self.check_network();
    }

    /// Asks the coordinator for all that is not held here.
    pub(super) fn pull(&mut self) {
        if let Some(session) = &mut self.state.session {
            let held = session.rosters.held();
            session.login.pull(Pull { held }, clock::now());
        }
    }

    /// Carries out what the login wants, until it wants nothing more.
    pub(super) async fn drive(&mut self) {
        loop {
            let Some(session) = &mut self.state.session else {
                return;
            };
            if let Some(action) = session.login.poll_action() {
                match action {
                    Action::Dial { attempt, address } => {
                        session
                            .swarm
                            .send(swarm::Command::Dial { attempt, address })
                            .await
                    }
                    Action::Send { attempt, frame } => {
                        if let Some(id) = session.send(attempt, frame) {
                            self.fail_unsent(id).await;
                        }
                    }
                    Action::Close(attempt) => {
                        session.lines.remove(&attempt);
                        session.swarm.send(swarm::Command::Close(attempt)).await;
                    }
                }
            } else if let Some(event) = session.login.poll_event() {
                self.handle_login(event).await;
            } else {
                return;
            }
        }
    }

    /// A deadline passed.
    pub(super) fn handle_timeout(&mut self) {
        let now = clock::now();
        if let Some(session) = &mut self.state.session {
            // The wall clock may have been set since.
            session.login.set_beat(clock::next_beat(super::TICK));
            session.login.handle_timeout(now);
        }
        self.check_join(now);
        self.handle_records_timeout();
        self.settle_doubts();
    }

    /// Now and then: what ages.
    pub(super) async fn handle_tick(&mut self) {
        self.mind_network();
        self.note_problems();
        let wall = self.wall();
        let rosters = self.state.session.as_ref().map(|s| &s.rosters);
        if rosters.is_some_and(|rosters| rosters.peers(wall) != self.state.peers) {
            self.members_changed().await;
        }
        self.choose_relays().await;
        self.mind_adapter().await;
        if std::mem::take(&mut self.state.unsaved) {
            self.pull();
            self.state.spread.handle_unsaved(clock::now());
        }
        tracing::trace!(time = clock::wall().0, "tick");
    }
}

impl Session {
    /// Sends a frame; the number of the request when the coordinator does not take it. Its silence will be noticed, but
    /// whoever asked need not wait for that.
    fn send(&mut self, attempt: Attempt, frame: Frame) -> Option<u64> {
        put(self.lines.get(&attempt), frame)
    }
}

fn put(line: Option<&mpsc::Sender<Frame>>, frame: Frame) -> Option<u64> {
    let id = frame.id;
    if line.is_some_and(|line| line.try_send(frame).is_ok()) {
        return None;
    }
    tracing::debug!("the coordinator does not read");
    Some(id)
}

/// All addresses of coordinators, best first, each once.
fn coordinators(own: &[Address], hints: &[Address], rosters: &Rosters) -> Vec<Address> {
    let directory = rosters
        .directory()
        .map(|d| d.coordinators.clone())
        .unwrap_or_default();
    let mut out: Vec<Address> = Vec::new();
    for address in own
        .iter()
        .cloned()
        .chain(directory.into_iter().flat_map(|s| s.addresses))
        .chain(hints.iter().cloned())
    {
        if !out.contains(&address) {
            out.push(address);
        }
    }
    out
}

/// Looks up names; a name that is not found is left out.
pub(super) async fn resolve(addresses: &[Address]) -> Vec<SocketAddr> {
    let mut out = Vec::new();
    for address in addresses {
        match address.host.parse() {
            Ok(ip) => out.push(SocketAddr::new(ip, address.port)),
            Err(_) => {
                let lookup = tokio::net::lookup_host((address.host.as_str(), address.port));
                if let Ok(Ok(found)) = tokio::time::timeout(Duration::from_secs(2), lookup).await {
                    out.extend(found.take(2));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use kanpachi_common::wire::control::{ClientMessage, Nonce};

    use super::*;

    #[test]
    fn a_request_that_finds_no_room_is_known_by_its_number() {
        let frame = |id| ClientMessage::Ping(Nonce(0)).frame(id);
        let (line, mut taken) = mpsc::channel(1);
        assert_eq!(put(Some(&line), frame(7)), None);
        assert_eq!(put(Some(&line), frame(8)), Some(8));
        assert_eq!(taken.try_recv().unwrap().id, 7);
        assert_eq!(put(None, frame(9)), Some(9));
    }
}
