//! Records from end to end: what a node seals only its members open, and nothing else opens.

use kanpachi_common::{
    NodeId, SecretKey, cbor,
    record::{
        MAX_OUTER, MAX_TTL, OpenError, OuterRecord, PeerRecord, Sealing, enclose, open, seal,
    },
    secret::NetworkSecret,
    signed::{Signed, VerifyError},
};
use proptest::prelude::*;

use crate::fixture::{DAY, NONCE, candidates, node, outer_record, peer_record, secret};

fn sealing(secret: &NetworkSecret) -> Sealing<'_> {
    Sealing {
        secret,
        day: DAY,
        seq: 9,
        nonce: NONCE,
    }
}

fn record(boot: u64, seq: u64) -> PeerRecord {
    PeerRecord {
        node: node(2).node_id(),
        boot,
        seq,
        candidates: candidates(),
        relays: vec![],
        epochs: vec![],
        ttl: MAX_TTL,
        nat: None,
    }
}

fn sealed() -> Vec<u8> {
    seal(&record(7, 9), &node(2), &sealing(&secret()))
}

fn opened(value: &[u8]) -> Result<kanpachi_common::record::Opened, OpenError> {
    open(value, &secret(), &node(2).node_id(), DAY)
}

#[test]
fn sealing_makes_the_value_of_the_test_vector_and_opening_reads_it() {
    let publisher = peer_record().verify(&[node(2).public_key()]).unwrap();
    let value = seal(&publisher, &node(2), &sealing(&secret()));
    assert_eq!(value, cbor::encode(&outer_record()));
    let opened = opened(&value).unwrap();
    assert_eq!(
        (opened.record, opened.seq, opened.ttl),
        (publisher, 9, 7200)
    );
}

#[test]
fn the_largest_record_fits() {
    let far = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535"
        .parse()
        .unwrap();
    let mut large = record(u64::MAX, u64::MAX);
    large.candidates = vec![candidates()[0]; 16];
    for candidate in &mut large.candidates {
        candidate.addr = far;
        candidate.kind = kanpachi_common::CandidateKind::Reflexive;
    }
    large.relays = vec![NodeId([0xff; 32]); 8];
    let position = kanpachi_common::roster::Position {
        generation: u64::MAX,
        epoch: u64::MAX,
    };
    large.epochs = vec![(kanpachi_common::NetworkId([0xff; 32]), position); 16];
    let value = seal(&large, &node(2), &sealing(&secret()));
    assert!(value.len() <= MAX_OUTER, "{} bytes", value.len());
    assert_eq!(*opened(&value).unwrap().record, large);
}

#[test]
fn only_under_the_right_secret_node_and_day_is_it_opened() {
    let value = sealed();
    let other = NetworkSecret::new(secret().id, [0x55; 32]);
    let (two, one) = (node(2).node_id(), node(1).node_id());
    for result in [
        open(&value, &other, &two, DAY),
        open(&value, &secret(), &one, DAY),
        open(&value, &secret(), &two, DAY + 1),
        open(&value, &secret(), &two, DAY - 1),
    ] {
        assert_eq!(result.unwrap_err(), OpenError::WrongKey);
    }
}

#[test]
fn a_member_that_squats_the_key_of_another_cannot_speak_for_it() {
    let two = node(2).node_id();
    // Its own signature inside, about the other or about itself.
    let forged = seal(&record(7, 10), &node(1), &sealing(&secret()));
    let untrusted = OpenError::Inner(VerifyError::UntrustedKey);
    assert_eq!(opened(&forged).unwrap_err(), untrusted);
    // Garbage in place of the ciphertext, under the other's own outer key.
    let key = secret().record_key(&two, DAY);
    for len in [0, 11, 12, 28, 3000] {
        let outer = OuterRecord {
            key: key.public_key(),
            seq: u64::MAX,
            ttl: MAX_TTL,
            ciphertext: vec![1; len],
        };
        let value = cbor::encode(&Signed::sign(&outer, &key));
        assert_eq!(opened(&value).unwrap_err(), OpenError::Undecryptable);
    }
    // Something that the other signed, about somebody else.
    let mut about_one = record(7, 9);
    about_one.node = node(1).node_id();
    let inner = cbor::encode(&Signed::sign(&about_one, &node(2)));
    let value = enclose(&inner, &two, MAX_TTL, &sealing(&secret()));
    assert_eq!(opened(&value).unwrap_err(), OpenError::WrongNode);
}

#[test]
fn a_record_that_would_live_too_long_is_refused_inside_too() {
    let mut long = record(7, 9);
    long.ttl = MAX_TTL + 1;
    let inner = cbor::encode(&Signed::sign(&long, &node(2)));
    let value = enclose(&inner, &node(2).node_id(), MAX_TTL, &sealing(&secret()));
    assert!(matches!(
        opened(&value).unwrap_err(),
        OpenError::Inner(VerifyError::Decode(_))
    ));
}

#[test]
fn every_flipped_byte_and_every_cut_is_refused() {
    let value = sealed();
    for at in 0..value.len() {
        let mut changed = value.clone();
        changed[at] ^= 1;
        assert!(opened(&changed).is_err(), "byte {at}");
    }
    for len in 0..value.len() {
        assert!(opened(&value[..len]).is_err(), "length {len}");
    }
}

proptest! {
    #[test]
    fn whatever_is_sealed_is_opened_and_by_nobody_else(
        seed: [u8; 32], other: [u8; 32], bytes: [u8; 32], day in 0_u64..1 << 40, nonce: [u8; 12],
        boot: u64, seq: u64, ttl in 0..=MAX_TTL, addrs in prop::collection::vec(any::<(u32, u16)>(), 0..=16),
    ) {
        prop_assume!(seed != other);
        let (me, secret) = (SecretKey::from_seed(&seed), NetworkSecret::new(1, bytes));
        let stranger = SecretKey::from_seed(&other).node_id();
        let record = PeerRecord {
            node: me.node_id(),
            boot,
            seq,
            candidates: addrs.into_iter().map(|(ip, port)| kanpachi_common::Candidate {
                addr: (std::net::Ipv4Addr::from(ip), port).into(),
                kind: kanpachi_common::CandidateKind::Host,
            }).collect(),
            relays: vec![],
            epochs: vec![],
            ttl,
            nat: None,
        };
        let value = seal(&record, &me, &Sealing { secret: &secret, day, seq, nonce });
        let found = open(&value, &secret, &me.node_id(), day).unwrap();
        prop_assert_eq!(&*found.record, &record);
        prop_assert_eq!(found.seq, seq);
        prop_assert!(open(&value, &secret, &stranger, day).is_err());
        prop_assert!(open(&value, &NetworkSecret::new(1, other), &me.node_id(), day).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_no_record(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(opened(&bytes).is_err());
    }
}
