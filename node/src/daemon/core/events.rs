//! What engine, swarm and coordinator say.

use std::net::SocketAddr;

use kanpachi_common::{
    NetworkId, NodeId, UnixTime,
    roster::Position,
    time::DAY,
    wire::control::{Registration, ServerMessage, codes},
};
use kanpachi_proto::{
    login::{Event as Login, Welcomed},
    roster::{Refusal, Update},
};

use super::{
    Core, Pending, There,
    book::{Origin, plain},
    engine, swarm,
};
use crate::{
    clock,
    daemon::control_io::Line,
    ipc::error::{ApiError, code},
};

/// A clock that is off by more than this is told about, in seconds.
const CLOCK_TOLERANCE: u64 = 300;

/// Nodes that the coordinator may call online: the largest network, and then some.
const MAX_ONLINE: usize = 8192;

impl Core {
    pub(super) async fn handle_engine(&mut self, event: engine::Event) {
        match event {
            engine::Event::Up(peer, endpoint) => {
                self.state.spread.handle_up(&peer, clock::now());
                self.note_up(peer, endpoint);
                if self.overlay.is_underlay(&endpoint) {
                    self.end_introduction(peer).await;
                }
            }
            engine::Event::Down(peer) => {
                self.state.up.remove(&peer);
                self.state.wants_changed = true;
                self.handle_down(peer).await;
            }
            engine::Event::Trouble => self.doubt_reflectors(),
            engine::Event::Observed(peer, addr) => {
                self.note_observed(peer, addr);
                self.note_view(&peer, addr);
            }
            engine::Event::Reflected {
                reflector,
                observed,
            } => self.note_reflected(reflector, observed),
            engine::Event::Epochs {
                peer,
                generation,
                epochs,
            } => {
                tracing::trace!(%peer, generation, ?epochs, "rosters of a peer");
                self.compare_epochs(&peer, generation, &epochs);
            }
        }
    }

    fn note_up(&mut self, peer: NodeId, endpoint: SocketAddr) {
        self.state.up.insert(peer);
        self.state.wants_changed = true;
        // A way over a relay is none that anybody else could take, nor this node tomorrow.
        if !self.overlay.is_underlay(&endpoint) {
            return;
        }
        let (wall, book) = (self.wall(), &mut self.state.book);
        book.note(peer, Origin::Tunnel, [plain(endpoint)], wall);
        self.remember(&peer, &[endpoint]);
        if let Some(session) = &self.state.session {
            session.swarm.note_up(peer, endpoint);
        }
    }

    /// A peer knows a newer roster than the one here: it is asked for it, and the coordinator will have it too.
    fn compare_epochs(&mut self, peer: &NodeId, generation: u64, epochs: &[(NetworkId, u64)]) {
        let Some(session) = &mut self.state.session else {
            return;
        };
        let (spread, now) = (&mut self.state.spread, clock::now());
        spread.handle_epochs(peer, generation, epochs, &session.rosters, now);
        let mut news = false;
        for (network, epoch) in epochs {
            let claimed = Position {
                generation,
                epoch: *epoch,
            };
            let held = session.rosters.roster(network).map(|r| r.head());
            let behind = held.is_some_and(|h| (h.generation, h.epoch) < (generation, *epoch));
            news |= behind && session.claims.is_news(network, claimed, now);
        }
        if news {
            self.pull();
        }
    }

    /// A tunnel that should be up is not: let both sides be introduced by a relay, or stop trying when the
    /// coordinator knows that the peer is gone.
    async fn handle_down(&mut self, peer: NodeId) {
        let Some(session) = &self.state.session else {
            return;
        };
        let connected = matches!(
            session.login.state(),
            kanpachi_proto::login::State::Connected { .. }
        );
        if connected && !self.state.online.contains_key(&peer) {
            self.state.spread.handle_unwanted(&peer);
            self.engine.send(engine::Command::Disconnect(peer)).await;
        } else {
            self.state.spread.handle_down(&peer, clock::now());
            self.introduce(peer).await;
        }
    }

