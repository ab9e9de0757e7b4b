//! Joining by a short code: who types the code that a host shows is handed an invite, and whoever listens learns nothing.
//!
//! [`Door`] is the host's side, [`Joiner`] the other one; [`exchange`] is the arithmetic that they share. The code goes
//! through SPAKE2, so each run tests one guess and leaves nothing to test others against. Both ends prove the key before
//! anything is handed over, and organisation and both node ids go into it: whoever stands between two connections has two
//! keys. What is handed over is an ordinary invite, so nothing is trusted because of a code.

mod door;
pub mod exchange;
mod joiner;
#[cfg(test)]
mod tests;

use std::fmt;

use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

pub use door::{Door, Event, Granted, TRIES, TRY_LIMIT, TryId};
pub use joiner::{Failure, Joiner, Step};

/// What codes are written in: letters and digits of which no two look or sound alike in most hands and mouths.
const ALPHABET: &[u8; 25] = b"ACDEFGHJKMNPQRTUVWXY34679";
/// Characters of a code: 37 bits.
const LENGTH: usize = 8;

/// A code, as the exchange takes it: upper case, without hyphen. Wiped on drop, never printed by accident.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Code([u8; LENGTH]);

/// A text is no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("that is no code: one has eight letters and digits, such as ACDE-3467")]
pub struct NotACode;

impl Code {
    /// A code from random bytes.
    #[must_use]
    pub fn from_random(random: &[u8; 32]) -> Self {
        let mut number = random
            .iter()
            .take(16)
            .fold(0u128, |n, b| n << 8 | u128::from(*b));
        let base = ALPHABET.len() as u128;
        let code = [(); LENGTH].map(|()| {
            // 128 bits are so many more than are taken that no character is likelier than another.
            let digit = ALPHABET[(number % base) as usize];
            number /= base;
            digit
        });
        Self(code)
    }

    /// Reads what somebody typed. Case, hyphens and white space do not matter.
    ///
    /// # Errors
    /// [`NotACode`]
    pub fn parse(text: &str) -> Result<Self, NotACode> {
        let mut code = [0; LENGTH];
        let mut typed = text
            .bytes()
            .filter(|b| *b != b'-' && !b.is_ascii_whitespace())
            .map(|b| b.to_ascii_uppercase());
        for place in &mut code {
            *place = typed
                .next()
                .filter(|b| ALPHABET.contains(b))
                .ok_or(NotACode)?;
        }
        match typed.next() {
            None => Ok(Self(code)),
            Some(_) => Err(NotACode),
        }
    }

    /// As it is shown: `ACDE-3467`.
    #[must_use]
    pub fn text(&self) -> String {
        let letters = |part: &[u8]| part.iter().copied().map(char::from).collect::<String>();
        let (first, second) = self.0.split_at(LENGTH / 2);
        format!("{}-{}", letters(first), letters(second))
    }

    /// What goes into the exchange.
    pub(crate) const fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(…)")
    }
}
