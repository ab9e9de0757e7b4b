//! Whole rosters, their pages, and changes to them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    entry::{self, Entry, EntryError, Member, Public},
    head::{Head, Position},
    settings::Settings,
};
use crate::{
    cbor::DecodeError,
    id::{Hash, MemberId, NetworkId, NodeId},
    merkle,
    signed::{Signed, Verified},
};

/// Members of one network at the most.
pub const MAX_MEMBERS: usize = 4096;

/// Why a roster is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RosterError {
    /// The entries do not hash to what the head says.
    #[error("the members do not match the signed head")]
    RootMismatch,
    /// Entries out of order or twice, too many, too long.
    #[error("the list of members is malformed")]
    Malformed,
    /// The change starts from another roster than the one held.
    #[error("the change does not start from the roster held here")]
    WrongBase,
    /// Not readable.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Everything a head commits to, in the bytes that were hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// CBOR of [`Settings`].
    #[serde(with = "serde_bytes")]
    pub settings: Vec<u8>,
    /// Entries in member id order.
    pub entries: Vec<Entry>,
}

impl Roster {
    /// The Merkle leaves, settings first.
    #[must_use]
    pub fn leaves(&self) -> Vec<Hash> {
        let mut leaves = Vec::with_capacity(self.entries.len() + 1);
        leaves.push(Settings::leaf(&self.settings));
        leaves.extend(self.entries.iter().map(Entry::leaf));
        leaves
    }

    /// The Merkle root.
    #[must_use]
    pub fn root(&self) -> Hash {
        merkle::root(&self.leaves())
    }

    /// Checks the roster against a verified head: limits, order, root, and that the settings can be enforced.
    ///
    /// # Errors
    /// [`RosterError`]
    pub fn verify(self, head: Verified<Head>) -> Result<VerifiedRoster, RosterError> {
        if self.entries.len() > MAX_MEMBERS
            || self.settings.len() > Settings::MAX_LEN
            || !self.entries.iter().all(Entry::within_limits)
        {
            return Err(RosterError::Malformed);
        }
        if head.size != self.entries.len() as u64 + 1 || head.root != self.root() {
            return Err(RosterError::RootMismatch);
        }
        let settings = Settings::decode(&self.settings)?;
        let mut last: Option<MemberId> = None;
        let mut members = BTreeMap::new();
        let mut unusable = Vec::new();
        for entry in &self.entries {
            let public = Public::decode(&entry.public)?;
            if last.is_some_and(|last| last >= public.member) {
                return Err(RosterError::Malformed);
            }
            last = Some(public.member);
            // One bad entry must not take the network from everybody else: it is kept, and not acted on.
            match entry.open(&head.org) {
                Ok(member) => drop(members.insert(member.node, member)),
                Err(error) => unusable.push((public.node, error)),
            }
        }
        Ok(VerifiedRoster {
            head,
            settings,
            members,
            unusable,
            body: self,
        })
    }
}

/// A roster that matches its signed head.
#[derive(Clone, Debug)]
pub struct VerifiedRoster {
    head: Verified<Head>,
    settings: Settings,
    members: BTreeMap<NodeId, Member>,
    unusable: Vec<(NodeId, EntryError)>,
    body: Roster,
}

impl VerifiedRoster {
    /// The head.
    #[must_use]
    pub const fn head(&self) -> &Verified<Head> {
        &self.head
    }

    /// The settings.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All usable members, in node id order.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The member that a node is.
    #[must_use]
    pub fn member(&self, node: &NodeId) -> Option<&Member> {
        self.members.get(node)
    }

    /// Entries that are signed and still not acted on, with the reason.
    #[must_use]
    pub fn unusable(&self) -> &[(NodeId, EntryError)] {
        &self.unusable
    }

    /// The bytes, to store or to pass on.
    #[must_use]
    pub const fn body(&self) -> &Roster {
        &self.body
    }

    /// Applies a change and checks the result against the change's head, verified by the caller.
    ///
    /// # Errors
    /// [`RosterError`]; this roster is as it was.
    pub fn apply(&self, delta: Delta, head: Verified<Head>) -> Result<Self, RosterError> {
        if delta.base != self.head.position() || delta.base_root != self.head.root {
            return Err(RosterError::WrongBase);
        }
        let mut entries = BTreeMap::new();
        for entry in self.body.entries.iter().cloned().chain(delta.upserts) {
            let public = Public::decode(&entry.public)?;
            entries.insert(public.member, entry);
        }
        for member in &delta.removed {
            entries.remove(member);
        }
        let settings = delta.settings.map_or_else(
            || self.body.settings.clone(),
            serde_bytes::ByteBuf::into_vec,
        );
        Roster {
            settings,
            entries: entries.into_values().collect(),
        }
        .verify(head)
    }

    /// What halves of this roster everybody may see.
    #[must_use]
    pub fn public(&self) -> PublicRoster {
        PublicRoster {
            head: self.head.signed().clone(),
            settings: Settings::leaf(&self.body.settings),
            entries: self
                .body
                .entries
                .iter()
                .map(|e| {
                    (
                        serde_bytes::ByteBuf::from(e.public.clone()),
                        e.private_hash(),
                    )
                })
                .collect(),
        }
    }
}

