//! The control stream between a node and a coordinator: `/kanpachi/control/1`.
//!
//! The node speaks first with [`Hello`]; the coordinator answers [`Welcome`] or [`Refused`]. Then requests and
//! replies carry the same id, and the coordinator pushes changes with id 0. Everything a node can send again is
//! idempotent.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    frame::{Frame, MAX_REPLY, MAX_REQUEST},
    membership::{
        CreateNetwork, DeleteNetwork, Evict, Evicted, JoinByPassword, Leave, SetAccess,
        SetPassword, SetPresence, SetRole, Settle, Suspended, Waiting,
    },
    showing::{ShowRoster, Shown},
};
use crate::{
    candidate::{Candidate, MAX_CANDIDATES},
    cbor::{self, DecodeError, Ext, check_ext, check_len},
    client_id::ClientId,
    id::{Hash, NetworkId, NodeId, OrgId},
    identity::TunnelKey,
    nat::NatBehaviour,
    org::{Directory, Manifest},
    roster::{Delta, Page, Position},
    secret::NetworkSecret,
    signed::Signed,
    time::UnixTime,
};

/// Name of the libp2p protocol.
pub const PROTOCOL: &str = "/kanpachi/control/1";
/// A node that has heard nothing for so long sends [`ClientMessage::Ping`], in milliseconds.
pub const PING_MS: u64 = 5000;
/// So do coordinators, which hear the nodes' pings: they have to ask only who does not.
pub const SERVER_PING_MS: u64 = 7500;
/// And a node that has said nothing for so long is gone.
pub const GONE_MS: u64 = 12_500;
/// A node that nobody looks at says nothing for so long, and tells its coordinator so by [`ClientMessage::Resting`].
pub const REST_MS: u64 = 26_000;
/// The longest that a coordinator takes for that.
pub const MAX_REST_MS: u64 = 60_000;
/// Unanswered pings after which a coordinator counts as unreachable.
pub const MISSED_PINGS: u32 = 3;
/// Networks of one node at the most.
pub const MAX_NETWORKS: usize = 256;
/// Longest text for people, in bytes.
pub const MAX_TEXT: usize = 512;

/// The first message of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest protocol version it speaks.
    pub min_version: u16,
    /// Highest protocol version it speaks.
    pub max_version: u16,
    /// What it can do; bits, none defined yet.
    pub caps: u64,
    /// Program and version, for the operator.
    pub client: String,
    /// The organisation that it belongs to or wants to join.
    pub org: OrgId,
    /// Its tunnel key.
    pub tunnel: TunnelKey,
    /// Counts its starts.
    pub boot: u64,
    /// The rosters that it holds.
    pub held: Vec<Held>,
    /// Where it may be reached.
    pub candidates: Vec<Candidate>,
    /// What its NAT does; `None` while it has not measured that, and from one that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<NatBehaviour>,
    /// Networks in which it does not want to be there for the others, as by [`SetPresence`].
    #[serde(default)]
    pub away: Vec<NetworkId>,
    /// Later additions.
    #[serde(default)]
    pub ext: Vec<Ext>,
}

/// How long a node may be silent, in milliseconds; 0 for as long as any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Resting(pub u64);

/// A roster that a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The network.
    pub network: NetworkId,
    /// Where it stands.
    pub position: Position,
    /// Its root.
    pub root: Hash,
}

/// The coordinator takes the node in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both speak from here on.
    pub version: u16,
    /// What the coordinator can do; bits, none defined yet.
    pub caps: u64,
    /// Who signs.
    pub manifest: Signed<Manifest>,
    /// Where the servers are.
    pub directory: Signed<Directory>,
    /// The coordinator's clock.
    pub time: UnixTime,
    /// The node, if it is registered.
    pub registration: Option<Registration>,
    /// Later additions.
    #[serde(default)]
    pub ext: Vec<Ext>,
}

/// What the organisation knows of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its IPv4 address, for life.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address, for life.
    pub ipv6: Ipv6Addr,
    /// Networks that it is a member of.
    pub networks: Vec<NetworkId>,
    /// Its client id; `None` from a coordinator that knows none, then it follows from the key.
    #[serde(default)]
    pub client_id: Option<ClientId>,
    /// Networks in which it awaits approval.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
}

