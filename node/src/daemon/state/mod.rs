//! What the node keeps on disk: its keys, and a database of everything it was told.
//!
//! The directory belongs to one daemon at a time. Nothing is acted on before it is written; nothing here is ever
//! half-written: key files are renamed into place, the database is SQLite with a write-ahead log.

mod db;
mod keys;
mod records;
mod suspends;
mod waiting;
mod wishes;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

pub use db::{Database, KnownCandidate};
pub use keys::Keys;

use crate::ipc::error::{ApiError, code};

/// A state directory that this process owns until it drops this.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

/// Makes a state directory, mode 0700, unless it is there.
///
/// # Errors
/// One sentence.
pub fn create_dir(path: &Path) -> Result<(), ApiError> {
    if path.exists() {
        return Ok(());
    }
    let make = DirBuilder::new().recursive(true).mode(0o700).create(path);
    make.map_err(|e| io_error("create", path, &e))
}

/// The sentence for a symbolic link in the place of a state file.
fn is_a_link(path: &Path) -> ApiError {
    let message = format_args!("{} is a symbolic link", path.display());
    ApiError::no_permission(code::STATE_UNREADABLE, message)
        .hint("put the file itself there, or remove the link, and start again")
}

/// The sentence for an I/O error in the state directory.
fn io_error(what: &str, path: &Path, error: &io::Error) -> ApiError {
    // What O_NOFOLLOW says.
    if error.raw_os_error() == Some(libc::ELOOP) {
        return is_a_link(path);
    }
    let path = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ApiError::failed(
            code::DISK_FULL,
            format_args!("cannot {what} {path}: the disk is full"),
        )
        .hint("make room and start again; nothing was lost"),
        io::ErrorKind::ReadOnlyFilesystem => ApiError::failed(
            code::STATE_UNREADABLE,
            format_args!("cannot {what} {path}: the file system is read-only"),
        )
        .hint("choose another place with --state-dir"),
        io::ErrorKind::PermissionDenied => ApiError::no_permission(
            code::STATE_UNREADABLE,
            format_args!("cannot {what} {path}: permission denied"),
        )
        .hint("run it as root, or choose another place with --state-dir"),
        _ => ApiError::failed(
            code::STATE_UNREADABLE,
            format_args!("cannot {what} {path}: {error}"),
        ),
    }
}

impl StateDir {
    /// Opens the directory, makes it (mode 0700) when it is missing, and locks it.
    ///
    /// # Errors
    /// One sentence: another daemon has it, it is no directory of ours, or the system says no.
    pub fn open(path: &Path) -> Result<Self, ApiError> {
        create_dir(path)?;
        let meta = fs::symlink_metadata(path).map_err(|e| io_error("open", path, &e))?;
        if !meta.is_dir() {
            return Err(ApiError::failed(
                code::STATE_UNREADABLE,
                format_args!("{} is not a directory", path.display()),
            )
            .hint("choose another place with --state-dir"));
        }
        if meta.uid() == nix::unistd::geteuid().as_raw() && meta.permissions().mode() & 0o077 != 0 {
            // Keys live here: what a careless umask left open is closed.
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
                .map_err(|e| io_error("protect", path, &e))?;
        }
        let lock_path = path.join("lock");
        let file = options()
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|e| io_error("open", &lock_path, &e))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            if errno == nix::errno::Errno::EWOULDBLOCK {
                ApiError::refused(code::DAEMON_RUNNING, format_args!("another daemon is using {}", path.display()))
                    .hint("stop it with: kanpachi down; or give this one its own --state-dir, --socket and --interface")
            } else {
                io_error("lock", &lock_path, &errno.into())
            }
        })?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The place of a file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a small file; `None` when there is none. Symbolic links are not followed.
    fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, ApiError> {
        use io::Read as _;
        let path = self.file(name);
        let file = match OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path)
        {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("read", &path, &e)),
        };
        let mut out = Vec::new();
        file.take(max)
            .read_to_end(&mut out)
            .map_err(|e| io_error("read", &path, &e))?;
        Ok(Some(out))
    }

    /// Writes a small file so that it is there whole or not at all: a new file, synced, renamed, and the directory synced.
    fn write(&self, name: &str, contents: &[u8]) -> Result<(), ApiError> {
        let path = self.file(name);
        let temporary = self.file(&format!("{name}.new"));
        let write = || -> io::Result<()> {
            match fs::remove_file(&temporary) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut file = options().create_new(true).open(&temporary)?;
            file.write_all(contents)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|e| io_error("write", &path, &e))
    }
}

/// Read and write, mode 0600, no symbolic links.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    options
}

#[cfg(test)]
mod tests;
