//! CBOR (RFC 8949) in and out, with a byte limit in front of every decoder.
//!
//! The codec is in one place so that it can be changed in one place: what it writes for structs, integers,
//! byte strings and lists is the same in every CBOR library.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Why bytes are not the value that was expected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Longer than this kind of value may be; not looked at.
    #[error("{got} bytes where at most {max} are allowed")]
    TooLong {
        /// Length in bytes.
        got: usize,
        /// Limit in bytes.
        max: usize,
    },
    /// Not CBOR, not of the expected shape, or followed by other bytes.
    #[error("not readable: {0}")]
    Malformed(String),
    /// Readable, but outside what the protocol allows.
    #[error("{0}")]
    Invalid(&'static str),
    /// Uses an extension that this version must know and does not.
    #[error("it uses extension {0}, which this version does not know: update Kanpachi")]
    UnknownCritical(u16),
}

/// Encodes a value. Types of this crate hold nothing that CBOR cannot express.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // A Vec never refuses a write, and the types that come here have no maps with odd keys and no
    // hand-written Serialize that fails, so there is nothing to report.
    serde_cbor::to_vec(value).expect("structs, lists and byte strings always encode")
}

/// Decodes exactly one value from at most `max` bytes. Trailing bytes, nesting over 128 levels and duplicate
/// fields are errors; memory grows with what was received, never with what a header announces.
///
/// # Errors
/// [`DecodeError`]
pub fn decode<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLong {
            got: bytes.len(),
            max,
        });
    }
    serde_cbor::from_slice(bytes).map_err(|e| {
        // The library's text can quote input; keep what goes to a log short.
        DecodeError::Malformed(e.to_string().chars().take(120).collect())
    })
}

/// Room for fields of later versions in signed and sent values.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ext {
    /// Number of the extension (registry in `docs/protocol.md`).
    pub id: u16,
    /// A reader that does not know this number must refuse the whole value.
    pub critical: bool,
    /// Its contents.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

/// Extensions in one value at the most.
pub const MAX_EXT: usize = 16;

/// Refuses unknown critical extensions and too many of any kind. This version knows none.
///
/// # Errors
/// [`DecodeError::UnknownCritical`], [`DecodeError::Invalid`]
pub fn check_ext(ext: &[Ext]) -> Result<(), DecodeError> {
    if ext.len() > MAX_EXT {
        return Err(DecodeError::Invalid("too many extensions"));
    }
    match ext.iter().find(|e| e.critical) {
        Some(e) => Err(DecodeError::UnknownCritical(e.id)),
        None => Ok(()),
    }
}

/// Refuses a list that is longer than the protocol allows.
///
/// # Errors
/// [`DecodeError::Invalid`]
pub fn check_len<T>(list: &[T], max: usize, what: &'static str) -> Result<(), DecodeError> {
    if list.len() > max {
        Err(DecodeError::Invalid(what))
    } else {
        Ok(())
    }
}
