//! The daemon as a service of systemd: the unit file, the user it runs as, and starting and ending it.
//!
//! Everything is done below a root directory, which is `/` except in tests and for whoever builds an image. Each step
//! looks first whether there is anything to do, so that a second call changes nothing.

mod accounts;
mod program;

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::fcntl::{Flock, FlockArg};

pub use program::ProgramError;

/// The unit as it is shipped. Only the line that starts the program differs from machine to machine.
const UNIT: &str = include_str!("../../../../packaging/kanpachi.service");
/// The line in it that is replaced.
const START: &str = "ExecStart=/usr/bin/kanpachi up\n";
/// Its file name.
pub const UNIT_NAME: &str = "kanpachi.service";
/// User and group of the daemon. Who is in the group may change things over the control socket.
pub const ACCOUNT: &str = super::super::CONTROL_GROUP;
/// Where the administrator's units are.
const OWN_UNITS: &str = "etc/systemd/system";
/// Where packages and `make install` put theirs.
const PACKAGED_UNITS: [&str; 3] = [
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
const STATE: &str = "var/lib/kanpachi";
const RUNTIME: &str = "run/kanpachi";

/// Why a service could not be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The program is in no place that a service may run it from.
    #[error(transparent)]
    Program(#[from] ProgramError),

    /// Somebody put something else where the unit goes.
    #[error("{} is a symbolic link, so nothing is written there: if the service is masked, `systemctl unmask kanpachi`", path.display())]
    Link {
        /// Where.
        path: PathBuf,
    },

    /// A daemon that this service does not control.
    #[error("another daemon is running: stop it with `kanpachi down`")]
    Running,

    /// No program here makes system users.
    #[error(
        "the user {ACCOUNT} cannot be made, since there is neither `useradd` nor `adduser`: make a system user and a group of that name"
    )]
    NoUserTool,

    /// A system program failed.
    #[error("`{command}` failed: {said}")]
    Tool {
        /// As it was called.
        command: String,
        /// What it wrote to standard error.
        said: String,
    },

    /// The system said no.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// An infinitive.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, ServiceError>;

/// Puts a place into an I/O error.
fn at<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ServiceError + 'a {
    move |source| ServiceError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The unit in force after an installation, or the one that was removed; `None` when there was none.
    pub unit: Option<PathBuf>,
    /// Whether systemd runs here, and so started or stopped the service.
    pub systemd: bool,
}

/// A system whose services are changed.
#[derive(Clone, Debug)]
pub struct System {
    root: PathBuf,
}

impl System {
    /// This system, or the one below `root`.
    #[must_use]
    pub fn new(root: Option<PathBuf>) -> Self {
        Self {
            root: root.unwrap_or_else(|| PathBuf::from("/")),
        }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The control socket of the service.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path(RUNTIME).join("kanpachi.sock")
    }

    /// Installs the service of the running program and starts it where systemd runs.
    ///
    /// # Errors
    /// One sentence. What was done until then stays; a second call goes on from there.
    pub fn install(&self, interface: Option<&str>) -> Result<Done> {
        let program = program::running(&self.root)?;
        let systemctl = self.systemctl();
        if self.answers() && !systemctl.as_ref().is_some_and(Systemctl::is_active) {
            return Err(ServiceError::Running);
        }
        accounts::make(&self.root)?;
        let text = unit(&program, interface);
        let (path, changed) = self.write_unit(&text)?;
        if let Some(systemctl) = &systemctl {
            systemctl.run(&["daemon-reload"])?;
            systemctl.run(&["enable", UNIT_NAME])?;
            systemctl.run(&[if changed { "restart" } else { "start" }, UNIT_NAME])?;
        }
        Ok(Done {
            unit: Some(path),
            systemd: systemctl.is_some(),
        })
    }

    /// Stops the service and removes its unit; with `purge` also its state and its user.
    ///
    /// # Errors
    /// One sentence. What was done until then stays; a second call goes on from there.
    pub fn uninstall(&self, purge: bool) -> Result<Done> {
        let own = self.path(OWN_UNITS).join(UNIT_NAME);
        let there = fs::symlink_metadata(&own).is_ok();
        let systemctl = self.systemctl();
        if let Some(systemctl) = &systemctl
            && (there || self.packaged().is_some())
        {
            systemctl.run(&["disable", "--now", UNIT_NAME])?;
        }
        if purge && self.answers() {
            return Err(ServiceError::Running);
        }
        if there {
            fs::remove_file(&own).map_err(at("remove", &own))?;
        }
        if let Some(systemctl) = &systemctl {
            systemctl.run(&["daemon-reload"])?;
            // Says no when there is nothing to forget.
            let _ = systemctl.run(&["reset-failed", UNIT_NAME]);
        }
        self.sweep_runtime()?;
        if purge {
            self.purge_state()?;
            accounts::remove(&self.root)?;
        }
        Ok(Done {
            unit: there.then_some(own),
            systemd: systemctl.is_some(),
        })
    }

