//! The simulator: nodes and a coordinator in one thread, with a virtual clock and a seeded virtual network.
//!
//! Every state machine is the real one: [`Login`](kanpachi_proto::login::Login),
//! [`Rosters`](kanpachi_proto::roster::Rosters), [`Tunnels`](kanpachi_proto::tunnel::Tunnels) with its sessions and
//! replay windows, the coordinator's [`Core`](kanpachi_coordinator::decide::Core) and its SQLite store. What is
//! simulated is what surrounds them: clocks, disks of nodes, datagrams, control streams. [`node`] composes the
//! machines as the daemon's core task does.
//!
//! Nothing here reads a clock, the environment or the system's random numbers, so a run is a function of its seed:
//! the same seed gives the same [`log`](log::Log), line by line. After every step the [`invariants`] are checked.

pub mod clock;
pub mod coordinator;
pub mod disk;
pub mod forge;
pub mod inner;
pub mod invariants;
pub mod log;
pub mod net;
pub mod node;
pub mod scenario;
pub mod schedule;
pub mod sleep;
pub mod traffic;
pub mod world;

pub use net::Weather;
pub use world::{Plan, World};
