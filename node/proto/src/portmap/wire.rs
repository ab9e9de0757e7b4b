//! The datagrams of NAT-PMP and PCP. Integers are big endian.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Protocol, Wanted};

/// Where routers listen.
pub const PORT: u16 = 5351;
/// Of PCP.
pub(super) const PCP: u8 = 2;
/// Longest answer that is looked at (RFC 6887 §7).
const MAX_LEN: usize = 1100;
/// Bytes of a PCP answer to a MAP request, without options.
const PCP_LEN: usize = 60;

/// What a router answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// NAT-PMP: its public address.
    Address { ip: Ipv4Addr, epoch: u32 },
    /// NAT-PMP: a mapping.
    PmpMapped {
        wanted: Wanted,
        port: u16,
        lifetime: u32,
        epoch: u32,
    },
    /// NAT-PMP: no, to any question.
    PmpRefused,
    /// PCP: a mapping.
    PcpMapped {
        wanted: Wanted,
        nonce: [u8; 12],
        ip: Ipv4Addr,
        port: u16,
        lifetime: u32,
        epoch: u32,
    },
    /// PCP: no.
    PcpRefused,
}

const fn pmp_op(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Udp => 1,
        Protocol::Tcp => 2,
    }
}

const fn ip_protocol(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Udp => 17,
        Protocol::Tcp => 6,
    }
}

/// NAT-PMP: asks for the public address.
pub(super) fn pmp_address() -> Vec<u8> {
    vec![0, 0]
}

/// NAT-PMP: asks for a mapping, the same port outside if it is free; with no lifetime for its end.
pub(super) fn pmp_map(wanted: Wanted, external: u16, lifetime: u32) -> Vec<u8> {
    let mut out = vec![0, pmp_op(wanted.protocol), 0, 0];
    out.extend(wanted.port.to_be_bytes());
    // The end of a mapping names no port outside (RFC 6886 §3.4).
    let external = if lifetime == 0 { 0 } else { external };
    out.extend(external.to_be_bytes());
    out.extend(lifetime.to_be_bytes());
    out
}

/// PCP: asks for a mapping, the same port outside if it is free; with no lifetime for its end.
pub(super) fn pcp_map(
    wanted: Wanted,
    nonce: [u8; 12],
    client: Ipv4Addr,
    external: u16,
    lifetime: u32,
) -> Vec<u8> {
    let mut out = vec![PCP, 1, 0, 0];
    out.extend(lifetime.to_be_bytes());
    out.extend(client.to_ipv6_mapped().octets());
    out.extend(nonce);
    out.extend([ip_protocol(wanted.protocol), 0, 0, 0]);
    out.extend(wanted.port.to_be_bytes());
    out.extend(external.to_be_bytes());
    // Any IPv4 address.
    out.extend(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    out
}

/// Reads an answer; `None` for anything else.
pub(super) fn decode(data: &[u8]) -> Option<Answer> {
    if data.len() > MAX_LEN {
        return None;
    }
    match data.first()? {
        0 => decode_pmp(data),
        2 => decode_pcp(data),
        _ => None,
    }
}

fn decode_pmp(data: &[u8]) -> Option<Answer> {
    let op = *data.get(1)?;
    let result = u16::from_be_bytes(at(data, 2)?);
    if op < 128 {
        return None;
    }
    if result != 0 {
        return Some(Answer::PmpRefused);
    }
    let epoch = u32::from_be_bytes(at(data, 4)?);
    if op == 128 {
        let ip = Ipv4Addr::from(at::<4>(data, 8)?);
        return Some(Answer::Address { ip, epoch });
    }
    let protocol = match op {
        129 => Protocol::Udp,
        130 => Protocol::Tcp,
        _ => return None,
    };
    Some(Answer::PmpMapped {
        wanted: Wanted {
            protocol,
            port: u16::from_be_bytes(at(data, 8)?),
        },
        port: u16::from_be_bytes(at(data, 10)?),
        lifetime: u32::from_be_bytes(at(data, 12)?),
        epoch,
    })
}

fn decode_pcp(data: &[u8]) -> Option<Answer> {
    if *data.get(1)? != 0x81 {
        return None;
    }
    if *data.get(3)? != 0 {
        return Some(Answer::PcpRefused);
    }
    if data.len() < PCP_LEN {
        return None;
    }
    let protocol = match *data.get(36)? {
        17 => Protocol::Udp,
        6 => Protocol::Tcp,
        _ => return None,
    };
    Some(Answer::PcpMapped {
        lifetime: u32::from_be_bytes(at(data, 4)?),
        epoch: u32::from_be_bytes(at(data, 8)?),
        nonce: at(data, 24)?,
        wanted: Wanted {
            protocol,
            port: u16::from_be_bytes(at(data, 40)?),
        },
        port: u16::from_be_bytes(at(data, 42)?),
        ip: Ipv6Addr::from(at::<16>(data, 44)?).to_ipv4_mapped()?,
    })
}

fn at<const N: usize>(data: &[u8], from: usize) -> Option<[u8; N]> {
    data.get(from..)?.first_chunk().copied()
}
