//! Rosters on their way to sessions: what each holds, what it is sent, and when.
//!
//! A change marks a network as dirty. One intent at a time asks the store for the newest roster and the way
//! there from everything that sessions hold; its outcome is sent to all of them, encoded once for all that
//! start from the same place.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use kanpachi_common::{
    NetworkId, NodeId,
    id::Hash,
    roster::{Caps, Delta, Position},
    wire::control::{Held, Removed, SecretIs, ServerMessage},
};

use super::{
    Core, Event, Intent, SessionId,
    presence::{Newest, encode},
    requests::Purpose,
    session::{HIGH_WATER, Known, Phase},
};
use crate::store::{Change, Changes, Refusal, StoreError};

/// Positions that one intent asks about at the most; each may cost a delta.
const MAX_ASKED: usize = 64;

/// What a session knows of a network that it was told nothing of.
pub(super) const fn nothing(network: NetworkId) -> Known {
    Known {
        held: Held {
            network,
            position: Position {
                generation: 0,
                epoch: 0,
            },
            root: Hash([0; 32]),
        },
        issued_at: None,
        secret: None,
    }
}

impl Core {
    /// A roster is not what it was: everybody in it is to be told.
    pub(super) fn changed(&mut self, network: NetworkId) {
        for session in self.sessions.values_mut() {
            if session.networks.contains_key(&network) {
                session.unsynced.insert(network);
            }
        }
        self.mark(network);
        self.event(Event::Changed(network));
    }

    /// There is something to ask the store about a network.
    pub(super) fn mark(&mut self, network: NetworkId) {
        self.networks.entry(network).or_default().dirty = true;
    }

    /// Takes what a node says that it holds; what it does not name, it holds nothing of.
    pub(super) fn claim(&mut self, id: SessionId, held: Vec<Held>) {
        match self.sessions.get_mut(&id) {
            Some(session) if session.phase == Phase::Member => {
                for (network, known) in &mut session.networks {
                    known.held = nothing(*network).held;
                    known.secret = None;
                }
            }
            // A stranger's claims cost the store nothing.
            _ => return,
        }
        for held in held {
            let newest = self.networks.get(&held.network).and_then(|v| v.newest);
            let Some(session) = self.sessions.get_mut(&id) else {
                return;
            };
            match session.networks.get_mut(&held.network) {
                Some(known) => known.held = held,
                // It holds the roster of a network that it is not in. Whether that is news to it, is known
                // only when ours is not older.
                None => {
                    session.claimed.push(held);
                    if newest.is_none() {
                        self.mark(held.network);
                    }
                }
            }
        }
        self.tell_removed(id);
    }

    /// Tells a session of the networks that it still holds a roster of and is no member of any more.
    fn tell_removed(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let (mut keep, mut gone, mut ahead) = (vec![], vec![], vec![]);
        for held in std::mem::take(&mut session.claimed) {
            match self.networks.get(&held.network).and_then(|v| v.newest) {
                None => keep.push(held),
                Some(newest) if held.position > newest.position => ahead.push(held.network),
                Some(_) => gone.push(held.network),
            }
        }
        session.claimed = keep;
        for network in gone {
            self.send(id, 0, &ServerMessage::Removed(Removed { network }));
        }
        for network in ahead {
            self.suspect(id, network);
        }
    }

    /// Everything that the session is a member of is to be compared with what it holds.
    pub(super) fn sync_all(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let networks: Vec<_> = session.networks.keys().copied().collect();
        session.unsynced.extend(&networks);
        for network in networks {
            self.mark(network);
        }
        self.done(id);
    }

    /// What waits for the store after it failed, or for a session that can take no more, is asked for again.
    pub(super) fn retry_sync(&mut self) {
        let ready = self.sessions.values().filter(|s| s.outbox < HIGH_WATER);
        let waiting: BTreeSet<NetworkId> = ready.flat_map(|s| s.unsynced.iter().copied()).collect();
        for network in waiting {
            if self.networks.get(&network).is_none_or(|v| !v.asking) {
                self.mark(network);
            }
        }
    }

    /// Asks the store about every network that changed since the last input.
    pub(super) fn settle(&mut self) {
        let due = self.networks.iter().filter(|(_, v)| v.dirty && !v.asking);
        let due: Vec<_> = due.map(|(network, _)| *network).collect();
        for network in due {
            let mut held = BTreeSet::new();
            for session in self.sessions.values() {
                let behind = session.unsynced.contains(&network) && session.outbox < HIGH_WATER;
                if let Some(known) = session.networks.get(&network).filter(|_| behind) {
                    held.insert((known.held.position, known.held.root));
                }
                if held.len() >= MAX_ASKED {
                    break;
                }
            }
            if let Some(view) = self.networks.get_mut(&network) {
                view.dirty = false;
                view.asking = true;
            }
            let asked: Vec<Held> = held
                .into_iter()
                .map(|(position, root)| Held {
                    network,
                    position,
                    root,
                })
                .collect();
            let intent = Intent::Changes(network, asked.clone());
            self.intend(intent, Purpose::Sync(network, asked));
        }
    }

    /// The store could not be read, or knows no such network. Nobody is told anything.
    pub(super) fn sync_failed(&mut self, network: NetworkId, error: &StoreError) {
        if *error != StoreError::Refused(Refusal::NoNetwork) {
            if let Some(view) = self.networks.get_mut(&network) {
                view.asking = false;
            }
            return;
        }
        self.networks.remove(&network);
        let mut claims = Vec::new();
        for (id, session) in &mut self.sessions {
            let before = session.claimed.len();
            session.claimed.retain(|held| held.network != network);
            if session.claimed.len() < before {
                claims.push(*id);
            }
        }
        for id in claims {
            self.suspect(id, network);
        }
    }

