//! Tests of the whole state machine: two or three nodes on a simulated network with a virtual clock.

mod handshake;
mod hostile;
mod loss;
mod lured;
mod moves;
mod nats;
mod paths;
mod rekey;
mod rest;
mod sim;
mod vectors;
