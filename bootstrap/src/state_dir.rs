//! The state directory of a bootstrap that runs by itself: lock, identity, organisation.
//!
//! Files: `lock` (held while it runs), `identity.key` (32 bytes, mode 0600, made at first start), `organisation`
//! (its id as text), `mirror.cbor`.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use kanpachi_common::{OrgId, SecretKey};

use crate::StartError;

const LOCK: &str = "lock";
const IDENTITY: &str = "identity.key";
const ORGANISATION: &str = "organisation";

/// An open state directory. No second process opens it while this value lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Opens the directory, making it first where it is missing (mode 0700).
    ///
    /// # Errors
    /// [`StartError::StateDirInUse`], [`StartError::File`]
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).map_err(|e| failed(path, e))?;
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|e| failed(&lock_path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(StartError::StateDirInUse {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(e)) => Err(failed(&lock_path, e)),
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity key, made at first use.
    ///
    /// # Errors
    /// [`StartError::Damaged`], [`StartError::File`], [`StartError::System`]
    pub fn identity(&self) -> Result<SecretKey, StartError> {
        let path = self.path.join(IDENTITY);
        match read(&path, 33)? {
            Some(bytes) => match bytes.as_slice().try_into() {
                Ok(seed) => Ok(SecretKey::from_seed(seed)),
                // A new key would be a new bootstrap that no directory names: that is for a person to decide.
                Err(_) => Err(StartError::Damaged { path }),
            },
            None => {
                let key = SecretKey::generate().map_err(|e| io::Error::other(e.to_string()))?;
                write(&path, key.seed().as_slice()).map_err(|e| failed(&path, e))?;
                Ok(key)
            }
        }
    }

    /// The organisation that this directory is of: the one given, the one kept, or both if they agree.
    ///
    /// # Errors
    /// [`StartError::OtherOrganisation`], [`StartError::NoOrganisation`], [`StartError::Damaged`],
    /// [`StartError::File`]
    pub fn organisation(&self, given: Option<OrgId>) -> Result<OrgId, StartError> {
        let path = self.path.join(ORGANISATION);
        let Some(bytes) = read(&path, 256)? else {
            let org = given.ok_or(StartError::NoOrganisation)?;
            write(&path, format!("{org}\n").as_bytes()).map_err(|e| failed(&path, e))?;
            return Ok(org);
        };
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        let kept = OrgId::parse(text.trim()).ok_or(StartError::Damaged { path })?;
        match given {
            Some(wanted) if wanted != kept => Err(StartError::OtherOrganisation {
                path: self.path.clone(),
                found: kept.to_string(),
                wanted: wanted.to_string(),
            }),
            _ => Ok(kept),
        }
    }
}

fn failed(path: &Path, source: io::Error) -> StartError {
    StartError::File {
        path: path.to_owned(),
        source,
    }
}

/// At most `max` bytes of a file; `None` when there is none.
fn read(path: &Path, max: u64) -> Result<Option<Vec<u8>>, StartError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(path, e)),
    };
    let mut bytes = Vec::new();
    file.take(max)
        .read_to_end(&mut bytes)
        .map_err(|e| failed(path, e))?;
    Ok(Some(bytes))
}

/// Replaces a file atomically and durably, readable by its owner only: after a crash there is the old file or the
/// new one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = beside(path, "new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// The path with something appended to the file's name.
pub(crate) fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn identity_and_organisation_survive_and_are_guarded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let org = OrgId([1; 32]);
        let state = StateDir::open(&path).unwrap();
        assert!(matches!(
            StateDir::open(&path),
            Err(StartError::StateDirInUse { .. })
        ));
        assert!(matches!(
            state.organisation(None),
            Err(StartError::NoOrganisation)
        ));
        assert_eq!(state.organisation(Some(org)).unwrap(), org);
        let identity = state.identity().unwrap().node_id();
        let mode = fs::metadata(path.join(IDENTITY))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);

        drop(state);
        let state = StateDir::open(&path).unwrap();
        assert_eq!(state.organisation(None).unwrap(), org);
        assert_eq!(state.identity().unwrap().node_id(), identity);
        assert!(matches!(
            state.organisation(Some(OrgId([2; 32]))),
            Err(StartError::OtherOrganisation { .. })
        ));
        for (file, damage) in [
            (IDENTITY, &[1u8; 31][..]),
            (IDENTITY, &[1; 40]),
            (ORGANISATION, b"?"),
        ] {
            fs::write(path.join(file), damage).unwrap();
            let result = if file == IDENTITY {
                state.identity().map(drop)
            } else {
                state.organisation(None).map(drop)
            };
            assert!(matches!(result, Err(StartError::Damaged { .. })), "{file}");
            assert_eq!(
                fs::read(path.join(file)).unwrap(),
                damage,
                "nothing is overwritten"
            );
        }
    }
}
