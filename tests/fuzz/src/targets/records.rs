//! Records of the DHT: what is kept for others, and what is read of others.

use std::time::{Duration, Instant};

use kanpachi_common::{
    Hash, NodeId, SecretKey, Signed, cbor,
    record::{
        MAX_OUTER, MAX_TTL, Opened, OuterRecord, PeerRecord, Sealing, enclose, open,
        shelf::{Limits, Offer, Shelf, judge},
    },
    secret::NetworkSecret,
};

/// A record that somebody wants kept, under its own key and under another, over nothing and over itself.
///
/// # Panics
/// When it is kept without a good signature, too long, or twice.
pub fn record_policy(data: &[u8]) {
    let signed = cbor::decode::<Signed<OuterRecord>>(data, MAX_OUTER);
    let own = signed.as_ref().map(|s| OuterRecord::dht_key(&s.key).0);
    let own = own.unwrap_or([7; 32]);
    assert!(judge(&Hash::of(&[data]).0, data, None).is_err());
    let _ = judge(&data[..data.len().min(32)], data, None);
    let mut shelf = Shelf::new(Limits {
        records: 1,
        per_source: 1,
        bytes: MAX_OUTER,
    });
    let now = Instant::now();
    let offer = Offer {
        source: NodeId([9; 32]),
        key: &own,
        value: data,
    };
    if let Ok(taken) = shelf.offer(&offer, now) {
        let signed = signed.expect("what is kept is a record");
        let record = signed.verify(&[signed.key]).expect("properly signed");
        assert_eq!(taken.life, Duration::from_secs(record.ttl.into()));
        assert!((1..=MAX_TTL).contains(&record.ttl) && data.len() <= MAX_OUTER);
        assert!(shelf.offer(&offer, now).is_err(), "kept twice");
        assert!(judge(&own, data, Some(record.seq)).is_err());
        assert_eq!(shelf.expire(now + taken.life), [taken.key]);
    }
}

/// The record of a node: as found, and as a member who knows the secret could make it, with these bytes in place of the
/// record and in place of what the node signs.
///
/// # Panics
/// When it is opened and is not the node's, or is the node's and is not opened.
pub fn record_open(data: &[u8]) {
    let (node, secret) = (
        SecretKey::from_seed(&[2; 32]),
        NetworkSecret::new(3, [0x61; 32]),
    );
    let id = node.node_id();
    let with = Sealing {
        secret: &secret,
        day: 20_717,
        seq: 9,
        nonce: [0x62; 12],
    };
    let opened = |value: &[u8]| open(value, &secret, &id, with.day);
    let check = |found: &Opened| {
        assert!(found.record.node == id && found.record.ttl <= MAX_TTL && found.ttl <= MAX_TTL);
    };
    for value in [data, &enclose(data, &id, MAX_TTL, &with)] {
        if let Ok(found) = opened(value) {
            check(&found);
        }
    }
    // The record of anybody else is not opened as this node's.
    if let Ok(signed) = cbor::decode::<Signed<PeerRecord>>(data, MAX_OUTER)
        && signed.verify(&[node.public_key()]).is_err()
    {
        assert!(opened(&enclose(data, &id, MAX_TTL, &with)).is_err());
    }
    if let Ok(record) = cbor::decode::<PeerRecord>(data, MAX_OUTER) {
        let inner = cbor::encode(&Signed::sign(&record, &node));
        let found = opened(&enclose(&inner, &id, record.ttl.min(MAX_TTL), &with));
        let good = Signed::sign(&record, &node)
            .verify(&[node.public_key()])
            .is_ok();
        assert_eq!(found.is_ok(), good && record.node == id, "{found:?}");
        if let Ok(found) = found {
            check(&found);
        }
    }
}
