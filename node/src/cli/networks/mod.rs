//! The verbs that change networks: what is typed ([`args`]) becomes one request to the daemon.

pub mod args;

use std::path::Path;

use super::password::{self, Asker};
use crate::ipc::{
    api::{ChangeRequest, NetworkRequest, Secret},
    error::{ApiError, ExitCode, code},
    query::check_invite,
};
use args::{AccessWord, NetworkCommand, Role};
use kanpachi_common::{invite::SCHEME, name};

/// What one of these verbs asks of the daemon.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// A new network.
    Create(NetworkRequest),
    /// A change to one.
    Change(ChangeRequest),
    /// To be there, or not.
    LoggedIn(bool),
}

/// Makes the request, with the passwords that it needs.
///
/// # Errors
/// Exit code 2: what was typed makes no sense, or a password cannot be had.
pub(super) fn order(command: NetworkCommand, asker: &dyn Asker) -> Result<Order, ApiError> {
    let change = match command {
        NetworkCommand::Login => return Ok(Order::LoggedIn(true)),
        NetworkCommand::Logout => return Ok(Order::LoggedIn(false)),
        NetworkCommand::Create { network, password } => {
            let password = created(&network, password.password_file.as_deref(), asker)?;
            return Ok(Order::Create(NetworkRequest { network, password }));
        }
        NetworkCommand::Leave { network, heir } => ChangeRequest::Leave { network, heir },
        NetworkCommand::Delete { network } => ChangeRequest::Delete { network },
        NetworkCommand::Evict {
            network,
            member,
            set_password,
            password,
        } => {
            let file = password.password_file;
            let password = match file {
                None if !set_password => None,
                file => Some(changed(&network, file.as_deref(), asker)?),
            };
            ChangeRequest::Evict {
                network,
                member,
                password,
            }
        }
        NetworkCommand::SetPassword {
            network,
            password,
            remove,
        } => {
            let password = match remove {
                true => None,
                false => Some(changed(&network, password.password_file.as_deref(), asker)?),
            };
            ChangeRequest::SetPassword { network, password }
        }
        NetworkCommand::SetAccess { network, words } => access(network, &words)?,
        NetworkCommand::Approve { network, member } => ChangeRequest::Approve { network, member },
        NetworkCommand::Reject { network, member } => ChangeRequest::Reject { network, member },
        NetworkCommand::SetRole {
            network,
            member,
            role,
        } => ChangeRequest::SetRole {
            network,
            member,
            owner: role == Role::Owner,
        },
        NetworkCommand::GoOnline { network } => ChangeRequest::GoOnline { network },
        NetworkCommand::GoOffline { network } => ChangeRequest::GoOffline { network },
    };
    Ok(Order::Change(change))
}

/// The request to join a network by its password.
///
/// # Errors
/// Exit code 2: there is no password.
pub(super) fn join(
    network: String,
    file: Option<&Path>,
    asker: &dyn Asker,
) -> Result<NetworkRequest, ApiError> {
    let password = match file {
        Some(file) => password::from_file(file)?,
        None if asker.can_ask() => {
            password::checked(&asker.ask(&format!("Password of {network}: "))?)?
        }
        None => {
            return Err(
                ApiError::usage(format_args!(
                    "to join the network {network} its password is needed"
                ))
                .hint(format_args!(
                    "kanpachi join {network} --password-file FILE, or `-` for standard input; if an invite was meant, it begins with kanpachi://join/"
                )),
            );
        }
    };
    Ok(NetworkRequest {
        network,
        password: Some(password),
    })
}

/// Words of a new network: an empty answer is no password.
fn created(
    network: &str,
    file: Option<&Path>,
    asker: &dyn Asker,
) -> Result<Option<Secret>, ApiError> {
    match file {
        Some(file) => password::from_file(file).map(Some),
        None if asker.can_ask() => {
            let question =
                format!("Password for {network} (empty for none: then by invite only): ");
            password::twice(&question, asker)
        }
        None => Ok(None),
    }
}

/// A new password, which must be one.
fn changed(network: &str, file: Option<&Path>, asker: &dyn Asker) -> Result<Secret, ApiError> {
    let none = || {
        ApiError::usage("there is no new password").hint(format_args!(
            "give one by --password-file, or take it away: kanpachi set-password {network} --remove"
        ))
    };
    match file {
        Some(file) => password::from_file(file),
        None if asker.can_ask() => {
            password::twice(&format!("New password for {network}: "), asker)?.ok_or_else(none)
        }
        None => Err(none()),
    }
}

/// `lock manual`, `auto unlock`, `lock`: each of the two settings at most once.
fn access(network: String, words: &[AccessWord]) -> Result<ChangeRequest, ApiError> {
    let (mut locked, mut approval) = (None, None);
    for word in words {
        let (setting, value) = match word {
            AccessWord::Lock => (&mut locked, true),
            AccessWord::Unlock => (&mut locked, false),
            AccessWord::Manual => (&mut approval, true),
            AccessWord::Auto => (&mut approval, false),
        };
        if setting.replace(value).is_some() {
            return Err(
                ApiError::usage("the two words are about the same thing").hint(format_args!(
                    "one of lock and unlock, one of manual and auto: kanpachi set-access {network} unlock manual"
                )),
            );
        }
    }
    Ok(ChangeRequest::SetAccess {
        network,
        locked,
        approval,
    })
}

/// What the argument of `join` is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Standard input has the invite.
    Stdin,
    /// An invite.
    Invite(Secret),
    /// A name in its one form.
    Network(String),
}

/// An invite is what begins like one or is one; everything else is the name of a network.
///
/// # Errors
/// `bad_invite`, exit code 2. What was typed may be half an invite, so it is not repeated.
pub(super) fn target(text: &str) -> Result<Target, ApiError> {
    let trimmed = text.trim();
    if trimmed == "-" {
        return Ok(Target::Stdin);
    }
    match (check_invite(trimmed), name::check(trimmed)) {
        (Ok(()), _) => Ok(Target::Invite(Secret::new(trimmed.to_owned()))),
        (Err(error), _) if trimmed.starts_with(SCHEME) => Err(error),
        (Err(_), Ok(name)) => Ok(Target::Network(name)),
        (Err(_), Err(_)) => Err(ApiError::new(
            ExitCode::Usage,
            code::BAD_INVITE,
            "this is neither a Kanpachi invite nor the name of a network",
        )
        .hint(
            "put an invite between single quotes, or pass it on standard input: kanpachi join -",
        )),
    }
}

#[cfg(test)]
mod tests;
