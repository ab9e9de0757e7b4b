//! The little that the packet path reads of an IP header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Shortest IPv4 header in bytes (RFC 791 §3.1).
const IPV4_HEADER: usize = 20;
/// IPv6 header in bytes (RFC 8200 §3).
const IPV6_HEADER: usize = 40;
/// Protocol number and length of the header of an IPv6 fragment (RFC 8200 §4.5).
const IPV6_FRAGMENT: u8 = 44;
const IPV6_FRAGMENT_HEADER: usize = 8;

/// Protocol number of UDP, and the port of multicast DNS.
const UDP: u8 = 17;
const MDNS_PORT: u16 = 5353;

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

/// What an IP packet carries, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transport {
    /// Protocol number. Of IPv6 that of the first header behind the fixed one, fragment headers left out.
    pub(super) protocol: u8,
    /// Where it begins; may lie behind the end of the packet.
    pub(super) at: usize,
    /// Length of an IP header of this family without options.
    pub(super) plain_header: usize,
    /// A fragment that the transport header is not in.
    pub(super) is_later_fragment: bool,
}

impl Transport {
    /// Reads the header of an IP packet; `None` if it has none that is whole.
    pub(super) fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header: &[u8; IPV4_HEADER] = packet.first_chunk()?;
                Some(Self {
                    protocol: header[9],
                    at: usize::from(header[0] & 0x0f) * 4,
                    plain_header: IPV4_HEADER,
                    is_later_fragment: u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0,
                })
            }
            6 => {
                let header: &[u8; IPV6_HEADER] = packet.first_chunk()?;
                let plain = Self {
                    protocol: header[6],
                    at: IPV6_HEADER,
                    plain_header: IPV6_HEADER,
                    is_later_fragment: false,
                };
                if plain.protocol != IPV6_FRAGMENT {
                    return Some(plain);
                }
                let fragment: &[u8; IPV6_FRAGMENT_HEADER] =
                    packet.get(IPV6_HEADER..)?.first_chunk()?;
                Some(Self {
                    protocol: fragment[0],
                    at: IPV6_HEADER + IPV6_FRAGMENT_HEADER,
                    is_later_fragment: u16::from_be_bytes([fragment[2], fragment[3]]) >> 3 != 0,
                    ..plain
                })
            }
            _ => None,
        }
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

/// Is this what libp2p asks by multicast DNS (RFC 6762), or tells of this node, which is this peer, or an answer of it that
/// holds no address? It asks and answers on every interface, and so on the overlay too, where whoever could hear it has a
/// tunnel already, everybody would answer everybody, and no session would ever rest. What other programs that use libp2p
/// tell of themselves passes.
pub(super) fn is_own_mdns(packet: &[u8], peer: &str) -> bool {
    let Some(transport) = Transport::parse(packet) else {
        return false;
    };
    let udp = packet.get(transport.at..).unwrap_or_default();
    let port = udp.get(2..4).unwrap_or_default();
    if transport.protocol != UDP || transport.is_later_fragment || port != MDNS_PORT.to_be_bytes() {
        return false;
    }
    let names = |text: &[u8]| udp.windows(text.len().max(1)).any(|w| w == text);
    let dns = udp.get(8..).unwrap_or_default();
    let no_address = dns.get(10..12) == Some(&[0, 0]);
    names(peer.as_bytes()) || (no_address && names(b"\x04_p2p\x04_udp\x05local\0"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_multicast_dns_says_of_this_node_stays_off_the_overlay() {
        let own = |protocol: u8, port: u16, dns: &[u8]| {
            let mut udp = [[0x30, 0x39], port.to_be_bytes(), [0, 0], [0, 0]].concat();
            udp.extend_from_slice(dns);
            let (from, to) = ([198, 19, 0, 1], [224, 0, 0, 251]);
            let mut packet = ip_packet(IpAddr::from(from), IpAddr::from(to), &udp);
            packet[9] = protocol;
            is_own_mdns(&packet, "12D3KooWme")
        };
        let dns = |flags: u8, additional: u8, text: &[u8]| {
            let header = [0, 1, flags, 0, 0, 0, 0, 1, 0, 0, 0, additional];
            [&header, text].concat()
        };
        let libp2p = b"\x04_p2p\x04_udp\x05local\0";
        let (query, answer) = (dns(0, 0, libp2p), dns(0x84, 0, libp2p));
        let mine = dns(0x84, 1, b"dnsaddr=/ip4/198.19.0.1/p2p/12D3KooWme");
        assert!(own(UDP, 5353, &query) && own(UDP, 5353, &answer) && own(UDP, 5353, &mine));
        assert!(!own(UDP, 5354, &mine) && !own(6, 5353, &mine));
        let others = dns(
            0x84,
            1,
            &[&libp2p[..], b"dnsaddr=/p2p/12D3KooWother"].concat(),
        );
        let printer = dns(0x84, 0, b"\x08_printer\x04_tcp\x05local\0");
        assert!(!own(UDP, 5353, &others) && !own(UDP, 5353, &printer));
        assert!(!is_own_mdns(&[0x45], "12D3KooWme"));
    }

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
