//! The JSON of the command line and the control socket. A contract: `docs/cli.md` explains every field, fields are
//! only ever added, and a test holds that page against these types.
//!
//! Times are RFC 3339 in UTC. What is not known is `null`, never missing.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use jiff::Timestamp;
use kanpachi_common::UnixTime;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// Version of the contract, in `status.schema`. Rises only if a field changed its meaning.
pub const SCHEMA: u32 = 1;

/// A [`UnixTime`] as the contract shows it; times beyond the year 9999 stop there.
#[must_use]
pub fn timestamp(time: UnixTime) -> Timestamp {
    i64::try_from(time.0)
        .ok()
        .and_then(|s| Timestamp::from_second(s).ok())
        .unwrap_or(Timestamp::MAX)
}

/// `GET /v1/version`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReply {
    /// Version of the program.
    pub version: String,
    /// [`SCHEMA`]
    pub schema: u32,
    /// Process id of the daemon.
    pub pid: u32,
}

/// `GET /v1/status`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`]
    pub schema: u32,
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Organisation id; null before the first `join`.
    pub org: Option<String>,
    /// Name of this node.
    pub name: Option<String>,
    /// Its libp2p `PeerId`.
    pub node_id: String,
    /// Nine digits that follow from it, for people.
    #[serde(default)]
    pub client_id: String,
    /// False after `logout`, until `login`.
    #[serde(default = "yes")]
    pub logged_in: bool,
    /// Its virtual addresses; null before the first `join`. IPv4 is also null when the pool is in use on another
    /// interface of this machine.
    pub ipv4: Option<Ipv4Addr>,
    /// See `ipv4`.
    pub ipv6: Option<Ipv6Addr>,
    /// Name of the virtual interface, as `ip link` shows it.
    pub interface: String,
    /// Kind of the adapter; null while there is none.
    pub adapter: Option<Adapter>,
    /// MTU of the adapter in bytes.
    pub mtu: Option<u32>,
    /// Sockets that tunnels and QUIC arrive on.
    pub listen: Vec<SocketAddr>,
    /// The session with the coordinator.
    pub coordinator: Coordinator,
    /// Networks that this node is a member of.
    pub networks: Vec<Network>,
    /// The relays that it may use.
    #[serde(default)]
    pub relays: Vec<Relay>,
    /// What this machine does as a relay for others; null when it is none.
    #[serde(default)]
    pub relaying: Option<Relaying>,
    /// Names of networks in which it awaits approval.
    #[serde(default)]
    pub waiting: Vec<String>,
    /// What is wrong with the organisation's rosters, in sentences for people.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What was dropped, refused and noticed, by name.
    pub counters: BTreeMap<String, u64>,
}

const fn yes() -> bool {
    true
}

/// Kind of the virtual adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Adapter {
    /// IP packets.
    Tun,
    /// Ethernet frames.
    Tap,
}

/// The session with the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinator {
    /// Where it stands.
    pub state: CoordinatorState,
    /// The coordinator that is connected, or was tried last.
    pub address: Option<String>,
    /// Since when `state` is what it is.
    pub since: Option<Timestamp>,
    /// Why the last attempt failed; stays until the next success.
    pub last_error: Option<String>,
}

/// A relay that this node may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// A member's name, or where a server is.
    pub name: String,
    /// Who it is.
    pub node_id: String,
    /// It has taken this node in.
    pub connected: bool,
    /// Its UDP address; null while data would go over a stream.
    pub udp: Option<SocketAddr>,
    /// Peers that can be reached over it now.
    pub channels: usize,
}

/// What a relay does now, and did since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relaying {
    /// Members that have it as a relay.
    pub members: usize,
    /// Pairs of them that may send over it.
    pub pairs: usize,
    /// Datagrams passed on.
    pub forwarded: u64,
    /// Bytes in them.
    pub forwarded_bytes: u64,
    /// Datagrams of nobody that it relays for.
    pub drop_stranger: u64,
    /// Datagrams above what a member or a pair may send.
    pub drop_rate: u64,
    /// Datagrams that the receiver's side did not take.
    pub drop_full: u64,
}

