//! Paths to one peer: which addresses there are, which of them work, and which one data takes.
//!
//! A [`PathSet`] knows nothing of keys. It is told what was heard *inside a session*, and says which addresses to
//! probe and when the primary path has changed. The life of a path:
//!
//! 1. An address is offered (presence, record, LAN) or observed (an authenticated packet came from it).
//! 2. The handshake is raced over all of them; where the authenticated answer comes from is the primary path.
//! 3. Every address is probed. Whoever answers is alive and has a round-trip time.
//! 4. Of the two ends the one with the smaller node id *controls*: it moves the pair to a better path when there is
//!    one. The other end follows the authenticated packets. So the two never pull in different directions.
//! 5. Either end leaves a primary path that has stopped answering while another one answers.

mod address;
pub(crate) mod budget;
mod estimator;
pub(crate) mod mtu;
pub mod punch;
mod set;
pub mod via;

use std::{net::SocketAddr, time::Duration};

use kanpachi_common::CandidateKind;

pub(crate) use self::set::PROBE_IDLE_EARLY;

pub use self::estimator::Estimator;
pub use self::mtu::Limit;
pub use self::set::{Activity, MAX_OBSERVED, MAX_RELAYED, PathSet};
pub use self::via::Via;

/// What kind of way an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathKind {
    /// An address of one of the peer's interfaces: same LAN, or a public address.
    Host,
    /// A mapping that the peer's router granted.
    Mapped,
    /// What a reflector saw of the peer.
    Reflexive,
    /// Where an authenticated packet of the peer came from.
    Observed,
    /// A relay in between.
    Relay,
}

impl From<CandidateKind> for PathKind {
    fn from(kind: CandidateKind) -> Self {
        match kind {
            CandidateKind::Host => Self::Host,
            CandidateKind::Mapped => Self::Mapped,
            CandidateKind::Reflexive => Self::Reflexive,
            CandidateKind::Observed => Self::Observed,
        }
    }
}

/// An address of a peer to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// IP and UDP port.
    pub addr: SocketAddr,
    /// What it is.
    pub kind: PathKind,
}

impl From<kanpachi_common::Candidate> for Candidate {
    fn from(candidate: kanpachi_common::Candidate) -> Self {
        Self {
            addr: candidate.addr,
            kind: candidate.kind.into(),
        }
    }
}

/// A probe to send: a ping inside the session, to this address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where to.
    pub addr: SocketAddr,
    /// To recognise the answer.
    pub nonce: u64,
    /// Is this the path that data takes?
    pub primary: bool,
}

/// The place of a packet among all that came from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Local index of its session.
    pub session: u32,
    /// Is that the session that this end sends with?
    pub current: bool,
    /// Its counter.
    pub counter: u64,
}

/// Data takes another path from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The new address of the peer.
    pub endpoint: SocketAddr,
    /// What it is.
    pub kind: PathKind,
}

/// One path, for a status display.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PathStatus {
    /// The address.
    pub addr: SocketAddr,
    /// What it is.
    pub kind: PathKind,
    /// Does data take it?
    pub primary: bool,
    /// Has it answered lately?
    pub alive: bool,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// Share of probes lost, 0 to 1.
    pub loss: f32,
}