    pub(super) async fn handle_swarm(&mut self, event: swarm::Event) {
        let now = clock::now();
        match event {
            swarm::Event::Line { attempt, line } => {
                let Some(session) = &mut self.state.session else {
                    return;
                };
                match line {
                    Line::Opened { server, sender } => {
                        session.lines.insert(attempt, sender);
                        session.login.handle_opened(attempt, server, now);
                    }
                    Line::Frame(frame) => session.login.handle_frame(attempt, &frame, now),
                    Line::Garbage(reason) => session.login.handle_garbage(attempt, reason, now),
                    Line::Failed(reason) => {
                        session.lines.remove(&attempt);
                        session.login.handle_failed(attempt, reason, now);
                    }
                }
            }
            swarm::Event::Record(event) => self.handle_record(event),
            swarm::Event::Observed(peer, addr) => self.note_observed(peer, addr),
            swarm::Event::OnLan { node, addr } => {
                self.note_on_lan(node);
                self.note_heard(node, vec![addr], Origin::Heard).await;
            }
            swarm::Event::Relaying { node, relays } => self.note_relaying(node, relays).await,
            swarm::Event::Addresses {
                node,
                addrs,
                relayed,
            } => {
                let origin = if relayed {
                    Origin::Introduced
                } else {
                    Origin::Heard
                };
                self.note_heard(node, addrs, origin).await;
            }
            swarm::Event::Introduced(node) => self.note_introduced(node).await,
            swarm::Event::Stands(node) => self.note_stands(&node),
            swarm::Event::StandEnded(node) => self.note_stand_ended(&node),
            swarm::Event::Asked { node, ask, reply } => {
                let answer = self.handle_asked(node, &ask).await;
                let _ = reply.send(answer);
            }
            swarm::Event::Answer { node, message } => self.handle_answer(node, message).await,
            swarm::Event::AskEnded { node, answered } => self.handle_ask_ended(&node, answered),
        }
    }

    pub(super) async fn handle_login(&mut self, event: Login) {
        match event {
            Login::Welcome(welcomed) => self.handle_welcome(*welcomed).await,
            Login::Message { id, message } => self.handle_message(id, message).await,
            Login::Unreachable(trouble) => {
                // Without its word everybody may be there.
                self.state.wants_changed = true;
                let first = !std::mem::replace(&mut self.state.lost, true);
                if first {
                    tracing::warn!("no coordinator; tunnels go on");
                    tracing::debug!(%trouble, "the last one that was tried");
                    self.state.coordinator_since = Some(jiff::Timestamp::now());
                }
                self.state.last_error = Some(trouble.to_string());
                self.fail_pending().await;
                self.join_trouble(&trouble);
                if first {
                    self.connect_all().await;
                }
            }
            Login::Refused { address, refused } => {
                tracing::debug!(%address, code = refused.code, "refused by the coordinator");
                self.join_refused(&refused);
            }
        }
    }

    async fn handle_welcome(&mut self, welcomed: Welcomed) {
        tracing::info!("logged in");
        if let Err(error) = self.check_clock(welcomed.time) {
            return self.finish_join(Err(error));
        }
        (self.state.lost, self.state.last_error) = (false, None);
        self.state.last_address = Some(welcomed.address.to_string());
        self.state.coordinator_since = Some(jiff::Timestamp::now());
        // What the coordinator said of presence belongs to the session that ended.
        self.state.online.clear();
        self.state.book.demote_all();
        self.state.wants_changed = true;
        let (manifest, directory) = (
            welcomed.manifest.signed().clone(),
            welcomed.directory.signed().clone(),
        );
        if self.is_registered() {
            self.take_keys(&manifest, &directory);
        } else {
            // Nothing is written for a coordinator that may say no.
            self.state.offered = Some((manifest, directory));
        }
        if let Some(registration) = &welcomed.registration {
            self.take_registration(registration).await;
        } else if self.state.joining.is_none() {
            self.state.last_error = Some(
                "the coordinator does not know this machine: join again with a new invite".into(),
            );
            tracing::warn!(
                "the coordinator does not know this machine: join again with a new invite"
            );
        }
        self.tell_suspends();
        self.tell_presence();
        // By the coordinator's clock other rosters may count than by this machine's.
        self.members_changed().await;
        self.send_join();
    }

