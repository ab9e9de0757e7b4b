//! The sans-IO core of a node: tunnels, paths, rosters and how they spread, peer records,
//! standing connections, login, codes.
//!
//! State machines only. Inputs are `handle_*(input, now)`, outputs `poll_*`; after every input drain the outputs
//! to `None`, then arm the timer again. `now` never goes back. There is no clock, socket, lock, task or random
//! number of the system in here: time and seeds come in from outside, so a run can be repeated exactly.

pub mod code;
pub mod login;
pub mod netcheck;
pub mod path;
pub mod portmap;
pub mod records;
pub mod relay;
pub mod roster;
pub mod spread;
pub mod standing;
pub mod tunnel;
