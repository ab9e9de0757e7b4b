//! Traffic between hosts of the lab, checked at both ends.

pub mod cast;
pub mod ping;
pub mod tcp;
pub mod udp;
