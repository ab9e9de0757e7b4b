//! For unit tests of the core: a signed organisation with networks, without a coordinator, and a core without an engine,
//! a swarm and an adapter.

use std::sync::Arc;

use kanpachi_common::{
    Hash, MacAddr, MemberId, NetworkId, NodeId, OrgId, SecretKey, Signed, TunnelKey, UnixTime,
    addr::ipv6_of,
    cbor,
    org::Manifest,
    roster::{Caps, Entry, Head, NetworkType, Private, Public, Roster, Settings, VerifiedRoster},
};
use kanpachi_proto::roster::{Rosters, Stored};
use kanpachi_transport::SharedSocket;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Core, NativeWriter, Parts, engine};
use crate::{
    cli::steps::{Progress, Report},
    clock,
    daemon::{overlay::Overlay, state},
    dataplane::Dataplane,
};

/// Names and what they may do, in the order of their numbers from 1.
pub(super) const MEMBERS: [(&str, Caps); 4] = [
    ("ann", Caps::OWNER),
    ("bob", Caps(0)),
    ("cleo", Caps(0)),
    ("dan", Caps::PENDING),
];

/// Root and signing key.
pub(super) struct Org {
    root: SecretKey,
    signer: SecretKey,
}

impl Org {
    pub(super) fn new() -> Self {
        Self {
            root: SecretKey::from_seed(&[101; 32]),
            signer: SecretKey::from_seed(&[102; 32]),
        }
    }

    fn id(&self) -> OrgId {
        OrgId::of_root(&self.root.public_key())
    }

    fn manifest(&self) -> Signed<Manifest> {
        let manifest = Manifest {
            root: self.root.public_key(),
            generation: 1,
            signing_keys: vec![self.signer.public_key()],
            issued_at: UnixTime(1000),
            ext: vec![],
        };
        Signed::sign(&manifest, &self.root)
    }

    /// Member number `n` of every network.
    pub(super) fn node(n: u8) -> NodeId {
        SecretKey::from_seed(&[n; 32]).node_id()
    }

    /// The id of the network of this name.
    pub(super) fn network(name: &str) -> NetworkId {
        NetworkId(Hash::of(&[name.as_bytes()]).0)
    }

    fn entry(&self, n: u8, name: &str, caps: Caps) -> Entry {
        let key = SecretKey::from_seed(&[n; 32]);
        let node = key.node_id();
        let public = Public {
            member: MemberId([n; 32]),
            node,
            caps,
        };
        let private = Private {
            tunnel: TunnelKey::sign(&key, &self.id(), 1, [n; 32]),
            ipv4: Some([198, 19, 0, n].into()),
            ipv6: ipv6_of(&self.id(), &node),
            mac: MacAddr::of(&node),
            name: name.to_owned(),
            prefixes: vec![],
            ext: vec![],
        };
        Entry::new(&public, &private, [n; 16])
    }

    fn signed(&self, name: &str, members: &[(&str, Caps)]) -> (Signed<Head>, Roster) {
        let settings = Settings {
            name: name.to_owned(),
            kind: NetworkType::Mesh,
            rules: vec![],
            ext: vec![],
        };
        let entry = |(n, (name, caps)): (u8, &(&str, Caps))| self.entry(n, name, *caps);
        let roster = Roster {
            settings: cbor::encode(&settings),
            entries: (1..).zip(members).map(entry).collect(),
        };
        let head = Head {
            org: self.id(),
            network: Self::network(name),
            generation: 1,
            epoch: 1,
            root: roster.root(),
            size: roster.entries.len() as u64 + 1,
            prev_root: Hash([0; 32]),
            secret_id: 1,
            secret_hash: Hash([0; 32]),
            issued_at: UnixTime(1000),
            soft_expires_at: UnixTime(2000),
            hard_expires_at: None,
            ext: vec![],
        };
        (Signed::sign(&head, &self.signer), roster)
    }

    /// The roster of a network called `lan`.
    pub(super) fn roster(&self, members: &[(&str, Caps)]) -> VerifiedRoster {
        let (head, roster) = self.signed("lan", members);
        let manifest = Manifest::verify(&self.manifest(), &self.id()).unwrap();
        let head = Head::verify(&head, &manifest).unwrap();
        roster.verify(head).unwrap()
    }

    /// What member number `me` holds.
    pub(super) fn rosters(&self, me: u8, networks: &[(&str, &[(&str, Caps)])]) -> Rosters {
        let held = networks.iter().map(|(name, members)| {
            let (head, roster) = self.signed(name, members);
            (self.manifest(), head, roster)
        });
        let stored = Stored {
            manifest: Some(self.manifest()),
            held: held.collect(),
            ..Stored::default()
        };
        Rosters::load(self.id(), Self::node(me), stored).unwrap()
    }
}

/// Hears steps begin.
#[derive(Debug)]
struct Steps(mpsc::UnboundedSender<String>);

impl Progress for Steps {
    fn report(&self, report: &Report<'_>) {
        if let Report::Begin(what) = report {
            let _ = self.0.send((*what).to_owned());
        }
    }
}

/// A core that is member number 1, what it tells the engine, the steps that it begins, and its state directory.
pub(super) struct Alone {
    pub(super) core: Core,
    pub(super) commands: mpsc::Receiver<engine::Command>,
    pub(super) steps: mpsc::UnboundedReceiver<String>,
    dir: TempDir,
}

impl Alone {
    /// In one network of all [`MEMBERS`], with nobody to reach.
    pub(super) async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let state = state::StateDir::open(dir.path()).unwrap();
        let (mut keys, _) = state::Keys::load(&state).unwrap();
        keys.identity = SecretKey::from_seed(&[1; 32]);
        let db = state::Database::open(&state).unwrap();
        let socket = SharedSocket::bind_port(0).unwrap();
        let (dataplane, ..) =
            Dataplane::<NativeWriter>::new(socket.clone(), clock::now(), String::new());
        let (engine, commands) = engine::Handle::deaf();
        let (begun, steps) = mpsc::unbounded_channel();
        let parts = Parts {
            dir: state,
            keys,
            db,
            boot: 1,
            name: "lamp".to_owned(),
            // No system makes an adapter of this name.
            interface: "no/adapter".to_owned(),
            socket,
            tcp_port: 0,
            overlay: Overlay::default(),
            engine,
            dataplane: Arc::new(dataplane),
            progress: Arc::new(Steps(begun)),
            stop: CancellationToken::new(),
            own_coordinator: vec![],
            own_relay: None,
            no_mdns: true,
            port_mapper: None,
            relay_via: None,
            relaying: None,
            proxy: None,
        };
        let mut core = Core::start(parts).await.unwrap();
        core.state.resting = Some(Org::new().rosters(1, &[("lan", &MEMBERS)]));
        Self {
            core,
            commands,
            steps,
            dir,
        }
    }

    /// Its database, for damage.
    pub(super) fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.dir.path().join("node.db")).unwrap()
    }
}
