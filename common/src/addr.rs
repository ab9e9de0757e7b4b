//! Overlay addresses: what follows from a key, and the IPv4 pool of an organisation.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::{Hash, NodeId, OrgId};

/// Adapter MTU unless something smaller is asked for, in bytes.
pub const DEFAULT_MTU: u16 = 1400;
/// Smallest adapter MTU: what IPv6 demands (RFC 8200, section 5).
pub const MIN_MTU: u16 = 1280;

/// A range of addresses in CIDR notation. The host bits are always zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "(IpAddr, u8)", into = "(IpAddr, u8)")]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

/// Why text or bytes are not an address range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// Not `ADDRESS/LENGTH`.
    #[error("an address range looks like 198.19.0.0/16")]
    Syntax,
    /// Host bits set, or longer than the address.
    #[error("bits are set behind the prefix, or it is longer than the address")]
    HostBits,
    /// No good as the address pool of an organisation.
    #[error("{0}")]
    Pool(&'static str),
}

fn bits(addr: IpAddr) -> (u128, u8) {
    match addr {
        IpAddr::V4(a) => (u128::from(a.to_bits()) << 96, 32),
        IpAddr::V6(a) => (a.to_bits(), 128),
    }
}

fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

impl Prefix {
    /// A range; the bits behind it must be zero.
    ///
    /// # Errors
    /// [`PrefixError::HostBits`]
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let (value, width) = bits(addr);
        if len > width || value & !mask(len) != 0 {
            return Err(PrefixError::HostBits);
        }
        Ok(Self { addr, len })
    }

    /// First address of the range.
    #[must_use]
    pub const fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Length of the prefix in bits.
    #[must_use]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// A range has at least one address.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Is the address in the range? Never across address families.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.addr.is_ipv4() == addr.is_ipv4()
            && (bits(addr).0 ^ bits(self.addr).0) & mask(self.len) == 0
    }

    /// Do the ranges share an address?
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.addr) || other.contains(self.addr)
    }
}

impl TryFrom<(IpAddr, u8)> for Prefix {
    type Error = PrefixError;

    fn try_from((addr, len): (IpAddr, u8)) -> Result<Self, PrefixError> {
        Self::new(addr, len)
    }
}

impl From<Prefix> for (IpAddr, u8) {
    fn from(p: Prefix) -> Self {
        (p.addr, p.len)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (addr, len) = text.split_once('/').ok_or(PrefixError::Syntax)?;
        let addr = addr.parse().map_err(|_| PrefixError::Syntax)?;
        Self::new(addr, len.parse().map_err(|_| PrefixError::Syntax)?)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// The IPv4 addresses that an organisation gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Prefix", into = "Prefix")]
pub struct Pool {
    base: Ipv4Addr,
    len: u8,
}

impl Default for Pool {
    /// `198.19.0.0/16`: half of the benchmark range of RFC 2544, in no home router and never routed.
    fn default() -> Self {
        Self {
            base: Ipv4Addr::new(198, 19, 0, 0),
            len: 16,
        }
    }
}

impl TryFrom<Prefix> for Pool {
    type Error = PrefixError;

    fn try_from(prefix: Prefix) -> Result<Self, PrefixError> {
        let IpAddr::V4(base) = prefix.addr else {
            return Err(PrefixError::Pool(
                "the pool must be an IPv4 range; IPv6 addresses need none",
            ));
        };
        if !(8..=28).contains(&prefix.len) {
            return Err(PrefixError::Pool("the pool must be between /8 and /28"));
        }
        if base.is_loopback()
            || base.is_multicast()
            || base.is_link_local()
            || base.octets()[0] == 0
            || base.octets()[0] >= 240
        {
            return Err(PrefixError::Pool(
                "the pool must be of ordinary unicast addresses",
            ));
        }
        Ok(Self {
            base,
            len: prefix.len,
        })
    }
}

impl From<Pool> for Prefix {
    fn from(pool: Pool) -> Self {
        Self {
            addr: pool.base.into(),
            len: pool.len,
        }
    }
}

impl FromStr for Pool {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        text.parse::<Prefix>()?.try_into()
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.len)
    }
}

impl Pool {
    /// The range.
    #[must_use]
    pub fn prefix(&self) -> Prefix {
        (*self).into()
    }

    /// Length of the prefix in bits.
    #[must_use]
    pub const fn prefix_len(&self) -> u8 {
        self.len
    }

