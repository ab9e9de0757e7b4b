//! The control socket: HTTP/1.1 and JSON on a unix socket, served by the daemon and used by the command line.
//!
//! - [`api`]: the JSON, a contract; [`error`]: the one error type and the exit codes
//! - [`control`]: what the daemon implements; [`drill`]: what a drill asks of it and tells; [`query`]: what is answered from its status; `change`: what is asked of
//!   a change before the daemon sees it
//! - [`socket`]: making the socket file safely; [`server`], [`client`]: the two ends

pub mod api;
pub mod client;
pub mod control;
pub mod drill;
pub mod error;
pub mod netcheck;
pub mod query;
pub mod server;
pub mod socket;

mod change;
mod routes;
#[cfg(test)]
pub(crate) mod sample;

pub use control::{Control, Drill, Pong};
pub use error::{ApiError, ExitCode};
