//! One of everything, made from fixed seeds: an organisation with one network of three members.

use std::sync::LazyLock;

use kanpachi_common::{
    Candidate, CandidateKind, Hash, MacAddr, MemberId, NetworkId, NodeId, OrgId, Pool, SecretKey,
    Signed, TunnelKey, UnixTime, Verified,
    addr::ipv6_of,
    cbor,
    identity::x25519_public,
    invite::{Invite, InviteSecret},
    org::{Address, Directory, Manifest, Server},
    record::{OuterRecord, PeerRecord},
    roster::{
        Caps, Delta, Entry, HARD_SECONDS, Head, NetworkType, Page, Position, Private, Proof,
        Public, Roster, SOFT_SECONDS, Settings, Suspend, VerifiedRoster,
    },
    secret::NetworkSecret,
    wire::mirror::Mirrored,
};

pub(crate) const NETWORK: NetworkId = NetworkId([0xaa; 32]);
pub(crate) const ISSUED_AT: UnixTime = UnixTime(1_790_000_000);
/// Days since 1970 at [`ISSUED_AT`].
pub(crate) const DAY: u64 = 20_717;

pub(crate) fn root() -> SecretKey {
    static ONCE: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::from_seed(&[0x01; 32]));
    ONCE.clone()
}

pub(crate) fn signer() -> SecretKey {
    SecretKey::from_seed(&[0x02; 32])
}

/// Node 1 to 4: seed `0x10 + n`.
pub(crate) fn node(n: u8) -> SecretKey {
    SecretKey::from_seed(&[0x10 + n; 32])
}

/// X25519 secret of node `n`.
pub(crate) fn tunnel_secret(n: u8) -> [u8; 32] {
    [0x50 + n; 32]
}

pub(crate) fn member(n: u8) -> MemberId {
    MemberId([0x30 + n; 32])
}

pub(crate) fn org() -> OrgId {
    OrgId::of_root(&root().public_key())
}

pub(crate) fn manifest() -> Signed<Manifest> {
    static ONCE: LazyLock<Signed<Manifest>> = LazyLock::new(|| {
        let manifest = Manifest {
            root: root().public_key(),
            generation: 1,
            signing_keys: vec![signer().public_key()],
            issued_at: ISSUED_AT,
            ext: vec![],
        };
        Signed::sign(&manifest, &root())
    });
    ONCE.clone()
}

pub(crate) fn verified_manifest() -> Verified<Manifest> {
    static ONCE: LazyLock<Verified<Manifest>> =
        LazyLock::new(|| Manifest::verify(&manifest(), &org()).unwrap());
    ONCE.clone()
}

fn server(seed: u8, addresses: Vec<Address>) -> Server {
    Server {
        id: SecretKey::from_seed(&[seed; 32]).node_id(),
        addresses,
    }
}

pub(crate) fn directory() -> Signed<Directory> {
    static ONCE: LazyLock<Signed<Directory>> = LazyLock::new(|| {
        let directory = Directory {
            org: org(),
            generation: 1,
            seq: 3,
            issued_at: ISSUED_AT,
            pool: Pool::default(),
            coordinators: vec![server(
                0x21,
                vec![
                    Address::new("203.0.113.7", 12975),
                    Address::new("vpn.example.org", 12975),
                ],
            )],
            bootstraps: vec![server(0x22, vec![Address::new("2001:db8::7", 12975)])],
            ext: vec![],
        };
        Signed::sign(&directory, &signer())
    });
    ONCE.clone()
}

pub(crate) fn settings() -> Settings {
    Settings {
        name: "lan".into(),
        kind: NetworkType::Mesh,
        rules: vec![],
        ext: vec![],
    }
}

pub(crate) fn tunnel_key(n: u8) -> TunnelKey {
    TunnelKey::sign(&node(n), &org(), 1, x25519_public(&tunnel_secret(n)))
}

pub(crate) fn halves(n: u8) -> (Public, Private) {
    let id = node(n).node_id();
    let public = Public {
        member: member(n),
        node: id,
        caps: if n == 1 { Caps::OWNER } else { Caps::default() },
    };
    let private = Private {
        tunnel: tunnel_key(n),
        ipv4: Pool::default().candidates(&id).next(),
        ipv6: ipv6_of(&org(), &id),
        mac: MacAddr::of(&id),
        name: format!("machine-{n}"),
        prefixes: if n == 3 {
            vec!["192.168.7.0/24".parse().unwrap()]
        } else {
            vec![]
        },
        ext: vec![],
    };
    (public, private)
}

pub(crate) fn entry(n: u8) -> Entry {
    let (public, private) = halves(n);
    Entry::new(&public, &private, [0x40 + n; 16])
}

pub(crate) fn roster(members: &[u8]) -> Roster {
    Roster {
        settings: cbor::encode(&settings()),
        entries: members.iter().map(|n| entry(*n)).collect(),
    }
}

pub(crate) fn secret() -> NetworkSecret {
    NetworkSecret::new(1, [0x61; 32])
}