/// Why something is refused. The number is what programs go by, the text is for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// One of [`codes`].
    pub code: u16,
    /// One sentence.
    pub message: String,
    /// Milliseconds before it makes sense to try again, if it does.
    pub retry_ms: Option<u64>,
}

/// Codes of [`Refused`].
pub mod codes {
    /// The message was malformed or came out of order.
    pub const BAD_REQUEST: u16 = 1;
    /// No common protocol version.
    pub const VERSION: u16 = 2;
    /// This coordinator serves another organisation.
    pub const OTHER_ORG: u16 = 3;
    /// The node is not registered: it needs an invite.
    pub const NOT_REGISTERED: u16 = 4;
    /// No such invite: never made, revoked, or of another organisation.
    pub const INVITE_UNKNOWN: u16 = 5;
    /// The invite was used up.
    pub const INVITE_USED: u16 = 6;
    /// The invite has expired.
    pub const INVITE_EXPIRED: u16 = 7;
    /// No such network, or the node is no member of it.
    pub const NO_NETWORK: u16 = 8;
    /// The node may not do that.
    pub const NOT_ALLOWED: u16 = 9;
    /// No address left in the pool.
    pub const POOL_EMPTY: u16 = 10;
    /// The network is full.
    pub const NETWORK_FULL: u16 = 11;
    /// The name is not one.
    pub const BAD_NAME: u16 = 12;
    /// Too many requests.
    pub const BUSY: u16 = 13;
    /// The coordinator could not read or write its store; nothing was changed.
    pub const STORE: u16 = 14;
    /// The same node logged in again elsewhere.
    pub const REPLACED: u16 = 15;
    /// The node's tunnel key is older than the one known.
    pub const OLD_KEY: u16 = 16;
    /// The coordinator is older than its members and waits for its operator.
    pub const RECOVERY: u16 = 17;
    /// A network of that name exists.
    pub const NETWORK_EXISTS: u16 = 18;
    /// No network has this name and password: unknown, wrong, or without a password. Never said which.
    pub const WRONG_PASSWORD: u16 = 19;
    /// The network takes nobody new.
    pub const LOCKED: u16 = 20;
    /// The node was evicted from the network.
    pub const EVICTED: u16 = 21;
    /// The node is the only owner: somebody must follow, or the network end.
    pub const LAST_OWNER: u16 = 22;
    /// No such member.
    pub const NO_MEMBER: u16 = 23;
}

/// Joins a network by an invite; registers the node first where that is needed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// What proves the right ([`crate::invite::InviteSecret::token`]).
    #[serde(with = "serde_bytes")]
    pub token: [u8; 32],
    /// The name that the node would like.
    pub name: String,
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Join")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The node is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The network.
    pub network: NetworkId,
    /// Its name.
    pub network_name: String,
    /// The name that the node got.
    pub name: String,
    /// What the organisation knows of it now.
    pub registration: Registration,
    /// It is in only when an owner approves; until then there is no roster for it.
    #[serde(default)]
    pub waiting: bool,
}

/// Makes an invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeInvite {
    /// For which network, by id.
    pub network: NetworkId,
    /// How often it may be used; `None` for any number of times.
    pub uses: Option<u32>,
    /// For how long, in seconds.
    pub expires_in: u64,
}

/// An invite was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteMade {
    /// The link.
    pub link: String,
    /// Until when it can be used.
    pub expires_at: UnixTime,
}

/// Changes the node's name in a network, or in all of its networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetName {
    /// Which network; all when absent.
    pub network: Option<NetworkId>,
    /// The name that it would like.
    pub name: String,
}

/// The name that the node has now, by network: a taken one got a suffix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameSet {
    /// Network and name.
    pub names: Vec<(NetworkId, String)>,
}

/// A member came online, has other candidates now, or is there in other networks than before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerOnline {
    /// Which.
    pub node: NodeId,
    /// Where it may be reached.
    pub candidates: Vec<Candidate>,
    /// In which of the networks that both are in; `None` from a coordinator that does not say, then in all.
    #[serde(default)]
    pub networks: Option<Vec<NetworkId>>,
    /// What its NAT does; `None` while it has not measured that, and from one that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<NatBehaviour>,
}

/// The secret of a network, for a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SecretIs {
    /// The network.
    pub network: NetworkId,
    /// Its current secret.
    pub secret: NetworkSecret,
}

