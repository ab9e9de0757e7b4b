//! What both handshake messages say under encryption: counter, epochs, versions, capabilities.
//!
//! A payload is `length (2, little endian) ‖ CBOR ‖ zeros` up to the size of its message, so that the length of a
//! datagram says nothing. The CBOR is a map with one-letter keys; unknown keys are ignored.

use kanpachi_common::{NetworkId, NodeId, cbor};
use serde::{Deserialize, Serialize};

use super::wire::{NOISE_INIT_LEN, NOISE_RESPONSE_LEN, TAG_LEN, WIRE_VERSION};

/// Networks whose epochs are told at the most.
pub const MAX_EPOCHS: usize = 16;
/// Capability bit: puts fragments together.
pub const FRAGMENTS: u64 = 1;
/// Payload of message 1: what e, s and two tags leave.
pub(crate) const INIT_PAYLOAD_LEN: usize = NOISE_INIT_LEN - 32 - 32 - 2 * TAG_LEN;
/// Payload of message 2: what e and a tag leave.
pub(crate) const RESPONSE_PAYLOAD_LEN: usize = NOISE_RESPONSE_LEN - 32 - TAG_LEN;

/// 96 bits that only rise, over all handshakes that a node ever starts: the part that is stored, then the part that is
/// counted since. A clock is not needed to be right, only the store to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HandshakeCounter {
    /// Given by the caller at each start, above every earlier one.
    pub major: u64,
    /// Handshakes since.
    pub minor: u32,
}

impl HandshakeCounter {
    pub(crate) const fn next(self) -> Self {
        match self.minor.checked_add(1) {
            Some(minor) => Self { minor, ..self },
            None => Self {
                major: self.major.saturating_add(1),
                minor: 0,
            },
        }
    }
}

/// The contents of a handshake message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payload {
    /// The sender. It must be the owner of the static key that the handshake proved: by the key alone a member could
    /// pass off another's public key as its own and make the two be taken for each other.
    #[serde(rename = "n")]
    pub(crate) node: NodeId,
    /// Initiator: its counter. Responder: the counter it answers.
    #[serde(rename = "c")]
    pub(crate) counter: HandshakeCounter,
    /// The sender index of the clear header again, so that nobody changes it on the way.
    #[serde(rename = "i")]
    pub(crate) index: u32,
    /// Generation of the newest manifest.
    #[serde(rename = "g")]
    pub(crate) generation: u64,
    /// Newest epoch per network in common.
    #[serde(rename = "e")]
    pub(crate) epochs: Vec<(NetworkId, u64)>,
    /// Lowest wire version spoken.
    #[serde(rename = "l")]
    pub(crate) min_version: u8,
    /// Highest wire version spoken.
    #[serde(rename = "h")]
    pub(crate) max_version: u8,
    /// Capability bits.
    #[serde(rename = "b")]
    pub(crate) capabilities: u64,
}

impl Payload {
    /// The bytes, padded with zeros to `len`; `None` when they do not fit, which 16 epochs always do.
    pub(crate) fn encode(&self, len: usize) -> Option<Vec<u8>> {
        let body = cbor::encode(self);
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&u16::try_from(body.len()).ok()?.to_le_bytes());
        out.extend_from_slice(&body);
        if out.len() > len {
            return None;
        }
        out.resize(len, 0);
        Some(out)
    }

    /// Reads an authenticated payload; `None` when it is malformed or this node speaks no version of its range.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (len, rest) = bytes.split_first_chunk::<2>()?;
        let body = rest.get(..usize::from(u16::from_le_bytes(*len)))?;
        let payload: Self = cbor::decode(body, INIT_PAYLOAD_LEN.max(RESPONSE_PAYLOAD_LEN)).ok()?;
        let ours = payload.min_version..=payload.max_version;
        (payload.epochs.len() <= MAX_EPOCHS && ours.contains(&WIRE_VERSION)).then_some(payload)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn largest() -> Payload {
        Payload {
            node: NodeId([0xff; 32]),
            counter: HandshakeCounter {
                major: u64::MAX,
                minor: u32::MAX,
            },
            index: u32::MAX,
            generation: u64::MAX,
            epochs: vec![(NetworkId([0xff; 32]), u64::MAX); MAX_EPOCHS],
            min_version: WIRE_VERSION,
            max_version: u8::MAX,
            capabilities: u64::MAX,
        }
    }

    #[test]
    fn the_largest_payload_fits_both_messages() {
        for len in [INIT_PAYLOAD_LEN, RESPONSE_PAYLOAD_LEN] {
            let bytes = largest().encode(len).unwrap();
            assert_eq!(bytes.len(), len);
            assert_eq!(Payload::decode(&bytes), Some(largest()));
        }
        let mut larger = largest();
        larger.epochs.push((NetworkId([0; 32]), 0));
        assert_eq!(
            Payload::decode(&larger.encode(INIT_PAYLOAD_LEN).unwrap()),
            None
        );
    }

    #[test]
    fn a_range_without_our_version_is_refused() {
        let newer = Payload {
            min_version: WIRE_VERSION + 1,
            ..largest()
        };
        assert_eq!(
            Payload::decode(&newer.encode(INIT_PAYLOAD_LEN).unwrap()),
            None
        );
    }

    #[test]
    fn counters_rise_over_every_edge() {
        let edge = HandshakeCounter {
            major: 5,
            minor: u32::MAX,
        };
        assert!(edge.next() > edge);
        assert_eq!(edge.next(), HandshakeCounter { major: 6, minor: 0 });
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let _ = Payload::decode(&bytes);
        }

        #[test]
        fn a_changed_payload_never_panics(at in 0usize..INIT_PAYLOAD_LEN, to: u8) {
            let mut bytes = largest().encode(INIT_PAYLOAD_LEN).unwrap();
            bytes[at] = to;
            if let Some(payload) = Payload::decode(&bytes) {
                prop_assert!(payload.epochs.len() <= MAX_EPOCHS);
            }
        }
    }
}
