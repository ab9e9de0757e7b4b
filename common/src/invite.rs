//! Invites: all that a new machine needs, in one link.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    cbor,
    id::{Hash, NetworkId, OrgId},
    org::Address,
    roster::Position,
};

/// Longest link in bytes.
pub const MAX_LINK: usize = 4096;
/// Addresses in an invite at the most.
pub const MAX_INVITE_ADDRESSES: usize = 8;
/// What every link starts with. The path names the network for the eye only; everything that counts, the secret
/// too, stands in the fragment, which no server is ever sent.
pub const SCHEME: &str = "kanpachi://join/";
const VERSION: u8 = 1;

/// The 16 random bytes of an invite. Never printed, wiped on drop.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct InviteSecret(#[serde(with = "serde_bytes")] pub [u8; 16]);

impl fmt::Debug for InviteSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteSecret(…)")
    }
}

impl InviteSecret {
    /// What the joining node shows to the coordinator: HKDF-SHA-256 of the secret, without salt, with info
    /// `"kanpachi/invite/token/v1"`. Other infos stay free for what the coordinator must not know.
    #[must_use]
    pub fn token(&self) -> [u8; 32] {
        let mut out = [0; 32];
        Hkdf::<Sha256>::new(None, &self.0)
            .expand(b"kanpachi/invite/token/v1", &mut out)
            .expect("32 bytes are within HKDF's reach");
        out
    }
}

/// What the coordinator stores of an invite: `SHA-256("kanpachi/invite/hash/v1" ‖ 0x00 ‖ token)`.
#[must_use]
pub fn token_hash(token: &[u8; 32]) -> Hash {
    Hash::of(&[b"kanpachi/invite/hash/v1\0", token])
}

/// An invite: which organisation, where to find it, and the right to join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// The organisation. Trust is pinned here, before first contact.
    #[serde(rename = "o")]
    pub org: OrgId,
    /// The network.
    #[serde(rename = "n")]
    pub network: NetworkId,
    /// Nothing older than this is believed.
    #[serde(rename = "f")]
    pub floor: Position,
    /// The right to join.
    #[serde(rename = "s")]
    pub secret: InviteSecret,
    /// Where the coordinators listen.
    #[serde(rename = "a")]
    pub addresses: Vec<Address>,
    /// Name of the network, for the eye.
    #[serde(skip)]
    pub name: String,
}

/// Why a text is no invite. Each is one clear sentence.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InviteError {
    /// Something else altogether.
    #[error("this is not a Kanpachi invite; one begins with {SCHEME}")]
    NotAnInvite,
    /// Cut off or mistyped.
    #[error("the invite is incomplete or was changed on the way; copy the whole line")]
    Damaged,
    /// From a newer program.
    #[error("the invite is of version {0}, this program knows version {VERSION}: update Kanpachi")]
    Version(u8),
}

impl Invite {
    /// The link. Fragment: base64url (RFC 4648, no padding) of `version (1) ‖ CBOR ‖ first 4 bytes of SHA-256(all before)`.
    #[must_use]
    pub fn to_link(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&cbor::encode(self));
        let sum = Hash::of(&[&bytes]);
        bytes.extend_from_slice(&sum.0[..4]);
        // A script of any kind may be in the name; in a link only the plain part of it is shown.
        let name: String = self
            .name
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .collect();
        format!("{SCHEME}{name}#{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// Reads a link, or its fragment alone.
    ///
    /// # Errors
    /// [`InviteError`]
    pub fn parse(text: &str) -> Result<Self, InviteError> {
        let text = text.trim();
        if text.len() > MAX_LINK || text.is_empty() {
            return Err(InviteError::NotAnInvite);
        }
        let (name, fragment) = match text.strip_prefix(SCHEME) {
            Some(rest) => rest.split_once('#').ok_or(InviteError::Damaged)?,
            None => ("", text),
        };
        let linked = text.starts_with(SCHEME);
        let wrong = if linked {
            InviteError::Damaged
        } else {
            InviteError::NotAnInvite
        };
        let bytes = BASE64URL_NOPAD
            .decode(fragment.as_bytes())
            .map_err(|_| wrong.clone())?;
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(wrong.clone())?;
        if Hash::of(&[body]).0[..4] != sum[..] {
            return Err(wrong);
        }
        let (version, body) = body.split_first().ok_or(wrong)?;
        if *version != VERSION {
            return Err(InviteError::Version(*version));
        }
        let mut invite: Self = cbor::decode(body, MAX_LINK).map_err(|_| InviteError::Damaged)?;
        if invite.addresses.len() > MAX_INVITE_ADDRESSES
            || invite.addresses.iter().any(|a| a.check().is_err())
        {
            return Err(InviteError::Damaged);
        }
        invite.name = crate::name::check(name).unwrap_or_default();
        Ok(invite)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn invite() -> Invite {
        Invite {
            org: OrgId([1; 32]),
            network: NetworkId([2; 32]),
            floor: Position {
                generation: 1,
                epoch: 7,
            },
            secret: InviteSecret([3; 16]),
            addresses: vec![
                Address::new("203.0.113.7", 12975),
                Address::new("2001:db8::7", 12975),
            ],
            name: "lan".into(),
        }
    }

    #[test]
    fn a_link_reads_back_and_the_secret_is_behind_the_hash_sign() {
        let link = invite().to_link();
        assert_eq!(Invite::parse(&link), Ok(invite()));
        assert_eq!(Invite::parse(&format!("  {link}\n")), Ok(invite()));
        let (before, fragment) = link.split_once('#').unwrap();
        assert_eq!(before, "kanpachi://join/lan");
        assert_eq!(Invite::parse(fragment).unwrap().org, invite().org);
        assert!(!format!("{:?}", invite()).contains("[3, 3"));
    }

    #[test]
    fn every_cut_and_every_changed_character_is_noticed() {
        let link = invite().to_link();
        for end in 0..link.len() {
            assert!(Invite::parse(&link[..end]).is_err(), "{end}");
        }
        let at = link.find('#').unwrap() + 1;
        for i in at..link.len() {
            let mut changed = link.clone().into_bytes();
            changed[i] = if changed[i] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            if changed != link {
                assert!(Invite::parse(&changed).is_err(), "{i}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_error_not_a_panic(text in ".{0,200}") {
            let _ = Invite::parse(&text);
            let _ = Invite::parse(&format!("{SCHEME}x#{text}"));
        }
    }
}
