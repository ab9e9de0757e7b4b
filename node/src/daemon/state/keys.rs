//! The node's two secret keys, each in a small text file of mode 0600.

use std::fmt;

use data_encoding::HEXLOWER;
use kanpachi_common::{OrgId, SecretKey, TunnelKey, identity::x25519_public};
use zeroize::Zeroizing;

use super::StateDir;
use crate::ipc::error::{ApiError, code};

const IDENTITY: &str = "identity.key";
const TUNNEL: &str = "tunnel.key";

/// Identity key and tunnel key.
pub struct Keys {
    /// Who this node is.
    pub identity: SecretKey,
    /// X25519 secret of its tunnels.
    pub tunnel: Zeroizing<[u8; 32]>,
    /// Serial of the tunnel key.
    pub serial: u64,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("identity", &self.identity)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the keys, makes what is missing. The second value tells whether the identity is new.
    ///
    /// # Errors
    /// A key file that cannot be read is never replaced: the address of the machine hangs on it.
    pub fn load(dir: &StateDir) -> Result<(Self, bool), ApiError> {
        let (identity, new) = match read(dir, IDENTITY, "identity")? {
            Some((_, seed)) => (SecretKey::from_seed(&seed), false),
            None => {
                let key = SecretKey::generate().map_err(no_random)?;
                write(dir, IDENTITY, "identity", 0, &key.seed())?;
                (key, true)
            }
        };
        let (serial, tunnel) = if let Some(found) = read(dir, TUNNEL, "tunnel")? {
            found
        } else {
            let mut secret = Zeroizing::new([0; 32]);
            getrandom::fill(&mut *secret).map_err(no_random)?;
            // A serial must never fall. When the file is gone but the identity is not, the clock is the best
            // guess at something higher than what was there.
            let serial = if new { 1 } else { wall_seconds() };
            write(dir, TUNNEL, "tunnel", serial, &secret)?;
            (serial, secret)
        };
        Ok((
            Self {
                identity,
                tunnel,
                serial,
            },
            new,
        ))
    }

    /// The public half of the tunnel key, vouched for by the identity.
    #[must_use]
    pub fn tunnel_key(&self, org: &OrgId) -> TunnelKey {
        TunnelKey::sign(
            &self.identity,
            org,
            self.serial,
            x25519_public(&self.tunnel),
        )
    }
}

fn wall_seconds() -> u64 {
    crate::clock::wall().0.max(2)
}

fn no_random(error: getrandom::Error) -> ApiError {
    ApiError::failed(
        code::FAILED,
        format_args!("the system gives no random numbers: {error}"),
    )
}

/// Serial and secret.
type Key = (u64, Zeroizing<[u8; 32]>);

/// One line: `kanpachi-key-v1 KIND SERIAL HEX`.
fn read(dir: &StateDir, file: &str, kind: &str) -> Result<Option<Key>, ApiError> {
    let Some(bytes) = dir.read(file, 4096)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let damaged = || {
        ApiError::failed(code::STATE_DAMAGED, format_args!("the key file {} is damaged", dir.file(file).display()))
            .hint("restore it from a backup; without it this machine is a new one: move the state directory away and join again")
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
    let mut words = text.split_ascii_whitespace();
    if words.next() != Some("kanpachi-key-v1") || words.next() != Some(kind) {
        return Err(damaged());
    }
    let serial = words
        .next()
        .and_then(|w| w.parse().ok())
        .ok_or_else(damaged)?;
    let hex = words.next().ok_or_else(damaged)?;
    let secret = Zeroizing::new(HEXLOWER.decode(hex.as_bytes()).map_err(|_| damaged())?);
    let secret: [u8; 32] = secret.as_slice().try_into().map_err(|_| damaged())?;
    match words.next() {
        None => Ok(Some((serial, Zeroizing::new(secret)))),
        Some(_) => Err(damaged()),
    }
}

fn write(
    dir: &StateDir,
    file: &str,
    kind: &str,
    serial: u64,
    secret: &[u8; 32],
) -> Result<(), ApiError> {
    let line = Zeroizing::new(format!(
        "kanpachi-key-v1 {kind} {serial} {}\n",
        HEXLOWER.encode(secret)
    ));
    dir.write(file, line.as_bytes())
}
