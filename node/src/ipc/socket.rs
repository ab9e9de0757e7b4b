//! The socket file: made where nobody can play tricks, taken over from a daemon that died, and removed at the end.
//!
//! Everybody may connect (mode 0666), because everybody may read; who may change things is decided by the
//! credentials of each connection.

use std::{
    fs::{self, File},
    io,
    os::unix::{
        fs::{
            DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
            PermissionsExt as _,
        },
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::socket::{getsockopt, sockopt},
    unistd::geteuid,
};

use super::error::{ApiError, code};

/// Longest path that fits `sockaddr_un.sun_path` with its closing zero byte.
const MAX_PATH: usize = 107;
/// How long to wait for another daemon that is just making its socket.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A listening socket and its file. The file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

impl Socket {
    /// Makes the socket. Its directory is made too (mode 0755) if its parent exists.
    ///
    /// # Errors
    /// `daemon_running` when somebody answers there; a clear sentence for everything else that is in the way.
    pub fn bind(path: &Path) -> Result<Self, ApiError> {
        if path.as_os_str().len() > MAX_PATH {
            return Err(ApiError::usage(format_args!(
                "the socket path is longer than {MAX_PATH} bytes: {}",
                path.display()
            ))
            .hint("choose a shorter one with --socket"));
        }
        let directory = Directory::open(path)?;
        // Two daemons that start at the same time must not both find the stale file and both replace it.
        let _lock = directory.lock();
        make_room(path)?;
        let listener =
            UnixListener::bind(path).map_err(|e| cannot("make the control socket", path, &e))?;
        // From bind on nobody but the owner could connect, so the mode is only ever widened.
        let file = SocketFile::of(path).map_err(|e| cannot("make the control socket", path, &e))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))
            .map_err(|e| cannot("open up the control socket", path, &e))?;
        listener
            .set_nonblocking(true)
            .map_err(|e| cannot("make the control socket", path, &e))?;
        Ok(Self { listener, file })
    }

    /// The two parts: accept on the one, keep the other as long as the file shall exist.
    #[must_use]
    pub fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

/// The file of a socket. Removed on drop, unless somebody put something else in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: meta.dev(),
            inode: meta.ino(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| meta.dev() == self.device && meta.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "cannot remove the control socket");
        }
    }
}

/// The directory of the socket, known to be in the hands of the right people.
struct Directory(File);

impl Directory {
    fn open(socket: &Path) -> Result<Self, ApiError> {
        let path = match socket.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Err(ApiError::usage("the socket path names no file")),
        };
        match fs::DirBuilder::new().mode(0o755).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(cannot("make the directory of the control socket", path, &e));
            }
            Ok(()) | Err(_) => {}
        }
        let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(|e| cannot("open the directory", path, &e))?;
        let meta = file
            .metadata()
            .map_err(|e| cannot("look at the directory", path, &e))?;
        let ours = meta.uid() == 0 || meta.uid() == geteuid().as_raw();
        // In a directory that others can write to, the sticky bit keeps them from moving our file away.
        let shared = meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0;
        if !ours || shared {
            return Err(ApiError::refused(
                code::NO_PERMISSION,
                format_args!(
                    "others can replace files in {}, so no control socket is made there",
                    path.display()
                ),
            )
            .hint("choose a directory of root or of yourself with --socket"));
        }
        Ok(Self(file))
    }

    /// Held while the file is looked at and replaced. Anybody who can read the directory can hold it too, so patience
    /// has an end: then the race is open again, which is better than not starting.
    fn lock(self) -> Option<Flock<File>> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        let mut file = self.0;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Some(lock),
                Err((back, _)) if Instant::now() < deadline => file = back,
                Err((_, error)) => {
                    tracing::warn!(%error, "the directory of the control socket stays locked by somebody else");
                    return None;
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Removes what a dead daemon left. Anything else in the way is left alone.
fn make_room(path: &Path) -> Result<(), ApiError> {
    let kind = match fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(cannot("look at", path, &e)),
    };
    if !kind.is_socket() {
        let what = if kind.is_symlink() {
            "a symbolic link"
        } else {
            "a file that is no socket"
        };
        return Err(ApiError::refused(
            code::FAILED,
            format_args!(
                "{what} is where the control socket should be: {}",
                path.display()
            ),
        )
        .hint("remove it, or choose another path with --socket"));
    }
    match UnixStream::connect(path) {
        Ok(stream) => Err(running(path, peer(&stream))),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!("taking over the control socket of a daemon that died");
            fs::remove_file(path).map_err(|e| cannot("replace the control socket", path, &e))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(cannot("connect to", path, &e)),
    }
}

