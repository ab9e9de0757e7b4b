//! The code stream: `/kanpachi/code/1`. Whoever knows the short code that a host shows is handed an invite. Frames as on
//! the control stream: `Start`, `Element`, `Confirm`, `Invite`, or `Refused` at any point, which ends it.
//!
//! What the numbers are is the matter of `kanpachi-proto`'s module `code`; here are only their bytes.

use serde::{Deserialize, Serialize};

use crate::{
    cbor::{self, DecodeError},
    id::OrgId,
    invite::MAX_LINK,
    wire::frame::Frame,
};

/// Name of the libp2p protocol.
pub const PROTOCOL: &str = "/kanpachi/code/1";
/// Longest frame in bytes: a sealed invite fits.
pub const MAX: usize = MAX_LINK + 1024;

/// An element of the key exchange: the side, `A` for who joins and `B` for the host, and a point of the curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Element(#[serde(with = "serde_bytes")] pub [u8; 33]);

/// Proof that its sender has the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tag(#[serde(with = "serde_bytes")] pub [u8; 32]);

/// From who joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CodeRequest {
    /// The first message.
    Start {
        /// Lowest protocol version spoken.
        min_version: u16,
        /// Highest protocol version spoken.
        max_version: u16,
        /// The organisation that the host announced.
        org: OrgId,
        /// Its half of the exchange.
        element: Element,
    },
    /// The right key was found.
    Confirm(Tag),
}

/// From the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CodeReply {
    /// Its half of the exchange.
    Element(Element),
    /// The code was right.
    Invite {
        /// Proof that the host has the same key.
        tag: Tag,
        /// The link of an invite, sealed under that key.
        #[serde(with = "serde_bytes")]
        sealed: Vec<u8>,
    },
    /// Not now, or not at all.
    Refused(CodeRefusal),
}

/// Why no invite is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CodeRefusal {
    /// The code was wrong. With none left, the host has made another code.
    Wrong {
        /// Tries that this code has left.
        left: u8,
    },
    /// Somebody else tries at the moment, or too many tries were wrong.
    Later {
        /// How long to wait, in milliseconds.
        ms: u32,
    },
    /// No common version.
    Version,
    /// Another organisation is hosted here.
    Organisation,
    /// The message made no sense at this point.
    Malformed,
    /// The other end is not on the same LAN.
    Elsewhere,
    /// The code was right, but no invite can be made.
    NoInvite,
}

macro_rules! enveloped {
    ($name:ident, $kind:literal) => {
        impl $name {
            /// Puts the message into an envelope.
            #[must_use]
            pub fn frame(&self) -> Frame {
                Frame {
                    kind: $kind,
                    id: 0,
                    critical: true,
                    body: cbor::encode(self),
                }
            }

            /// Reads a message out of its envelope.
            ///
            /// # Errors
            /// [`DecodeError`]
            pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
                if frame.kind == $kind {
                    cbor::decode(&frame.body, MAX)
                } else {
                    Err(DecodeError::UnknownCritical(frame.kind))
                }
            }
        }
    };
}
enveloped!(CodeRequest, 48);
enveloped!(CodeReply, 49);
