//! A coordinator out of an old backup, among members that know more.

use futures::executor::block_on;
use kanpachi_common::{
    MemberId, NodeId, SecretKey, Signed,
    roster::{Page, Position, Suspend},
    secret::NetworkSecret,
    wire::{
        control::{ClientMessage as C, Held, ServerMessage, SetName, codes},
        membership::{Evict, Suspended},
        showing::{PAGE_TARGET, Shown},
    },
};

use super::{
    super::{COMPARE_FOR, Event, SessionId},
    lab::{LAN, Lab, Replica, key, node},
};
use crate::store::{EndRecovery, JUMP, Recovered, Refusal, Store as _, StoreError};

/// What a member holds after everything that it was sent.
pub(super) struct Member {
    replica: Replica,
    secret: Option<NetworkSecret>,
}

impl Member {
    fn new(lab: &Lab) -> Self {
        Self {
            replica: Replica::new(lab),
            secret: None,
        }
    }

    fn read(&mut self, lab: &mut Lab, id: SessionId) -> Vec<(u64, ServerMessage)> {
        let read = lab.read(id);
        self.replica.apply(&read);
        for (_, message) in &read {
            if let ServerMessage::Secret(is) = message {
                self.secret = Some(is.secret.clone());
            }
        }
        read
    }

    pub(super) fn held(&self) -> Held {
        let head = self.replica.roster.as_ref().expect("a roster").head();
        Held {
            network: LAN,
            position: head.position(),
            root: head.root,
        }
    }

    pub(super) fn pages(&self, target: usize) -> Vec<Shown> {
        let roster = self.replica.roster.as_ref().expect("a roster");
        let pages = Page::split_at(LAN, roster.head().signed(), roster.body(), target);
        let secret = self.secret.clone();
        let shown = pages.into_iter().map(|page| Shown {
            secret: secret.clone().filter(|_| page.index == 0),
            page,
        });
        shown.collect()
    }

    pub(super) fn show(&self, lab: &mut Lab, id: SessionId) {
        for shown in self.pages(PAGE_TARGET) {
            lab.say(id, 0, &C::Shown(Box::new(shown)));
        }
    }
}

fn asked(read: &[(u64, ServerMessage)]) -> bool {
    let asked = |(_, m): &(u64, ServerMessage)| matches!(m, ServerMessage::ShowRoster(a) if a.network == LAN);
    read.iter().any(asked)
}

pub(super) fn has_joined(read: &[(u64, ServerMessage)]) -> bool {
    let joined = |(_, m): &(u64, ServerMessage)| matches!(m, ServerMessage::Joined(_));
    read.iter().any(joined)
}

pub(super) fn member_id(lab: &Lab, n: u8) -> MemberId {
    let changes = block_on(lab.store.changes_since(LAN, vec![])).unwrap();
    let found = changes.members.iter().find(|m| m.node == node(n));
    found.expect("a member").member
}

fn members(lab: &Lab) -> Vec<NodeId> {
    let changes = block_on(lab.store.changes_since(LAN, vec![])).unwrap();
    let mut members: Vec<_> = changes.members.iter().map(|m| m.node).collect();
    members.sort();
    members
}

fn nodes(all: &[u8]) -> Vec<NodeId> {
    let mut nodes: Vec<_> = all.iter().map(|n| node(*n)).collect();
    nodes.sort();
    nodes
}

pub(super) fn evict(lab: &mut Lab, by: SessionId, n: u8) {
    let evict = Evict {
        network: LAN,
        member: member_id(lab, n),
        password: None,
    };
    lab.say(by, 70, &C::Evict(evict));
}

fn end(lab: &mut Lab, incomplete: bool) -> Result<Recovered, StoreError> {
    let end = EndRecovery {
        seed: [0x77; 32],
        incomplete,
        now: lab.now.wall,
    };
    block_on(lab.store.end_recovery(end))
}

/// Nodes 1 to 3 are members and 1 owns the network; then a backup is made; then 4 joins and 3 is evicted. What comes back
/// is the coordinator of the backup, the token of an invite of before, and what 1 and 4 hold.
pub(super) struct Story {
    pub(super) lab: Lab,
    pub(super) token: [u8; 32],
    pub(super) owner: Member,
    pub(super) newcomer: Member,
    /// Of node 4.
    address: Option<std::net::Ipv4Addr>,
    pub(super) backup: tempfile::TempDir,
}

