//! Every target against its corpus and against damage to it that is the same in every run.

#![expect(
    clippy::unwrap_used,
    reason = "this program is a test; a failed assumption should end it"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use kanpachi_fuzz::{corpus, find, mutate::Damage};

/// Inputs are shown up to this length, in bytes.
const SHOWN: usize = 2048;

fn replay(name: &str) {
    let target = find(name).unwrap();
    let seeds = corpus::of(target).unwrap();
    let own = seeds.iter().filter(|(path, _)| path.starts_with(name));
    assert!(own.count() >= 2, "{name} has no corpus of its own");
    for (n, (path, bytes)) in seeds.iter().enumerate() {
        check(target.run, path, bytes);
        let mut damage = Damage::of(path, 0);
        for round in 0..target.rounds {
            let (_, lender) = &seeds[(n + round) % seeds.len()];
            let damaged = damage.apply(bytes, lender);
            check(target.run, &format!("{path}, damaged {round}"), &damaged);
        }
    }
}

/// Runs a target and says on which input it fell.
fn check(run: fn(&[u8]), what: &str, bytes: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| run(bytes))).is_err() {
        let shown = bytes[..bytes.len().min(SHOWN)].escape_ascii();
        panic!("{what} ({} bytes): b\"{shown}\"", bytes.len());
    }
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        #[test]
        fn every_target_is_replayed_and_has_an_entry_point() {
            let replayed = [$(stringify!($name)),*];
            for target in kanpachi_fuzz::ALL {
                let name = target.name;
                assert!(replayed.contains(&name), "{name} is not replayed");
                let entry = format!("{}/libfuzzer/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
                assert!(std::path::Path::new(&entry).is_file(), "{entry} is missing");
            }
        }
    };
}

replays! {
    tunnel_datagram tunnel_payload tunnel_control inner_packet reassembly reflector relay router frames messages kademlia objects invite names values
    command_line code_session control_body record_policy record_open mirror coordinator_session node_session
}
