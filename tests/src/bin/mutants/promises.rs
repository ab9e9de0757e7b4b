//! The promises: the tests whose program has `show` in its name. Each should be seen failing.

use std::{fs, io, path::Path};

use crate::fault::{Fault, Finder};

/// Titles of the promises under `tests/tests` that no fault is for.
pub(crate) fn untried(folder: &Path, faults: &[&Fault]) -> io::Result<Vec<String>> {
    let mut untried = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|name| name.to_str());
        let Some(program) = stem.filter(|name| name.contains("show")) else {
            continue;
        };
        let source = if path.is_dir() {
            path.join("main.rs")
        } else {
            path.clone()
        };
        for test in tests_in(&fs::read_to_string(source)?) {
            let is_it = |f: &&Finder| f.program == program && f.test == test;
            let mut finders = faults.iter().flat_map(|fault| fault.finders);
            if finders.all(|f| !is_it(&f)) {
                untried.push(format!("{program}: {test}"));
            }
        }
    }
    untried.sort();
    Ok(untried)
}

/// Names of the tests in a source text.
fn tests_in(source: &str) -> impl Iterator<Item = &str> {
    let after = source.split("#[test]\nfn ").skip(1);
    after.filter_map(|text| text.split_once('(').map(|(name, _)| name))
}
