//! The libp2p protocols of a node, for whom they are, and their limits.
//!
//! Kademlia, relaying and hole punching are for members and for the servers of the organisation. A peer that is
//! neither gets only streams, which prove what they need to know themselves. Of relaying this is the signalling: a
//! member passes a few bytes on between two co-members, so that they find out where the other is.

use std::{
    collections::BTreeSet,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use kanpachi_common::{
    OrgId,
    record::{MAX_OUTER, MAX_TTL},
    wire::control,
};
use kanpachi_transport::{Gated, RelayClient, observed, pings, pinned};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    allow_block_list::{self, BlockedPeers},
    connection_limits,
    connection_limits::ConnectionLimits,
    dcutr, identify,
    identity::Keypair,
    kad::{
        self,
        store::{MemoryStore, MemoryStoreConfig},
    },
    mdns, relay,
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

/// Members with a reservation here at once. Each of them stands at three members, so in all but the smallest
/// networks far fewer ask for one.
const MAX_RESERVATIONS: usize = 64;
/// Of one: on a connection that died without a word, on the next, and some to spare.
const MAX_RESERVATIONS_PER_PEER: usize = 4;
/// Circuits at once, and those that end or begin at one member. They are given up as soon as a tunnel is up.
const MAX_CIRCUITS: usize = 64;
const MAX_CIRCUITS_PER_PEER: usize = 8;
/// A circuit carries hole punching, records and the roster of a network that is not large, in both directions together.
const CIRCUIT_BYTES: u64 = 256 << 10;
/// Longer than a failing DCUtR takes (17 s).
const CIRCUIT_DURATION: Duration = Duration::from_secs(120);
/// Requests that one member may make in a burst; afterwards one comes back every interval.
const PEER_BURST: NonZeroU32 = NonZeroU32::new(32).expect("not zero");
const BURST_INTERVAL: Duration = Duration::from_secs(2);

/// Time between two exchanges of addresses with a peer that nothing new is heard of. News is told at once; an exchange
/// is a stream in each direction, with everybody who is connected.
const IDENTIFY: Duration = Duration::from_secs(6 * 60 * 60);
/// On TCP connections. What matters has liveness of its own: sessions with coordinators, streams to relays, tunnels.
const PING: Duration = Duration::from_secs(60 * 60);
/// How often the LAN is asked who is there, after the first minutes, and how long an answer is remembered. Who comes
/// asks by itself.
const ASK_LAN: Duration = Duration::from_secs(15 * 60);
const ON_LAN: Duration = Duration::from_secs(32 * 60);

/// Records in the DHT's store at the most: those kept for others, and this node's own.
const MAX_RECORDS: usize = 4096 + 512;
/// Peers that one query asks at once: all servers of a record, and four bootstraps, since a query is over before the dead among
/// them are.
const PARALLELISM: NonZeroUsize = NonZeroUsize::new(24).expect("not zero");
/// A query ends after this, whoever has not answered.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// All protocols of a node.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    // First, so that it refuses before the others count a connection.
    limits: connection_limits::Behaviour,
    /// Servers that a drill cuts off.
    pub(super) shunned: allow_block_list::Behaviour<BlockedPeers>,
    pub(super) identify: identify::Behaviour,
    pub(super) observed: observed::Behaviour,
    pings: pings::Behaviour,
    pub(super) for_known: Gated<ForKnown>,
    // Behind that: anybody on the LAN may announce a member, and what the routing table has is dialled first.
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) streams: kanpachi_transport::streams::Behaviour,
    /// Control streams to coordinators.
    pub(super) control: pinned::Behaviour,
}

/// What only members and servers get.
#[derive(NetworkBehaviour)]
pub(super) struct ForKnown {
    pub(super) kad: kad::Behaviour<MemoryStore>,
    relay: RelayClient,
    signals: relay::Behaviour,
    dcutr: dcutr::Behaviour,
}

/// The members, for those who ask about one at a time.
pub(super) type Members = Arc<ArcSwap<BTreeSet<PeerId>>>;

