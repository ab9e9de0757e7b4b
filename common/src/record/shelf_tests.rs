//! What may be stored, and who gives way when there is no room.

use super::*;
use crate::{SecretKey, record::MAX_TTL};

fn record(seed: u8, seq: u64, ttl: u32) -> (Vec<u8>, Vec<u8>) {
    let key = SecretKey::from_seed(&[seed; 32]);
    let value = OuterRecord {
        key: key.public_key(),
        seq,
        ttl,
        ciphertext: vec![7; 100],
    };
    let dht_key = OuterRecord::dht_key(&key.public_key()).0.to_vec();
    (dht_key, cbor::encode(&Signed::sign(&value, &key)))
}

fn judged(key: &[u8], value: &[u8], held: Option<u64>) -> Result<u32, Refusal> {
    judge(key, value, held).map(|record| record.ttl)
}

#[test]
fn only_the_owner_of_a_key_writes_there_and_only_forwards() {
    let (key, first) = record(1, 5, 600);
    assert_eq!(judged(&key, &first, None), Ok(600));
    assert_eq!(judged(&key, &first, Some(5)), Err(Refusal::Known));
    assert_eq!(judged(&key, &first, Some(4)), Ok(600));
    assert_eq!(judged(&key, &first, Some(6)), Err(Refusal::Older));
    let (_, forged) = record(2, 9, 600);
    assert_eq!(judged(&key, &forged, Some(5)), Err(Refusal::WrongKey));
    let (_, dead) = record(1, 7, 0);
    assert_eq!(judged(&key, &dead, None), Err(Refusal::Expired));
    let (_, endless) = record(1, 7, MAX_TTL + 1);
    assert_eq!(judged(&key, &endless, None), Err(Refusal::NotSigned));
    let long = [0; MAX_OUTER + 1];
    assert_eq!(judged(&key, &long, None), Err(Refusal::TooLong));
}

#[test]
fn no_changed_byte_is_accepted() {
    let (key, value) = record(1, 5, 600);
    for at in 0..value.len() {
        let mut changed = value.clone();
        changed[at] ^= 1;
        assert!(judge(&key, &changed, None).is_err(), "byte {at}");
    }
    for len in 0..value.len() {
        assert!(judge(&key, &value[..len], None).is_err(), "length {len}");
    }
}

struct Room {
    shelf: Shelf,
    now: Instant,
}

impl Room {
    fn new(records: usize, per_source: usize) -> Self {
        let limits = Limits {
            records,
            per_source,
            bytes: 1 << 20,
        };
        Self {
            shelf: Shelf::new(limits),
            now: Instant::now(),
        }
    }

    fn offer(&mut self, source: u8, seed: u8, seq: u64) -> Result<Taken, Refusal> {
        let (key, value) = record(seed, seq, 600);
        let source = NodeId([source; 32]);
        let offer = Offer {
            source,
            key: &key,
            value: &value,
        };
        self.shelf.offer(&offer, self.now)
    }
}

#[test]
fn a_record_is_kept_as_long_as_it_says_and_a_lower_number_waits_until_then() {
    let mut room = Room::new(8, 8);
    assert_eq!(room.offer(1, 1, 5).unwrap().life, Duration::from_secs(600));
    assert_eq!(room.offer(2, 1, 5), Err(Refusal::Known));
    assert_eq!(room.offer(2, 1, 4), Err(Refusal::Older));
    room.now += Duration::from_secs(599);
    assert_eq!(room.offer(1, 1, 4), Err(Refusal::Older));
    room.now += Duration::from_secs(1);
    let key = room.offer(1, 1, 4).unwrap().key;
    room.now += Duration::from_secs(600);
    assert_eq!(room.shelf.expire(room.now), [key]);
    assert!(room.shelf.is_empty() && room.shelf.sources.is_empty() && room.shelf.bytes == 0);
}

#[test]
fn one_source_fills_its_share_and_no_more() {
    let mut room = Room::new(100, 3);
    for seed in 1..=3 {
        room.offer(1, seed, 1).unwrap();
    }
    assert_eq!(room.offer(1, 4, 1), Err(Refusal::TooMany));
    // What it has, it may renew.
    room.offer(1, 3, 2).unwrap();
    room.offer(2, 4, 1).unwrap();
    assert_eq!(room.shelf.len(), 4);
}

#[test]
fn whoever_has_most_makes_room_for_whoever_has_less() {
    let mut room = Room::new(4, 4);
    for seed in 1..=4 {
        room.offer(1, seed, 1).unwrap();
        room.now += Duration::from_secs(1);
    }
    let (first, _) = record(1, 1, 600);
    let taken = room.offer(2, 5, 1).unwrap();
    assert_eq!(taken.dropped[0].0.as_slice(), first);
    room.offer(2, 6, 1).unwrap();
    // Two and two: neither gives way to the other, and a renewal still passes.
    assert_eq!(room.offer(2, 7, 1), Err(Refusal::Full));
    assert_eq!(room.offer(1, 7, 1), Err(Refusal::Full));
    room.offer(2, 6, 2).unwrap();
    room.offer(3, 8, 1).unwrap();
    assert_eq!(room.shelf.len(), 4);
}

#[test]
fn a_crowd_that_fills_all_the_room_takes_none_from_whoever_has_little() {
    let (mut room, me) = (Room::new(100, 8), 200);
    let (mine, _) = record(250, 1, 600);
    room.offer(me, 250, 1).unwrap();
    for round in 0..5 {
        for other in 0..48 {
            // Some find no room, and none of them mine.
            if let Ok(taken) = room.offer(other, round * 48 + other, 1) {
                assert!(taken.dropped.iter().all(|key| key.0.as_slice() != mine));
            }
        }
    }
    assert_eq!(room.shelf.len(), 100);
    room.offer(me, 250, 2).unwrap();
    room.offer(201, 251, 1).unwrap();
}

#[test]
fn bytes_are_bounded_too() {
    let mut room = Room::new(100, 100);
    let (_, value) = record(1, 1, 600);
    room.shelf.limits.bytes = value.len() * 2 + 8;
    room.offer(1, 1, 1).unwrap();
    room.offer(1, 2, 1).unwrap();
    assert_eq!(room.offer(1, 3, 1), Err(Refusal::Full));
    assert_eq!(room.shelf.len(), 2);
    assert_eq!(room.offer(2, 4, 1).unwrap().dropped.len(), 1);
}