    /// Whether a daemon answers where the service's would.
    fn answers(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok()
    }

    /// systemd, if it is what runs this system. Below another root its `systemctl` is taken, never that of `/`.
    fn systemctl(&self) -> Option<Systemctl> {
        self.path("run/systemd/system").is_dir().then(|| {
            let program = if self.is_real() {
                PathBuf::from("systemctl")
            } else {
                self.path("usr/bin/systemctl")
            };
            Systemctl(program)
        })
    }

    /// A unit that came with a package.
    fn packaged(&self) -> Option<PathBuf> {
        let paths = PACKAGED_UNITS.map(|dir| self.path(dir).join(UNIT_NAME));
        paths.into_iter().find(|path| path.is_file())
    }

    /// Writes the unit unless a package has the same, and tells whether that changed anything. A new file is renamed
    /// into place: what was there before is never written through.
    fn write_unit(&self, text: &str) -> Result<(PathBuf, bool)> {
        let directory = self.path(OWN_UNITS);
        let path = directory.join(UNIT_NAME);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => return Err(ServiceError::Link { path }),
            Ok(_) if fs::read_to_string(&path).is_ok_and(|old| old == text) => {
                return Ok((path, false));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let packaged = self.packaged();
                if let Some(packaged) = packaged
                    && fs::read_to_string(&packaged).is_ok_and(|old| old == text)
                {
                    return Ok((packaged, false));
                }
            }
            Err(error) => return Err(at("look at", &path)(error)),
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&directory)
            .map_err(at("make", &directory))?;
        let temporary = directory.join(format!(".{UNIT_NAME}.new"));
        let write = || -> io::Result<()> {
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(at("write", &path))?;
        Ok((path, true))
    }

    /// Removes the socket that a daemon left behind when it was killed, and its directory.
    fn sweep_runtime(&self) -> Result<()> {
        let socket = self.socket();
        let left = fs::symlink_metadata(&socket).is_ok_and(|meta| meta.file_type().is_socket());
        if self.answers() {
            return Ok(());
        }
        if left {
            fs::remove_file(&socket).map_err(at("remove", &socket))?;
        }
        // Not empty, or not there: then it stays as it is.
        let _ = fs::remove_dir(self.path(RUNTIME));
        Ok(())
    }

    /// Removes keys and database, while no daemon can take them up.
    fn purge_state(&self) -> Result<()> {
        let state = self.path(STATE);
        match fs::symlink_metadata(&state) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(at("look at", &state)(error)),
            Ok(meta) if meta.is_symlink() => return Err(ServiceError::Link { path: state }),
            Ok(_) => {}
        }
        let lock = state.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&lock);
        let _held = match file.map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock)) {
            Ok(Ok(held)) => Some(held),
            Ok(Err(_)) => return Err(ServiceError::Running),
            // No daemon was ever there, or what is there is no lock of one.
            Err(_) => None,
        };
        fs::remove_dir_all(&state).map_err(at("remove", &state))
    }
}

/// The unit for a program.
fn unit(program: &str, interface: Option<&str>) -> String {
    let options = interface
        .map(|name| format!(" --interface {name}"))
        .unwrap_or_default();
    UNIT.replace(START, &format!("ExecStart={program}{options} up\n"))
}

/// The way to systemd.
#[derive(Debug)]
struct Systemctl(PathBuf);

impl Systemctl {
    fn run(&self, args: &[&str]) -> Result<()> {
        tool(&self.0, args)
    }

    fn is_active(&self) -> bool {
        self.run(&["is-active", "--quiet", UNIT_NAME]).is_ok()
    }
}

/// Runs a system program to its end.
fn tool(program: &Path, args: &[&str]) -> Result<()> {
    let command = || format!("{} {}", program.display(), args.join(" "));
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| ServiceError::Tool {
            command: command(),
            said: error.to_string(),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(ServiceError::Tool {
        command: command(),
        said: if said.is_empty() {
            output.status.to_string()
        } else {
            said.chars().take(500).collect()
        },
    })
}

#[cfg(test)]
mod tests;
