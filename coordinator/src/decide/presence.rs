//! Who is there: members that are logged in, and who is told about them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use kanpachi_common::{
    NetworkId, NodeId, OrgId, Pool, Prefix,
    addr::ipv6_prefix,
    id::Hash,
    roster::{Caps, Position, Public},
    wire::control::{PeerOffline, PeerOnline, ServerMessage},
};

use super::{Core, SessionId, session::Phase};

/// The addresses of the overlay itself, which are never a way to anybody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overlay {
    v4: Prefix,
    v6: Prefix,
}

impl Overlay {
    pub(super) fn new(org: &OrgId, pool: Pool) -> Self {
        Self {
            v4: pool.prefix(),
            v6: ipv6_prefix(org),
        }
    }

    pub(super) fn contains(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        self.v4.contains(addr) || self.v6.contains(addr)
    }
}

/// What the core remembers of a network: who is in it, as of the newest head that the store served.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) newest: Option<Newest>,
    pub(super) members: BTreeMap<NodeId, Caps>,
    /// An intent is on its way.
    pub(super) asking: bool,
    /// Something changed since it was sent.
    pub(super) dirty: bool,
}

/// The newest head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) position: Position,
    pub(super) root: Hash,
}

impl View {
    /// Takes the members over; says who came, also from awaiting approval, and who is gone, also from there.
    pub(super) fn replace(&mut self, members: &[Public]) -> (Vec<NodeId>, Vec<NodeId>) {
        let new: BTreeMap<NodeId, Caps> = members.iter().map(|m| (m.node, m.caps)).collect();
        let active = |caps: &Caps| !caps.has(Caps::PENDING);
        let came = new
            .iter()
            .filter(|(n, caps)| active(caps) && !self.is_active(n))
            .map(|(n, _)| n);
        let gone = self.members.keys().filter(|n| !new.contains_key(*n));
        let (came, gone) = (came.copied().collect(), gone.copied().collect());
        self.members = new;
        (came, gone)
    }

    /// Is the node a member that takes part? One that awaits approval is not told anything.
    pub(super) fn is_active(&self, node: &NodeId) -> bool {
        self.members
            .get(node)
            .is_some_and(|caps| !caps.has(Caps::PENDING))
    }
}

impl Core {
    /// Sessions of all members of a network that are logged in and take part.
    pub(super) fn online_in(&self, network: &NetworkId) -> Vec<SessionId> {
        let Some(view) = self.networks.get(network) else {
            return Vec::new();
        };
        let online = |(node, caps): (&NodeId, &Caps)| {
            let session = *self.online.get(node)?;
            (!caps.has(Caps::PENDING)).then_some(session)
        };
        view.members.iter().filter_map(online).collect()
    }

    /// Everybody who sees the session in a network that both are in, itself excepted, and in which of them.
    fn neighbours(&self, session: SessionId) -> BTreeMap<SessionId, Vec<NetworkId>> {
        let mut all: BTreeMap<SessionId, Vec<NetworkId>> = BTreeMap::new();
        for network in self.shown_in(session) {
            for other in self.online_in(&network) {
                all.entry(other).or_default().push(network);
            }
        }
        all.remove(&session);
        all
    }

    /// The networks in which a session takes part and wants to be seen.
    fn shown_in(&self, session: SessionId) -> Vec<NetworkId> {
        let Some(own) = self.sessions.get(&session) else {
            return Vec::new();
        };
        let active = |n: &NetworkId| {
            let view = self.networks.get(n);
            view.is_some_and(|view| view.is_active(&own.node))
        };
        let networks = own.networks.keys().filter(|n| !own.away.contains(n));
        networks.copied().filter(active).collect()
    }

    /// Tells everybody who shares a network with the session where its node is now.
    pub(super) fn tell_online(&mut self, session: SessionId) {
        let neighbours = self.neighbours(session);
        self.tell_where(session, neighbours);
    }

    /// Tells some where the node of a session is, and in which networks it is there for each.
    fn tell_where(&mut self, session: SessionId, to: BTreeMap<SessionId, Vec<NetworkId>>) {
        // Most see it in the same networks: encoded once for all of those.
        let mut encoded: BTreeMap<Vec<NetworkId>, Arc<[u8]>> = BTreeMap::new();
        for (other, networks) in to {
            let bytes = match encoded.get(&networks) {
                Some(bytes) => Arc::clone(bytes),
                None => {
                    let Some(bytes) = self.online_message(session, &networks) else {
                        return;
                    };
                    encoded.insert(networks, Arc::clone(&bytes));
                    bytes
                }
            };
            self.push(other, bytes);
        }
    }

    /// Tells everybody who shared a network with the session that its node is gone.
    pub(super) fn tell_offline(&mut self, session: SessionId) {
        let Some(node) = self.sessions.get(&session).map(|s| s.node) else {
            return;
        };
        let bytes = encode(&ServerMessage::PeerOffline(PeerOffline { node }), 0);
        for neighbour in self.neighbours(session).into_keys() {
            self.push(neighbour, Arc::clone(&bytes));
        }
    }

    /// Introduces a session to everybody who is online in a network, and them to it.
    pub(super) fn introduce(&mut self, session: SessionId, network: &NetworkId) {
        let Some(node) = self.sessions.get(&session).map(|s| s.node) else {
            return;
        };
        let others = self.online_in(network);
        for other in others.into_iter().filter(|other| *other != session) {
            if self.is_away(other, network) {
                continue;
            }
            let mut shared = self.shown_in(other);
            shared.retain(|n| {
                self.networks
                    .get(n)
                    .is_some_and(|view| view.is_active(&node))
            });
            if let Some(theirs) = self.online_message(other, &shared) {
                self.push(session, theirs);
            }
        }
        if !self.is_away(session, network) {
            let mut neighbours = self.neighbours(session);
            neighbours.retain(|_, networks| networks.contains(network));
            self.tell_where(session, neighbours);
        }
    }

    fn is_away(&self, session: SessionId, network: &NetworkId) -> bool {
        let session = self.sessions.get(&session);
        session.is_none_or(|s| s.away.contains(network))
    }

    /// The node is there for the others of a network, or not. Whoever sees it in another one as well is told in which.
    pub(super) fn show_in(&mut self, id: SessionId, network: NetworkId, online: bool) {
        let before = self.neighbours(id);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if online {
            session.away.remove(&network);
        } else {
            session.away.insert(network);
        }
        let node = session.node;
        let mut after = self.neighbours(id);
        let offline = encode(&ServerMessage::PeerOffline(PeerOffline { node }), 0);
        for gone in before.keys().filter(|other| !after.contains_key(other)) {
            self.push(*gone, Arc::clone(&offline));
        }
        after.retain(|other, networks| before.get(other) != Some(networks));
        self.tell_where(id, after);
    }

    fn online_message(&self, session: SessionId, networks: &[NetworkId]) -> Option<Arc<[u8]>> {
        let session = self.sessions.get(&session)?;
        (session.phase == Phase::Member).then(|| {
            let message = ServerMessage::PeerOnline(PeerOnline {
                node: session.node,
                candidates: session.candidates.clone(),
                networks: Some(networks.to_vec()),
                nat: session.nat,
            });
            encode(&message, 0)
        })
    }
}

/// The bytes of a message on the wire.
pub(super) fn encode(message: &ServerMessage, id: u64) -> Arc<[u8]> {
    message.frame(id).to_bytes().into()
}
