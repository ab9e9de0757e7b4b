//! The tables that the packet threads look things up in, and the one value that publishes them.
//!
//! Three steps, each as cheap to change as it is often changed:
//! - [`Routes`], overlay address to peer: replaced as a whole when a roster changes;
//! - the session table, our index to session: replaced as a whole when a session comes or goes;
//! - [`Peer::sending`], the session and endpoint to use: one pointer per peer, changed at every rekey and roaming.
//!
//! Readers load a pointer and never wait. There is one writer, the [`Publisher`], which the engine owns.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, ArcSwapOption};
use kanpachi_common::NodeId;
use kanpachi_proto::tunnel::{Event, ReplayWindow, Session};

use super::packet;

/// A member that this node may talk to, as the roster has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub node_id: NodeId,
    /// Overlay IPv4 address, if it has one.
    pub ipv4: Option<Ipv4Addr>,
    /// Overlay IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

/// This node's own overlay addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Own {
    /// Overlay IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The pool's broadcast address.
    pub broadcast: Option<Ipv4Addr>,
    /// Overlay IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

impl Own {
    fn is(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.ipv4 == Some(v4),
            IpAddr::V6(v6) => self.ipv6 == Some(v6),
        }
    }
}

/// A peer, as the packet threads know it.
#[derive(Debug)]
pub struct Peer {
    node_id: NodeId,
    sending: ArcSwapOption<Sending>,
}

impl Peer {
    /// Who.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The session to seal with and where to send; `None` while there is none.
    pub fn sending(&self) -> Option<Arc<Sending>> {
        self.sending.load_full()
    }

    /// As [`Peer::sending`] without touching a reference count.
    pub(super) fn load_sending(&self) -> arc_swap::Guard<Option<Arc<Sending>>> {
        self.sending.load()
    }
}

/// How packets to a peer are sent.
#[derive(Debug)]
pub struct Sending {
    /// Seals them.
    pub session: Arc<Session>,
    /// Canonical address they go to.
    pub endpoint: SocketAddr,
}

/// How packets of one session are received.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) session: Arc<Session>,
    pub(super) peer: Arc<Peer>,
    /// The only lock of the packet path; taken after authentication, by the receiving thread.
    pub(super) window: Mutex<ReplayWindow>,
    /// When the engine was last told of a new address (milliseconds, 0 for never), so that it is not told of each
    /// packet.
    pub(super) told_ms: AtomicU64,
}

/// Session index to session.
pub(super) type Sessions = HashMap<u32, Arc<Receiving>>;

/// Where a packet from the adapter goes.
#[derive(Debug)]
pub enum Destination<'a> {
    /// To one peer.
    Peer(&'a Arc<Peer>),
    /// To each of [`Routes::everyone`] that is online.
    Everyone,
    /// To nobody we know.
    Nobody,
}

/// Which peer has which overlay address. Immutable once published.
#[derive(Debug, Default)]
pub struct Routes {
    own: Own,
    unicast: HashMap<IpAddr, Arc<Peer>>,
    everyone: Vec<Arc<Peer>>,
}

impl Routes {
    /// The peer whose address this is.
    pub fn peer(&self, address: IpAddr) -> Option<&Arc<Peer>> {
        self.unicast.get(&address)
    }

    /// Where a packet from this machine goes.
    pub fn destination(&self, address: IpAddr) -> Destination<'_> {
        if packet::is_for_everyone(address, self.own.broadcast) {
            return Destination::Everyone;
        }
        self.peer(address)
            .map_or(Destination::Nobody, Destination::Peer)
    }

    /// Every peer once, whether it is online or not, in how many networks we ever meet it.
    pub fn everyone(&self) -> &[Arc<Peer>] {
        &self.everyone
    }

    /// Whether packets from this machine may have this source.
    pub fn is_own(&self, source: IpAddr) -> bool {
        self.own.is(source)
    }

    /// Whether a packet that this peer sealed may have this source: exactly if packets to that address go to it.
    pub fn accepts_source(&self, peer: &Arc<Peer>, source: IpAddr) -> bool {
        self.peer(source)
            .is_some_and(|owner| Arc::ptr_eq(owner, peer))
    }

    /// Whether a packet from a peer may go to this address: ours, or everybody's. Anything else would let members
    /// use this machine as a router into its other networks.
    pub fn accepts_destination(&self, destination: IpAddr) -> bool {
        self.own.is(destination) || packet::is_for_everyone(destination, self.own.broadcast)
    }
}

/// What the packet threads read.
#[derive(Debug, Default)]
pub struct Tables {
    pub(super) routes: Arc<ArcSwap<Routes>>,
    pub(super) sessions: Arc<ArcSwap<Sessions>>,
}

