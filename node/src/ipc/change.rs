//! What is asked of a change to a network before the daemon sees it: names are names, passwords are passwords, and a
//! change changes something.

use kanpachi_common::{Password, name};

use super::{
    api::{ChangeRequest, NetworkRequest, Secret},
    error::{ApiError, ExitCode, code},
    query::check_target,
};

impl ChangeRequest {
    /// Name of the network, and what was typed for the member that it is about.
    #[must_use]
    pub fn parts(&self) -> (&str, Option<&str>) {
        match self {
            Self::Leave { network, heir } => (network, heir.as_deref()),
            Self::Evict {
                network, member, ..
            }
            | Self::Approve { network, member }
            | Self::Reject { network, member }
            | Self::SetRole {
                network, member, ..
            } => (network, Some(member)),
            Self::Delete { network }
            | Self::SetPassword { network, .. }
            | Self::SetAccess { network, .. }
            | Self::GoOnline { network }
            | Self::GoOffline { network } => (network, None),
        }
    }

    fn network_mut(&mut self) -> &mut String {
        match self {
            Self::Leave { network, .. }
            | Self::Delete { network }
            | Self::Evict { network, .. }
            | Self::SetPassword { network, .. }
            | Self::SetAccess { network, .. }
            | Self::Approve { network, .. }
            | Self::Reject { network, .. }
            | Self::SetRole { network, .. }
            | Self::GoOnline { network }
            | Self::GoOffline { network } => network,
        }
    }

    /// Checks everything in it and brings names and passwords to their one form.
    ///
    /// # Errors
    /// `bad_name` or `usage`, exit code 2.
    pub(super) fn check(&mut self) -> Result<(), ApiError> {
        check_network(self.network_mut())?;
        if let (_, Some(member)) = self.parts() {
            check_target(member)?;
        }
        match self {
            Self::Evict {
                password: Some(password),
                ..
            }
            | Self::SetPassword {
                password: Some(password),
                ..
            } => check_password(password),
            Self::SetAccess {
                locked: None,
                approval: None,
                ..
            } => Err(ApiError::usage(
                "say what is to change: locked, approval, or both",
            )),
            _ => Ok(()),
        }
    }
}

impl NetworkRequest {
    /// As [`ChangeRequest::check`].
    pub(super) fn check(&mut self) -> Result<(), ApiError> {
        check_network(&mut self.network)?;
        self.password.as_mut().map_or(Ok(()), check_password)
    }
}

/// What the rest of the program says of a text that is no name.
pub(super) fn bad_name(error: name::NameError) -> ApiError {
    ApiError::new(ExitCode::Usage, code::BAD_NAME, error)
}

fn check_network(network: &mut String) -> Result<(), ApiError> {
    *network = name::check(network).map_err(bad_name)?;
    Ok(())
}

fn check_password(password: &mut Secret) -> Result<(), ApiError> {
    let checked = Password::new(password.expose()).map_err(ApiError::usage)?;
    *password = zeroize::Zeroizing::<String>::from(checked).into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn names_and_passwords_arrive_in_their_one_form() {
        let mut request = NetworkRequest {
            network: "cafe\u{301}".to_owned(),
            password: Some(secret("cafe\u{301}")),
        };
        request.check().unwrap();
        assert_eq!(request.network, "caf\u{e9}");
        assert_eq!(request.password.unwrap().expose(), "caf\u{e9}");
    }

    #[test]
    fn a_change_that_makes_no_sense_never_reaches_the_daemon() {
        let lan = || "lan".to_owned();
        let wrong = [
            ChangeRequest::Delete {
                network: "a b".to_owned(),
            },
            ChangeRequest::SetAccess {
                network: lan(),
                locked: None,
                approval: None,
            },
            ChangeRequest::Approve {
                network: lan(),
                member: String::new(),
            },
            ChangeRequest::Leave {
                network: lan(),
                heir: Some("x".repeat(10_000)),
            },
            ChangeRequest::SetPassword {
                network: lan(),
                password: Some(secret("")),
            },
            ChangeRequest::Evict {
                network: lan(),
                member: "lamp".to_owned(),
                password: Some(secret("two\nlines")),
            },
        ];
        for mut request in wrong {
            let error = request.check().unwrap_err();
            assert_eq!(error.exit, ExitCode::Usage, "{request:?}");
        }
        let mut removal = ChangeRequest::SetPassword {
            network: lan(),
            password: None,
        };
        removal.check().unwrap();
    }
}
