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

mod estimator;
mod set;

use std::net::SocketAddr;

use kanpachi_common::CandidateKind;

pub use self::estimator::Estimator;
pub use self::set::{Activity, Change, MAX_OBSERVED, Order, PathSet, PathStatus, Probe};

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
