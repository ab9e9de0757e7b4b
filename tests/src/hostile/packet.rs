//! IP packets by hand: echo requests, and lies about the size of a path, from whatever address an attacker likes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const UDP: u8 = 17;
const TTL: u8 = 64;

/// An ICMP echo request.
pub fn echo_v4(from: Ipv4Addr, to: Ipv4Addr, sequence: u16, data: &[u8]) -> Vec<u8> {
    let message = echo(8, sequence, data, &[]);
    let mut packet = header_v4(from, to, ICMP, message.len() as u16);
    packet.extend(message);
    packet
}

/// An ICMPv6 echo request.
pub fn echo_v6(from: Ipv6Addr, to: Ipv6Addr, sequence: u16, data: &[u8]) -> Vec<u8> {
    let length = (8 + data.len()) as u16;
    let mut pseudo = Vec::new();
    pseudo.extend(from.octets());
    pseudo.extend(to.octets());
    pseudo.extend(u32::from(length).to_be_bytes());
    pseudo.extend([0, 0, 0, ICMPV6]);
    let message = echo(128, sequence, data, &pseudo);
    let mut packet = header_v6(from, to, ICMPV6, length);
    packet.extend(message);
    packet
}

/// A message to `from` that its UDP datagram to `to` did not fit and this many bytes would, in the name of `to`.
///
/// # Panics
/// When the two are not of one family.
pub fn too_big(from: SocketAddr, to: SocketAddr, mtu: u16) -> Vec<u8> {
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let udp = [&ports[..], &1440_u16.to_be_bytes(), &[0, 0], &[4, 1, 1, 0]].concat();
    let [high, low] = mtu.to_be_bytes();
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let quoted = [&header_v4(from, to, UDP, 1440)[..], &udp].concat();
            let mut message = [&[3, 4, 0, 0, 0, 0, high, low], &quoted[..]].concat();
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            [header_v4(to, from, ICMP, message.len() as u16), message].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let quoted = [&header_v6(from, to, UDP, 1440)[..], &udp].concat();
            let mut message = [&[2, 0, 0, 0, 0, 0, high, low], &quoted[..]].concat();
            let length = message.len() as u16;
            let pseudo = [
                &to.octets()[..],
                &from.octets(),
                &u32::from(length).to_be_bytes(),
                &[0, 0, 0, ICMPV6],
            ];
            let sum = checksum(&[&pseudo.concat()[..], &message].concat());
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            [header_v6(to, from, ICMPV6, length), message].concat()
        }
        _ => panic!("{from} and {to} are of two families"),
    }
}

fn header_v4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + payload).to_be_bytes());
    header.extend([0, 0, 0x40, 0, TTL, protocol, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn header_v6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, payload: u16) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(payload.to_be_bytes());
    header.extend([protocol, TTL]);
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

/// Sends a packet as it is, header included, from the calling thread's namespace.
///
/// # Errors
/// What the kernel says.
pub fn inject(to: IpAddr, packet: &[u8]) -> Result<()> {
    let to = SocketAddr::new(to, 0);
    // IPPROTO_RAW: the packet brings its own header.
    let raw = Some(Protocol::from(255));
    let socket = Socket::new(Domain::for_address(to), Type::RAW, raw)?;
    socket.send_to(packet, &to.into())?;
    Ok(())
}

/// Whether a packet is an answer that carries this data.
pub fn is_echo_reply(packet: &[u8], data: &[u8]) -> bool {
    let (protocol, message) = match packet.first().map(|first| first >> 4) {
        Some(4) => (packet.get(9), packet.get(20..)),
        Some(6) => (packet.get(6), packet.get(40..)),
        _ => return false,
    };
    let reply = match protocol {
        Some(&ICMP) => 0,
        Some(&ICMPV6) => 129,
        _ => return false,
    };
    message.is_some_and(|message| message.first() == Some(&reply) && message.get(8..) == Some(data))
}

fn echo(kind: u8, sequence: u16, data: &[u8], pseudo_header: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0x4b, 0x61];
    message.extend(sequence.to_be_bytes());
    message.extend(data);
    let sum = checksum(&[pseudo_header, &message].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_come_out_as_zero() {
        let (from, to) = (Ipv4Addr::new(198, 19, 1, 2), Ipv4Addr::new(198, 19, 3, 4));
        let packet = echo_v4(from, to, 7, b"odd");
        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(checksum(&packet[20..]), 0);
        assert!(!is_echo_reply(&packet, b"odd"), "a request is no reply");
    }

    #[test]
    fn cut_packets_are_no_replies() {
        let packet = echo_v6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, 1, b"data");
        for length in 0..packet.len() {
            assert!(!is_echo_reply(&packet[..length], b"data"));
        }
    }
}
