//! The login, a join, and what a coordinator says: as `core/session.rs`, `core/events.rs` and `core/requests.rs` of the
//! daemon.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kanpachi_common::{
    NodeId, OrgId, Signed,
    invite::Invite,
    org::{Address, Directory, Manifest},
    roster::Caps,
    wire::{
        MAX_VERSION, MIN_VERSION,
        control::{
            Announce, ClientMessage, Hello, Join, Joined as JoinedIs, PeerOnline, Pull,
            Registration, ServerMessage,
        },
        frame::{FrameReader, MAX_REPLY},
    },
};
use kanpachi_proto::{
    login::{Action, Attempt, Event as LoginEvent, Login, State, Trouble, Welcomed},
    roster::{Refusal, Rosters, Update},
};

use super::{Joined, Joining, Node, Out, Session};

/// A join that no coordinator answers is given up after this.
const JOIN_PATIENCE: Duration = Duration::from_secs(12);
/// After a login, a join and everything behind it is given up after this.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// Name of the machine of an index.
fn name_of(index: usize) -> String {
    format!("node{index}")
}

impl Node {
    /// Takes an organisation up: verifies what is stored of it, dials.
    pub(super) fn begin_session(&mut self, org: OrgId, hints: Vec<Address>, now: Instant) {
        let me = self.id();
        let stored = if self.disk.org() == Some(org) {
            self.disk.stored()
        } else {
            Default::default()
        };
        let rosters = Rosters::load(org, me, stored).expect("what was written verifies");
        let hello = self.hello(&org, &rosters);
        let addresses = coordinators(&hints, &rosters);
        let mut seed = [0; 32];
        self.rng.fill(&mut seed);
        let manifest = rosters.manifest().cloned();
        let login = Login::new(org, manifest, addresses, hello, seed, now);
        let Some(process) = &mut self.process else {
            return;
        };
        process.tunnels.set_org(org);
        process.session = Some(Session {
            rosters,
            login,
            lines: BTreeMap::new(),
            hints,
        });
    }

    fn hello(&self, org: &OrgId, rosters: &Rosters) -> Hello {
        Hello {
            min_version: MIN_VERSION,
            max_version: MAX_VERSION,
            caps: 0,
            client: "simulated".to_owned(),
            org: *org,
            tunnel: self.disk.tunnel_key(org),
            boot: self.process.as_ref().map_or(0, |p| p.boot),
            held: rosters.held(),
            candidates: self.own_candidates(),
            nat: None,
            away: rosters.offline().collect(),
            ext: vec![],
        }
    }

    /// What the next coordinator is told, after rosters or addresses changed.
    pub(super) fn refresh_hello(&mut self) {
        let session = self.process.as_ref().and_then(|p| p.session.as_ref());
        let Some(session) = session else {
            return;
        };
        let hello = self.hello(&session.rosters.org(), &session.rosters);
        if let Some(session) = self.session_mut() {
            session.login.set_hello(hello);
        }
    }

    /// Tells the coordinator where this node is now.
    pub(super) fn announce(&mut self, now: Instant) {
        self.refresh_hello();
        let candidates = self.own_candidates();
        if let Some(session) = self.session_mut() {
            let announce = Announce {
                candidates,
                nat: None,
            };
            session.login.announce(announce, now);
        }
    }

    pub(super) fn session_mut(&mut self) -> Option<&mut Session> {
        self.process.as_mut()?.session.as_mut()
    }

    /// The machine has another address from now on.
    pub fn move_to(&mut self, addr: std::net::SocketAddr, now: Instant) {
        self.addr = addr;
        if let Some(session) = self.session_mut() {
            session.login.handle_network_change(now);
        }
        self.announce(now);
        if let Some(process) = &mut self.process {
            process.tunnels.handle_network_change(now);
        }
        self.drive(now);
    }

    /// The machine has slept. Its clock went on meanwhile, and it may be anywhere.
    pub fn wake(&mut self, now: Instant) {
        self.move_to(self.addr, now);
    }