pub(super) fn story() -> Story {
    let mut lab = Lab::new();
    let founder = lab.invite(LAN, None, true);
    let token = lab.invite(LAN, None, false);
    let first = lab.join(1, founder);
    for n in [2, 3] {
        lab.join(n, token);
    }
    let backup = lab.backup();
    let (mut owner, mut newcomer) = (Member::new(&lab), Member::new(&lab));
    let fourth = lab.join(4, token);
    evict(&mut lab, first, 3);
    owner.read(&mut lab, first);
    newcomer.read(&mut lab, fourth);
    let known = block_on(lab.store.registration(node(4))).unwrap().unwrap();
    Story {
        lab: Lab::restored(backup.path(), lab.now),
        token,
        owner,
        newcomer,
        address: known.ipv4,
        backup,
    }
}

#[test]
fn a_member_that_knows_more_is_asked_and_believed_by_our_own_signature() {
    let Story {
        mut lab,
        token,
        owner,
        address,
        ..
    } = story();
    assert_eq!(members(&lab), nodes(&[1, 2, 3]));
    let id = lab.login(1, vec![owner.held()]);
    assert!(asked(&lab.read(id)));
    owner.show(&mut lab, id);
    assert!(lab.events.contains(&Event::Recovery));
    assert!(lab.events.contains(&Event::Adopted(node(1), LAN)));
    assert_eq!(lab.held(LAN), owner.held(), "root and epoch as they were");
    assert_eq!(members(&lab), nodes(&[1, 2, 4]));
    let known = block_on(lab.store.registration(node(4))).unwrap().unwrap();
    assert_eq!((known.ipv4, known.networks), (address, vec![LAN]));
    // Logins go on; nobody new, no invites, no evictions.
    lab.make_invite(id, 3);
    assert_eq!(lab.refusal(id).1.code, codes::RECOVERY);
    evict(&mut lab, id, 2);
    assert_eq!(lab.refusal(id).1.code, codes::RECOVERY);
    let fifth = lab.join(5, token);
    assert_eq!(lab.refusal(fifth).1.code, codes::RECOVERY);
    let second = lab.login(2, vec![]);
    let mut replica = Replica::new(&lab);
    replica.apply(&lab.read(second));
    assert_eq!(replica.members().len(), 3);
}

#[test]
fn the_evicted_stays_out_before_and_after_the_end_of_the_recovery() {
    let Story {
        mut lab,
        token,
        owner,
        ..
    } = story();
    let evicted = lab.login(3, vec![]);
    lab.read(evicted);
    let id = lab.login(1, vec![owner.held()]);
    owner.show(&mut lab, id);
    let read = lab.read(evicted);
    assert!(
        read.iter()
            .any(|(_, m)| matches!(m, ServerMessage::Removed(r) if r.network == LAN))
    );
    end(&mut lab, false).unwrap();
    let mut lab = lab.restarted();
    // The invite that it came by is as good as used; a new one is made by an owner who wants it back.
    let again = lab.join(3, token);
    assert_eq!(lab.refusal(again).1.code, codes::INVITE_UNKNOWN);
    assert_eq!(members(&lab), nodes(&[1, 2, 4]));
}

#[test]
fn the_end_goes_on_far_above_with_the_same_members_and_takes_new_ones() {
    let Story { mut lab, owner, .. } = story();
    let id = lab.login(1, vec![owner.held()]);
    owner.show(&mut lab, id);
    let before = lab.held(LAN);
    let recovered = end(&mut lab, false).unwrap();
    assert_eq!(recovered.changed, vec![LAN]);
    let after = lab.held(LAN);
    assert_eq!(after.root, before.root);
    assert!(after.position.epoch >= before.position.epoch + JUMP);
    assert!(matches!(
        end(&mut lab, false),
        Err(StoreError::Refused(Refusal::NoRecovery))
    ));
    let mut lab = lab.restarted();
    let token = lab.invite(LAN, None, false);
    lab.join(5, token);
    let roster = block_on(lab.store.roster(LAN)).unwrap();
    let mut addresses: Vec<_> = roster.members().map(|m| m.ipv4).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 4, "nobody has the address of another");
    let second = lab.login(2, vec![]);
    let mut replica = Replica::new(&lab);
    replica.apply(&lab.read(second));
    assert_eq!(replica.members().len(), 4);
}