impl Tables {
    /// The current routes.
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }
}

/// The only writer of the tables.
#[derive(Debug)]
pub struct Publisher {
    tables: Arc<Tables>,
    own: Own,
    members: Vec<Member>,
    peers: HashMap<NodeId, Arc<Peer>>,
    sessions: Sessions,
}

impl Publisher {
    pub(super) fn new(tables: Arc<Tables>) -> Self {
        Self {
            tables,
            own: Own::default(),
            members: Vec::new(),
            peers: HashMap::new(),
            sessions: HashMap::new(),
        }
    }

    /// Sets this node's own addresses.
    pub fn set_own(&mut self, own: Own) {
        self.own = own;
        self.publish_routes();
    }

    /// Sets all peers that this node may talk to: the union over its networks, with the rules applied. Sessions of
    /// peers that are no longer among them go with them.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = Member>) {
        self.members = members.into_iter().collect();
        let mut kept = HashMap::with_capacity(self.members.len());
        for member in &self.members {
            // The same peer stays the same value: its session and the source check hang on it.
            let peer = self.peers.remove(&member.node_id).unwrap_or_else(|| {
                Arc::new(Peer {
                    node_id: member.node_id,
                    sending: ArcSwapOption::empty(),
                })
            });
            kept.entry(member.node_id).or_insert(peer);
        }
        let gone = std::mem::replace(&mut self.peers, kept);
        self.publish_routes();
        for peer in gone.values() {
            peer.sending.store(None);
        }
        let before = self.sessions.len();
        self.sessions
            .retain(|_, receiving| !gone.contains_key(&receiving.peer.node_id));
        if self.sessions.len() != before {
            self.publish_sessions();
        }
    }

    /// Carries out what the tunnels say about sessions and endpoints; other events are not for the packet path.
    /// `true` if the peer can be sent to from now on and could not before: what waits for it can go.
    pub fn apply(&mut self, event: &Event) -> bool {
        match event {
            Event::SessionPending { session, .. } => {
                self.install(session);
                false
            }
            Event::SessionUp {
                peer,
                session,
                endpoint,
            } => {
                self.install(session);
                self.send_with(peer, Arc::clone(session), *endpoint)
            }
            Event::SessionClosed {
                peer, local_index, ..
            } => {
                self.remove(peer, *local_index);
                false
            }
            Event::EndpointChanged { peer, endpoint, .. } => {
                if let Some(current) = self.peers.get(peer).and_then(|known| known.sending()) {
                    self.send_with(peer, Arc::clone(&current.session), *endpoint);
                }
                false
            }
            Event::PathState { .. }
            | Event::Epochs { .. }
            | Event::Rtt { .. }
            | Event::Observed { .. } => false,
        }
    }

    /// A peer by name.
    pub fn peer(&self, node_id: &NodeId) -> Option<&Arc<Peer>> {
        self.peers.get(node_id)
    }

    fn install(&mut self, session: &Arc<Session>) {
        // A peer that was evicted meanwhile has no entry, and its session no place here.
        let Some(peer) = self.peers.get(&session.peer()) else {
            return;
        };
        if self.sessions.contains_key(&session.local_index()) {
            return;
        }
        let receiving = Receiving {
            session: Arc::clone(session),
            peer: Arc::clone(peer),
            window: Mutex::new(ReplayWindow::new()),
            told_ms: AtomicU64::new(0),
        };
        self.sessions
            .insert(session.local_index(), Arc::new(receiving));
        self.publish_sessions();
    }

    fn send_with(&self, node_id: &NodeId, session: Arc<Session>, endpoint: SocketAddr) -> bool {
        let Some(peer) = self.peers.get(node_id) else {
            return false;
        };
        peer.sending
            .swap(Some(Arc::new(Sending { session, endpoint })))
            .is_none()
    }

    fn remove(&mut self, node_id: &NodeId, local_index: u32) {
        if let Some(peer) = self.peers.get(node_id)
            && peer
                .sending()
                .is_some_and(|sending| sending.session.local_index() == local_index)
        {
            peer.sending.store(None);
        }
        if self.sessions.remove(&local_index).is_some() {
            self.publish_sessions();
        }
    }

    fn publish_routes(&self) {
        let mut routes = Routes {
            own: self.own,
            ..Routes::default()
        };
        for member in &self.members {
            let Some(peer) = self.peers.get(&member.node_id) else {
                continue;
            };
            let addresses = [member.ipv4.map(IpAddr::V4), member.ipv6.map(IpAddr::V6)];
            for address in addresses.into_iter().flatten() {
                if !is_unicast(address)
                    || self.own.is(address)
                    || packet::is_for_everyone(address, self.own.broadcast)
                {
                    tracing::warn!(node = ?member.node_id, "a member's address cannot be a member's");
                    continue;
                }
                let owner = routes
                    .unicast
                    .entry(address)
                    .or_insert_with(|| Arc::clone(peer));
                if !Arc::ptr_eq(owner, peer) {
                    tracing::warn!(first = ?owner.node_id, second = ?member.node_id, "two members with one address");
                }
            }
        }
        routes.everyone = self.peers.values().cloned().collect();
        self.tables.routes.store(Arc::new(routes));
    }

    fn publish_sessions(&self) {
        self.tables.sessions.store(Arc::new(self.sessions.clone()));
    }
}

