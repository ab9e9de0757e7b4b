//! Paths that are no plain address, named by one all the same.
//!
//! Everything that deals with paths names them by a [`SocketAddr`]. A way over a relay, or from another socket than the shared
//! one, gets an address in `100::/64`, the prefix of IPv6 that leads nowhere (RFC 6666). The lowest layer translates. Such
//! an address never leaves the process, and what comes from outside with one is refused: see [`is_via`].
//!
//! | bytes of the address | |
//! |---|---|
//! | 0..8 | `0100::` |
//! | 8..10 | 1 relay, 2 socket |
//! | 10..12 | which of this node's relays or sockets |
//! | 12..16 | relay: number of the pair, so that no number is used again; socket: which attempt |
//!
//! The port is the channel of a relay, and 1 for a socket.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const PREFIX: u128 = 0x0100 << 112;
const RELAY: u128 = 1;
const SOCKET: u128 = 2;

/// A path that is no plain address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Via {
    /// Over a relay.
    Relay {
        /// Which of the relays of this node.
        relay: u16,
        /// Number of the pair at this relay.
        pair: u32,
        /// Channel of the pair, not 0.
        channel: u16,
    },
    /// From another socket than the shared one, which was opened for one address.
    Socket {
        /// Which of the sockets of the attempt.
        socket: u16,
        /// Which attempt.
        attempt: u32,
    },
}

impl Via {
    /// The address that names it.
    #[must_use]
    pub fn addr(self) -> SocketAddr {
        let (kind, index, number, port) = match self {
            Self::Relay {
                relay,
                pair,
                channel,
            } => (RELAY, relay, pair, channel),
            Self::Socket { socket, attempt } => (SOCKET, socket, attempt, 1),
        };
        let bits = PREFIX | kind << 48 | u128::from(index) << 32 | u128::from(number);
        SocketAddr::new(Ipv6Addr::from_bits(bits).into(), port)
    }

    /// What an address names; `None` for a plain one.
    #[must_use]
    pub fn of(addr: SocketAddr) -> Option<Self> {
        let IpAddr::V6(ip) = addr.ip() else {
            return None;
        };
        let bits = ip.to_bits();
        if bits >> 64 != PREFIX >> 64 {
            return None;
        }
        let (index, number) = ((bits >> 32) as u16, bits as u32);
        match (bits >> 48) & 0xffff {
            RELAY => Some(Self::Relay {
                relay: index,
                pair: number,
                channel: addr.port(),
            }),
            SOCKET => Some(Self::Socket {
                socket: index,
                attempt: number,
            }),
            _ => None,
        }
    }
}

/// Does this address lead nowhere? Then nobody outside is there.
#[must_use]
pub fn is_via(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_bits() >> 64 == PREFIX >> 64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_read_back(index: u16, number: u32, channel in 1u16..) {
            for via in [
                Via::Relay { relay: index, pair: number, channel },
                Via::Socket { socket: index, attempt: number },
            ] {
                prop_assert!(is_via(via.addr().ip()));
                prop_assert_eq!(Via::of(via.addr()), Some(via));
            }
        }

        #[test]
        fn other_addresses_are_plain(bits: u128, port: u16) {
            let ip = IpAddr::V6(Ipv6Addr::from_bits(bits));
            prop_assume!(bits >> 112 != 0x0100);
            prop_assert!(!is_via(ip) && Via::of(SocketAddr::new(ip, port)).is_none());
        }
    }
}
