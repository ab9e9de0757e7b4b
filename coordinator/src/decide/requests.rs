//! Requests: checked, and made into intents.

use std::time::Duration;

use kanpachi_common::{
    MemberId, NetworkId, UnixTime,
    cbor::DecodeError,
    invite::{self, InviteSecret},
    name,
    time::DAY,
    wire::{
        self,
        control::{
            Announce, ClientMessage, Held, Hello, Join, MAX_REST_MS, MakeInvite, Pull, Resting,
            ServerMessage, SetName, codes,
        },
        frame::Frame,
    },
};
use rand_core::Rng as _;

use super::{
    Core, Event, Intent, Now, SessionId,
    limits::source,
    session::{CHATTER, MAX_WAITING, Phase},
};
use crate::store::{self, JoinNetwork, Login, NewInvite};

/// Longest life of an invite, in seconds.
const MAX_INVITE_LIFE: u64 = 366 * DAY;

/// What an intent was for.
#[derive(Debug)]
pub(super) enum Purpose {
    Hello(SessionId, u64),
    Join(SessionId, u64),
    Invite(SessionId, u64, Box<PendingInvite>),
    SetName(SessionId, u64),
    Create(SessionId, u64),
    JoinByPassword(SessionId, u64),
    Evict(SessionId, u64),
    /// Anything else that is answered by `Done`.
    Change(SessionId, u64),
    /// A roster that the session showed.
    Adopt(SessionId),
    /// The tunnel key of a session that is logged in already.
    Key(SessionId),
    Sync(NetworkId, Vec<Held>),
}

impl Purpose {
    /// The session whose request waits for it.
    pub(super) const fn session(&self) -> Option<SessionId> {
        match self {
            Self::Hello(..) | Self::Adopt(_) | Self::Key(_) | Self::Sync(..) => None,
            Self::Join(id, _)
            | Self::Create(id, _)
            | Self::JoinByPassword(id, _)
            | Self::Invite(id, ..)
            | Self::SetName(id, _)
            | Self::Evict(id, _)
            | Self::Change(id, _) => Some(*id),
        }
    }
}

/// An invite whose hash is being stored.
#[derive(Debug)]
pub(super) struct PendingInvite {
    pub(super) secret: InviteSecret,
    pub(super) network: NetworkId,
    pub(super) expires_at: UnixTime,
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
            (_, ClientMessage::Resting(Resting(ms))) => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.rest = Duration::from_millis(ms.min(MAX_REST_MS));
                }
            }
            (Phase::Checking, _) => {
                let text = "a request before the welcome";
                self.refuse_and_close(id, codes::BAD_REQUEST, text, None);
            }
            (_, ClientMessage::Announce(announce)) => {
                self.announce(id, &announce, now);
            }
            (_, ClientMessage::Pull(pull)) => self.pull(id, request, pull, now),
            (_, ClientMessage::Shown(shown)) => self.shown(id, *shown, now),
            (_, ClientMessage::Suspended(said)) => self.suspended(id, request, &said, now),
            (_, ClientMessage::SetPresence(set)) => self.set_presence(id, request, set, now),
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
            message => self.change_network(id, request, message, now),
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
        let held = hello.held.clone();
        session.claimed = hello.held;
        session.announce(&hello.candidates, hello.nat, &self.overlay);
        session.away = hello.away.into_iter().collect();
        let login = Login {
            node,
            tunnel: hello.tunnel,
            held,
            may_sign: self.comparing.is_over() && self.recovery.is_none(),
            now: now.wall,
        };
        self.intend(Intent::Login(login), Purpose::Hello(id, request));
    }

    fn announce(&mut self, id: SessionId, announce: &Announce, now: Now) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.chatter.take(CHATTER, now.at).is_err() {
            let text = "too many announcements";
            return self.refuse_and_close(id, codes::BUSY, text, Some(10_000));
        }
        let changed = session.announce(&announce.candidates, announce.nat, &self.overlay);
        if changed && session.phase == Phase::Member {
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
        // Whoever is over its own limit uses up nothing of what others behind the same address have.
        let mut by_source = || from.map_or(Ok(()), |ip| self.joins_of_source.take(ip, now.at));
        if let Err(wait) = by_node.and_then(|()| by_source()) {
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

    pub(super) fn wait(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.waiting += 1;
        }
    }
}

/// Whole milliseconds, rounded up.
pub(super) fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis())
        .unwrap_or(u64::MAX)
        .saturating_add(1)
}
