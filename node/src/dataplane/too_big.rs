//! The answer to a packet that no path carries: ICMP "fragmentation needed", ICMPv6 "packet too big". It goes to our own
//! adapter, in the name of the peer that the packet was for, as a router in between would send it.

use super::checksum::{Sum, transport_sum};
use super::packet::{Addresses, Transport};

/// Smallest MTU of IPv6 (RFC 8200 §5): never less is asked for.
pub const IPV6_MIN_MTU: usize = 1280;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;
/// Longest IPv4 error (RFC 1812 §4.3.2.3).
const IPV4_LONGEST: usize = 576;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TTL: u8 = 64;
/// "Don't fragment" in the flags of IPv4.
const DONT_FRAGMENT: u8 = 0x40;
/// ICMP messages that are no errors: echo, timestamp, information, mask.
const ICMP_QUERIES: [u8; 10] = [0, 8, 9, 10, 13, 14, 15, 16, 17, 18];
/// ICMPv6 messages from here on are no errors (RFC 4443 §2.1).
const ICMPV6_QUERIES: u8 = 128;

/// The answer to a whole IP packet of which `mtu` bytes fit, for the machine that sent it. `None` when its sender asked for
/// no such answer or must not get one: the packet may be cut, it is an error itself, or a later fragment.
pub fn answer(packet: &[u8], mtu: usize) -> Option<Vec<u8>> {
    let (addresses, transport) = (Addresses::parse(packet)?, Transport::parse(packet)?);
    if transport.is_later_fragment {
        return None;
    }
    let kind = packet.get(transport.at).copied();
    if addresses.source.is_ipv4() {
        let is_error =
            transport.protocol == ICMP && kind.is_none_or(|k| !ICMP_QUERIES.contains(&k));
        let asked = packet[6] & DONT_FRAGMENT != 0;
        (asked && !is_error && packet.len() > mtu).then(|| answer_v4(packet, mtu))
    } else {
        let is_error = transport.protocol == ICMPV6 && kind.is_none_or(|k| k < ICMPV6_QUERIES);
        let mtu = mtu.max(IPV6_MIN_MTU);
        (!is_error && packet.len() > mtu).then(|| answer_v6(packet, addresses, mtu))
    }
}

fn answer_v4(packet: &[u8], mtu: usize) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(IPV4_LONGEST - IPV4_HEADER - ICMP_HEADER)];
    let [mtu_high, mtu_low] = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
    let mut icmp = [3, 4, 0, 0, 0, 0, mtu_high, mtu_low];
    let checksum = Sum::default().add(&icmp).add(quoted).finish();
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut header = [
        0x45, 0, 0, 0, 0, 0, 0, 0, TTL, ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let total = u16::try_from(IPV4_HEADER + ICMP_HEADER + quoted.len()).unwrap_or(u16::MAX);
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[12..16].copy_from_slice(&packet[16..20]);
    header[16..20].copy_from_slice(&packet[12..16]);
    let checksum = Sum::default().add(&header).finish();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&header[..], &icmp, quoted].concat()
}

fn answer_v6(packet: &[u8], addresses: Addresses, mtu: usize) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(IPV6_MIN_MTU - IPV6_HEADER - ICMP_HEADER)];
    let [a, b, c, d] = u32::try_from(mtu).unwrap_or(u32::MAX).to_be_bytes();
    let mut message = [&[2, 0, 0, 0, a, b, c, d][..], quoted].concat();
    let (from, to) = (addresses.destination, addresses.source);
    let checksum = transport_sum(from, to, ICMPV6, &message).finish();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let [high, low] = u16::try_from(message.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    let header = [0x60, 0, 0, 0, high, low, ICMPV6, TTL];
    [&header[..], &packet[24..40], &packet[8..24], &message].concat()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::super::packet::tests::ip_packet;
    use super::*;

    fn packet(six: bool, len: usize) -> Vec<u8> {
        let (from, to): (IpAddr, IpAddr) = if six {
            ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())
        } else {
            ("198.19.0.1".parse().unwrap(), "198.19.0.2".parse().unwrap())
        };
        let header = if six { IPV6_HEADER } else { IPV4_HEADER };
        let mut packet = ip_packet(from, to, &vec![7; len - header]);
        if !six {
            packet[6] = DONT_FRAGMENT;
        }
        packet
    }

    #[test]
    fn ipv4_is_told_the_size_in_the_name_of_the_peer() {
        let packet = packet(false, 1400);
        let answer = answer(&packet, 1192).unwrap();
        let addresses = Addresses::parse(&answer).unwrap();
        assert_eq!(addresses.source, "198.19.0.2".parse::<IpAddr>().unwrap());
        assert_eq!(
            addresses.destination,
            "198.19.0.1".parse::<IpAddr>().unwrap()
        );
        assert_eq!(Sum::default().add(&answer[..20]).finish(), 0);
        assert_eq!(Sum::default().add(&answer[20..]).finish(), 0);
        assert_eq!(answer[20..22], [3, 4]);
        assert_eq!(u16::from_be_bytes([answer[26], answer[27]]), 1192);
        assert_eq!(answer[28..], packet[..548]);
    }

    #[test]
    fn ipv6_is_never_told_less_than_1280() {
        let long = packet(true, 1400);
        for (mtu, told) in [(1192, 1280), (1372, 1372)] {
            let answer = answer(&long, mtu).unwrap();
            let addresses = Addresses::parse(&answer).unwrap();
            let sum = transport_sum(
                addresses.source,
                addresses.destination,
                ICMPV6,
                &answer[40..],
            );
            assert_eq!(sum.finish(), 0);
            assert_eq!(addresses.source, "fd00::2".parse::<IpAddr>().unwrap());
            assert_eq!((answer.len(), answer[40]), (1280, 2));
            assert_eq!(answer[44..48], u32::to_be_bytes(told));
            assert_eq!(answer[48..], long[..1232]);
        }
        assert_eq!(answer(&packet(true, 1280), 1192), None);
    }

    #[test]
    fn who_may_be_cut_or_is_an_error_gets_no_answer() {
        let mut cuttable = packet(false, 1400);
        cuttable[6] = 0;
        assert_eq!(answer(&cuttable, 1192), None);
        let mut later = packet(false, 1400);
        later[7] = 9;
        assert_eq!(answer(&later, 1192), None);
        let mut icmp = packet(false, 1400);
        (icmp[9], icmp[20]) = (ICMP, 3);
        assert_eq!(answer(&icmp, 1192), None);
        icmp[20] = 8;
        assert!(answer(&icmp, 1192).is_some());
        let mut icmp = packet(true, 1400);
        (icmp[6], icmp[40]) = (ICMPV6, 1);
        assert_eq!(answer(&icmp, 1192), None);
        icmp[40] = 128;
        assert!(answer(&icmp, 1192).is_some());
        assert_eq!(answer(&packet(false, 1000), 1192), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_within_bounds(bytes: Vec<u8>, six: bool, len in 40usize..2000, mtu in 0usize..2000, flip in any::<prop::sample::Index>(), to: u8) {
            prop_assert!(answer(&bytes, 0).is_none_or(|a| a.len() <= IPV6_MIN_MTU));
            let mut packet = packet(six, len);
            packet[flip.index(len.min(60))] = to;
            if let Some(answer) = answer(&packet, mtu) {
                prop_assert!(answer.len() <= IPV6_MIN_MTU && Addresses::parse(&answer).is_some());
            }
        }
    }
}
