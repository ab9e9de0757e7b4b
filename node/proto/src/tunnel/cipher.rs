//! The packet cipher: ChaCha20-Poly1305 (RFC 8439) behind one small trait, with two engines.
//!
//! The nonce is 32 zero bits and the 64-bit counter, little endian, as Noise wants it (noise_spec rev 34, §12.3).

use chacha20poly1305::{AeadInOut as _, ChaCha20Poly1305, KeyInit as _};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use thiserror::Error;
use zeroize::Zeroizing;

use super::wire::{HEADER_LEN, TAG_LEN};

/// The tag does not fit: another key, another header, or a changed byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not sealed with this key")]
pub struct Forged;

/// One direction of a session: seals and opens in place with a given counter.
///
/// Neither call allocates. The caller never seals two packets with one counter.
pub trait PacketCipher: Send + Sync {
    /// Encrypts `payload` in place and returns the tag.
    ///
    /// # Errors
    /// [`Forged`] when the payload is longer than the cipher can take (256 GiB).
    fn seal(
        &self,
        counter: u64,
        header: &[u8; HEADER_LEN],
        payload: &mut [u8],
    ) -> Result<[u8; TAG_LEN], Forged>;

    /// Checks the tag behind the payload and decrypts the payload in place.
    ///
    /// # Errors
    /// [`Forged`]; the bytes are then of no meaning.
    fn open(
        &self,
        counter: u64,
        header: &[u8; HEADER_LEN],
        sealed: &mut [u8],
    ) -> Result<(), Forged>;
}

/// Which code does the arithmetic; the bytes are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// `ring`: assembly, several times faster in an ordinary build.
    #[default]
    Ring,
    /// `chacha20poly1305`: portable Rust, and the reference that `ring` is held against.
    Portable,
}

impl Engine {
    pub(crate) fn cipher(self, key: Zeroizing<[u8; 32]>) -> Box<dyn PacketCipher> {
        match self {
            Self::Ring => Box::new(RingCipher { key }),
            Self::Portable => Box::new(PortableCipher(ChaCha20Poly1305::new((&*key).into()))),
        }
    }
}

const fn nonce(counter: u64) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h] = counter.to_le_bytes();
    [0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

/// `ring` never wipes a key, so the key rests here and is handed over per packet: for this cipher key setup is
/// a copy of 32 bytes.
struct RingCipher {
    key: Zeroizing<[u8; 32]>,
}

impl RingCipher {
    fn key(&self) -> Result<LessSafeKey, Forged> {
        // Fails for a wrong key length only.
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*self.key).map_err(|_| Forged)?;
        Ok(LessSafeKey::new(key))
    }
}

impl PacketCipher for RingCipher {
    fn seal(
        &self,
        counter: u64,
        header: &[u8; HEADER_LEN],
        payload: &mut [u8],
    ) -> Result<[u8; TAG_LEN], Forged> {
        let nonce = Nonce::assume_unique_for_key(nonce(counter));
        let tag = self
            .key()?
            .seal_in_place_separate_tag(nonce, Aad::from(header), payload)
            .map_err(|_| Forged)?;
        tag.as_ref().try_into().map_err(|_| Forged)
    }

    fn open(
        &self,
        counter: u64,
        header: &[u8; HEADER_LEN],
        sealed: &mut [u8],
    ) -> Result<(), Forged> {
        let nonce = Nonce::assume_unique_for_key(nonce(counter));
        self.key()?
            .open_in_place(nonce, Aad::from(header), sealed)
            .map(|_| ())
            .map_err(|_| Forged)
    }
}

/// Wipes its key on drop by itself.
struct PortableCipher(ChaCha20Poly1305);

impl PacketCipher for PortableCipher {
    fn seal(
        &self,
        counter: u64,
        header: &[u8; HEADER_LEN],
        payload: &mut [u8],
    ) -> Result<[u8; TAG_LEN], Forged> {
        self.0
            .encrypt_inout_detached(&nonce(counter).into(), header, payload.into())
            .map(Into::into)
            .map_err(|_| Forged)
    }

    fn open(
        &self,
        counter: u64,
        header: &[u8; HEADER_LEN],
        sealed: &mut [u8],
    ) -> Result<(), Forged> {
        let (payload, tag) = sealed.split_last_chunk_mut::<TAG_LEN>().ok_or(Forged)?;
        let tag: &[u8; TAG_LEN] = tag;
        self.0
            .decrypt_inout_detached(&nonce(counter).into(), header, payload.into(), tag.into())
            .map_err(|_| Forged)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(
        cipher: &dyn PacketCipher,
        counter: u64,
        header: &[u8; 16],
        payload: &[u8],
    ) -> Vec<u8> {
        let mut out = payload.to_vec();
        let tag = cipher.seal(counter, header, &mut out).unwrap();
        out.extend_from_slice(&tag);
        out
    }

    proptest! {
        #[test]
        fn the_engines_agree(key: [u8; 32], header: [u8; 16], counter: u64, payload in proptest::collection::vec(any::<u8>(), 0..2000), flip in any::<proptest::sample::Index>(), bit in 0u8..8) {
            let ring = Engine::Ring.cipher(Zeroizing::new(key));
            let portable = Engine::Portable.cipher(Zeroizing::new(key));
            let bytes = sealed(&*ring, counter, &header, &payload);
            prop_assert_eq!(&bytes, &sealed(&*portable, counter, &header, &payload));
            for cipher in [&ring, &portable] {
                let mut good = bytes.clone();
                prop_assert_eq!(cipher.open(counter, &header, &mut good), Ok(()));
                prop_assert_eq!(&good[..payload.len()], &payload[..]);

                let mut bad = bytes.clone();
                bad[flip.index(bytes.len())] ^= 1 << bit;
                prop_assert_eq!(cipher.open(counter, &header, &mut bad), Err(Forged));
                prop_assert_eq!(cipher.open(counter ^ 1, &header, &mut bytes.clone()), Err(Forged));
                let mut other = header;
                other[flip.index(16)] ^= 1 << bit;
                prop_assert_eq!(cipher.open(counter, &other, &mut bytes.clone()), Err(Forged));
            }
        }
    }

    #[test]
    fn too_short_to_hold_a_tag() {
        for engine in [Engine::Ring, Engine::Portable] {
            let cipher = engine.cipher(Zeroizing::new([1; 32]));
            for len in 0..TAG_LEN {
                assert_eq!(cipher.open(0, &[0; 16], &mut vec![0; len]), Err(Forged));
            }
        }
    }
}
