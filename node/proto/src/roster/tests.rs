//! What a node believes, in which order, and what it keeps when it does not.

use kanpachi_common::{
    MacAddr, MemberId, Pool, SecretKey, TunnelKey,
    addr::ipv6_of,
    cbor,
    roster::{Caps, Delta, Entry, NetworkType, Page, Private, Proof, Public, Settings},
};

use super::*;

pub(crate) const NETWORK: NetworkId = NetworkId([0xaa; 32]);

pub(crate) struct Org {
    pub(crate) root: SecretKey,
    pub(crate) signer: SecretKey,
    pub(crate) generation: u64,
}

impl Org {
    pub(crate) fn new() -> Self {
        Self {
            root: SecretKey::from_seed(&[1; 32]),
            signer: SecretKey::from_seed(&[2; 32]),
            generation: 1,
        }
    }

    pub(crate) fn id(&self) -> OrgId {
        OrgId::of_root(&self.root.public_key())
    }

    pub(crate) fn manifest(&self) -> Signed<Manifest> {
        let manifest = Manifest {
            root: self.root.public_key(),
            generation: self.generation,
            signing_keys: vec![self.signer.public_key()],
            issued_at: UnixTime(1000),
            ext: vec![],
        };
        Signed::sign(&manifest, &self.root)
    }

    pub(crate) fn directory(&self, seq: u64) -> Signed<Directory> {
        let directory = Directory {
            org: self.id(),
            generation: self.generation,
            seq,
            issued_at: UnixTime(1000),
            pool: Pool::default(),
            coordinators: vec![],
            bootstraps: vec![],
            ext: vec![],
        };
        Signed::sign(&directory, &self.signer)
    }

    pub(crate) fn entry(&self, n: u8, serial: u64) -> Entry {
        self.entry_at(n, serial, n)
    }

    /// The same with another address.
    pub(crate) fn entry_at(&self, n: u8, serial: u64, host: u8) -> Entry {
        let key = SecretKey::from_seed(&[n; 32]);
        let node = key.node_id();
        let public = Public {
            member: MemberId([n; 32]),
            node,
            // The first is an owner.
            caps: if n == 1 { Caps::OWNER } else { Caps::default() },
        };
        let private = Private {
            tunnel: TunnelKey::sign(&key, &self.id(), serial, [n; 32]),
            ipv4: Some([198, 19, 0, host].into()),
            ipv6: ipv6_of(&self.id(), &node),
            mac: MacAddr::of(&node),
            name: format!("m{n}"),
            prefixes: vec![],
            ext: vec![],
        };
        Entry::new(&public, &private, [n; 16])
    }

    pub(crate) fn roster(&self, members: &[u8]) -> Roster {
        let settings = Settings {
            name: "lan".into(),
            kind: NetworkType::Mesh,
            rules: vec![],
            ext: vec![],
        };
        Roster {
            settings: cbor::encode(&settings),
            entries: members.iter().map(|n| self.entry(*n, 1)).collect(),
        }
    }

    pub(crate) fn head(&self, roster: &Roster, epoch: u64, issued_at: u64) -> Signed<Head> {
        let secret = NetworkSecret::new(1, [5; 32]);
        let head = Head {
            org: self.id(),
            network: NETWORK,
            generation: self.generation,
            epoch,
            root: roster.root(),
            size: roster.entries.len() as u64 + 1,
            prev_root: Hash([0; 32]),
            secret_id: 1,
            secret_hash: secret.hash(),
            issued_at: UnixTime(issued_at),
            soft_expires_at: UnixTime(issued_at + 100),
            hard_expires_at: Some(UnixTime(issued_at + 200)),
            ext: vec![],
        };
        Signed::sign(&head, &self.signer)
    }

    /// A node that holds members 1, 2 and 3 at epoch 5; it is member 1.
    pub(crate) fn node(&self) -> Rosters {
        let mut rosters = Rosters::new(self.id(), SecretKey::from_seed(&[1; 32]).node_id());
        let update = rosters.check_manifest(&self.manifest()).unwrap();
        rosters.commit(update);
        take(&mut rosters, self, &[1, 2, 3], 5).unwrap();
        rosters
    }
}