    /// The newest roster is here.
    pub(super) fn synced(&mut self, network: NetworkId, asked: &[Held], mut changes: Changes) {
        let view = self.networks.entry(network).or_default();
        view.asking = false;
        // Whoever is suspended is out already, although the roster cannot say so yet.
        let suspended = std::mem::take(&mut changes.suspended);
        changes.members.retain(|m| !suspended.contains(&m.node));
        view.newest = Some(Newest {
            position: changes.position,
            root: changes.root,
        });
        let (came, gone) = view.replace(&changes.members);
        for node in gone {
            self.expel(&node, network);
        }
        self.recognise(&came);
        for node in came {
            self.admit(&node, network);
        }
        let answers = std::mem::take(&mut changes.answers);
        let answers: Vec<Answer> = answers
            .into_iter()
            .map(|change| Answer::of(change, &changes))
            .collect();
        let known = asked.iter().map(|held| (held.position, held.root));
        let answers: BTreeMap<_, _> = known.zip(&answers).collect();
        let mut fresh = Vec::new();
        let behind = self.ids_of(|s| s.unsynced.contains(&network));
        for id in &behind {
            if self.serve(*id, &changes, &answers) {
                fresh.push(*id);
            }
        }
        // Everybody has the roster before anybody hears of its members.
        for id in fresh {
            self.introduce(id, &network);
        }
        for id in behind {
            self.done(id);
        }
        for id in self.ids_of(|s| s.phase == Phase::Member && !s.claimed.is_empty()) {
            self.tell_removed(id);
        }
    }

    /// A node is no member any more.
    fn expel(&mut self, node: &NodeId, network: NetworkId) {
        let Some(id) = self.online.get(node).copied() else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(&id) {
            session.networks.remove(&network);
            session.unsynced.remove(&network);
            session.away.remove(&network);
            self.send(id, 0, &ServerMessage::Removed(Removed { network }));
            self.done(id);
        }
    }

    /// A node is a member now; when it is online it may not know yet.
    fn admit(&mut self, node: &NodeId, network: NetworkId) {
        let Some(session) = self
            .online
            .get(node)
            .and_then(|id| self.sessions.get_mut(id))
        else {
            return;
        };
        if let Entry::Vacant(vacant) = session.networks.entry(network) {
            vacant.insert(nothing(network));
            session.unsynced.insert(network);
        }
    }

    /// Sends a session what it needs to hold the newest roster. Is it the first in this session?
    fn serve(
        &mut self,
        id: SessionId,
        changes: &Changes,
        answers: &BTreeMap<(Position, Hash), &Answer>,
    ) -> bool {
        let network = changes.network;
        let Some(session) = self.sessions.get_mut(&id) else {
            return false;
        };
        let member = changes.members.iter().find(|m| m.node == session.node);
        let Some(member) = member else {
            // It was removed between its login and now.
            session.unsynced.remove(&network);
            session.networks.remove(&network);
            self.send(id, 0, &ServerMessage::Removed(Removed { network }));
            return false;
        };
        if member.caps.has(Caps::PENDING) {
            // Awaits approval: it is listed for the others, and that is all.
            session.unsynced.remove(&network);
            return false;
        }
        let Some(known) = session.networks.get_mut(&network) else {
            session.unsynced.remove(&network);
            return false;
        };
        let Some(answer) = answers.get(&(known.held.position, known.held.root)) else {
            // It came, or learned something, after the store was asked.
            if session.outbox < HIGH_WATER {
                self.mark(network);
            }
            return false;
        };
        let issued_at = changes.issued_at;
        let frames = match answer {
            Answer::Ahead => {
                session.unsynced.remove(&network);
                self.suspect(id, network);
                return false;
            }
            Answer::Current(_) if known.issued_at == Some(issued_at) => &[],
            Answer::Current(frames) | Answer::New(frames) => frames.as_slice(),
        };
        let first = known.issued_at.is_none();
        let secret = known.secret != Some(changes.secret.id);
        known.held = Held {
            network,
            position: changes.position,
            root: changes.root,
        };
        known.issued_at = Some(issued_at);
        known.secret = Some(changes.secret.id);
        session.unsynced.remove(&network);
        for frame in frames {
            self.push(id, Arc::clone(frame));
        }
        if secret {
            let secret = SecretIs {
                network,
                secret: changes.secret.clone(),
            };
            self.send(id, 0, &ServerMessage::Secret(secret));
        }
        first
    }
}

/// An answer of the store, encoded once for everybody that it is for.
enum Answer {
    /// Nothing but, perhaps, a renewed head: a delta without changes.
    Current(Vec<Arc<[u8]>>),
    /// A delta or pages.
    New(Vec<Arc<[u8]>>),
    /// The session is ahead of the store.
    Ahead,
}

impl Answer {
    fn of(change: Change, changes: &Changes) -> Self {
        let delta = |delta| vec![encode(&ServerMessage::Delta(delta), 0)];
        match change {
            Change::Ahead => Self::Ahead,
            Change::Delta(changed) => Self::New(delta(changed)),
            Change::Current => Self::Current(delta(Box::new(Delta {
                network: changes.network,
                base: changes.position,
                base_root: changes.root,
                head: changes.head.clone(),
                settings: None,
                upserts: vec![],
                removed: vec![],
            }))),
            Change::Whole => {
                let pages = changes.pages.iter().cloned();
                Self::New(
                    pages
                        .map(|page| encode(&ServerMessage::Page(Box::new(page)), 0))
                        .collect(),
                )
            }
        }
    }
}