impl Behaviour {
    pub(super) fn new(
        keys: &Keypair,
        org: &OrgId,
        relay: relay::client::Behaviour,
        members: &Members,
        mdns: bool,
    ) -> anyhow::Result<Self> {
        let local = keys.public().to_peer_id();
        let identify = identify::Config::new("/kanpachi/1".into(), keys.public())
            .with_agent_version(format!("kanpachi/{}", env!("CARGO_PKG_VERSION")))
            // A push for each address of each reservation would be dozens; the swarm's task says when there is news.
            .with_push_listen_addr_updates(false)
            // Whoever is dialled is dialled where the routing table or the book says. All that a peer listens on, loopback
            // and TCP and circuits, at once is three connections where one was wanted, for everybody in the DHT.
            .with_cache_size(0)
            .with_interval(IDENTIFY);
        let kad = kad(local, org)?;
        // A machine without a multicast interface has no mDNS, and is no worse off otherwise.
        let mdns = mdns.then(|| mdns::tokio::Behaviour::new(lan(), local));
        let mdns = mdns.transpose();
        let mdns = mdns
            .inspect_err(|error| tracing::info!(%error, "no mDNS"))
            .unwrap_or_default();
        let for_known = ForKnown {
            kad,
            relay: relay.into(),
            signals: signals(local, members),
            dcutr: dcutr::Behaviour::new(local),
        };
        Ok(Self {
            limits: connection_limits::Behaviour::new(
                ConnectionLimits::default()
                    .with_max_pending_incoming(Some(MAX_PENDING))
                    .with_max_established_incoming(Some(MAX_INCOMING))
                    .with_max_established_per_peer(Some(MAX_PER_PEER)),
            ),
            shunned: allow_block_list::Behaviour::default(),
            identify: identify::Behaviour::new(identify),
            observed: observed::Behaviour::default(),
            pings: pings::Behaviour::new(PING),
            for_known: Gated::new(for_known, MAX_STRANGERS),
            mdns: mdns.into(),
            streams: kanpachi_transport::streams::Behaviour::new(),
            control: pinned::Behaviour::new(StreamProtocol::new(control::PROTOCOL)),
        })
    }
}

/// The relay for the signals of others. The gate around it keeps strangers out; servers have no use for it.
fn signals(local: PeerId, members: &Members) -> relay::Behaviour {
    let config = relay::Config {
        max_reservations: MAX_RESERVATIONS,
        max_reservations_per_peer: MAX_RESERVATIONS_PER_PEER,
        reservation_duration: Duration::from_secs(3600),
        reservation_rate_limiters: vec![members_only(members)],
        max_circuits: MAX_CIRCUITS,
        max_circuits_per_peer: MAX_CIRCUITS_PER_PEER,
        max_circuit_duration: CIRCUIT_DURATION,
        max_circuit_bytes: CIRCUIT_BYTES,
        circuit_src_rate_limiters: vec![members_only(members)],
    };
    let config = config
        .reservation_rate_per_peer(PEER_BURST, BURST_INTERVAL)
        .circuit_src_per_peer(PEER_BURST, BURST_INTERVAL);
    let mut signals = relay::Behaviour::new(local, config);
    // Otherwise it is offered only while an external address is confirmed.
    signals.set_status(Some(relay::Status::Enable));
    signals
}

fn members_only(members: &Members) -> Box<dyn relay::RateLimiter> {
    let members = Arc::clone(members);
    Box::new(move |peer: PeerId, _: &Multiaddr, _| members.load().contains(&peer))
}

fn lan() -> mdns::Config {
    mdns::Config {
        ttl: ON_LAN,
        query_interval: ASK_LAN,
        ..mdns::Config::default()
    }
}

fn kad(local: PeerId, org: &OrgId) -> anyhow::Result<kad::Behaviour<MemoryStore>> {
    let store = MemoryStore::with_config(
        local,
        MemoryStoreConfig {
            max_records: MAX_RECORDS,
            // The store wants values to be shorter than its limit.
            max_value_bytes: MAX_OUTER + 1,
            max_providers_per_key: 0,
            max_provided_keys: 0,
        },
    );
    let name = StreamProtocol::try_from_owned(format!("/kanpachi/{org}/kad/1"));
    let mut config = kad::Config::new(name.context("the DHT's name")?);
    config
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_ttl(Some(Duration::from_secs(MAX_TTL.into())))
        // A record is published by its owner and nobody else, and lives as long as it says.
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_caching(kad::Caching::Disabled)
        .set_periodic_bootstrap_interval(None)
        // Most of the nearest may be dead, and are not waited for before the others are asked.
        .set_parallelism(PARALLELISM)
        .set_query_timeout(QUERY_TIMEOUT);
    let mut kad = kad::Behaviour::with_config(local, store, config);
    kad.set_mode(Some(kad::Mode::Server));
    Ok(kad)
}
