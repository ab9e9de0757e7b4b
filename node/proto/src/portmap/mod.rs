//! Asking the router to forward a port: PCP (RFC 6887) and NAT-PMP (RFC 6886) as one state machine, and the texts of
//! UPnP ([`upnp`]).
//!
//! Whoever answers is whoever sits at the router's address, or a stranger on the LAN who forges it: every field is
//! bounded, and only a public address with a real port is believed.

mod mapper;
#[cfg(test)]
mod tests;
pub mod upnp;
mod wire;

use std::net::{Ipv4Addr, SocketAddrV4};

pub use mapper::{Mapper, Offers};
pub use wire::PORT;

/// For how long a mapping is asked, in seconds.
pub const LIFETIME: u32 = 7200;

/// What a port belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// A port of this machine that others should reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wanted {
    /// Which protocol.
    pub protocol: Protocol,
    /// The port here.
    pub port: u16,
}

/// A port that the router forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// The port here.
    pub wanted: Wanted,
    /// Where the world reaches it.
    pub external: SocketAddrV4,
}

/// Could a router have this as its public address? Private, shared, reserved and special ones lead nowhere.
#[must_use]
pub fn is_public(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    let benchmark = a == 198 && b & 0xfe == 18;
    let special = (a, b, c) == (192, 0, 0);
    !(a == 0
        || a >= 224
        || shared
        || benchmark
        || special
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local())
}