/// A change from one epoch to a later one. Not signed itself: the head that it leads to is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The network.
    pub network: NetworkId,
    /// Where it starts.
    pub base: Position,
    /// Root of the roster where it starts.
    pub base_root: Hash,
    /// Where it leads.
    pub head: Signed<Head>,
    /// New settings, if they changed.
    pub settings: Option<serde_bytes::ByteBuf>,
    /// New and changed entries.
    pub upserts: Vec<Entry>,
    /// Entries that are gone.
    pub removed: Vec<MemberId>,
}

/// A part of a whole roster, for rosters that do not fit one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The network.
    pub network: NetworkId,
    /// The head of the whole.
    pub head: Signed<Head>,
    /// This page, counted from 0.
    pub index: u16,
    /// How many there are.
    pub count: u16,
    /// Settings, on page 0.
    pub settings: Option<serde_bytes::ByteBuf>,
    /// Entries, in order over all pages.
    pub entries: Vec<Entry>,
}

impl Page {
    /// Aim for the size of a page, in bytes of entries.
    pub const TARGET: usize = 192 * 1024;
    /// Pages of one roster at the most: 4,096 members of the largest size, with room.
    pub const MAX_PAGES: u16 = 128;

    /// Cuts a roster into pages.
    #[must_use]
    pub fn split(network: NetworkId, head: &Signed<Head>, roster: &Roster) -> Vec<Self> {
        Self::split_at(network, head, roster, Self::TARGET)
    }

    /// Cuts a roster into pages of about so many bytes of entries.
    #[must_use]
    pub fn split_at(
        network: NetworkId,
        head: &Signed<Head>,
        roster: &Roster,
        target: usize,
    ) -> Vec<Self> {
        let mut chunks: Vec<Vec<Entry>> = vec![Vec::new()];
        let mut size = roster.settings.len();
        for entry in &roster.entries {
            let len = entry.public.len() + entry.private.len() + 64;
            if size + len > target && size > 0 {
                chunks.push(Vec::new());
                size = 0;
            }
            size += len;
            if let Some(chunk) = chunks.last_mut() {
                chunk.push(entry.clone());
            }
        }
        let count = u16::try_from(chunks.len()).unwrap_or(u16::MAX);
        let page = |(index, entries): (u16, Vec<Entry>)| Self {
            network,
            head: head.clone(),
            index,
            count,
            settings: (index == 0).then(|| roster.settings.clone().into()),
            entries,
        };
        (0..count).zip(chunks).map(page).collect()
    }

    /// Puts pages together again. They must be all of one roster, in order.
    ///
    /// # Errors
    /// [`RosterError::Malformed`]
    pub fn join(pages: Vec<Self>) -> Result<(Signed<Head>, Roster), RosterError> {
        let first = pages.first().ok_or(RosterError::Malformed)?;
        let (head, count) = (first.head.clone(), first.count);
        let settings = first
            .settings
            .clone()
            .ok_or(RosterError::Malformed)?
            .into_vec();
        if usize::from(count) != pages.len() || count > Self::MAX_PAGES {
            return Err(RosterError::Malformed);
        }
        let mut entries = Vec::new();
        for (index, page) in (0..count).zip(pages) {
            if page.index != index || page.count != count || page.head != head {
                return Err(RosterError::Malformed);
            }
            entries.extend(page.entries);
            if entries.len() > MAX_MEMBERS {
                return Err(RosterError::Malformed);
            }
        }
        Ok((head, Roster { settings, entries }))
    }
}

/// Head and public halves: what bootstraps and relays mirror and judge by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicRoster {
    /// The head.
    pub head: Signed<Head>,
    /// Leaf of the settings.
    pub settings: Hash,
    /// Public half and hash of the private half, in member id order.
    pub entries: Vec<(serde_bytes::ByteBuf, Hash)>,
}

impl PublicRoster {
    /// Longest encoding in bytes: 4,096 members.
    pub const MAX_LEN: usize = 2 * 1024 * 1024;

    /// Checks the halves against a verified head and returns who is a member.
    ///
    /// # Errors
    /// [`RosterError`]
    pub fn verify(&self, head: &Verified<Head>) -> Result<Vec<Public>, RosterError> {
        if self.entries.len() > MAX_MEMBERS
            || self
                .entries
                .iter()
                .any(|(public, _)| public.len() > Public::MAX_LEN)
        {
            return Err(RosterError::Malformed);
        }
        let mut leaves = vec![self.settings];
        leaves.extend(
            self.entries
                .iter()
                .map(|(public, hash)| entry::leaf(public, hash)),
        );
        if head.size != leaves.len() as u64 || head.root != merkle::root(&leaves) {
            return Err(RosterError::RootMismatch);
        }
        Ok(self
            .entries
            .iter()
            .map(|(public, _)| Public::decode(public))
            .collect::<Result<_, _>>()?)
    }
}
