//! The tables that the packet threads look things up in.
//!
//! Three steps, each as cheap to change as it is often changed:
//! - [`Routes`], overlay address to peer: replaced as a whole when a roster changes;
//! - the session table, our index to session: replaced as a whole when a session comes or goes;
//! - [`Peer::sending`], the session and endpoint to use: one pointer per peer, changed at every rekey and roaming.
//!
//! Readers load a pointer and never wait. There is one writer, the [`Publisher`](super::Publisher), which the engine owns.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, ArcSwapOption};
use kanpachi_common::NodeId;
use kanpachi_proto::path::Limit;
use kanpachi_proto::tunnel::{ReplayWindow, Session};

use super::packet;
use super::relays::RelayTable;

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
    /// Of the next packet that is cut.
    fragment_id: AtomicU32,
    /// Its control messages are paid for until then, in milliseconds.
    paid_ms: AtomicU64,
}

/// What one control message costs in milliseconds, and how far a peer may be ahead: 250 a second, 500 at once. A birthday punch
/// brings 256 at once, and everything else together a few dozen a second.
const CONTROL_MS: u64 = 4;
const CONTROL_AHEAD_MS: u64 = 500 * CONTROL_MS;

impl Peer {
    pub(super) fn new(node_id: NodeId) -> Self {
        Self {
            node_id,
            sending: ArcSwapOption::empty(),
            fragment_id: AtomicU32::new(0),
            paid_ms: AtomicU64::new(0),
        }
    }

    /// Who.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The session to seal with and where to send; `None` while there is none.
    pub fn sending(&self) -> Option<Arc<Sending>> {
        self.sending.load_full()
    }

    /// Sets how to send; returns how it was before.
    pub(super) fn set_sending(&self, sending: Option<Sending>) -> Option<Arc<Sending>> {
        self.sending.swap(sending.map(Arc::new))
    }

    /// Whether the engine is to have another control message of this peer: whoever floods it is heard no more than others.
    pub(super) fn may_say(&self, now_ms: u64) -> bool {
        let paid = |paid: u64| {
            let paid = paid.max(now_ms).saturating_add(CONTROL_MS);
            (paid <= now_ms.saturating_add(CONTROL_AHEAD_MS)).then_some(paid)
        };
        self.paid_ms.fetch_update(Relaxed, Relaxed, paid).is_ok()
    }

    /// A number for the pieces of one packet.
    pub(super) fn next_fragment_id(&self) -> u32 {
        self.fragment_id.fetch_add(1, Relaxed)
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
    /// How large their datagrams may be.
    pub limit: Limit,
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

impl Receiving {
    pub(super) fn new(session: Arc<Session>, peer: Arc<Peer>) -> Self {
        Self {
            session,
            peer,
            window: Mutex::new(ReplayWindow::new()),
            told_ms: AtomicU64::new(0),
        }
    }
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
    /// Routes without a peer.
    pub(super) fn new(own: Own) -> Self {
        Self {
            own,
            ..Self::default()
        }
    }

    /// Adds a peer to those that packets for everyone go to.
    pub(super) fn add_peer(&mut self, peer: Arc<Peer>) {
        self.everyone.push(peer);
    }

    /// Gives an address to a peer. `false` if it cannot be a member's, or another peer has it: the first keeps it.
    pub(super) fn add_address(&mut self, address: IpAddr, peer: &Arc<Peer>) -> bool {
        let unicast =
            !(address.is_unspecified() || address.is_multicast() || address.is_loopback());
        if !unicast || self.accepts_destination(address) {
            return false;
        }
        let owner = self
            .unicast
            .entry(address)
            .or_insert_with(|| Arc::clone(peer));
        Arc::ptr_eq(owner, peer)
    }

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
    pub(super) relays: Arc<ArcSwap<RelayTable>>,
}

impl Tables {
    /// The current routes.
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }
}
