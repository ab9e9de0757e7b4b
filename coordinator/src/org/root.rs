//! The root key under its recovery phrase.
//!
//! Sealed form: `ChaCha20-Poly1305(key, nonce, root seed)` with the associated data
//! `"kanpachi/sealed-root/v1" ‖ 0x00 ‖ org id` and `key = Argon2id(phrase, salt)`.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use bip39::{Language, Mnemonic};
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit as _,
    aead::{Aead as _, Payload},
};
use kanpachi_common::{OrgId, SecretKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Twelve words (BIP 39, English) that hold 128 random bits. Shown once, stored nowhere.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RecoveryPhrase(String);

impl RecoveryPhrase {
    /// The phrase of 16 random bytes.
    ///
    /// # Errors
    /// Never for 16 bytes; other lengths have no phrase.
    pub(super) fn from_entropy(entropy: &[u8; 16]) -> Result<Self, SealError> {
        Mnemonic::from_entropy_in(Language::English, entropy)
            .map(|m| Self(m.to_string()))
            .map_err(|_| SealError::Phrase)
    }

    /// Reads a phrase that a person typed: upper case and odd spaces do not matter.
    ///
    /// # Errors
    /// [`SealError::Phrase`] when words or checksum are wrong.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let text = Zeroizing::new(
            text.split_whitespace()
                .map(str::to_lowercase)
                .collect::<Vec<_>>()
                .join(" "),
        );
        Mnemonic::parse_in_normalized(Language::English, &text)
            .map(|m| Self(m.to_string()))
            .map_err(|_| SealError::Phrase)
    }

    /// The words, to be shown once.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RecoveryPhrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryPhrase(…)")
    }
}

/// Why a root key is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SealError {
    /// Not twelve words of the list, or one is mistyped.
    #[error("this is not a recovery phrase: check the words and their order")]
    Phrase,
    /// A proper phrase of another organisation, or the sealed key was changed.
    #[error("the recovery phrase does not open the root key of this organisation")]
    WrongPhrase,
    /// Its parameters are out of range.
    #[error("the sealed root key is damaged")]
    Damaged,
}

/// The encrypted root key, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedRoot {
    /// Memory of Argon2id in KiB.
    memory: u32,
    /// Its passes.
    passes: u32,
    #[serde(with = "serde_bytes")]
    salt: [u8; 16],
    #[serde(with = "serde_bytes")]
    nonce: [u8; 12],
    #[serde(with = "serde_bytes")]
    sealed: Vec<u8>,
}

/// Argon2id's cost for new keys: the lowest that OWASP recommends. The phrase itself holds 128 random bits, so
/// the cost only slows down whoever knows all but a few of its words.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// What a stored cost may be at the most: a changed file must not make us allocate what it asks for.
const MAX_MEMORY_KIB: u32 = 256 * 1024;
const MAX_PASSES: u32 = 16;

impl SealedRoot {
    /// Longest encoding in bytes.
    pub const MAX_LEN: usize = 512;

    /// Encrypts a root key. `salt` and `nonce` are random.
    ///
    /// # Errors
    /// [`SealError::Damaged`], when the parameters of this program are out of range.
    pub(super) fn seal(
        root: &SecretKey,
        phrase: &RecoveryPhrase,
        salt: [u8; 16],
        nonce: [u8; 12],
    ) -> Result<Self, SealError> {
        let mut sealed = Self {
            memory: MEMORY_KIB,
            passes: PASSES,
            salt,
            nonce,
            sealed: vec![],
        };
        let key = sealed.key(phrase)?;
        let seed = root.seed();
        let aad = aad(&OrgId::of_root(&root.public_key()));
        let payload = Payload {
            msg: &*seed,
            aad: &aad,
        };
        sealed.sealed = ChaCha20Poly1305::new((&*key).into())
            .encrypt(&nonce.into(), payload)
            .map_err(|_| SealError::Damaged)?;
        Ok(sealed)
    }

    /// Decrypts the root key of an organisation.
    ///
    /// # Errors
    /// [`SealError`]
    pub fn open(&self, phrase: &RecoveryPhrase, org: &OrgId) -> Result<SecretKey, SealError> {
        let key = self.key(phrase)?;
        let payload = Payload {
            msg: &self.sealed,
            aad: &aad(org),
        };
        let seed = ChaCha20Poly1305::new((&*key).into())
            .decrypt(&self.nonce.into(), payload)
            .map(Zeroizing::new)
            .map_err(|_| SealError::WrongPhrase)?;
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(
            seed.as_slice()
                .try_into()
                .map_err(|_| SealError::WrongPhrase)?,
        );
        let root = SecretKey::from_seed(&seed);
        if OrgId::of_root(&root.public_key()) == *org {
            Ok(root)
        } else {
            Err(SealError::WrongPhrase)
        }
    }

    fn key(&self, phrase: &RecoveryPhrase) -> Result<Zeroizing<[u8; 32]>, SealError> {
        if self.memory > MAX_MEMORY_KIB || self.passes > MAX_PASSES {
            return Err(SealError::Damaged);
        }
        let params =
            Params::new(self.memory, self.passes, 1, Some(32)).map_err(|_| SealError::Damaged)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(phrase.0.as_bytes(), &self.salt, &mut *key)
            .map_err(|_| SealError::Damaged)?;
        Ok(key)
    }
}

fn aad(org: &OrgId) -> Vec<u8> {
    [b"kanpachi/sealed-root/v1\0".as_slice(), &org.0].concat()
}
