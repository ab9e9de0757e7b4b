//! Requests: checked, made into intents, answered from outcomes.

use std::time::Duration;

use kanpachi_common::{
    MemberId, NetworkId, UnixTime,
    cbor::DecodeError,
    invite::{self, Invite, InviteSecret},
    name,
    time::DAY,
    wire::{
        self,
        control::{
            ClientMessage, Held, Hello, InviteMade, Join, Joined, MakeInvite, NameSet, Nonce, Pull,
            ServerMessage, SetName, Welcome, codes,
        },
        frame::Frame,
    },
};
use rand_core::Rng as _;

use super::{
    Core, Event, Intent, IntentId, Now, Outcome, SessionId,
    limits::source,
    session::{CHATTER, MAX_WAITING, Phase},
};
use crate::store::{
    self, InviteStored, JoinNetwork, JoinedNetwork, LoggedIn, Login, NamesSet, NewInvite, Refusal,
    StoreError,
};

/// Longest life of an invite, in seconds.
const MAX_INVITE_LIFE: u64 = 366 * DAY;
/// When to come back after a failure of the store, in milliseconds.
const STORE_RETRY_MS: u64 = 5_000;

/// What an intent was for.
#[derive(Debug)]
pub(super) enum Purpose {
    Hello(SessionId, u64),
    Join(SessionId, u64),
    Invite(SessionId, u64, Box<PendingInvite>),
    SetName(SessionId, u64),
    Sync(NetworkId, Vec<Held>),
}

/// An invite whose hash is being stored.
#[derive(Debug)]
pub(super) struct PendingInvite {
    secret: InviteSecret,
    network: NetworkId,
    expires_at: UnixTime,
}

impl Core {
    pub(super) fn handle_message(&mut self, id: SessionId, frame: &Frame, now: Now) {
        let Some(phase) = self.sessions.get(&id).map(|s| s.phase) else {
            return;
        };
        let message = match ClientMessage::from_frame(frame) {
            Ok(message) => message,
            Err(error @ DecodeError::UnknownCritical(_)) => {
                return self.refuse_and_close(id, codes::VERSION, &error.to_string(), None);
            }
            Err(error) => {
                return self.refuse_and_close(id, codes::BAD_REQUEST, &error.to_string(), None);
            }
        };
        let request = frame.id;
        match (phase, message) {
            (Phase::Greeting, ClientMessage::Hello(hello)) => self.hello(id, request, hello, now),
            (Phase::Greeting, _) => {
                self.refuse_and_close(id, codes::BAD_REQUEST, "the first message is Hello", None);
            }
            (_, ClientMessage::Hello(_)) => {
                self.refuse_and_close(id, codes::BAD_REQUEST, "Hello comes once", None);
            }
            (_, ClientMessage::Ping(nonce)) => {
                self.send(id, request, &ServerMessage::Pong(nonce));
            }
            (_, ClientMessage::Pong(_) | ClientMessage::Unknown(_)) => {}
            (Phase::Checking, _) => {
                let text = "a request before the welcome";
                self.refuse_and_close(id, codes::BAD_REQUEST, text, None);
            }
            (_, ClientMessage::Announce(announce)) => {
                self.announce(id, &announce.candidates, now);
            }
            (_, ClientMessage::Pull(pull)) => self.pull(id, request, pull, now),
            (_, message) => self.ask_store(id, request, message, now),
        }
    }

