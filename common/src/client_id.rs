//! Client ids: nine decimal digits that people read to each other, `090-736-821`, as Hamachi has them.
//!
//! Short enough to say, far too short to trust: nothing is ever authenticated by one. Every node has the id that
//! follows from its key, unless that was taken in its organisation when it came: then the coordinator gave it the next
//! one, and its roster entries say so in extension [`EXT`].

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    cbor::Ext,
    id::{Hash, NodeId},
};

/// Number of the extension of a private member entry that carries a client id: 4 bytes, big endian. Absent when the id
/// is the one that follows from the key. Not critical.
pub const EXT: u16 = 1;
/// How many there are.
const COUNT: u64 = 1_000_000_000;

/// A number of nine digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientId(u32);

impl ClientId {
    /// The id that follows from a key, or after `tries` collisions the next one:
    /// `SHA-256("kanpachi/client-id/v1" ‖ 0x00 ‖ node id ‖ tries (4, big endian))`, its first 8 bytes (big endian)
    /// modulo 10⁹.
    #[must_use]
    pub fn of(node: &NodeId, tries: u32) -> Self {
        let hash = Hash::of(&[b"kanpachi/client-id/v1\0", &node.0, &tries.to_be_bytes()]);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.0[..8]);
        // Below 10⁹ it fits.
        Self(u32::try_from(u64::from_be_bytes(first) % COUNT).unwrap_or_default())
    }

    /// The number, if it has at most nine digits.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if (number as u64) < COUNT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// As an extension of a member entry.
    #[must_use]
    pub fn to_ext(self) -> Ext {
        Ext {
            id: EXT,
            critical: false,
            data: self.0.to_be_bytes().to_vec(),
        }
    }

    /// The id of a node with these extensions in its entry. What makes no sense there is passed over: ids are for the
    /// eye.
    #[must_use]
    pub fn in_entry(node: &NodeId, ext: &[Ext]) -> Self {
        let settled = ext.iter().find(|e| e.id == EXT).and_then(|e| {
            let bytes = <[u8; 4]>::try_from(e.data.as_slice()).ok()?;
            Self::new(u32::from_be_bytes(bytes))
        });
        settled.unwrap_or_else(|| Self::of(node, 0))
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (high, low) = (self.0 / 1_000_000, self.0 % 1_000_000);
        write!(f, "{high:03}-{:03}-{:03}", low / 1000, low % 1000)
    }
}

/// The text is no client id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client id has nine digits: 090-736-821")]
pub struct NotAClientId;

impl FromStr for ClientId {
    type Err = NotAClientId;

    /// With or without hyphens.
    fn from_str(text: &str) -> Result<Self, NotAClientId> {
        let plain = match text.as_bytes() {
            [_, _, _, b'-', _, _, _, b'-', _, _, _] => text.replacen('-', "", 2),
            _ => text.to_owned(),
        };
        if plain.len() != 9 || !plain.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NotAClientId);
        }
        plain.parse().map(Self).map_err(|_| NotAClientId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_shown_and_read_as_three_times_three_digits() {
        let id = ClientId::new(90_736_821).unwrap();
        assert_eq!(id.to_string(), "090-736-821");
        assert_eq!("090-736-821".parse(), Ok(id));
        assert_eq!("090736821".parse(), Ok(id));
        for bad in [
            "",
            "90736821",
            "0907368210",
            "09-0736-821",
            "+90736821",
            "٠٩٠٧٣٦٨٢١",
        ] {
            assert_eq!(bad.parse::<ClientId>(), Err(NotAClientId), "{bad}");
        }
        assert_eq!(ClientId::new(1_000_000_000), None);
    }

    #[test]
    fn an_entry_says_only_what_does_not_follow_from_the_key() {
        let node = NodeId([7; 32]);
        let (own, settled) = (ClientId::of(&node, 0), ClientId::of(&node, 1));
        assert_ne!(own, settled);
        assert_eq!(ClientId::in_entry(&node, &[]), own);
        assert_eq!(ClientId::in_entry(&node, &[settled.to_ext()]), settled);
        for data in [vec![], vec![0xff; 4], vec![0; 5]] {
            let odd = Ext {
                id: EXT,
                critical: false,
                data,
            };
            assert_eq!(ClientId::in_entry(&node, &[odd]), own);
        }
    }
}
