//! Rosters: who is a member of a network, and how that is proved.
//!
//! A [`Head`] is signed. It commits to the settings and to every member entry by a Merkle root, so that a whole
//! roster, a change to one, or the membership of a single node are all proved by the same signature.

mod body;
mod entry;
mod head;
mod proof;
mod settings;
mod suspend;

pub use body::{Delta, MAX_MEMBERS, Page, PublicRoster, Roster, RosterError, VerifiedRoster};
pub use entry::{Caps, Entry, EntryError, MAX_PREFIXES, Member, Private, Public};
pub use head::{Freshness, HARD_SECONDS, Head, Position, SOFT_SECONDS};
pub use proof::{Proof, ProofError, Proved};
pub use settings::{ACCESS_EXT, Access, NetworkType, Settings};
pub use suspend::Suspend;

#[cfg(test)]
mod tests;
