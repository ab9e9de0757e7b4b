//! The reflector: two datagrams by which a node learns its address as the world sees it.
//!
//! Both are 32 bytes; integers are big endian.
//!
//! ```text
//! request                        response
//!  0  0x05                        0  0x06
//!  1  version, 1                  1  version, 1
//!  2  zero (2)                    2  zero (2)
//!  4  transaction id (8)          4  transaction id of the request (8)
//! 12  zero (20)                  12  complement of the port (2)
//!                                14  complement of the address (16): IPv6, or IPv4 mapped (RFC 4291 §2.5.5.2)
//!                                30  zero (2)
//! ```
//!
//! The request is as long as the response, so that a forged source address gains an attacker nothing. Port and
//! address are complemented because some NATs rewrite their own address wherever they find it in a packet (the
//! reason behind XOR-MAPPED-ADDRESS in RFC 8489 §14.2). The transaction id is random and known to nobody but the
//! asker and those on the path: a response with another one is not believed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// First byte of a request.
pub const REQUEST: u8 = 0x05;
/// First byte of a response.
pub const RESPONSE: u8 = 0x06;
/// Version of both layouts.
pub const VERSION: u8 = 1;
/// Length of both in bytes.
pub const LEN: usize = 32;

/// A random number by which a response is matched with its request.
pub type TransactionId = [u8; 8];

/// Writes a request.
#[must_use]
pub fn encode_request(id: TransactionId) -> [u8; LEN] {
    let mut out = [0; LEN];
    out[0] = REQUEST;
    out[1] = VERSION;
    out[4..12].copy_from_slice(&id);
    out
}

/// Reads a request; `None` unless it is one in every byte.
#[must_use]
pub fn decode_request(datagram: &[u8]) -> Option<TransactionId> {
    let datagram: &[u8; LEN] = datagram.try_into().ok()?;
    let id = *datagram[4..].first_chunk()?;
    (*datagram == encode_request(id)).then_some(id)
}

/// Writes the response to a request that came from this address.
#[must_use]
pub fn encode_response(id: TransactionId, observed: SocketAddr) -> [u8; LEN] {
    let ip = match observed.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut out = [0; LEN];
    out[0] = RESPONSE;
    out[1] = VERSION;
    out[4..12].copy_from_slice(&id);
    out[12..14].copy_from_slice(&(!observed.port()).to_be_bytes());
    out[14..30].copy_from_slice(&(!ip.to_bits()).to_be_bytes());
    out
}

/// Reads a response: which request it answers, and the address seen, canonical. `None` unless it is one in every
/// byte and names a real port and address.
#[must_use]
pub fn decode_response(datagram: &[u8]) -> Option<(TransactionId, SocketAddr)> {
    let datagram: &[u8; LEN] = datagram.try_into().ok()?;
    let id = *datagram[4..].first_chunk()?;
    let port = !u16::from_be_bytes(*datagram[12..].first_chunk()?);
    let ip = Ipv6Addr::from_bits(!u128::from_be_bytes(*datagram[14..].first_chunk()?));
    let observed = SocketAddr::new(ip.to_canonical(), port);
    let usable = port != 0 && !observed.ip().is_unspecified() && !observed.ip().is_multicast();
    (usable && *datagram == encode_response(id, observed)).then_some((id, observed))
}

/// The answer to a datagram if it is a request: what a reflector's handler does.
#[must_use]
pub fn answer(from: SocketAddr, datagram: &[u8]) -> Option<[u8; LEN]> {
    decode_request(datagram).map(|id| encode_response(id, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator (SplitMix64, Steele et al. 2014) so that the bytes are the same in every run.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn addresses_survive_the_round_trip() {
        let id = *b"12345678";
        for text in [
            "192.0.2.7:12975",
            "[2001:db8::7]:1",
            "255.255.255.254:65535",
        ] {
            let addr: SocketAddr = text.parse().unwrap();
            let response = answer(addr, &encode_request(id)).unwrap();
            assert_eq!(decode_response(&response), Some((id, addr)));
            assert!(response.len() <= encode_request(id).len());
        }
        let response = encode_response(id, "192.0.2.7:12975".parse().unwrap());
        assert!(
            !response.windows(4).any(|w| w == [192, 0, 2, 7]),
            "hidden from NATs"
        );
        assert_eq!(
            decode_response(&encode_response(id, "0.0.0.0:1".parse().unwrap())),
            None
        );
        assert_eq!(
            decode_response(&encode_response(id, "192.0.2.7:0".parse().unwrap())),
            None
        );
    }

    #[test]
    fn every_length_and_random_bytes_are_refused_or_exact() {
        let mut seed = 1;
        let request = encode_request([9; 8]);
        let response = encode_response([9; 8], "192.0.2.7:1".parse().unwrap());
        for len in 0..=200 {
            for whole in [&request, &response] {
                let cut: Vec<u8> = whole.iter().copied().chain([0; 200]).take(len).collect();
                assert_eq!(
                    decode_request(&cut).is_some(),
                    len == LEN && cut[0] == REQUEST
                );
                assert_eq!(
                    decode_response(&cut).is_some(),
                    len == LEN && cut[0] == RESPONSE
                );
            }
            for _ in 0..200 {
                let mut bytes: Vec<u8> = (0..len).map(|_| random(&mut seed) as u8).collect();
                for first in [REQUEST, RESPONSE, bytes.first().copied().unwrap_or(0)] {
                    if let Some(byte) = bytes.first_mut() {
                        *byte = first;
                    }
                    if let Some(id) = decode_request(&bytes) {
                        assert_eq!(bytes, encode_request(id));
                    }
                    if let Some((id, addr)) = decode_response(&bytes) {
                        assert_eq!(bytes, encode_response(id, addr));
                    }
                }
            }
        }
    }

    #[test]
    fn any_changed_byte_outside_the_values_is_refused() {
        let response = encode_response([9; 8], "192.0.2.7:1".parse().unwrap());
        for at in [0, 1, 2, 3, 30, 31] {
            for change in 1..=255 {
                let mut bytes = response;
                bytes[at] ^= change;
                assert_eq!(decode_response(&bytes), None);
            }
        }
        for at in (0..4).chain(12..LEN) {
            let mut bytes = encode_request([9; 8]);
            bytes[at] ^= 1;
            assert_eq!(decode_request(&bytes), None);
        }
    }
}
