//! What this node knows of its organisation: keys, servers, and one roster per network.
//!
//! Everything signed comes in through a `check_*` method that changes nothing and returns an [`Update`]; the
//! shell writes the update to disk, and only then gives it to [`Rosters::commit`]. So what is acted on is always
//! on disk, and a crash between the two loses nothing but time.

mod check;
mod conflicts;
mod pages;
mod peers;
mod show;
mod suspends;
mod update;

use std::collections::{BTreeMap, BTreeSet};

use kanpachi_common::{
    Hash, NetworkId, NodeId, OrgId, Signed, UnixTime, Verified,
    org::{Directory, Manifest},
    roster::{Freshness, Head, Position, Roster, Suspend, VerifiedRoster},
    secret::NetworkSecret,
    wire::control::Held,
};

pub use check::Refusal;
pub use conflicts::Conflict;
pub use peers::{Peer, PeerNetwork};
pub use suspends::{Bearer, stands};
pub use update::Update;

use pages::Partials;

/// The state of one network.
#[derive(Debug, Default)]
struct Slot {
    /// The highest head seen, with its root: nothing lower is ever believed again.
    seen: Option<(Position, Hash)>,
    /// The newest roster that is here in full.
    held: Option<VerifiedRoster>,
    /// Two roots were signed for one epoch: nobody new is let in until a new generation.
    equivocation: bool,
    /// Current and previous secret.
    secrets: Vec<NetworkSecret>,
    /// Members that an owner put out while no coordinator could; each once.
    suspends: Vec<Verified<Suspend>>,
    /// Newcomers let in on their own proof, under a head whose roster is not here yet.
    bearers: BTreeMap<NodeId, Bearer>,
}

impl Slot {
    /// A head is believed. A new generation leaves behind what was signed twice in the one before.
    fn see(&mut self, position: Position, root: Hash) {
        if let Some((seen, _)) = self.seen
            && seen.generation < position.generation
        {
            self.equivocation = false;
        }
        self.seen = self.seen.max(Some((position, root)));
    }
}

/// Counts of what was refused, by name as in the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Older than what was seen.
    pub roster_stale: u64,
    /// Signature, signer or encoding wrong.
    pub roster_bad_signature: u64,
    /// Body and head do not fit.
    pub roster_mismatch: u64,
    /// Same epoch, other root.
    pub roster_equivocation: u64,
    /// A proof that was not its bearer's, or not under a trusted head.
    pub proof_refused: u64,
    /// A suspension by somebody who is no owner.
    pub suspend_refused: u64,
}

/// Keys, servers and rosters of one organisation, as one node holds them.
#[derive(Debug)]
pub struct Rosters {
    org: OrgId,
    me: NodeId,
    manifest: Option<Verified<Manifest>>,
    directory: Option<Verified<Directory>>,
    networks: BTreeMap<NetworkId, Slot>,
    floors: BTreeMap<NetworkId, Position>,
    serials: BTreeMap<NodeId, u64>,
    partial: Partials,
    /// Networks that this node is not there in, because somebody said so.
    offline: BTreeSet<NetworkId>,
    newest_issued: UnixTime,
    counters: Counters,
}

/// What was on disk.
#[derive(Debug, Default)]
pub struct Stored {
    /// Keys.
    pub manifest: Option<Signed<Manifest>>,
    /// Servers.
    pub directory: Option<Signed<Directory>>,
    /// Highest heads seen.
    pub seen: Vec<(NetworkId, Position, Hash)>,
    /// Rosters held, each with the manifest that its head is under.
    pub held: Vec<(Signed<Manifest>, Signed<Head>, Roster)>,
    /// Floors that invites set.
    pub floors: Vec<(NetworkId, Position)>,
    /// Highest serial of each node's tunnel key.
    pub serials: Vec<(NodeId, u64)>,
    /// Secrets of networks, newest first.
    pub secrets: Vec<(NetworkId, NetworkSecret)>,
    /// Where two roots were signed for one epoch.
    pub equivocations: Vec<(NetworkId, Position)>,
    /// Networks that this node is not there in.
    pub offline: Vec<NetworkId>,
    /// Suspensions that stood.
    pub suspends: Vec<Signed<Suspend>>,
}

