//! What requests come down to, and which ones are refused without asking anybody.

use super::*;
use crate::daemon::core::fixture::{MEMBERS, Org};

/// What member number `me` makes of a request in a network called `lan`; it waits for one called `club`.
fn plan(me: u8, request: &ChangeRequest) -> Result<(ClientMessage, About), ApiError> {
    let rosters = Org::new().rosters(me, &[("lan", &MEMBERS)]);
    let waiting = [Waiting {
        network: Org::network("club"),
        name: "club".into(),
    }];
    let view = View {
        rosters: &rosters,
        waiting: &waiting,
        me: Org::node(me),
    };
    match view.plan(request)? {
        Plan::Ask(message, about) => Ok((*message, about)),
        Plan::Presence(..) => panic!("nobody is asked"),
    }
}

fn refusal(me: u8, request: &ChangeRequest) -> String {
    plan(me, request).unwrap_err().code
}

fn approve(member: &str) -> ChangeRequest {
    ChangeRequest::Approve {
        network: "LAN".into(),
        member: member.into(),
    }
}

fn evict(member: &str) -> ChangeRequest {
    ChangeRequest::Evict {
        network: "lan".into(),
        member: member.into(),
        password: None,
    }
}

fn leave(network: &str, heir: Option<&str>) -> ChangeRequest {
    ChangeRequest::Leave {
        network: network.into(),
        heir: heir.map(Into::into),
    }
}

fn set_role(member: &str, owner: bool) -> ChangeRequest {
    ChangeRequest::SetRole {
        network: "lan".into(),
        member: member.into(),
        owner,
    }
}

/// All that only owners may do.
fn for_owners() -> Vec<ChangeRequest> {
    let network = || "lan".to_owned();
    vec![
        approve("dan"),
        ChangeRequest::Reject {
            network: network(),
            member: "dan".into(),
        },
        evict("cleo"),
        set_role("cleo", true),
        ChangeRequest::Delete { network: network() },
        ChangeRequest::SetPassword {
            network: network(),
            password: None,
        },
        ChangeRequest::SetAccess {
            network: network(),
            locked: Some(true),
            approval: None,
        },
    ]
}

#[test]
fn what_is_for_owners_is_refused_to_everybody_else_without_asking() {
    for request in for_owners() {
        assert!(plan(1, &request).is_ok(), "{request:?}");
        assert_eq!(refusal(2, &request), code::NOT_ALLOWED, "{request:?}");
    }
}

#[test]
fn names_lead_to_the_ids_of_the_network_and_the_member() {
    let (message, about) = plan(1, &approve("DAN")).unwrap();
    let ClientMessage::Settle(settle) = message else {
        panic!("{message:?}")
    };
    assert_eq!(settle.network, Org::network("lan"));
    assert_eq!(settle.member, MemberId([4; 32]));
    assert!(settle.approved);
    assert_eq!(about.reply().member.as_deref(), Some("dan"));
    assert_eq!(about.reply().network, "lan");
    let (message, about) = plan(1, &evict("198.19.0.3")).unwrap();
    assert!(matches!(message, ClientMessage::Evict(e) if e.member == MemberId([3; 32])));
    assert!(!about.ends);
}

#[test]
fn unknown_names_and_settled_members_are_refused_without_asking() {
    assert_eq!(refusal(1, &evict("nobody")), code::UNKNOWN_PEER);
    assert_eq!(refusal(1, &leave("wan", None)), code::UNKNOWN_NETWORK);
    assert_eq!(refusal(1, &approve("bob")), code::ALREADY_MEMBER);
    assert_eq!(refusal(1, &set_role("dan", true)), code::ALREADY_WAITING);
    assert_eq!(refusal(1, &evict("ann")), code::USAGE, "herself");
}

#[test]
fn an_heir_is_a_member_who_stays() {
    let (message, about) = plan(1, &leave("lan", Some("bob"))).unwrap();
    assert!(matches!(message, ClientMessage::Leave(l) if l.heir == Some(MemberId([2; 32]))));
    assert!(about.ends);
    assert_eq!(refusal(1, &leave("lan", Some("ann"))), code::USAGE);
    assert_eq!(
        refusal(1, &leave("lan", Some("dan"))),
        code::ALREADY_WAITING
    );
}

#[test]
fn whoever_waits_can_stop_waiting() {
    let (message, about) = plan(1, &leave("Club", None)).unwrap();
    let club = Org::network("club");
    assert!(matches!(message, ClientMessage::Leave(l) if l.network == club && l.heir.is_none()));
    assert!(about.ends);
}

#[test]
fn a_password_that_is_none_is_refused_without_asking() {
    let request = ChangeRequest::SetPassword {
        network: "lan".into(),
        password: Some(Secret::new(String::new())),
    };
    assert_eq!(refusal(1, &request), code::USAGE);
}