impl std::ops::Add for Relaying {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            members: self.members + other.members,
            pairs: self.pairs + other.pairs,
            forwarded: self.forwarded + other.forwarded,
            forwarded_bytes: self.forwarded_bytes + other.forwarded_bytes,
            drop_stranger: self.drop_stranger + other.drop_stranger,
            drop_rate: self.drop_rate + other.drop_rate,
            drop_full: self.drop_full + other.drop_full,
        }
    }
}

/// State of the session with the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CoordinatorState {
    /// Logged in.
    Connected,
    /// Trying, and not yet given up on.
    Connecting,
    /// Does not answer; trying again.
    Unreachable,
}

/// A network that this node is a member of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Generation of the manifest that its roster is under.
    pub generation: u64,
    /// Epoch of the roster held.
    pub epoch: u64,
    /// What this node may do in it: `member`, `owner`; more may come.
    pub role: String,
    /// Takes nobody new.
    #[serde(default)]
    pub locked: bool,
    /// Owners approve whoever joins.
    #[serde(default)]
    pub approval: bool,
    /// False after `go-offline`, until `go-online`.
    #[serde(default = "yes")]
    pub online: bool,
    /// When the head was signed.
    pub issued_at: Timestamp,
    /// From then on a warning.
    pub soft_expires_at: Option<Timestamp>,
    /// From then on no new session; null is never.
    pub hard_expires_at: Option<Timestamp>,
    /// How old the head is, in seconds, by the clock that the daemon goes by.
    #[serde(default)]
    pub age_s: Option<u64>,
    /// What that means.
    #[serde(default)]
    pub freshness: Option<Freshness>,
    /// The other members, by name.
    pub members: Vec<Member>,
}

/// What the age of a roster means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// Younger than a day.
    Green,
    /// Older, and not yet overdue.
    Yellow,
    /// Past `soft_expires_at`. Past `hard_expires_at` it opens no new session.
    Red,
}

/// Another member, seen from this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its name in this network.
    pub name: String,
    /// Its libp2p `PeerId`.
    pub node_id: String,
    /// Nine digits, for people.
    #[serde(default)]
    pub client_id: String,
    /// Its virtual addresses.
    pub ipv4: Option<Ipv4Addr>,
    /// See `ipv4`.
    pub ipv6: Option<Ipv6Addr>,
    /// What it may do in the network.
    pub role: String,
    /// It awaits approval: listed, and nothing else.
    #[serde(default)]
    pub waiting: bool,
    /// An owner put it out; the coordinator has not made it final yet.
    #[serde(default)]
    pub suspended: bool,
    /// Is it known to be there: by a live tunnel or by the coordinator's word.
    pub online: bool,
    /// What packets to it travel on; null when there is no tunnel.
    pub path: Option<Path>,
    /// Name or id of the relay when `path` is `relay`.
    pub via: Option<String>,
    /// Where it may be reached, by whom that is known, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub underlay: Vec<Underlay>,
    /// Since when `path` is what it is.
    pub path_since: Option<Timestamp>,
    /// The underlay address that packets are sent to.
    pub endpoint: Option<SocketAddr>,
    /// Last measured round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Share of recent probes that were lost, 0 to 1.
    pub loss: Option<f64>,
    /// Largest tunnel datagram known to pass, in bytes.
    pub path_mtu: Option<u32>,
    /// Bytes of inner packets received since the daemon started.
    pub rx_bytes: u64,
    /// Bytes of inner packets sent since the daemon started.
    pub tx_bytes: u64,
    /// When the keys in use were agreed.
    pub last_handshake: Option<Timestamp>,
}

