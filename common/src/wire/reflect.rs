//! The reflector: two datagrams by which a node learns its address as the world sees it, and what its NAT does.
//!
//! Both are 32 bytes; integers are big endian.
//!
//! ```text
//! request                        response
//!  0  0x05                        0  0x06
//!  1  version, 2                  1  version, 2
//!  2  how to answer               2  bit 0: there is another address
//!  3  zero                        3  zero
//!  4  transaction id (8)          4  transaction id of the request (8)
//! 12  zero (2)                   12  complement of the port (2)
//! 14  zero, or the complement    14  complement of the address (16): IPv6, or IPv4 mapped (RFC 4291 §2.5.5.2)
//!     of the address asked (16)
//! 30  zero (2)                   30  the reflector's other port, zero where there is none (2)
//! ```
//!
//! The answer is sent from the socket that was asked (0), from the other port (1), or from another address (2): the
//! last two come through NATs and firewalls of some kinds only. For 2 the request says which address it was sent to,
//! which a server behind a NAT cannot know; the answer leaves from an address that is not this one.
//!
//! The request is as long as the response and the response goes to its source alone, so that a forged source address
//! gains an attacker nothing. Port and address are complemented because some NATs rewrite their own address wherever
//! they find it in a packet (the reason behind XOR-MAPPED-ADDRESS in RFC 8489 §14.2). The transaction id is random and
//! known to nobody but the asker and those on the path: a response with another one is not believed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// First byte of a request.
pub const REQUEST: u8 = 0x05;
/// First byte of a response.
pub const RESPONSE: u8 = 0x06;
/// Version of both layouts.
pub const VERSION: u8 = 2;
/// Length of both in bytes.
pub const LEN: usize = 32;

/// A random number by which a response is matched with its request.
pub type TransactionId = [u8; 8];

/// Where the answer is to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// The socket that is asked.
    Same,
    /// The other port of the same address.
    OtherPort,
    /// Any other address than the one that is asked.
    OtherAddress(IpAddr),
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Comes back in the response.
    pub id: TransactionId,
    /// Where the answer is to come from.
    pub via: Via,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Response {
    /// Of the request.
    pub id: TransactionId,
    /// Where the request came from, canonical.
    pub observed: SocketAddr,
    /// Where else the reflector can answer from.
    pub other: Other,
}

/// What a reflector has beside the socket that is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Other {
    /// The other port.
    pub port: Option<u16>,
    /// Is there another address of this family?
    pub address: bool,
}

/// Writes the question that most want answered: what is my address?
#[must_use]
pub fn encode_request(id: TransactionId) -> [u8; LEN] {
    Request { id, via: Via::Same }.encode()
}

/// The answer of a reflector that has nothing but the socket asked. A wish to be answered from elsewhere is passed over.
#[must_use]
pub fn answer(from: SocketAddr, datagram: &[u8]) -> Option<[u8; LEN]> {
    let request = Request::decode(datagram)?;
    let response = Response {
        id: request.id,
        observed: from,
        other: Other::default(),
    };
    (request.via == Via::Same).then(|| response.encode())
}

impl Request {
    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[0] = REQUEST;
        out[1] = VERSION;
        out[4..12].copy_from_slice(&self.id);
        match self.via {
            Via::Same => {}
            Via::OtherPort => out[2] = 1,
            Via::OtherAddress(asked) => {
                out[2] = 2;
                out[14..30].copy_from_slice(&hide(asked));
            }
        }
        out
    }

    /// Reads one; `None` unless it is one in every byte.
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let datagram: &[u8; LEN] = datagram.try_into().ok()?;
        let via = match datagram[2] {
            0 => Via::Same,
            1 => Via::OtherPort,
            2 => Via::OtherAddress(shown(datagram)?),
            _ => return None,
        };
        let request = Self {
            id: *datagram[4..].first_chunk()?,
            via,
        };
        (*datagram == request.encode()).then_some(request)
    }
}

