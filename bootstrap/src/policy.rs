//! Which DHT records are kept: nothing is stored unless a policy says so.
//!
//! The usual policy knows nothing about whose record it holds. A record is the CBOR of a `Signed<OuterRecord>`,
//! stored under the hash of the key that signed it, so only the owner of that key can write there.

use std::time::Duration;

use kanpachi_common::{
    cbor,
    record::{MAX_OUTER, OuterRecord},
    signed::Signed,
};
use libp2p::PeerId;
use thiserror::Error;

/// Longest value in bytes: an outer record and its signature.
pub const MAX_VALUE: usize = MAX_OUTER + 256;

/// A record that somebody wants to be kept.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Who brings it; not necessarily whose it is.
    pub source: PeerId,
    /// Its key in the DHT.
    pub key: &'a [u8],
    /// Its bytes.
    pub value: &'a [u8],
    /// What is kept under that key.
    pub held: Option<&'a [u8]>,
}

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
}

/// Decides about records.
pub trait RecordPolicy: Send + Sync {
    /// For how long to keep a record, counted from now.
    ///
    /// # Errors
    /// [`Refusal`]: it is not kept.
    fn judge(&self, offer: &Offer<'_>) -> Result<Duration, Refusal>;
}

/// The usual policy: properly signed, under its own key, newer than what is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct SignedRecords;

impl RecordPolicy for SignedRecords {
    fn judge(&self, offer: &Offer<'_>) -> Result<Duration, Refusal> {
        if offer.value.len() > MAX_VALUE {
            return Err(Refusal::TooLong);
        }
        let signed: Signed<OuterRecord> =
            cbor::decode(offer.value, MAX_VALUE).map_err(|_| Refusal::NotSigned)?;
        // The cheap comparison comes before the expensive one.
        if OuterRecord::dht_key(&signed.key).0 != offer.key {
            return Err(Refusal::WrongKey);
        }
        let record = signed
            .verify(&[signed.key])
            .map_err(|_| Refusal::NotSigned)?;
        if record.key != signed.key {
            return Err(Refusal::WrongKey);
        }
        if record.ttl == 0 {
            return Err(Refusal::Expired);
        }
        if let Some(held) = offer.held.and_then(seq) {
            match record.seq.cmp(&held) {
                std::cmp::Ordering::Less => return Err(Refusal::Older),
                std::cmp::Ordering::Equal => return Err(Refusal::Known),
                std::cmp::Ordering::Greater => {}
            }
        }
        Ok(Duration::from_secs(record.ttl.into()))
    }
}

/// The number of a record that was checked when it came in.
fn seq(value: &[u8]) -> Option<u64> {
    let signed: Signed<OuterRecord> = cbor::decode(value, MAX_VALUE).ok()?;
    let record: OuterRecord = cbor::decode(&signed.payload, MAX_OUTER).ok()?;
    Some(record.seq)
}

#[cfg(test)]
mod tests {
    use kanpachi_common::{SecretKey, record::MAX_TTL};

    use super::*;

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

    fn judge(key: &[u8], value: &[u8], held: Option<&[u8]>) -> Result<u64, Refusal> {
        let source = PeerId::random();
        let offer = Offer {
            source,
            key,
            value,
            held,
        };
        SignedRecords.judge(&offer).map(|life| life.as_secs())
    }

    #[test]
    fn only_the_owner_of_a_key_writes_there_and_only_forwards() {
        let (key, first) = record(1, 5, 600);
        assert_eq!(judge(&key, &first, None), Ok(600));
        assert_eq!(judge(&key, &first, Some(&first)), Err(Refusal::Known));
        let (_, newer) = record(1, 6, 600);
        assert_eq!(judge(&key, &newer, Some(&first)), Ok(600));
        assert_eq!(judge(&key, &first, Some(&newer)), Err(Refusal::Older));
        let (_, forged) = record(2, 9, 600);
        assert_eq!(judge(&key, &forged, Some(&first)), Err(Refusal::WrongKey));
        let (_, dead) = record(1, 7, 0);
        assert_eq!(judge(&key, &dead, None), Err(Refusal::Expired));
        let (_, endless) = record(1, 7, MAX_TTL + 1);
        assert_eq!(judge(&key, &endless, None), Err(Refusal::NotSigned));
        assert_eq!(
            judge(&key, &[0; MAX_VALUE + 1], None),
            Err(Refusal::TooLong)
        );
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
}
