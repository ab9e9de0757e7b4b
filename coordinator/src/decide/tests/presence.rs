//! Who hears of whom, and with which candidates.

use kanpachi_common::{
    Candidate, CandidateKind, NatBehaviour, NetworkId, NodeId,
    nat::{Filtering, Mapping},
    wire::control::{Announce, ClientMessage, ServerMessage},
};

use super::lab::{LAN, Lab, host, node};

fn online(messages: &[(u64, ServerMessage)]) -> Vec<(NodeId, Vec<Candidate>)> {
    let online = |(_, m): &(u64, ServerMessage)| match m {
        ServerMessage::PeerOnline(p) => Some((p.node, p.candidates.clone())),
        _ => None,
    };
    messages.iter().filter_map(online).collect()
}

fn offline(messages: &[(u64, ServerMessage)]) -> Vec<NodeId> {
    let offline = |(_, m): &(u64, ServerMessage)| match m {
        ServerMessage::PeerOffline(p) => Some(p.node),
        _ => None,
    };
    messages.iter().filter_map(offline).collect()
}

fn observed(n: u8) -> Candidate {
    Candidate {
        addr: ([203, 0, 113, n], 4000 + u16::from(n)).into(),
        kind: CandidateKind::Observed,
    }
}

#[test]
fn members_hear_of_each_other_with_what_was_announced_and_observed() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let (a, b) = (lab.join(1, token), lab.join(2, token));
    assert_eq!(
        online(&lab.read(a)),
        vec![(node(2), vec![host(2), observed(2)])]
    );
    assert_eq!(
        online(&lab.read(b)),
        vec![(node(1), vec![host(1), observed(1)])]
    );
    lab.leave(a);
    assert_eq!(offline(&lab.read(b)), vec![node(1)]);
    let a = lab.login(1, vec![lab.held(LAN)]);
    assert_eq!(online(&lab.read(a)).len(), 1);
    assert_eq!(online(&lab.read(b)).len(), 1);
}

#[test]
fn new_candidates_are_told_once_and_only_when_they_differ() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let (a, b) = (lab.join(1, token), lab.join(2, token));
    lab.read(b);
    lab.announce(a, vec![host(1)]);
    assert!(lab.read(b).is_empty());
    lab.announce(a, vec![host(77)]);
    assert_eq!(
        online(&lab.read(b)),
        vec![(node(1), vec![host(77), observed(1)])]
    );
    assert!(online(&lab.read(a)).iter().all(|(n, _)| *n != node(1)));
}

#[test]
fn what_a_node_says_of_its_nat_is_passed_on_when_it_changes() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let (a, b) = (lab.join(1, token), lab.join(2, token));
    lab.read(b);
    let nat = Some(NatBehaviour {
        mapping: Mapping::AddressAndPortDependent,
        filtering: Filtering::Unknown,
    });
    let announce = ClientMessage::Announce(Announce {
        candidates: vec![host(1)],
        nat,
    });
    for told in [1, 0] {
        lab.say(a, 0, &announce);
        let heard = lab.read(b);
        let said = heard.iter().filter_map(|(_, m)| match m {
            ServerMessage::PeerOnline(p) => Some(p.nat),
            _ => None,
        });
        assert_eq!(said.collect::<Vec<_>>(), vec![nat; told]);
    }
}

#[test]
fn impossible_and_overlay_addresses_are_not_passed_on() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let (a, b) = (lab.join(1, token), lab.join(2, token));
    lab.read(b);
    let v6 = kanpachi_common::addr::ipv6_of(&lab.manifest.org(), &node(1));
    let bad = [
        "127.0.0.1:5",
        "224.0.0.1:5",
        "0.0.0.0:5",
        "192.0.2.1:0",
        "198.19.4.4:5",
    ];
    let mut candidates: Vec<_> = bad.iter().map(|a| a.parse().unwrap()).collect();
    candidates.push((v6, 5).into());
    let candidates = candidates.into_iter().map(|addr| Candidate {
        addr,
        kind: CandidateKind::Host,
    });
    lab.announce(a, candidates.collect());
    assert_eq!(online(&lab.read(b)), vec![(node(1), vec![observed(1)])]);
}

#[test]
fn nobody_hears_of_nodes_that_share_no_network() {
    let mut lab = Lab::new();
    let games = NetworkId([0xbb; 32]);
    lab.network(games, "games");
    let (lan, other) = (lab.invite(LAN, None, false), lab.invite(games, None, false));
    let (a, b) = (lab.join(1, lan), lab.join(2, other));
    lab.read(a);
    lab.announce(b, vec![host(99)]);
    lab.leave(b);
    assert!(lab.read(a).is_empty());
}

#[test]
fn a_removed_member_hears_no_more_of_the_others() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let (a, b) = (lab.join(1, token), lab.join(2, token));
    let remove = crate::store::RemoveMember {
        network: LAN,
        node: node(2),
        by: None,
        secret: [1; 32],
        now: lab.now.wall,
    };
    futures::executor::block_on(crate::store::Store::remove_member(&lab.store, remove)).unwrap();
    lab.changed(LAN);
    lab.read(a);
    lab.read(b);
    lab.announce(a, vec![host(55)]);
    assert!(lab.read(b).is_empty());
    lab.announce(b, vec![host(56)]);
    assert!(lab.read(a).is_empty());
}
