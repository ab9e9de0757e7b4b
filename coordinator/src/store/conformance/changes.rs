//! People change networks: created, joined by password, left, settled, ended.

use futures::executor::block_on;
use kanpachi_common::{
    ClientId, MemberId, NetworkId,
    roster::{Caps, Settings},
};

use super::{LAN, NOW, Subject, hash_of, new_network, node, refused};
use crate::store::{
    Change, CreateNetwork, DeleteNetwork, Evict, Evicted, JoinByPassword, JoinedNetwork, Leave,
    NetworkPassword, NewInvite, Newcomer, PasswordHash, Refusal, Result, SetAccess, SetPassword,
    SetRole, Settle,
};

const GAMES: NetworkId = NetworkId([0xbb; 32]);

fn phc(text: &str) -> PasswordHash {
    PasswordHash(text.to_owned())
}

/// Member ids say which node and for which time it is there.
fn member_id(n: u16, time: u8) -> MemberId {
    let mut id = [0x33; 32];
    id[..2].copy_from_slice(&n.to_be_bytes());
    id[31] = time;
    MemberId(id)
}

fn newcomer(n: u16, time: u8) -> Newcomer {
    Newcomer {
        node: node(n),
        name: format!("m{n}"),
        member: member_id(n, time),
        salt: [7; 16],
    }
}

fn create(n: u16) -> CreateNetwork {
    CreateNetwork {
        new: new_network(GAMES, "Games"),
        password: Some(phc("hash")),
        owner: newcomer(n, 0),
    }
}

fn join(f: &Subject, n: u16, time: u8) -> Result<JoinedNetwork> {
    join_as(f, n, time, "hash")
}

fn join_as(f: &Subject, n: u16, time: u8, hash: &str) -> Result<JoinedNetwork> {
    block_on(f.store.join_by_password(JoinByPassword {
        verified: NetworkPassword {
            network: GAMES,
            hash: phc(hash),
        },
        newcomer: newcomer(n, time),
        now: NOW.plus(2),
    }))
}

/// Nodes 1 to 4 of the organisation; 1 owns "Games", 2 is in it.
fn party(f: &Subject) {
    f.make_invite(1, None);
    for n in 1..=4 {
        f.join(n, 1).unwrap();
    }
    block_on(f.store.create_network_by(create(1))).unwrap();
    join(f, 2, 0).unwrap();
}

fn members(f: &Subject) -> Vec<(MemberId, Caps)> {
    let changes = block_on(f.store.changes_since(GAMES, vec![])).unwrap();
    changes.members.iter().map(|m| (m.member, m.caps)).collect()
}

fn epoch(f: &Subject) -> u64 {
    let changes = block_on(f.store.changes_since(GAMES, vec![])).unwrap();
    changes.position.epoch
}

fn access(
    f: &Subject,
    by: u16,
    locked: Option<bool>,
    approval: Option<bool>,
) -> Result<Vec<NetworkId>> {
    block_on(f.store.set_access(SetAccess {
        network: GAMES,
        by: node(by),
        locked,
        approval,
        now: NOW.plus(3),
    }))
}

fn settle(f: &Subject, by: u16, member: MemberId, approved: bool) -> Result<Vec<NetworkId>> {
    block_on(f.store.settle(Settle {
        network: GAMES,
        by: node(by),
        member,
        approved,
        now: NOW.plus(4),
    }))
}

fn role(f: &Subject, by: u16, member: MemberId, owner: bool) -> Result<Vec<NetworkId>> {
    block_on(f.store.set_role(SetRole {
        network: GAMES,
        by: node(by),
        member,
        owner,
        now: NOW.plus(5),
    }))
}

fn leave(f: &Subject, n: u16, heir: Option<MemberId>) -> Result<Vec<NetworkId>> {
    block_on(f.store.leave(Leave {
        network: GAMES,
        node: node(n),
        heir,
        secret: [0xd1; 32],
        now: NOW.plus(6),
    }))
}

fn evict(f: &Subject, by: u16, member: MemberId, password: Option<&str>) -> Result<Evicted> {
    block_on(f.store.evict(Evict {
        network: GAMES,
        by: node(by),
        member,
        password: password.map(phc),
        secret: [0xd2; 32],
        now: NOW.plus(7),
    }))
}

