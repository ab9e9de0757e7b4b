//! Length-delimited frames, and the envelope that lets versions differ.

use serde::{Deserialize, Serialize};

use crate::cbor::{self, DecodeError};

/// Longest frame from a node that has not logged in yet, or to a server in general, in bytes.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Longest frame from a server, in bytes: a page of a roster fits.
pub const MAX_REPLY: usize = 256 * 1024;

/// An envelope: what a message is, which request it belongs to, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Kind of message (registry in `docs/protocol.md`).
    #[serde(rename = "k")]
    pub kind: u16,
    /// Request that it makes or answers; 0 for what nobody asked for.
    #[serde(rename = "i")]
    pub id: u64,
    /// A receiver that does not know the kind must end the conversation instead of passing over it.
    #[serde(rename = "c", default)]
    pub critical: bool,
    /// CBOR of the message.
    #[serde(rename = "b", with = "serde_bytes")]
    pub body: Vec<u8>,
}

impl Frame {
    /// The bytes on the wire, length first.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = cbor::encode(self);
        let mut out = Vec::with_capacity(body.len() + 4);
        // A frame is built from bounded parts, far below 4 GiB.
        out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&body);
        out
    }
}

/// Takes frames out of a stream of bytes. Holds at most one frame, and never room for what has not arrived.
#[derive(Debug)]
pub struct FrameReader {
    max: usize,
    buffer: Vec<u8>,
}

impl FrameReader {
    /// A reader for frames of at most `max` bytes.
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self {
            max,
            buffer: Vec::new(),
        }
    }

    /// Takes bytes in, as many as came.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    ///
    /// # Errors
    /// A frame that is too long or malformed; the stream cannot be read any further.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, DecodeError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*header) as usize;
        if len > self.max {
            return Err(DecodeError::TooLong {
                got: len,
                max: self.max,
            });
        }
        let Some(body) = rest.get(..len) else {
            return Ok(None);
        };
        let frame = cbor::decode(body, self.max)?;
        self.buffer.drain(..4 + len);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_out_however_the_stream_is_cut(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8), cut in 1usize..50) {
            let frames: Vec<Frame> = bodies.into_iter().enumerate()
                .map(|(i, body)| Frame { kind: 3, id: i as u64, critical: false, body }).collect();
            let bytes: Vec<u8> = frames.iter().flat_map(Frame::to_bytes).collect();
            let mut reader = FrameReader::new(1024);
            let mut out = Vec::new();
            for part in bytes.chunks(cut) {
                reader.extend(part);
                while let Some(frame) = reader.next_frame().unwrap() {
                    out.push(frame);
                }
            }
            prop_assert_eq!(out, frames);
        }

        #[test]
        fn garbage_is_an_error_or_a_wait(bytes: Vec<u8>) {
            let mut reader = FrameReader::new(64);
            reader.extend(&bytes);
            while let Ok(Some(_)) = reader.next_frame() {}
        }
    }
}