impl Rosters {
    /// Nothing known yet but whom to believe.
    #[must_use]
    pub fn new(org: OrgId, me: NodeId) -> Self {
        Self {
            org,
            me,
            manifest: None,
            directory: None,
            networks: BTreeMap::new(),
            floors: BTreeMap::new(),
            serials: BTreeMap::new(),
            partial: Partials::default(),
            offline: BTreeSet::new(),
            newest_issued: UnixTime(0),
            counters: Counters::default(),
        }
    }

    /// Takes up what was on disk, and verifies all of it again: a disk can lie too.
    ///
    /// # Errors
    /// The first thing that does not verify. The caller says so and stops; it does not go on with half of it.
    pub fn load(org: OrgId, me: NodeId, stored: Stored) -> Result<Self, Refusal> {
        let mut this = Self::new(org, me);
        this.floors = stored.floors.into_iter().collect();
        this.serials = stored.serials.into_iter().collect();
        this.offline = stored.offline.into_iter().collect();
        if let Some(manifest) = &stored.manifest {
            let update = this.check_manifest(manifest)?;
            this.commit(update);
        }
        if let Some(directory) = &stored.directory
            && let Some(update) = this.check_directory(directory)?
        {
            this.commit(update);
        }
        // Each under the keys that it came with: a newer manifest freezes the rosters of the old generation, it does
        // not make them vanish at the next start.
        for (manifest, head, roster) in stored.held {
            let manifest = Manifest::verify(&manifest, &org)?;
            let head = Head::verify(&head, &manifest)?;
            this.commit(Update::Roster(Box::new(roster.verify(head)?)));
        }
        for (network, position, root) in stored.seen {
            let slot = this.networks.entry(network).or_default();
            slot.seen = slot.seen.max(Some((position, root)));
        }
        for (network, position) in stored.equivocations {
            // Only a new generation leaves an equivocation behind; a restart does not.
            let slot = this.networks.entry(network).or_default();
            let left = |(seen, _): (Position, Hash)| seen.generation > position.generation;
            slot.equivocation |= !slot.seen.is_some_and(left);
        }
        for (network, secret) in stored.secrets {
            this.networks
                .entry(network)
                .or_default()
                .secrets
                .push(secret);
        }
        for suspend in stored.suspends {
            // One that no longer stands is a leftover, not damage.
            if let Ok(Some(update)) = this.check_suspend(&suspend) {
                this.commit(update);
            }
        }
        this.counters = Counters::default();
        Ok(this)
    }

    /// The organisation.
    #[must_use]
    pub const fn org(&self) -> OrgId {
        self.org
    }

    /// This node.
    #[must_use]
    pub const fn me(&self) -> NodeId {
        self.me
    }

    /// The secrets of a network that are here, newest first.
    pub fn secrets(&self, network: &NetworkId) -> impl Iterator<Item = &NetworkSecret> {
        let slot = self.networks.get(network);
        slot.into_iter().flat_map(|slot| &slot.secrets)
    }

    /// Keys that count.
    #[must_use]
    pub const fn manifest(&self) -> Option<&Verified<Manifest>> {
        self.manifest.as_ref()
    }

    /// Servers.
    #[must_use]
    pub const fn directory(&self) -> Option<&Verified<Directory>> {
        self.directory.as_ref()
    }

    /// What was refused so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Nothing below `floor` will be believed of this network: an invite said so.
    pub fn set_floor(&mut self, network: NetworkId, floor: Position) {
        let entry = self.floors.entry(network).or_insert(floor);
        *entry = (*entry).max(floor);
    }

    /// Says whether this node is there in a network: one that it is not there in authorises nobody. Computed into
    /// [`Rosters::peers`] from the next call on.
    pub fn set_online(&mut self, network: NetworkId, online: bool) {
        if online {
            self.offline.remove(&network);
        } else {
            self.offline.insert(network);
        }
    }

