//! What those decide who store records for others: nothing is kept that is not signed, newer and in its place, and
//! nobody fills everybody's room.
//!
//! A storing node knows nothing about whose record it holds. A value is the CBOR of a `Signed<OuterRecord>`, stored
//! under the hash of the key that signed it, so only the owner of that key can write there. The values themselves are
//! the caller's to keep; this says which.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{MAX_OUTER, OuterRecord};
use crate::{
    cbor,
    id::{Hash, NodeId, PublicKey},
    signed::{Signed, Verified},
};

/// Why a record is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Longer than a record may be.
    #[error("too long")]
    TooLong,
    /// Not a record, or badly signed.
    #[error("not a signed record")]
    NotSigned,
    /// Stored under a key that its signer does not own.
    #[error("not under its own key")]
    WrongKey,
    /// Lives no time at all.
    #[error("expired")]
    Expired,
    /// An older one than is kept.
    #[error("older than what is kept")]
    Older,
    /// The same again. Its life is not prolonged: only its owner can do that, with a higher number.
    #[error("known already")]
    Known,
    /// Whoever brings it has brought enough.
    #[error("its bearer stores too many records")]
    TooMany,
    /// There is no room, and nobody has more than its share.
    #[error("there is no room")]
    Full,
}

/// A value whose signature was not looked at yet.
pub(super) struct Unverified {
    /// The key that it claims.
    pub(super) key: PublicKey,
    signed: Signed<OuterRecord>,
}

impl Unverified {
    pub(super) fn verify(&self) -> Result<Verified<OuterRecord>, Refusal> {
        let record = self.signed.verify(&[self.key]);
        let record = record.map_err(|_| Refusal::NotSigned)?;
        if record.key == self.key {
            Ok(record)
        } else {
            Err(Refusal::WrongKey)
        }
    }
}

pub(super) fn read(value: &[u8]) -> Result<Unverified, Refusal> {
    if value.len() > MAX_OUTER {
        return Err(Refusal::TooLong);
    }
    let signed: Signed<OuterRecord> =
        cbor::decode(value, MAX_OUTER).map_err(|_| Refusal::NotSigned)?;
    Ok(Unverified {
        key: signed.key,
        signed,
    })
}

/// The key that a value claims to be signed by. It may not be: this is for finding out whose it would be.
///
/// # Errors
/// [`Refusal`]
pub fn claimed_key(value: &[u8]) -> Result<PublicKey, Refusal> {
    read(value).map(|unverified| unverified.key)
}

/// Checks a value that is to be stored under `key`: length, place, signature, life, and that it is newer than number
/// `held`. The cheap comparisons come before the expensive one.
///
/// # Errors
/// [`Refusal`]
pub fn judge(
    key: &[u8],
    value: &[u8],
    held: Option<u64>,
) -> Result<Verified<OuterRecord>, Refusal> {
    let unverified = read(value)?;
    if OuterRecord::dht_key(&unverified.key).0 != key {
        return Err(Refusal::WrongKey);
    }
    let record = unverified.verify()?;
    if record.ttl == 0 {
        return Err(Refusal::Expired);
    }
    match held.map(|held| record.seq.cmp(&held)) {
        Some(std::cmp::Ordering::Less) => Err(Refusal::Older),
        Some(std::cmp::Ordering::Equal) => Err(Refusal::Known),
        _ => Ok(record),
    }
}

/// How much a shelf holds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records at the most.
    pub records: usize,
    /// Of one source at the most.
    pub per_source: usize,
    /// Bytes of values at the most.
    pub bytes: usize,
}

/// A record that somebody wants to be kept.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Who brings it; not necessarily whose it is.
    pub source: NodeId,
    /// Its key in the DHT.
    pub key: &'a [u8],
    /// Its bytes.
    pub value: &'a [u8],
}

/// What is to be done with an offer that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its place.
    pub key: Hash,
    /// For how long to keep it, counted from now.
    pub life: Duration,
    /// Records that make room for it.
    pub dropped: Vec<Hash>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    source: NodeId,
    seq: u64,
    bytes: usize,
    expires: Instant,
}

