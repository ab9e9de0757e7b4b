//! A store that is older than its members: what they show, what is refused meanwhile, and how it goes on.

use std::net::Ipv4Addr;

use futures::executor::block_on;
use kanpachi_common::{
    MacAddr, MemberId, NetworkId, Signed, UnixTime,
    addr::ipv6_of,
    cbor,
    id::Hash,
    org::Manifest,
    roster::{
        Caps, Entry, Head, NetworkType, Position, Private, Public, Roster, Settings, Suspend,
        VerifiedRoster,
    },
    secret::NetworkSecret,
    wire::control::Held,
};

use super::{LAN, NOW, Subject, key, member_of, new_network, node, refused};
use crate::store::{
    Adopt, Adopted, BringSuspends, EndRecovery, Evict, JUMP, Login, Recovered, Refusal,
    RemoveMember, Result, Seen, SetName,
};

const NEWER: NetworkId = NetworkId([0xbc; 32]);

/// Somebody in a roster that is shown.
#[derive(Clone, Copy)]
struct Row {
    n: u16,
    caps: Caps,
    ipv4: Option<Ipv4Addr>,
}

fn secret() -> NetworkSecret {
    NetworkSecret::new(9, [0x99; 32])
}

/// The memberships of a store have ids of their own; those of rows that the store does not know follow from the node.
fn id_of(f: &Subject, n: u16) -> MemberId {
    let changes = block_on(f.store.changes_since(LAN, vec![])).unwrap();
    let found = changes.members.iter().find(|m| m.node == node(n));
    found.map_or(MemberId([n.to_be_bytes()[1]; 32]), |m| m.member)
}

/// A roster that this organisation signed, as of an epoch, and that the store has not seen.
fn signed(f: &Subject, network: NetworkId, epoch: u64, rows: &[Row]) -> VerifiedRoster {
    let settings = cbor::encode(&Settings {
        name: if network == LAN { "lan" } else { "newer" }.to_owned(),
        kind: NetworkType::Mesh,
        rules: vec![],
        ext: vec![],
    });
    let entry = |row: &Row| {
        let node = node(row.n);
        let mut member = id_of(f, row.n);
        member.0[31] ^= network.0[0] ^ LAN.0[0];
        let public = Public {
            member,
            node,
            caps: row.caps,
        };
        let private = Private {
            tunnel: f.tunnel(row.n, 1),
            ipv4: row.ipv4,
            ipv6: ipv6_of(&f.org, &node),
            mac: MacAddr::of(&node),
            name: format!("m{}", row.n),
            prefixes: vec![],
            ext: vec![],
        };
        (public.member, Entry::new(&public, &private, [3; 16]))
    };
    let mut entries: Vec<_> = rows.iter().map(entry).collect();
    entries.sort_by_key(|(member, _)| *member);
    let roster = Roster {
        settings,
        entries: entries.into_iter().map(|(_, entry)| entry).collect(),
    };
    let head = Head {
        org: f.org,
        network,
        generation: 1,
        epoch,
        root: roster.root(),
        size: roster.entries.len() as u64 + 1,
        prev_root: Hash([0; 32]),
        secret_id: secret().id,
        secret_hash: secret().hash(),
        issued_at: NOW.plus(100),
        soft_expires_at: NOW.plus(200),
        hard_expires_at: Some(NOW.plus(300)),
        ext: vec![],
    };
    let signed = f.signer.head(&head);
    let manifest: &kanpachi_common::Verified<Manifest> = f.signer.manifest();
    let head = Head::verify(&signed, manifest).unwrap();
    roster.verify(head).unwrap()
}

fn show(f: &Subject, roster: &VerifiedRoster, by: u16) -> Result<Adopted> {
    block_on(f.store.adopt(Adopt {
        roster: roster.clone(),
        secret: Some(secret()),
        by: node(by),
        now: NOW.plus(1000),
    }))
}

fn end(f: &Subject, incomplete: bool) -> Result<Recovered> {
    block_on(f.store.end_recovery(EndRecovery {
        seed: [0x42; 32],
        incomplete,
        now: NOW.plus(2000),
    }))
}

fn address(f: &Subject, n: u16) -> Option<Ipv4Addr> {
    let known = block_on(f.store.registration(node(n))).unwrap();
    known.and_then(|known| known.ipv4)
}