    /// Somebody types `join`.
    pub fn join(&mut self, invite: Invite, now: Instant) {
        let org = self.process.as_ref().and_then(|p| p.rosters());
        match org.map(Rosters::org) {
            Some(org) if org != invite.org => return,
            Some(_) => {}
            None => self.begin_session(invite.org, invite.addresses.clone(), now),
        }
        if let Some(session) = self.session_mut() {
            session.rosters.set_floor(invite.network, invite.floor);
        }
        if let Some(process) = &mut self.process {
            process.joined = Joined::Waiting;
            process.joining = Some(Joining {
                invite: Box::new(invite),
                deadline: now + JOIN_PATIENCE,
                joined: None,
            });
        }
        self.send_join(now);
        self.drive(now);
    }

    /// Shows the invite to the coordinator, as soon as there is one.
    fn send_join(&mut self, now: Instant) {
        let name = name_of(self.index);
        let Some(process) = &mut self.process else {
            return;
        };
        let (Some(joining), Some(session)) = (&mut process.joining, &mut process.session) else {
            return;
        };
        if joining.joined.is_some() {
            return;
        }
        let token = joining.invite.secret.token();
        let message = ClientMessage::Join(Join { token, name });
        if let Some(id) = session.login.request(&message) {
            process.pending_join = Some(id);
            joining.deadline = now + JOIN_LIMIT;
        }
    }

    fn handle_joined(&mut self, joined: &JoinedIs, now: Instant) {
        let Some(process) = &mut self.process else {
            return;
        };
        let (Some(joining), Some(session)) = (&mut process.joining, &process.session) else {
            return;
        };
        if joined.network != joining.invite.network {
            return self.finish_join(Joined::Failed("another network".to_owned()));
        }
        joining.joined = Some(joined.network);
        let (org, floor) = (joining.invite.org, joining.invite.floor);
        let hints = session.hints.clone();
        let stored = self.disk.set_org(org, hints);
        let stored = stored.and_then(|()| self.disk.set_floor(joined.network, floor));
        if stored.is_err() {
            return self.finish_join(Joined::Failed("the disk is full".to_owned()));
        }
        let offered = self.process.as_mut().and_then(|p| p.offered.take());
        if let Some((manifest, directory)) = offered {
            self.take_keys(&manifest, &directory);
        }
        self.take_registration(&joined.registration);
        if joined.waiting {
            return self.finish_join(Joined::AwaitsApproval);
        }
        self.pull();
        self.check_join(now);
    }

    /// Is the join complete, or hopeless?
    pub(super) fn check_join(&mut self, now: Instant) {
        let me = self.id();
        let Some(process) = &self.process else {
            return;
        };
        let Some(joining) = &process.joining else {
            return;
        };
        let member = joining.joined.is_some_and(|network| {
            let roster = process.rosters().and_then(|r| r.roster(&network));
            let me = roster.and_then(|r| r.member(&me));
            me.is_some_and(|me| !me.caps.has(Caps::PENDING))
        });
        if member && process.packets.own.is_some() {
            self.finish_join(Joined::Done);
        } else if joining.deadline <= now {
            self.finish_join(Joined::Failed("nobody answers".to_owned()));
        }
    }

    fn finish_join(&mut self, result: Joined) {
        self.note(format_args!("join: {result:?}"));
        let registered = self.disk.ipv4().is_some();
        let Some(process) = &mut self.process else {
            return;
        };
        process.joining = None;
        if result != Joined::Done && !registered {
            let lines = process.session.take().map(|s| s.lines).unwrap_or_default();
            let close = lines.into_keys().map(Out::Close);
            self.outs.extend(close);
        }
        process.joined = result;
    }

    /// Asks for everything after what is held.
    pub(super) fn pull(&mut self) {
        if let Some(session) = self.session_mut() {
            let held = session.rosters.held();
            let _ = session.login.request(&ClientMessage::Pull(Pull { held }));
        }
    }

    /// The stream of an attempt is open.
    pub fn handle_opened(&mut self, attempt: Attempt, server: NodeId, now: Instant) {
        if let Some(session) = self.session_mut() {
            session.lines.insert(attempt, FrameReader::new(MAX_REPLY));
            session.login.handle_opened(attempt, server, now);
        }
        self.drive(now);
    }