    /// How many machines fit: all addresses but the first (network) and the last (broadcast).
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        (1 << (32 - self.len)) - 2
    }

    /// Where packets to everybody go.
    #[must_use]
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() | (u32::MAX >> self.len))
    }

    /// May this address belong to a machine?
    #[must_use]
    pub fn contains_host(&self, addr: Ipv4Addr) -> bool {
        self.prefix().contains(addr.into()) && addr != self.base && addr != self.broadcast()
    }

    /// The `index`-th machine address, counted from 0.
    ///
    /// `None` behind the end of the pool.
    #[must_use]
    pub fn host(&self, index: u32) -> Option<Ipv4Addr> {
        (index < self.capacity()).then(|| Ipv4Addr::from_bits(self.base.to_bits() + 1 + index))
    }

    /// The addresses to try for a node, in order: a start and a step that follow from its key, the step odd and
    /// prime to the capacity, so that every address of the pool comes once and two nodes that collide once part ways.
    pub fn candidates(&self, node: &NodeId) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let hash = Hash::of(&[b"kanpachi/ipv4/v1\0", &node.0]).0;
        let word =
            |at: usize| u32::from_be_bytes([hash[at], hash[at + 1], hash[at + 2], hash[at + 3]]);
        let capacity = self.capacity();
        let start = word(0) % capacity;
        let mut step = word(4) % capacity;
        while gcd(step, capacity) != 1 {
            step = (step + 1) % capacity;
        }
        let pool = *self;
        (0..capacity).filter_map(move |i| {
            let index = (u64::from(start) + u64::from(i) * u64::from(step)) % u64::from(capacity);
            pool.host(u32::try_from(index).ok()?)
        })
    }
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The /48 of an organisation: `fd`, then 40 bits of its id (RFC 4193 in form, derived instead of random).
#[must_use]
pub fn ipv6_prefix(org: &OrgId) -> Prefix {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&org.0[..5]);
    Prefix {
        addr: Ipv6Addr::from(octets).into(),
        len: 48,
    }
}

/// The IPv6 address of a node: the organisation's /48, then 80 bits of `SHA-256(node key)`. Anyone can check it.
#[must_use]
pub fn ipv6_of(org: &OrgId, node: &NodeId) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&org.0[..5]);
    octets[6..].copy_from_slice(&Hash::of(&[&node.0]).0[..10]);
    Ipv6Addr::from(octets)
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MacAddr(#[serde(with = "serde_bytes")] pub [u8; 6]);

impl MacAddr {
    /// The address of a node: locally administered, unicast, 46 bits of `SHA-256(node key)` that the IPv6 address does not use.
    #[must_use]
    pub fn of(node: &NodeId) -> Self {
        let mut mac = [0; 6];
        mac.copy_from_slice(&Hash::of(&[&node.0]).0[10..16]);
        mac[0] = (mac[0] & 0b1111_1100) | 0b0000_0010;
        Self(mac)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_address_of_a_pool_is_tried_once() {
        let pool: Pool = "10.9.0.0/22".parse().unwrap();
        let all: BTreeSet<_> = pool.candidates(&NodeId([5; 32])).collect();
        assert_eq!(all.len(), 1022);
        assert!(all.iter().all(|a| pool.contains_host(*a)));
    }

    #[test]
    fn odd_pools_are_refused() {
        for bad in [
            "fd00::/8",
            "10.0.0.0/30",
            "10.0.0.0/7",
            "127.0.0.0/8",
            "224.0.0.0/8",
            "10.0.0.1/16",
            "x",
            "0.0.0.0/8",
            "169.254.0.0/16",
        ] {
            assert!(bad.parse::<Pool>().is_err(), "{bad}");
        }
        assert_eq!("198.19.0.0/16".parse::<Pool>().unwrap(), Pool::default());
    }

    proptest! {
        #[test]
        fn what_follows_from_a_key_has_the_right_form(org: [u8; 32], node: [u8; 32]) {
            let (org, node) = (OrgId(org), NodeId(node));
            prop_assert!(ipv6_prefix(&org).contains(ipv6_of(&org, &node).into()));
            let mac = MacAddr::of(&node).0;
            prop_assert_eq!(mac[0] & 0b11, 0b10);
            let first = Pool::default().candidates(&node).next().unwrap();
            prop_assert!(Pool::default().contains_host(first));
        }

        #[test]
        fn a_prefix_contains_what_shares_its_bits(a: u32, b: u32, len in 0u8..=32) {
            let keep = if len == 0 { 0 } else { u32::MAX << (32 - len) };
            let prefix = Prefix::new(Ipv4Addr::from_bits(a & keep).into(), len).unwrap();
            prop_assert_eq!(prefix.contains(Ipv4Addr::from_bits(b).into()), a & keep == b & keep);
            prop_assert_eq!(prefix.to_string().parse::<Prefix>().unwrap(), prefix);
        }
    }
}
