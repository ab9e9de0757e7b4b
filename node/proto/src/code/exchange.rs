//! The arithmetic of a code: SPAKE2 on Curve25519 (the crate `spake2`, RFC 9382 is a later sibling), and what is made of
//! its key. `docs/protocol.md` has the bytes.

use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _, aead::Aead as _, aead::Payload};
use hkdf::Hkdf;
use kanpachi_common::{
    NodeId, OrgId,
    wire::code::{Element, Tag},
};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use sha2::Sha256;
use spake2::{Ed25519Group, Identity, Password, Spake2};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::Code;

/// What both ends know each other by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The organisation that the invite is for.
    pub org: OrgId,
    /// The libp2p identity of who joins, made for this.
    pub joiner: NodeId,
    /// The libp2p identity of the host.
    pub host: NodeId,
}

impl Ends {
    fn identity(&self, role: &[u8], node: &NodeId) -> Identity {
        Identity::new(&[b"kanpachi/code/v1\0", role, &self.org.0, &node.0].concat())
    }

    fn identities(&self) -> (Identity, Identity) {
        (
            self.identity(b"joiner", &self.joiner),
            self.identity(b"host", &self.host),
        )
    }
}

/// Half an exchange that waits for the other half.
pub(crate) struct Half(Spake2<Ed25519Group>);

/// Begins as who joins.
pub(crate) fn joiner(code: &Code, ends: &Ends, seed: [u8; 32]) -> (Half, Element) {
    let (a, b) = ends.identities();
    half(Spake2::start_a_with_rng(
        &password(code),
        &a,
        &b,
        Seeded::new(seed),
    ))
}

/// Begins as the host.
pub(crate) fn host(code: &Code, ends: &Ends, seed: [u8; 32]) -> (Half, Element) {
    let (a, b) = ends.identities();
    half(Spake2::start_b_with_rng(
        &password(code),
        &a,
        &b,
        Seeded::new(seed),
    ))
}

fn password(code: &Code) -> Password {
    Password::new(code.bytes())
}

fn half((state, message): (Spake2<Ed25519Group>, Vec<u8>)) -> (Half, Element) {
    let mut element = [0; 33];
    element.copy_from_slice(&message);
    (Half(state), Element(element))
}

impl Half {
    /// The keys, or `None` when the other half is no point of the curve or of the wrong side.
    pub(crate) fn finish(self, other: &Element) -> Option<Keys> {
        let shared = Zeroizing::new(self.0.finish(&other.0).ok()?);
        Some(Keys::of(&shared))
    }
}

/// What the two ends have when the code was the same.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Keys {
    joiner: [u8; 32],
    host: [u8; 32],
    seal: [u8; 32],
}

impl Keys {
    fn of(shared: &[u8]) -> Self {
        let hkdf = Hkdf::<Sha256>::new(None, shared);
        let key = |info: &[u8]| {
            let mut out = [0; 32];
            hkdf.expand(info, &mut out)
                .expect("32 bytes are within HKDF's reach");
            out
        };
        Self {
            joiner: key(b"kanpachi/code/joiner/v1"),
            host: key(b"kanpachi/code/host/v1"),
            seal: key(b"kanpachi/code/seal/v1"),
        }
    }

    /// What who joins shows.
    pub(crate) const fn joiner_tag(&self) -> Tag {
        Tag(self.joiner)
    }

    /// What the host shows.
    pub(crate) const fn host_tag(&self) -> Tag {
        Tag(self.host)
    }

    pub(crate) fn is_joiner(&self, tag: &Tag) -> bool {
        self.joiner.ct_eq(&tag.0).into()
    }

    pub(crate) fn is_host(&self, tag: &Tag) -> bool {
        self.host.ct_eq(&tag.0).into()
    }

    /// Seals the one message that this key is for.
    pub(crate) fn seal(&self, link: &[u8]) -> Vec<u8> {
        self.cipher()
            .encrypt(&[0; 12].into(), payload(link))
            .expect("a link is far shorter than the cipher can take")
    }

    /// Opens it.
    pub(crate) fn open(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let opened = self.cipher().decrypt(&[0; 12].into(), payload(sealed));
        opened.ok().map(Zeroizing::new)
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&self.seal.into())
    }
}

fn payload(msg: &[u8]) -> Payload<'_, '_> {
    Payload {
        msg,
        aad: b"kanpachi/code/invite/v1",
    }
}

/// The generator of this crate behind the traits of the release that `spake2` was made for.
struct Seeded(ChaCha20Rng);

impl Seeded {
    fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }
}

impl rand_core_06::RngCore for Seeded {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), rand_core_06::Error> {
        self.0.fill_bytes(out);
        Ok(())
    }
}

impl rand_core_06::CryptoRng for Seeded {}
