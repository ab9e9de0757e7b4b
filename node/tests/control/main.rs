//! The control socket and the command line on a real unix socket.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops where something is not as it should be"
)]

mod docs;
mod drill;
mod hamachi;
mod permissions;
mod program;
mod raw;
mod small;
mod socket;
mod terminal;
