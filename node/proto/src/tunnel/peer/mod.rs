//! One member: its sessions, the handshake under way, its paths, and when to look again.
//!
//! `sessions` holds the keys, `live` the traffic of the core itself inside a session.

mod live;
mod mtu;
mod punching;
mod sessions;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kanpachi_common::{NetworkId, NodeId, nat::NatBehaviour};

use self::sessions::{Agreed, Live, Pending};
use super::{
    context::Context,
    event::{CloseReason, Event, PathState, PeerStatus, SessionStatus},
    initiation::{Attempt, Cookies, Round},
    mac::PublicMacs,
    payload::HandshakeCounter,
    timers, wire,
};
use crate::path::{Candidate, Change, Limit, PathSet, budget::Budget, mtu::PathMtus, punch::Punch};

/// A member that this node may have a session with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// The member.
    pub node_id: NodeId,
    /// Its X25519 public key, from the roster.
    pub tunnel_key: [u8; 32],
    /// Networks in common: the member is told the epochs of these and of no others.
    pub networks: Vec<NetworkId>,
}

pub(crate) struct Peer {
    config: PeerConfig,
    macs: PublicMacs,
    /// This node has the smaller id: it chooses among paths, and its sessions win when handshakes cross.
    controls: bool,
    wanted: bool,
    paths: PathSet,
    punch: Punch,
    nat: Option<NatBehaviour>,
    mtus: PathMtus,
    attempt: Option<Attempt>,
    /// Next attempt after one that came to nothing.
    retry_at: Option<Instant>,
    cookies: Cookies,
    /// What is left of [`timers::UNPROVEN_INITS`] and [`timers::HURRIED`].
    unproven_inits: Budget,
    hurried: Budget,
    pending: Vec<Pending>,
    /// Confirmed sessions, oldest first.
    sessions: Vec<Live>,
    /// Local index of the session to send with.
    current: Option<u32>,
    /// Highest counter of a confirmed handshake that the member started.
    newest: Option<HandshakeCounter>,
    up_since: Option<Instant>,
    next_tick: Instant,
    /// Somebody waits for the answer to a ping.
    awake_until: Option<Instant>,
    reported: Option<PathState>,
    told: Told,
    /// The epochs that the member was told last, other than by a new session.
    said: Option<(u64, Vec<(NetworkId, u64)>)>,
    /// When the member is told the epochs again because it is behind, and the pause before that.
    tell_again: Option<(Instant, Duration)>,
    /// What the timer queue holds for this peer.
    pub(crate) deadline: Option<Instant>,
}

/// What events have said last, so that they say only news.
#[derive(Default)]
struct Told {
    epochs: Option<(u64, Vec<(NetworkId, u64)>)>,
    observed: Option<(SocketAddr, Instant)>,
    rtt_at: Option<Instant>,
    mtu: Option<(SocketAddr, Limit)>,
    trouble_at: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(config: PeerConfig, cx: &Context, now: Instant) -> Self {
        Self {
            macs: PublicMacs::of(&config.tunnel_key),
            controls: cx.identity.node_id < config.node_id,
            config,
            wanted: false,
            paths: PathSet::default(),
            punch: Punch::default(),
            nat: None,
            mtus: PathMtus::new(cx.config.inner_mtu),
            attempt: None,
            retry_at: None,
            cookies: Cookies::default(),
            unproven_inits: Budget::default(),
            hurried: Budget::default(),
            pending: Vec::new(),
            sessions: Vec::new(),
            current: None,
            newest: None,
            up_since: None,
            next_tick: now,
            awake_until: None,
            reported: None,
            told: Told::default(),
            said: None,
            tell_again: None,
            deadline: None,
        }
    }

    pub(crate) const fn config(&self) -> &PeerConfig {
        &self.config
    }

    pub(crate) const fn is_wanted(&self) -> bool {
        self.wanted
    }

    fn id(&self) -> NodeId {
        self.config.node_id
    }

    /// New facts about the same member and key.
    pub(crate) fn update(&mut self, config: PeerConfig) {
        debug_assert_eq!(config.tunnel_key, self.config.tunnel_key);
        self.config = config;
    }

    pub(crate) fn offer(&mut self, cx: &mut Context, candidates: &[Candidate], now: Instant) {
        let new = self.paths.offer(candidates, now);
        let hurries = new && self.lacks_round() && self.hurried.take(timers::HURRIED, now);
        self.try_addresses(cx, hurries, now);
    }

    pub(crate) fn relayed(&mut self, cx: &mut Context, ways: &[SocketAddr], now: Instant) {
        let new = self.paths.set_relayed(ways, now);
        self.try_addresses(cx, new, now);
    }