pub(crate) fn head(roster: &Roster, epoch: u64, prev_root: Hash) -> Signed<Head> {
    let head = Head {
        org: org(),
        network: NETWORK,
        generation: 1,
        epoch,
        root: roster.root(),
        size: roster.entries.len() as u64 + 1,
        prev_root,
        secret_id: 1,
        secret_hash: secret().hash(),
        issued_at: ISSUED_AT,
        soft_expires_at: ISSUED_AT.plus(SOFT_SECONDS),
        hard_expires_at: Some(ISSUED_AT.plus(HARD_SECONDS)),
        ext: vec![],
    };
    Signed::sign(&head, &signer())
}

/// Epoch 5: members 1, 2 and 3.
pub(crate) fn roster5() -> Roster {
    static ONCE: LazyLock<Roster> = LazyLock::new(|| roster(&[1, 2, 3]));
    ONCE.clone()
}

pub(crate) fn head5() -> Signed<Head> {
    static ONCE: LazyLock<Signed<Head>> = LazyLock::new(|| head(&roster5(), 5, Hash([0; 32])));
    ONCE.clone()
}

pub(crate) fn verified5() -> VerifiedRoster {
    static ONCE: LazyLock<VerifiedRoster> = LazyLock::new(|| {
        let head = Head::verify(&head5(), &verified_manifest()).unwrap();
        roster5().verify(head).unwrap()
    });
    ONCE.clone()
}

/// From epoch 5 to epoch 6: member 2 is gone, member 4 is new.
pub(crate) fn delta() -> Delta {
    let after = roster(&[1, 3, 4]);
    Delta {
        network: NETWORK,
        base: Position {
            generation: 1,
            epoch: 5,
        },
        base_root: roster5().root(),
        head: head(&after, 6, roster5().root()),
        settings: None,
        upserts: vec![entry(4)],
        removed: vec![member(2)],
    }
}

pub(crate) fn page() -> Page {
    let mut pages = Page::split(NETWORK, &head5(), &roster5());
    assert_eq!(pages.len(), 1);
    pages.remove(0)
}

pub(crate) fn proof(with_private: bool) -> Proof {
    Proof::of(&verified5(), &node(2).node_id(), with_private).unwrap()
}

pub(crate) fn suspend() -> Signed<Suspend> {
    static ONCE: LazyLock<Signed<Suspend>> = LazyLock::new(|| {
        let suspend = Suspend {
            org: org(),
            network: NETWORK,
            member: member(2),
            by: member(1),
            seq: 1,
            epoch: 5,
        };
        Signed::sign(&suspend, &node(1))
    });
    ONCE.clone()
}

pub(crate) fn candidates() -> Vec<Candidate> {
    [
        ("192.168.1.20:12976", CandidateKind::Host),
        ("[2001:db8::20]:12976", CandidateKind::Host),
        ("198.51.100.4:40000", CandidateKind::Reflexive),
        ("198.51.100.4:12976", CandidateKind::Mapped),
        ("198.51.100.4:40001", CandidateKind::Observed),
    ]
    .map(|(addr, kind)| Candidate {
        addr: addr.parse().unwrap(),
        kind,
    })
    .to_vec()
}

pub(crate) fn peer_record() -> Signed<PeerRecord> {
    static ONCE: LazyLock<Signed<PeerRecord>> = LazyLock::new(|| {
        let record = PeerRecord {
            node: node(2).node_id(),
            boot: 7,
            seq: 9,
            candidates: candidates(),
            relays: vec![node(1).node_id()],
            epochs: vec![(
                NETWORK,
                Position {
                    generation: 1,
                    epoch: 5,
                },
            )],
            ttl: 7200,
            nat: None,
        };
        Signed::sign(&record, &node(2))
    });
    ONCE.clone()
}

/// Nonce of the ciphertext in [`outer_record`].
pub(crate) const NONCE: [u8; 12] = [0x62; 12];

pub(crate) fn outer_record() -> Signed<OuterRecord> {
    static ONCE: LazyLock<Signed<OuterRecord>> = LazyLock::new(|| {
        use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _, aead::Aead as _};

        let publisher: NodeId = node(2).node_id();
        let key = secret().record_key(&publisher, DAY);
        let cipher = ChaCha20Poly1305::new(&secret().record_cipher(&publisher, DAY).into());
        let inner = cbor::encode(&peer_record());
        let sealed = cipher.encrypt(&NONCE.into(), inner.as_slice()).unwrap();
        let record = OuterRecord {
            key: key.public_key(),
            seq: 9,
            ttl: 7200,
            ciphertext: [NONCE.as_slice(), &sealed].concat(),
        };
        Signed::sign(&record, &key)
    });
    ONCE.clone()
}

pub(crate) fn invite() -> Invite {
    Invite {
        org: org(),
        network: NETWORK,
        floor: Position {
            generation: 1,
            epoch: 5,
        },
        secret: InviteSecret([0x71; 16]),
        addresses: vec![
            Address::new("203.0.113.7", 12975),
            Address::new("vpn.example.org", 12975),
        ],
        name: "lan".into(),
    }
}

pub(crate) fn mirrored(with_roster: bool) -> Mirrored {
    Mirrored {
        manifest: manifest(),
        directory: directory(),
        roster: with_roster.then(|| verified5().public()),
    }
}
