//! Requests by which people change networks, made into intents, and what they came to.

use kanpachi_common::{
    MemberId, NetworkId, Password, name,
    roster::{HARD_SECONDS, SOFT_SECONDS},
    secret::NetworkSecret,
    wire::{
        control::{ClientMessage, Nonce, ServerMessage, codes},
        membership::{self as wire, SetPresence},
    },
};
use rand_core::Rng as _;

use super::{
    Core, Event, Intent, Now, SessionId,
    intent::PasswordJoin,
    limits::source,
    requests::{Purpose, millis},
    session::{PRESENCE, Phase},
};
use crate::store::{
    CreateNetwork, DeleteNetwork, Evict, Evicted, Leave, NewNetwork, Newcomer, SetAccess,
    SetPassword, SetRole, Settle,
};

impl Core {
    /// Requests of this page; the others are not for it.
    pub(super) fn change_network(
        &mut self,
        id: SessionId,
        request: u64,
        message: ClientMessage,
        now: Now,
    ) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if session.phase != Phase::Member {
            let text = "this machine is not registered here; join with an invite first";
            return self.refuse(id, request, codes::NOT_REGISTERED, text, None);
        }
        let by = session.node;
        let intent = match message {
            ClientMessage::CreateNetwork(create) => {
                return self.create_network(id, request, create, now);
            }
            ClientMessage::JoinByPassword(join) => {
                return self.join_by_password(id, request, join, now);
            }
            ClientMessage::Evict(evict) => return self.evict(id, request, evict, now),
            ClientMessage::SetPassword(set) => return self.set_password(id, request, set, now),
            ClientMessage::Leave(leave) => Intent::Leave(Leave {
                network: leave.network,
                node: by,
                heir: leave.heir,
                secret: self.random(),
                now: now.wall,
            }),
            ClientMessage::DeleteNetwork(delete) => Intent::DeleteNetwork(DeleteNetwork {
                network: delete.network,
                by,
                now: now.wall,
            }),
            ClientMessage::SetAccess(set) => Intent::SetAccess(SetAccess {
                network: set.network,
                by,
                locked: set.locked,
                approval: set.approval,
                now: now.wall,
            }),
            ClientMessage::Settle(settle) => Intent::Settle(Settle {
                network: settle.network,
                by,
                member: settle.member,
                approved: settle.approved,
                now: now.wall,
            }),
            ClientMessage::SetRole(set) => Intent::SetRole(SetRole {
                network: set.network,
                by,
                member: set.member,
                owner: set.owner,
                now: now.wall,
            }),
            _ => return,
        };
        self.ask(id, intent, Purpose::Change(id, request));
    }

    fn create_network(
        &mut self,
        id: SessionId,
        request: u64,
        create: wire::CreateNetwork,
        now: Now,
    ) {
        let name = match name::check(&create.name) {
            Ok(name) => name,
            Err(error) => {
                return self.refuse(id, request, codes::BAD_NAME, &error.to_string(), None);
            }
        };
        let Some(node) = self.sessions.get(&id).map(|s| s.node) else {
            return;
        };
        if let Err(wait) = self.creations.take(node, now.at) {
            let text = "this machine makes too many networks";
            return self.refuse(id, request, codes::BUSY, text, Some(millis(wait)));
        }
        if !self.may_hash(id, request, create.password.as_ref(), now) {
            return;
        }
        let Some(owner) = self.newcomer(id, &create.member_name) else {
            return;
        };
        if let Err(wait) = self.made.take(node, now.at) {
            let text = "this machine made many networks today";
            return self.refuse(id, request, codes::BUSY, text, Some(millis(wait)));
        }
        let intent = CreateNetwork {
            new: NewNetwork {
                network: create.network,
                name,
                secret: NetworkSecret::new(1, self.random()),
                soft_seconds: SOFT_SECONDS,
                hard_seconds: Some(HARD_SECONDS),
                now: now.wall,
            },
            password: None,
            owner,
        };
        let intent = Intent::CreateNetwork(Box::new(intent), create.password);
        self.ask(id, intent, Purpose::Create(id, request));
    }

    fn join_by_password(
        &mut self,
        id: SessionId,
        request: u64,
        join: wire::JoinByPassword,
        now: Now,
    ) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let (node, from) = (session.node, session.remote.ip.map(source));
        let by_node = self.passwords_of_node.take(node, now.at);
        // Whoever is over its own limit uses up nothing of what others behind the same address have.
        let mut by_source = || from.map_or(Ok(()), |ip| self.passwords_of_source.take(ip, now.at));
        if let Err(wait) = by_node.and_then(|()| by_source()) {
            self.event(Event::Guess(node, from));
            let text = "too many passwords were tried";
            return self.refuse(id, request, codes::BUSY, text, Some(millis(wait)));
        }
        let Some(newcomer) = self.newcomer(id, &join.member_name) else {
            return;
        };
        let intent = PasswordJoin {
            name: join.network,
            password: join.password,
            newcomer,
            now: now.wall,
        };
        let intent = Intent::JoinByPassword(Box::new(intent));
        self.ask(id, intent, Purpose::JoinByPassword(id, request));
    }

    fn evict(&mut self, id: SessionId, request: u64, evict: wire::Evict, now: Now) {
        let Some(by) = self.sessions.get(&id).map(|s| s.node) else {
            return;
        };
        if !self.may_hash(id, request, evict.password.as_ref(), now) {
            return;
        }
        let intent = Evict {
            network: evict.network,
            by,
            member: evict.member,
            password: None,
            secret: self.random(),
            now: now.wall,
        };
        let intent = Intent::Evict(intent, evict.password);
        self.ask(id, intent, Purpose::Evict(id, request));
    }

    fn set_password(&mut self, id: SessionId, request: u64, set: wire::SetPassword, now: Now) {
        let Some(by) = self.sessions.get(&id).map(|s| s.node) else {
            return;
        };
        if !self.may_hash(id, request, set.password.as_ref(), now) {
            return;
        }
        let intent = SetPassword {
            network: set.network,
            by,
            password: None,
        };
        let intent = Intent::SetPassword(intent, set.password);
        self.ask(id, intent, Purpose::Change(id, request));
    }

    /// A hash is slow on purpose: whoever asks for many is told to wait.
    fn may_hash(
        &mut self,
        id: SessionId,
        request: u64,
        password: Option<&Password>,
        now: Now,
    ) -> bool {
        let Some(node) = self.sessions.get(&id).map(|s| s.node) else {
            return false;
        };
        if password.is_none() {
            return true;
        }
        match self.passwords_of_node.take(node, now.at) {
            Ok(()) => true,
            Err(wait) => {
                let text = "too many passwords were set or tried";
                self.refuse(id, request, codes::BUSY, text, Some(millis(wait)));
                false
            }
        }
    }

    /// Whether a node wants to be seen in a network. Nothing of it is stored.
    pub(super) fn set_presence(&mut self, id: SessionId, request: u64, set: SetPresence, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        // As many as there are networks may come right after the login.
        if session.presence.take(PRESENCE, now.at).is_err() {
            let text = "too many requests";
            return self.refuse(id, request, codes::BUSY, text, Some(1000));
        }
        if !session.networks.contains_key(&set.network) {
            let refusal = crate::store::Refusal::NoNetwork;
            return self.refuse(id, request, refusal.code(), &refusal.to_string(), None);
        }
        self.show_in(id, set.network, set.online);
        self.send(id, request, &ServerMessage::Done(Nonce(request)));
    }

    /// A change was made: its maker is told when it has the rosters that came of it.
    pub(super) fn network_changed(&mut self, id: SessionId, request: u64, changed: &[NetworkId]) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.done.push(request);
        }
        for network in changed {
            self.changed(*network);
        }
        self.done(id);
    }

    pub(super) fn evicted(&mut self, id: SessionId, request: u64, evicted: &Evicted) {
        for network in &evicted.changed {
            self.changed(*network);
        }
        let message = wire::Evicted {
            revoked_invites: evicted.revoked_invites,
            password_known: evicted.password_known,
        };
        self.send(id, request, &ServerMessage::Evicted(message));
    }

    fn newcomer(&mut self, id: SessionId, wanted: &str) -> Option<Newcomer> {
        let node = self.sessions.get(&id)?.node;
        let mut salt = [0; 16];
        self.rng.fill_bytes(&mut salt);
        Some(Newcomer {
            node,
            // A host name is good enough to begin with; it can be changed.
            name: name::check(wanted).unwrap_or_else(|_| name::coerce(wanted)),
            member: MemberId(self.random()),
            salt,
        })
    }

    pub(super) fn random(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    pub(super) fn ask(&mut self, id: SessionId, intent: Intent, purpose: Purpose) {
        self.wait(id);
        self.intend(intent, purpose);
    }
}
