//! From a record to the value that the DHT keeps, and back.

use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _, aead::Aead as _};
use thiserror::Error;

use super::{
    OuterRecord, PeerRecord,
    shelf::{self, Refusal},
};
use crate::{
    cbor,
    id::{NodeId, PublicKey},
    identity::SecretKey,
    secret::NetworkSecret,
    signed::{Signed, SignedObject as _, Verified, VerifyError},
};

/// Length of a nonce in bytes.
const NONCE: usize = 12;
/// Length of the tag that ChaCha20-Poly1305 adds, in bytes.
const TAG: usize = 16;
/// Room for key and signature beside a record, in bytes.
const SIGNED: usize = 160;

/// Under what a record is sealed.
#[derive(Clone, Copy, Debug)]
pub struct Sealing<'a> {
    /// The secret of the network whose members may read it.
    pub secret: &'a NetworkSecret,
    /// The day (days since 1970) that it is published on.
    pub day: u64,
    /// Number of the outer record: only rises for the key of a day.
    pub seq: u64,
    /// 12 random bytes. One that comes twice on a day tells which bytes of two records are equal, and lets a record
    /// be forged up to its inner signature.
    pub nonce: [u8; NONCE],
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What the node says, signed by it.
    pub record: Verified<PeerRecord>,
    /// Number of the outer record.
    pub seq: u64,
    /// Life in seconds from receipt: the shorter of the two that it states.
    pub ttl: u32,
}

/// Why a value is not the record of a node. Whoever knows the secret can write a value under any member's key; only
/// the inner signature says whose the record is. So each of these means: ask elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    /// Not even a value that may be stored.
    #[error(transparent)]
    Outer(#[from] Refusal),
    /// A value under another key than the one of this node on this day.
    #[error("another node's record, or another day's")]
    WrongKey,
    /// The ciphertext was not made under this secret for this node and day.
    #[error("not encrypted for this network")]
    Undecryptable,
    /// The record inside is not signed by the node.
    #[error("the record inside: {0}")]
    Inner(#[from] VerifyError),
    /// Signed by the node, about another one.
    #[error("the record inside is about another node")]
    WrongNode,
}

/// Signs, encrypts and signs again: the value to store under [`OuterRecord::dht_key`] of the day's record key.
#[must_use]
pub fn seal(record: &PeerRecord, identity: &SecretKey, with: &Sealing<'_>) -> Vec<u8> {
    let inner = cbor::encode(&Signed::sign(record, identity));
    enclose(&inner, &record.node, record.ttl, with)
}

/// Encrypts and signs any bytes as the record of a node: all that a member can do in the name of another.
#[must_use]
pub fn enclose(inner: &[u8], node: &NodeId, ttl: u32, with: &Sealing<'_>) -> Vec<u8> {
    // It refuses only what is longer than 256 GiB.
    let sealed = cipher(with.secret, node, with.day)
        .encrypt(&with.nonce.into(), inner)
        .expect("a record is short");
    let key = with.secret.record_key(node, with.day);
    let outer = OuterRecord {
        key: key.public_key(),
        seq: with.seq,
        ttl,
        ciphertext: [with.nonce.as_slice(), &sealed].concat(),
    };
    cbor::encode(&Signed::sign(&outer, &key))
}

/// Reads the value that was found for `node` under the secret and day: checks length, outer key and signature,
/// decrypts, checks the inner signature and whom it is about. Judges nothing about freshness.
///
/// # Errors
/// [`OpenError`]
pub fn open(
    value: &[u8],
    secret: &NetworkSecret,
    node: &NodeId,
    day: u64,
) -> Result<Opened, OpenError> {
    let outer = shelf::read(value)?;
    if outer.key != secret.record_key(node, day).public_key() {
        return Err(OpenError::WrongKey);
    }
    let outer = outer.verify()?;
    let (nonce, sealed) = outer
        .ciphertext
        .split_first_chunk::<NONCE>()
        .filter(|(_, sealed)| sealed.len() <= PeerRecord::MAX_LEN + SIGNED + TAG)
        .ok_or(OpenError::Undecryptable)?;
    let inner = cipher(secret, node, day)
        .decrypt(nonce.into(), sealed)
        .map_err(|_| OpenError::Undecryptable)?;
    let signed: Signed<PeerRecord> =
        cbor::decode(&inner, PeerRecord::MAX_LEN + SIGNED).map_err(VerifyError::from)?;
    let record = signed.verify(&[PublicKey(node.0)])?;
    if record.node != *node {
        return Err(OpenError::WrongNode);
    }
    let ttl = outer.ttl.min(record.ttl);
    Ok(Opened {
        seq: outer.seq,
        ttl,
        record,
    })
}

fn cipher(secret: &NetworkSecret, node: &NodeId, day: u64) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&secret.record_cipher(node, day).into())
}
