//! Byte layouts of tunnel datagrams. No secrets and no state: fixed sizes in, typed views out.
//!
//! All integers are little endian. The first byte has bit 0x40 clear, so a tunnel datagram is never taken for QUIC.
//!
//! | bytes | handshake init (1) | handshake response (2) | cookie reply (3) | transport (4) |
//! |---|---|---|---|---|
//! | 0 | `0x01` | `0x02` | `0x03` | `0x04` |
//! | 1 | wire version, 1 | wire version | wire version | wire version |
//! | 2..4 | zero | zero | zero | payload kind, zero |
//! | 4..8 | sender index | sender index | receiver index | receiver index |
//! | then | Noise msg 1 (984), mac1 (16), mac2 (16) | receiver index (4), Noise msg 2 (980), mac1 (16), zero (16) | nonce (24), sealed cookie (32) | counter (8), ciphertext, tag (16) |
//! | length | 1024 | 1024 | 64 | 32 + payload |
//!
//! Init and response have the same length and a cookie reply is shorter, so no answer to a stranger is ever
//! longer than what the stranger sent.

use std::net::{IpAddr, SocketAddr};

/// Version of every layout in this file; byte 1 of each datagram.
pub const WIRE_VERSION: u8 = 1;
/// Bytes before the payload of a transport datagram; authenticated as associated data.
pub const HEADER_LEN: usize = 16;
/// Poly1305 tag behind the payload.
pub const TAG_LEN: usize = 16;
/// What sealing adds to a payload.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;
/// Length of a handshake init and of a handshake response: both fit a path of 1280 bytes, relay header included.
pub const HANDSHAKE_LEN: usize = 1024;
/// Length of a cookie reply.
pub const COOKIE_REPLY_LEN: usize = 64;
/// Length of mac1, mac2 and a cookie.
pub(crate) const MAC_LEN: usize = 16;
/// Noise message 1: e (32), s (32 + 16), payload and tag.
pub(crate) const NOISE_INIT_LEN: usize = HANDSHAKE_LEN - 8 - 2 * MAC_LEN;
/// Noise message 2: e (32), payload and tag.
pub(crate) const NOISE_RESPONSE_LEN: usize = HANDSHAKE_LEN - 12 - 2 * MAC_LEN;
/// Where mac1 starts in a handshake datagram: everything before it is under mac1.
pub(crate) const MAC1_AT: usize = HANDSHAKE_LEN - 2 * MAC_LEN;
/// Where mac2 starts in a handshake datagram: everything before it is under mac2.
pub(crate) const MAC2_AT: usize = HANDSHAKE_LEN - MAC_LEN;

const INIT: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE_REPLY: u8 = 3;
const TRANSPORT: u8 = 4;

/// What a transport datagram carries; byte 2 of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// An IPv4 or IPv6 packet without Ethernet header.
    Ip = 1,
    /// An Ethernet frame that is not IP.
    Ethernet = 2,
    /// A [`control`](super::control) message.
    Control = 3,
    /// A piece of a payload that does not fit the path: [`FragmentHeader`], then bytes.
    Fragment = 4,
}

impl Kind {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Ip),
            2 => Some(Self::Ethernet),
            3 => Some(Self::Control),
            4 => Some(Self::Fragment),
            _ => None,
        }
    }
}

/// Where a datagram of the shared socket goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// To [`Tunnels::handle_datagram`](super::Tunnels::handle_datagram).
    Handshake,
    /// To the session with this local index.
    Transport {
        /// Index that this node gave out.
        receiver: u32,
    },
}

/// Sorts a datagram by its first bytes; `None` when it is not a well-formed tunnel datagram of this version.
#[must_use]
pub fn classify(datagram: &[u8]) -> Option<Datagram> {
    if let Some(header) = TransportHeader::parse(datagram) {
        return Some(Datagram::Transport {
            receiver: header.receiver,
        });
    }
    Handshake::parse(datagram).map(|_| Datagram::Handshake)
}

/// The form in which addresses enter and leave the core: IPv4 never wrapped in IPv6, no flow label.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(_) => addr,
        SocketAddr::V6(mut v6) => match v6.ip().to_canonical() {
            IpAddr::V4(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            IpAddr::V6(_) => {
                v6.set_flowinfo(0);
                SocketAddr::V6(v6)
            }
        },
    }
}

/// The clear header of a transport datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TransportHeader {
    pub(crate) kind: Kind,
    pub(crate) receiver: u32,
    pub(crate) counter: u64,
}

