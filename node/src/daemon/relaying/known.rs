//! Who is a member, by the rosters that this node holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arc_swap::ArcSwap;
use kanpachi_bootstrap::relay::Judge;
use kanpachi_common::{NetworkId, NodeId, OrgId, Verified, org::Manifest, roster::Head};
use kanpachi_proto::roster::Rosters;

/// The rosters as they were last told; the relay asks from other threads than those that change them.
#[derive(Debug, Default)]
pub(super) struct Known(ArcSwap<Contents>);

#[derive(Debug)]
struct Contents {
    org: OrgId,
    manifest: Option<Verified<Manifest>>,
    heads: BTreeMap<NetworkId, Verified<Head>>,
    networks: BTreeMap<NodeId, BTreeSet<NetworkId>>,
}

impl Default for Contents {
    fn default() -> Self {
        Self {
            org: OrgId([0; 32]),
            manifest: None,
            heads: BTreeMap::new(),
            networks: BTreeMap::new(),
        }
    }
}

impl Known {
    /// Replaces everything; without rosters nobody is a member of anything.
    pub(super) fn set(&self, rosters: Option<&Rosters>) {
        let contents = rosters.map_or_else(Contents::default, Contents::of);
        self.0.store(Arc::new(contents));
    }
}

impl Contents {
    fn of(rosters: &Rosters) -> Self {
        let mut networks: BTreeMap<NodeId, BTreeSet<NetworkId>> = BTreeMap::new();
        for roster in rosters.rosters() {
            let network = roster.head().network;
            // Whom an owner has suspended is no member here, whatever the roster says until the coordinator is back.
            let members = roster.members().map(|member| member.node);
            for node in members.filter(|node| rosters.is_member(&network, node)) {
                networks.entry(node).or_default().insert(network);
            }
        }
        let heads = rosters
            .rosters()
            .map(|r| (r.head().network, r.head().clone()));
        Self {
            org: rosters.org(),
            manifest: rosters.manifest().cloned(),
            heads: heads.collect(),
            networks,
        }
    }
}

impl Judge for Known {
    fn org(&self) -> OrgId {
        self.0.load().org
    }

    fn manifest(&self) -> Option<Verified<Manifest>> {
        self.0.load().manifest.clone()
    }

    fn networks_of(&self, node: &NodeId) -> BTreeSet<NetworkId> {
        let contents = self.0.load();
        contents.networks.get(node).cloned().unwrap_or_default()
    }

    fn newest(&self, network: &NetworkId) -> Option<Verified<Head>> {
        self.0.load().heads.get(network).cloned()
    }
}
