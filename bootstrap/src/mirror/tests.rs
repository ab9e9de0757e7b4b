//! What the mirror takes in, what it refuses, and what it still knows after a restart.

use std::net::Ipv4Addr;

use kanpachi_common::{
    Hash, MacAddr, MemberId, Pool, SecretKey, Signed, TunnelKey, UnixTime,
    addr::ipv6_of,
    cbor,
    org::{Address, Directory, Manifest, Server},
    roster::{
        Caps, Entry, HARD_SECONDS, Head, NetworkType, Private, Public, PublicRoster, Roster,
        SOFT_SECONDS, Settings, VerifiedRoster,
    },
    wire::mirror::{MirrorReply, Mirrored},
};

use super::*;

/// An organisation that signs.
pub(crate) struct Org {
    pub(crate) root: SecretKey,
    pub(crate) signing: SecretKey,
    pub(crate) generation: u64,
    /// When heads stop opening sessions.
    pub(crate) hard: Option<u64>,
}

impl Org {
    pub(crate) fn new() -> Self {
        Self {
            root: SecretKey::from_seed(&[1; 32]),
            signing: SecretKey::from_seed(&[2; 32]),
            generation: 1,
            hard: Some(HARD_SECONDS),
        }
    }

    pub(crate) fn id(&self) -> OrgId {
        OrgId::of_root(&self.root.public_key())
    }

    pub(crate) fn manifest(&self) -> Signed<Manifest> {
        let manifest = Manifest {
            root: self.root.public_key(),
            generation: self.generation,
            signing_keys: vec![self.signing.public_key()],
            issued_at: UnixTime(1),
            ext: vec![],
        };
        Signed::sign(&manifest, &self.root)
    }

    fn directory(&self, seq: u64, server: u8) -> Signed<Directory> {
        let directory = Directory {
            org: self.id(),
            generation: self.generation,
            seq,
            issued_at: UnixTime(1),
            pool: Pool::default(),
            coordinators: vec![Server {
                id: SecretKey::from_seed(&[server; 32]).node_id(),
                addresses: vec![Address::new("192.0.2.1", 12975)],
            }],
            bootstraps: vec![],
            ext: vec![],
        };
        Signed::sign(&directory, &self.signing)
    }

    /// A roster of these members at an epoch.
    pub(crate) fn roster(
        &self,
        network: u8,
        epoch: u64,
        issued_at: u64,
        members: &[u8],
    ) -> PublicRoster {
        self.verified(network, epoch, issued_at, members).public()
    }

    /// The same with its private halves.
    pub(crate) fn verified(
        &self,
        network: u8,
        epoch: u64,
        issued_at: u64,
        members: &[u8],
    ) -> VerifiedRoster {
        let mut entries: Vec<Entry> = members.iter().map(|seed| self.entry(*seed)).collect();
        entries.sort_by_key(|entry| Public::decode(&entry.public).unwrap().member);
        let roster = Roster {
            settings: cbor::encode(&Settings {
                name: "lan".to_owned(),
                kind: NetworkType::Mesh,
                rules: vec![],
                ext: vec![],
            }),
            entries,
        };
        let head = Head {
            org: self.id(),
            network: NetworkId([network; 32]),
            generation: self.generation,
            epoch,
            root: roster.root(),
            size: members.len() as u64 + 1,
            prev_root: Hash([0; 32]),
            secret_id: 1,
            secret_hash: Hash([0; 32]),
            issued_at: UnixTime(issued_at),
            soft_expires_at: UnixTime(issued_at + SOFT_SECONDS),
            hard_expires_at: self.hard.map(|hard| UnixTime(issued_at + hard)),
            ext: vec![],
        };
        let manifest = Manifest::verify(&self.manifest(), &self.id()).unwrap();
        let head = Head::verify(&Signed::sign(&head, &self.signing), &manifest).unwrap();
        roster.verify(head).unwrap()
    }

    fn entry(&self, seed: u8) -> Entry {
        let key = SecretKey::from_seed(&[seed; 32]);
        let node = key.node_id();
        let public = Public {
            member: MemberId([seed; 32]),
            node,
            caps: Caps::default(),
        };
        let private = Private {
            tunnel: TunnelKey::sign(&key, &self.id(), 1, [seed; 32]),
            ipv4: Some(Ipv4Addr::new(198, 19, 0, seed)),
            ipv6: ipv6_of(&self.id(), &node),
            mac: MacAddr::of(&node),
            name: format!("node-{seed}"),
            prefixes: vec![],
            ext: vec![],
        };
        Entry::new(&public, &private, [seed; 16])
    }

