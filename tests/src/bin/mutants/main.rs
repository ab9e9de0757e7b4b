//! `make mutants`: faults are put into a copy of the source, and named tests must find each of them.
//!
//! All faults are built at once, each behind a look at the environment, so that one build serves for all. Without a
//! fault each test must pass, with it the test must fail. A fault whose place is not in the source any more is an
//! error: it moves with the code. An argument runs only the groups, faults and tests that
//! have it in their names.

#![expect(
    clippy::print_stdout,
    reason = "this program is a report on standard output"
)]

mod bench;
mod cores;
mod dht;
mod fault;
mod members;
mod mtu;
mod nat;
mod promises;
mod recovery;
mod relay;
mod rest;
mod shows;
mod situations;
mod spread;

use std::{collections::BTreeSet, path::Path, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};

use crate::{
    bench::{Bench, Outcome},
    fault::{Fault, Finder},
};

/// All faults, in the order in which they are put into the source.
const GROUPS: &[(&str, &[Fault])] = &[
    ("cores", cores::FAULTS),
    ("peer records, the DHT", dht::FAULTS),
    ("the main job", shows::FAULTS),
    ("membership, service, floods", members::FAULTS),
    ("recovery, suspensions, presence", recovery::FAULTS),
    ("from member to member", spread::FAULTS),
    ("situations, schedules, clocks, codes", situations::FAULTS),
    ("relay of data", relay::FAULTS),
    ("sizes of paths", mtu::FAULTS),
    ("networks, forwarded ports", nat::FAULTS),
    ("nodes at rest", rest::FAULTS),
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("mutants: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `true` when everything was found.
fn run() -> Result<bool> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = tests.parent().context("the workspace above")?;
    let all: Vec<&Fault> = GROUPS.iter().flat_map(|(_, faults)| *faults).collect();
    println!("building a copy with {} faults", all.len());
    let bench = Bench::new(root, &all)?;
    let only = std::env::args().nth(1).unwrap_or_default();
    let wanted = |group: &str, fault: &Fault, finder: &Finder| {
        let title = finder.title();
        [group, fault.name, &title]
            .iter()
            .any(|name| name.contains(&only))
    };
    let (mut passing, mut failing) = (BTreeSet::new(), BTreeSet::new());
    let (mut found, mut asked) = (0, 0);
    for (group, faults) in GROUPS {
        println!("\n{group}");
        for fault in *faults {
            for finder in fault.finders.iter().filter(|f| wanted(group, fault, f)) {
                if !passing.contains(finder) && !failing.contains(finder) {
                    let well = bench.test(finder, "")? == Outcome::Passed;
                    let set = if well { &mut passing } else { &mut failing };
                    set.insert(*finder);
                }
                asked += 1;
                found += u32::from(tried(&bench, fault, finder, failing.contains(finder))?);
            }
        }
    }
    println!("\n{found} of {asked} found");
    for promise in promises::untried(&tests.join("tests"), &all)? {
        println!("no fault is for {promise}");
    }
    println!("what the tests said: {}", bench.logs().display());
    Ok(found == asked)
}

/// Runs a test with a fault and prints a line; `true` when it was found.
fn tried(bench: &Bench, fault: &Fault, finder: &Finder, fails_anyway: bool) -> Result<bool> {
    let begin = Instant::now();
    let outcome = if fails_anyway {
        None
    } else {
        Some(bench.test(finder, fault.name)?)
    };
    let word = match outcome {
        Some(Outcome::Failed) => "found",
        Some(Outcome::Passed) => "NOT FOUND",
        Some(Outcome::Missing) => "no such test",
        Some(Outcome::Hung) => "does not end",
        None => "fails anyway",
    };
    let (name, seconds, title) = (fault.name, begin.elapsed().as_secs(), finder.title());
    println!("  {name:<44} {word:<12} {seconds:>3} s  {title}");
    Ok(outcome == Some(Outcome::Failed))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use super::*;

    #[test]
    fn every_fault_has_its_place_in_the_source() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = root.parent().expect("the workspace above");
        let (mut files, mut lost) = (BTreeMap::new(), Vec::new());
        for fault in GROUPS.iter().flat_map(|(_, faults)| *faults) {
            for edit in fault.edits {
                let source = files.entry(edit.0);
                let source =
                    source.or_insert_with(|| fs::read(root.join(edit.0)).unwrap_or_default());
                match fault.put(edit, source.clone()) {
                    Ok(changed) => *source = changed,
                    Err(error) => lost.push(error.to_string()),
                }
            }
        }
        assert!(lost.is_empty(), "{lost:#?}");
    }
}
