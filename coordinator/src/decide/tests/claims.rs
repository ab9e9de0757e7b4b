//! Claims of rosters that are not there, by those who want to be in the way.

use futures::executor::block_on;
use kanpachi_common::{
    NetworkId, SecretKey, Signed,
    id::Hash,
    roster::{Page, Position},
    wire::{
        control::{ClientMessage as C, Held, Nonce, Pull, ServerMessage, SetName, codes},
        membership::{CreateNetwork, DeleteNetwork, Evict},
        showing::Shown,
    },
};

use super::{
    super::{COMPARE_FOR, SessionId},
    lab::{LAN, Lab},
    recovery::{Story, evict, has_joined, member_id, story},
};
use crate::store::Store as _;

const OTHER: NetworkId = NetworkId([0xbb; 32]);

/// What nobody ever signed.
fn made_up(n: u16) -> Held {
    let mut network = [0x5a; 32];
    network[..2].copy_from_slice(&n.to_be_bytes());
    Held {
        network: NetworkId(network),
        position: Position {
            generation: 1,
            epoch: 9,
        },
        root: Hash([1; 32]),
    }
}

/// Members 1 to `n`, of whom 1 is the owner; their sessions.
fn lab_of(n: u8) -> (Lab, Vec<SessionId>) {
    let mut lab = Lab::new();
    let founder = lab.invite(LAN, None, true);
    let token = lab.invite(LAN, None, false);
    let mut sessions = vec![lab.join(1, founder)];
    sessions.extend((2..=n).map(|n| lab.join(n, token)));
    (lab, sessions)
}

fn asked_for(read: &[(u64, ServerMessage)]) -> Vec<NetworkId> {
    let asked = read.iter().filter_map(|(_, m)| match m {
        ServerMessage::ShowRoster(asked) => Some(asked.network),
        _ => None,
    });
    asked.collect()
}

#[test]
fn claims_of_many_members_hold_signing_as_long_as_that_of_one() {
    let (mut lab, _) = lab_of(13);
    let mut held = 0;
    for second in 0..120 {
        if second % 10 == 0 {
            let liar = u8::try_from(2 + second / 10).unwrap();
            lab.login(liar, vec![made_up(second)]);
        }
        held += u32::from(!lab.core.comparing.is_over());
        lab.pass(1);
    }
    assert_eq!(held, 10, "seconds of two minutes");
    // Two minutes later the next one is waited for.
    lab.login(2, vec![made_up(500)]);
    assert!(!lab.core.comparing.is_over());
}

#[test]
fn a_member_that_has_lied_takes_the_wait_from_nobody_else() {
    let (mut lab, _) = lab_of(3);
    lab.login(2, vec![made_up(1)]);
    lab.pass(121);
    lab.login(2, vec![made_up(2)]);
    assert!(!lab.core.comparing.is_over(), "it may be right this time");
    lab.pass(11);
    assert!(lab.core.comparing.is_over());
    lab.login(3, vec![made_up(3)]);
    assert!(!lab.core.comparing.is_over());
}

#[test]
fn whoever_was_evicted_holds_nothing_up() {
    let (mut lab, sessions) = lab_of(2);
    evict(&mut lab, sessions[0], 2);
    lab.login(2, vec![made_up(1)]);
    assert!(lab.core.comparing.is_over());
    lab.login(1, vec![made_up(2)]);
    assert!(!lab.core.comparing.is_over(), "a member does");
}

/// A page of nothing in particular, by which a claim is settled at once.
fn nonsense(lab: &Lab, network: NetworkId) -> C {
    let head = block_on(lab.store.newest_head(LAN)).unwrap().unwrap();
    let head = Signed::sign(&*head, &SecretKey::from_seed(&[0xfe; 32]));
    let page = Page {
        network,
        head,
        index: 0,
        count: 1,
        settings: Some(vec![].into()),
        entries: vec![],
    };
    C::Shown(Box::new(Shown { page, secret: None }))
}

#[test]
fn a_member_cannot_have_claims_remembered_without_end() {
    let (mut lab, sessions) = lab_of(2);
    let liar = sessions[1];
    let (mut most, mut asked) = (0, 0);
    for round in 0..29 {
        let held = (0..200).map(|n| made_up(round * 200 + n)).collect();
        lab.say(liar, 0, &C::Pull(Pull { held }));
        loop {
            let wanted = asked_for(&lab.read(liar));
            if wanted.is_empty() {
                break;
            }
            asked += wanted.len();
            for network in wanted {
                let shown = nonsense(&lab, network);
                lab.say(liar, 0, &shown);
            }
        }
        most = most.max(lab.core.comparing.remembered());
        lab.pass(1);
    }
    assert!(asked >= 16, "it is asked: {asked}");
    assert!(most <= 18, "{most} claims are remembered");
    lab.pass(31);
    assert_eq!(lab.core.comparing.remembered(), 0, "and not for long");
}