    /// Is this node there in a network?
    #[must_use]
    pub fn is_online(&self, network: &NetworkId) -> bool {
        !self.offline.contains(network)
    }

    /// The networks held that this node is not there in.
    pub fn offline(&self) -> impl Iterator<Item = NetworkId> {
        let held = self.rosters().map(|r| r.head().network);
        held.filter(|network| !self.is_online(network))
    }

    /// Takes up an update that is on disk.
    pub fn commit(&mut self, update: Update) {
        match update {
            Update::Manifest(manifest) => {
                self.newest_issued = self.newest_issued.max(manifest.issued_at);
                self.manifest = Some(*manifest);
            }
            Update::Directory(directory) => {
                self.newest_issued = self.newest_issued.max(directory.issued_at);
                self.directory = Some(*directory);
            }
            Update::Roster(roster) => self.commit_roster(*roster),
            Update::Equivocation { network, .. } => {
                self.counters.roster_equivocation += 1;
                self.networks.entry(network).or_default().equivocation = true;
            }
            Update::Secret { network, secret } => {
                let slot = self.networks.entry(network).or_default();
                slot.secrets.retain(|s| s.id != secret.id);
                slot.secrets.insert(0, secret);
                slot.secrets.truncate(2);
            }
            Update::Suspend(suspend) => {
                let slot = self.networks.entry(suspend.network).or_default();
                if !slot.is_suspended(&suspend.member) {
                    slot.suspends.push(*suspend);
                }
            }
            Update::Seen {
                network,
                position,
                root,
                bearer,
            } => {
                let slot = self.networks.entry(network).or_default();
                slot.see(position, root);
                if let Some(bearer) = bearer {
                    slot.admit(*bearer);
                }
            }
            Update::Removed(network) => {
                // What was seen stays: a roster that let us in once is not believed again later.
                let slot = self.networks.entry(network).or_default();
                slot.held = None;
                slot.secrets.clear();
                slot.settle_suspends();
                self.partial.drop_network(&network);
                // Whoever joins it again wants to be there.
                self.offline.remove(&network);
            }
        }
    }

    fn commit_roster(&mut self, roster: VerifiedRoster) {
        let head = roster.head();
        let (network, position, root) = (head.network, head.position(), head.root);
        self.newest_issued = self.newest_issued.max(head.issued_at);
        for member in roster.members() {
            let serial = self.serials.entry(member.node).or_default();
            *serial = (*serial).max(member.tunnel.serial);
        }
        let slot = self.networks.entry(network).or_default();
        slot.see(position, root);
        slot.held = Some(roster);
        slot.settle_suspends();
        self.partial.settle(&network, position);
    }

    /// The rosters held here, for the hello and for pulls.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        self.rosters()
            .map(|r| Held {
                network: r.head().network,
                position: r.head().position(),
                root: r.head().root,
            })
            .collect()
    }

    /// All rosters held here.
    pub fn rosters(&self) -> impl Iterator<Item = &VerifiedRoster> {
        self.networks.values().filter_map(|slot| slot.held.as_ref())
    }

    /// The roster held of a network.
    #[must_use]
    pub fn roster(&self, network: &NetworkId) -> Option<&VerifiedRoster> {
        self.networks.get(network)?.held.as_ref()
    }

    /// Were two roots signed for one epoch of this network?
    #[must_use]
    pub fn is_equivocal(&self, network: &NetworkId) -> bool {
        self.networks
            .get(network)
            .is_some_and(|slot| slot.equivocation)
    }

    /// The wall clock to judge expiry by: never earlier than the newest time that was signed.
    #[must_use]
    pub fn wall(&self, clock: UnixTime) -> UnixTime {
        clock.max(self.newest_issued)
    }

    /// How old the roster of a network is.
    #[must_use]
    pub fn freshness(&self, network: &NetworkId, clock: UnixTime) -> Option<Freshness> {
        Some(self.roster(network)?.head().freshness(self.wall(clock)))
    }
}

#[cfg(test)]
pub(crate) mod tests;
