//! The mirror stream of a bootstrap: `/kanpachi/mirror/1`. Frames as on the control stream, one request, one reply.

use serde::{Deserialize, Serialize};

use crate::{
    cbor::{self, DecodeError},
    id::{NetworkId, OrgId},
    org::{Directory, Manifest},
    roster::PublicRoster,
    signed::Signed,
    wire::frame::Frame,
};

/// Name of the libp2p protocol.
pub const PROTOCOL: &str = "/kanpachi/mirror/1";
/// Longest message in bytes: a public roster of 4,096 members.
pub const MAX: usize = PublicRoster::MAX_LEN + 64 * 1024;

/// What a bootstrap is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MirrorRequest {
    /// Keep this. Anyone may bring it: the signatures speak for it.
    Put(Box<Mirrored>),
    /// What do you have of this network?
    Get(OrgId, NetworkId),
    /// Keys and servers of the organisation.
    Directory(OrgId),
}

/// Something to mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirrored {
    /// Who signs.
    pub manifest: Signed<Manifest>,
    /// Where the servers are.
    pub directory: Signed<Directory>,
    /// Head and public halves of a network; absent to bring keys and servers alone.
    pub roster: Option<PublicRoster>,
}

/// What a bootstrap answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MirrorReply {
    /// Kept, or known already.
    Kept,
    /// Older than what is kept, which follows.
    Older(Box<Mirrored>),
    /// Here it is.
    Found(Box<Mirrored>),
    /// Nothing known.
    Unknown,
    /// Not acceptable, in one sentence.
    Refused(String),
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
enveloped!(MirrorRequest, 32);
enveloped!(MirrorReply, 33);