fn delete(f: &Subject, by: u16) -> Result<Vec<NetworkId>> {
    block_on(f.store.delete_network(DeleteNetwork {
        network: GAMES,
        by: node(by),
        now: NOW.plus(8),
    }))
}

pub(crate) fn a_network_is_made_with_its_owner_in_one_step_and_once(f: &Subject) {
    f.make_invite(1, None);
    f.join(1, 1).unwrap();
    let made = block_on(f.store.create_network_by(create(1))).unwrap();
    assert_eq!((made.network, made.waiting), (GAMES, false));
    assert_eq!(members(f), vec![(member_id(1, 0), Caps::OWNER)]);
    let before = epoch(f);
    let again = block_on(f.store.create_network_by(create(1))).unwrap();
    assert!(again.changed.is_empty());
    assert_eq!((again.registration, epoch(f)), (made.registration, before));
    f.join(2, 1).unwrap();
    let other = block_on(f.store.create_network_by(create(2)));
    assert_eq!(refused(other), Refusal::NetworkExists);
    let stranger = CreateNetwork {
        new: new_network(NetworkId([0xcd; 32]), "strange"),
        ..create(9)
    };
    let stranger = block_on(f.store.create_network_by(stranger));
    assert_eq!(refused(stranger), Refusal::NotRegistered);
    assert_eq!(
        block_on(f.store.networks()).unwrap().len(),
        2,
        "nothing is left of it"
    );
}

pub(crate) fn a_node_is_in_so_many_networks_and_no_more(f: &Subject) {
    use kanpachi_common::wire::control::MAX_NETWORKS;
    f.make_invite(1, None);
    f.join(1, 1).unwrap();
    for n in 1..=u16::try_from(MAX_NETWORKS).unwrap() {
        let [high, low] = n.to_be_bytes();
        let mut network = [0x99; 32];
        network[..2].copy_from_slice(&[high, low]);
        let mut owner = newcomer(1, 0);
        owner.member.0[2..4].copy_from_slice(&[high, low]);
        let create = CreateNetwork {
            new: new_network(NetworkId(network), &format!("n{n}")),
            password: None,
            owner,
        };
        let made = block_on(f.store.create_network_by(create));
        if usize::from(n) < MAX_NETWORKS {
            made.unwrap();
        } else {
            assert_eq!(refused(made), Refusal::TooManyNetworks);
        }
    }
}

pub(crate) fn a_password_lets_in_only_while_it_is_the_one_that_was_verified(f: &Subject) {
    party(f);
    let of = |name: &str| block_on(f.store.password_of(name.to_owned())).unwrap();
    let expected = NetworkPassword {
        network: GAMES,
        hash: phc("hash"),
    };
    assert_eq!(of("gAMES"), Some(expected));
    assert_eq!((of("lan"), of("nowhere")), (None, None));
    let again = join(f, 2, 9).unwrap();
    assert!(again.changed.is_empty(), "a member already");
    let set = |by, password: Option<&str>| {
        block_on(f.store.set_password(SetPassword {
            network: GAMES,
            by: node(by),
            password: password.map(phc),
        }))
    };
    assert_eq!(refused(set(2, None)), Refusal::NotAllowed);
    assert_eq!(refused(set(3, None)), Refusal::NoNetwork);
    set(1, Some("other")).unwrap();
    assert_eq!(refused(join(f, 3, 0)), Refusal::WrongPassword);
    join_as(f, 3, 0, "other").unwrap();
    set(1, None).unwrap();
    assert_eq!(of("games"), None);
    assert_eq!(refused(join_as(f, 4, 0, "other")), Refusal::WrongPassword);
    assert_eq!(refused(join_as(f, 9, 0, "other")), Refusal::WrongPassword);
}