    pub(crate) fn item(&self, seq: u64, roster: Option<PublicRoster>) -> Mirrored {
        Mirrored {
            manifest: self.manifest(),
            directory: self.directory(seq, 9),
            roster,
        }
    }
}

pub(crate) fn node(seed: u8) -> NodeId {
    SecretKey::from_seed(&[seed; 32]).node_id()
}

/// As if networks without members had been let go of up to this time.
pub(crate) fn forget(mirror: &Mirror, until: UnixTime) {
    mirror.inner.state.write().unwrap().forget_until(until);
}

fn mirror(org: &Org) -> Mirror {
    Mirror::open(org.id(), None).unwrap()
}

fn found_epoch(reply: &MirrorReply) -> u64 {
    let (MirrorReply::Found(found) | MirrorReply::Older(found)) = reply else {
        panic!("{reply:?}");
    };
    let head: Head = cbor::decode(&found.roster.as_ref().unwrap().head.payload, 4096).unwrap();
    head.epoch
}

#[tokio::test]
async fn the_newest_epoch_is_kept_and_shown_to_who_brings_an_older_one() {
    let org = Org::new();
    let mirror = mirror(&org);
    let network = NetworkId([5; 32]);
    assert_eq!(mirror.get(&org.id(), &network), MirrorReply::Unknown);
    assert!(
        mirror.admits(&node(77)),
        "nobody can be told from a member yet"
    );

    let first = org.item(1, Some(org.roster(5, 1, 100, &[10, 11])));
    assert_eq!(mirror.put(first.clone()).await, MirrorReply::Kept);
    assert_eq!(
        mirror.put(first.clone()).await,
        MirrorReply::Kept,
        "known already"
    );
    assert!(mirror.admits(&node(10)) && mirror.admits(&node(9)) && !mirror.admits(&node(77)));

    let evicted = org.item(1, Some(org.roster(5, 2, 200, &[10])));
    assert_eq!(mirror.put(evicted).await, MirrorReply::Kept);
    assert!(!mirror.admits(&node(11)), "evicted");
    assert_eq!(found_epoch(&mirror.put(first).await), 2);
    assert_eq!(found_epoch(&mirror.get(&org.id(), &network)), 2);
    assert_eq!(mirror.get(&OrgId([0; 32]), &network), MirrorReply::Unknown);
    let renewed = org.item(1, Some(org.roster(5, 2, 300, &[10])));
    assert_eq!(mirror.put(renewed).await, MirrorReply::Kept);
    let changes = *mirror.watch().borrow();
    assert_eq!(changes, 3, "first, eviction, renewal");
}

#[tokio::test]
async fn what_is_not_properly_signed_is_refused() {
    let org = Org::new();
    let mirror = mirror(&org);
    let good = org.item(1, Some(org.roster(5, 1, 100, &[10, 11])));
    let mut other = Org::new();
    other.root = SecretKey::from_seed(&[3; 32]);
    let stranger = other.item(1, Some(other.roster(5, 9, 100, &[66])));
    let mut changed = good.clone();
    let entries = &mut changed.roster.as_mut().unwrap().entries;
    entries[0].1.0[0] ^= 1;
    let mut forged_head = good.clone();
    forged_head.roster.as_mut().unwrap().head.payload[20] ^= 1;
    let mut forged_directory = good.clone();
    forged_directory.directory.sig[0] ^= 1;
    let mut mixed = good.clone();
    mixed.roster = Some(PublicRoster {
        head: good.roster.clone().unwrap().head,
        ..org.roster(5, 1, 100, &[10, 12])
    });
    for bad in [stranger, changed, forged_head, forged_directory, mixed] {
        let reply = mirror.put(bad).await;
        assert!(matches!(reply, MirrorReply::Refused(_)), "{reply:?}");
    }
    assert_eq!(
        mirror.directory(),
        None,
        "a refused item leaves nothing behind"
    );
    assert_eq!(mirror.put(good).await, MirrorReply::Kept);
}

