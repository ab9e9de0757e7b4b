//! Settings of QUIC: libp2p's TLS, and limits for a server that strangers can reach.

use std::{sync::Arc, time::Duration};

use libp2p::identity::Keypair;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::HashedConnectionIdGenerator;

use super::Error;
use crate::queue::MAX_PACKET;

/// A handshake that takes longer has failed. Long enough for three retransmissions on a slow path.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without a packet for this long is dead: two keepalives, with their repetitions, of which nothing came. Long,
/// because a flood of tunnel packets delays QUIC; who has to know sooner asks itself, as the session with a coordinator does.
const IDLE_TIMEOUT_MS: u32 = 65_000;
/// Pause after which whoever made a connection sends a packet to keep it and the NAT's mapping: the acknowledgement does the
/// same for the other end. It is put off to the next beat (`runtime`), so that it comes every 25 s: under the 30 s that strict
/// NATs keep a mapping (RFC 4787 REQ-5 asks for 2 minutes, many do less).
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(12);
/// First guess of the round-trip time; lost first packets of a handshake are repeated after three times as long.
/// RFC 9002 suggests 333 ms; a hole is punched by such packets, so the wait for the second one matters here.
const INITIAL_RTT: Duration = Duration::from_millis(150);
/// Streams that a peer may have open at once.
const MAX_STREAMS: u32 = 256;
/// Bytes in flight on one stream. Nothing here moves bulk data over QUIC; rosters are at most a few MiB.
const STREAM_WINDOW: u32 = 1 << 20;
/// Bytes in flight on one connection.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Connection attempts that wait for their turn; more are refused.
const MAX_INCOMING: usize = 512;
/// Bytes kept of one such attempt, and of all of them.
const INCOMING_BUFFER: u64 = 16 << 10;
const INCOMING_BUFFER_TOTAL: u64 = 4 << 20;

/// The three parts of quinn's configuration.
pub(super) struct Config {
    pub(super) client: quinn::ClientConfig,
    pub(super) server: quinn::ServerConfig,
    pub(super) endpoint: quinn::EndpointConfig,
}

impl Config {
    /// # Errors
    /// [`Error::Tls`] when no certificate can be made of the key.
    pub(super) fn new(keypair: &Keypair) -> Result<Self, Error> {
        let tls = |e: &dyn std::fmt::Display| Error::Tls(e.to_string());
        // libp2p-tls names its crypto provider (aws-lc-rs) in both configurations, with X25519MLKEM768 first: no
        // process-wide default is asked for, of which there is none with two providers in the tree.
        let mut client = libp2p_tls::make_client_config(keypair, None).map_err(|e| tls(&e))?;
        let mut server = libp2p_tls::make_server_config(keypair).map_err(|e| tls(&e))?;
        // It also honours SSLKEYLOGFILE. A daemon has no business writing its session keys to a file.
        client.key_log = Arc::new(rustls::NoKeyLog);
        server.key_log = Arc::new(rustls::NoKeyLog);
        let client = QuicClientConfig::try_from(client).map_err(|e| tls(&e))?;
        let server = QuicServerConfig::try_from(server).map_err(|e| tls(&e))?;

        let mut client = quinn::ClientConfig::new(Arc::new(client));
        let mut keeps = transport();
        keeps.keep_alive_interval(Some(KEEP_ALIVE));
        client.transport_config(Arc::new(keeps));
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
        server
            .transport_config(Arc::new(transport()))
            // A node that got another address, or another port from its NAT, keeps its sessions with servers: without
            // this they would be dead for as long as it takes both ends to notice.
            .migration(true)
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BUFFER)
            .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL);
        Ok(Self {
            client,
            server,
            endpoint: endpoint(keypair)?,
        })
    }
}

fn transport() -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_uni_streams(0u32.into())
        .max_concurrent_bidi_streams(MAX_STREAMS.into())
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(quinn::VarInt::from_u32(IDLE_TIMEOUT_MS).into()))
        .initial_rtt(INITIAL_RTT)
        // Looking for the path's MTU is a dozen packets on each connection, there and back, and again every ten minutes. 1200 bytes
        // go through everywhere, and what there is of bulk data does not take QUIC, or only until a better way is there.
        .mtu_discovery_config(None)
        .allow_spin(false)
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into());
    transport
}

fn endpoint(keypair: &Keypair) -> Result<quinn::EndpointConfig, Error> {
    // Both keys come from the identity, so a process that was killed and started again can tell its old peers at
    // once that their connections are gone (stateless reset, RFC 9000 §10.3) instead of after their idle timeout.
    let secret = |domain: &[u8]| {
        keypair
            .derive_secret(domain)
            .ok_or_else(|| Error::Tls("no secret can be derived of this kind of key".to_owned()))
    };
    let reset = secret(b"libp2p quic stateless reset key")?;
    let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &reset);
    let cids = secret(b"kanpachi quic connection ids")?;
    let cids = u64::from_be_bytes(*cids.first_chunk().expect("8 of 32 bytes"));

    let mut endpoint = quinn::EndpointConfig::new(Arc::new(reset));
    endpoint
        .supported_versions(vec![1])
        // The bit that greasing clears is the one that tells QUIC from tunnel packets.
        .grease_quic_bit(false)
        .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cids)));
    endpoint
        .max_udp_payload_size(MAX_PACKET)
        .map_err(|e| Error::Tls(e.to_string()))?;
    Ok(endpoint)
}
