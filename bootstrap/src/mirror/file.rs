//! The mirror's file: CBOR, replaced as a whole.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use kanpachi_common::{
    Signed, UnixTime, cbor,
    org::{Directory, Manifest},
    roster::PublicRoster,
    wire::mirror::Mirrored,
};
use serde::{Deserialize, Serialize};

use super::state::State;
use crate::{
    StartError,
    state_dir::{beside, write},
};

/// Version of the format.
const VERSION: u16 = 1;
/// Longest file that is read, in bytes. Far above what 256 networks of usual size take.
const MAX_LEN: usize = 512 << 20;

#[derive(Serialize, Deserialize)]
struct Contents {
    version: u16,
    manifest: Signed<Manifest>,
    directory: Signed<Directory>,
    networks: Vec<(Signed<Manifest>, PublicRoster)>,
    /// Not in files of before.
    #[serde(default)]
    forgotten_until: Option<UnixTime>,
}

/// Reads the file into an empty state. No file is an empty mirror. A damaged one is moved aside: this is a copy of what the
/// coordinator has, which brings it back as soon as it runs. Until then nobody can be told from a member.
pub(super) fn load(path: &Path, state: &mut State) -> Result<(), StartError> {
    let failed = |source| StartError::File {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => {
            file.take(MAX_LEN as u64 + 1)
                .read_to_end(&mut bytes)
                .map_err(failed)?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    }
    let mut read = State::new(*state.org());
    match restore(&bytes, &mut read) {
        Ok(()) => *state = read,
        Err(why) => {
            let aside = beside(path, "damaged");
            fs::rename(path, &aside).map_err(failed)?;
            tracing::warn!(
                "the mirror in {} was damaged ({why}); it is now {}, and until the coordinator brings its contents back everybody counts as a member here",
                path.display(),
                aside.display()
            );
        }
    }
    Ok(())
}

fn restore(bytes: &[u8], state: &mut State) -> Result<(), String> {
    let contents: Contents = cbor::decode(bytes, MAX_LEN).map_err(|e| e.to_string())?;
    if contents.version != VERSION {
        return Err(format!("version {}", contents.version));
    }
    for (manifest, roster) in &contents.networks {
        state.restore(manifest, roster)?;
    }
    let verdict = state.put(&Mirrored {
        manifest: contents.manifest,
        directory: contents.directory,
        roster: None,
    });
    if verdict.changed {
        // At the end: what is in the file was taken in before.
        state.forget_until(contents.forgotten_until.unwrap_or(UnixTime(0)));
        Ok(())
    } else {
        Err(format!("{:?}", verdict.reply))
    }
}

/// Writes the state. After a crash there is the old file or the new one.
pub(super) fn save(path: &Path, state: &State) -> io::Result<()> {
    let Some((manifest, directory, networks)) = state.contents() else {
        return Ok(());
    };
    let bytes = cbor::encode(&Contents {
        version: VERSION,
        manifest: manifest.clone(),
        directory: directory.clone(),
        networks: networks
            .map(|network| (network.manifest.clone(), network.roster.clone()))
            .collect(),
        forgotten_until: Some(state.forgotten_until()),
    });
    write(path, &bytes)
}
