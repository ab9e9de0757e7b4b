//! What can be said without asking anybody: the list, which member is meant by a name or an address, and whether a text
//! is an invite at all.

use std::net::IpAddr;

use kanpachi_common::{
    ClientId,
    invite::{Invite, InviteError},
    name,
};

use super::{
    api::{ListReply, Member, PeerReply, Status},
    error::{ApiError, ExitCode, code},
};

/// Longest target that is looked at, in bytes: a name of 63 characters in any script, a node id or an address.
const MAX_TARGET: usize = 512;
/// Names in a hint at the most.
const MAX_NAMES: usize = 8;

impl Status {
    /// The networks and their members.
    #[must_use]
    pub fn list(self) -> ListReply {
        ListReply {
            networks: self.networks,
            waiting: self.waiting,
            logged_in: self.logged_in,
        }
    }

    /// The member with this name (in either case), virtual address, node id or client id.
    ///
    /// # Errors
    /// Nobody, this machine itself, or more than one.
    pub fn find(&self, target: &str) -> Result<PeerReply, ApiError> {
        check_target(target)?;
        let wanted = Wanted::new(target);
        let mut found: Option<PeerReply> = None;
        for network in &self.networks {
            for member in network.members.iter().filter(|member| wanted.is(member)) {
                match &mut found {
                    None => {
                        found = Some(PeerReply {
                            peer: member.clone(),
                            networks: vec![network.name.clone()],
                        })
                    }
                    Some(reply) if reply.peer.node_id == member.node_id => {
                        reply.networks.push(network.name.clone())
                    }
                    Some(reply) => return Err(ambiguous(target, &reply.peer, member)),
                }
            }
        }
        found.ok_or_else(|| self.nobody(target, &wanted))
    }

    fn nobody(&self, target: &str, wanted: &Wanted<'_>) -> ApiError {
        if self.networks.is_empty() {
            return ApiError::refused(code::NOT_JOINED, "this machine is in no network yet")
                .hint("kanpachi join INVITE");
        }
        let own_address =
            |ip| self.ipv4.map(IpAddr::from) == Some(ip) || self.ipv6.map(IpAddr::from) == Some(ip);
        let own = match wanted {
            Wanted::Address(ip) => own_address(*ip),
            Wanted::Name {
                folded,
                exact,
                client,
            } => {
                *exact == self.node_id
                    || is_client(client.as_deref(), &self.client_id)
                    || self
                        .name
                        .as_deref()
                        .is_some_and(|own| name::fold(own) == *folded)
            }
        };
        if own {
            return ApiError::refused(
                code::UNKNOWN_PEER,
                format_args!("{target} is this machine itself"),
            )
            .hint("kanpachi status");
        }
        let mut names: Vec<&str> = self
            .networks
            .iter()
            .flat_map(|n| &n.members)
            .map(|m| m.name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        let hint = match names.len() {
            0 => "nobody else is in your networks yet; invite somebody: kanpachi invite NETWORK"
                .to_owned(),
            1..=MAX_NAMES => format!("members are: {}", names.join(", ")),
            _ => "kanpachi list shows all members".to_owned(),
        };
        ApiError::refused(
            code::UNKNOWN_PEER,
            format_args!("no member is called {target:?}"),
        )
        .hint(hint)
    }
}

/// Can this be meant for a member?
///
/// # Errors
/// `usage`, exit code 2.
pub fn check_target(target: &str) -> Result<(), ApiError> {
    if target.is_empty() || target.len() > MAX_TARGET {
        return Err(ApiError::usage(
            "a member is given by its name, its virtual address, its client id or its node id",
        ));
    }
    Ok(())
}

/// Is this an invite at all? Whether it is still good is for the coordinator to say.
///
/// # Errors
/// `bad_invite`, exit code 2.
pub fn check_invite(text: &str) -> Result<(), ApiError> {
    let hint = |error: &InviteError| match error {
        InviteError::Version(_) => "a newer Kanpachi made this invite",
        InviteError::NotAnInvite | InviteError::Damaged => {
            "put it between single quotes, or pass it on standard input: kanpachi join -"
        }
    };
    Invite::parse(text).map(drop).map_err(|error| {
        ApiError::new(ExitCode::Usage, code::BAD_INVITE, &error).hint(hint(&error))
    })
}

fn ambiguous(target: &str, one: &Member, other: &Member) -> ApiError {
    ApiError::refused(
        code::AMBIGUOUS_PEER,
        format_args!("{target:?} is the name of different members in different networks"),
    )
    .hint(format_args!(
        "use the address instead: {} or {}",
        address(one),
        address(other)
    ))
}

fn address(member: &Member) -> String {
    member
        .ipv4
        .map(|ip| ip.to_string())
        .or_else(|| member.ipv6.map(|ip| ip.to_string()))
        .unwrap_or_else(|| member.node_id.clone())
}

/// What was typed, made comparable once.
enum Wanted<'a> {
    Address(IpAddr),
    Name {
        folded: String,
        exact: &'a str,
        /// The same as a client id in its one form, if it is one. Nobody can keep others from taking one as a name, so
        /// both are looked at, and two that fit are ambiguous.
        client: Option<String>,
    },
}

