//! The handshake itself: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` by `snow`, with injected randomness.
//!
//! Transport keys are the two outputs of Noise's `Split()` (noise_spec rev 34, §5.2), taken by `snow`'s raw split and
//! used by our own packet cipher with the nonce layout of §12.3. `snow`'s own transport states are never made from the
//! same handshake, so no key ever has two users. Nothing else would do: the handshake hash is no secret, and `snow`
//! exports nothing else; its stateless transport copies every packet.

use std::cell::Cell;

use kanpachi_common::{NodeId, OrgId};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use snow::{
    Builder, Error, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice, NoiseParams},
    resolvers::{CryptoResolver, DefaultResolver, RingResolver},
    types::{Cipher, Dh, Hash, Random},
};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{
    payload::{INIT_PAYLOAD_LEN, RESPONSE_PAYLOAD_LEN},
    wire::{NOISE_INIT_LEN, NOISE_RESPONSE_LEN, WIRE_VERSION},
};

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE_LABEL: &[u8] = b"kanpachi/tunnel\0";
/// All zeros until the post-quantum option fills it.
const PSK: [u8; 32] = [0; 32];

type Key = Zeroizing<[u8; 32]>;

/// Transport keys of one side.
pub(crate) struct Keys {
    pub(crate) seal: Key,
    pub(crate) open: Key,
}

/// `label ‖ 0x00 ‖ wire version (1) ‖ org id (32) ‖ responder node id (32)`.
pub(crate) fn prologue(org: &OrgId, responder: &NodeId) -> Vec<u8> {
    [PROLOGUE_LABEL, &[WIRE_VERSION], &org.0, &responder.0].concat()
}

/// X25519 whose secret is wiped on drop and whose result is never all zeros (RFC 7748, §6.1).
#[derive(Default)]
struct X25519 {
    secret: Key,
    public: [u8; 32],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, privkey: &[u8]) {
        self.secret.copy_from_slice(privkey);
        self.public = x25519_dalek::x25519(*self.secret, x25519_dalek::X25519_BASEPOINT_BYTES);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut secret = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(&mut *secret)?;
        self.set(&*secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.secret
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let public: [u8; 32] = *pubkey.first_chunk().ok_or(Error::Dh)?;
        let shared = Zeroizing::new(x25519_dalek::x25519(*self.secret, public));
        if shared.ct_eq(&[0; 32]).into() {
            return Err(Error::Dh);
        }
        out.get_mut(..32)
            .ok_or(Error::Dh)?
            .copy_from_slice(&*shared);
        Ok(())
    }
}