fn peer(stream: &UnixStream) -> Option<i32> {
    getsockopt(stream, sockopt::PeerCredentials)
        .ok()
        .map(|c| c.pid())
        .filter(|pid| *pid > 0)
}

fn running(path: &Path, pid: Option<i32>) -> ApiError {
    let who = pid
        .map(|pid| format!(" (process {pid})"))
        .unwrap_or_default();
    ApiError::refused(code::DAEMON_RUNNING, format_args!("another daemon{who} is running on {}", path.display()))
        .hint("stop it with `kanpachi down`, or give this one its own --state-dir, --socket and --interface")
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> ApiError {
    let message = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ApiError::no_permission(code::NO_PERMISSION, message)
                .hint("run it as root, or choose a directory of your own with --socket")
        }
        io::ErrorKind::StorageFull => {
            ApiError::failed(code::DISK_FULL, message).hint("make room and start again")
        }
        io::ErrorKind::NotFound => ApiError::failed(code::FAILED, message)
            .hint("its directory does not exist; choose another path with --socket"),
        _ => ApiError::failed(code::FAILED, message),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_socket_is_open_to_all_its_directory_is_not_and_the_end_is_clean() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/k.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o666);
        assert_eq!(mode(path.parent().unwrap()) & 0o022, 0);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_daemon_is_left_alone_and_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.sock");
        let first = Socket::bind(&path).unwrap();
        let error = Socket::bind(&path).unwrap_err();
        assert_eq!(error.code, code::DAEMON_RUNNING);
        assert!(
            error
                .message
                .contains(&format!("(process {})", std::process::id())),
            "{error}"
        );
        UnixStream::connect(&path).unwrap();

        // Death without a farewell: the listener closes, the file stays.
        let (listener, file) = first.into_parts();
        std::mem::forget(file);
        drop(listener);
        assert!(path.exists());
        let second = Socket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(second);
    }

    #[test]
    fn links_and_files_in_the_way_are_refused_and_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("precious");
        fs::write(&target, "data").unwrap();
        let link = dir.path().join("link.sock");
        symlink(&target, &link).unwrap();
        assert!(
            Socket::bind(&link)
                .unwrap_err()
                .message
                .starts_with("a symbolic link is where")
        );
        assert!(
            Socket::bind(&target)
                .unwrap_err()
                .message
                .starts_with("a file that is no socket is where")
        );
        assert_eq!(fs::read_to_string(&target).unwrap(), "data");
        let dangling = dir.path().join("dangling.sock");
        symlink(dir.path().join("nowhere"), &dangling).unwrap();
        assert!(Socket::bind(&dangling).is_err());
        assert!(!dir.path().join("nowhere").exists());
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused_unless_sticky() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(
            Socket::bind(&open.join("k.sock"))
                .unwrap_err()
                .message
                .starts_with("others can replace files in")
        );
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        Socket::bind(&open.join("k.sock")).unwrap();
    }

    #[test]
    fn a_path_too_long_or_without_its_directory_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let long = Socket::bind(&dir.path().join("x".repeat(108))).unwrap_err();
        assert_eq!(long.code, code::USAGE);
        let missing = Socket::bind(&dir.path().join("a/b/k.sock")).unwrap_err();
        assert!(missing.message.contains("No such file"), "{missing}");
    }

    #[test]
    fn what_somebody_else_put_there_later_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.sock");
        let socket = Socket::bind(&path).unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        fs::write(&path, "other").unwrap();
        drop(socket);
        assert_eq!(fs::read_to_string(&path).unwrap(), "other");
    }
}