pub(crate) fn a_locked_network_takes_nobody_and_uses_no_invite_up(f: &Subject) {
    party(f);
    assert_eq!(refused(access(f, 2, Some(true), None)), Refusal::NotAllowed);
    let before = block_on(f.store.changes_since(GAMES, vec![])).unwrap();
    let roster = block_on(f.store.roster(GAMES)).unwrap();
    assert_eq!(access(f, 1, Some(true), None).unwrap(), vec![GAMES]);
    assert_eq!(
        access(f, 1, Some(true), None).unwrap(),
        vec![],
        "twice is once"
    );
    let held = kanpachi_common::wire::control::Held {
        network: GAMES,
        position: before.position,
        root: before.root,
    };
    let mut since = block_on(f.store.changes_since(GAMES, vec![held])).unwrap();
    let Some(Change::Delta(delta)) = since.answers.pop() else {
        panic!("no delta");
    };
    let newest = block_on(f.store.roster(GAMES)).unwrap();
    let reached = roster.apply(*delta, newest.head().clone()).unwrap();
    assert_eq!(
        reached.body(),
        newest.body(),
        "members learn of it by a delta"
    );
    let settings = Settings::decode(&newest.body().settings).unwrap();
    assert!(settings.access().locked && !settings.access().approval);

    assert_eq!(refused(join(f, 3, 0)), Refusal::Locked);
    let invite = NewInvite {
        network: GAMES,
        ..f.invite(50, Some(1))
    };
    block_on(f.store.create_invite(invite)).unwrap();
    assert_eq!(refused(f.join_again(3, 50, 1)), Refusal::Locked);
    access(f, 1, Some(false), None).unwrap();
    f.join_again(3, 50, 1).unwrap();
}

pub(crate) fn whoever_needs_approval_is_listed_and_registered_as_waiting(f: &Subject) {
    party(f);
    access(f, 1, None, Some(true)).unwrap();
    let joined = join(f, 3, 0).unwrap();
    assert!(joined.waiting && join(f, 3, 0).unwrap().waiting);
    assert_eq!(joined.registration.networks, vec![LAN]);
    assert_eq!(joined.registration.waiting[0].name, "Games");
    assert_eq!(block_on(f.store.networks_of(node(3))).unwrap(), vec![LAN]);
    let waiting = member_id(3, 0);
    assert!(members(f).contains(&(waiting, Caps::PENDING)));
    assert_eq!(refused(settle(f, 3, waiting, true)), Refusal::NotAllowed);
    assert_eq!(refused(settle(f, 2, waiting, true)), Refusal::NotAllowed);
    assert_eq!(refused(role(f, 1, waiting, true)), Refusal::NoMember);
    assert_eq!(refused(leave(f, 1, Some(waiting))), Refusal::NoMember);
    // A newer key reaches the entry that waits as well.
    let login = crate::store::Login {
        node: node(3),
        tunnel: f.tunnel(3, 2),
        held: vec![],
        may_sign: true,
        now: NOW,
    };
    assert_eq!(block_on(f.store.login(login)).unwrap().changed.len(), 2);
    settle(f, 1, waiting, true).unwrap();
    let after = epoch(f);
    assert_eq!(settle(f, 1, waiting, true).unwrap(), vec![]);
    assert_eq!(epoch(f), after, "twice is once");
    assert_eq!(refused(settle(f, 1, waiting, false)), Refusal::NotWaiting);
    assert!(members(f).contains(&(waiting, Caps::default())));

    join(f, 4, 0).unwrap();
    settle(f, 1, member_id(4, 0), false).unwrap();
    assert_eq!(settle(f, 1, member_id(4, 0), false).unwrap(), vec![]);
    assert_eq!(
        refused(settle(f, 1, member_id(4, 0), true)),
        Refusal::NoMember
    );
    assert!(join(f, 4, 1).unwrap().waiting, "a rejection bans nobody");
    assert!(
        block_on(f.store.roster(GAMES))
            .unwrap()
            .unusable()
            .is_empty()
    );
}

pub(crate) fn a_founder_needs_nobodys_approval(f: &Subject) {
    party(f);
    access(f, 1, Some(true), Some(true)).unwrap();
    // The operator takes the only owner away.
    let remove = crate::store::RemoveMember {
        network: GAMES,
        node: node(1),
        by: None,
        secret: [1; 32],
        now: NOW.plus(5),
    };
    block_on(f.store.remove_member(remove)).unwrap();
    let founder = NewInvite {
        network: GAMES,
        founder: true,
        ..f.invite(50, None)
    };
    block_on(f.store.create_invite(founder)).unwrap();
    assert!(!f.join_again(3, 50, 1).unwrap().waiting);
    assert_eq!(refused(f.join_again(4, 50, 1)), Refusal::Locked);
    access(f, 3, Some(false), None).unwrap();
    assert!(f.join_again(4, 50, 1).unwrap().waiting);
}

