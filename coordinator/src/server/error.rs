//! Why a coordinator does not start. Each is one sentence that says what to do.

use std::io;

use kanpachi_common::name::NameError;
use thiserror::Error;

use crate::{
    org::OrgError,
    service::ServiceError,
    store::{Refusal, StoreError},
};

/// See the module.
#[derive(Debug, Error)]
pub enum StartError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The organisation.
    #[error(transparent)]
    Organisation(#[from] OrgError),
    /// The service.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The network's name is none.
    #[error("--network {0:?}: {1}")]
    Network(String, NameError),
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
    /// The transport cannot be built.
    #[error(transparent)]
    Transport(#[from] kanpachi_transport::swarm::Error),
    /// The operating system refused something basic.
    #[error("the operating system refused to start it: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    /// Sorts the error of a port.
    pub(super) fn listen(protocol: &'static str, port: u16, source: io::Error) -> Self {
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

    /// The store's error, wherever it came through.
    fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error)
            | Self::Organisation(OrgError::Store(error))
            | Self::Service(ServiceError::Store(error)) => Some(error),
            _ => None,
        }
    }

    /// A stable name for programs that read the error as JSON.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match (self, self.store()) {
            (_, Some(StoreError::Full)) => "disk_full",
            (_, Some(StoreError::InUse(_))) => "daemon_running",
            (_, Some(StoreError::Damaged(_))) => "state_damaged",
            (_, Some(StoreError::ReadOnly | StoreError::Newer { .. } | StoreError::Path(_))) => {
                "state_unreadable"
            }
            (Self::Network(..) | Self::Organisation(OrgError::Pool { .. }), _) => "usage",
            (Self::PortInUse { .. }, _) => "port_in_use",
            (Self::PortForbidden { .. }, _) => "no_permission",
            (Self::Service(ServiceError::Recovery(_)), _)
            | (_, Some(StoreError::Refused(Refusal::RecoveryIncomplete))) => "recovery",
            (_, Some(StoreError::Refused(Refusal::NoRecovery))) => "no_recovery",
            _ => "failed",
        }
    }

    /// Exit code of a program that ends with it: 1 failed, 2 usage, 3 no permission, 5 refused.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self, self.store()) {
            (_, Some(StoreError::ReadOnly)) | (Self::PortForbidden { .. }, _) => 3,
            (_, Some(StoreError::InUse(_) | StoreError::Newer { .. })) => 5,
            (Self::Organisation(OrgError::Pool { .. }), _) => 5,
            (Self::Service(ServiceError::Recovery(_)), _) | (_, Some(StoreError::Refused(_))) => 5,
            (Self::Network(..), _) => 2,
            _ => 1,
        }
    }
}