    /// Requests that need a transaction and change something.
    fn ask_store(&mut self, id: SessionId, request: u64, message: ClientMessage, now: Now) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if session.waiting >= MAX_WAITING {
            return self.refuse(
                id,
                request,
                codes::BUSY,
                "too many requests at once",
                Some(1000),
            );
        }
        if let Some(why) = self.recovery.clone() {
            return self.refuse(id, request, codes::RECOVERY, &why, None);
        }
        match message {
            ClientMessage::Join(join) => self.join(id, request, &join, now),
            ClientMessage::MakeInvite(make) => self.make_invite(id, request, &make, now),
            ClientMessage::SetName(set) => self.set_name(id, request, &set, now),
            // The others were handled before.
            _ => {}
        }
    }

    fn hello(&mut self, id: SessionId, request: u64, hello: Hello, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let node = session.node;
        if wire::negotiate(hello.min_version, hello.max_version).is_none() {
            let text = format!(
                "this coordinator speaks protocol versions {} to {}, this machine {} to {}: update the older of the two",
                wire::MIN_VERSION,
                wire::MAX_VERSION,
                hello.min_version,
                hello.max_version
            );
            return self.refuse_and_close(id, codes::VERSION, &text, None);
        }
        if hello.org != self.config.org {
            let text = "this coordinator serves another organisation";
            return self.refuse_and_close(id, codes::OTHER_ORG, text, None);
        }
        if !hello.tunnel.verify(&node, &hello.org) {
            let text = "the tunnel key is not signed by this machine's identity";
            return self.refuse_and_close(id, codes::BAD_REQUEST, text, None);
        }
        if let Err(wait) = self.logins.take(node, now.at) {
            let text = "this machine logs in too often";
            return self.refuse_and_close(id, codes::BUSY, text, Some(millis(wait)));
        }
        session.phase = Phase::Checking;
        session.tunnel = Some(hello.tunnel);
        session.claimed = hello.held;
        session.announce(&hello.candidates, &self.overlay);
        let login = Login {
            node,
            tunnel: hello.tunnel,
            now: now.wall,
        };
        self.intend(Intent::Login(login), Purpose::Hello(id, request));
    }

    fn announce(&mut self, id: SessionId, candidates: &[kanpachi_common::Candidate], now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.chatter.take(CHATTER, now.at).is_err() {
            let text = "too many announcements";
            return self.refuse_and_close(id, codes::BUSY, text, Some(10_000));
        }
        if session.announce(candidates, &self.overlay) && session.phase == Phase::Member {
            self.tell_online(id);
        }
    }

    fn pull(&mut self, id: SessionId, request: u64, pull: Pull, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Err(wait) = session.chatter.take(CHATTER, now.at) {
            let text = "too many requests";
            return self.refuse(id, request, codes::BUSY, text, Some(millis(wait)));
        }
        session.done.push(request);
        self.claim(id, pull.held);
        self.sync_all(id);
    }

    fn join(&mut self, id: SessionId, request: u64, join: &Join, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let (node, from) = (session.node, session.remote.ip.map(source));
        let Some(tunnel) = session.tunnel else {
            return;
        };
        let by_node = self.joins_of_node.take(node, now.at);
        let by_source = from.map_or(Ok(()), |ip| self.joins_of_source.take(ip, now.at));
        if let Err(wait) = by_node.and(by_source) {
            self.event(Event::Guess(node, from));
            let text = "too many attempts to join";
            return self.refuse(id, request, codes::BUSY, text, Some(millis(wait)));
        }
        let (mut member, mut salt) = ([0; 32], [0; 16]);
        self.rng.fill_bytes(&mut member);
        self.rng.fill_bytes(&mut salt);
        let intent = JoinNetwork {
            token_hash: invite::token_hash(&join.token),
            node,
            tunnel,
            // A host name is good enough to begin with; it can be changed.
            name: name::check(&join.name).unwrap_or_else(|_| name::coerce(&join.name)),
            member: MemberId(member),
            salt,
            now: now.wall,
        };
        self.wait(id);
        self.intend(Intent::Join(intent), Purpose::Join(id, request));
    }

    fn make_invite(&mut self, id: SessionId, request: u64, make: &MakeInvite, now: Now) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let node = session.node;
        if make.uses == Some(0) || make.expires_in == 0 || make.expires_in > MAX_INVITE_LIFE {
            let text = "an invite is for at least one use, one second, and at most a year";
            return self.refuse(id, request, codes::BAD_REQUEST, text, None);
        }
        let mut secret = [0; 16];
        self.rng.fill_bytes(&mut secret);
        let pending = PendingInvite {
            secret: InviteSecret(secret),
            network: make.network,
            expires_at: now.wall.plus(make.expires_in),
        };
        let intent = NewInvite {
            network: make.network,
            by: Some(node),
            token_hash: invite::token_hash(&pending.secret.token()),
            uses: make.uses,
            expires_at: pending.expires_at,
            founder: false,
            now: now.wall,
        };
        self.wait(id);
        let purpose = Purpose::Invite(id, request, Box::new(pending));
        self.intend(Intent::Invite(intent), purpose);
    }

    fn set_name(&mut self, id: SessionId, request: u64, set: &SetName, now: Now) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let name = match name::check(&set.name) {
            Ok(name) => name,
            Err(error) => {
                let text = error.to_string();
                return self.refuse(id, request, codes::BAD_NAME, &text, None);
            }
        };
        let intent = store::SetName {
            node: session.node,
            network: set.network,
            name,
            now: now.wall,
        };
        self.wait(id);
        self.intend(Intent::SetName(intent), Purpose::SetName(id, request));
    }

    fn wait(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.waiting += 1;
        }
    }

    /// The store answered.
    pub fn handle_outcome(
        &mut self,
        intent: IntentId,
        outcome: Result<Outcome, StoreError>,
        now: Now,
    ) {
        let Some(purpose) = self.waiting.remove(&intent) else {
            return;
        };
        if let Err(error) = &outcome
            && !matches!(error, StoreError::Refused(_))
        {
            self.event(Event::StoreFailed(error.clone()));
        }
        if let Purpose::Join(id, _) | Purpose::Invite(id, ..) | Purpose::SetName(id, _) = &purpose
            && let Some(session) = self.sessions.get_mut(id)
        {
            session.waiting = session.waiting.saturating_sub(1);
        }
        match (purpose, outcome) {
            (Purpose::Hello(id, request), Ok(Outcome::Login(login))) => {
                self.welcome(id, request, login, now);
            }
            (Purpose::Hello(id, _), Err(error)) => {
                let (code, retry) = code_of(&error);
                self.refuse_and_close(id, code, &error.to_string(), retry);
            }
            (Purpose::Join(id, request), Ok(Outcome::Join(joined))) => {
                self.joined(id, request, joined);
            }
            (Purpose::Join(id, request), Err(error)) => self.join_failed(id, request, &error),
            (Purpose::Invite(id, request, invite), Ok(Outcome::Invite(stored))) => {
                self.invite_made(id, request, *invite, stored);
            }
            (Purpose::SetName(id, request), Ok(Outcome::SetName(set))) => {
                self.name_set(id, request, set);
            }
            (Purpose::Invite(id, request, _) | Purpose::SetName(id, request), Err(error)) => {
                self.refuse_store(id, request, &error);
            }
            (Purpose::Sync(network, asked), Ok(Outcome::Changes(changes))) => {
                self.synced(network, &asked, *changes);
            }
            (Purpose::Sync(network, _), Err(error)) => self.sync_failed(network, &error),
            // An outcome of another kind than the intent: the shell mixed them up. Nobody is told anything.
            (_, Ok(_)) => {}
        }
        self.settle();
    }

    fn refuse_store(&mut self, id: SessionId, request: u64, error: &StoreError) {
        let (code, retry) = code_of(error);
        self.refuse(id, request, code, &error.to_string(), retry);
    }

    fn welcome(&mut self, id: SessionId, request: u64, login: LoggedIn, now: Now) {
        for network in login.changed {
            self.changed(network);
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let node = session.node;
        let welcome = Welcome {
            version: wire::MAX_VERSION,
            caps: 0,
            manifest: self.config.manifest.clone(),
            directory: self.config.directory.clone(),
            time: now.wall,
            registration: login.registration.clone(),
            ext: vec![],
        };
        session.phase = Phase::Guest;
        session.done.push(request);
        self.send(id, request, &ServerMessage::Welcome(Box::new(welcome)));
        if let Some(registration) = login.registration {
            self.enter(id, &registration.networks);
            self.event(Event::LoggedIn(node));
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            let claimed = std::mem::take(&mut session.claimed);
            self.claim(id, claimed);
        }
        self.sync_all(id);
    }

    /// The session speaks for its node from here on; an older one is sent away without the others noticing.
    pub(super) fn enter(&mut self, id: SessionId, networks: &[NetworkId]) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.phase = Phase::Member;
        let node = session.node;
        for network in networks {
            session
                .networks
                .entry(*network)
                .or_insert_with(|| super::sync::nothing(*network));
        }
        if let Some(old) = self.online.insert(node, id)
            && old != id
        {
            let text = "this machine logged in again from elsewhere";
            self.refuse_and_close(old, codes::REPLACED, text, None);
        }
    }

    fn joined(&mut self, id: SessionId, request: u64, joined: JoinedNetwork) {
        for network in &joined.changed {
            self.changed(*network);
        }
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let (node, from) = (session.node, session.remote.ip.map(source));
        let newcomer = session.phase == Phase::Guest;
        self.joins_of_node.give_back(node);
        if let Some(ip) = from {
            self.joins_of_source.give_back(ip);
        }
        let networks = joined.registration.networks.clone();
        let network = joined.network;
        let message = Joined {
            network,
            network_name: joined.network_name,
            name: joined.name,
            registration: joined.registration,
        };
        self.send(id, request, &ServerMessage::Joined(message));
        if newcomer {
            self.enter(id, &networks);
            self.event(Event::LoggedIn(node));
        } else if let Some(session) = self.sessions.get_mut(&id) {
            session
                .networks
                .entry(network)
                .or_insert_with(|| super::sync::nothing(network));
        }
        self.sync_all(id);
    }

    fn join_failed(&mut self, id: SessionId, request: u64, error: &StoreError) {
        if let StoreError::Refused(Refusal::InviteUnknown) = error
            && let Some(session) = self.sessions.get(&id)
        {
            let guess = Event::Guess(session.node, session.remote.ip);
            self.event(guess);
        }
        self.refuse_store(id, request, error);
    }

    fn invite_made(
        &mut self,
        id: SessionId,
        request: u64,
        pending: PendingInvite,
        stored: InviteStored,
    ) {
        let link = Invite {
            org: self.config.org,
            network: pending.network,
            floor: stored.floor,
            secret: pending.secret,
            addresses: self.config.addresses.clone(),
            name: stored.network_name,
        }
        .to_link();
        let made = InviteMade {
            link,
            expires_at: pending.expires_at,
        };
        self.send(id, request, &ServerMessage::InviteMade(made));
    }

    fn name_set(&mut self, id: SessionId, request: u64, set: NamesSet) {
        for network in &set.changed {
            self.changed(*network);
        }
        let message = ServerMessage::NameSet(NameSet { names: set.names });
        self.send(id, request, &message);
    }

    pub(super) fn done(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.unsynced.is_empty() {
            for request in std::mem::take(&mut session.done) {
                self.send(id, request, &ServerMessage::Done(Nonce(request)));
            }
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(super::Output::Event(event));
    }
}

/// Code and wait of a refusal by the store.
fn code_of(error: &StoreError) -> (u16, Option<u64>) {
    match error {
        StoreError::Refused(refusal) => (refusal.code(), None),
        _ => (codes::STORE, Some(STORE_RETRY_MS)),
    }
}

/// Whole milliseconds, rounded up.
fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis())
        .unwrap_or(u64::MAX)
        .saturating_add(1)
}
