//! The formats: test vectors of `docs/protocol.md`, and every decoder against hostile bytes.

mod corpus;
mod decoders;
mod fixture;
mod memory;
mod messages;
mod mutate;
mod page;
mod vectors;