impl TransportHeader {
    /// Reads the header; `None` unless a header and a tag are there and every fixed byte is right.
    pub(crate) fn parse(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < OVERHEAD {
            return None;
        }
        let header: &[u8; HEADER_LEN] = datagram.first_chunk()?;
        if header[0] != TRANSPORT || header[1] != WIRE_VERSION || header[3] != 0 {
            return None;
        }
        Some(Self {
            kind: Kind::from_byte(header[2])?,
            receiver: u32_at(datagram, 4)?,
            counter: u64::from_le_bytes(datagram.get(8..16)?.try_into().ok()?),
        })
    }

    pub(crate) const fn encode(self) -> [u8; HEADER_LEN] {
        let [r0, r1, r2, r3] = self.receiver.to_le_bytes();
        let [c0, c1, c2, c3, c4, c5, c6, c7] = self.counter.to_le_bytes();
        let kind = self.kind as u8;
        [
            TRANSPORT,
            WIRE_VERSION,
            kind,
            0,
            r0,
            r1,
            r2,
            r3,
            c0,
            c1,
            c2,
            c3,
            c4,
            c5,
            c6,
            c7,
        ]
    }
}

/// Is it a handshake init by its first byte?
pub(crate) fn is_init(datagram: &[u8]) -> bool {
    datagram.first() == Some(&INIT)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A datagram of the right length and header for its type; nothing in it is authenticated.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Handshake<'a> {
    Init(Init<'a>),
    Response(Response<'a>),
    Cookie(CookieReply<'a>),
}

/// Handshake init.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Init<'a> {
    pub(crate) bytes: &'a [u8; HANDSHAKE_LEN],
    pub(crate) sender: u32,
}

/// Handshake response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Response<'a> {
    pub(crate) bytes: &'a [u8; HANDSHAKE_LEN],
    pub(crate) sender: u32,
    pub(crate) receiver: u32,
}

/// Cookie reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CookieReply<'a> {
    pub(crate) bytes: &'a [u8; COOKIE_REPLY_LEN],
    pub(crate) receiver: u32,
}

impl<'a> Handshake<'a> {
    pub(crate) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let header: &[u8; 4] = datagram.first_chunk()?;
        if header[1..] != [WIRE_VERSION, 0, 0] {
            return None;
        }
        match header[0] {
            INIT => Some(Self::Init(Init {
                bytes: datagram.try_into().ok()?,
                sender: u32_at(datagram, 4)?,
            })),
            RESPONSE => Some(Self::Response(Response {
                bytes: datagram.try_into().ok()?,
                sender: u32_at(datagram, 4)?,
                receiver: u32_at(datagram, 8)?,
            })),
            COOKIE_REPLY => Some(Self::Cookie(CookieReply {
                bytes: datagram.try_into().ok()?,
                receiver: u32_at(datagram, 4)?,
            })),
            _ => None,
        }
    }
}

impl Init<'_> {
    pub(crate) fn noise(&self) -> &[u8] {
        &self.bytes[8..MAC1_AT]
    }
}

impl Response<'_> {
    pub(crate) fn noise(&self) -> &[u8] {
        &self.bytes[12..MAC1_AT]
    }
}

impl CookieReply<'_> {
    /// XChaCha20-Poly1305 nonce, then the sealed cookie.
    pub(crate) fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes[8..].split_at(24)
    }
}

/// An init with room for the Noise message at `8..MAC1_AT`; MACs still zero.
pub(crate) fn init_frame(sender: u32) -> Box<[u8; HANDSHAKE_LEN]> {
    let mut out = Box::new([0; HANDSHAKE_LEN]);
    out[..2].copy_from_slice(&[INIT, WIRE_VERSION]);
    out[4..8].copy_from_slice(&sender.to_le_bytes());
    out
}

/// A response with room for the Noise message at `12..MAC1_AT`; MACs still zero.
pub(crate) fn response_frame(sender: u32, receiver: u32) -> Box<[u8; HANDSHAKE_LEN]> {
    let mut out = Box::new([0; HANDSHAKE_LEN]);
    out[..2].copy_from_slice(&[RESPONSE, WIRE_VERSION]);
    out[4..8].copy_from_slice(&sender.to_le_bytes());
    out[8..12].copy_from_slice(&receiver.to_le_bytes());
    out
}