/// Nodes 1 to 3 are in, 1 as owner. Returns their rows.
fn three(f: &Subject) -> Vec<Row> {
    let mut founder = f.invite(1, Some(1));
    founder.founder = true;
    block_on(f.store.create_invite(founder)).unwrap();
    f.make_invite(2, None);
    f.join(1, 1).unwrap();
    let row = |n| Row {
        n,
        caps: if n == 1 { Caps::OWNER } else { Caps::default() },
        ipv4: address(f, n),
    };
    let mut rows = vec![row(1)];
    for n in [2, 3] {
        f.join(n, 2).unwrap();
        rows.push(row(n));
    }
    rows
}

/// Members 1 and 2 as they are, and node 7, whom the store has never heard of.
fn later(f: &Subject, rows: &[Row], epoch: u64) -> VerifiedRoster {
    let seventh = Row {
        n: 7,
        caps: Caps::default(),
        ipv4: Some(Ipv4Addr::new(10, 9, 0, 77)),
    };
    signed(f, LAN, epoch, &[rows[0], rows[1], seventh])
}

fn login(f: &Subject, n: u16, held: Held) -> crate::store::LoggedIn {
    let login = Login {
        node: node(n),
        tunnel: f.tunnel(n, 1),
        held: vec![held],
        may_sign: true,
        now: NOW,
    };
    block_on(f.store.login(login)).unwrap()
}

pub(crate) fn a_login_says_how_what_it_holds_stands_to_what_is_stored(f: &Subject) {
    three(f);
    let newest = f.changes();
    let at = |epoch, root| Held {
        network: LAN,
        position: Position {
            generation: 1,
            epoch,
        },
        root,
    };
    let same = at(newest.position.epoch, newest.root);
    let verdict = |n, held: Held| {
        let said = login(f, n, held);
        (said.ahead, said.agrees)
    };
    assert_eq!(verdict(1, same), (vec![], vec![LAN]));
    assert_eq!(verdict(1, at(0, Hash([0; 32]))), (vec![], vec![]));
    let above = at(newest.position.epoch + 1, Hash([1; 32]));
    assert_eq!(verdict(1, above), (vec![LAN], vec![]));
    assert_eq!(verdict(9, above), (vec![LAN], vec![]), "a stranger too");
    let forked = at(newest.position.epoch - 1, Hash([1; 32]));
    assert_eq!(verdict(1, forked), (vec![LAN], vec![]));
    let unknown = Held {
        network: NEWER,
        ..same
    };
    assert_eq!(verdict(1, unknown), (vec![NEWER], vec![]));
    // A tunnel key that would be signed waits until the matter is settled.
    let newer_key = |held, may_sign| {
        let login = Login {
            node: node(1),
            tunnel: f.tunnel(1, 2),
            held: vec![held],
            may_sign,
            now: NOW,
        };
        let said = block_on(f.store.login(login)).unwrap();
        (said.key_waits, said.changed.len())
    };
    assert_eq!(newer_key(above, true), (true, 0));
    assert_eq!(newer_key(same, false), (true, 0));
    assert_eq!(f.changes().root, newest.root);
    assert_eq!(newer_key(same, true), (false, 1));
}

pub(crate) fn a_roster_that_a_member_shows_is_taken_over_whole(f: &Subject) {
    let rows = three(f);
    let (third, third_id) = (node(3), member_of(f, LAN, 3));
    let shown = later(f, &rows, 40);
    let adopted = show(f, &shown, 1).unwrap();
    assert_eq!((adopted.changed, adopted.recovery), (vec![LAN], true));
    let roster = block_on(f.store.roster(LAN)).unwrap();
    assert_eq!(roster.head().signed(), shown.head().signed());
    assert_eq!(f.changes().secret.expose(), secret().expose());
    let seventh = block_on(f.store.registration(node(7))).unwrap().unwrap();
    assert_eq!(seventh.ipv4, Some(Ipv4Addr::new(10, 9, 0, 77)));
    assert_eq!(seventh.networks, vec![LAN]);
    assert!(seventh.client_id.is_some());
    let gone = block_on(f.store.registration(third)).unwrap().unwrap();
    assert_eq!((gone.networks, gone.ipv4), (vec![], None));
    // Older ones, and the same again, change nothing.
    let again = show(f, &shown, 2).unwrap();
    assert_eq!((again.changed, again.recovery), (vec![], true));
    let older = show(f, &later(f, &rows, 39), 2).unwrap();
    assert_eq!(older.changed, vec![]);
    // Another one of the same epoch does not replace what was shown first.
    let other = signed(f, LAN, 40, &rows);
    assert_eq!(show(f, &other, 3).unwrap().changed, vec![]);
    let report = block_on(f.store.recovery()).unwrap().unwrap();
    let lan = &report.networks[0];
    assert_eq!((lan.members, lan.shown_by, lan.mirrored), (3, 3, false));
    assert!(lan.is_complete());
    // The id of a membership that ended is never used again.
    end(f, false).unwrap();
    f.make_invite(50, None);
    let mut back = f.joining(3, 50);
    back.member = third_id;
    assert!(block_on(f.store.join_network(back)).is_err());
}

