//! Rosters, deltas, pages and proofs: what holds, and what every kind of damage does.

use super::*;
use crate::{
    addr::{MacAddr, ipv6_of},
    cbor,
    id::{Hash, MemberId, NetworkId, NodeId, OrgId},
    identity::{SecretKey, TunnelKey},
    org::Manifest,
    signed::{Signed, Verified},
    time::UnixTime,
};

const NETWORK: NetworkId = NetworkId([0xaa; 32]);

struct Org {
    root: SecretKey,
    signer: SecretKey,
    manifest: Verified<Manifest>,
}

fn org() -> Org {
    let root = SecretKey::from_seed(&[1; 32]);
    let signer = SecretKey::from_seed(&[2; 32]);
    let manifest = Manifest {
        root: root.public_key(),
        generation: 1,
        signing_keys: vec![signer.public_key()],
        issued_at: UnixTime(1000),
        ext: vec![],
    };
    let signed = Signed::sign(&manifest, &root);
    let manifest = Manifest::verify(&signed, &OrgId::of_root(&root.public_key())).unwrap();
    Org {
        root,
        signer,
        manifest,
    }
}

fn node(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

fn entry(org: &OrgId, n: u8, name: &str) -> Entry {
    let key = node(n);
    let public = Public {
        member: MemberId([n; 32]),
        node: key.node_id(),
        caps: Caps::default(),
    };
    let private = Private {
        tunnel: TunnelKey::sign(&key, org, 1, [n; 32]),
        ipv4: Some([198, 19, 0, n].into()),
        ipv6: ipv6_of(org, &key.node_id()),
        mac: MacAddr::of(&key.node_id()),
        name: name.into(),
        prefixes: vec![],
        ext: vec![],
    };
    Entry::new(&public, &private, [n; 16])
}

fn roster(org: &OrgId, members: &[u8]) -> Roster {
    let settings = Settings {
        name: "lan".into(),
        kind: NetworkType::Mesh,
        rules: vec![],
        ext: vec![],
    };
    Roster {
        settings: cbor::encode(&settings),
        entries: members
            .iter()
            .map(|n| entry(org, *n, &format!("m{n}")))
            .collect(),
    }
}

fn head(org: &Org, roster: &Roster, epoch: u64) -> Signed<Head> {
    let head = Head {
        org: org.manifest.org(),
        network: NETWORK,
        generation: 1,
        epoch,
        root: roster.root(),
        size: roster.entries.len() as u64 + 1,
        prev_root: Hash([0; 32]),
        secret_id: 1,
        secret_hash: Hash([0; 32]),
        issued_at: UnixTime(1000),
        soft_expires_at: UnixTime(2000),
        hard_expires_at: Some(UnixTime(3000)),
        ext: vec![],
    };
    Signed::sign(&head, &org.signer)
}

fn verified(org: &Org, members: &[u8], epoch: u64) -> VerifiedRoster {
    let roster = roster(&org.manifest.org(), members);
    let head = Head::verify(&head(org, &roster, epoch), &org.manifest).unwrap();
    roster.verify(head).unwrap()
}

#[test]
fn a_roster_is_what_its_head_says_and_nothing_else() {
    let org = org();
    let id = org.manifest.org();
    let good = roster(&id, &[1, 2, 3]);
    let head = Head::verify(&head(&org, &good, 5), &org.manifest).unwrap();
    assert_eq!(
        good.clone().verify(head.clone()).unwrap().members().count(),
        3
    );
    for bad in [
        roster(&id, &[1, 2]),
        roster(&id, &[1, 2, 4]),
        roster(&id, &[1, 3, 2]),
        Roster {
            settings: vec![0xa0],
            ..good
        },
    ] {
        assert_eq!(
            bad.verify(head.clone()).unwrap_err(),
            RosterError::RootMismatch
        );
    }
}

#[test]
fn a_signed_roster_out_of_order_is_refused() {
    let org = org();
    let bad = roster(&org.manifest.org(), &[2, 1]);
    let head = Head::verify(&head(&org, &bad, 5), &org.manifest).unwrap();
    assert_eq!(bad.verify(head).unwrap_err(), RosterError::Malformed);
}

#[test]
fn any_flipped_byte_of_a_head_is_refused_and_so_are_other_signers() {
    let org = org();
    let good = head(&org, &roster(&org.manifest.org(), &[1]), 5);
    for i in 0..good.payload.len() {
        let mut bad = good.clone();
        bad.payload[i] ^= 1;
        assert!(
            Head::verify(&bad, &org.manifest).is_err(),
            "payload byte {i}"
        );
    }
    for i in 0..64 {
        let mut bad = good.clone();
        bad.sig[i] ^= 1;
        assert!(
            Head::verify(&bad, &org.manifest).is_err(),
            "signature byte {i}"
        );
    }
    let value: Head = cbor::decode(&good.payload, 1024).unwrap();
    assert!(
        Head::verify(&Signed::sign(&value, &org.root), &org.manifest).is_err(),
        "the root key signs manifests only"
    );
    assert!(
        Head::verify(
            &Signed::sign(
                &Head {
                    generation: 2,
                    ..value.clone()
                },
                &org.signer
            ),
            &org.manifest
        )
        .is_err()
    );
    assert!(
        Head::verify(
            &Signed::sign(
                &Head {
                    org: OrgId([0; 32]),
                    ..value
                },
                &org.signer
            ),
            &org.manifest
        )
        .is_err()
    );
}

#[test]
fn a_signature_for_one_purpose_is_none_for_another() {
    let org = org();
    let head = head(&org, &roster(&org.manifest.org(), &[1]), 5);
    // The same bytes, signed under another tag.
    let sig = org.signer.sign("kanpachi/directory/v1", &[&head.payload]);
    let mut forged = head;
    forged.sig = sig;
    assert!(Head::verify(&forged, &org.manifest).is_err());
}

#[test]
fn deltas_lead_from_one_roster_to_the_next_and_start_nowhere_else() {
    let org = org();
    let id = org.manifest.org();
    let old = verified(&org, &[1, 2, 3], 5);
    let new = roster(&id, &[1, 3, 4]);
    let delta = Delta {
        network: NETWORK,
        base: old.head().position(),
        base_root: old.head().root,
        head: head(&org, &new, 6),
        settings: None,
        upserts: vec![entry(&id, 4, "m4")],
        removed: vec![MemberId([2; 32])],
    };
    let head6 = Head::verify(&delta.head, &org.manifest).unwrap();
    let applied = old.apply(delta.clone(), head6.clone()).unwrap();
    assert_eq!(applied.body(), &new);
    assert_eq!(
        applied.apply(delta.clone(), head6.clone()).unwrap_err(),
        RosterError::WrongBase
    );
    let short = Delta {
        removed: vec![],
        ..delta
    };
    assert_eq!(
        old.apply(short, head6).unwrap_err(),
        RosterError::RootMismatch
    );
}

#[test]
fn pages_join_to_the_roster_they_were_cut_from() {
    let org = org();
    let whole = roster(&org.manifest.org(), &(1..=200).collect::<Vec<u8>>());
    let head = head(&org, &whole, 5);
    let pages = Page::split(NETWORK, &head, &whole);
    assert!(
        pages
            .iter()
            .all(|p| cbor::encode(p).len() <= crate::wire::frame::MAX_REPLY)
    );
    assert_eq!(Page::join(pages.clone()).unwrap(), (head, whole));
    assert!(Page::join(vec![]).is_err());
    let mut twice = pages.clone();
    twice.extend(pages);
    assert!(Page::join(twice).is_err());
}

#[test]
fn a_proof_proves_its_bearer_and_nobody_else() {
    let org = org();
    let roster = verified(&org, &[1, 2, 3, 4, 5], 5);
    for n in 1..=5 {
        let id = node(n).node_id();
        let open = Proof::of(&roster, &id, true).unwrap();
        let hidden = Proof::of(&roster, &id, false).unwrap();
        assert_eq!(
            open.verify(&org.manifest, &id)
                .unwrap()
                .member
                .unwrap()
                .name,
            format!("m{n}")
        );
        assert!(hidden.verify(&org.manifest, &id).unwrap().member.is_none());
        assert!(cbor::encode(&hidden).len() < 1500);
        assert_eq!(
            open.verify(&org.manifest, &node(n + 1).node_id())
                .unwrap_err(),
            ProofError::WrongNode
        );
        let bytes = cbor::encode(&hidden);
        let mut accepted = 0;
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x01;
            if let Ok(proof) = cbor::decode::<Proof>(&bad, Proof::MAX_LEN) {
                accepted += usize::from(proof.verify(&org.manifest, &id).is_ok());
            }
        }
        assert_eq!(accepted, 0, "a changed proof was believed");
    }
    assert!(Proof::of(&roster, &NodeId([9; 32]), true).is_none());
}

