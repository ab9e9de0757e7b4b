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

/// Number of the extension of settings that says who may join: one byte, bit 0 [`Access::locked`], bit 1
/// [`Access::approval`]. Not critical: the coordinator enforces it, members show it. Absent when no bit is set.
pub const ACCESS_EXT: u16 = 2;

/// Who may join a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Nobody new.
    pub locked: bool,
    /// Whom an owner approves.
    pub approval: bool,
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

    /// Who may join. Bits of later versions are passed over.
    #[must_use]
    pub fn access(&self) -> Access {
        let bits = self.ext.iter().find(|e| e.id == ACCESS_EXT);
        let bits = bits.and_then(|e| e.data.first()).copied().unwrap_or(0);
        Access {
            locked: bits & 1 != 0,
            approval: bits & 2 != 0,
        }
    }

    /// Says who may join.
    pub fn set_access(&mut self, access: Access) {
        self.ext.retain(|e| e.id != ACCESS_EXT);
        let bits = u8::from(access.locked) | u8::from(access.approval) << 1;
        if bits != 0 {
            self.ext.push(Ext {
                id: ACCESS_EXT,
                critical: false,
                data: vec![bits],
            });
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_join_is_read_back_and_open_networks_say_nothing() {
        let mut settings = Settings {
            name: "lan".into(),
            kind: NetworkType::Mesh,
            rules: vec![],
            ext: vec![],
        };
        for (locked, approval) in [(true, false), (true, true), (false, true), (false, false)] {
            let access = Access { locked, approval };
            settings.set_access(access);
            let read = Settings::decode(&cbor::encode(&settings)).unwrap();
            assert_eq!(read.access(), access);
        }
        assert_eq!(settings.ext, []);
    }
}
