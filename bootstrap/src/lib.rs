//! The fixed point of an organisation's DHT: Kademlia server, address reflector, relay for signalling and for data, and
//! mirror of rosters. A library, so that `kanpachi host` runs it in one process with the coordinator, and a program.
//!
//! Everything is on one UDP port (QUIC and reflector datagrams) and the same TCP port; a second UDP port serves only to tell nodes
//! what their NATs let in. The bootstrap can read no roster's private halves and no peer record; it judges by signatures and
//! public halves only.

mod behaviour;
pub mod cli;
mod config;
mod datagrams;
mod error;
mod handle;
mod mirror;
mod places;
mod reflector;
pub mod relay;
mod server;
pub mod state_dir;

pub use config::{Config, DEFAULT_PORT};
pub use error::StartError;
pub use handle::{Bootstrap, Handle, RemoteLookup};
pub use mirror::Mirror;
pub use relay::Relay;
