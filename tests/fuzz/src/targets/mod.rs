//! The targets, by what they feed.

pub mod bootstrap;
pub mod code;
pub mod control;
pub mod datagram;
pub mod fragments;
pub mod objects;
pub mod packet;
pub mod records;
pub mod router;
pub mod sessions;
pub mod stream;
pub mod texts;
pub mod tunnel;
pub mod values;
