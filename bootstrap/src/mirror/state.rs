//! What a mirror holds and what it accepts. No files, no streams, no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kanpachi_common::{
    NetworkId, NodeId, OrgId, Signed, UnixTime, Verified,
    org::{Directory, Manifest},
    roster::{Head, PublicRoster},
    wire::mirror::{MirrorReply, Mirrored},
};

/// What is mirrored at the most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Networks with members. Only the organisation's own keys can make one.
    pub(super) networks: usize,
    /// Networks without: those that ended, as a rule. No more than a head is kept of each.
    pub(super) ended: usize,
}

const LIMITS: Limits = Limits {
    networks: 256,
    ended: 1024,
};

/// One organisation's newest keys, servers and rosters. Cheap to clone: contents are shared.
#[derive(Clone, Debug)]
pub(super) struct State {
    org: OrgId,
    keys: Option<Arc<Keys>>,
    networks: BTreeMap<NetworkId, Arc<Network>>,
    limits: Limits,
    /// The newest head of a network without members that was let go of for want of room. What is as old and of a network
    /// that is not known may be of one that ended: it is not taken in, and proves nothing.
    forgotten_until: UnixTime,
}

/// Manifest and directory of the newest generation.
#[derive(Debug)]
struct Keys {
    manifest: Verified<Manifest>,
    directory: Verified<Directory>,
}

/// A network's roster, with the manifest that vouches for its head.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) manifest: Signed<Manifest>,
    head: Verified<Head>,
    pub(super) roster: PublicRoster,
    members: BTreeSet<NodeId>,
}

/// What became of a `put`.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) reply: MirrorReply,
    /// There is something new to keep.
    pub(super) changed: bool,
    /// Somebody's keys say two things at once; for the log.
    pub(super) alarm: Option<String>,
}

/// Ends a `put` early.
enum Stop {
    Refused(String),
    Alarm(String),
    Older,
}

impl State {
    pub(super) fn new(org: OrgId) -> Self {
        Self::with_limits(org, LIMITS)
    }

    pub(super) fn with_limits(org: OrgId, limits: Limits) -> Self {
        Self {
            org,
            keys: None,
            networks: BTreeMap::new(),
            limits,
            forgotten_until: UnixTime(0),
        }
    }

    pub(super) fn forgotten_until(&self) -> UnixTime {
        self.forgotten_until
    }

    /// For the file.
    pub(super) fn forget_until(&mut self, time: UnixTime) {
        self.forgotten_until = time;
    }

    pub(super) fn org(&self) -> &OrgId {
        &self.org
    }

    pub(super) fn servers(&self) -> Option<&Directory> {
        self.keys.as_ref().map(|keys| &*keys.directory)
    }

    /// Everything, for the file: keys and servers, then each network.
    pub(super) fn contents(
        &self,
    ) -> Option<(
        &Signed<Manifest>,
        &Signed<Directory>,
        impl Iterator<Item = &Network>,
    )> {
        let keys = self.keys.as_ref()?;
        Some((
            keys.manifest.signed(),
            keys.directory.signed(),
            self.networks.values().map(|network| &**network),
        ))
    }

    pub(super) fn admits(&self, node: &NodeId) -> bool {
        if self.networks.is_empty() {
            return true;
        }
        let mut networks = self.networks.values();
        networks.any(|n| n.members.contains(node)) || self.is_server(node)
    }

    pub(super) fn is_server(&self, node: &NodeId) -> bool {
        self.servers().is_some_and(|directory| {
            let mut all = directory.coordinators.iter().chain(&directory.bootstraps);
            all.any(|server| server.id == *node)
        })
    }

    pub(super) fn manifest(&self) -> Option<&Verified<Manifest>> {
        self.keys.as_ref().map(|keys| &keys.manifest)
    }

    /// The networks whose newest roster names the node.
    pub(super) fn networks_of(&self, node: &NodeId) -> BTreeSet<NetworkId> {
        let naming = self
            .networks
            .iter()
            .filter(|(_, n)| n.members.contains(node));
        naming.map(|(id, _)| *id).collect()
    }

    /// The newest head of a network.
    pub(super) fn head(&self, network: &NetworkId) -> Option<&Verified<Head>> {
        self.networks.get(network).map(|network| &network.head)
    }