/// A number that comes back unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nonce(pub u64);

/// The candidates of the node, or its NAT, changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// All of them, best first.
    pub candidates: Vec<Candidate>,
    /// What its NAT does; `None` while it has not measured that, and from one that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<NatBehaviour>,
}

/// Asks for everything after what the node holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    /// The rosters that it holds.
    pub held: Vec<Held>,
}

/// The node is no member of a network any more: here is the head that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The network.
    pub network: NetworkId,
}

/// A member went offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerOffline {
    /// Which.
    pub node: NodeId,
}

/// New servers, or a new manifest with the directory that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryIs {
    /// Who signs.
    pub manifest: Signed<Manifest>,
    /// Where the servers are.
    pub directory: Signed<Directory>,
}

/// A message body with limits that its type alone cannot express.
pub(super) trait Body: DeserializeOwned {
    fn check(&self) -> Result<(), DecodeError> {
        Ok(())
    }
}

pub(super) fn check_text(text: &str) -> Result<(), DecodeError> {
    if text.len() > MAX_TEXT {
        Err(DecodeError::Invalid("a text that is too long"))
    } else {
        Ok(())
    }
}

fn check_candidates(list: &[Candidate]) -> Result<(), DecodeError> {
    check_len(list, MAX_CANDIDATES, "too many candidates")
}

impl Body for Hello {
    fn check(&self) -> Result<(), DecodeError> {
        check_text(&self.client)?;
        check_len(&self.held, MAX_NETWORKS, "too many networks")?;
        check_candidates(&self.candidates)?;
        check_len(&self.away, MAX_NETWORKS, "too many networks")?;
        check_ext(&self.ext)
    }
}

impl Body for Welcome {
    fn check(&self) -> Result<(), DecodeError> {
        if let Some(registration) = &self.registration {
            registration.check()?;
        }
        check_ext(&self.ext)
    }
}

impl Registration {
    fn check(&self) -> Result<(), DecodeError> {
        check_len(&self.networks, MAX_NETWORKS, "too many networks")?;
        check_len(&self.waiting, MAX_NETWORKS, "too many networks")?;
        self.waiting.iter().try_for_each(|w| check_text(&w.name))
    }
}

impl Body for Refused {
    fn check(&self) -> Result<(), DecodeError> {
        check_text(&self.message)
    }
}

impl Body for Join {
    fn check(&self) -> Result<(), DecodeError> {
        check_text(&self.name)
    }
}

impl Body for Joined {
    fn check(&self) -> Result<(), DecodeError> {
        check_text(&self.network_name)?;
        check_text(&self.name)?;
        self.registration.check()
    }
}

impl Body for SetName {
    fn check(&self) -> Result<(), DecodeError> {
        check_text(&self.name)
    }
}

impl Body for NameSet {
    fn check(&self) -> Result<(), DecodeError> {
        check_len(&self.names, MAX_NETWORKS, "too many networks")
    }
}

impl Body for InviteMade {
    fn check(&self) -> Result<(), DecodeError> {
        if self.link.len() > crate::invite::MAX_LINK {
            Err(DecodeError::Invalid("an invite that is too long"))
        } else {
            Ok(())
        }
    }
}

impl Body for PeerOnline {
    fn check(&self) -> Result<(), DecodeError> {
        let networks = self.networks.as_deref().unwrap_or_default();
        check_len(networks, MAX_NETWORKS, "too many networks")?;
        check_candidates(&self.candidates)
    }
}

impl Body for Announce {
    fn check(&self) -> Result<(), DecodeError> {
        check_candidates(&self.candidates)
    }
}

impl Body for Pull {
    fn check(&self) -> Result<(), DecodeError> {
        check_len(&self.held, MAX_NETWORKS, "too many networks")
    }
}

impl Body for MakeInvite {}
impl Body for Nonce {}
impl Body for Resting {}
impl Body for Removed {}
impl Body for PeerOffline {}
impl Body for SecretIs {}
impl Body for Box<Delta> {}
impl Body for Box<Page> {}

pub(super) fn read<T: Body>(frame: &Frame, max: usize) -> Result<T, DecodeError> {
    let body: T = cbor::decode(&frame.body, max)?;
    body.check()?;
    Ok(body)
}

