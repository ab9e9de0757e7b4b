//! Settings of a network: leaf 0 of its roster.

use serde::{Deserialize, Serialize};

use crate::{
    cbor::{self, DecodeError, Ext, check_ext},
    id::Hash,
    merkle, name,
};

/// Which pairs of members talk to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkType {
    /// Everybody with everybody.
    #[default]
    Mesh,
    /// Spokes with hubs only.
    HubAndSpoke,
    /// Members with the gateway only.
    Gateway,
}

/// What holds for all members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Name of the network.
    pub name: String,
    /// Who talks to whom.
    pub kind: NetworkType,
    /// Access rules; their format comes with the part that enforces them, empty until then.
    #[serde(with = "serde_bytes")]
    pub rules: Vec<u8>,
    /// Later additions. An unknown critical one means: refuse the network with a clear message.
    #[serde(default)]
    pub ext: Vec<Ext>,
}

impl Settings {
    /// Longest encoding in bytes.
    pub const MAX_LEN: usize = 64 * 1024;

    /// Reads settings from a roster.
    ///
    /// # Errors
    /// [`DecodeError`]; in particular when this version does not know how to enforce what they ask for.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let settings: Self = cbor::decode(bytes, Self::MAX_LEN)?;
        if name::check(&settings.name).as_ref() != Ok(&settings.name) {
            return Err(DecodeError::Invalid("a network with an impossible name"));
        }
        check_ext(&settings.ext)?;
        if !settings.rules.is_empty() {
            return Err(DecodeError::Invalid(
                "the network has access rules, which this version cannot enforce: update Kanpachi",
            ));
        }
        Ok(settings)
    }

    /// The leaf: `SHA-256(0x00 ‖ "kanpachi/settings/v1" ‖ 0x00 ‖ bytes)`.
    #[must_use]
    pub fn leaf(bytes: &[u8]) -> Hash {
        merkle::leaf(&[b"kanpachi/settings/v1\0", bytes])
    }
}