    /// Bytes came on the stream of an attempt.
    pub fn handle_bytes(&mut self, attempt: Attempt, bytes: &[u8], now: Instant) {
        let reader = self.session_mut().and_then(|s| s.lines.get_mut(&attempt));
        if let Some(reader) = reader {
            reader.extend(bytes);
        }
        // What one frame leads to may close the stream under the next.
        while let Some(session) = self.session_mut() {
            let Some(reader) = session.lines.get_mut(&attempt) else {
                break;
            };
            match reader.next_frame() {
                Ok(Some(frame)) => session.login.handle_frame(attempt, &frame, now),
                Ok(None) => break,
                Err(error) => {
                    (session.login).handle_garbage(attempt, error.to_string(), now);
                    break;
                }
            }
            self.drive(now);
        }
        self.drive(now);
    }

    /// The stream of an attempt ended.
    pub fn handle_closed(&mut self, attempt: Attempt, reason: &str, now: Instant) {
        if let Some(session) = self.session_mut() {
            session.lines.remove(&attempt);
            session.login.handle_failed(attempt, reason.to_owned(), now);
        }
        self.drive(now);
    }

    pub(super) fn drive_login(&mut self, now: Instant) -> bool {
        let Some(session) = self.session_mut() else {
            return false;
        };
        if let Some(action) = session.login.poll_action() {
            let out = match action {
                Action::Dial { attempt, address } => Out::Dial(attempt, address),
                Action::Send { attempt, frame } => Out::Bytes(attempt, frame.to_bytes()),
                Action::Close(attempt) => {
                    session.lines.remove(&attempt);
                    Out::Close(attempt)
                }
            };
            self.outs.push_back(out);
        } else if let Some(event) = session.login.poll_event() {
            self.handle_login(event, now);
        } else {
            return false;
        }
        true
    }

    fn handle_login(&mut self, event: LoginEvent, now: Instant) {
        match event {
            LoginEvent::Welcome(welcomed) => self.handle_welcome(&welcomed, now),
            LoginEvent::Message { id, message } => self.handle_message(id, message, now),
            LoginEvent::Unreachable(trouble) => {
                self.note(format_args!("unreachable: {trouble}"));
                let mut lost = false;
                if let Some(process) = &mut self.process {
                    process.pending_join = None;
                    lost = !std::mem::replace(&mut process.alone, true);
                }
                self.join_trouble(&trouble);
                if lost {
                    self.connect_all(now);
                }
            }
            LoginEvent::Refused { refused, .. } => {
                self.note(format_args!("refused: {}", refused.message));
                self.join_refused(refused.message);
            }
        }
    }

    fn join_trouble(&mut self, trouble: &Trouble) {
        let joining = self.process.as_ref().is_some_and(|p| p.joining.is_some());
        let silence = matches!(
            trouble,
            Trouble::NoAnswer { .. } | Trouble::Silent(_) | Trouble::Closed(_)
        );
        if joining && !silence {
            self.finish_join(Joined::Failed(trouble.to_string()));
        }
    }

    fn join_refused(&mut self, why: String) {
        let joining = self.process.as_ref().and_then(|p| p.joining.as_ref());
        if joining.is_some_and(|j| j.joined.is_none()) {
            self.finish_join(Joined::Failed(why));
        }
    }

    fn handle_welcome(&mut self, welcomed: &Welcomed, now: Instant) {
        self.note("is logged in");
        if let Some(process) = &mut self.process {
            process.clock = (now, welcomed.time);
            process.alone = false;
            // What the coordinator said of presence belongs to the session that ended.
            process.online.clear();
        }
        let manifest = welcomed.manifest.signed().clone();
        let directory = welcomed.directory.signed().clone();
        if self.disk.ipv4().is_some() {
            self.take_keys(&manifest, &directory);
        } else if let Some(process) = &mut self.process {
            process.offered = Some((manifest, directory));
        }
        if let Some(registration) = &welcomed.registration {
            self.take_registration(registration);
        }
        self.tell_suspends();
        self.tell_presence();
        // By the coordinator's clock other rosters may count than by this machine's.
        self.members_changed(now);
        self.send_join(now);
    }

