//! Why a bootstrap does not start. Each is one sentence that says what to do.

use std::{io, path::PathBuf};

use thiserror::Error;

/// See the module.
#[derive(Debug, Error)]
pub enum StartError {
    /// Another program has the port.
    #[error(
        "{protocol} port {port} is in use by another program: stop that program or choose another port"
    )]
    PortInUse {
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// The port.
        port: u16,
    },
    /// The system does not allow the port.
    #[error(
        "{protocol} port {port} needs more rights than this process has: choose a port above 1023 or start it as root"
    )]
    PortForbidden {
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// The port.
        port: u16,
    },
    /// Listening failed for another reason.
    #[error("cannot listen on {protocol} port {port}: {source}")]
    Listen {
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// A name to advertise leads nowhere.
    #[error(
        "the address to advertise, {host}, cannot be looked up ({source}): check its spelling and this machine's DNS"
    )]
    Advertise {
        /// What was given.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged: restore it from a backup, or move it away to start over", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Another process uses the state directory.
    #[error("another program uses {}: stop it or choose another --state-dir", path.display())]
    StateDirInUse {
        /// The directory.
        path: PathBuf,
    },
    /// The state directory is of another organisation.
    #[error("{} belongs to organisation {found}, not {wanted}: choose another --state-dir", path.display())]
    OtherOrganisation {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who was asked for.
        wanted: String,
    },
    /// Nobody said which organisation.
    #[error("no organisation is known yet: say which one to serve with --org ID or --invite LINK")]
    NoOrganisation,
    /// The transport cannot be built.
    #[error(transparent)]
    Transport(#[from] kanpachi_transport::swarm::Error),
    /// The operating system refused something basic.
    #[error("the operating system refused to start it: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    /// Sorts the error of a port.
    pub(crate) fn listen(protocol: &'static str, port: u16, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::PortInUse { protocol, port },
            io::ErrorKind::PermissionDenied => Self::PortForbidden { protocol, port },
            _ => Self::Listen {
                protocol,
                port,
                source,
            },
        }
    }

    /// A stable name for programs that read the error as JSON.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::PortInUse { .. } => "port_in_use",
            Self::PortForbidden { .. } => "no_permission",
            Self::Damaged { .. } => "state_damaged",
            Self::StateDirInUse { .. } => "daemon_running",
            Self::OtherOrganisation { .. } => "other_organisation",
            Self::NoOrganisation => "usage",
            Self::Listen { .. }
            | Self::Advertise { .. }
            | Self::File { .. }
            | Self::Transport(_)
            | Self::System(_) => "failed",
        }
    }

    /// Exit code of a program that ends with it: 1 failed, 2 usage, 3 no permission, 5 refused.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoOrganisation => 2,
            Self::PortForbidden { .. } => 3,
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 3,
            Self::OtherOrganisation { .. } => 5,
            _ => 1,
        }
    }
}
