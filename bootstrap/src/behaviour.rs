//! The libp2p protocols of a bootstrap and their limits.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use kanpachi_common::{
    OrgId,
    record::{MAX_OUTER, shelf},
};
use kanpachi_transport::{Selective, node_id, pings, remotes};
use libp2p::{
    Multiaddr, PeerId, connection_limits,
    connection_limits::ConnectionLimits,
    identify,
    identity::Keypair,
    kad::{
        self, StoreInserts,
        store::{MemoryStore, MemoryStoreConfig},
    },
    relay,
    swarm::NetworkBehaviour,
};

use crate::{config::kad_protocol, mirror::Mirror};

/// DHT records kept at the most: two a day for each of 4,096 members. One source may fill far more than its own of
/// some days, and makes room for others when there is none.
pub(crate) const RECORDS: shelf::Limits = shelf::Limits {
    records: 8192,
    per_source: 512,
    bytes: 16 << 20,
};
/// Connections at once at the most.
const MAX_CONNECTIONS: u32 = 8192;
/// Of one peer: QUIC, TCP, and the second QUIC connection that a punched hole leaves behind; and as many again that died
/// without a word when the peer was killed and are not missed yet.
const MAX_CONNECTIONS_PER_PEER: u32 = 8;
/// Inbound handshakes at once.
const MAX_PENDING: u32 = 256;
/// Time between two exchanges of addresses with a peer that nothing new is heard of; news is told at once.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);
/// On TCP connections, which NATs forget after some minutes.
const PING_INTERVAL: Duration = Duration::from_secs(60);

/// Members with a reservation at once.
const MAX_RESERVATIONS: usize = 4096;
/// Circuits at once, and of one peer: a member that loses its coordinator calls all others.
const MAX_CIRCUITS: usize = 4096;
const MAX_CIRCUITS_PER_PEER: usize = 128;
/// A circuit carries *signalling*: DCUtR, rosters and secrets between members whom no direct path joins yet. 2 MiB
/// (both directions together) is the roster of some thousand members; data takes the datagram relay.
const CIRCUIT_BYTES: u64 = 2 << 20;
/// Longer than a failing DCUtR takes (17 s) and short enough that nobody lives on it.
const CIRCUIT_DURATION: Duration = Duration::from_secs(300);
/// Requests that one peer, or all peers behind one IP address, may make in a burst; afterwards one comes back
/// every interval.
const PEER_BURST: u32 = 128;
const IP_BURST: u32 = 1024;
const BURST_INTERVAL: Duration = Duration::from_secs(1);

/// All protocols of a bootstrap.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    // First, so that it refuses before the others count a connection.
    limits: connection_limits::Behaviour,
    pub(crate) remotes: remotes::Behaviour,
    pub(crate) identify: identify::Behaviour,
    // For members: a stranger could ask it where everybody is.
    pub(crate) kad: Selective<kad::Behaviour<MemoryStore>>,
    pub(crate) relay: relay::Behaviour,
    pings: pings::Behaviour,
    pub(crate) streams: kanpachi_transport::streams::Behaviour,
}

impl Behaviour {
    pub(crate) fn new(keypair: &Keypair, org: &OrgId, mirror: &Mirror) -> Self {
        let peer = keypair.public().to_peer_id();
        let mut relay = relay::Behaviour::new(peer, relay(mirror));
        // Otherwise HOP is offered only once an external address is confirmed.
        relay.set_status(Some(relay::Status::Enable));
        Self {
            limits: connection_limits::Behaviour::new(
                ConnectionLimits::default()
                    .with_max_pending_incoming(Some(MAX_PENDING))
                    .with_max_established(Some(MAX_CONNECTIONS))
                    .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER)),
            ),
            remotes: remotes::Behaviour::new(),
            identify: identify::Behaviour::new(
                identify::Config::new("/kanpachi/1".to_owned(), keypair.public())
                    .with_agent_version(
                        concat!("kanpachi-bootstrap/", env!("CARGO_PKG_VERSION")).to_owned(),
                    )
                    .with_interval(IDENTIFY_INTERVAL)
                    .with_push_listen_addr_updates(true),
            ),
            kad: Selective::new(kad(peer, org), members_only(mirror)),
            relay,
            pings: pings::Behaviour::new(PING_INTERVAL),
            streams: kanpachi_transport::streams::Behaviour::new(),
        }
    }
}

fn kad(peer: PeerId, org: &OrgId) -> kad::Behaviour<MemoryStore> {
    let store = MemoryStore::with_config(
        peer,
        MemoryStoreConfig {
            max_records: RECORDS.records,
            // The store wants values to be shorter than its limit.
            max_value_bytes: MAX_OUTER + 1,
            max_providers_per_key: 0,
            max_provided_keys: 0,
        },
    );
    let mut config = kad::Config::new(kad_protocol(org));
    config
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        // Publishers come back; a bootstrap that repeated what it holds would prolong the life of records that their owners
        // have let go.
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_caching(kad::Caching::Disabled)
        // The server refreshes the buckets when it knows somebody; by itself kad warns that it knows nobody.
        .set_periodic_bootstrap_interval(None)
        .set_query_timeout(Duration::from_secs(30));
    let mut kad = kad::Behaviour::with_config(peer, store, config);
    // By itself it would wait for an external address and answer nobody until then.
    kad.set_mode(Some(kad::Mode::Server));
    kad
}

fn relay(mirror: &Mirror) -> relay::Config {
    let burst = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    let mut config = relay::Config {
        max_reservations: MAX_RESERVATIONS,
        max_reservations_per_peer: MAX_CONNECTIONS_PER_PEER as usize,
        reservation_duration: Duration::from_secs(3600),
        reservation_rate_limiters: Vec::new(),
        max_circuits: MAX_CIRCUITS,
        max_circuits_per_peer: MAX_CIRCUITS_PER_PEER,
        max_circuit_duration: CIRCUIT_DURATION,
        max_circuit_bytes: CIRCUIT_BYTES,
        circuit_src_rate_limiters: Vec::new(),
    };
    // Strangers get neither reservation nor circuit, or this is an open relay.
    let gate = || -> Box<dyn relay::RateLimiter> {
        let mirror = mirror.clone();
        Box::new(move |peer: PeerId, _: &Multiaddr, _| admits(&mirror, &peer))
    };
    config.reservation_rate_limiters.push(gate());
    config.circuit_src_rate_limiters.push(gate());
    config
        .reservation_rate_per_peer(burst(PEER_BURST), BURST_INTERVAL)
        .reservation_rate_per_ip(burst(IP_BURST), BURST_INTERVAL)
        .circuit_src_per_peer(burst(PEER_BURST), BURST_INTERVAL)
        .circuit_src_per_ip(burst(IP_BURST), BURST_INTERVAL)
}

fn members_only(mirror: &Mirror) -> kanpachi_transport::selective::Admits {
    let mirror = mirror.clone();
    Arc::new(move |peer| admits(&mirror, peer))
}

/// Is this peer one of the organisation's, as far as the mirror knows?
pub(crate) fn admits(mirror: &Mirror, peer: &PeerId) -> bool {
    node_id(peer).is_some_and(|node| mirror.admits(&node))
}
