//! The shared socket and the swarm on it, with real sockets on loopback.

#![expect(
    clippy::unwrap_used,
    reason = "this program is a test; a failed assumption should end it"
)]

mod gated;
mod pinned;
mod socket;
mod streams;
mod swarm;
mod util;