#[test]
fn one_that_knows_more_has_its_turn_however_much_others_claim() {
    let (mut lab, _) = lab_of(8);
    let mut sessions = vec![];
    for liar in 2..=7 {
        let held = (0..200).map(|n| made_up(u16::from(liar) * 200 + n));
        sessions.push(lab.login(liar, held.collect()));
    }
    let id = lab.login(8, vec![made_up(7)]);
    sessions.push(id);
    lab.read(id);
    // Four at once, ten seconds for each of them: two rounds until everybody was asked once.
    for _ in 0..21 {
        for session in &sessions {
            lab.say(*session, 0, &C::Ping(Nonce(1)));
        }
        lab.pass(1);
    }
    assert_eq!(asked_for(&lab.read(id)), [made_up(7).network]);
}

#[test]
fn a_stranger_that_shows_half_a_roster_counts_as_nobody() {
    let mut story = story();
    let mut pages = story
        .newcomer
        .pages(kanpachi_common::wire::showing::PAGE_TARGET);
    pages[0].page.entries.pop();
    let held = story.newcomer.held();
    let lab = &mut story.lab;
    let id = lab.login(4, vec![held]);
    lab.say(id, 0, &C::Shown(Box::new(pages.remove(0))));
    let report = block_on(lab.store.recovery()).unwrap().expect("a recovery");
    assert_eq!(report.networks[0].shown_by, 0);
    // A member that does the same has shown that there is more.
    let mut pages = story
        .owner
        .pages(kanpachi_common::wire::showing::PAGE_TARGET);
    pages[0].page.entries.pop();
    let id = lab.login(1, vec![story.owner.held()]);
    lab.say(id, 0, &C::Shown(Box::new(pages.remove(0))));
    let report = block_on(lab.store.recovery()).unwrap().expect("a recovery");
    assert_eq!(report.networks[0].shown_by, 1);
}

/// A restored coordinator that is unsure about these networks, and a newcomer that waits to be let in.
fn unsure(networks: &[NetworkId]) -> (Lab, SessionId, Story) {
    let story = story();
    let mut lab = Lab::restored(story.backup.path(), story.lab.now);
    // Node 6 is in another network.
    lab.network(OTHER, "other");
    let founder = lab.invite(OTHER, None, true);
    let sixth = lab.join(6, founder);
    lab.leave(sixth);
    let networks = networks.iter().copied().collect();
    lab.core.handle_unsure(networks, lab.now);
    let fifth = lab.join(5, story.token);
    assert!(!has_joined(&lab.read(fifth)));
    (lab, fifth, story)
}

/// Strangers that claim what was never signed, and say nothing more.
fn silent_strangers(lab: &mut Lab) -> Vec<SessionId> {
    let strangers = 20..30_u8;
    let claim = |n: u8| lab.login(n, vec![made_up(n.into())]);
    strangers.map(claim).collect()
}

#[test]
fn silent_strangers_keep_no_member_out_that_knows_more() {
    let (mut lab, fifth, story) = unsure(&[LAN]);
    silent_strangers(&mut lab);
    let owner = story.owner;
    let id = lab.login(1, vec![owner.held()]);
    owner.show(&mut lab, id);
    lab.pass(COMPARE_FOR.as_secs() + 1);
    assert_eq!(lab.refusal(fifth).1.code, codes::RECOVERY);
}

#[test]
fn silent_strangers_keep_nobody_out_who_came_after_the_backup() {
    let (mut lab, fifth, story) = unsure(&[LAN]);
    silent_strangers(&mut lab);
    // To this coordinator it is a stranger as well.
    let newcomer = story.newcomer;
    let id = lab.login(4, vec![newcomer.held()]);
    newcomer.show(&mut lab, id);
    lab.pass(COMPARE_FOR.as_secs() + 1);
    assert_eq!(lab.refusal(fifth).1.code, codes::RECOVERY);
}