/// The book of one who stores: what is where, until when, and who brought it.
#[derive(Debug)]
pub struct Shelf {
    limits: Limits,
    slots: BTreeMap<Hash, Slot>,
    sources: BTreeMap<NodeId, usize>,
    bytes: usize,
}

impl Shelf {
    /// An empty one.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            slots: BTreeMap::new(),
            sources: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Records that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Judges an offer and books it. A source that has more than its share makes room for one that has less.
    ///
    /// # Errors
    /// [`Refusal`]: it is not kept, and what was there stays.
    pub fn offer(&mut self, offer: &Offer<'_>, now: Instant) -> Result<Taken, Refusal> {
        let place = <[u8; 32]>::try_from(offer.key).map_err(|_| Refusal::WrongKey)?;
        let key = Hash(place);
        let held = self.slots.get(&key).filter(|slot| now < slot.expires);
        let record = judge(offer.key, offer.value, held.map(|slot| slot.seq))?;
        let life = Duration::from_secs(record.ttl.into());
        let new = Slot {
            source: offer.source,
            seq: record.seq,
            bytes: offer.value.len(),
            expires: now + life,
        };
        let before = self.remove(&key);
        match self.make_room(&new) {
            Ok(dropped) => {
                self.insert(key, new);
                Ok(Taken { key, life, dropped })
            }
            Err(refusal) => {
                if let Some(before) = before {
                    self.insert(key, before);
                }
                Err(refusal)
            }
        }
    }

    /// Forgets what has expired, and says what that is.
    pub fn expire(&mut self, now: Instant) -> Vec<Hash> {
        let expired = self.slots.iter().filter(|(_, slot)| slot.expires <= now);
        let expired: Vec<Hash> = expired.map(|(key, _)| *key).collect();
        for key in &expired {
            self.remove(key);
        }
        expired
    }

    /// Forgets one record, whatever its number.
    pub fn forget(&mut self, key: &Hash) {
        self.remove(key);
    }

    fn make_room(&mut self, new: &Slot) -> Result<Vec<Hash>, Refusal> {
        let share = self.share(&new.source);
        if share >= self.limits.per_source {
            return Err(Refusal::TooMany);
        }
        let mut dropped = Vec::new();
        while self.slots.len() >= self.limits.records || self.bytes + new.bytes > self.limits.bytes
        {
            let Some(taken) = self.take_from_greediest(share) else {
                // What made room in vain stays.
                dropped
                    .into_iter()
                    .for_each(|(key, slot)| self.insert(key, slot));
                return Err(Refusal::Full);
            };
            dropped.push(taken);
        }
        Ok(dropped.into_iter().map(|(key, _)| key).collect())
    }

    /// Takes the record that expires first from the source that has most, if that is more than `share` and one more.
    fn take_from_greediest(&mut self, share: usize) -> Option<(Hash, Slot)> {
        let (source, n) = self.sources.iter().max_by_key(|(_, n)| **n)?;
        if *n <= share + 1 {
            return None;
        }
        let of_source = self.slots.iter().filter(|(_, slot)| slot.source == *source);
        let key = *of_source.min_by_key(|(_, slot)| slot.expires)?.0;
        Some((key, self.remove(&key)?))
    }

    fn share(&self, source: &NodeId) -> usize {
        self.sources.get(source).copied().unwrap_or(0)
    }

    fn insert(&mut self, key: Hash, slot: Slot) {
        self.bytes += slot.bytes;
        *self.sources.entry(slot.source).or_default() += 1;
        self.slots.insert(key, slot);
    }

    fn remove(&mut self, key: &Hash) -> Option<Slot> {
        let slot = self.slots.remove(key)?;
        self.bytes -= slot.bytes;
        let left = self.share(&slot.source).saturating_sub(1);
        if left == 0 {
            self.sources.remove(&slot.source);
        } else {
            self.sources.insert(slot.source, left);
        }
        Some(slot)
    }
}

#[cfg(test)]
#[path = "shelf_tests.rs"]
mod tests;
