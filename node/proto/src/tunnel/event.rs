//! What the tunnels tell the shell, and what the shell can ask.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kanpachi_common::{NetworkId, NodeId};

use super::session::{Session, SessionStats};
use crate::path::{Limit, PathKind, PathStatus};

/// A datagram to send from the shared socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// The whole datagram.
    pub data: Vec<u8>,
}

/// Something the shell acts on.
#[derive(Clone, Debug)]
pub enum Event {
    /// Receive with this session from now on. It must not be used for sending, and refuses to be until confirmed.
    SessionPending {
        /// The member.
        peer: NodeId,
        /// The session.
        session: Arc<Session>,
    },
    /// Send with this session from now on, and receive with it. Others keep receiving until they are closed. It may be
    /// one that is installed already: its replay window must then be kept.
    SessionUp {
        /// The member.
        peer: NodeId,
        /// The session.
        session: Arc<Session>,
        /// Where its datagrams go.
        endpoint: SocketAddr,
    },
    /// Forget this session. If it was the one to send with, there is none now.
    SessionClosed {
        /// The member.
        peer: NodeId,
        /// Which of its sessions.
        local_index: u32,
        /// Why.
        reason: CloseReason,
    },
    /// Datagrams to this member go elsewhere from now on.
    EndpointChanged {
        /// The member.
        peer: NodeId,
        /// Where to.
        endpoint: SocketAddr,
        /// What kind of path that is.
        kind: PathKind,
    },
    /// Nothing answers any more where this node's datagrams to the member go. Said when it begins, and again while it goes
    /// on, each five seconds at the most.
    Trouble {
        /// The member.
        peer: NodeId,
    },
    /// A handshake with the member that went over relays, too, has had no answer for five seconds.
    Unanswered {
        /// The member.
        peer: NodeId,
    },
    /// The state of the pair has changed.
    PathState {
        /// The member.
        peer: NodeId,
        /// The new state.
        state: PathState,
    },
    /// What the member knows, when it differs from what it said last.
    Epochs {
        /// The member.
        peer: NodeId,
        /// Generation of its newest manifest.
        generation: u64,
        /// Its newest epochs.
        epochs: Vec<(NetworkId, u64)>,
    },
    /// A measurement of the primary path.
    Rtt {
        /// The member.
        peer: NodeId,
        /// The address measured.
        endpoint: SocketAddr,
        /// Smoothed round-trip time.
        rtt: Duration,
        /// Share of probes lost, 0 to 1.
        loss: f32,
    },
    /// Where the member sees our packets come from.
    Observed {
        /// The member.
        peer: NodeId,
        /// Our address, as seen from there.
        addr: SocketAddr,
    },
    /// Open [`SOCKETS`](crate::path::punch::SOCKETS) sockets: datagrams to the [`Via::Socket`](crate::path::Via)
    /// addresses of this attempt follow, and each is to leave from another one, to the address here.
    OpenSockets {
        /// The member.
        peer: NodeId,
        /// Number of the attempt.
        attempt: u32,
        /// Where all of them send.
        to: SocketAddr,
    },
    /// The answer to [`Tunnels::ping`](super::Tunnels::ping).
    Pong {
        /// The member.
        peer: NodeId,
        /// From the ping.
        token: u64,
        /// The address that the answer came from.
        endpoint: SocketAddr,
        /// Round-trip time.
        rtt: Duration,
    },
    /// How large datagrams on this path may be. Said before data takes the path, and when it changes.
    PathMtu {
        /// The member.
        peer: NodeId,
        /// The address, whether data goes there already or will with the next event.
        endpoint: SocketAddr,
        /// What may be sent there.
        limit: Limit,
    },
}

/// Whether there is a way to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// No session that works; trying.
    Connecting,
    /// There is one.
    Up {
        /// Where datagrams go.
        endpoint: SocketAddr,
        /// What kind of path that is.
        kind: PathKind,
        /// Since when data takes this path, without a gap in the session.
        since: Instant,
    },
    /// None, and not trying at the moment.
    Down,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// A newer one took its place long enough ago.
    Replaced,
    /// Older than 180 s.
    Expired,
    /// The member is not authorised any more.
    Removed,
    /// The member has a new tunnel key.
    KeyChanged,
    /// This node wanted it.
    Disconnected,
    /// The member wanted it.
    ClosedByPeer,
    /// The initiator never used it.
    Unconfirmed,
    /// Nothing was heard for too long.
    Unreachable,
}

/// The session in use, for a status display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// Its index in datagrams to this node.
    pub local_index: u32,
    /// When its handshake was completed.
    pub created: Instant,
    /// Since then.
    pub age: Duration,
    /// Did this node start the handshake?
    pub initiator: bool,
    /// Its traffic.
    pub stats: SessionStats,
}

/// A member as the tunnels see it.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerStatus {
    /// Is there a way?
    pub state: PathState,
    /// Has the path that data takes shown a sign of life as lately as a living one does?
    pub fresh: bool,
    /// Is the pair to stay connected?
    pub wanted: bool,
    /// The session in use.
    pub session: Option<SessionStatus>,
    /// Largest datagram known to pass on the path that data takes, as UDP payload.
    pub path_mtu: Option<u16>,
    /// All addresses known.
    pub paths: Vec<PathStatus>,
}

/// What was not done, and why. Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Not a handshake datagram of this version.
    pub malformed: u64,
    /// mac1 wrong: the sender does not know our tunnel key.
    pub bad_mac: u64,
    /// Asked to prove their address.
    pub cookies_sent: u64,
    /// Too many, even with a cookie.
    pub rate_limited: u64,
    /// Did not decrypt.
    pub undecryptable: u64,
    /// From a tunnel key that does not belong to the member it claims to be, or to none that is authorised.
    pub unknown_peer: u64,
    /// Old counter, or a payload that does not fit its datagram.
    pub refused: u64,
    /// Too many half-open handshakes.
    pub crowded_out: u64,
    /// The same init again, answered from memory.
    pub repeated: u64,
    /// Handshakes completed, as either side.
    pub handshakes: u64,
    /// Datagrams dropped because nobody fetched them.
    pub transmits_dropped: u64,
}
