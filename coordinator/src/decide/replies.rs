//! Outcomes of the store, made into replies. Nothing is answered before its transaction is committed.

use kanpachi_common::{
    NetworkId,
    invite::Invite,
    wire::{
        self,
        control::{InviteMade, Joined, NameSet, Nonce, ServerMessage, Welcome, codes},
    },
};

use super::{
    Core, Event, IntentId, Now, Outcome, Output, SessionId,
    limits::source,
    requests::{PendingInvite, Purpose},
    session::Phase,
    sync::nothing,
};
use crate::store::{InviteStored, JoinedNetwork, LoggedIn, NamesSet, Refusal, StoreError};

/// When to come back after a failure of the store, in milliseconds.
const STORE_RETRY_MS: u64 = 5_000;
/// When to come back while many passwords are being checked.
const PASSWORDS_RETRY_MS: u64 = 2_000;

impl Core {
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
        if let Some(session) = purpose.session().and_then(|id| self.sessions.get_mut(&id)) {
            session.waiting = session.waiting.saturating_sub(1);
        }
        match (purpose, outcome) {
            (Purpose::Hello(id, request), Ok(Outcome::Login(login))) => {
                self.welcome(id, request, login, now);
            }
            (Purpose::Hello(id, _), Err(error)) => {
                let (code, retry, text) = explain(&error);
                self.refuse_and_close(id, code, &text, retry);
            }
            (Purpose::Join(id, request), Ok(Outcome::Join(joined))) => {
                self.give_back_join(id);
                self.joined(id, request, joined);
            }
            (Purpose::JoinByPassword(id, request), Ok(Outcome::Join(joined))) => {
                self.give_back_password(id);
                self.joined(id, request, joined);
            }
            (Purpose::Create(id, request), Ok(Outcome::Join(joined))) => {
                self.joined(id, request, joined);
            }
            (Purpose::Evict(id, request), Ok(Outcome::Evict(evicted))) => {
                self.evicted(id, request, &evicted);
            }
            (Purpose::Change(id, request), Ok(Outcome::Changed(changed))) => {
                self.network_changed(id, request, &changed);
            }
            (Purpose::Join(id, request) | Purpose::JoinByPassword(id, request), Err(error)) => {
                self.join_failed(id, request, &error);
            }
            (Purpose::Create(id, request), Err(error)) => {
                self.give_back_network(id);
                self.refuse_store(id, request, &error);
            }
            (Purpose::Invite(id, request, invite), Ok(Outcome::Invite(stored))) => {
                self.invite_made(id, request, *invite, stored);
            }
            (Purpose::SetName(id, request), Ok(Outcome::SetName(set))) => {
                self.name_set(id, request, set);
            }
            (
                Purpose::Invite(id, request, _)
                | Purpose::SetName(id, request)
                | Purpose::Evict(id, request)
                | Purpose::Change(id, request),
                Err(error),
            ) => self.refuse_store(id, request, &error),
            (Purpose::Sync(network, asked), Ok(Outcome::Changes(changes))) => {
                self.synced(network, &asked, *changes);
            }
            (Purpose::Sync(network, _), Err(error)) => self.sync_failed(network, &error),
            (Purpose::Adopt(id), Ok(Outcome::Adopted(adopted))) => self.adopted(id, &adopted),
            (Purpose::Key(id), Ok(Outcome::Login(login))) => self.key_taken(id, &login),
            // The member shows it again at its next login, and the key waits for that too.
            (Purpose::Adopt(_) | Purpose::Key(_), Err(_)) => {}
            // An outcome of another kind than the intent: the shell mixed them up. Nobody is told anything.
            (_, Ok(_)) => {}
        }
        self.settle();
        self.compare(now);
    }

    fn refuse_store(&mut self, id: SessionId, request: u64, error: &StoreError) {
        let (code, retry, text) = explain(error);
        self.refuse(id, request, code, &text, retry);
    }

    fn key_taken(&mut self, id: SessionId, login: &LoggedIn) {
        for network in &login.changed {
            self.changed(*network);
        }
        if login.key_waits {
            self.key_waits(id);
        }
    }

    fn welcome(&mut self, id: SessionId, request: u64, login: LoggedIn, now: Now) {
        self.key_taken(id, &login);
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
            self.agreed(id, &login.agrees);
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            let claimed = std::mem::take(&mut session.claimed);
            self.claim(id, claimed);
        }
        for network in login.ahead {
            self.suspect(id, network);
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
                .or_insert_with(|| nothing(*network));
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
        let node = session.node;
        let newcomer = session.phase == Phase::Guest;
        let networks = joined.registration.networks.clone();
        let network = joined.network;
        let message = Joined {
            network,
            network_name: joined.network_name,
            name: joined.name,
            registration: joined.registration,
            waiting: joined.waiting,
        };
        self.send(id, request, &ServerMessage::Joined(message));
        if newcomer {
            self.enter(id, &networks);
            self.event(Event::LoggedIn(node));
        } else if !joined.waiting
            && let Some(session) = self.sessions.get_mut(&id)
        {
            session
                .networks
                .entry(network)
                .or_insert_with(|| nothing(network));
        }
        self.sync_all(id);
    }

    /// What succeeds is not counted.
    fn give_back_join(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        self.joins_of_node.give_back(session.node);
        if let Some(ip) = session.remote.ip {
            self.joins_of_source.give_back(source(ip));
        }
    }

    /// The node's own count stays: a right password costs as much as a wrong one.
    fn give_back_password(&mut self, id: SessionId) {
        if let Some(ip) = self.sessions.get(&id).and_then(|s| s.remote.ip) {
            self.passwords_of_source.give_back(source(ip));
        }
    }

    /// What did not come to be is not counted.
    fn give_back_network(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get(&id) {
            self.made.give_back(session.node);
        }
    }

    fn join_failed(&mut self, id: SessionId, request: u64, error: &StoreError) {
        if let StoreError::Refused(Refusal::InviteUnknown | Refusal::WrongPassword) = error
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
        self.outputs.push_back(Output::Event(event));
    }
}

/// Code, wait and sentence of a refusal by the store. What a node is told of a failure says nothing of how the
/// coordinator is built; its operator reads that in the log.
fn explain(error: &StoreError) -> (u16, Option<u64>, String) {
    let text = match error {
        StoreError::Refused(refusal) => {
            let retry = (*refusal == Refusal::PasswordsBusy).then_some(PASSWORDS_RETRY_MS);
            return (refusal.code(), retry, refusal.to_string());
        }
        StoreError::Full => "the disk of the coordinator is full; nothing was changed",
        StoreError::ReadOnly => "the coordinator cannot write its database; nothing was changed",
        _ => "the coordinator could not use its database; nothing was changed",
    };
    (codes::STORE, Some(STORE_RETRY_MS), text.to_owned())
}