/// A whole cookie reply.
pub(crate) fn cookie_reply(receiver: u32, nonce: &[u8; 24], sealed: &[u8; 32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(COOKIE_REPLY_LEN);
    out.extend_from_slice(&[COOKIE_REPLY, WIRE_VERSION, 0, 0]);
    out.extend_from_slice(&receiver.to_le_bytes());
    out.extend_from_slice(nonce);
    out.extend_from_slice(sealed);
    out
}

/// Pieces of one payload at the most.
pub const MAX_FRAGMENTS: u8 = 8;
/// Length of an encoded [`FragmentHeader`].
pub const FRAGMENT_HEADER_LEN: usize = 8;

/// First bytes of a fragment: id (4), original kind (1), index (1), count (1), zero (1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    /// The same in all pieces of one payload.
    pub id: u32,
    /// What the whole payload is: never a fragment itself.
    pub kind: Kind,
    /// Position of the piece, from 0.
    pub index: u8,
    /// Number of pieces, 1 to [`MAX_FRAGMENTS`].
    pub count: u8,
}

impl FragmentHeader {
    /// The bytes that precede the piece.
    #[must_use]
    pub const fn encode(self) -> [u8; FRAGMENT_HEADER_LEN] {
        let [a, b, c, d] = self.id.to_le_bytes();
        [a, b, c, d, self.kind as u8, self.index, self.count, 0]
    }

    /// Splits a fragment payload into header and piece; `None` when a number is outside its range.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (header, piece) = payload.split_first_chunk::<FRAGMENT_HEADER_LEN>()?;
        let &[a, b, c, d, kind, index, count, zero] = header;
        let kind = Kind::from_byte(kind).filter(|k| *k != Kind::Fragment)?;
        if zero != 0 || count == 0 || count > MAX_FRAGMENTS || index >= count || piece.is_empty() {
            return None;
        }
        let id = u32::from_le_bytes([a, b, c, d]);
        Some((
            Self {
                id,
                kind,
                index,
                count,
            },
            piece,
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_read_back(kind in 1u8..=4, receiver: u32, counter: u64) {
            let header = TransportHeader { kind: Kind::from_byte(kind).unwrap(), receiver, counter };
            let mut bytes = header.encode().to_vec();
            prop_assert_eq!(TransportHeader::parse(&bytes), None);
            bytes.extend_from_slice(&[0; TAG_LEN]);
            prop_assert_eq!(TransportHeader::parse(&bytes), Some(header));
            prop_assert_eq!(bytes[0] & 0x40, 0);
        }

        #[test]
        fn fragments_read_back(id: u32, kind in 1u8..=3, count in 1u8..=8, index in 0u8..8, piece in proptest::collection::vec(any::<u8>(), 1..40)) {
            let header = FragmentHeader { id, kind: Kind::from_byte(kind).unwrap(), index, count };
            let mut bytes = header.encode().to_vec();
            bytes.extend_from_slice(&piece);
            let back = FragmentHeader::decode(&bytes);
            if index < count {
                prop_assert_eq!(back, Some((header, piece.as_slice())));
            } else {
                prop_assert_eq!(back, None);
            }
        }

        #[test]
        fn nothing_makes_the_parsers_fall_over(mut bytes in proptest::collection::vec(any::<u8>(), 0..1600), kind in 0u8..8, plausible: bool) {
            if plausible && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&[kind, WIRE_VERSION, 0, 0]);
            }
            let _ = classify(&bytes);
            let _ = FragmentHeader::decode(&bytes);
        }
    }

    #[test]
    fn only_exact_lengths_are_handshakes() {
        for len in 0..=2048_usize {
            for first in 0..=5_u8 {
                let mut bytes = vec![0; len];
                for (at, byte) in [first, WIRE_VERSION].into_iter().enumerate() {
                    if let Some(slot) = bytes.get_mut(at) {
                        *slot = byte;
                    }
                }
                let expected = match first {
                    INIT | RESPONSE => len == HANDSHAKE_LEN,
                    COOKIE_REPLY => len == COOKIE_REPLY_LEN,
                    _ => false,
                };
                assert_eq!(
                    Handshake::parse(&bytes).is_some(),
                    expected,
                    "{first} {len}"
                );
            }
        }
    }

    #[test]
    fn another_version_is_not_ours() {
        let mut init = init_frame(7);
        assert_eq!(classify(&init[..]), Some(Datagram::Handshake));
        init[1] = 2;
        assert_eq!(classify(&init[..]), None);
    }

    #[test]
    fn wrapped_addresses_are_unwrapped() {
        let wrapped: SocketAddr = "[::ffff:192.0.2.1]:5".parse().unwrap();
        assert_eq!(canonical(wrapped), "192.0.2.1:5".parse().unwrap());
        let plain: SocketAddr = "[2001:db8::1]:5".parse().unwrap();
        assert_eq!(canonical(plain), plain);
    }
}
