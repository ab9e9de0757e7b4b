//! Lowers the maximum segment size in TCP's SYN packets to what a path carries, so that neither end ever sends a packet
//! that would have to be cut or refused.

use super::packet::Transport;

/// The protocol number of TCP.
const TCP: u8 = 6;
/// TCP header without options (RFC 9293 §3.1).
const TCP_HEADER: usize = 20;
/// Where the flags and the checksum stand in it.
const DATA_OFFSET_AT: usize = 12;
const FLAGS_AT: usize = 13;
const CHECKSUM_AT: usize = 16;
const SYN: u8 = 0x02;
/// Option kinds: end of list, padding, maximum segment size.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// If this whole IP packet is a TCP SYN that allows segments for which a packet of `limit` bytes is too small, lowers
/// what it allows and corrects its checksum.
pub fn clamp(packet: &mut [u8], limit: usize) {
    let Some(transport) = Transport::parse(packet) else {
        return;
    };
    if transport.protocol != TCP || transport.is_later_fragment {
        return;
    }
    let most = limit.saturating_sub(transport.plain_header + TCP_HEADER);
    if let (Some(tcp), Ok(most)) = (packet.get_mut(transport.at..), u16::try_from(most)) {
        clamp_segment(tcp, most);
    }
}

/// Is it a TCP packet, or the first fragment of one?
pub(super) fn is_tcp(packet: &[u8]) -> bool {
    Transport::parse(packet).is_some_and(|t| t.protocol == TCP && !t.is_later_fragment)
}

fn clamp_segment(tcp: &mut [u8], most: u16) {
    if tcp.len() < TCP_HEADER || tcp[FLAGS_AT] & SYN == 0 {
        return;
    }
    let end = usize::from(tcp[DATA_OFFSET_AT] >> 4) * 4;
    let Some(at) = tcp.get(..end).and_then(find) else {
        return;
    };
    let old = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    if old <= most {
        return;
    }
    tcp[at..at + 2].copy_from_slice(&most.to_be_bytes());
    let checksum = u16::from_be_bytes([tcp[CHECKSUM_AT], tcp[CHECKSUM_AT + 1]]);
    // At an odd place the two bytes belong to two words of the sum, each in the other half.
    let (old, new) = if at % 2 == 0 {
        (old, most)
    } else {
        (old.swap_bytes(), most.swap_bytes())
    };
    let checksum = updated(checksum, old, new);
    tcp[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Where the value of the option stands in a TCP header.
fn find(header: &[u8]) -> Option<usize> {
    let mut at = TCP_HEADER;
    loop {
        match *header.get(at)? {
            END => return None,
            NO_OPERATION => at += 1,
            kind => {
                let len = usize::from(*header.get(at + 1)?);
                if len < 2 || at + len > header.len() {
                    return None;
                }
                if kind == MAXIMUM_SEGMENT_SIZE && len == 4 {
                    return Some(at + 2);
                }
                at += len;
            }
        }
    }
}

/// A checksum after one word of what it covers has changed (RFC 1624 §3).
fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::super::checksum::transport_sum;
    use super::super::packet::{Addresses, tests::ip_packet};
    use super::*;

    /// A whole packet with a TCP header of these flags and options, checksum right.
    fn tcp(six: bool, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        let mut segment = vec![
            0x12, 0x34, 0, 22, 1, 2, 3, 4, 5, 6, 7, 8, 0, flags, 0xff, 0xff, 0, 0, 0, 0,
        ];
        segment[DATA_OFFSET_AT] = (((TCP_HEADER + options.len()) / 4) << 4) as u8;
        segment.extend_from_slice(&options);
        segment.extend_from_slice(data);
        let (from, to): (IpAddr, IpAddr) = if six {
            ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())
        } else {
            ("198.19.0.1".parse().unwrap(), "198.19.0.2".parse().unwrap())
        };
        let mut packet = ip_packet(from, to, &segment);
        let at = packet.len() - segment.len();
        packet[if six { 6 } else { 9 }] = TCP;
        let checksum = transport_sum(from, to, TCP, &packet[at..]).finish();
        packet[at + CHECKSUM_AT..at + CHECKSUM_AT + 2].copy_from_slice(&checksum.to_be_bytes());
        assert!(is_right(&packet));
        packet
    }

    fn is_right(packet: &[u8]) -> bool {
        let addresses = Addresses::parse(packet).unwrap();
        let at = Transport::parse(packet).unwrap().at;
        transport_sum(addresses.source, addresses.destination, TCP, &packet[at..]).finish() == 0
    }

    fn mss(packet: &[u8]) -> Option<u16> {
        let at = Transport::parse(packet)?.at;
        let end = at + usize::from(packet[at + DATA_OFFSET_AT] >> 4) * 4;
        let value = at + find(&packet[at..end])?;
        Some(u16::from_be_bytes([packet[value], packet[value + 1]]))
    }

    #[test]
    fn a_syn_is_lowered_to_the_path_and_never_raised() {
        for (six, expected) in [(false, 1160), (true, 1140)] {
            for flags in [SYN, SYN | 0x10] {
                let mut packet = tcp(six, flags, &[2, 4, 0x05, 0x50, 1, 3, 3, 7], b"");
                clamp(&mut packet, 1200);
                assert_eq!(mss(&packet), Some(expected));
                assert!(is_right(&packet));
                let before = packet.clone();
                clamp(&mut packet, 1400);
                assert_eq!(packet, before);
            }
        }
    }

    #[test]
    fn nothing_else_is_touched() {
        let mss = [2, 4, 0xff, 0xff];
        let mut fragment = tcp(false, SYN, &mss, b"");
        fragment[7] = 1;
        let mut udp = tcp(false, SYN, &mss, b"");
        udp[9] = 17;
        for mut packet in [
            tcp(false, 0x10, &mss, b"data"),
            tcp(false, SYN, &[0, 2, 4, 0xff, 0xff], b""),
            tcp(false, SYN, &[9, 0, 2, 4, 0xff, 0xff], b""),
            tcp(false, SYN, &[2, 9], b"data that is no option"),
            tcp(false, SYN, &[3, 3, 7], b""),
            fragment,
            udp,
        ] {
            let before = packet.clone();
            clamp(&mut packet, 1000);
            assert_eq!(packet, before);
        }
    }

    proptest! {
        /// At even and odd places, the checksum stays right.
        #[test]
        fn the_checksum_stays_right(six: bool, before in 0usize..6, value: u16, limit in 0usize..3000, data: Vec<u8>) {
            let options = [vec![NO_OPERATION; before], vec![2, 4], value.to_be_bytes().to_vec()].concat();
            let mut packet = tcp(six, SYN, &options, &data);
            clamp(&mut packet, limit);
            let most = limit.saturating_sub(if six { 60 } else { 40 });
            prop_assert_eq!(mss(&packet).map(usize::from), Some(usize::from(value).min(most)));
            prop_assert!(is_right(&packet));
        }

        #[test]
        fn any_bytes_keep_their_length_and_cause_no_panic(mut bytes: Vec<u8>, options: Vec<u8>, limit in 0usize..2000, flip in any::<prop::sample::Index>(), to: u8) {
            clamp(&mut bytes, limit);
            let options = &options[..options.len().min(40)];
            let mut packet = tcp(false, SYN, options, b"x");
            let len = packet.len();
            packet[flip.index(len)] = to;
            clamp(&mut packet, limit);
            prop_assert_eq!(packet.len(), len);
        }
    }
}