    /// Newer keys and servers. `true` when there was something new.
    pub(super) fn take_keys(
        &mut self,
        manifest: &kanpachi_common::Signed<kanpachi_common::org::Manifest>,
        directory: &kanpachi_common::Signed<kanpachi_common::org::Directory>,
    ) -> bool {
        let Some(session) = &mut self.state.session else {
            return false;
        };
        let known = session
            .rosters
            .manifest()
            .is_some_and(|m| m.signed() == manifest);
        let outcome = if known {
            Ok(None)
        } else {
            session.rosters.check_manifest(manifest).map(Some)
        };
        let mut changed = self.settle("keys", outcome);
        let Some(session) = &mut self.state.session else {
            return changed;
        };
        let outcome = session.rosters.check_directory(directory);
        changed |= self.settle("servers", outcome);
        self.servers_changed();
        changed
    }

    pub(super) fn is_registered(&self) -> bool {
        self.state.ipv4.is_some()
    }

    pub(super) async fn take_registration(&mut self, registration: &Registration) {
        self.wait_for(|waiting| waiting.clone_from(&registration.waiting));
        self.state.client_id = registration.client_id;
        if self.state.ipv4 != Some(registration.ipv4) {
            if self.state.adapter.is_some() {
                tracing::error!(
                    "the coordinator gives this machine another address than before; the old one stays until the next start"
                );
                return;
            }
            if let Err(error) = self.db.set_ipv4(registration.ipv4) {
                tracing::error!(%error, "the address was not stored");
                return;
            }
            self.state.ipv4 = Some(registration.ipv4);
        }
        if let Err(error) = self.bring_adapter_up().await {
            tracing::error!(%error, "no adapter");
            self.finish_join(Err(error));
        }
    }

    async fn handle_message(&mut self, id: u64, message: ServerMessage) {
        let Some(session) = &mut self.state.session else {
            return;
        };
        let changed = match message {
            ServerMessage::Delta(delta) => {
                let outcome = session.rosters.check_delta(*delta);
                self.pull_if_needed(&outcome);
                self.settle("a change of the roster", outcome)
            }
            ServerMessage::Page(page) => {
                let outcome = session.rosters.check_page(*page);
                self.settle("a roster", outcome)
            }
            ServerMessage::Secret(secret) => {
                let outcome = session.rosters.check_secret(secret.network, secret.secret);
                // It comes behind the roster, and peer records are made with it.
                self.settle("a network secret", outcome)
            }
            ServerMessage::Removed(removed) => self.handle_removed(removed.network),
            ServerMessage::Directory(news) => self.take_keys(&news.manifest, &news.directory),
            ServerMessage::PeerOnline(online) => {
                self.handle_online(online).await;
                false
            }
            ServerMessage::PeerOffline(offline) => {
                self.state.online.remove(&offline.node);
                self.state.book.demote(&offline.node);
                self.state.wants_changed = true;
                false
            }
            ServerMessage::ShowRoster(asked) => {
                self.show_roster(asked);
                false
            }
            message => {
                self.handle_reply(id, message).await;
                false
            }
        };
        if changed {
            self.members_changed().await;
        }
        self.check_join(clock::now());
    }

    fn pull_if_needed(&mut self, outcome: &Result<Option<Update>, Refusal>) {
        if matches!(outcome, Err(Refusal::NotHeld)) {
            self.pull();
        }
    }

