//! Kanpachi on every machine: the I/O shells of the node and its command line. The protocol itself is in
//! `kanpachi-proto`.

pub mod cli;
pub mod clock;
pub mod daemon;
pub mod dataplane;
#[cfg(feature = "host")]
pub mod host;
pub mod ipc;
mod lan;
pub mod options;
pub mod platform;
mod portmap;
