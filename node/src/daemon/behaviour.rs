//! The libp2p protocols of a node, for whom they are, and their limits.
//!
//! Kademlia, relaying and hole punching are for members and for the servers of the organisation. A peer that is
//! neither gets only streams, which prove what they need to know themselves.

use std::time::Duration;

use anyhow::Context as _;
use kanpachi_common::OrgId;
use kanpachi_transport::{Gated, observed};
use libp2p::{
    StreamProtocol, connection_limits,
    connection_limits::ConnectionLimits,
    dcutr, identify,
    identity::Keypair,
    kad::{self, store::MemoryStore},
    mdns, ping, relay,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};

/// Inbound handshakes at once.
const MAX_PENDING: u32 = 64;
/// Connections at once that others made. A node keeps some to servers and to members that it was introduced to.
const MAX_INCOMING: u32 = 1024;
/// Of one peer: QUIC, TCP, and the second QUIC connection that a punched hole leaves behind; and as many again that
/// died without a word when the peer was killed and are not missed yet.
const MAX_PER_PEER: u32 = 8;
/// Of all peers together that are neither members nor servers.
const MAX_STRANGERS: usize = 64;

/// All protocols of a node.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    // First, so that it refuses before the others count a connection.
    limits: connection_limits::Behaviour,
    identify: identify::Behaviour,
    observed: observed::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) for_known: Gated<ForKnown>,
    pub(super) streams: libp2p_stream::Behaviour,
}

/// What only members and servers get.
#[derive(NetworkBehaviour)]
pub(super) struct ForKnown {
    pub(super) kad: kad::Behaviour<MemoryStore>,
    relay: relay::client::Behaviour,
    dcutr: dcutr::Behaviour,
}

impl Behaviour {
    pub(super) fn new(
        keys: &Keypair,
        org: &OrgId,
        relay: relay::client::Behaviour,
    ) -> anyhow::Result<Self> {
        let local = keys.public().to_peer_id();
        let identify = identify::Config::new("/kanpachi/1".into(), keys.public())
            .with_agent_version(format!("kanpachi/{}", env!("CARGO_PKG_VERSION")))
            .with_push_listen_addr_updates(true)
            .with_interval(Duration::from_secs(60));
        let mut kad_config = kad::Config::new(
            StreamProtocol::try_from_owned(format!("/kanpachi/{org}/kad/1"))
                .context("the DHT's name")?,
        );
        kad_config
            .set_record_filtering(kad::StoreInserts::FilterBoth)
            .set_kbucket_inserts(kad::BucketInserts::Manual);
        let mut kad = kad::Behaviour::with_config(local, MemoryStore::new(local), kad_config);
        kad.set_mode(Some(kad::Mode::Server));
        // A machine without a multicast interface has no mDNS, and is no worse off otherwise.
        let mdns = mdns::tokio::Behaviour::new(mdns::Config::default(), local)
            .inspect_err(|error| tracing::info!(%error, "no mDNS"))
            .ok();
        let for_known = ForKnown {
            kad,
            relay,
            dcutr: dcutr::Behaviour::new(local),
        };
        Ok(Self {
            limits: connection_limits::Behaviour::new(
                ConnectionLimits::default()
                    .with_max_pending_incoming(Some(MAX_PENDING))
                    .with_max_established_incoming(Some(MAX_INCOMING))
                    .with_max_established_per_peer(Some(MAX_PER_PEER)),
            ),
            identify: identify::Behaviour::new(identify),
            observed: observed::Behaviour::default(),
            ping: ping::Behaviour::default(),
            mdns: mdns.into(),
            for_known: Gated::new(for_known, MAX_STRANGERS),
            streams: libp2p_stream::Behaviour::new(),
        })
    }
}