pub(crate) fn a_network_that_was_forgotten_comes_back_with_what_its_head_says(f: &Subject) {
    let rows = three(f);
    let shown = signed(f, NEWER, 5, &rows[..2]);
    assert_eq!(show(f, &shown, 1).unwrap().changed, vec![NEWER]);
    let names: Vec<_> = block_on(f.store.networks())
        .unwrap()
        .into_iter()
        .map(|n| (n.name, n.members, n.owners))
        .collect();
    assert_eq!(
        names,
        [("lan".to_owned(), 3, 1), ("newer".to_owned(), 2, 1)]
    );
    end(f, false).unwrap();
    let head = block_on(f.store.newest_head(NEWER)).unwrap().unwrap();
    assert_eq!(head.epoch, 5 + JUMP);
    assert_eq!(head.soft_expires_at.0 - head.issued_at.0, 100);
    assert_eq!(head.hard_expires_at.unwrap().0 - head.issued_at.0, 200);
}

pub(crate) fn nothing_is_signed_or_given_out_in_recovery(f: &Subject) {
    let rows = three(f);
    show(f, &later(f, &rows, 40), 1).unwrap();
    let before = f.changes();
    let third = id_of(f, 2);
    assert_eq!(refused(f.join(9, 2)), Refusal::Recovery);
    let invite = block_on(f.store.create_invite(f.invite(60, None)));
    assert_eq!(refused(invite), Refusal::Recovery);
    let evict = block_on(f.store.evict(Evict {
        network: LAN,
        by: node(1),
        member: third,
        password: None,
        secret: [1; 32],
        now: NOW,
    }));
    assert_eq!(refused(evict), Refusal::Recovery);
    let remove = block_on(f.store.remove_member(RemoveMember {
        network: LAN,
        node: node(2),
        by: None,
        secret: [1; 32],
        now: NOW,
    }));
    assert_eq!(refused(remove), Refusal::Recovery);
    let name = block_on(f.store.set_name(SetName {
        node: node(2),
        network: None,
        name: "other".to_owned(),
        now: NOW,
    }));
    assert_eq!(refused(name), Refusal::Recovery);
    let made = block_on(f.store.create_network(new_network(NEWER, "newer")));
    assert_eq!(refused(made), Refusal::Recovery);
    let late = UnixTime(u64::MAX >> 2);
    let renewed = block_on(f.store.renew_heads(late, late));
    assert_eq!(refused(renewed), Refusal::Recovery);
    assert_eq!(f.changes().head, before.head);
    assert_eq!(address(f, 9), None);
}

pub(crate) fn a_recovery_ends_above_everything_that_was_seen(f: &Subject) {
    let rows = three(f);
    assert_eq!(refused(end(f, false)), Refusal::NoRecovery);
    show(f, &later(f, &rows, 40), 1).unwrap();
    // A mirror has only the head of what came after.
    let seen = signed(f, LAN, 90, &rows);
    let seen = Seen {
        head: seen.head().clone(),
        by: None,
        now: NOW,
    };
    assert!(block_on(f.store.see(seen)).unwrap());
    assert_eq!(refused(end(f, false)), Refusal::RecoveryIncomplete);
    let before = f.changes();
    let ended = end(f, true).unwrap();
    assert_eq!((ended.changed, ended.evicted), (vec![LAN], 0));
    let after = f.changes();
    assert_eq!(after.position.epoch, 90 + JUMP);
    assert_eq!(after.root, before.root, "the same members");
    assert_eq!(block_on(f.store.recovery()).unwrap(), None);
    // Old invites are void, whatever they were good for; the evicted needs a new one, and so does everybody.
    assert_eq!(refused(f.join(9, 2)), Refusal::InviteUnknown);
    f.make_invite(50, None);
    let joined = f.join(9, 50).unwrap();
    assert_ne!(joined.registration.ipv4, Some(Ipv4Addr::new(10, 9, 0, 77)));
    assert_eq!(f.changes().position.epoch, 91 + JUMP);
    f.join_again(3, 50, 1).unwrap();
}

