//! The relay: `/kanpachi/relay/1`, a libp2p stream between a member and a relay, and [`datagram`]s beside it.
//!
//! The member says `Open` and shows that it is a member; the relay answers `Opened` with a *session*: a number and a key, good
//! until [`LIFETIME`] after the last `Renew`. With the key the member binds its UDP address to the session (see
//! [`datagram`]). For each peer it opens a *channel* by `Pair`; data flows once the peer has done the same at this relay.
//! Where UDP does not get through, data travels as frames of kind [`DATA`] on the same stream: the frame's id is the
//! channel, its body the datagram. A relay forwards between the two carriers as it comes.
//!
//! The relay judges by the newest public roster that it knows, whatever a proof says. What it forwards is sealed; it
//! learns who talks to whom, how much and when.

pub mod datagram;

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::{
    control::{Body, read},
    frame::{Frame, MAX_REQUEST},
};
use crate::{
    cbor::{self, DecodeError, Ext, check_ext, check_len},
    id::{NodeId, OrgId},
    org::Manifest,
    roster::{Head, Proof},
    signed::Signed,
};

/// Name of the libp2p protocol.
pub const PROTOCOL: &str = "/kanpachi/relay/1";
/// Longest frame in bytes.
pub const MAX: usize = MAX_REQUEST;
/// Proofs in one message at the most.
pub const MAX_PROOFS: usize = 16;
/// How long a session lives after it was opened or renewed, on the relay's clock.
pub const LIFETIME: Duration = Duration::from_secs(120);
/// How often a member renews.
pub const RENEW: Duration = Duration::from_secs(45);
/// Channels of one session at the most. Channel 0 is not given out.
pub const MAX_CHANNELS: u16 = 1024;
/// Kind of a frame that carries a datagram.
pub const DATA: u16 = 72;
/// Longest datagram that is relayed, in bytes.
pub const MAX_DATA: usize = 9216;

/// The key of a session. Whoever has it can say under which UDP address its owner is; it protects nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionKey(#[serde(with = "serde_bytes")] pub [u8; 32]);

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(…)")
    }
}

impl Zeroize for SessionKey {
    fn zeroize(&mut self) {
        self.0.zeroize();
    }
}

/// The first message of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Lowest protocol version spoken.
    pub min_version: u16,
    /// Highest protocol version spoken.
    pub max_version: u16,
    /// The organisation.
    pub org: OrgId,
    /// Its memberships, for a relay that may know older rosters than it does.
    pub proofs: Vec<Proof>,
    /// Whose keys signed them, for a relay that knows no manifest or an older one.
    #[serde(default)]
    pub manifest: Option<Signed<Manifest>>,
    /// Later additions.
    #[serde(default)]
    pub ext: Vec<Ext>,
}

/// The session goes on. Answered by nothing, or by `Refused`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// As in [`Open`].
    pub proofs: Vec<Proof>,
}

/// The answer to [`Open`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The version that both speak from here on.
    pub version: u16,
    /// Number of the session, random and not 0.
    pub session: u32,
    /// Its key.
    pub key: SessionKey,
    /// Bytes a second that the relay forwards for this member, if it says so.
    pub rate: Option<u64>,
    /// Later additions.
    #[serde(default)]
    pub ext: Vec<Ext>,
}

/// Opens a channel to a peer, or closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Number that the member gives it, 1 to [`MAX_CHANNELS`].
    pub channel: u16,
    /// The peer.
    pub peer: NodeId,
}

/// Names a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// As in [`Pair`].
    pub channel: u16,
}

/// How a channel is. Told after `Pair` and whenever it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paired {
    /// Which.
    pub channel: u16,
    /// What the relay says.
    pub state: PairState,
}

/// State of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PairState {
    /// Both ends have opened it: data flows.
    Open,
    /// The peer has a session here and was told; it has not opened the channel.
    Waiting,
    /// The peer has no session here.
    Absent,
    /// The two have no network in common, by what the relay knows, or there are too many channels.
    Refused,
}

/// Somebody has opened a channel to this member, which has none to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Who.
    pub peer: NodeId,
}

/// Why there is no session, or none any more. The stream ends with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRefused {
    /// The reason.
    pub reason: Reason,
    /// The newest head of a network that a proof was for and that no longer names the member.
    pub head: Option<Box<Signed<Head>>>,
}

/// See [`RelayRefused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// No common version.
    Version,
    /// It relays for another organisation.
    Organisation,
    /// The node is no member of any network that the relay knows.
    NotAMember,
    /// Too many sessions.
    Full,
    /// The message made no sense at this point.
    Malformed,
    /// The session was not renewed.
    Expired,
    /// A newer stream of the same node has taken its place.
    Replaced,
}

impl Body for Open {
    fn check(&self) -> Result<(), DecodeError> {
        check_len(&self.proofs, MAX_PROOFS, "too many proofs")?;
        check_ext(&self.ext)
    }
}

impl Body for Renew {
    fn check(&self) -> Result<(), DecodeError> {
        check_len(&self.proofs, MAX_PROOFS, "too many proofs")
    }
}

impl Body for Opened {
    fn check(&self) -> Result<(), DecodeError> {
        if self.session == 0 {
            return Err(DecodeError::Invalid("a session without a number"));
        }
        check_ext(&self.ext)
    }
}

impl Body for Pair {
    fn check(&self) -> Result<(), DecodeError> {
        check_channel(self.channel)
    }
}

impl Body for Channel {
    fn check(&self) -> Result<(), DecodeError> {
        check_channel(self.channel)
    }
}

impl Body for Paired {
    fn check(&self) -> Result<(), DecodeError> {
        check_channel(self.channel)
    }
}

impl Body for Wanted {}
impl Body for RelayRefused {}
impl Body for Box<Open> {
    fn check(&self) -> Result<(), DecodeError> {
        self.as_ref().check()
    }
}

const fn check_channel(channel: u16) -> Result<(), DecodeError> {
    if channel == 0 || channel > MAX_CHANNELS {
        return Err(DecodeError::Invalid("a channel outside its range"));
    }
    Ok(())
}

super::control::messages! {
    /// Between a member and a relay. Frames of kind [`DATA`] are no messages: see [`data_frame`].
    RelayMessage up to MAX {
        /// A member begins.
        64 Open(Box<Open>),
        /// The relay takes it in.
        65 Opened(Opened),
        /// The member is still one.
        66 Renew(Renew),
        /// A channel to a peer.
        67 Pair(Pair),
        /// No channel any more.
        68 Unpair(Channel),
        /// How a channel is.
        69 Paired(Paired),
        /// Somebody opened a channel to this member.
        70 Wanted(Wanted),
        /// The relay ends it.
        71 Refused(RelayRefused),
    }
}

/// A datagram on the stream.
#[must_use]
pub fn data_frame(channel: u16, datagram: Vec<u8>) -> Frame {
    Frame {
        kind: DATA,
        id: channel.into(),
        critical: false,
        body: datagram,
    }
}

/// The channel of a frame of kind [`DATA`]; `None` for other frames, numbers outside their range, and lengths that are
/// no datagram's.
#[must_use]
pub fn data_channel(frame: &Frame) -> Option<u16> {
    let channel = u16::try_from(frame.id).ok()?;
    let fits = check_channel(channel).is_ok() && (1..=MAX_DATA).contains(&frame.body.len());
    (frame.kind == DATA && fits).then_some(channel)
}