#[test]
fn whoever_only_the_members_roster_knows_is_registered_by_showing_it() {
    let Story {
        mut lab,
        newcomer,
        address,
        ..
    } = story();
    let id = lab.login(4, vec![newcomer.held()]);
    assert_eq!(lab.welcome(id).registration, None);
    newcomer.show(&mut lab, id);
    assert_eq!(lab.refusal(id).1.code, codes::BUSY);
    assert!(lab.closed.contains(&id));
    let id = lab.login(4, vec![newcomer.held()]);
    let known = lab.welcome(id).registration.expect("registered");
    assert_eq!((known.ipv4, known.networks), (address, vec![LAN]));
}

#[test]
fn a_recovery_outlasts_a_restart() {
    let Story { mut lab, owner, .. } = story();
    let id = lab.login(1, vec![owner.held()]);
    owner.show(&mut lab, id);
    let mut lab = lab.restarted();
    let report = block_on(lab.store.recovery()).unwrap().expect("a recovery");
    assert_eq!(report.networks.len(), 1);
    assert!(report.networks[0].is_complete());
    assert_eq!(
        (report.networks[0].shown_by, report.networks[0].members),
        (1, 3)
    );
    let id = lab.login(1, vec![owner.held()]);
    assert!(!asked(&lab.read(id)), "nothing new");
    lab.make_invite(id, 3);
    assert_eq!(lab.refusal(id).1.code, codes::RECOVERY);
}

#[test]
fn nothing_is_signed_while_a_member_is_asked() {
    let Story {
        mut lab,
        owner,
        backup,
        ..
    } = story();
    let second = lab.login(2, vec![]);
    lab.read(second);
    let id = lab.login(1, vec![owner.held()]);
    let name = SetName {
        network: Some(LAN),
        name: "other".into(),
    };
    let before = lab.held(LAN);
    lab.say(second, 9, &C::SetName(name.clone()));
    assert!(lab.read(second).is_empty(), "it waits");
    assert_eq!(lab.held(LAN), before);
    owner.show(&mut lab, id);
    assert_eq!(lab.refusal(second).1.code, codes::RECOVERY);
    // A member that claims and shows nothing holds things up once, and for a moment.
    let mut lab = Lab::restored(backup.path(), lab.now);
    let second = lab.login(2, vec![]);
    lab.read(second);
    lab.login(1, vec![owner.held()]);
    lab.say(second, 9, &C::SetName(name.clone()));
    assert!(lab.read(second).is_empty());
    lab.pass(11);
    let named = |lab: &mut Lab| {
        let read = lab.read(second);
        read.iter()
            .any(|(_, m)| matches!(m, ServerMessage::NameSet(_)))
    };
    assert!(named(&mut lab), "it went on");
    lab.login(1, vec![owner.held()]);
    let name = SetName {
        name: "third".into(),
        ..name
    };
    lab.say(second, 10, &C::SetName(name));
    assert!(named(&mut lab), "once in two minutes");
}

#[test]
fn what_we_did_not_sign_is_not_believed() {
    let Story {
        mut lab,
        owner,
        backup,
        ..
    } = story();
    let before = lab.held(LAN);
    let mut forged = owner.pages(PAGE_TARGET);
    let head = owner.replica.roster.as_ref().unwrap().head();
    let thief = SecretKey::from_seed(&[0xfe; 32]);
    forged[0].page.head = Signed::sign(&**head, &thief);
    let id = lab.login(1, vec![owner.held()]);
    lab.say(id, 0, &C::Shown(Box::new(forged.remove(0))));
    owner.show(&mut lab, id);
    assert_eq!(lab.held(LAN), before, "and it is heard no further");
    // Another's members under our head.
    let mut lab = Lab::restored(backup.path(), lab.now);
    let mut pages = owner.pages(PAGE_TARGET);
    pages[0].page.entries.pop();
    let id = lab.login(1, vec![owner.held()]);
    lab.say(id, 0, &C::Shown(Box::new(pages.remove(0))));
    assert_eq!(members(&lab), nodes(&[1, 2, 3]));
    // Not asked for at all, and by somebody who is not in it.
    let mut lab = Lab::restored(backup.path(), lab.now);
    let id = lab.login(1, vec![]);
    owner.show(&mut lab, id);
    assert_eq!(lab.held(LAN), before);
    let id = lab.login(3, vec![owner.held()]);
    assert!(asked(&lab.read(id)));
    owner.show(&mut lab, id);
    assert_eq!(lab.held(LAN), before);
}