/// An underlay address of a member. That it is known does not mean that anything answers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// The address.
    pub address: SocketAddr,
    /// How it became known.
    pub source: AddressSource,
    /// When that source last said so.
    pub seen: Timestamp,
}

/// How an address became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// A tunnel of this machine's own was up there.
    Tunnel,
    /// The coordinator.
    Coordinator,
    /// The local network, or the member itself.
    Lan,
    /// A record of the member in the DHT.
    Dht,
    /// The member itself, over a relay.
    Introduced,
    /// A record of the member, from another member.
    Member,
    /// Kept on disk from before.
    Disk,
}

/// What packets to a member travel on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// Directly, on the same LAN.
    Lan,
    /// Directly.
    Direct,
    /// Over a relay.
    Relay,
    /// Being set up.
    Connecting,
}

impl Path {
    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Connecting => "connecting",
        }
    }
}

/// `GET /v1/list`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListReply {
    /// As in [`Status`].
    pub networks: Vec<Network>,
    /// As in [`Status`].
    #[serde(default)]
    pub waiting: Vec<String>,
    /// As in [`Status`].
    #[serde(default = "yes")]
    pub logged_in: bool,
}

/// `GET /v1/peer?target=NAME|ADDRESS`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerReply {
    /// The member, by the first network that it shares with this node.
    pub peer: Member,
    /// Names of all the networks that it shares with this node.
    pub networks: Vec<String>,
}

/// `POST /v1/ping`; answered by one [`PingReply`] per line as they come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingRequest {
    /// Name, virtual address or node id of a member.
    pub target: String,
    /// How many, 1 to 100,000.
    #[serde(default = "PingRequest::default_count")]
    pub count: u32,
    /// Milliseconds from one to the next, 100 to 60,000.
    #[serde(default = "PingRequest::default_interval")]
    pub interval_ms: u64,
    /// Milliseconds to wait for an answer, 10 to 30,000.
    #[serde(default = "PingRequest::default_timeout")]
    pub timeout_ms: u64,
}

impl PingRequest {
    const fn default_count() -> u32 {
        5
    }

    const fn default_interval() -> u64 {
        1000
    }

    const fn default_timeout() -> u64 {
        3000
    }

    /// So many pings at the usual pace.
    #[must_use]
    pub const fn new(target: String, count: u32) -> Self {
        Self {
            target,
            count,
            interval_ms: Self::default_interval(),
            timeout_ms: Self::default_timeout(),
        }
    }
}

/// One ping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PingReply {
    /// Counts from 1.
    pub seq: u32,
    /// Who was pinged.
    pub name: String,
    /// Its node id.
    pub node_id: String,
    /// Its virtual addresses.
    pub ipv4: Option<Ipv4Addr>,
    /// See `ipv4`.
    pub ipv6: Option<Ipv6Addr>,
    /// Path that the answer came by.
    pub path: Option<Path>,
    /// The relay, when it came by one.
    pub via: Option<String>,
    /// Underlay address that the answer came from.
    pub endpoint: Option<SocketAddr>,
    /// Round trip in milliseconds; null is no answer in time.
    pub rtt_ms: Option<f64>,
}

/// `POST /v1/invite`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRequest {
    /// Name of the network.
    pub network: String,
    /// How many machines may join by it.
    #[serde(default = "InviteRequest::default_uses")]
    pub uses: u32,
    /// Seconds that it is good for.
    #[serde(default = "InviteRequest::default_expires")]
    pub expires_s: u64,
}

impl InviteRequest {
    const fn default_uses() -> u32 {
        1
    }

    const fn default_expires() -> u64 {
        7 * 86_400
    }
}

/// An invite. The link is a secret: whoever has it can join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteReply {
    /// The link.
    pub invite: Secret,
    /// Name of the network.
    pub network: String,
    /// How many machines may join by it.
    pub uses: u32,
    /// Until when; null is for ever.
    pub expires_at: Option<Timestamp>,
}

