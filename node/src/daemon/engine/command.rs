//! What the engine is told, and what it answers to a ping.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use kanpachi_common::{
    NetworkId, NodeId, OrgId, Signed, nat::NatBehaviour, org::Manifest, roster::Proof,
    wire::relay::RelayMessage,
};
use kanpachi_proto::{path::Candidate, relay::RelayAt, tunnel::PeerConfig};
use tokio::sync::{mpsc, oneshot};

use crate::{
    daemon::report::Report,
    dataplane::{Member, Own, Streamed},
};

/// What the engine is told.
#[derive(Debug)]
pub(in crate::daemon) enum Command {
    /// The organisation is known now.
    Organisation(OrgId),
    /// Everybody this node may talk to. Whoever is not among them any more loses its session at once.
    Members(Vec<(PeerConfig, Member)>),
    /// This node's own overlay addresses.
    Own(Own),
    /// Where a peer may be reached.
    Candidates(NodeId, Vec<Candidate>),
    /// The rosters held, told to every peer.
    Epochs(u64, Vec<(NetworkId, u64)>),
    /// A peer is online: keep a tunnel to it.
    Connect(NodeId),
    /// A peer is gone: no tunnel is kept.
    Disconnect(NodeId),
    /// The addresses of this machine changed.
    NetworkChanged,
    /// The relays to use.
    Relays(Vec<RelayAt>),
    /// What the NAT in front of this node does.
    Nat(Option<NatBehaviour>),
    /// The same of a peer.
    PeerNat(NodeId, Option<NatBehaviour>),
    /// This node's memberships, for relays.
    Proofs(Vec<Proof>, Option<Box<Signed<Manifest>>>),
    /// News of the stream to a relay.
    RelayStream(NodeId, FromRelay),
    /// Ask these reflectors how they see us.
    Reflect(Vec<SocketAddr>),
    /// Measure a round trip inside the tunnel. Dropped without a word when there is none.
    Ping(NodeId, oneshot::Sender<Pong>),
    /// How every peer is.
    Status(oneshot::Sender<Report>),
}

/// What the stream to a relay brings.
#[derive(Debug)]
pub(in crate::daemon) enum FromRelay {
    /// It is open: messages and datagrams go here.
    Open {
        messages: mpsc::Sender<Box<RelayMessage>>,
        datagrams: mpsc::Sender<Streamed>,
        /// The stream is given up when this is dropped.
        held: oneshot::Sender<Infallible>,
    },
    /// Data comes.
    Alive,
    /// The relay says something.
    Said(Box<RelayMessage>),
    /// It is gone.
    Closed,
}

/// An answered ping.
#[derive(Clone, Copy, Debug)]
pub(in crate::daemon) struct Pong {
    pub(in crate::daemon) endpoint: SocketAddr,
    pub(in crate::daemon) rtt: Duration,
    /// The relay in between.
    pub(in crate::daemon) relay: Option<NodeId>,
    /// Is the endpoint on a network that this machine is on?
    pub(in crate::daemon) on_link: bool,
}