macro_rules! messages {
    ($(#[$doc:meta])* $name:ident up to $max:ident { $($(#[$vdoc:meta])* $kind:literal $variant:ident($body:ty)),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub enum $name {
            $($(#[$vdoc])* $variant($body),)*
            /// A kind of a later version that may be passed over.
            Unknown(u16),
        }

        impl $name {
            /// Puts the message into an envelope. Id 0 stands for what nobody asked for.
            #[must_use]
            pub fn frame(&self, id: u64) -> Frame {
                let (kind, body) = match self {
                    $(Self::$variant(body) => ($kind, cbor::encode(body)),)*
                    Self::Unknown(kind) => (*kind, Vec::new()),
                };
                Frame { kind, id, critical: false, body }
            }

            /// Reads a message out of its envelope and checks its limits.
            ///
            /// # Errors
            /// [`DecodeError`]; an unknown kind only when it is critical.
            pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
                match frame.kind {
                    $($kind => read(frame, $max).map(Self::$variant),)*
                    kind if frame.critical => Err(DecodeError::UnknownCritical(kind)),
                    kind => Ok(Self::Unknown(kind)),
                }
            }
        }
    };
}
pub(super) use messages;

messages! {
    /// From a node to a coordinator.
    ClientMessage up to MAX_REQUEST {
        /// First of all.
        1 Hello(Hello),
        /// Still there? Answered by `Pong` with the same number.
        2 Ping(Nonce),
        /// Yes.
        3 Pong(Nonce),
        /// New candidates. No reply.
        4 Announce(Announce),
        /// What changed? Answered by pushes of deltas or pages and one `Done`.
        5 Pull(Pull),
        /// Answered by `Joined`.
        6 Join(Join),
        /// Answered by `InviteMade`.
        7 MakeInvite(MakeInvite),
        /// Answered by `NameSet`.
        8 SetName(SetName),
        /// Answered by `Joined`.
        9 CreateNetwork(CreateNetwork),
        /// Answered by `Joined`.
        10 JoinByPassword(JoinByPassword),
        /// Answered by `Done`.
        11 Leave(Leave),
        /// Answered by `Done`.
        12 DeleteNetwork(DeleteNetwork),
        /// Answered by `Evicted`.
        13 Evict(Evict),
        /// Answered by `Done`.
        14 SetPassword(SetPassword),
        /// Answered by `Done`.
        15 SetAccess(SetAccess),
        /// Answered by `Done`.
        16 Settle(Settle),
        /// Answered by `Done`.
        17 SetRole(SetRole),
        /// Answered by `Done`.
        18 SetPresence(SetPresence),
        /// Answered by `Done`.
        19 Suspended(Suspended),
        /// Answer to `ShowRoster`. No reply.
        20 Shown(Box<Shown>),
        /// From now on this node may be silent for so long. No reply.
        21 Resting(Resting),
    }
}

messages! {
    /// From a coordinator to a node.
    ServerMessage up to MAX_REPLY {
        /// First of all.
        1 Welcome(Box<Welcome>),
        /// Still there?
        2 Ping(Nonce),
        /// Yes.
        3 Pong(Nonce),
        /// The answer to a request that is refused; with id 0 the conversation ends here.
        4 Refused(Refused),
        /// A change of a roster.
        5 Delta(Box<Delta>),
        /// A part of a whole roster.
        6 Page(Box<Page>),
        /// The secret of a network.
        7 Secret(SecretIs),
        /// Membership ended.
        8 Removed(Removed),
        /// A member is there.
        9 PeerOnline(PeerOnline),
        /// A member is gone.
        10 PeerOffline(PeerOffline),
        /// New servers or keys.
        11 Directory(Box<DirectoryIs>),
        /// All that a request asked for has been sent.
        12 Done(Nonce),
        /// Answer to `Join`.
        13 Joined(Joined),
        /// Answer to `MakeInvite`.
        14 InviteMade(InviteMade),
        /// Answer to `SetName`.
        15 NameSet(NameSet),
        /// Answer to `Evict`.
        16 Evicted(Evicted),
        /// Asks for a roster that the node says it holds. Answered by `Shown`.
        17 ShowRoster(ShowRoster),
    }
}

impl Body for Box<Welcome> {
    fn check(&self) -> Result<(), DecodeError> {
        self.as_ref().check()
    }
}

impl Body for Box<DirectoryIs> {}