pub(crate) fn take(
    rosters: &mut Rosters,
    org: &Org,
    members: &[u8],
    epoch: u64,
) -> Result<bool, Refusal> {
    let roster = org.roster(members);
    let update = rosters.check_roster(&org.head(&roster, epoch, 1000), roster)?;
    let changed = update.is_some();
    if let Some(update) = update {
        rosters.commit(update);
    }
    Ok(changed)
}

fn names(rosters: &Rosters) -> Vec<String> {
    let mut names: Vec<_> = rosters
        .peers(UnixTime(1000))
        .values()
        .map(|p| p.networks[0].name.clone())
        .collect();
    names.sort();
    names
}

#[test]
fn peers_are_the_other_members() {
    let org = Org::new();
    assert_eq!(names(&org.node()), ["m2", "m3"]);
}

#[test]
fn a_lower_epoch_is_refused_and_counted_and_changes_nothing() {
    let org = Org::new();
    let mut rosters = org.node();
    assert!(matches!(
        take(&mut rosters, &org, &[1, 2, 3, 4], 4),
        Err(Refusal::Stale { .. })
    ));
    assert_eq!(rosters.counters().roster_stale, 1);
    assert_eq!(names(&rosters), ["m2", "m3"]);
}

#[test]
fn what_was_removed_from_a_roster_is_no_peer_any_more() {
    let org = Org::new();
    let mut rosters = org.node();
    assert_eq!(take(&mut rosters, &org, &[1, 3], 6), Ok(true));
    assert_eq!(names(&rosters), ["m3"]);
    assert!(
        take(&mut rosters, &org, &[1, 2, 3], 5).is_err(),
        "the old roster came back"
    );
}

#[test]
fn the_same_roster_again_is_no_news_and_a_later_signature_renews_it() {
    let org = Org::new();
    let mut rosters = org.node();
    assert_eq!(take(&mut rosters, &org, &[1, 2, 3], 5), Ok(false));
    let roster = org.roster(&[1, 2, 3]);
    let renewed = org.head(&roster, 5, 2000);
    let update = rosters.check_roster(&renewed, roster).unwrap().unwrap();
    rosters.commit(update);
    assert_eq!(
        rosters.roster(&NETWORK).unwrap().head().issued_at,
        UnixTime(2000)
    );
}

#[test]
fn two_rosters_for_one_epoch_let_nobody_new_in_until_a_new_generation() {
    let mut org = Org::new();
    let mut rosters = org.node();
    assert_eq!(take(&mut rosters, &org, &[1, 2, 3, 4], 5), Ok(true));
    assert!(rosters.is_equivocal(&NETWORK));
    assert_eq!(rosters.counters().roster_equivocation, 1);
    assert_eq!(
        names(&rosters),
        ["m2", "m3"],
        "sessions stay, nobody is added"
    );
    assert!(matches!(
        take(&mut rosters, &org, &[1, 2, 3, 4], 6),
        Err(Refusal::Equivocation(_))
    ));
    org.generation = 2;
    let update = rosters.check_manifest(&org.manifest()).unwrap();
    rosters.commit(update);
    assert_eq!(take(&mut rosters, &org, &[1, 2, 3, 4], 1), Ok(true));
    assert!(!rosters.is_equivocal(&NETWORK));
    assert_eq!(names(&rosters), ["m2", "m3", "m4"]);
}

#[test]
fn a_newer_manifest_freezes_the_rosters_of_the_old_generation() {
    let mut org = Org::new();
    let mut rosters = org.node();
    let old = Org::new();
    org.generation = 2;
    let update = rosters.check_manifest(&org.manifest()).unwrap();
    rosters.commit(update);
    assert_eq!(names(&rosters), ["m2", "m3"], "existing members stay");
    assert!(
        take(&mut rosters, &old, &[1, 2, 3, 4], 9).is_err(),
        "the old generation still counted"
    );
    assert!(
        rosters.check_manifest(&old.manifest()).is_err(),
        "the generation fell"
    );
}

