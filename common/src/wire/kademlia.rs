//! One question of Kademlia, put to one server: what it stores under a key.
//!
//! libp2p's Kademlia asks whoever is nearest to a key, and goes on to whom they name. This is the same question on the
//! same protocol for one that is chosen otherwise. Messages are protocol buffers after their length, both written and
//! read here as far as the question needs it:
//! <https://github.com/libp2p/specs/blob/master/kad-dht/README.md#rpc-messages>.

use thiserror::Error;

/// Longest answer in bytes: a record, and twenty peers with their addresses. libp2p's own limit.
pub const MAX_ANSWER: usize = 16 * 1024;

/// `Message.type`, and its value for the question.
const TYPE: u64 = 1;
const GET_VALUE: u8 = 1;
/// `Message.key`.
const KEY: u64 = 2;
/// `Message.record`, and in it `Record.value`.
const RECORD: u64 = 3;
const VALUE: u64 = 2;

/// How a field is encoded.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

/// An answer that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an answer of Kademlia")]
pub struct Malformed;

/// The question what is stored under a key, as it goes out.
#[must_use]
pub fn question(key: &[u8; 32]) -> Vec<u8> {
    let tag = |field: u64, kind: u64| (field << 3 | kind).to_le_bytes()[0];
    let mut message = vec![tag(TYPE, VARINT), GET_VALUE, tag(KEY, BYTES), 32];
    message.extend(key);
    let mut out = vec![message.len().to_le_bytes()[0]];
    out.append(&mut message);
    out
}

/// The length of the answer that begins with these bytes, and how many of them say so; `None` while they are too few.
///
/// # Errors
/// [`Malformed`]: it is longer than it may be.
pub fn length(begin: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut rest = begin;
    match varint(&mut rest) {
        Ok(length) => {
            let length = usize::try_from(length).map_err(|_| Malformed)?;
            if length > MAX_ANSWER {
                return Err(Malformed);
            }
            Ok(Some((length, begin.len() - rest.len())))
        }
        // Three bytes say more than any answer has.
        Err(Malformed) if begin.len() < 3 => Ok(None),
        Err(Malformed) => Err(Malformed),
    }
}

/// The value in an answer without its length, if it has one. That the key fits is for the value itself to show.
///
/// # Errors
/// [`Malformed`]
pub fn value(answer: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    match field(answer, RECORD)? {
        Some(record) => field(record, VALUE),
        None => Ok(None),
    }
}

/// The last bytes field of this number in a message.
fn field(mut message: &[u8], wanted: u64) -> Result<Option<&[u8]>, Malformed> {
    let mut found = None;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let skipped = match tag & 7 {
            VARINT => {
                varint(&mut message)?;
                continue;
            }
            FIXED_64 => 8,
            BYTES => usize::try_from(varint(&mut message)?).map_err(|_| Malformed)?,
            FIXED_32 => 4,
            _ => return Err(Malformed),
        };
        let (content, rest) = message.split_at_checked(skipped).ok_or(Malformed)?;
        if tag == wanted << 3 | BYTES {
            found = Some(content);
        }
        message = rest;
    }
    Ok(found)
}

/// Seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(Malformed)?;
        *bytes = rest;
        let low = u64::from(byte & 0x7f);
        if shift == 63 && low > 1 {
            return Err(Malformed);
        }
        value |= low << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with key, value and time, after a key and before a peer, as libp2p 0.57 writes them.
    const ANSWER: &[u8] =
        b"\x08\x01\x12\x02kk\x1a\x0c\x0a\x02kk\x12\x04once\x2a\x00\x42\x05\x0a\x03abc\x50\x0a";

    #[test]
    fn a_question_is_one_of_kademlia() {
        let asked = question(&[7; 32]);
        assert_eq!(asked[..5], [36, 0x08, 1, 0x12, 32]);
        assert_eq!(asked[5..], [7; 32]);
    }

    #[test]
    fn the_value_is_found_and_what_else_is_there_is_skipped() {
        assert_eq!(value(ANSWER), Ok(Some(&b"once"[..])));
        assert_eq!(value(&ANSWER[..6]), Ok(None));
        assert_eq!(value(&ANSWER[..ANSWER.len() - 1]), Err(Malformed));
        assert_eq!(value(b""), Ok(None));
        assert_eq!(value(b"\x1a\x06\x12\x04once"), Ok(Some(&b"once"[..])));
        assert_eq!(value(b"\x1a\x06\x12\x05once"), Err(Malformed));
        assert_eq!(value(b"\x0b"), Err(Malformed));
    }

    #[test]
    fn lengths_are_bounded_before_anything_is_read() {
        assert_eq!(length(b""), Ok(None));
        assert_eq!(length(b"\x80\x80"), Ok(None));
        assert_eq!(length(b"\x05abc"), Ok(Some((5, 1))));
        assert_eq!(length(b"\x80\x80\x01"), Ok(Some((MAX_ANSWER, 3))));
        assert_eq!(length(b"\x81\x80\x01"), Err(Malformed));
        assert_eq!(length(b"\x80\x80\x80\x80"), Err(Malformed));
    }
}