impl Response {
    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[0] = RESPONSE;
        out[1] = VERSION;
        out[2] = u8::from(self.other.address);
        out[4..12].copy_from_slice(&self.id);
        out[12..14].copy_from_slice(&(!self.observed.port()).to_be_bytes());
        out[14..30].copy_from_slice(&hide(self.observed.ip()));
        out[30..].copy_from_slice(&self.other.port.unwrap_or(0).to_be_bytes());
        out
    }

    /// Reads one. `None` unless it is one in every byte and names a real port and address.
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let datagram: &[u8; LEN] = datagram.try_into().ok()?;
        let port = !u16::from_be_bytes(*datagram[12..].first_chunk()?);
        let observed = SocketAddr::new(shown(datagram)?, port);
        let other = u16::from_be_bytes(*datagram[30..].first_chunk()?);
        let response = Self {
            id: *datagram[4..].first_chunk()?,
            observed,
            other: Other {
                port: (other != 0).then_some(other),
                address: datagram[2] == 1,
            },
        };
        let usable = port != 0 && !observed.ip().is_unspecified() && !observed.ip().is_multicast();
        (usable && *datagram == response.encode()).then_some(response)
    }
}

/// An address as it stands in both.
fn hide(ip: IpAddr) -> [u8; 16] {
    let ip = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    (!ip.to_bits()).to_be_bytes()
}

fn shown(datagram: &[u8; LEN]) -> Option<IpAddr> {
    let bits = u128::from_be_bytes(*datagram[14..].first_chunk()?);
    Some(Ipv6Addr::from_bits(!bits).to_canonical())
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

    fn response(observed: &str) -> Response {
        Response {
            id: [9; 8],
            observed: observed.parse().unwrap(),
            other: Other {
                port: Some(12977),
                address: true,
            },
        }
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
            let answer = answer(addr, &encode_request(id)).unwrap();
            let read = Response::decode(&answer).unwrap();
            assert_eq!((read.id, read.observed), (id, addr));
            assert_eq!(read.other, Other::default());
            let full = response(text);
            assert_eq!(Response::decode(&full.encode()), Some(full));
            let other = Request {
                id,
                via: Via::OtherAddress(addr.ip()),
            };
            assert_eq!(Request::decode(&other.encode()), Some(other));
            assert!(!full.encode().windows(4).any(|w| w == [192, 0, 2, 7]));
        }
        for text in ["0.0.0.0:1", "192.0.2.7:0", "224.0.0.1:1", "[ff02::1]:1"] {
            assert_eq!(Response::decode(&response(text).encode()), None, "{text}");
        }
    }

    #[test]
    fn one_socket_answers_only_what_it_is_itself_asked_for() {
        let from = "192.0.2.7:12975".parse().unwrap();
        let vias = [Via::OtherPort, Via::OtherAddress([192, 0, 2, 1].into())];
        for via in vias {
            let request = Request { id: [9; 8], via };
            assert_eq!(answer(from, &request.encode()), None);
        }
    }

    #[test]
    fn every_length_and_random_bytes_are_refused_or_exact() {
        let mut seed = 1;
        let request = encode_request([9; 8]);
        let response = response("192.0.2.7:1").encode();
        for len in 0..=200 {
            for whole in [&request, &response] {
                let cut: Vec<u8> = whole.iter().copied().chain([0; 200]).take(len).collect();
                let exact = |first| len == LEN && cut[0] == first;
                assert_eq!(Request::decode(&cut).is_some(), exact(REQUEST));
                assert_eq!(Response::decode(&cut).is_some(), exact(RESPONSE));
            }
            for _ in 0..200 {
                let mut bytes: Vec<u8> = (0..len).map(|_| random(&mut seed) as u8).collect();
                for first in [REQUEST, RESPONSE, bytes.first().copied().unwrap_or(0)] {
                    if let Some(start) = bytes.first_chunk_mut::<4>() {
                        *start = [first, VERSION, start[2] % 4, 0];
                    }
                    if let Some(request) = Request::decode(&bytes) {
                        assert_eq!(bytes, request.encode());
                    }
                    if let Some(response) = Response::decode(&bytes) {
                        assert_eq!(bytes, response.encode());
                    }
                }
            }
        }
    }

    #[test]
    fn any_changed_byte_outside_the_values_is_refused() {
        let response = response("192.0.2.7:1").encode();
        for at in [0, 1, 3] {
            for change in 1..=255 {
                let mut bytes = response;
                bytes[at] ^= change;
                assert_eq!(Response::decode(&bytes), None);
            }
        }
        let mut flags = response;
        flags[2] = 3;
        assert_eq!(Response::decode(&flags), None);
        for at in (0..4).chain(12..LEN) {
            let mut bytes = encode_request([9; 8]);
            bytes[at] ^= 4;
            assert_eq!(Request::decode(&bytes), None);
        }
    }
}
