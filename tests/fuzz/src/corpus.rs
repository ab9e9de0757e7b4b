//! The files that every target starts from.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::Target;

/// An input and where it comes from.
pub type Seed = (String, Vec<u8>);

/// Where the corpus of a target is.
#[must_use]
pub fn folder(target: &Target) -> PathBuf {
    root().join("tests/fuzz/corpus").join(target.name)
}

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_owned()
}

/// All inputs of a target, its own and those that it borrows, in a fixed order.
///
/// # Errors
/// A folder or a file that cannot be read.
pub fn of(target: &Target) -> io::Result<Vec<Seed>> {
    let borrowed = root().join("common/tests/corpus");
    let borrowed = target.borrowed.iter().map(|name| borrowed.join(name));
    let mut seeds = Vec::new();
    for folder in borrowed.chain([folder(target)]) {
        let mut files = fs::read_dir(&folder)?
            .map(|entry| {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let short = folder.file_name().unwrap_or_default().to_string_lossy();
                Ok((format!("{short}/{name}"), fs::read(entry.path())?))
            })
            .collect::<io::Result<Vec<Seed>>>()?;
        files.sort();
        seeds.append(&mut files);
    }
    Ok(seeds)
}
