//! Names of members and networks: letters, digits and hyphens in any script, 1 to 63 characters.

use thiserror::Error;
use unicode_normalization::UnicodeNormalization as _;

/// Longest name in characters.
pub const MAX_CHARS: usize = 63;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a name needs at least one character")]
    Empty,
    /// More than 63 characters.
    #[error("a name has at most {MAX_CHARS} characters")]
    TooLong,
    /// Something else than a letter, digit or hyphen.
    #[error("a name is made of letters, digits and hyphens, not {0:?}")]
    BadCharacter(char),
}

/// Checks a name and brings it to its one form (Unicode NFC), so that names that look alike compare alike.
///
/// # Errors
/// [`NameError`]
pub fn check(text: &str) -> Result<String, NameError> {
    // Composing never makes text longer than four times its bytes; look at no more than a name can need.
    if text.len() > MAX_CHARS * 4 * 4 {
        return Err(NameError::TooLong);
    }
    let name: String = text.nfc().collect();
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.chars().count() > MAX_CHARS {
        return Err(NameError::TooLong);
    }
    match name.chars().find(|c| {
        !(c.is_alphanumeric() || *c == '-' || unicode_normalization::char::is_combining_mark(*c))
    }) {
        Some(bad) => Err(NameError::BadCharacter(bad)),
        None => Ok(name),
    }
}

/// Makes a name of anything, a host name for instance: other characters become hyphens.
#[must_use]
pub fn coerce(text: &str) -> String {
    let cleaned: String = text
        .chars()
        .take(MAX_CHARS)
        .map(|c| {
            if c.is_alphanumeric() || c == '-' {
                c
            } else {
                '-'
            }
        })
        .collect();
    check(cleaned.trim_matches('-')).unwrap_or_else(|_| "node".to_owned())
}

/// What names are compared by: two members of a network never differ in case only.
#[must_use]
pub fn fold(name: &str) -> String {
    name.chars().flat_map(char::to_lowercase).nfc().collect()
}

/// The `n`-th variant of a taken name (`lamp-2`, `lamp-3`, …), cut so that it stays a name.
#[must_use]
pub fn variant(name: &str, n: u32) -> String {
    let suffix = format!("-{n}");
    let keep = MAX_CHARS - suffix.chars().count();
    name.chars().take(keep).collect::<String>() + &suffix
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_every_script_pass_and_tricks_do_not() {
        for good in [
            "a",
            "lamp-2",
            "Küche",
            "サーバー",
            "дом",
            "हिन्दी",
            &"x".repeat(63),
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a b",
            "a\n",
            "a\u{202e}b",
            "a/b",
            "..",
            "a\u{200b}",
            &"x".repeat(64),
            "a\u{0}",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check("Ku\u{0308}che"), check("Küche"));
        assert_eq!(fold("LAMP"), fold("lamp"));
    }

    proptest! {
        #[test]
        fn whatever_comes_in_a_coerced_name_is_a_name(text: String, n in 2u32..1_000_000) {
            let name = coerce(&text);
            prop_assert!(check(&name).is_ok());
            prop_assert!(check(&variant(&name, n)).is_ok());
        }
    }
}
