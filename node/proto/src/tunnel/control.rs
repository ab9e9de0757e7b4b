//! Control messages inside a session (kind 3): keepalives, path probes, MTU probes, farewell.
//!
//! Each is one CBOR map with a single key, the name of the message. Unknown messages and unknown fields are ignored.

use std::net::SocketAddr;

use kanpachi_common::{NetworkId, cbor};
use serde::{Deserialize, Serialize};

use super::payload::MAX_EPOCHS;

/// Longest control payload that is looked at: an MTU probe on a path of jumbo frames.
pub const MAX_CONTROL_LEN: usize = 9216;

/// A message from one end of a session to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Still here, and this is what I know. Wants no answer.
    #[serde(rename = "keepalive")]
    Keepalive {
        /// Generation of the newest manifest.
        generation: u64,
        /// Newest epoch per network in common, at most [`MAX_EPOCHS`].
        epochs: Vec<(NetworkId, u64)>,
    },
    /// Does this path work? Answered with a pong over the same path.
    #[serde(rename = "ping")]
    Ping {
        /// Random; comes back in the pong.
        nonce: u64,
        /// The sender's data takes this path.
        primary: bool,
    },
    /// The answer to a ping.
    #[serde(rename = "pong")]
    Pong {
        /// From the ping.
        nonce: u64,
        /// Where the ping came from, as the answerer saw it.
        seen: SocketAddr,
        /// For how many milliseconds at the most the ping lay unread at an answerer at rest. Absent for 0.
        #[serde(default, skip_serializing_if = "is_zero")]
        held: u8,
    },
    /// Does a datagram of this size get through? Answered with an acknowledgement.
    #[serde(rename = "mtu")]
    MtuProbe {
        /// Random; comes back in the acknowledgement.
        nonce: u64,
        /// Zeros that bring the datagram to the size asked about.
        #[serde(with = "serde_bytes")]
        pad: Vec<u8>,
    },
    /// The answer to an MTU probe.
    #[serde(rename = "mtu-ack")]
    MtuAck {
        /// From the probe.
        nonce: u64,
        /// Payload bytes of the probe as received.
        size: u16,
    },
    /// The sender, behind a symmetric NAT, has opened ports towards the receiver, who may guess them now (see
    /// [`punch`](crate::path::punch)). Not answered.
    #[serde(rename = "punch")]
    Punch {
        /// How many.
        ports: u16,
    },
    /// The session is over. Not answered.
    #[serde(rename = "close")]
    Close {
        /// Why, for a log: 0 disconnected, 1 no longer authorised.
        reason: u8,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
const fn is_zero(held: &u8) -> bool {
    *held == 0
}

impl Control {
    pub(crate) fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Reads an authenticated payload; `None` for what this version does not know or refuses.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let message: Self = cbor::decode(payload, MAX_CONTROL_LEN).ok()?;
        match &message {
            Self::Keepalive { epochs, .. } if epochs.len() > MAX_EPOCHS => None,
            _ => Some(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_control() -> impl Strategy<Value = Control> {
        let addr = (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from);
        prop_oneof![
            (
                any::<u64>(),
                proptest::collection::vec((any::<[u8; 32]>(), any::<u64>()), 0..=MAX_EPOCHS)
            )
                .prop_map(|(generation, epochs)| Control::Keepalive {
                    generation,
                    epochs: epochs.into_iter().map(|(n, e)| (NetworkId(n), e)).collect(),
                }),
            (any::<u64>(), any::<bool>())
                .prop_map(|(nonce, primary)| Control::Ping { nonce, primary }),
            (any::<u64>(), addr, any::<u8>()).prop_map(|(nonce, seen, held)| Control::Pong {
                nonce,
                seen,
                held
            }),
            (
                any::<u64>(),
                proptest::collection::vec(any::<u8>(), 0..1500)
            )
                .prop_map(|(nonce, pad)| Control::MtuProbe { nonce, pad }),
            (any::<u64>(), any::<u16>()).prop_map(|(nonce, size)| Control::MtuAck { nonce, size }),
            any::<u8>().prop_map(|reason| Control::Close { reason }),
            any::<u16>().prop_map(|ports| Control::Punch { ports }),
        ]
    }

    proptest! {
        #[test]
        fn messages_read_back(message in any_control()) {
            prop_assert_eq!(Control::decode(&message.encode()), Some(message));
        }

        #[test]
        fn changed_and_cut_messages_never_panic(message in any_control(), at in any::<proptest::sample::Index>(), to: u8, cut in any::<proptest::sample::Index>()) {
            let mut bytes = message.encode();
            let len = bytes.len();
            bytes[at.index(len)] = to;
            let _ = Control::decode(&bytes);
            let _ = Control::decode(&bytes[..cut.index(len)]);
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Control::decode(&bytes);
        }
    }

    #[test]
    fn unknown_messages_are_ignored() {
        #[derive(Serialize)]
        enum Later {
            #[serde(rename = "later")]
            Later { field: u8 },
        }
        assert_eq!(
            Control::decode(&cbor::encode(&Later::Later { field: 1 })),
            None
        );
        assert_eq!(Control::decode(&[]), None);
    }
}
