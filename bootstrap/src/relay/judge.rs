//! Who may use the relay: what the newest known rosters say, and what proofs show where those are missing or older.

use std::collections::{BTreeMap, BTreeSet};

use kanpachi_common::{
    NetworkId, NodeId, OrgId, Signed, UnixTime, Verified, cbor,
    org::Manifest,
    roster::{Freshness, Head, Position, Proof},
    signed::SignedObject as _,
};

/// What is known here of the organisation's rosters.
pub trait Judge: Send + Sync + 'static {
    /// The organisation.
    fn org(&self) -> OrgId;
    /// Its newest manifest, if one is known.
    fn manifest(&self) -> Option<Verified<Manifest>>;
    /// The networks whose newest known roster names the node.
    fn networks_of(&self, node: &NodeId) -> BTreeSet<NetworkId>;
    /// The newest known head of a network.
    fn newest(&self, network: &NetworkId) -> Option<Verified<Head>>;
    /// Networks that ended may be known no more. They ended up to this time: a head as old, of a network that is not known,
    /// proves nothing.
    fn forgotten_until(&self) -> UnixTime {
        UnixTime(0)
    }
}

/// What a member's proofs showed, kept with its session to be weighed again when rosters change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    /// Shown by the member, for a relay that knew none or an older one.
    manifest: Option<Verified<Manifest>>,
    /// Where the roster stands that was shown to name the member, and since when; `None` when the proof was not believed,
    /// so that the network is merely named.
    networks: BTreeMap<NetworkId, Option<(Position, UnixTime)>>,
}

/// What holds of a member now.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub(crate) networks: BTreeSet<NetworkId>,
    /// The newest head of a network that a proof was for and that does not name the member.
    pub(crate) gone: Option<Signed<Head>>,
}

impl Claims {
    /// Notes the manifest that a member brought, if it is the organisation's.
    pub(crate) fn bring(&mut self, judge: &dyn Judge, manifest: &Signed<Manifest>) {
        self.manifest = Manifest::verify(manifest, &judge.org()).ok();
    }

    /// Checks proofs and notes what they show.
    pub(crate) fn prove(
        &mut self,
        judge: &dyn Judge,
        node: &NodeId,
        proofs: &[Proof],
        now: UnixTime,
    ) {
        let own = judge.manifest();
        let brought = self.manifest.as_ref();
        let manifest = match (&own, brought) {
            (Some(own), Some(brought)) if brought.generation > own.generation => Some(brought),
            (Some(own), _) => Some(own),
            (None, brought) => brought,
        };
        let mut shown = BTreeMap::new();
        for proof in proofs {
            let proved = manifest.and_then(|manifest| proof.verify(manifest, node).ok());
            let head = proved
                .map(|proved| proved.head)
                .filter(|head| head.freshness(now) != Freshness::Expired);
            if let Some(head) = head {
                shown.insert(head.network, Some((head.position(), head.issued_at)));
            } else if let Ok(head) = cbor::decode::<Head>(&proof.head.payload, Head::MAX_LEN) {
                shown.entry(head.network).or_insert(None);
            }
        }
        self.networks = shown;
    }

    /// Weighs them against what is known now. A roster that is known counts for more than a proof as old or older.
    pub(crate) fn standing(&self, judge: &dyn Judge, node: &NodeId) -> Standing {
        let generation = judge.manifest().map_or(0, |manifest| manifest.generation);
        let mut networks = judge.networks_of(node);
        let mut gone = None;
        for (network, shown) in &self.networks {
            let newest = judge.newest(network);
            // Under a newer manifest an older head proves nothing to anybody.
            let counts = shown.is_some_and(|(shown, issued_at)| {
                let newer = match &newest {
                    Some(head) => shown > head.position(),
                    None => issued_at > judge.forgotten_until(),
                };
                shown.generation >= generation && newer
            });
            if counts {
                networks.insert(*network);
            } else if !networks.contains(network) {
                gone = newest.map(|head| head.signed().clone()).or(gone);
            }
        }
        Standing { networks, gone }
    }
}
