//! Attackers, built from the same formats as the real programs but without their manners.
//!
//! They have what a thief would have: the identity of a coordinator's machine, everything it stored, or the keys of a
//! member. None of them has the organisation's signing key at hand when it forges.

mod coordinator;
mod dht;
mod guest;
mod member;
pub mod packet;
mod relay;
mod signals;
mod stolen;
mod tunnel;

pub use coordinator::{Greeting, Impostor};
pub use dht::{DhtPeer, seeds_near, stolen_secret};
pub use guest::{Guest, Target};
pub use member::{answer_members, ask_member};
pub use relay::RelayGuest;
pub use signals::SignalGuest;
pub use stolen::{NodeKeys, StolenCoordinator};
pub use tunnel::HostileMember;

/// For whoever has no tunnels.
#[derive(Debug)]
pub struct Silent;

impl kanpachi_transport::DatagramHandler for Silent {
    fn handle(&mut self, _: std::net::SocketAddr, _: &mut [u8]) {}
}
