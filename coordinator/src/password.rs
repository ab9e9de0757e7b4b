//! Passwords of networks: hashed to be stored, and held against what is stored.
//!
//! Behind a trait, because a password-authenticated key exchange (OPAQUE) is to take the place of the hash, and because
//! tests cannot wait for a hash that is slow on purpose.

use std::{fmt, sync::Arc};

use argon2::{
    Algorithm, Argon2, Params, PasswordHash as Phc, PasswordHasher as _, PasswordVerifier as _,
    Version,
};
use async_trait::async_trait;
use kanpachi_common::Password;
use tokio::sync::Semaphore;

use crate::store::{PasswordHash, Refusal, Result, StoreError};

/// Argon2id's cost: the lowest that OWASP recommends.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// What a stored cost may be at the most: a changed file must not make us allocate what it asks for.
const MAX_MEMORY_KIB: u32 = 64 * 1024;
const MAX_PASSES: u32 = 16;
/// Hashes that are computed at once: each takes [`MEMORY_KIB`] and a core.
const AT_ONCE: usize = 2;
/// Verifications that are computed or wait for it, and as many hashes of new passwords; one more is told to come again.
/// So other requests never wait behind a flood of passwords, nor owners behind a flood of guesses.
const PLACES: usize = 16;
/// Length of a salt.
const SALT: usize = 16;

/// Hashes passwords and verifies them.
#[async_trait]
pub trait Passwords: Send + Sync + fmt::Debug + 'static {
    /// What to store for a password.
    async fn hash(&self, password: Password) -> Result<PasswordHash>;
    /// Is this the password? Without anything stored the answer is no, and takes as long.
    async fn verify(&self, password: Password, stored: Option<PasswordHash>) -> Result<bool>;
}

/// [`Passwords`] by Argon2id, on threads of their own.
#[derive(Debug)]
pub struct Argon2id {
    cores: Arc<Semaphore>,
    to_verify: Semaphore,
    to_hash: Semaphore,
    /// Stands in where nothing is stored: no password has this hash.
    dummy: PasswordHash,
}

impl Argon2id {
    /// Takes random bytes for the hash that stands in where nothing is stored.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new() -> std::result::Result<Self, getrandom::Error> {
        let mut random = [0; SALT + 32];
        getrandom::fill(&mut random)?;
        let (salt, output) = random.split_at(SALT);
        let dummy = format!(
            "$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p=1${}${}",
            base64(salt),
            base64(output)
        );
        Ok(Self {
            cores: Arc::new(Semaphore::new(AT_ONCE)),
            to_verify: Semaphore::new(PLACES),
            to_hash: Semaphore::new(PLACES),
            dummy: PasswordHash(dummy),
        })
    }

    /// Computes on a thread that may take its time, when a core is free for it.
    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let core = Arc::clone(&self.cores).acquire_owned().await;
        let core = core.map_err(|_| StoreError::Closed)?;
        let done = tokio::task::spawn_blocking(move || {
            // Held until the memory is free again, even when nobody waits for the answer any more.
            let _core = core;
            work()
        });
        done.await.map_err(|_| failed())?
    }
}

#[async_trait]
impl Passwords for Argon2id {
    async fn hash(&self, password: Password) -> Result<PasswordHash> {
        let Ok(_place) = self.to_hash.try_acquire() else {
            return Err(Refusal::PasswordsBusy.into());
        };
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).map_err(|_| failed())?;
        self.compute(move || {
            let argon2 = argon2(MEMORY_KIB, PASSES)?;
            let hash = argon2.hash_password_with_salt(password.expose().as_bytes(), &salt);
            Ok(PasswordHash(hash.map_err(|_| failed())?.to_string()))
        })
        .await
    }

    async fn verify(&self, password: Password, stored: Option<PasswordHash>) -> Result<bool> {
        let Ok(_place) = self.to_verify.try_acquire() else {
            return Err(Refusal::PasswordsBusy.into());
        };
        let known = stored.is_some();
        let hash = stored.unwrap_or_else(|| self.dummy.clone());
        let right = self.compute(move || verify(&password, &hash)).await?;
        Ok(right && known)
    }
}

