//! The little that the packet path reads of an IP header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Shortest IPv4 header in bytes (RFC 791 §3.1).
const IPV4_HEADER: usize = 20;
/// IPv6 header in bytes (RFC 8200 §3).
const IPV6_HEADER: usize = 40;

/// Where a packet comes from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
}

impl Addresses {
    /// Reads the addresses of an IP packet whose length is exactly what its header says. Jumbograms and padded
    /// packets are not whole in this sense: neither side ever makes them.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &[u8]) -> Option<Self> {
        let header: &[u8; IPV4_HEADER] = packet.first_chunk()?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < IPV4_HEADER || header_len > total || total != packet.len() {
            return None;
        }
        let address =
            |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
        Some(Self {
            source: address(12).into(),
            destination: address(16).into(),
        })
    }

    fn parse_v6(packet: &[u8]) -> Option<Self> {
        let header: &[u8; IPV6_HEADER] = packet.first_chunk()?;
        let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if payload + IPV6_HEADER != packet.len() {
            return None;
        }
        let source: &[u8; 16] = header[8..].first_chunk()?;
        let destination: &[u8; 16] = header[24..].first_chunk()?;
        Some(Self {
            source: Ipv6Addr::from(*source).into(),
            destination: Ipv6Addr::from(*destination).into(),
        })
    }
}

/// Whether a packet to this address goes to every member: multicast beyond this machine, or everybody at once.
pub fn is_for_everyone(destination: IpAddr, pool_broadcast: Option<Ipv4Addr>) -> bool {
    match destination {
        IpAddr::V4(v4) => v4.is_broadcast() || v4.is_multicast() || Some(v4) == pool_broadcast,
        // Scopes 0 and 1 never leave a machine (RFC 4291 §2.7).
        IpAddr::V6(v6) => v6.is_multicast() && v6.segments()[0] & 0x000f >= 2,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An IP packet with these addresses and payload; protocol 253 is for experiments (RFC 3692).
    pub(crate) fn ip_packet(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
        let mut packet;
        match (source, destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 253, 0, 0];
                let total = u16::try_from(IPV4_HEADER + payload.len()).unwrap();
                packet[2..4].copy_from_slice(&total.to_be_bytes());
                packet.extend_from_slice(&from.octets());
                packet.extend_from_slice(&to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                packet = vec![0x60, 0, 0, 0, 0, 0, 253, 64];
                packet[4..6].copy_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
                packet.extend_from_slice(&from.octets());
                packet.extend_from_slice(&to.octets());
            }
            _ => panic!("one family at a time"),
        }
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn groups_and_broadcasts_are_for_everyone() {
        let broadcast = Some(Ipv4Addr::new(198, 19, 255, 255));
        for everyone in [
            "198.19.255.255",
            "255.255.255.255",
            "224.0.0.251",
            "239.255.255.250",
            "ff02::fb",
            "ff15::1",
        ] {
            assert!(
                is_for_everyone(everyone.parse().unwrap(), broadcast),
                "{everyone}"
            );
        }
        for one in [
            "198.19.0.1",
            "198.19.255.254",
            "10.255.255.255",
            "fd00::1",
            "ff01::1",
            "ff10::1",
            "::",
        ] {
            assert!(!is_for_everyone(one.parse().unwrap(), broadcast), "{one}");
        }
        assert!(!is_for_everyone("198.19.255.255".parse().unwrap(), None));
    }

    proptest! {
        #[test]
        fn addresses_are_read_back(from4: u32, to4: u32, from6: u128, to6: u128, payload: Vec<u8>) {
            let v4 = (IpAddr::V4(from4.into()), IpAddr::V4(to4.into()));
            let v6 = (IpAddr::V6(from6.into()), IpAddr::V6(to6.into()));
            for (source, destination) in [v4, v6] {
                let packet = ip_packet(source, destination, &payload);
                prop_assert_eq!(Addresses::parse(&packet), Some(Addresses { source, destination }));
                // One byte more or less is no whole packet.
                prop_assert_eq!(Addresses::parse(&packet[..packet.len() - 1]), None);
                prop_assert_eq!(Addresses::parse(&[&packet[..], &[0]].concat()), None);
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            if Addresses::parse(&bytes).is_some() {
                prop_assert!(bytes.len() >= IPV4_HEADER);
            }
        }
    }
}