#[test]
fn public_halves_verify_without_the_private_ones() {
    let org = org();
    let roster = verified(&org, &[1, 2, 3], 5);
    let public = roster.public();
    assert_eq!(public.verify(roster.head()).unwrap().len(), 3);
    let mut bad = public;
    bad.entries.pop();
    assert!(bad.verify(roster.head()).is_err());
}

#[test]
fn an_entry_whose_node_did_not_sign_its_key_is_kept_out_of_use() {
    let org = org();
    let id = org.manifest.org();
    let mut body = roster(&id, &[1, 2]);
    let mut private: Private = cbor::decode(&body.entries[1].private, 4096).unwrap();
    private.tunnel.serial = 9;
    body.entries[1].private = cbor::encode(&private);
    let head = Head::verify(&head(&org, &body, 5), &org.manifest).unwrap();
    let verified = body.verify(head).unwrap();
    assert_eq!(verified.members().count(), 1);
    assert_eq!(
        verified.unusable(),
        [(node(2).node_id(), EntryError::TunnelKey)]
    );
}

#[test]
fn freshness_never_gets_younger_than_the_head() {
    let org = org();
    let roster = roster(&org.manifest.org(), &[1]);
    let value: Head = cbor::decode(&head(&org, &roster, 1).payload, 1024).unwrap();
    assert_eq!(value.freshness(UnixTime(0)), Freshness::Green);
    assert_eq!(value.freshness(UnixTime(1500)), Freshness::Green);
    assert_eq!(value.freshness(UnixTime(2000)), Freshness::Red);
    assert_eq!(value.freshness(UnixTime(3000)), Freshness::Expired);
    assert_eq!(
        Head {
            hard_expires_at: None,
            ..value
        }
        .freshness(UnixTime(u64::MAX)),
        Freshness::Red
    );
}