pub(crate) fn an_address_that_the_store_gave_away_goes_to_whom_the_roster_says(f: &Subject) {
    let rows = three(f);
    // By the members' roster node 7 has what the store gave to node 3, who is in another network as well.
    let mut owner = f.joining(3, 2);
    owner.member.0[30] = 1;
    block_on(f.store.create_network_by(crate::store::CreateNetwork {
        new: new_network(NEWER, "newer"),
        password: None,
        owner: crate::store::Newcomer {
            node: node(3),
            name: "m3".to_owned(),
            member: owner.member,
            salt: [1; 16],
        },
    }))
    .unwrap();
    let taken = rows[2].ipv4;
    let seventh = Row {
        n: 7,
        caps: Caps::default(),
        ipv4: taken,
    };
    let shown = signed(f, LAN, 40, &[rows[0], rows[1], seventh]);
    show(f, &shown, 1).unwrap();
    assert_eq!((address(f, 7), address(f, 3)), (taken, None));
    let report = block_on(f.store.recovery()).unwrap().unwrap();
    assert_eq!(report.displaced, vec![(node(3), taken.unwrap())]);
    let ended = end(f, false).unwrap();
    let moved = address(f, 3);
    assert_eq!(ended.moved, vec![(node(3), moved.unwrap())]);
    assert_ne!(moved, taken);
    let newer = block_on(f.store.roster(NEWER)).unwrap();
    assert_eq!(newer.member(&node(3)).unwrap().ipv4, moved);
}

fn suspension(f: &Subject, member: MemberId, by: MemberId, signer: u16) -> BringSuspends {
    let suspend = Suspend {
        org: f.org,
        network: LAN,
        member,
        by,
        seq: 1,
        epoch: 1,
    };
    let signed = Signed::sign(&suspend, &key(signer));
    BringSuspends {
        suspends: vec![signed.verify(&[signed.key]).unwrap()],
        seed: [0x43; 32],
        now: NOW.plus(500),
    }
}

fn bring(f: &Subject, brought: BringSuspends) -> Vec<NetworkId> {
    block_on(f.store.bring_suspends(brought)).unwrap()
}

pub(crate) fn a_suspension_is_an_eviction_or_nothing(f: &Subject) {
    three(f);
    let ids = [1, 2, 3].map(|n| member_of(f, LAN, n));
    let before = f.changes();
    // By no owner; in an owner's name; by an owner of elsewhere; of somebody who is not there.
    for nothing in [
        suspension(f, ids[2], ids[1], 2),
        suspension(f, ids[2], ids[0], 2),
        suspension(f, ids[2], MemberId([0xee; 32]), 1),
        suspension(f, MemberId([0xee; 32]), ids[0], 1),
    ] {
        assert_eq!(bring(f, nothing), vec![]);
    }
    assert_eq!(f.changes().head, before.head);
    assert_eq!(bring(f, suspension(f, ids[2], ids[0], 1)), vec![LAN]);
    let after = f.changes();
    assert_eq!(after.position.epoch, before.position.epoch + 1);
    assert_eq!(after.secret.id, before.secret.id + 1);
    assert_eq!(after.members.len(), 2);
    assert_eq!(bring(f, suspension(f, ids[2], ids[0], 1)), vec![]);
    assert_eq!(f.changes().head, after.head);
    assert_eq!(refused(f.join_again(3, 2, 1)), Refusal::InviteUnknown);
    f.make_invite(50, None);
    f.join_again(3, 50, 1).unwrap();
    assert_eq!(
        bring(f, suspension(f, ids[2], ids[0], 1)),
        vec![],
        "somebody new"
    );
    assert_eq!(f.changes().members.len(), 3);
}

pub(crate) fn a_suspension_waits_for_the_end_of_a_recovery_and_holds_meanwhile(f: &Subject) {
    let rows = three(f);
    let ids = [1, 2].map(|n| member_of(f, LAN, n));
    show(f, &later(f, &rows, 40), 1).unwrap();
    let before = f.changes();
    assert!(before.suspended.is_empty());
    assert_eq!(bring(f, suspension(f, ids[1], ids[0], 1)), vec![LAN]);
    bring(f, suspension(f, ids[0], ids[1], 2));
    let during = f.changes();
    assert_eq!(during.head, before.head);
    assert_eq!(during.suspended, vec![node(2)]);
    let known = block_on(f.store.registration(node(2))).unwrap().unwrap();
    assert_eq!(known.networks, vec![]);
    let ended = end(f, false).unwrap();
    assert_eq!(ended.evicted, 1);
    let after = f.changes();
    assert_eq!(after.position.epoch, 40 + JUMP, "the first head of all");
    assert!(after.members.iter().all(|m| m.node != node(2)));
    assert!(after.suspended.is_empty());
}
