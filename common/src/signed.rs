//! Signed objects: bytes, who signed them, and for what purpose.
//!
//! A signature is Ed25519 (RFC 8032, strict verification) over `domain tag ‖ 0x00 ‖ payload`. The tag names the
//! kind of object and its version, so that a signature made for one purpose is worthless for any other.

use std::{fmt, marker::PhantomData, ops::Deref};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{
    cbor::{self, DecodeError},
    id::PublicKey,
    identity::{self, SecretKey},
};

/// A kind of object that is signed.
pub trait SignedObject: Serialize + DeserializeOwned {
    /// Domain tag, unique to the kind and its version.
    const DOMAIN: &'static str;
    /// Longest payload in bytes.
    const MAX_LEN: usize;

    /// Limits that the type alone cannot express. Runs after the signature was checked.
    ///
    /// # Errors
    /// [`DecodeError`]
    fn check(&self) -> Result<(), DecodeError>;
}

/// Why a signed object is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// Signed by a key that nobody vouches for here.
    #[error("signed by a key that is not trusted here")]
    UntrustedKey,
    /// The signature does not fit key, purpose and bytes.
    #[error("bad signature")]
    BadSignature,
    /// Properly signed and still not acceptable.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// An object as it travels: its bytes, the key that signed them, the signature.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Signed<T> {
    /// The signer. Nothing is believed because of it: [`Signed::verify`] compares it with trusted keys.
    pub key: PublicKey,
    /// The CBOR of the object, exactly as it was signed.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// 64 bytes of Ed25519.
    #[serde(with = "serde_bytes")]
    pub sig: [u8; 64],
    #[serde(skip)]
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self {
            key: self.key,
            payload: self.payload.clone(),
            sig: self.sig,
            kind: PhantomData,
        }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.payload == other.payload && self.sig == other.sig
    }
}

impl<T> Eq for Signed<T> {}

impl<T: SignedObject> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Signed<{}>({} bytes by {})",
            T::DOMAIN,
            self.payload.len(),
            self.key.short()
        )
    }
}

impl<T: SignedObject> Signed<T> {
    /// Encodes and signs.
    #[must_use]
    pub fn sign(value: &T, key: &SecretKey) -> Self {
        let payload = cbor::encode(value);
        let sig = key.sign(T::DOMAIN, &[&payload]);
        Self {
            key: key.public_key(),
            payload,
            sig,
            kind: PhantomData,
        }
    }

    /// Checks size, signer, signature and contents, in this order.
    ///
    /// # Errors
    /// [`VerifyError`]
    pub fn verify(&self, trusted: &[PublicKey]) -> Result<Verified<T>, VerifyError> {
        if self.payload.len() > T::MAX_LEN {
            return Err(DecodeError::TooLong {
                got: self.payload.len(),
                max: T::MAX_LEN,
            }
            .into());
        }
        if !trusted.contains(&self.key) {
            return Err(VerifyError::UntrustedKey);
        }
        if !identity::verify(&self.key.0, T::DOMAIN, &[&self.payload], &self.sig) {
            return Err(VerifyError::BadSignature);
        }
        let value: T = cbor::decode(&self.payload, T::MAX_LEN)?;
        value.check()?;
        Ok(Verified {
            value,
            signed: self.clone(),
        })
    }
}

/// A value whose signature was checked, together with the bytes that prove it.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    signed: Signed<T>,
}

impl<T> Verified<T> {
    /// The proof, to store or to pass on.
    pub const fn signed(&self) -> &Signed<T> {
        &self.signed
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Verified<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Verified").field(&self.value).finish()
    }
}
