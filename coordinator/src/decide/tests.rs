//! The core with a real store in memory and a virtual clock.

mod claims;
mod guesses;
mod lab;
mod membership;
mod presence;
mod random;
mod recovery;
mod rosters;
mod sessions;
