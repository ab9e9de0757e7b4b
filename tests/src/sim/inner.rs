//! Inner packets: numbered, with contents that follow from the number, so that nothing has to be remembered to see
//! whether one was altered on the way.

use std::net::IpAddr;

use crate::rng::Rng;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// Protocol for experiments (RFC 3692).
const PROTOCOL: u8 = 253;

/// Longest contents in bytes.
pub const MAX_CONTENTS: u64 = 1200;

/// An inner packet read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub number: u64,
    /// Are the contents those that belong to the number?
    pub intact: bool,
}

/// The packet of a number.
pub fn build(source: IpAddr, destination: IpAddr, number: u64) -> Vec<u8> {
    let contents = contents(number);
    let length = u16::try_from(contents.len()).expect("contents are short");
    let mut packet = Vec::with_capacity(contents.len() + IPV6_HEADER);
    match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend([0x45, 0]);
            packet.extend((length + 20).to_be_bytes());
            packet.extend([0, 0, 0, 0, 64, PROTOCOL, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([PROTOCOL, 64]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        _ => unreachable!("a packet has addresses of one family"),
    }
    packet.extend(contents);
    packet
}

/// Reads a packet that [`build`] may have made.
pub fn read(packet: &[u8]) -> Option<Inner> {
    let (source, destination, body) = match packet.first()? >> 4 {
        4 => {
            let (header, body) = packet.split_first_chunk::<IPV4_HEADER>()?;
            let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
            if total != packet.len() {
                return None;
            }
            let at = |from: usize| -> [u8; 4] { [0, 1, 2, 3].map(|i| header[from + i]) };
            (IpAddr::from(at(12)), IpAddr::from(at(16)), body)
        }
        6 => {
            let (header, body) = packet.split_first_chunk::<IPV6_HEADER>()?;
            if usize::from(u16::from_be_bytes([header[4], header[5]])) != body.len() {
                return None;
            }
            let source: &[u8; 16] = header[8..].first_chunk()?;
            let destination: &[u8; 16] = header[24..].first_chunk()?;
            (IpAddr::from(*source), IpAddr::from(*destination), body)
        }
        _ => return None,
    };
    let number = u64::from_be_bytes(*body.first_chunk()?);
    Some(Inner {
        source,
        destination,
        number,
        intact: body == contents(number),
    })
}

fn contents(number: u64) -> Vec<u8> {
    let mut rng = Rng::new(number);
    let mut out = vec![0; 8 + rng.below(MAX_CONTENTS - 8) as usize];
    rng.fill(&mut out);
    out[..8].copy_from_slice(&number.to_be_bytes());
    out
}