struct SeededRandom(ChaCha20Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

/// `ring` for the cipher, our X25519, RustCrypto's BLAKE2s, and random bytes from one seed per handshake.
struct Resolver {
    seed: Cell<Option<Key>>,
}

impl CryptoResolver for Resolver {
    /// Once per seed: two handshakes never share random bytes.
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        let seed = self.seed.take()?;
        Some(Box::new(SeededRandom(ChaCha20Rng::from_seed(*seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::<X25519>::default() as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
}

fn builder(seed: Key) -> Result<Builder<'static>, Error> {
    let params: NoiseParams = PATTERN.parse()?;
    let resolver = Resolver {
        seed: Cell::new(Some(seed)),
    };
    Builder::with_resolver(params, Box::new(resolver)).psk(2, &PSK)
}

fn read<const N: usize>(state: &mut HandshakeState, message: &[u8]) -> Result<[u8; N], Error> {
    let mut payload = [0; N];
    let len = state.read_message(message, &mut payload)?;
    if len == N {
        Ok(payload)
    } else {
        Err(Error::Input)
    }
}

fn split(state: &mut HandshakeState, initiator: bool) -> Keys {
    let (first, second) = state.dangerously_get_raw_split();
    let (first, second) = (Zeroizing::new(first), Zeroizing::new(second));
    let (seal, open) = if initiator {
        (first, second)
    } else {
        (second, first)
    };
    Keys { seal, open }
}

/// The initiator's half of a handshake that waits for its answer.
pub(crate) struct Initiator(HandshakeState);

impl Initiator {
    /// Writes message 1 into `out`, which is [`NOISE_INIT_LEN`] long; the payload is [`INIT_PAYLOAD_LEN`] long.
    pub(crate) fn start(
        secret: &[u8; 32],
        responder: &[u8; 32],
        prologue: &[u8],
        seed: Key,
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<Self, Error> {
        debug_assert_eq!(
            (payload.len(), out.len()),
            (INIT_PAYLOAD_LEN, NOISE_INIT_LEN)
        );
        let mut state = builder(seed)?
            .local_private_key(secret)?
            .remote_public_key(responder)?
            .prologue(prologue)?
            .build_initiator()?;
        state.write_message(payload, out)?;
        Ok(Self(state))
    }

    /// Reads message 2. A message that is not the answer leaves everything as it was.
    pub(crate) fn finish(
        &mut self,
        message: &[u8],
    ) -> Result<(Keys, [u8; RESPONSE_PAYLOAD_LEN]), Error> {
        let payload = read(&mut self.0, message)?;
        Ok((split(&mut self.0, true), payload))
    }
}

/// The responder's half after message 1: who it seems to be, and what it says.
pub(crate) struct Responder {
    state: HandshakeState,
    pub(crate) initiator: [u8; 32],
    pub(crate) payload: [u8; INIT_PAYLOAD_LEN],
}

impl Responder {
    pub(crate) fn read(
        secret: &[u8; 32],
        prologue: &[u8],
        seed: Key,
        message: &[u8],
    ) -> Result<Self, Error> {
        let mut state = builder(seed)?
            .local_private_key(secret)?
            .prologue(prologue)?
            .build_responder()?;
        let payload = read(&mut state, message)?;
        let initiator = state.get_remote_static().ok_or(Error::Input)?;
        let initiator = initiator.try_into().map_err(|_| Error::Input)?;
        Ok(Self {
            state,
            initiator,
            payload,
        })
    }

    /// Writes message 2 into `out`, which is [`NOISE_RESPONSE_LEN`] long.
    pub(crate) fn answer(mut self, payload: &[u8], out: &mut [u8]) -> Result<Keys, Error> {
        debug_assert_eq!(
            (payload.len(), out.len()),
            (RESPONSE_PAYLOAD_LEN, NOISE_RESPONSE_LEN)
        );
        self.state.write_message(payload, out)?;
        Ok(split(&mut self.state, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRETS: [[u8; 32]; 2] = [[1; 32], [2; 32]];

    fn public(secret: &[u8; 32]) -> [u8; 32] {
        x25519_dalek::x25519(*secret, x25519_dalek::X25519_BASEPOINT_BYTES)
    }

    fn start(seed: u8, prologue: &[u8]) -> (Initiator, [u8; NOISE_INIT_LEN]) {
        let mut message = [0; NOISE_INIT_LEN];
        let initiator = Initiator::start(
            &SECRETS[0],
            &public(&SECRETS[1]),
            prologue,
            Zeroizing::new([seed; 32]),
            &[3; INIT_PAYLOAD_LEN],
            &mut message,
        );
        (initiator.unwrap(), message)
    }

    fn respond(prologue: &[u8], message: &[u8]) -> Result<Responder, Error> {
        Responder::read(&SECRETS[1], prologue, Zeroizing::new([9; 32]), message)
    }

    #[test]
    fn both_sides_get_the_same_keys() {
        let (mut initiator, first) = start(8, b"p");
        let responder = respond(b"p", &first).unwrap();
        assert_eq!(responder.initiator, public(&SECRETS[0]));
        assert_eq!(responder.payload, [3; INIT_PAYLOAD_LEN]);
        let mut second = [0; NOISE_RESPONSE_LEN];
        let theirs = responder
            .answer(&[4; RESPONSE_PAYLOAD_LEN], &mut second)
            .unwrap();
        // Row C2: what is not the answer changes nothing.
        for at in [0, 31, 32, 500, NOISE_RESPONSE_LEN - 1] {
            let mut bad = second;
            bad[at] ^= 1;
            assert!(initiator.finish(&bad).is_err());
        }
        let (ours, payload) = initiator.finish(&second).unwrap();
        assert_eq!(payload, [4; RESPONSE_PAYLOAD_LEN]);
        assert_eq!(*ours.seal, *theirs.open);
        assert_eq!(*ours.open, *theirs.seal);
        assert_ne!(*ours.open, *ours.seal);
    }

    #[test]
    fn a_seed_replays_and_another_seed_does_not() {
        assert_eq!(start(8, b"p").1, start(8, b"p").1);
        assert_ne!(start(8, b"p").1, start(7, b"p").1);
    }

    /// Row C7: another version, organisation or responder fails.
    #[test]
    fn another_prologue_fails() {
        let node = NodeId([1; 32]);
        let own = prologue(&OrgId([2; 32]), &node);
        let (_, first) = start(8, &own);
        assert!(respond(&own, &first).is_ok());
        assert!(respond(&prologue(&OrgId([3; 32]), &node), &first).is_err());
        assert!(respond(&prologue(&OrgId([2; 32]), &NodeId([2; 32])), &first).is_err());
        let mut later = own.clone();
        later[PROLOGUE_LABEL.len()] += 1;
        assert!(respond(&later, &first).is_err());
    }

    #[test]
    fn every_changed_byte_of_the_first_message_fails() {
        let (_, first) = start(8, b"p");
        for at in (0..NOISE_INIT_LEN).step_by(7) {
            let mut bad = first;
            bad[at] ^= 0x10;
            assert!(respond(b"p", &bad).is_err(), "byte {at}");
        }
        // An ephemeral key of small order.
        let mut zero = first;
        zero[..32].fill(0);
        assert!(respond(b"p", &zero).is_err());
    }
}
