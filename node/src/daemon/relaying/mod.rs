//! A node that relays for the other members of its networks (`--relay`).
//!
//! The relay is the bootstrap's; what differs is who says who is a member: the rosters of this node. A program without
//! servers has no relay either.

#[cfg(feature = "host")]
mod known;
#[cfg(feature = "host")]
mod relay;
#[cfg(not(feature = "host"))]
#[path = "none.rs"]
mod relay;

pub(super) use relay::Relaying;
#[cfg(feature = "host")]
pub(crate) use relay::counts;
