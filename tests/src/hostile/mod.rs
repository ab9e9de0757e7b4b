//! Attackers, built from the same formats as the real programs but without their manners.
//!
//! They have what a thief would have: the identity of a coordinator's machine, everything it stored, or the keys of a
//! member. None of them has the organisation's signing key at hand when it forges.

mod coordinator;
mod guest;
pub mod packet;
mod stolen;
mod tunnel;

pub use coordinator::{Greeting, Impostor};
pub use guest::{Guest, Target};
pub use stolen::{NodeKeys, StolenCoordinator};
pub use tunnel::HostileMember;