    pub(super) fn directory(&self, org: &OrgId) -> MirrorReply {
        match self.mirrored(None).filter(|_| *org == self.org) {
            Some(found) => MirrorReply::Found(Box::new(found)),
            None => MirrorReply::Unknown,
        }
    }

    pub(super) fn get(&self, org: &OrgId, network: &NetworkId) -> MirrorReply {
        let known = *org == self.org && self.networks.contains_key(network);
        match self.mirrored(Some(network)).filter(|_| known) {
            Some(found) => MirrorReply::Found(Box::new(found)),
            None => MirrorReply::Unknown,
        }
    }

    /// Keys and servers, with the roster of a network if its head is of the current generation: under a newer
    /// manifest an older head proves nothing to anybody.
    fn mirrored(&self, network: Option<&NetworkId>) -> Option<Mirrored> {
        let keys = self.keys.as_ref()?;
        let roster = network
            .and_then(|id| self.networks.get(id))
            .filter(|network| network.head.generation == keys.manifest.generation)
            .map(|network| network.roster.clone());
        Some(Mirrored {
            manifest: keys.manifest.signed().clone(),
            directory: keys.directory.signed().clone(),
            roster,
        })
    }

    /// Takes something in. After a refusal nothing has changed.
    pub(super) fn put(&mut self, item: &Mirrored) -> Verdict {
        let mut next = self.clone();
        let (reply, changed, alarm) = match next.try_put(item) {
            Ok(changed) => {
                *self = next;
                (MirrorReply::Kept, changed, None)
            }
            Err(Stop::Refused(why)) => (MirrorReply::Refused(why), false, None),
            Err(Stop::Alarm(why)) => (MirrorReply::Refused(why.clone()), false, Some(why)),
            Err(Stop::Older) => {
                let network = item.roster.as_ref().and_then(network_of);
                let reply = match self.mirrored(network.as_ref()) {
                    Some(held) => MirrorReply::Older(Box::new(held)),
                    None => MirrorReply::Unknown,
                };
                (reply, false, None)
            }
        };
        Verdict {
            reply,
            changed,
            alarm,
        }
    }

    fn try_put(&mut self, item: &Mirrored) -> Result<bool, Stop> {
        let (keys_changed, manifest) = self.take_keys(item)?;
        let Some(roster) = &item.roster else {
            return Ok(keys_changed);
        };
        let roster_changed = self.take_roster(&manifest, roster)?;
        Ok(keys_changed || roster_changed)
    }

    /// Manifest and directory. Returns the manifest that a roster beside them is judged by.
    fn take_keys(&mut self, item: &Mirrored) -> Result<(bool, Verified<Manifest>), Stop> {
        let refused = |what: &str, e: &dyn std::fmt::Display| Stop::Refused(format!("{what}: {e}"));
        let manifest = Manifest::verify(&item.manifest, &self.org)
            .map_err(|e| refused("the manifest is not valid", &e))?;
        let directory = Directory::verify(&item.directory, &manifest)
            .map_err(|e| refused("the directory is not valid", &e))?;
        let newer = match &self.keys {
            None => true,
            Some(held) => {
                if manifest.generation < held.manifest.generation {
                    return Err(Stop::Older);
                }
                if manifest.generation == held.manifest.generation {
                    same_manifest(&manifest, &held.manifest)?;
                    newer_directory(&directory, &held.directory, item.roster.is_none())?
                } else {
                    true
                }
            }
        };
        if newer {
            self.keys = Some(Arc::new(Keys {
                manifest: manifest.clone(),
                directory,
            }));
        }
        Ok((newer, manifest))
    }

    fn take_roster(
        &mut self,
        manifest: &Verified<Manifest>,
        roster: &PublicRoster,
    ) -> Result<bool, Stop> {
        let head = Head::verify(&roster.head, manifest)
            .map_err(|e| Stop::Refused(format!("the head is not valid: {e}")))?;
        let held = self.networks.get(&head.network);
        let newer = match held {
            Some(held) => newer_head(&head, &held.head)?,
            // Let go of before: what is as old is refused without it, so there is nothing to keep.
            None if head.issued_at <= self.forgotten_until && roster.entries.is_empty() => false,
            None if head.issued_at <= self.forgotten_until => {
                return Err(Stop::Refused(
                    "this bootstrap does not know the network, and the roster is too old to be a new one's"
                        .to_owned(),
                ));
            }
            None => true,
        };
        if !newer {
            return Ok(false);
        }
        let has_place = held.is_some_and(|held| !held.members.is_empty());
        let needs_place = !roster.entries.is_empty() && !has_place;
        if needs_place && self.with_members() >= self.limits.networks {
            return Err(Stop::Refused(
                "this bootstrap mirrors as many networks as it can".to_owned(),
            ));
        }
        self.insert(manifest, roster, head)?;
        self.forget_ended();
        Ok(true)
    }