pub(crate) fn an_evicted_node_stays_out_until_it_is_invited_again(f: &Subject) {
    party(f);
    let old = NewInvite {
        network: GAMES,
        ..f.invite(50, None)
    };
    block_on(f.store.create_invite(old)).unwrap();
    let before = block_on(f.store.changes_since(GAMES, vec![])).unwrap();
    assert_eq!(
        refused(evict(f, 2, member_id(1, 0), None)),
        Refusal::NotAllowed
    );
    assert_eq!(
        refused(evict(f, 1, member_id(8, 0), None)),
        Refusal::NoMember
    );
    assert_eq!(
        refused(evict(f, 1, member_id(1, 0), None)),
        Refusal::LastOwner
    );
    let evicted = evict(f, 1, member_id(2, 0), None).unwrap();
    assert!(evicted.password_known);
    assert_eq!(evicted.changed, vec![GAMES]);
    let after = block_on(f.store.changes_since(GAMES, vec![])).unwrap();
    assert_eq!(after.position.epoch, before.position.epoch + 1);
    assert_eq!(after.secret.id, before.secret.id + 1);
    assert_eq!(evict(f, 1, member_id(2, 0), None).unwrap().changed, vec![]);
    assert_eq!(epoch(f), after.position.epoch, "twice is once");
    assert_eq!(refused(join(f, 2, 1)), Refusal::Evicted);
    assert_eq!(refused(f.join_again(2, 50, 1)), Refusal::Evicted);
    let fresh = NewInvite {
        network: GAMES,
        ..f.invite(51, Some(1))
    };
    block_on(f.store.create_invite(fresh)).unwrap();
    f.join_again(2, 51, 2).unwrap();
    leave(f, 2, None).unwrap();
    join(f, 2, 3).unwrap();
    let evicted = evict(f, 1, member_id(2, 3), Some("other")).unwrap();
    assert!(!evicted.password_known);
    assert_eq!(refused(join(f, 4, 0)), Refusal::WrongPassword);
    join_as(f, 4, 0, "other").unwrap();
}

pub(crate) fn eviction_revokes_what_the_node_came_by_and_made(f: &Subject) {
    party(f);
    role(f, 1, member_id(2, 0), true).unwrap();
    for (invite, by, uses) in [
        (50, None, None),
        (51, Some(1), None),
        (52, Some(2), None),
        (53, None, Some(1)),
    ] {
        let new = NewInvite {
            network: GAMES,
            by: by.map(node),
            ..f.invite(invite, uses)
        };
        block_on(f.store.create_invite(new)).unwrap();
    }
    f.join_again(5, 53, 1).unwrap();
    let used_up = evict(f, 1, super::member_of(f, GAMES, 5), None).unwrap();
    assert_eq!(used_up.revoked_invites, 0, "nobody could come by it again");
    f.join_again(3, 50, 1).unwrap();
    let first = evict(f, 1, super::member_of(f, GAMES, 3), None).unwrap();
    assert_eq!(first.revoked_invites, 1, "the one it came by");
    // It was an owner: it may have seen all of them.
    let second = evict(f, 1, member_id(2, 0), None).unwrap();
    assert_eq!(second.revoked_invites, 2);
    for invite in [50, 51, 52, 53] {
        assert_eq!(refused(f.join_again(4, invite, 1)), Refusal::InviteUnknown);
    }
}

pub(crate) fn a_network_has_an_owner_until_it_ends(f: &Subject) {
    party(f);
    assert_eq!(refused(leave(f, 1, None)), Refusal::LastOwner);
    assert_eq!(
        refused(role(f, 1, member_id(1, 0), false)),
        Refusal::LastOwner
    );
    assert_eq!(
        refused(leave(f, 2, Some(member_id(1, 0)))),
        Refusal::NotAllowed
    );
    assert_eq!(refused(leave(f, 3, None)), Refusal::NoNetwork);
    let before = members(f);
    assert_eq!(before.len(), 2, "nothing was changed");
    leave(f, 1, Some(member_id(2, 0))).unwrap();
    assert_eq!(
        leave(f, 1, Some(member_id(2, 0))).unwrap(),
        vec![],
        "twice is once"
    );
    assert_eq!(members(f), vec![(member_id(2, 0), Caps::OWNER)]);
    join(f, 1, 1).unwrap();
    role(f, 2, member_id(1, 1), true).unwrap();
    assert_eq!(role(f, 2, member_id(1, 1), true).unwrap(), vec![]);
    role(f, 1, member_id(2, 0), false).unwrap();
    leave(f, 2, None).unwrap();
    leave(f, 1, None).unwrap();
    assert_eq!(members(f), vec![]);
    assert_eq!(
        refused(join(f, 2, 5)),
        Refusal::WrongPassword,
        "it has ended"
    );
}

