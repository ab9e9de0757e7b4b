//! Which network and which member people mean: names, addresses and ids, looked up in the rosters held.

use std::net::IpAddr;

use kanpachi_common::{
    ClientId, NodeId,
    name::fold,
    roster::{Caps, Member, VerifiedRoster},
};
use kanpachi_proto::roster::Rosters;

use crate::ipc::error::{ApiError, code};

/// The sentence for a name that no network has.
pub(super) fn unknown_network(name: &str) -> ApiError {
    ApiError::refused(
        code::UNKNOWN_NETWORK,
        format_args!("this machine is in no network called {name:?}"),
    )
    .hint("see which: kanpachi list")
}

/// The roster of the network of this name; upper and lower case are the same.
pub(super) fn network_called<'a>(
    rosters: &'a Rosters,
    name: &str,
) -> Result<&'a VerifiedRoster, ApiError> {
    let folded = fold(name);
    rosters
        .rosters()
        .find(|r| fold(&r.settings().name) == folded)
        .ok_or_else(|| unknown_network(name))
}

/// Is this node an owner of the network?
pub(super) fn is_owner(roster: &VerifiedRoster, node: &NodeId) -> bool {
    roster
        .member(node)
        .is_some_and(|me| me.caps.has(Caps::OWNER))
}

/// The member that is meant: by name, virtual address, node id or client id, whether it awaits approval or not. A text
/// that fits several members is refused rather than guessed at: a name may look like the client id of somebody else.
pub(super) fn member_called<'a>(
    members: impl Iterator<Item = &'a Member>,
    target: &str,
) -> Result<&'a Member, ApiError> {
    let folded = fold(target);
    let address: Option<IpAddr> = target.parse().ok();
    let node = NodeId::parse(target);
    let client: Option<ClientId> = target.parse().ok();
    let mut fitting = members.filter(|m| {
        fold(&m.name) == folded
            || address.is_some_and(|a| m.ipv4.map(IpAddr::from) == Some(a) || a == m.ipv6)
            || node == Some(m.node)
            || client == Some(m.client_id)
    });
    let Some(member) = fitting.next() else {
        return Err(ApiError::refused(
            code::UNKNOWN_PEER,
            format_args!("the network has no member called {target:?}"),
        )
        .hint("see who is: kanpachi list"));
    };
    if fitting.next().is_some() {
        return Err(ApiError::refused(
            code::AMBIGUOUS_PEER,
            format_args!("{target:?} fits more than one member of the network"),
        )
        .hint("use a node id or a virtual address instead: kanpachi list --json shows them"));
    }
    Ok(member)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::core::fixture::{MEMBERS, Org};

    #[test]
    fn a_member_is_found_by_its_name_its_addresses_and_both_of_its_ids() {
        let org = Org::new();
        let roster = org.roster(&MEMBERS);
        let members: Vec<&Member> = roster.members().collect();
        for wanted in &members {
            for text in [
                wanted.name.to_uppercase(),
                wanted.name.clone(),
                wanted.ipv4.unwrap().to_string(),
                wanted.ipv6.to_string(),
                wanted.node.to_string(),
                wanted.client_id.to_string(),
                wanted.client_id.to_string().replace('-', ""),
            ] {
                let found = member_called(members.iter().copied(), &text).unwrap();
                assert_eq!(found.node, wanted.node, "{text}");
            }
        }
        let error = member_called(members.iter().copied(), "nobody").unwrap_err();
        assert_eq!(error.code, code::UNKNOWN_PEER);
    }

    #[test]
    fn a_name_that_looks_like_the_client_id_of_somebody_else_is_not_guessed_at() {
        let org = Org::new();
        let of = |n| ClientId::of(&Org::node(n), 0).to_string();
        let (own, victim) = (of(1), of(3));
        let members = [
            (own.as_str(), Caps::OWNER),
            (&victim, Caps(0)),
            ("cleo", Caps(0)),
        ];
        let roster = org.roster(&members);
        // Its own client id as a name is no harm.
        let found = member_called(roster.members(), &own).unwrap();
        assert_eq!(found.node, Org::node(1));
        let error = member_called(roster.members(), &victim).unwrap_err();
        assert_eq!(error.code, code::AMBIGUOUS_PEER);
    }

    #[test]
    fn a_network_is_found_whatever_the_case_of_its_name() {
        let org = Org::new();
        let rosters = org.rosters(1, &[("Spiele", &MEMBERS)]);
        assert!(network_called(&rosters, "sPIELE").is_ok());
        let error = network_called(&rosters, "spiel").unwrap_err();
        assert_eq!(error.code, code::UNKNOWN_NETWORK);
    }
}
