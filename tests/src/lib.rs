//! The lab: small networks of Linux network namespaces in which the real release binaries run.
//!
//! A test calls [`lab::run`], lays out hosts and routers with [`lab::Lab`], puts hosts behind NATs with [`nat`], starts
//! nodes with [`client::Node`], sends traffic with [`traffic`], watches the wire with [`capture`], and makes the network
//! bad with [`loss`] and [`wire`].
//! Nothing here sleeps to wait for an event: every wait is [`wait::eventually`], a condition with a limit.
//! [`sim`] is the other half: nodes and a coordinator in one thread, without any of that.
//!
//! The lab needs `CAP_NET_ADMIN` and an openable `/dev/net/tun`. Without them a lab test fails with one line that says so.

#![expect(
    clippy::print_stderr,
    reason = "the lab reports to whoever runs the tests"
)]

use std::sync::atomic::{AtomicBool, Ordering};

pub mod capture;
pub mod client;
pub mod disk;
pub mod hostile;
pub mod interrupt;
pub mod lab;
pub mod loss;
pub mod mesh;
pub mod nat;
pub mod netns;
pub mod process;
pub mod rng;
pub mod service;
pub mod shell;
pub mod sim;
pub mod sweep;
pub mod traffic;
pub mod wait;
pub mod wakeups;
pub mod wire;

static QUIET: AtomicBool = AtomicBool::new(false);

/// Prints a line for whoever reads the test's output.
pub fn note(text: impl std::fmt::Display) {
    if !QUIET.load(Ordering::Relaxed) {
        eprintln!("    {text}");
    }
}

/// No more notes: the caller tells its own story.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}
