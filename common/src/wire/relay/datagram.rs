//! Datagrams between a member and a relay, on the shared port of each.
//!
//! All integers are little endian. Bit 0x40 of the first byte is clear.
//!
//! | bytes | bind (7), member to relay | bound (8), relay to member | data (9), both ways |
//! |---|---|---|---|
//! | 0 | `0x07` | `0x08` | `0x09` |
//! | 1 | version, 1 | version | version |
//! | 2..4 | zero | step: 1 challenge, 2 bound; zero | channel |
//! | 4..8 | session | session | session of the member |
//! | then | nonce (8), cookie (16), mac (16) | nonce (8), cookie (16), mac (16) | a datagram |
//! | length | 48 | 48 | 9 and more |
//!
//! A member that wants its data to go to and come from a UDP address sends `bind` with a zero cookie from there. The relay
//! answers with a cookie for that address; `bind` with that cookie proves that the member receives there, and is answered by
//! `bound`. Both are repeated to keep the NAT's mapping. The mac is HMAC-SHA-256 under the session's key over everything
//! before it, cut to 16 bytes; a `bind` without a right mac is dropped without an answer, so no stranger gets one, and no
//! answer is longer than what it answers. Data counts only from the bound address: the session's number there is what
//! keeps others out, and a forged datagram is one that the peer drops.

use std::net::{IpAddr, SocketAddr};

use hkdf::hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

use super::SessionKey;

/// Version of the layouts; byte 1.
pub const VERSION: u8 = 1;
/// First byte of a bind.
pub const BIND: u8 = 0x07;
/// First byte of its answer.
pub const BOUND: u8 = 0x08;
/// First byte of data.
pub const DATA: u8 = 0x09;
/// Length of a bind and of its answer.
pub const BIND_LEN: usize = 48;
/// Bytes before the datagram that is relayed.
pub const HEADER_LEN: usize = 8;

const MAC_AT: usize = 32;

/// A proof that one can receive at an address; only its maker can read it.
pub type Cookie = [u8; 16];

/// What a bind or its answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Which session.
    pub session: u32,
    /// Made by the member, repeated by the relay.
    pub nonce: [u8; 8],
    /// Zero in the first bind, then the relay's.
    pub cookie: Cookie,
}

/// What an answer says besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Send it again with this cookie.
    Challenge = 1,
    /// Data goes to this address now.
    Bound = 2,
}

/// A datagram from a member.
#[must_use]
pub fn encode_bind(bind: &Bind, key: &SessionKey) -> [u8; BIND_LEN] {
    encode([BIND, VERSION, 0, 0], bind, key)
}

/// The answer of a relay.
#[must_use]
pub fn encode_bound(step: Step, bind: &Bind, key: &SessionKey) -> [u8; BIND_LEN] {
    encode([BOUND, VERSION, step as u8, 0], bind, key)
}

/// Reads a bind; its mac is not checked yet, since the key depends on the session: see [`is_authentic`].
#[must_use]
pub fn decode_bind(datagram: &[u8]) -> Option<Bind> {
    decode([BIND, VERSION, 0, 0], datagram)
}

/// Reads an answer; its mac is not checked yet.
#[must_use]
pub fn decode_bound(datagram: &[u8]) -> Option<(Step, Bind)> {
    let step = match datagram.get(2)? {
        1 => Step::Challenge,
        2 => Step::Bound,
        _ => return None,
    };
    Some((step, decode([BOUND, VERSION, step as u8, 0], datagram)?))
}

/// Was this bind or answer made with the key?
#[must_use]
pub fn is_authentic(datagram: &[u8], key: &SessionKey) -> bool {
    let Some(datagram) = datagram.first_chunk::<BIND_LEN>() else {
        return false;
    };
    mac(&datagram[..MAC_AT], key)
        .ct_eq(&datagram[MAC_AT..])
        .into()
}

/// The header of data.
#[must_use]
pub const fn encode_header(session: u32, channel: u16) -> [u8; HEADER_LEN] {
    let ([s0, s1, s2, s3], [c0, c1]) = (session.to_le_bytes(), channel.to_le_bytes());
    [DATA, VERSION, c0, c1, s0, s1, s2, s3]
}

