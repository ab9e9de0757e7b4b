//! The fixed point of an organisation's DHT: Kademlia server, address reflector, relay for signalling, and mirror
//! of rosters. A library, so that `kanpachi host` runs it in one process with the coordinator, and a program.
//!
//! Everything is on one UDP port (QUIC and reflector datagrams) and the same TCP port. The bootstrap can read no
//! roster's private halves and no peer record; it judges by signatures and public halves only.

mod behaviour;
pub mod cli;
mod config;
mod error;
mod handle;
mod mirror;
pub mod policy;
mod reflector;
mod server;
pub mod state_dir;

pub use config::{Config, DEFAULT_PORT};
pub use error::StartError;
pub use handle::{Bootstrap, Handle, RemoteLookup};
pub use mirror::Mirror;
pub use policy::{RecordPolicy, SignedRecords};
