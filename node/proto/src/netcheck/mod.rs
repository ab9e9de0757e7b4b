//! What the network in front of this node does to its datagrams: asked of reflectors, told by their answers.
//!
//! [`Asker`] repeats questions until they are answered or given up. The daemon has one for the shared socket, whose
//! public address it keeps true. [`Check`] finds out mapping, filtering and hairpinning of one address family, on two
//! sockets of its own: the shared one talks to the reflectors all the time, and what a NAT lets through says nothing
//! there.

mod asker;
mod check;
#[cfg(test)]
mod tests;

pub use asker::{Answered, Asker, MAX_OPEN};
pub use check::{Check, Outcome, Reached, Transmit, Which};
