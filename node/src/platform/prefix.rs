//! An IP range, with the two questions the node asks of it.

use std::fmt;
use std::net::IpAddr;

/// A range of IP addresses: the first `len` bits of `address` are fixed, the others are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// The range of this length that `address` lies in; `None` if the length exceeds the address.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if len <= 32 => IpAddr::V4((u32::from(v4) & mask_v4(len)).into()),
            IpAddr::V6(v6) if len <= 128 => IpAddr::V6((u128::from(v6) & mask_v6(len)).into()),
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { address, len })
    }

    /// First address of the range.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Number of fixed bits.
    pub fn bits(&self) -> u8 {
        self.len
    }

    /// Whether the range is the whole family.
    pub fn is_default(&self) -> bool {
        self.len == 0
    }

    /// Whether the address lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                u32::from(other) & mask_v4(self.len) == u32::from(own)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                u128::from(other) & mask_v6(self.len) == u128::from(own)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether some address lies in both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.len <= other.len {
            self.contains(other.address)
        } else {
            other.contains(self.address)
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// A shift by the full width would be undefined, hence `checked_shl`.
fn mask_v4(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

fn mask_v6(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        let (address, len) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), len.parse().unwrap()).unwrap()
    }

    #[test]
    fn host_bits_are_cleared_and_lengths_checked() {
        assert_eq!(prefix("198.19.7.9/16").to_string(), "198.19.0.0/16");
        assert_eq!(
            prefix("fd12:3456:789a:1::1/48").to_string(),
            "fd12:3456:789a::/48"
        );
        assert!(Prefix::new("198.19.0.0".parse().unwrap(), 33).is_none());
        assert!(Prefix::new("::".parse().unwrap(), 129).is_none());
    }

    #[test]
    fn families_never_mix() {
        assert!(prefix("0.0.0.0/0").contains("255.255.255.255".parse().unwrap()));
        assert!(!prefix("0.0.0.0/0").contains("::".parse().unwrap()));
        assert!(!prefix("::/0").overlaps(&prefix("0.0.0.0/0")));
    }

    proptest! {
        #[test]
        fn containment_is_equality_of_the_fixed_bits(a: u32, b: u32, len in 0u8..=32) {
            let range = Prefix::new(IpAddr::V4(a.into()), len).unwrap();
            let same = (0..len).all(|bit| (a >> (31 - bit)) & 1 == (b >> (31 - bit)) & 1);
            prop_assert_eq!(range.contains(IpAddr::V4(b.into())), same);
        }

        #[test]
        fn overlap_is_symmetric_and_means_nesting(a: u128, b: u128, la in 0u8..=128, lb in 0u8..=128) {
            let (x, y) = (Prefix::new(IpAddr::V6(a.into()), la).unwrap(), Prefix::new(IpAddr::V6(b.into()), lb).unwrap());
            prop_assert_eq!(x.overlaps(&y), y.overlaps(&x));
            prop_assert_eq!(x.overlaps(&y), x.contains(y.address()) || y.contains(x.address()));
        }
    }
}
