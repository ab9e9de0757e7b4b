//! Signed objects and what hangs on them.

use kanpachi_common::{
    PublicKey, SecretKey, Signed, cbor,
    org::{Directory, Manifest},
    record::{OuterRecord, PeerRecord},
    roster::{Delta, Head, Page, Proof, PublicRoster, Roster, Suspend},
    signed::SignedObject,
    wire::frame::MAX_REPLY,
};
use serde::{Serialize, de::DeserializeOwned};

/// An envelope with any payload, as only whoever has a key makes it.
#[derive(Serialize)]
struct Envelope<'a> {
    key: PublicKey,
    #[serde(with = "serde_bytes_of")]
    payload: &'a [u8],
    #[serde(with = "serde_bytes_of")]
    sig: &'a [u8],
}

/// Byte strings, not lists of numbers.
mod serde_bytes_of {
    pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }
}

/// Every object that travels, from these bytes; and these bytes as the payload of every signed object.
///
/// # Panics
/// When something unsound is accepted, or does not read back.
pub fn objects(data: &[u8]) {
    signed::<Manifest>(data);
    signed::<Directory>(data);
    signed::<Head>(data);
    signed::<Suspend>(data);
    signed::<PeerRecord>(data);
    signed::<OuterRecord>(data);
    plain::<Proof>(data, Proof::MAX_LEN);
    plain::<PublicRoster>(data, PublicRoster::MAX_LEN);
    plain::<Delta>(data, MAX_REPLY);
    if let Some(roster) = plain::<Roster>(data, MAX_REPLY) {
        let _ = roster.root();
    }
    if let Some(page) = plain::<Page>(data, MAX_REPLY) {
        let (network, count) = (page.network, page.count);
        if let Ok((head, roster)) = Page::join(vec![page]) {
            assert_eq!(count, 1, "one page of several is no roster");
            assert!(!Page::split(network, &head, &roster).is_empty());
        }
    }
}

fn plain<T: DeserializeOwned + Serialize>(data: &[u8], max: usize) -> Option<T> {
    let value = cbor::decode::<T>(data, max).ok()?;
    let bytes = cbor::encode(&value);
    let again = cbor::decode::<T>(&bytes, bytes.len()).expect("it was read before");
    assert_eq!(cbor::encode(&again), bytes);
    Some(value)
}

fn signed<T: SignedObject>(data: &[u8]) {
    let key = SecretKey::from_seed(&[1; 32]);
    let keys = [key.public_key()];
    if let Ok(object) = cbor::decode::<Signed<T>>(data, MAX_REPLY) {
        // Whoever made it, it says so itself.
        for keys in [[object.key], keys] {
            if let Ok(value) = object.verify(&keys) {
                assert_eq!(value.check(), Ok(()));
            }
        }
    }
    if data.len() > MAX_REPLY {
        return;
    }
    let envelope = Envelope {
        key: keys[0],
        payload: data,
        sig: &key.sign(T::DOMAIN, &[data]),
    };
    let object = cbor::decode::<Signed<T>>(&cbor::encode(&envelope), 2 * MAX_REPLY);
    let object = object.expect("an envelope");
    if let Ok(value) = object.verify(&keys) {
        assert!(data.len() <= T::MAX_LEN);
        assert_eq!(value.check(), Ok(()));
    }
}