pub(crate) fn a_deleted_network_leaves_a_last_head_and_nothing_else(f: &Subject) {
    let ended = || block_on(f.store.ended_networks()).unwrap();
    assert_eq!(ended(), vec![]);
    party(f);
    let invite = NewInvite {
        network: GAMES,
        ..f.invite(50, None)
    };
    block_on(f.store.create_invite(invite)).unwrap();
    assert_eq!(refused(delete(f, 2)), Refusal::NotAllowed);
    assert_eq!(refused(delete(f, 3)), Refusal::NoNetwork);
    let before = epoch(f);
    assert_eq!(delete(f, 1).unwrap(), vec![GAMES]);
    assert_eq!(delete(f, 1).unwrap(), vec![], "twice is once");
    assert_eq!(refused(delete(f, 2)), Refusal::NoNetwork);
    assert_eq!((epoch(f), members(f)), (before + 1, vec![]));
    assert_eq!(ended(), vec![GAMES]);
    let roster = block_on(f.store.roster(GAMES)).unwrap();
    assert_eq!(roster.members().count(), 0);
    assert_eq!(
        block_on(f.store.public_roster(GAMES)).unwrap().entries,
        vec![]
    );
    let names: Vec<_> = block_on(f.store.networks()).unwrap();
    assert_eq!(names.len(), 1);
    assert_eq!(block_on(f.store.networks_of(node(1))).unwrap(), vec![LAN]);
    assert_eq!(refused(f.join_again(3, 50, 1)), Refusal::InviteUnknown);
    let into = NewInvite {
        network: GAMES,
        token_hash: hash_of(51),
        ..f.invite(51, None)
    };
    assert_eq!(
        refused(block_on(f.store.create_invite(into))),
        Refusal::NoNetwork
    );
    let same_id = block_on(f.store.create_network_by(create(1)));
    assert_eq!(refused(same_id), Refusal::NetworkExists);
    let same_name = CreateNetwork {
        new: new_network(NetworkId([0xbc; 32]), "games"),
        password: None,
        owner: newcomer(3, 4),
    };
    block_on(f.store.create_network_by(same_name)).unwrap();
}

pub(crate) fn an_address_rests_when_the_last_network_of_its_node_ends(f: &Subject) {
    f.make_invite(1, None);
    f.join(1, 1).unwrap();
    block_on(f.store.create_network_by(create(1))).unwrap();
    let remove = crate::store::RemoveMember {
        network: LAN,
        node: node(1),
        by: None,
        secret: [1; 32],
        now: NOW.plus(5),
    };
    block_on(f.store.remove_member(remove)).unwrap();
    let kept = block_on(f.store.registration(node(1))).unwrap().unwrap();
    assert!(kept.ipv4.is_some());
    delete(f, 1).unwrap();
    let gone = block_on(f.store.registration(node(1))).unwrap().unwrap();
    assert_eq!((gone.ipv4, gone.networks), (None, vec![]));
    assert_eq!(gone.client_id, kept.client_id, "for life");
}

pub(crate) fn every_node_has_the_client_id_of_its_key(f: &Subject) {
    f.make_invite(1, None);
    let joined = f.join(1, 1).unwrap();
    assert_eq!(
        joined.registration.client_id,
        Some(ClientId::of(&node(1), 0))
    );
    let roster = block_on(f.store.roster(LAN)).unwrap();
    let entry = &roster.body().entries[0];
    let private: kanpachi_common::roster::Private =
        kanpachi_common::cbor::decode(&entry.private, 4096).unwrap();
    assert_eq!(private.ext, vec![], "what follows from the key is not said");
}
