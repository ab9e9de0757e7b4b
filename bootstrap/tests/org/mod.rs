//! An organisation that signs, for tests.

use std::net::Ipv4Addr;

use kanpachi_bootstrap::Handle;
use kanpachi_common::{
    Hash, MacAddr, MemberId, NetworkId, OrgId, Pool, SecretKey, Signed, TunnelKey, UnixTime,
    addr::ipv6_of,
    cbor,
    org::{Directory, Manifest},
    roster::{
        Caps, Entry, Head, NetworkType, Private, Public, Roster, SOFT_SECONDS, Settings,
        VerifiedRoster,
    },
    wire::mirror::{MirrorReply, MirrorRequest, Mirrored},
};

pub(crate) const NETWORK: NetworkId = NetworkId([5; 32]);

/// An organisation of one network.
pub(crate) struct Org {
    root: SecretKey,
    signing: SecretKey,
}

impl Org {
    pub(crate) fn new() -> Self {
        Self {
            root: SecretKey::from_seed(&[1; 32]),
            signing: SecretKey::from_seed(&[2; 32]),
        }
    }

    pub(crate) fn id(&self) -> OrgId {
        OrgId::of_root(&self.root.public_key())
    }

    pub(crate) fn manifest(&self) -> Signed<Manifest> {
        let manifest = Manifest {
            root: self.root.public_key(),
            generation: 1,
            signing_keys: vec![self.signing.public_key()],
            issued_at: UnixTime(1),
            ext: vec![],
        };
        Signed::sign(&manifest, &self.root)
    }

    pub(crate) fn roster(&self, epoch: u64, members: &[u8]) -> VerifiedRoster {
        let mut entries: Vec<Entry> = members.iter().map(|seed| self.entry(*seed)).collect();
        entries.sort_by_key(|entry| Public::decode(&entry.public).unwrap().member);
        let settings = Settings {
            name: "lan".to_owned(),
            kind: NetworkType::Mesh,
            rules: vec![],
            ext: vec![],
        };
        let roster = Roster {
            settings: cbor::encode(&settings),
            entries,
        };
        let head = Head {
            org: self.id(),
            network: NETWORK,
            generation: 1,
            epoch,
            root: roster.root(),
            size: members.len() as u64 + 1,
            prev_root: Hash([0; 32]),
            secret_id: 1,
            secret_hash: Hash([0; 32]),
            issued_at: UnixTime(1),
            soft_expires_at: UnixTime(1 + SOFT_SECONDS),
            hard_expires_at: None,
            ext: vec![],
        };
        let manifest = Manifest::verify(&self.manifest(), &self.id()).unwrap();
        let head = Head::verify(&Signed::sign(&head, &self.signing), &manifest).unwrap();
        roster.verify(head).unwrap()
    }

    fn entry(&self, seed: u8) -> Entry {
        let key = SecretKey::from_seed(&[seed; 32]);
        let node = key.node_id();
        let public = Public {
            member: MemberId([seed; 32]),
            node,
            caps: Caps::default(),
        };
        let private = Private {
            tunnel: TunnelKey::sign(&key, &self.id(), 1, [seed; 32]),
            ipv4: Some(Ipv4Addr::new(198, 19, 0, seed)),
            ipv6: ipv6_of(&self.id(), &node),
            mac: MacAddr::of(&node),
            name: format!("node-{seed}"),
            prefixes: vec![],
            ext: vec![],
        };
        Entry::new(&public, &private, [seed; 16])
    }

    /// Tells a bootstrap of the network as it stands.
    pub(crate) async fn publish(&self, handle: &Handle, epoch: u64, members: &[u8]) {
        let directory = Directory {
            org: self.id(),
            generation: 1,
            seq: 1,
            issued_at: UnixTime(1),
            pool: Pool::default(),
            coordinators: vec![],
            bootstraps: vec![],
            ext: vec![],
        };
        let item = Mirrored {
            manifest: self.manifest(),
            directory: Signed::sign(&directory, &self.signing),
            roster: Some(self.roster(epoch, members).public()),
        };
        let reply = handle.mirror().answer(MirrorRequest::Put(Box::new(item)));
        assert_eq!(reply.await, MirrorReply::Kept);
    }
}