    /// There are other addresses than before, and perhaps one that is worth a new attempt.
    fn try_addresses(&mut self, cx: &mut Context, hurries: bool, now: Instant) {
        if let Some(round) = self.attempt.as_mut().and_then(|a| a.round.as_mut()) {
            for addr in self.paths.race_order() {
                round.add(addr, now);
            }
        } else if hurries && self.lacks_round() {
            self.begin(cx, timers::ATTEMPT, now);
        } else if let Some(gives_up) = self.attempt.as_ref().map(|a| a.gives_up) {
            self.stop_attempt(cx);
            let round = self.new_round(cx, now);
            self.attempt = Some(Attempt { gives_up, round });
        }
        self.report(cx);
    }

    /// Is a session lacking that should be there, with nothing on its way?
    fn lacks_round(&self) -> bool {
        let under_way = self.attempt.as_ref().is_some_and(|a| a.round.is_some());
        self.wanted && !self.has_session() && !under_way
    }

    pub(crate) fn connect(&mut self, cx: &mut Context, now: Instant) {
        self.wanted = true;
        if !self.has_session() && self.attempt.is_none() {
            self.begin(cx, timers::ATTEMPT, now);
        }
        self.report(cx);
    }

    pub(crate) fn network_changed(&mut self, cx: &mut Context, now: Instant) {
        self.paths.probe_all(now);
        self.mtus.doubt();
        // Whatever it was that peers saw, it is forgotten now; what they see, the answers to those probes bring.
        self.told.observed = None;
        if self.wanted && !self.has_session() {
            self.begin(cx, timers::ATTEMPT, now);
            self.report(cx);
        }
    }

    /// Tells the member, forgets all keys and stops trying.
    pub(crate) fn shut(&mut self, cx: &mut Context, reason: CloseReason, now: Instant) {
        self.wanted = false;
        self.say_close(cx, reason, now);
        self.stop_attempt(cx);
        self.retry_at = None;
        self.close_all(cx, reason);
        self.report(cx);
    }

    fn has_session(&self) -> bool {
        self.current.is_some()
    }

    /// Starts trying for `patience` from now, from the beginning if it was trying already.
    fn begin(&mut self, cx: &mut Context, patience: Duration, now: Instant) {
        self.stop_attempt(cx);
        self.retry_at = None;
        self.attempt = Some(Attempt {
            gives_up: now + patience,
            round: self.new_round(cx, now),
        });
    }

    fn new_round(&mut self, cx: &mut Context, now: Instant) -> Option<Round> {
        self.paths.admit(now);
        let order = self.paths.race_order();
        let rest_after = if self.paths.is_healthy() {
            timers::REKEY_FALLBACK
        } else {
            Duration::ZERO
        };
        let mut round = Round::start(cx, &self.config, &self.macs, &order, rest_after, now)?;
        self.send_init(cx, &mut round, now);
        Some(round)
    }

    fn send_init(&mut self, cx: &mut Context, round: &mut Round, now: Instant) {
        let (paths, left) = (&self.paths, &mut self.unproven_inits);
        let allowed = |to| paths.is_proven(to) || left.take(timers::UNPROVEN_INITS, now);
        round.send_due(cx, &self.cookies, allowed, now);
    }

    fn stop_attempt(&mut self, cx: &mut Context) {
        if let Some(round) = self.attempt.take().and_then(|a| a.round) {
            cx.indices.remove(&round.index);
        }
    }

    fn drive_attempt(&mut self, cx: &mut Context, now: Instant) {
        let Some(mut attempt) = self.attempt.take() else {
            if self.retry_at.is_some_and(|at| at <= now) {
                self.begin(cx, timers::RETRY, now);
            }
            return;
        };
        let gives_up = attempt.gives_up;
        let ends = attempt
            .round
            .as_ref()
            .map_or(gives_up, |r| r.ends.min(gives_up));
        if now < ends {
            match &mut attempt.round {
                Some(round) => self.send_init(cx, round, now),
                // There was no address to try, and one may be tried now.
                None => attempt.round = self.new_round(cx, now),
            }
            self.attempt = Some(attempt);
            return;
        }
        if (attempt.round.as_ref()).is_some_and(Round::went_over_relays) {
            let peer = self.id();
            cx.events.push_back(Event::Unanswered { peer });
        }
        self.attempt = Some(attempt);
        self.stop_attempt(cx);
        if now >= gives_up {
            self.give_up(cx, now);
        } else {
            self.attempt = Some(Attempt {
                gives_up,
                round: self.new_round(cx, now),
            });
        }
    }

    fn give_up(&mut self, cx: &mut Context, now: Instant) {
        if !self.paths.is_healthy() {
            self.close_all(cx, CloseReason::Unreachable);
        }
        if self.wanted {
            self.retry_at = Some(now + timers::RETRY_WHEN_DOWN);
        }
    }