fn verify(password: &Password, stored: &PasswordHash) -> Result<bool> {
    let damaged = || StoreError::damaged("the password of a network cannot be read");
    let hash = Phc::new(&stored.0).map_err(|_| damaged())?;
    let params = Params::try_from(&hash).map_err(|_| damaged())?;
    let modest = params.m_cost() <= MAX_MEMORY_KIB && params.t_cost() <= MAX_PASSES;
    if !modest || params.p_cost() != 1 {
        return Err(damaged());
    }
    let argon2 = argon2(params.m_cost(), params.t_cost())?;
    Ok(argon2
        .verify_password(password.expose().as_bytes(), &hash)
        .is_ok())
}

fn argon2(memory: u32, passes: u32) -> Result<Argon2<'static>> {
    let params = Params::new(memory, passes, 1, None).map_err(|_| failed())?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn failed() -> StoreError {
    StoreError::Failed("a password could not be hashed".to_owned())
}

/// Base64 without padding, as in PHC strings.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len() * 4 / 3 + 1);
    for chunk in bytes.chunks(3) {
        let mut bits = 0_u32;
        for i in 0..3 {
            bits = bits << 8 | u32::from(chunk.get(i).copied().unwrap_or(0));
        }
        for i in 0..=chunk.len() {
            let digit = bits >> (18 - 6 * i) & 63;
            out.push(char::from(DIGITS[digit as usize]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    #[tokio::test]
    async fn the_right_password_is_right_and_nothing_else_is() {
        let passwords = Argon2id::new().unwrap();
        let stored = passwords.hash(password("correct horse")).await.unwrap();
        assert!(
            stored.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{}",
            stored.0
        );
        let again = passwords.hash(password("correct horse")).await.unwrap();
        assert_ne!(stored, again, "a salt of its own");
        let check = async |text, stored| passwords.verify(password(text), stored).await;
        assert_eq!(check("correct horse", Some(stored.clone())).await, Ok(true));
        assert_eq!(check("correct Horse", Some(stored)).await, Ok(false));
        assert_eq!(check("correct horse", None).await, Ok(false));
    }

    #[tokio::test]
    async fn nothing_stored_takes_as_long_as_a_wrong_password() {
        let passwords = Argon2id::new().unwrap();
        let stored = passwords.hash(password("correct horse")).await.unwrap();
        let mut times = [vec![], vec![]];
        for _ in 0..7 {
            for (times, stored) in times.iter_mut().zip([Some(stored.clone()), None]) {
                let start = std::time::Instant::now();
                let right = passwords.verify(password("wrong"), stored).await;
                times.push(start.elapsed());
                assert_eq!(right, Ok(false));
            }
        }
        let [wrong, unknown] = times.map(|mut t| {
            t.sort();
            t[t.len() / 2]
        });
        assert!(
            wrong < unknown * 3 && unknown < wrong * 3,
            "{wrong:?} {unknown:?}"
        );
    }

    #[tokio::test]
    async fn a_flood_of_passwords_is_told_to_come_again() {
        let passwords = Argon2id::new().unwrap();
        let all = (0..PLACES + 5).map(|_| passwords.verify(password("x"), None));
        let all = futures::future::join_all(all);
        let owner = passwords.hash(password("new"));
        let (all, owner) = futures::join!(all, owner);
        owner.expect("an owner is not kept out by guesses");
        let busy = Err(StoreError::Refused(Refusal::PasswordsBusy));
        assert_eq!(all.iter().filter(|r| **r == busy).count(), 5);
        assert_eq!(all.iter().filter(|r| **r == Ok(false)).count(), PLACES);
    }

    #[tokio::test]
    async fn a_changed_file_cannot_ask_for_memory_without_end() {
        let passwords = Argon2id::new().unwrap();
        let stored = passwords.hash(password("x")).await.unwrap().0;
        for bad in [
            stored.replace("m=19456", "m=4000000"),
            stored.replace("t=2", "t=4000000"),
            "nonsense".to_owned(),
        ] {
            let verdict = passwords
                .verify(password("x"), Some(PasswordHash(bad)))
                .await;
            assert!(
                matches!(verdict, Err(StoreError::Damaged(_))),
                "{verdict:?}"
            );
        }
    }
}
