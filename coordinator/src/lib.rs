//! The coordinator: login, addresses, membership and presence of one organisation.
//!
//! - [`store`]: what must survive. One transaction per intent; heads are signed inside it.
//! - [`org`]: root key, signing key, manifest.
//! - [`decide`]: sessions and presence as a state machine without clock, socket or disk.
//! - [`recover`]: how the operator ends a recovery.
//! - [`server`]: all of it with a swarm of its own, and [`cli`] around that.
//! - [`service`]: streams in front of it, the store behind it.

pub mod addresses;
pub mod cli;
pub mod clock;
pub mod decide;
pub mod org;
pub mod password;
pub mod recover;
pub mod server;
pub mod service;
pub mod store;
mod turns;
