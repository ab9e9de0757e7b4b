//! How Kanpachi's programs reach each other: one UDP port for libp2p's QUIC and for tunnel datagrams.
//!
//! - [`socket`]: the shared socket, for senders of both kinds;
//! - [`demux`]: its only reader, a plain thread that hands tunnel datagrams on in place and QUIC packets to quinn;
//! - [`quic`]: a libp2p transport over quinn on that socket, interoperable with libp2p-quic;
//! - [`swarm`]: the whole stack (QUIC, TCP, circuits) as one libp2p transport and swarm;
//! - [`reflect`]: the datagrams by which a node learns its address as others see it;
//! - [`gated`], [`selective`]: protocols that are for known peers only;
//! - [`relay_client`]: the asking end of circuit relay, which must not end the swarm;
//! - [`streams`]: streams by protocol name, none of which is lost when many come at once;
//! - [`pinned`]: streams on a connection of one's choice;
//! - [`pings`]: liveness of TCP connections, which NATs forget;
//! - [`routing`]: how much of where a peer is goes into the routing table of the DHT;
//! - [`alarm`]: timers that wake a thread no oftener than they have to;
//! - [`observed`], [`remotes`], [`filter`], [`identity`], [`resolve`]: small parts that every swarm here needs.
//!
//! The first byte decides: bit `0x40` set is QUIC (RFC 9000 §17: the fixed bit), clear is ours. The registry of
//! our first bytes stands in `docs/protocol.md`.

pub mod budget;
pub mod demux;
pub mod filter;
pub mod gated;
mod gso;
pub mod identity;
mod linger;
pub mod observed;
pub mod pings;
pub mod pinned;
pub mod priority;
mod proxy;
mod queue;
pub mod quic;
pub mod relay_client;
pub mod remotes;
pub mod resolve;
pub mod routing;
pub mod selective;
pub mod socket;
pub mod streams;
pub mod swarm;
mod used;
mod websocket;
mod yamux;

pub use budget::DialBudget;
pub use demux::{DatagramHandler, Reader};
pub use filter::AddressFilter;
pub use futures_timer::alarm;
pub use gated::Gated;
pub use identity::{
    ed25519_from_peer_id, keypair_from_seed, node_id, peer_id, peer_id_from_ed25519,
};
pub use kanpachi_common::wire::reflect;
pub use linger::Expected;
pub use proxy::{Proxy, ProxyError};
pub use relay_client::RelayClient;
pub use resolve::resolve;
pub use selective::Selective;
pub use socket::{Counters, SharedSocket};