    fn take_keys(&mut self, manifest: &Signed<Manifest>, directory: &Signed<Directory>) {
        let Some(session) = self.session_mut() else {
            return;
        };
        let known = session.rosters.manifest();
        let outcome = if known.is_some_and(|m| m.signed() == manifest) {
            Ok(None)
        } else {
            session.rosters.check_manifest(manifest).map(Some)
        };
        self.settle(outcome);
        let Some(session) = self.session_mut() else {
            return;
        };
        let outcome = session.rosters.check_directory(directory);
        self.settle(outcome);
        if let Some(session) = self.session_mut() {
            let addresses = coordinators(&session.hints, &session.rosters);
            session.login.set_addresses(addresses);
        }
    }

    fn take_registration(&mut self, registration: &Registration) {
        if self.disk.ipv4() != Some(registration.ipv4) {
            let up = (self.process.as_ref()).is_some_and(|p| p.packets.own.is_some());
            if up {
                self.note("is given another address, and keeps its own");
                return;
            }
            if self.disk.set_ipv4(registration.ipv4).is_err() {
                return;
            }
        }
        self.bring_adapter_up();
    }

    fn handle_message(&mut self, id: u64, message: ServerMessage, now: Instant) {
        let Some(session) = self.session_mut() else {
            return;
        };
        let changed = match message {
            ServerMessage::Delta(delta) => {
                let outcome = session.rosters.check_delta(*delta);
                if matches!(outcome, Err(Refusal::NotHeld)) {
                    self.pull();
                }
                self.settle(outcome)
            }
            ServerMessage::Page(page) => {
                let outcome = session.rosters.check_page(*page);
                self.settle(outcome)
            }
            ServerMessage::Secret(secret) => {
                let outcome = session.rosters.check_secret(secret.network, secret.secret);
                self.settle(outcome);
                false
            }
            ServerMessage::Removed(removed) => {
                self.note("is no member any more");
                self.take_up(Update::Removed(removed.network))
            }
            ServerMessage::Directory(news) => {
                self.take_keys(&news.manifest, &news.directory);
                false
            }
            ServerMessage::PeerOnline(online) => {
                self.handle_online(online, now);
                false
            }
            ServerMessage::PeerOffline(offline) => {
                if let Some(process) = &mut self.process {
                    process.online.remove(&offline.node);
                }
                false
            }
            ServerMessage::ShowRoster(asked) => {
                for shown in session.rosters.show(&asked.network) {
                    let message = ClientMessage::Shown(Box::new(shown));
                    let _ = session.login.request(&message);
                }
                false
            }
            message => {
                self.handle_reply(id, message, now);
                false
            }
        };
        if changed {
            self.members_changed(now);
        }
        self.check_join(now);
    }

    fn handle_online(&mut self, online: PeerOnline, now: Instant) {
        let addrs = online.candidates.iter().map(|c| c.addr);
        let addrs: Vec<_> = addrs.filter(|a| self.is_underlay(a)).collect();
        let Some(process) = &mut self.process else {
            return;
        };
        // A member may be announced before the roster that names it is here.
        process.online.insert(online.node, online.candidates);
        if process.peers.contains_key(&online.node) {
            self.remember(online.node, &addrs);
            self.tell_candidates(&online.node, now);
            self.connect(&online.node, now);
        }
    }

    fn handle_reply(&mut self, id: u64, message: ServerMessage, now: Instant) {
        let Some(process) = &mut self.process else {
            return;
        };
        if process.pending_join != Some(id) {
            return;
        }
        process.pending_join = None;
        match message {
            ServerMessage::Joined(joined) => self.handle_joined(&joined, now),
            ServerMessage::Refused(refused) => self.join_refused(refused.message),
            _ => {}
        }
    }

    /// Has the login found out that somebody else lives at the coordinator's address?
    pub fn sees_other_organisation(&self) -> bool {
        let state = self.login();
        matches!(
            state,
            Some(State::Unreachable {
                trouble: Trouble::OtherOrganisation(_),
                ..
            })
        )
    }
}

/// All addresses of coordinators, best first, each once.
fn coordinators(hints: &[Address], rosters: &Rosters) -> Vec<Address> {
    let directory = rosters.directory().map(|d| d.coordinators.clone());
    let told = directory
        .into_iter()
        .flatten()
        .flat_map(|server| server.addresses);
    let mut out: Vec<Address> = Vec::new();
    for address in told.chain(hints.iter().cloned()) {
        if !out.contains(&address) {
            out.push(address);
        }
    }
    out
}
