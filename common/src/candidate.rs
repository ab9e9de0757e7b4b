//! Underlay addresses where a peer may be reached.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Candidates of one node at the most.
pub const MAX_CANDIDATES: usize = 16;

/// How an address became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CandidateKind {
    /// An address of one of the machine's interfaces.
    Host,
    /// What a reflector saw.
    Reflexive,
    /// A mapping that the router granted (UPnP, NAT-PMP, PCP).
    Mapped,
    /// What a peer or a coordinator saw the node's packets come from.
    Observed,
}

/// An underlay address with its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// IP and UDP port.
    pub addr: SocketAddr,
    /// Where it comes from.
    pub kind: CandidateKind,
}

/// Is this in `100::/64`, which leads nowhere (RFC 6666)? Nodes name paths by such addresses that are none.
fn is_discarded(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(a) if a.to_bits() >> 64 == 0x0100 << 48)
}

impl Candidate {
    /// May a packet be sent there at all? Loopback, multicast, broadcast, unspecified, discarded and port 0 never.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        let addr = self.addr.ip().to_canonical();
        let broadcast = matches!(addr, IpAddr::V4(a) if a.is_broadcast() || a.octets()[0] == 0);
        self.addr.port() != 0
            && !addr.is_loopback()
            && !addr.is_multicast()
            && !addr.is_unspecified()
            && !broadcast
            && !is_discarded(addr)
    }
}
