//! The database file: where it is, who may read it, and that only one coordinator has it open.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::store::{Result, StoreError};

/// Name of the database in the state directory.
pub const DATABASE: &str = "coordinator.db";
/// Name of the file that the running coordinator holds a lock on.
pub const LOCK: &str = "coordinator.lock";

/// A state directory that belongs to this process until the value is dropped.
#[derive(Debug)]
pub(super) struct StateDir {
    /// The database, in a directory without symbolic links.
    pub(super) database: PathBuf,
    // Held open for the lock alone; the kernel drops it with the process, however that ends.
    _lock: File,
}

impl StateDir {
    /// Takes the directory, made when it is missing: mode 0700, the files in it 0600, nothing behind a symbolic link.
    pub(super) fn take(dir: &Path) -> Result<Self> {
        match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
            Ok(()) => {}
            Err(e) => return Err(at(dir, &e)),
        }
        // The engine refuses symbolic links anywhere in the path, so those above the directory are resolved here.
        let dir = dir.canonicalize().map_err(|e| at(dir, &e))?;
        close_to_others(&dir, 0o700)?;
        let lock_path = dir.join(LOCK);
        let lock = private_file(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(StoreError::InUse(dir.display().to_string()));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(at(&lock_path, &e)),
        }
        let database = dir.join(DATABASE);
        drop(private_file(&database)?);
        // The engine gives its side files the mode of the database; ones that lie there already are checked.
        for suffix in ["-wal", "-shm", "-journal"] {
            let side = dir.join(format!("{DATABASE}{suffix}"));
            if no_link(&side)? {
                close_to_others(&side, 0o600)?;
            }
        }
        Ok(Self {
            database,
            _lock: lock,
        })
    }
}

/// Opens a file that only its owner may read, made when it is missing. Never through a symbolic link.
fn private_file(path: &Path) -> Result<File> {
    no_link(path)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .map_err(|e| at(path, &e))?;
    close_to_others(path, 0o600)?;
    Ok(file)
}

/// Is there a file? An error when it is a symbolic link or no file.
fn no_link(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_symlink() => Err(StoreError::Path(format!(
            "{} is a symbolic link: the coordinator keeps its database in a file of its own, remove the link",
            path.display()
        ))),
        Ok(meta) if !meta.is_file() => Err(StoreError::Path(format!(
            "{} is not a file: remove it",
            path.display()
        ))),
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(at(path, &e)),
    }
}

/// Takes from group and others what they may not have, whatever the umask was.
fn close_to_others(path: &Path, mode: u32) -> Result<()> {
    let meta = path.symlink_metadata().map_err(|e| at(path, &e))?;
    if meta.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(|e| at(path, &e))
}

fn at(path: &Path, error: &std::io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full,
        ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly,
        ErrorKind::PermissionDenied => StoreError::Path(format!(
            "no permission for {}: run as its owner, or choose another state directory",
            path.display()
        )),
        _ => StoreError::Path(format!("cannot use {}: {error}", path.display())),
    }
}
