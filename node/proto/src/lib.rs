//! The sans-IO core of a node: tunnels, paths, rosters, login.
//!
//! State machines only. Inputs are `handle_*(input, now)`, outputs `poll_*`; after every input drain the outputs
//! to `None`, then arm the timer again. `now` never goes back. There is no clock, socket, lock, task or random
//! number of the system in here: time and seeds come in from outside, so a run can be repeated exactly.

pub mod login;
pub mod path;
pub mod roster;
pub mod tunnel;