#[test]
fn pages_come_in_order_and_a_roster_of_several_is_put_together() {
    let Story {
        mut lab,
        owner,
        backup,
        ..
    } = story();
    let pages = owner.pages(1);
    assert_eq!(pages.len(), 4, "settings, and a page for each member");
    let id = lab.login(1, vec![owner.held()]);
    for shown in pages {
        lab.say(id, 0, &C::Shown(Box::new(shown)));
    }
    assert_eq!(lab.held(LAN), owner.held());
    let mut lab = Lab::restored(backup.path(), lab.now);
    let id = lab.login(1, vec![owner.held()]);
    for shown in owner.pages(1).into_iter().rev() {
        lab.say(id, 0, &C::Shown(Box::new(shown)));
    }
    assert_ne!(lab.held(LAN), owner.held());
}

#[test]
fn without_the_secret_a_roster_is_seen_and_not_taken_over() {
    let Story {
        mut lab, mut owner, ..
    } = story();
    let before = lab.held(LAN);
    let secret = owner.secret.take();
    let id = lab.login(1, vec![owner.held()]);
    owner.show(&mut lab, id);
    assert_eq!(lab.held(LAN), before);
    let report = block_on(lab.store.recovery()).unwrap().expect("a recovery");
    assert!(!report.networks[0].is_complete());
    assert!(matches!(
        end(&mut lab, false),
        Err(StoreError::Refused(Refusal::RecoveryIncomplete))
    ));
    owner.secret = secret;
    let id = lab.login(1, vec![owner.held()]);
    owner.show(&mut lab, id);
    assert_eq!(lab.held(LAN), owner.held());
}

#[test]
fn what_the_restored_one_signed_by_itself_gives_way_and_does_not_come_back() {
    let Story {
        mut lab,
        token,
        owner,
        ..
    } = story();
    // Nobody was there to ask: two more joined, as many epochs as the members know, and one more.
    let mut other = Member::new(&lab);
    for n in [6, 7, 8] {
        let id = lab.join(n, token);
        if n == 8 {
            other.read(&mut lab, id);
        }
    }
    assert!(other.held().position > owner.held().position);
    let id = lab.login(1, vec![owner.held()]);
    assert!(
        asked(&lab.read(id)),
        "another root for an epoch that is known"
    );
    owner.show(&mut lab, id);
    assert_eq!(lab.held(LAN), owner.held());
    let id = lab.login(8, vec![other.held()]);
    other.show(&mut lab, id);
    assert_eq!(lab.held(LAN), owner.held(), "abandoned for good");
    end(&mut lab, false).unwrap();
    assert!(lab.held(LAN).position.epoch > other.held().position.epoch + JUMP / 2);
    assert_eq!(members(&lab), nodes(&[1, 2, 4]));
}

#[test]
fn a_coordinator_that_is_unsure_hears_a_member_before_it_signs() {
    let Story {
        mut lab,
        token,
        owner,
        backup,
        ..
    } = story();
    lab.core.handle_unsure([LAN].into(), lab.now);
    let fifth = lab.join(5, token);
    assert!(!has_joined(&lab.read(fifth)));
    let id = lab.login(1, vec![owner.held()]);
    owner.show(&mut lab, id);
    lab.pass(COMPARE_FOR.as_secs() + 1);
    assert_eq!(lab.refusal(fifth).1.code, codes::RECOVERY);
    // One that holds what is stored ends the doubt at once.
    let mut lab = Lab::restored(backup.path(), lab.now);
    lab.core.handle_unsure([LAN].into(), lab.now);
    let fifth = lab.join(5, token);
    let held = lab.held(LAN);
    lab.login(2, vec![held]);
    assert!(has_joined(&lab.read(fifth)));
    // And so does time.
    let mut lab = Lab::restored(backup.path(), lab.now);
    lab.core.handle_unsure([LAN].into(), lab.now);
    let fifth = lab.join(5, token);
    lab.read(fifth);
    lab.pass(COMPARE_FOR.as_secs() + 1);
    assert!(has_joined(&lab.read(fifth)));
}

fn suspend(lab: &Lab, member: MemberId, by: MemberId, signer: u8) -> Signed<Suspend> {
    let suspend = Suspend {
        org: lab.manifest.org(),
        network: LAN,
        member,
        by,
        seq: 1,
        epoch: lab.held(LAN).position.epoch,
    };
    Signed::sign(&suspend, &key(signer))
}