    async fn handle_online(&mut self, online: kanpachi_common::wire::control::PeerOnline) {
        let addrs: Vec<_> = online
            .candidates
            .iter()
            .map(|c| c.addr)
            .filter(|a| self.overlay.is_underlay(a))
            .collect();
        // A member may be announced before the roster that names it is here.
        if self.state.online.len() >= MAX_ONLINE && !self.state.online.contains_key(&online.node) {
            return;
        }
        let (wall, book) = (self.wall(), &mut self.state.book);
        book.replace(online.node, Origin::Coordinator, &online.candidates, wall);
        book.set_nat(online.node, online.nat);
        let there = There {
            networks: online.networks,
        };
        self.state.online.insert(online.node, there);
        self.state.wants_changed = true;
        if self.state.peers.contains_key(&online.node) {
            self.remember(&online.node, &addrs);
            self.tell_candidates(&online.node).await;
            self.connect(online.node).await;
        }
    }

    async fn handle_reply(&mut self, id: u64, message: ServerMessage) {
        match (self.state.pending.remove(&id), message) {
            (Some(Pending::Join), ServerMessage::Joined(joined)) => {
                self.handle_joined(joined).await
            }
            (Some(Pending::Join), ServerMessage::Refused(refused)) => self.join_refused(&refused),
            (Some(Pending::Invite(request, reply)), message) => {
                Self::answer_invite(request, reply, message)
            }
            (Some(Pending::SetNick(reply)), message) => Self::answer_nick(reply, message),
            (Some(Pending::Change(about, reply)), message) => {
                self.answer_change(about, reply, message).await
            }
            (None, ServerMessage::Done(_)) => {}
            (None, ServerMessage::Refused(refused)) if refused.code == codes::BUSY => {}
            (_, message) => self.unexpected(&message),
        }
    }

    /// Compares clocks. A machine that is far off joins nothing: a person is there and can set it. One that is a
    /// member already goes by the coordinator's clock for as long as it runs.
    fn check_clock(&mut self, theirs: UnixTime) -> Result<(), ApiError> {
        let ours = clock::wall();
        let off = ours.0.abs_diff(theirs.0);
        self.state.clock = Some((clock::now(), theirs));
        if off <= CLOCK_TOLERANCE {
            return Ok(());
        }
        let side = if ours < theirs { "behind" } else { "ahead of" };
        let by = humantime::format_duration(std::time::Duration::from_secs(off));
        let words = format!("the clock of this machine is {by} {side} the coordinator's");
        let hint = "set it, for instance with: sudo timedatectl set-ntp true";
        if off > DAY && self.state.joining.is_some() && !self.is_registered() {
            return Err(ApiError::refused(code::WRONG_CLOCK, words).hint(hint));
        }
        if !self.state.clock_warned {
            self.state.clock_warned = true;
            tracing::warn!("{words}; {hint}");
            self.progress.warn(format_args!("{words}; {hint}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kanpachi_common::org::Address;
    use kanpachi_proto::login::Trouble;

    use super::{
        super::fixture::{Alone, Org},
        *,
    };

    #[tokio::test]
    async fn a_coordinator_that_did_not_know_this_machine_is_missed_like_any_other() {
        let mut alone = Alone::new().await;
        let (core, peer) = (&mut alone.core, Org::node(2));
        core.state.peers = core.rosters().unwrap().peers(UnixTime(1500));
        let at = plain(([192, 0, 2, 7], 1).into());
        core.state
            .book
            .note(peer, Origin::Disk, [at], UnixTime(1400));
        core.state.last_error = Some("the coordinator does not know this machine".into());
        core.state.coordinator_since = None;
        let trouble = Trouble::Silent(Address::new("192.0.2.1", 1));
        for first in [true, false] {
            core.handle_login(Login::Unreachable(trouble.clone())).await;
            let since = core.state.coordinator_since.take();
            let mut told = std::iter::from_fn(|| alone.commands.try_recv().ok());
            let tried = told.any(|c| matches!(c, engine::Command::Connect(node) if node == peer));
            assert_eq!((since.is_some(), tried), (first, first));
        }
        let said = core.state.last_error.as_deref();
        assert_eq!(said, Some("192.0.2.1:1 stopped answering"));
    }
}
