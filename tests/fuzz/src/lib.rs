//! Fuzz targets: one function for each decoder that faces a stranger.
//!
//! A target takes any bytes and panics when something does not hold. `corpus/NAME` has small inputs for each, valid
//! ones and damaged ones, and one for every fault that was found this way; `tests/replay.rs` runs them and damaged
//! copies of them, the same in every run. `make fuzz T=NAME` goes on from there, with libFuzzer where cargo-fuzz is
//! installed ([`libfuzzer/`](https://llvm.org/docs/LibFuzzer.html) has its entry points) and blindly where it is not.

pub mod corpus;
pub mod mutate;
pub mod targets;

/// A target by its name.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What `make fuzz T=` calls it, and the folder of its corpus.
    pub name: &'static str,
    /// What is done with the bytes.
    pub run: fn(&[u8]),
    /// Damaged copies of each input that `make test` tries: fewer of what takes long.
    pub rounds: usize,
    /// Folders below `common/tests/corpus` whose files are inputs, too.
    pub borrowed: &'static [&'static str],
}

macro_rules! targets {
    ($($module:ident::$name:ident, $rounds:literal $(, $borrowed:literal)*;)*) => {
        /// All targets.
        pub const ALL: &[Target] = &[$(Target {
            name: stringify!($name),
            run: targets::$module::$name,
            rounds: $rounds,
            borrowed: &[$($borrowed),*],
        }),*];
    };
}

targets! {
    tunnel::tunnel_datagram, 300;
    tunnel::tunnel_payload, 300;
    tunnel::tunnel_control, 300;
    packet::inner_packet, 2000;
    fragments::reassembly, 2000;
    datagram::reflector, 2000;
    datagram::relay, 2000;
    router::router, 1000;
    stream::frames, 400, "any", "client", "mirror-request";
    stream::messages, 400, "any", "client", "server", "mirror-request", "mirror-reply", "code-request", "code-reply", "relay";
    stream::kademlia, 2000;
    objects::objects, 400, "any", "manifest", "directory", "head", "suspend", "peer-record", "outer-record", "proof",
        "roster", "page", "delta", "public-roster";
    texts::invite, 2000, "invite";
    texts::names, 2000;
    values::values, 2000;
    values::command_line, 60;
    code::code_session, 200;
    control::control_body, 1000;
    records::record_policy, 1000, "outer-record";
    records::record_open, 300, "outer-record", "peer-record";
    bootstrap::mirror, 100, "any", "mirror-request";
    sessions::coordinator_session, 12, "client";
    sessions::node_session, 8, "server";
}

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    ALL.iter().find(|target| target.name == name)
}

/// Runs the target of this name on some bytes.
///
/// # Panics
/// When there is no such target, or when something does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = find(name).unwrap_or_else(|| panic!("there is no target {name}"));
    (target.run)(data);
}