#[tokio::test]
async fn two_answers_to_one_question_are_refused() {
    let org = Org::new();
    let mirror = mirror(&org);
    let first = org.item(1, Some(org.roster(5, 1, 100, &[10, 11])));
    assert_eq!(mirror.put(first).await, MirrorReply::Kept);
    let fork = org.item(1, Some(org.roster(5, 1, 100, &[10, 66])));
    assert!(matches!(mirror.put(fork).await, MirrorReply::Refused(_)));
    let mut directory = org.item(1, None);
    directory.directory = org.directory(1, 8);
    assert!(matches!(
        mirror.put(directory).await,
        MirrorReply::Refused(_)
    ));
    let mut manifest = Org::new();
    manifest.signing = SecretKey::from_seed(&[4; 32]);
    assert!(matches!(
        mirror.put(manifest.item(2, None)).await,
        MirrorReply::Refused(_)
    ));
    assert!(mirror.admits(&node(11)) && !mirror.admits(&node(66)));
}

#[tokio::test]
async fn a_new_generation_freezes_what_an_older_one_signed() {
    let mut org = Org::new();
    let mirror = mirror(&org);
    let old = org.item(7, Some(org.roster(5, 9, 100, &[10])));
    assert_eq!(mirror.put(old.clone()).await, MirrorReply::Kept);
    org.generation = 2;
    org.signing = SecretKey::from_seed(&[4; 32]);
    assert_eq!(mirror.put(org.item(1, None)).await, MirrorReply::Kept);
    assert!(mirror.admits(&node(10)), "members stay members");
    assert!(!mirror.admits(&node(11)));
    let MirrorReply::Found(found) = mirror.get(&org.id(), &NetworkId([5; 32])) else {
        panic!("the keys at least");
    };
    assert_eq!(found.roster, None, "an old head proves nothing any more");
    assert!(matches!(mirror.put(old).await, MirrorReply::Older(_)));
    let new = org.item(1, Some(org.roster(5, 1, 200, &[11])));
    assert_eq!(mirror.put(new).await, MirrorReply::Kept);
    assert!(mirror.admits(&node(11)) && !mirror.admits(&node(10)));
}

#[tokio::test]
async fn the_file_brings_everything_back_and_a_damaged_one_is_put_aside() {
    let mut org = Org::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mirror.cbor");
    let open = |org: &Org| Mirror::open(org.id(), Some(path.clone())).unwrap();
    let mirror = open(&org);
    for item in [
        org.item(1, Some(org.roster(5, 1, 100, &[10]))),
        org.item(2, Some(org.roster(6, 3, 100, &[11]))),
    ] {
        assert_eq!(mirror.put(item).await, MirrorReply::Kept);
    }
    // A network of the old generation beside keys of the new one comes back as well.
    org.generation = 2;
    assert_eq!(mirror.put(org.item(1, None)).await, MirrorReply::Kept);
    drop(mirror);
    let mirror = open(&org);
    assert!(mirror.admits(&node(10)) && mirror.admits(&node(11)) && !mirror.admits(&node(12)));
    assert_eq!(mirror.directory().unwrap().generation, 2);
    drop(mirror);

    let bytes = std::fs::read(&path).unwrap();
    for at in (0..bytes.len()).step_by(97) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let mirror = open(&org);
        // Either nothing that counts was hit, or the whole file is put aside untouched.
        if mirror.directory().is_none() {
            let aside = dir.path().join("mirror.cbor.damaged");
            assert_eq!(std::fs::read(aside).unwrap(), damaged);
        }
    }
    std::fs::write(&path, b"").unwrap();
    assert_eq!(open(&org).directory(), None);
}

fn peer(seed: u8) -> libp2p::PeerId {
    kanpachi_transport::peer_id(node(seed))
}

#[tokio::test]
async fn strangers_take_no_room_that_members_and_servers_need() {
    let org = Org::new();
    let mirror = mirror(&org);
    let item = org.item(1, Some(org.roster(5, 1, 100, &[10, 11])));
    assert_eq!(mirror.put(item).await, MirrorReply::Kept);
    let slots = service::Slots::new();
    let mut taken = vec![];
    for _ in 0..2 {
        taken.push(slots.take(&mirror, peer(100)).expect("room for a stranger"));
    }
    assert!(slots.take(&mirror, peer(100)).is_none(), "two of one peer");
    for seed in 101..200 {
        taken.extend(slots.take(&mirror, peer(seed)));
    }
    assert_eq!(taken.len(), 16);
    let member = slots.take(&mirror, peer(10)).expect("room for a member");
    let servers: Vec<_> = (0..16).map(|_| slots.take(&mirror, peer(9))).collect();
    assert!(servers.iter().all(Option::is_some), "and for a coordinator");
    drop((member, servers));
    taken.clear();
    assert!(slots.take(&mirror, peer(100)).is_some());
}

