//! Damage that is the same in every run.

/// SplitMix64 (Steele et al. 2014).
#[derive(Debug)]
pub(crate) struct Damage(u64);

/// CBOR heads that announce something: long strings, long lists, tags, floats, indefinite lengths, breaks.
const HEADS: [u8; 20] = [
    0x00, 0x1b, 0x20, 0x3b, 0x40, 0x5b, 0x5f, 0x60, 0x7b, 0x7f, 0x80, 0x9b, 0x9f, 0xa0, 0xbb, 0xbf,
    0xdb, 0xf6, 0xfb, 0xff,
];

impl Damage {
    /// Starts from a name, so that adding a file does not change what happens to the others.
    pub(crate) fn of(name: &str) -> Self {
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).expect("below a usize")
    }

    /// One to four changes to `seed`; `other` lends pieces.
    pub(crate) fn apply(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut out = seed.to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut out, other);
        }
        out
    }

    fn change(&mut self, out: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(out.len() + 1);
        let len = self.below(24).min(out.len() - at);
        match self.below(9) {
            0 if at < out.len() => out[at] ^= 1 << self.below(8),
            1 if at < out.len() => out[at] = HEADS[self.below(HEADS.len())],
            2 if at < out.len() => out[at] = self.next().to_le_bytes()[0],
            3 => drop(out.drain(at..at + len)),
            4 => out.truncate(at),
            5 => {
                let piece = out[at..at + len].to_vec();
                out.splice(at..at, piece);
            }
            6 => {
                let length = 1_u64 << self.below(64);
                let head = HEADS[self.below(HEADS.len())];
                let head: Vec<u8> = [head].into_iter().chain(length.to_be_bytes()).collect();
                out.splice(at..at + len.min(9), head);
            }
            7 => {
                let from = self.below(other.len() + 1);
                let to = (from + self.below(64)).min(other.len());
                out.splice(at..at + len, other[from..to].iter().copied());
            }
            _ => out
                .splice(at..at, [HEADS[self.below(HEADS.len())]])
                .for_each(drop),
        }
    }
}
