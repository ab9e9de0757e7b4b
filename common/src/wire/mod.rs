//! Messages between programs. Framing: `length (4 bytes, big endian) ‖ CBOR`, see [`frame`].

pub mod code;
pub mod control;
pub mod frame;
pub mod kademlia;
pub mod member;
pub mod membership;
pub mod mirror;
pub mod reflect;
pub mod relay;
pub mod showing;

/// Lowest protocol version that this program speaks.
pub const MIN_VERSION: u16 = 1;
/// Highest protocol version that this program speaks.
pub const MAX_VERSION: u16 = 1;

/// The version that two ranges have in common, the highest if several.
#[must_use]
pub fn negotiate(min: u16, max: u16) -> Option<u16> {
    let common = max.min(MAX_VERSION);
    (common >= min.max(MIN_VERSION)).then_some(common)
}
