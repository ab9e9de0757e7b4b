//! The one source of random bytes: a ChaCha20 generator from a seed, so that a run replays exactly.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use zeroize::Zeroizing;

/// Random bytes that cannot be computed afterwards: every draw replaces the key of the generator, so whoever
/// reads this memory later learns nothing of ephemeral keys drawn before.
pub(crate) struct Entropy {
    key: Zeroizing<[u8; 32]>,
}

impl Entropy {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self {
            key: Zeroizing::new(seed),
        }
    }

    pub(crate) fn draw(&mut self) -> Zeroizing<[u8; 32]> {
        let mut rng = ChaCha20Rng::from_seed(*self.key);
        let mut out = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *self.key);
        rng.fill_bytes(&mut *out);
        out
    }

    pub(crate) fn u64(&mut self) -> u64 {
        let bytes = self.draw();
        u64::from_le_bytes([
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
        ])
    }

    /// A number below `end`, near enough to uniform for jitter.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.u64() % end.max(1)
    }

    pub(crate) fn nonce24(&mut self) -> [u8; 24] {
        let bytes = self.draw();
        let mut out = [0; 24];
        out.copy_from_slice(&bytes[..24]);
        out
    }
}