#[test]
fn an_invite_sets_a_floor_below_which_nothing_is_believed() {
    let org = Org::new();
    let mut rosters = Rosters::new(org.id(), NodeId([0; 32]));
    let update = rosters.check_manifest(&org.manifest()).unwrap();
    rosters.commit(update);
    rosters.set_floor(
        NETWORK,
        Position {
            generation: 1,
            epoch: 7,
        },
    );
    assert!(matches!(
        take(&mut rosters, &org, &[1, 2], 6),
        Err(Refusal::Stale { .. })
    ));
    assert_eq!(take(&mut rosters, &org, &[1, 2], 7), Ok(true));
}

#[test]
fn without_keys_of_the_organisation_nothing_is_believed() {
    let org = Org::new();
    let mut rosters = Rosters::new(org.id(), NodeId([0; 32]));
    assert_eq!(
        take(&mut rosters, &org, &[1, 2], 6),
        Err(Refusal::NoManifest)
    );
    let mut other = Org::new();
    other.root = SecretKey::from_seed(&[99; 32]);
    assert!(rosters.check_manifest(&other.manifest()).is_err());
    assert_eq!(rosters.counters().roster_bad_signature, 1);
}

#[test]
fn a_change_from_a_roster_that_is_not_held_asks_for_the_whole() {
    let org = Org::new();
    let mut rosters = org.node();
    let new = org.roster(&[1, 2, 3, 4]);
    let delta = |base: u64| Delta {
        network: NETWORK,
        base: Position {
            generation: 1,
            epoch: base,
        },
        base_root: org.roster(&[1, 2, 3]).root(),
        head: org.head(&new, 6, 1000),
        settings: None,
        upserts: vec![org.entry(4, 1)],
        removed: vec![],
    };
    assert_eq!(rosters.check_delta(delta(4)).unwrap_err(), Refusal::NotHeld);
    let update = rosters.check_delta(delta(5)).unwrap().unwrap();
    rosters.commit(update);
    assert_eq!(names(&rosters), ["m2", "m3", "m4"]);
}

#[test]
fn pages_out_of_order_are_refused_and_the_right_ones_still_count() {
    let org = Org::new();
    let mut rosters = Rosters::new(org.id(), NodeId([0; 32]));
    let update = rosters.check_manifest(&org.manifest()).unwrap();
    rosters.commit(update);
    let whole = org.roster(&(1..=9).collect::<Vec<u8>>());
    let head = org.head(&whole, 5, 1000);
    let page = |index: u16, entries: &[Entry]| Page {
        network: NETWORK,
        head: head.clone(),
        index,
        count: 3,
        settings: (index == 0).then(|| whole.settings.clone().into()),
        entries: entries.to_vec(),
    };
    let pages = [
        page(0, &whole.entries[..3]),
        page(1, &whole.entries[3..6]),
        page(2, &whole.entries[6..]),
    ];
    assert!(rosters.check_page(pages[2].clone()).is_err());
    assert!(matches!(rosters.check_page(pages[0].clone()), Ok(None)));
    assert!(
        rosters.check_page(pages[2].clone()).is_err(),
        "a page was skipped"
    );
    for page in &pages[..2] {
        assert!(matches!(rosters.check_page(page.clone()), Ok(None)));
    }
    let update = rosters.check_page(pages[2].clone()).unwrap().unwrap();
    rosters.commit(update);
    assert_eq!(rosters.roster(&NETWORK).unwrap().members().count(), 9);
}

#[test]
fn a_tunnel_key_never_goes_back() {
    let org = Org::new();
    let mut rosters = org.node();
    let with = |serial: u64, epoch: u64| {
        let mut roster = org.roster(&[1, 2, 3]);
        roster.entries[1] = org.entry(2, serial);
        (org.head(&roster, epoch, 1000), roster)
    };
    let (head, roster) = with(4, 6);
    let update = rosters.check_roster(&head, roster).unwrap().unwrap();
    rosters.commit(update);
    let (head, roster) = with(3, 7);
    assert_eq!(
        rosters.check_roster(&head, roster).unwrap_err(),
        Refusal::OldTunnelKey
    );
}

