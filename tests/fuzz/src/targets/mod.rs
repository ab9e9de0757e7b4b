//! The targets, by what they feed.

pub mod bootstrap;
pub mod control;
pub mod datagram;
pub mod objects;
pub mod packet;
pub mod sessions;
pub mod stream;
pub mod texts;
pub mod tunnel;
pub mod values;
