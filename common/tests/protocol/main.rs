//! The formats: test vectors of `docs/protocol.md`, and every decoder against hostile bytes.

#![expect(
    clippy::unwrap_used,
    reason = "this program is a test; a failed assumption should end it"
)]

mod corpus;
mod decoders;
mod fixture;
mod memory;
mod messages;
mod mutate;
mod page;
mod records;
mod relays;
mod vectors;
