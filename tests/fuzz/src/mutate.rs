//! Damage that is the same in every run.

use kanpachi_tests::{rng::Rng, sim::log::mix};

/// Bytes that mean something to one decoder or another: limits of numbers, CBOR heads, what JSON, links and argument
/// lists are made of.
const TELLING: &[u8] =
    b"\x00\x01\x7f\x80\xff\x1b\x3b\x5b\x5f\x7b\x9b\x9f\xa0\xbb\xbf\xf6\xfb{}[]\":,\\/#@-.%\n 09aZ";

/// Longest input that damage makes, in bytes.
const MAX: usize = 256 * 1024;

/// A source of damage.
#[derive(Clone, Debug)]
pub struct Damage(Rng);

impl Damage {
    /// Starts from a name, so that a new file changes nothing for the others, and from a number.
    #[must_use]
    pub fn of(name: &str, seed: u64) -> Self {
        Self(Rng::new(mix(seed, name.as_bytes())))
    }

    fn below(&mut self, end: usize) -> usize {
        self.0.below(end as u64) as usize
    }

    fn telling(&mut self) -> u8 {
        TELLING[self.below(TELLING.len())]
    }

    /// One to four changes to `seed`; `other` lends pieces.
    pub fn apply(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut out = seed.to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut out, other);
        }
        out.truncate(MAX);
        out
    }

    fn change(&mut self, out: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(out.len() + 1);
        let len = self.below(24).min(out.len() - at);
        match self.below(10) {
            0 if at < out.len() => out[at] ^= 1 << self.below(8),
            1 if at < out.len() => out[at] = self.telling(),
            2 if at < out.len() => out[at] = self.0.next_u64().to_le_bytes()[0],
            3 => drop(out.drain(at..at + len)),
            4 => out.truncate(at),
            5 => {
                let piece = out[at..at + len].to_vec();
                out.splice(at..at, piece);
            }
            6 => {
                let number = (1_u64 << self.below(64)).wrapping_sub(self.0.below(2));
                let width = [1, 2, 4, 8][self.below(4)];
                let bytes = number.to_be_bytes();
                out.splice(at..at + len.min(width), bytes[8 - width..].iter().copied());
            }
            7 => {
                let from = self.below(other.len() + 1);
                let to = (from + self.below(64)).min(other.len());
                out.splice(at..at + len, other[from..to].iter().copied());
            }
            8 => {
                // The same again, many times over.
                let piece = out[at..at + len].to_vec();
                let times = 1 << self.below(8);
                out.splice(at..at, piece.repeat(times));
            }
            _ => {
                let byte = self.telling();
                out.insert(at, byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Damage;

    #[test]
    fn damage_is_the_same_in_every_run_and_another_for_every_name() {
        let damage = |name| {
            let mut damage = Damage::of(name, 0);
            (0..100).map(move |_| damage.apply(b"some input of some length", b"other"))
        };
        assert!(damage("a").eq(damage("a")));
        assert!(!damage("a").eq(damage("b")));
    }
}