#[test]
fn directories_only_rise() {
    let org = Org::new();
    let mut rosters = org.node();
    let update = rosters.check_directory(&org.directory(5)).unwrap().unwrap();
    rosters.commit(update);
    assert!(rosters.check_directory(&org.directory(4)).is_err());
    assert!(
        rosters
            .check_directory(&org.directory(5))
            .unwrap()
            .is_none()
    );
    assert!(
        rosters
            .check_directory(&org.directory(6))
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_proof_of_an_older_epoch_than_seen_is_refused() {
    let org = Org::new();
    let mut rosters = org.node();
    let bearer = SecretKey::from_seed(&[2; 32]).node_id();
    let proof = Proof::of(rosters.roster(&NETWORK).unwrap(), &bearer, true).unwrap();
    assert!(rosters.check_proof(&proof, &bearer).is_ok());
    assert!(
        rosters.check_proof(&proof, &NodeId([0; 32])).is_err(),
        "a stranger's proof"
    );
    assert_eq!(rosters.counters().proof_refused, 1);
    take(&mut rosters, &org, &[1, 3], 6).unwrap();
    assert!(matches!(
        rosters.check_proof(&proof, &bearer),
        Err(Refusal::Stale { .. })
    ));
}

#[test]
fn a_secret_counts_only_if_the_roster_names_it() {
    let org = Org::new();
    let mut rosters = org.node();
    assert!(
        rosters
            .check_secret(NETWORK, NetworkSecret::new(1, [6; 32]))
            .is_err()
    );
    assert!(
        rosters
            .check_secret(NETWORK, NetworkSecret::new(2, [5; 32]))
            .is_err()
    );
    let update = rosters
        .check_secret(NETWORK, NetworkSecret::new(1, [5; 32]))
        .unwrap()
        .unwrap();
    rosters.commit(update);
    assert!(
        rosters
            .check_secret(NETWORK, NetworkSecret::new(1, [5; 32]))
            .unwrap()
            .is_none()
    );
}

#[test]
fn what_was_on_disk_is_taken_up_and_what_was_seen_still_counts() {
    let org = Org::new();
    let roster = org.roster(&[1, 2]);
    let stored = || Stored {
        manifest: Some(org.manifest()),
        directory: Some(org.directory(1)),
        held: vec![(org.manifest(), org.head(&roster, 5, 1000), roster.clone())],
        seen: vec![(
            NETWORK,
            Position {
                generation: 1,
                epoch: 9,
            },
            Hash([0; 32]),
        )],
        ..Stored::default()
    };
    let me = SecretKey::from_seed(&[1; 32]).node_id();
    let mut rosters = Rosters::load(org.id(), me, stored()).unwrap();
    assert_eq!(names(&rosters), ["m2"]);
    assert!(matches!(
        take(&mut rosters, &org, &[1, 2, 3], 8),
        Err(Refusal::Stale { .. })
    ));
    let mut damaged = stored();
    damaged.held[0].2.entries.pop();
    assert!(Rosters::load(org.id(), me, damaged).is_err());
}

#[test]
fn a_network_that_the_node_is_not_there_in_authorises_nobody_until_it_is() {
    let org = Org::new();
    let mut rosters = org.node();
    let before = names(&rosters);
    assert!(!before.is_empty());
    rosters.set_online(NETWORK, false);
    assert!(names(&rosters).is_empty());
    assert_eq!(rosters.offline().collect::<Vec<_>>(), [NETWORK]);
    // The roster goes on being kept, and told of.
    assert_eq!(rosters.held().len(), 1);
    rosters.set_online(NETWORK, true);
    assert_eq!(names(&rosters), before);
    assert_eq!(rosters.offline().count(), 0);

    let roster = org.roster(&[1, 2]);
    let stored = Stored {
        manifest: Some(org.manifest()),
        held: vec![(org.manifest(), org.head(&roster, 5, 1000), roster)],
        offline: vec![NETWORK],
        ..Stored::default()
    };
    let me = SecretKey::from_seed(&[1; 32]).node_id();
    let mut rosters = Rosters::load(org.id(), me, stored).unwrap();
    assert!(names(&rosters).is_empty(), "a restart forgot it");
    // Whoever is no member any more, and joins again, is there.
    rosters.commit(Update::Removed(NETWORK));
    assert!(rosters.is_online(&NETWORK));
}

#[test]
fn a_member_that_awaits_approval_is_nobodys_peer_and_has_none() {
    let org = Org::new();
    let mut roster = org.roster(&[1, 2, 3]);
    let caps = |entry: &mut Entry, caps| {
        let mut public = Public::decode(&entry.public).unwrap();
        public.caps = caps;
        entry.public = cbor::encode(&public);
    };
    caps(&mut roster.entries[2], Caps::PENDING);
    let seen_by = |n: u8| {
        let me = SecretKey::from_seed(&[n; 32]).node_id();
        let stored = Stored {
            manifest: Some(org.manifest()),
            held: vec![(org.manifest(), org.head(&roster, 5, 1000), roster.clone())],
            ..Stored::default()
        };
        let rosters = Rosters::load(org.id(), me, stored).unwrap();
        assert_eq!(rosters.roster(&NETWORK).unwrap().members().count(), 3);
        names(&rosters)
    };
    assert_eq!(seen_by(1), ["m2"]);
    assert!(seen_by(3).is_empty());
}

#[test]
fn an_equivocation_outlives_a_restart_and_ends_with_its_generation() {
    let mut org = Org::new();
    let roster = org.roster(&[1, 2]);
    let at = Position {
        generation: 1,
        epoch: 5,
    };
    let stored = |org: &Org| Stored {
        manifest: Some(org.manifest()),
        held: vec![(org.manifest(), org.head(&roster, 5, 1000), roster.clone())],
        equivocations: vec![(NETWORK, at)],
        ..Stored::default()
    };
    let me = SecretKey::from_seed(&[1; 32]).node_id();
    let mut rosters = Rosters::load(org.id(), me, stored(&org)).unwrap();
    assert!(rosters.is_equivocal(&NETWORK));
    assert!(matches!(
        take(&mut rosters, &org, &[1, 2, 3], 6),
        Err(Refusal::Equivocation(_))
    ));
    assert_eq!(names(&rosters), ["m2"]);
    org.generation = 2;
    let rosters = Rosters::load(org.id(), me, stored(&org)).unwrap();
    assert!(!rosters.is_equivocal(&NETWORK));
}

#[test]
fn a_roster_of_an_older_generation_is_still_there_after_a_restart() {
    let (old, mut org) = (Org::new(), Org::new());
    org.generation = 2;
    let roster = old.roster(&[1, 2]);
    let stored = Stored {
        manifest: Some(org.manifest()),
        held: vec![(old.manifest(), old.head(&roster, 5, 1000), roster)],
        ..Stored::default()
    };
    let me = SecretKey::from_seed(&[1; 32]).node_id();
    let mut rosters = Rosters::load(org.id(), me, stored).unwrap();
    assert_eq!(names(&rosters), ["m2"]);
    assert!(take(&mut rosters, &old, &[1, 2, 3], 6).is_err());
    assert_eq!(take(&mut rosters, &org, &[1, 2, 3], 6), Ok(true));
}

#[test]
fn nobody_opens_a_session_under_an_expired_roster() {
    let org = Org::new();
    let rosters = org.node();
    let open = |at: u64| rosters.peers(UnixTime(at)).values().all(|p| p.may_open);
    assert!(open(1100));
    assert!(!open(1200));
    assert!(
        open(0),
        "a clock before the newest signature counts as that"
    );
}