#[test]
fn strangers_are_asked_one_after_the_other() {
    let (mut lab, _) = lab_of(2);
    let strangers = silent_strangers(&mut lab);
    let mut asked = || {
        let read = strangers.iter().map(|id| asked_for(&lab.read(*id)).len());
        let asked: usize = read.sum();
        for _ in 0..11 {
            for id in &strangers {
                lab.say(*id, 0, &C::Ping(Nonce(1)));
            }
            lab.pass(1);
        }
        asked
    };
    assert_eq!([asked(), asked(), asked()], [1, 1, 1]);
}

#[test]
fn the_own_node_says_nothing_about_how_old_the_store_is() {
    let (mut lab, fifth, _) = unsure(&[LAN]);
    let held = lab.held(LAN);
    let own = super::super::Remote {
        ip: Some([127, 0, 0, 1].into()),
        udp: None,
    };
    let id = lab.open_from(1, own);
    let hello = lab.hello(1, vec![held]);
    lab.say(id, 1, &hello);
    assert!(!has_joined(&lab.read(fifth)), "it is not waited for others");
    // Nor by an address that the coordinator gives out as its own.
    lab.login(1, vec![held]);
    assert!(!has_joined(&lab.read(fifth)));
    lab.login(2, vec![held]);
    assert!(has_joined(&lab.read(fifth)));
}

#[test]
fn a_member_speaks_for_its_own_networks_alone() {
    let (mut lab, fifth, _) = unsure(&[LAN, OTHER]);
    let held = lab.held(LAN);
    lab.login(2, vec![held]);
    assert!(!has_joined(&lab.read(fifth)), "nobody spoke for the other");
    lab.pass(COMPARE_FOR.as_secs() + 1);
    assert!(has_joined(&lab.read(fifth)));
    // Nor does somebody in another network who has learned what the roster is called.
    let (mut lab, fifth, _) = unsure(&[LAN]);
    let held = lab.held(LAN);
    let elsewhere = lab.login(6, vec![held]);
    assert!(lab.welcome(elsewhere).registration.is_some());
    assert!(!has_joined(&lab.read(fifth)));
}

#[test]
fn a_rename_waits_for_a_claim_and_an_eviction_too() {
    let (mut lab, sessions) = lab_of(3);
    let target = member_id(&lab, 3);
    lab.login(2, vec![made_up(1)]);
    let before = lab.held(LAN);
    let name = SetName {
        network: Some(LAN),
        name: "other".into(),
    };
    lab.say(sessions[0], 9, &C::SetName(name));
    let evict = Evict {
        network: LAN,
        member: target,
        password: None,
    };
    lab.say(sessions[0], 10, &C::Evict(evict));
    assert_eq!(lab.held(LAN), before);
    lab.pass(11);
    assert_ne!(lab.held(LAN), before);
}

/// Makes a network, and deletes it if it came to be: 0 then, or the code of the refusal.
fn make_and_delete(lab: &mut Lab, id: SessionId, n: u16, name: &str) -> u16 {
    let network = made_up(n).network;
    let create = CreateNetwork {
        network,
        name: name.to_owned(),
        password: None,
        member_name: "owner".into(),
    };
    lab.read(id);
    lab.say(id, 20, &C::CreateNetwork(create));
    let read = lab.read(id);
    if has_joined(&read) {
        lab.say(id, 21, &C::DeleteNetwork(DeleteNetwork { network }));
        return 0;
    }
    let refused = read.iter().find_map(|(_, m)| match m {
        ServerMessage::Refused(refused) => Some(refused.code),
        _ => None,
    });
    refused.expect("an answer")
}

#[test]
fn one_member_leaves_a_bounded_number_of_deleted_networks_behind() {
    let (mut lab, sessions) = lab_of(2);
    let mut made = 0;
    for n in 0..(24 * 60) {
        // Nobody is timed out meanwhile: it says something every minute.
        lab.now.at += std::time::Duration::from_secs(60);
        match make_and_delete(&mut lab, sessions[1], n, &format!("n{n}")) {
            0 => made += 1,
            code => assert_eq!(code, codes::BUSY),
        }
    }
    assert_eq!(made, 32 + 23, "networks in a day");
    // What does not come to be is not counted.
    for n in 0..100 {
        lab.now.at += std::time::Duration::from_secs(60);
        let taken = make_and_delete(&mut lab, sessions[0], 2000 + n, "lan");
        assert_eq!(taken, crate::store::Refusal::NetworkExists.code());
    }
    assert_eq!(make_and_delete(&mut lab, sessions[0], 3000, "own"), 0);
}