#[test]
fn networks_that_ended_make_room_and_their_old_rosters_stay_out() {
    let org = Org::new();
    let limits = state::Limits {
        networks: 4,
        ended: 8,
    };
    let mut state = State::with_limits(org.id(), limits);
    let mut put = |network: u8, epoch, at, members: &[u8]| {
        let roster = org.roster(network, epoch, at, members);
        state.put(&org.item(1, Some(roster))).reply
    };
    for network in 0..3 {
        assert_eq!(put(network, 1, 10, &[10]), MirrorReply::Kept);
    }
    // Made and deleted again and again.
    for network in 10..60 {
        let at = 100 + u64::from(network);
        assert_eq!(put(network, 1, at, &[11]), MirrorReply::Kept);
        assert_eq!(put(network, 2, at, &[]), MirrorReply::Kept);
    }
    assert_eq!(put(60, 1, 1000, &[12]), MirrorReply::Kept);
    assert!(
        matches!(put(61, 1, 1000, &[12]), MirrorReply::Refused(_)),
        "four with members are as many as there can be"
    );
    assert!(
        matches!(put(10, 1, 110, &[11]), MirrorReply::Refused(_)),
        "it ended, though nobody knows any more"
    );
    assert_eq!(
        put(10, 2, 110, &[]),
        MirrorReply::Kept,
        "or nobody would stop bringing it"
    );
    assert_eq!(put(0, 2, 1001, &[10]), MirrorReply::Kept);
    assert_eq!(put(60, 2, 1002, &[]), MirrorReply::Kept);
    assert_eq!(put(61, 1, 1003, &[12]), MirrorReply::Kept);
    assert!(state.admits(&node(12)) && !state.admits(&node(11)));
}

#[test]
fn a_network_that_gets_its_first_member_needs_room_and_what_was_kept_comes_back() {
    let org = Org::new();
    let limits = |networks| state::Limits { networks, ended: 8 };
    let mut state = State::with_limits(org.id(), limits(2));
    let put = |state: &mut State, network: u8, epoch, members: &[u8]| {
        let roster = org.roster(network, epoch, 10 + epoch, members);
        state.put(&org.item(1, Some(roster))).reply
    };
    assert_eq!(put(&mut state, 0, 1, &[]), MirrorReply::Kept);
    assert_eq!(put(&mut state, 1, 1, &[10]), MirrorReply::Kept);
    assert_eq!(put(&mut state, 2, 1, &[10]), MirrorReply::Kept);
    let reply = put(&mut state, 0, 2, &[10]);
    assert!(matches!(reply, MirrorReply::Refused(_)), "{reply:?}");
    assert_eq!(put(&mut state, 1, 2, &[10, 11]), MirrorReply::Kept);
    // Written by a program that took in more than this one does.
    let (_, _, kept) = state.contents().unwrap();
    let mut read = State::with_limits(org.id(), limits(1));
    for network in kept {
        read.restore(&network.manifest, &network.roster).unwrap();
    }
    assert_eq!(read.networks_of(&node(10)).len(), 2);
}

#[tokio::test]
async fn the_file_says_what_was_forgotten_and_one_of_before_says_nothing() {
    let org = Org::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mirror.cbor");
    let mut state = State::new(org.id());
    let item = org.item(1, Some(org.roster(5, 1, 100, &[10])));
    assert!(state.put(&item).changed);
    state.forget_until(UnixTime(500));
    file::save(&path, &state).unwrap();
    let mirror = Mirror::open(org.id(), Some(path)).unwrap();
    assert!(mirror.admits(&node(10)), "an old head that is known stays");
    assert_eq!(Judge::forgotten_until(&mirror), UnixTime(500));
    let old = org.item(1, Some(org.roster(6, 1, 500, &[11])));
    assert!(matches!(mirror.put(old).await, MirrorReply::Refused(_)));

    // A file of before does not say it.
    #[derive(serde::Serialize)]
    struct Before {
        version: u16,
        manifest: Signed<Manifest>,
        directory: Signed<Directory>,
        networks: Vec<(Signed<Manifest>, PublicRoster)>,
    }
    let before = cbor::encode(&Before {
        version: 1,
        manifest: org.manifest(),
        directory: org.directory(1, 9),
        networks: vec![(org.manifest(), org.roster(5, 1, 100, &[10]))],
    });
    let path = dir.path().join("before.cbor");
    std::fs::write(&path, before).unwrap();
    let mirror = Mirror::open(org.id(), Some(path)).unwrap();
    assert!(mirror.admits(&node(10)) && !mirror.admits(&node(11)));
}