/// Session, channel and what follows; `None` if it is no data, or empty.
#[must_use]
pub fn decode_header(datagram: &[u8]) -> Option<(u32, u16)> {
    let (header, rest) = datagram.split_first_chunk::<HEADER_LEN>()?;
    let &[DATA, VERSION, c0, c1, s0, s1, s2, s3] = header else {
        return None;
    };
    let (session, channel) = (
        u32::from_le_bytes([s0, s1, s2, s3]),
        u16::from_le_bytes([c0, c1]),
    );
    (session != 0 && channel != 0 && !rest.is_empty()).then_some((session, channel))
}

/// A cookie that a relay's `secret` makes for an address. Only the relay reads it, so this is no part of the format.
#[must_use]
pub fn cookie(secret: &SessionKey, session: u32, generation: u64, address: SocketAddr) -> Cookie {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; 30];
    bytes[..4].copy_from_slice(&session.to_le_bytes());
    bytes[4..12].copy_from_slice(&generation.to_le_bytes());
    bytes[12..28].copy_from_slice(&ip.octets());
    bytes[28..].copy_from_slice(&address.port().to_le_bytes());
    mac(&bytes, secret)
}

fn encode(first: [u8; 4], bind: &Bind, key: &SessionKey) -> [u8; BIND_LEN] {
    let mut out = [0; BIND_LEN];
    out[..4].copy_from_slice(&first);
    out[4..8].copy_from_slice(&bind.session.to_le_bytes());
    out[8..16].copy_from_slice(&bind.nonce);
    out[16..MAC_AT].copy_from_slice(&bind.cookie);
    let mac = mac(&out[..MAC_AT], key);
    out[MAC_AT..].copy_from_slice(&mac);
    out
}

fn decode(first: [u8; 4], datagram: &[u8]) -> Option<Bind> {
    let datagram: &[u8; BIND_LEN] = datagram.try_into().ok()?;
    let (start, rest) = datagram.split_first_chunk::<4>()?;
    let (session, rest) = rest.split_first_chunk::<4>()?;
    let (nonce, rest) = rest.split_first_chunk::<8>()?;
    let bind = Bind {
        session: u32::from_le_bytes(*session),
        nonce: *nonce,
        cookie: *rest.first_chunk::<16>()?,
    };
    (*start == first && bind.session != 0).then_some(bind)
}

fn mac(bytes: &[u8], key: &SessionKey) -> [u8; 16] {
    // HMAC pads a short key with zeros to a block (RFC 2104).
    let mut block = [0; 64];
    block[..32].copy_from_slice(&key.0);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    block.zeroize();
    mac.update(bytes);
    let whole: [u8; 32] = mac.finalize().into_bytes().into();
    let mut out = [0; 16];
    out.copy_from_slice(&whole[..16]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: SessionKey = SessionKey([7; 32]);

    proptest! {
        #[test]
        fn what_is_written_is_read(session in 1u32.., nonce: [u8; 8], cookie: [u8; 16], channel in 1u16.., rest in prop::collection::vec(any::<u8>(), 1..40)) {
            let bind = Bind { session, nonce, cookie };
            let bytes = encode_bind(&bind, &KEY);
            prop_assert_eq!(decode_bind(&bytes), Some(bind));
            prop_assert_eq!(decode_bound(&bytes), None);
            for step in [Step::Challenge, Step::Bound] {
                let bytes = encode_bound(step, &bind, &KEY);
                prop_assert_eq!(decode_bound(&bytes), Some((step, bind)));
                prop_assert!(is_authentic(&bytes, &KEY) && bytes[0] & 0x40 == 0);
            }
            let mut data = encode_header(session, channel).to_vec();
            prop_assert_eq!(decode_header(&data), None);
            data.extend(rest);
            prop_assert_eq!(decode_header(&data), Some((session, channel)));
        }

        #[test]
        fn no_changed_bit_is_authentic(at in 0..BIND_LEN, bit in 0_u8..8) {
            let bind = Bind { session: 5, nonce: [1; 8], cookie: [2; 16] };
            let mut bytes = encode_bind(&bind, &KEY);
            prop_assert!(is_authentic(&bytes, &KEY) && !is_authentic(&bytes, &SessionKey([8; 32])));
            bytes[at] ^= 1u8 << bit;
            prop_assert!(!is_authentic(&bytes, &KEY));
        }

        #[test]
        fn garbage_is_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..64), first in 0u8..12) {
            if let [a, b, ..] = &mut bytes[..] {
                (*a, *b) = (first, VERSION);
            }
            let _ = (decode_bind(&bytes), decode_bound(&bytes), decode_header(&bytes));
            prop_assert!(!is_authentic(&bytes, &KEY));
        }
    }
}
