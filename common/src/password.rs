//! Passwords of networks: read in one form, never printed, wiped on drop.

use std::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use unicode_normalization::UnicodeNormalization as _;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

/// Longest password in bytes of UTF-8.
pub const MAX_PASSWORD: usize = 256;

/// Why a text is no password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PasswordError {
    /// Nothing there.
    #[error("a password needs at least one character")]
    Empty,
    /// More than 256 bytes.
    #[error("a password has at most {MAX_PASSWORD} bytes")]
    TooLong,
    /// A line break, a bell, …: nobody types these on purpose.
    #[error("a password has no control characters")]
    Control,
}

/// A password in Unicode NFC, as in the `OpaqueString` profile (RFC 8265 §4.2) without its table of characters: what
/// looks the same on two keyboards is the same password.
#[derive(Clone, Serialize, Deserialize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// Takes a text as a password.
    ///
    /// # Errors
    /// [`PasswordError`]
    pub fn new(text: &str) -> Result<Self, PasswordError> {
        if text.len() > MAX_PASSWORD {
            return Err(PasswordError::TooLong);
        }
        // Composing may lengthen: room for the worst case, so that no half-written copy is left behind in memory.
        let mut composed = Zeroizing::new(String::with_capacity(text.len() * 4));
        composed.extend(text.nfc());
        let password = Self(std::mem::take(&mut *composed));
        password.check()?;
        Ok(password)
    }

    /// Is this a password in its one form? What comes over the wire is asked again.
    ///
    /// # Errors
    /// [`PasswordError`]
    pub fn check(&self) -> Result<(), PasswordError> {
        if self.0.is_empty() {
            Err(PasswordError::Empty)
        } else if self.0.len() > MAX_PASSWORD {
            Err(PasswordError::TooLong)
        } else if self.0.chars().any(char::is_control) {
            Err(PasswordError::Control)
        } else {
            Ok(())
        }
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Password {}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl From<Password> for Zeroizing<String> {
    fn from(mut password: Password) -> Self {
        let text = Self::new(std::mem::take(&mut password.0));
        password.0.zeroize();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_letters_are_the_same_password_however_they_were_typed() {
        let composed = Password::new("caf\u{e9}").unwrap();
        assert_eq!(Password::new("cafe\u{301}"), Ok(composed));
        assert_ne!(Password::new("cafe"), Password::new("Cafe"));
    }

    #[test]
    fn what_is_no_password_is_refused_and_none_is_printed() {
        assert_eq!(Password::new(""), Err(PasswordError::Empty));
        assert_eq!(Password::new("a\nb"), Err(PasswordError::Control));
        assert_eq!(Password::new(&"x".repeat(257)), Err(PasswordError::TooLong));
        assert!(Password::new(&"x".repeat(256)).is_ok());
        assert_eq!(
            format!("{:?}", Password::new("geheim").unwrap()),
            "Password(…)"
        );
    }
}