fn bring(lab: &mut Lab, id: SessionId, suspend: Signed<Suspend>) -> Vec<(u64, ServerMessage)> {
    let said = Suspended {
        suspends: vec![suspend],
    };
    lab.say(id, 60, &C::Suspended(said));
    lab.read(id)
}

fn is_done(read: &[(u64, ServerMessage)]) -> bool {
    read.iter()
        .any(|(id, m)| *id == 60 && matches!(m, ServerMessage::Done(_)))
}

#[test]
fn a_suspension_by_an_owner_is_an_eviction_whoever_brings_it_and_once() {
    let mut lab = Lab::new();
    let founder = lab.invite(LAN, None, true);
    let token = lab.invite(LAN, None, false);
    lab.join(1, founder);
    let (second, third) = (lab.join(2, token), lab.join(3, token));
    for id in [second, third] {
        lab.read(id);
    }
    let ids = [1, 2, 3].map(|n| member_id(&lab, n));
    let before = lab.held(LAN);
    // Not by whoever is no owner, nor in an owner's name by somebody else.
    for forged in [
        suspend(&lab, ids[2], ids[1], 2),
        suspend(&lab, ids[2], ids[0], 2),
    ] {
        assert!(is_done(&bring(&mut lab, second, forged)));
        assert_eq!(lab.held(LAN), before);
    }
    let stranger = lab.login(9, vec![]);
    lab.read(stranger);
    let real = suspend(&lab, ids[2], ids[0], 1);
    let said = Suspended {
        suspends: vec![real.clone()],
    };
    lab.say(stranger, 60, &C::Suspended(said));
    assert_eq!(lab.refusal(stranger).1.code, codes::NOT_REGISTERED);
    // The owner is not even there.
    let read = bring(&mut lab, second, real.clone());
    assert!(is_done(&read));
    assert!(
        read.iter()
            .any(|(_, m)| matches!(m, ServerMessage::Delta(d) if d.removed == [ids[2]]))
    );
    assert!(
        read.iter()
            .any(|(_, m)| matches!(m, ServerMessage::Secret(s) if s.secret.id == 2))
    );
    let read = lab.read(third);
    assert!(
        read.iter()
            .any(|(_, m)| matches!(m, ServerMessage::Removed(_)))
    );
    let after = lab.held(LAN);
    assert!(is_done(&bring(&mut lab, second, real)));
    assert_eq!(lab.held(LAN), after, "twice is once");
    let again = lab.join(3, token);
    assert_eq!(
        lab.refusal(again).1.code,
        codes::INVITE_UNKNOWN,
        "revoked with it"
    );
    let token = lab.invite(LAN, None, false);
    lab.leave(again);
    let again = lab.join(3, token);
    let joined = lab.read(again);
    assert!(
        joined
            .iter()
            .any(|(_, m)| matches!(m, ServerMessage::Joined(_)))
    );
}

#[test]
fn a_suspension_in_recovery_holds_at_once_and_is_an_eviction_before_anything_else_is_signed() {
    let Story { mut lab, owner, .. } = story();
    let ids = [1, 2].map(|n| member_id(&lab, n));
    let second = lab.login(2, vec![]);
    lab.read(second);
    let id = lab.login(1, vec![owner.held()]);
    owner.show(&mut lab, id);
    lab.read(id);
    let before = lab.held(LAN);
    let suspension = suspend(&lab, ids[1], ids[0], 1);
    assert!(is_done(&bring(&mut lab, id, suspension)));
    assert_eq!(lab.held(LAN), before, "nothing is signed");
    let read = lab.read(second);
    assert!(
        read.iter()
            .any(|(_, m)| matches!(m, ServerMessage::Removed(r) if r.network == LAN))
    );
    let second = lab.login(2, vec![before]);
    assert_eq!(lab.welcome(second).registration.unwrap().networks, vec![]);
    let recovered = end(&mut lab, false).unwrap();
    assert_eq!(recovered.evicted, 1);
    assert_eq!(members(&lab), nodes(&[1, 4]));
    let after = lab.held(LAN).position;
    let floor = Position {
        epoch: before.position.epoch + JUMP,
        ..before.position
    };
    assert_eq!(after, floor, "the first head above is the one without it");
}