/// `POST /v1/create`, `POST /v1/join-network`: a network by its name and password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRequest {
    /// Name of the network.
    pub network: String,
    /// Its password; null is none, which only `create` takes.
    #[serde(default)]
    pub password: Option<Secret>,
}

/// `POST /v1/change`: what changes a network that this machine is a member of. `network` is a name, `member` a name, a
/// virtual address, a node id or a client id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum ChangeRequest {
    /// Leaves; the only owner names an heir.
    Leave {
        network: String,
        #[serde(default)]
        heir: Option<String>,
    },
    /// Ends the network for everybody.
    Delete { network: String },
    /// Ends a membership; with a new password for the network in the same step.
    Evict {
        network: String,
        member: String,
        #[serde(default)]
        password: Option<Secret>,
    },
    /// Sets, changes or (null) removes the password.
    SetPassword {
        network: String,
        #[serde(default)]
        password: Option<Secret>,
    },
    /// Says who may join; null leaves as it is.
    SetAccess {
        network: String,
        #[serde(default)]
        locked: Option<bool>,
        #[serde(default)]
        approval: Option<bool>,
    },
    /// Lets a waiting member in.
    Approve { network: String, member: String },
    /// Does not let a waiting member in.
    Reject { network: String, member: String },
    /// Makes a member an owner, or an owner a member.
    SetRole {
        network: String,
        member: String,
        owner: bool,
    },
    /// Is there for the others again.
    GoOnline { network: String },
    /// Is not there for the others, and they not for this machine, until `go-online`.
    GoOffline { network: String },
}

/// The answer to a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReply {
    /// Name of the network.
    pub network: String,
    /// Name of the member that it was about.
    pub member: Option<String>,
    /// After `evict`: invites that were revoked, and that somebody could still have used.
    pub revoked_invites: Option<u32>,
    /// After `evict`: the network has a password that the evicted member may know.
    pub password_known: Option<bool>,
    /// After `evict`: no coordinator could be asked. The members obey this owner's word, and the coordinator makes it
    /// final when it is back.
    #[serde(default)]
    pub suspended: bool,
}

/// `POST /v1/login`, `POST /v1/logout`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReply {
    /// Is this machine to be logged in? Kept over restarts.
    pub logged_in: bool,
    /// Was it so before?
    pub already: bool,
}

/// `POST /v1/join`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The link.
    pub invite: Secret,
}

/// The answer to a join, and the line of `join --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinReply {
    /// Name of this node.
    pub name: String,
    /// Its virtual addresses.
    pub ipv4: Option<Ipv4Addr>,
    /// See `ipv4`.
    pub ipv6: Option<Ipv6Addr>,
    /// Names of all the networks that this node is now a member of.
    pub networks: Vec<String>,
    /// Names of those in which it awaits approval.
    #[serde(default)]
    pub waiting: Vec<String>,
}

/// The line of `host --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReply {
    /// Organisation id.
    pub org: String,
    /// A fresh invite.
    pub invite: Secret,
    /// The addresses that the invite holds, `host:port`.
    pub listen: Vec<String>,
    /// What to type on a machine on the same LAN; absent with `--no-lan`.
    #[serde(default)]
    pub code: Option<Secret>,
}

/// A later line of `host --json`: after too many wrong tries there is a new code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeReply {
    /// The code from now on.
    pub code: Secret,
}

/// `POST /v1/set-nick`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NickRequest {
    /// The name asked for.
    pub name: String,
}

/// The answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NickReply {
    /// The name given: the one asked for, or a variant (`lamp-2`) when that is taken.
    pub name: String,
}

/// `POST /v1/down`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownReply {
    /// Process id of the daemon that is stopping.
    pub pid: u32,
}

/// A text that opens a door: never in a log, wiped on drop. Serialised as what it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<Zeroizing<String>> for Secret {
    fn from(mut text: Zeroizing<String>) -> Self {
        Self(std::mem::take(&mut *text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