    fn insert(
        &mut self,
        manifest: &Verified<Manifest>,
        roster: &PublicRoster,
        head: Verified<Head>,
    ) -> Result<(), Stop> {
        let members = roster
            .verify(&head)
            .map_err(|e| Stop::Refused(format!("the public halves are not valid: {e}")))?;
        let network = Network {
            manifest: manifest.signed().clone(),
            members: members.into_iter().map(|public| public.node).collect(),
            roster: roster.clone(),
            head,
        };
        self.networks
            .insert(network.head.network, Arc::new(network));
        Ok(())
    }

    fn with_members(&self) -> usize {
        let all = self.networks.values();
        all.filter(|network| !network.members.is_empty()).count()
    }

    /// Lets go of the oldest networks without members when there are too many.
    fn forget_ended(&mut self) {
        let ended = self.networks.len() - self.with_members();
        for _ in self.limits.ended..ended {
            let ended = self.networks.iter().filter(|(_, n)| n.members.is_empty());
            let oldest = ended.min_by_key(|(_, n)| n.head.issued_at);
            let Some((id, at)) = oldest.map(|(id, n)| (*id, n.head.issued_at)) else {
                return;
            };
            self.networks.remove(&id);
            self.forgotten_until = self.forgotten_until.max(at);
        }
    }

    /// Puts back a network from the file, which may be of an older generation than the manifest by now. There is room for all
    /// that was kept before.
    pub(super) fn restore(
        &mut self,
        manifest: &Signed<Manifest>,
        roster: &PublicRoster,
    ) -> Result<(), String> {
        let manifest = Manifest::verify(manifest, &self.org).map_err(|e| e.to_string())?;
        let head = Head::verify(&roster.head, &manifest)
            .map_err(|e| format!("the head is not valid: {e}"))?;
        if self.networks.contains_key(&head.network) {
            return Err("the same network twice".to_owned());
        }
        match self.insert(&manifest, roster, head) {
            Err(Stop::Refused(why) | Stop::Alarm(why)) => Err(why),
            Ok(()) | Err(Stop::Older) => Ok(()),
        }
    }
}

/// The network that a roster says it is of, unverified: good enough to look up what is kept.
fn network_of(roster: &PublicRoster) -> Option<NetworkId> {
    use kanpachi_common::{cbor, signed::SignedObject as _};
    let head: Head = cbor::decode(&roster.head.payload, Head::MAX_LEN).ok()?;
    Some(head.network)
}

/// Two manifests of one generation are the same one, or the root key says two things.
fn same_manifest(new: &Verified<Manifest>, held: &Verified<Manifest>) -> Result<(), Stop> {
    if new.signed().payload == held.signed().payload {
        return Ok(());
    }
    Err(Stop::Alarm(format!(
        "there are two different manifests of generation {}: the root key is in two hands",
        new.generation
    )))
}

/// Is this directory newer? `alone`: nothing else came with it, so an older one is worth saying so.
fn newer_directory(
    new: &Verified<Directory>,
    held: &Verified<Directory>,
    alone: bool,
) -> Result<bool, Stop> {
    if new.seq < held.seq && alone {
        return Err(Stop::Older);
    }
    if new.seq == held.seq && new.signed().payload != held.signed().payload {
        return Err(Stop::Alarm(format!(
            "there are two different directories with number {}: a signing key is in two hands",
            new.seq
        )));
    }
    Ok(new.seq > held.seq)
}

/// Is this head newer? The same root with a later time renews.
fn newer_head(new: &Verified<Head>, held: &Verified<Head>) -> Result<bool, Stop> {
    let (position, before) = (new.position(), held.position());
    if position < before {
        return Err(Stop::Older);
    }
    if position > before {
        return Ok(true);
    }
    if new.root != held.root {
        return Err(Stop::Alarm(format!(
            "there are two different rosters of network {} at epoch {}: a signing key is in two hands",
            new.network.short(),
            new.epoch
        )));
    }
    Ok(new.issued_at > held.issued_at)
}