fn is_client(wanted: Option<&str>, id: &str) -> bool {
    wanted.is_some_and(|wanted| wanted == id)
}

impl<'a> Wanted<'a> {
    fn new(target: &'a str) -> Self {
        match target.parse() {
            Ok(ip) => Self::Address(ip),
            Err(_) => Self::Name {
                folded: name::fold(target),
                exact: target,
                client: target.parse().ok().map(|id: ClientId| id.to_string()),
            },
        }
    }

    fn is(&self, member: &Member) -> bool {
        match self {
            Self::Address(IpAddr::V4(ip)) => member.ipv4 == Some(*ip),
            Self::Address(IpAddr::V6(ip)) => member.ipv6 == Some(*ip),
            Self::Name {
                folded,
                exact,
                client,
            } => {
                member.node_id == *exact
                    || is_client(client.as_deref(), &member.client_id)
                    || name::fold(&member.name) == *folded
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::sample;

    #[test]
    fn a_member_is_found_by_name_address_and_node_id() {
        let status = sample::status();
        for target in [
            "küche",
            "KÜCHE",
            "198.19.20.30",
            "fd6b:616e:7061:1::2",
            "12D3KooWKitchen",
            "091-111-222",
            "091111222",
        ] {
            let found = status.find(target).unwrap();
            assert_eq!(found.peer.name, "Küche", "{target}");
            assert_eq!(found.networks, ["lan", "office"]);
        }
    }

    #[test]
    fn whoever_is_not_found_gets_a_helpful_sentence() {
        let status = sample::status();
        let error = status.find("kitchen").unwrap_err();
        assert_eq!(error.to_string(), r#"no member is called "kitchen""#);
        assert_eq!(
            error.hint.as_deref(),
            Some("members are: Küche, lamp, サーバー")
        );
        for own in ["desk", "198.19.4.5", "090-736-821"] {
            assert_eq!(
                status.find(own).unwrap_err().to_string(),
                format!("{own} is this machine itself")
            );
        }
        assert_eq!(status.find("").unwrap_err().code, code::USAGE);
        assert_eq!(
            status.find(&"x".repeat(10_000)).unwrap_err().code,
            code::USAGE
        );
        let alone = Status {
            networks: Vec::new(),
            ..status
        };
        assert_eq!(alone.find("lamp").unwrap_err().code, code::NOT_JOINED);
    }

    #[test]
    fn what_is_no_invite_is_told_before_anything_is_touched() {
        for text in [
            "",
            "hello",
            "https://example.org/#abc",
            "kanpachi://join/lan",
            "kanpachi://join/lan#AAAA",
        ] {
            let error = check_invite(text).unwrap_err();
            assert_eq!(
                (error.exit, error.code.as_str()),
                (ExitCode::Usage, code::BAD_INVITE),
                "{text}"
            );
        }
    }

    #[test]
    fn one_name_for_two_members_is_not_guessed() {
        let mut status = sample::status();
        let mut other = status.networks[0].members[1].clone();
        other.node_id = "12D3KooWOther".to_owned();
        other.ipv4 = Some([198, 19, 9, 9].into());
        status.networks[1].members.push(other);
        // A name that is the client id of somebody else leads to neither.
        let mut posing = status.clone();
        posing.networks[0].members[1].name = "091-111-222".to_owned();
        assert_eq!(
            posing.find("091-111-222").unwrap_err().code,
            code::AMBIGUOUS_PEER
        );
        let error = status.find("lamp").unwrap_err();
        assert_eq!(error.code, code::AMBIGUOUS_PEER);
        assert_eq!(
            error.hint.as_deref(),
            Some("use the address instead: 198.19.77.1 or 198.19.9.9")
        );
    }
}