fn is_unicast(address: IpAddr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(id: u8) -> NodeId {
        NodeId([id; 32])
    }

    fn member(id: u8, host: u8) -> Member {
        Member {
            node_id: node(id),
            ipv4: Some(Ipv4Addr::new(198, 19, 0, host)),
            ipv6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host))),
        }
    }

    fn publisher() -> Publisher {
        let mut publisher = Publisher::new(Arc::default());
        publisher.set_own(Own {
            ipv4: Some(Ipv4Addr::new(198, 19, 0, 250)),
            broadcast: Some(Ipv4Addr::new(198, 19, 0, 255)),
            ipv6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 250)),
        });
        publisher
    }

    fn v4(host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(198, 19, 0, host))
    }

    #[test]
    fn a_peer_stays_the_same_value_over_roster_changes() {
        let mut publisher = publisher();
        publisher.set_members([member(1, 1), member(2, 2)]);
        let before = Arc::clone(publisher.peer(&node(1)).unwrap());
        publisher.set_members([member(1, 1), member(3, 3)]);
        assert!(Arc::ptr_eq(&before, publisher.peer(&node(1)).unwrap()));
        let routes = publisher.tables.routes();
        assert!(routes.peer(v4(2)).is_none() && publisher.peer(&node(2)).is_none());
        assert_eq!(routes.everyone().len(), 2);
    }

    #[test]
    fn a_member_in_two_networks_is_sent_to_once() {
        let mut publisher = publisher();
        publisher.set_members([member(1, 1), member(2, 2), member(1, 1)]);
        let routes = publisher.tables.routes();
        assert_eq!(routes.everyone().len(), 2);
        assert!(routes.accepts_source(publisher.peer(&node(1)).unwrap(), v4(1)));
    }

    #[test]
    fn only_own_and_common_addresses_are_delivered_here() {
        let publisher = publisher();
        let routes = publisher.tables.routes();
        for ours in [
            "198.19.0.250",
            "fd00::fa",
            "198.19.0.255",
            "255.255.255.255",
            "224.0.0.251",
            "ff02::1",
        ] {
            assert!(routes.accepts_destination(ours.parse().unwrap()), "{ours}");
        }
        for other in [
            "198.19.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "fd00::1",
            "::1",
            "8.8.8.8",
        ] {
            assert!(
                !routes.accepts_destination(other.parse().unwrap()),
                "{other}"
            );
        }
    }

    #[test]
    fn no_member_can_have_an_address_of_ours_or_of_everyone() {
        let mut publisher = publisher();
        publisher.set_members([member(1, 250), member(2, 255)]);
        let routes = publisher.tables.routes();
        assert!(routes.peer(v4(250)).is_none() && routes.peer(v4(255)).is_none());
        assert!(matches!(routes.destination(v4(255)), Destination::Everyone));
    }

    proptest! {
        /// Cryptokey routing in one line: a source is accepted from a peer exactly if packets to it go to that peer.
        #[test]
        fn a_source_is_accepted_exactly_from_the_peer_it_routes_to(
            hosts in prop::collection::vec((0u8..12, 0u8..12), 0..16),
            sender in 0u8..12,
            source in 0u8..14,
            six: bool,
        ) {
            let mut publisher = publisher();
            publisher.set_members(hosts.iter().map(|(id, host)| member(*id, *host)));
            let routes = publisher.tables.routes();
            let source = match six {
                false => v4(source),
                true => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(source))),
            };
            // The model: the first member with that address has it.
            let host = match source { IpAddr::V4(v4) => v4.octets()[3], IpAddr::V6(v6) => v6.octets()[15] };
            let owner = hosts.iter().find(|(_, h)| *h == host).map(|(id, _)| node(*id));
            let routed = match routes.destination(source) {
                Destination::Peer(peer) => Some(peer.node_id()),
                Destination::Everyone | Destination::Nobody => None,
            };
            prop_assert_eq!(routed, owner);
            if let Some(peer) = publisher.peer(&node(sender)) {
                prop_assert_eq!(routes.accepts_source(peer, source), routed == Some(node(sender)));
            }
        }
    }
}