    pub(crate) fn handle_response(
        &mut self,
        cx: &mut Context,
        from: SocketAddr,
        response: &wire::Response<'_>,
        now: Instant,
    ) {
        let round = self.attempt.as_mut().and_then(|a| a.round.as_mut());
        let Some(round) = round.filter(|r| r.index == response.receiver) else {
            cx.counters.refused += 1;
            return;
        };
        let Some((keys, payload)) = round.finish(response) else {
            cx.counters.undecryptable += 1;
            return;
        };
        // The index goes on as that of the session.
        let agreed = Agreed {
            local_index: round.index,
            remote_index: response.sender,
            keys,
            capabilities: payload.capabilities,
            initiator: true,
        };
        self.attempt = None;
        self.retry_at = None;
        self.adopt(cx, agreed, from, now);
        self.heard_epochs(cx, payload.generation, payload.epochs, now);
        self.report(cx);
    }

    pub(crate) fn handle_cookie(
        &mut self,
        cx: &mut Context,
        from: SocketAddr,
        reply: &wire::CookieReply<'_>,
        now: Instant,
    ) {
        let round = self.attempt.as_mut().and_then(|a| a.round.as_mut());
        let taken = round
            .filter(|r| r.index == reply.receiver)
            .is_some_and(|r| r.handle_cookie(reply, from, &self.macs, &mut self.cookies, now));
        if !taken {
            cx.counters.refused += 1;
        }
    }

    pub(crate) fn handle_timeout(&mut self, cx: &mut Context, now: Instant) {
        self.expire(cx, now);
        self.drive_attempt(cx, now);
        self.drive_session(cx, now);
        self.drive_mtu(cx, now);
        self.tell_again(cx, now);
        self.report(cx);
    }

    pub(crate) fn poll_timeout(&self, cx: &Context, now: Instant) -> Option<Instant> {
        let attempt = self.attempt.as_ref().map(|a| {
            let next = match &a.round {
                Some(round) => Some(round.poll_timeout(now)),
                None => self.paths.next_admission(now),
            };
            next.map_or(a.gives_up, |at| at.min(a.gives_up))
        });
        [
            attempt,
            self.retry_at,
            self.next_expiry(),
            self.next_live(cx, now),
            self.next_mtu(cx, now),
            self.tell_again.map(|(at, _)| at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn path_changed(&mut self, cx: &mut Context, change: Option<Change>, now: Instant) {
        if let Some(Change { endpoint, kind }) = change {
            self.follow_path(cx, now);
            let peer = self.id();
            cx.events.push_back(Event::EndpointChanged {
                peer,
                endpoint,
                kind,
            });
        }
    }

    fn heard_epochs(
        &mut self,
        cx: &mut Context,
        generation: u64,
        epochs: Vec<(NetworkId, u64)>,
        now: Instant,
    ) {
        let news = Some((generation, epochs));
        if self.told.epochs != news
            && let Some((generation, epochs)) = news.clone()
        {
            self.told.epochs = news;
            let peer = self.id();
            cx.events.push_back(Event::Epochs {
                peer,
                generation,
                epochs,
            });
        }
        // Its session may be younger than what this node told all others.
        if self.tell_again.is_none() {
            self.plan_telling(cx, now);
        }
    }

    fn state(&self) -> PathState {
        match (self.paths.primary(), self.up_since) {
            (Some(path), Some(since)) if self.current.is_some() && !self.is_lost() => {
                PathState::Up {
                    endpoint: path.endpoint,
                    kind: path.kind,
                    since: self.paths.primary_since().map_or(since, |at| at.max(since)),
                }
            }
            _ if self.attempt.is_some() => PathState::Connecting,
            _ => PathState::Down,
        }
    }

    /// There are keys, but the member has been silent for so long that a new handshake is under way.
    fn is_lost(&self) -> bool {
        self.attempt.is_some() && self.paths.trouble_since().is_some()
    }

    fn report(&mut self, cx: &mut Context) {
        let state = self.state();
        let before = self.reported.unwrap_or(PathState::Down);
        if state != before {
            self.reported = Some(state);
            let peer = self.id();
            cx.events.push_back(Event::PathState { peer, state });
        }
    }

    pub(crate) fn status(&self, now: Instant) -> PeerStatus {
        PeerStatus {
            state: self.state(),
            fresh: self.paths.is_fresh(now),
            wanted: self.wanted,
            session: self.current_live().map(|live| SessionStatus {
                local_index: live.session.local_index(),
                created: live.created,
                age: now.saturating_duration_since(live.created),
                initiator: live.session.info().initiator,
                stats: live.session.stats(),
            }),
            path_mtu: self
                .mtus
                .limit()
                .map(|(_, limit)| limit)
                .filter(|l| l.settled)
                .map(|l| l.datagram),
            paths: self.paths.status(now),
        }
    }

    fn current_live(&self) -> Option<&Live> {
        self.live(self.current?)
    }

    fn live(&self, local_index: u32) -> Option<&Live> {
        self.sessions
            .iter()
            .find(|l| l.session.local_index() == local_index)
    }

    fn current_session(&self) -> Option<Arc<super::Session>> {
        self.current_live().map(|live| Arc::clone(&live.session))
    }
}
