//! Writes the inputs that are not text. After a change of format: `cargo test --release -p kanpachi-fuzz -- --ignored`.

#![expect(
    clippy::unwrap_used,
    reason = "this program is a test; a failed assumption should end it"
)]

#[path = "seeds/codes.rs"]
mod codes;
#[path = "seeds/fragments.rs"]
mod fragments;
#[path = "seeds/kademlia.rs"]
mod kademlia;
#[path = "seeds/reflector.rs"]
mod reflector;
#[path = "seeds/relay.rs"]
mod relay;
#[path = "seeds/router.rs"]
mod router;

use std::{fs, net::SocketAddr};

use kanpachi_common::{
    Hash, MemberId, NetworkId, NodeId, OrgId, Password, SecretKey, Signed, TunnelKey, UnixTime,
    cbor,
    org::{Address, Directory, Manifest, Server},
    record::{OuterRecord, PeerRecord, Sealing, seal},
    roster::{Head, Page, Suspend},
    secret::NetworkSecret,
    wire::{
        control::{ClientMessage, Hello, Join, MakeInvite, Nonce, ServerMessage},
        frame::Frame,
        membership::{Evict, JoinByPassword, SetAccess, Suspended},
        mirror::{MirrorRequest, Mirrored},
        showing::{ShowRoster, Shown},
    },
};
use kanpachi_fuzz::{corpus, find};
use kanpachi_proto::tunnel::{Control, HandshakeCounter};
use serde::Serialize;

const NETWORK: NetworkId = NetworkId([0xaa; 32]);

fn put(target: &str, name: &str, bytes: &[u8]) {
    let folder = corpus::folder(find(target).unwrap());
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}

#[test]
#[ignore = "writes files of the corpus anew, after a change of format"]
fn write_the_corpus() {
    tunnels();
    packets();
    fragments::write();
    kademlia::write();
    reflector::write();
    relay::write();
    router::write();
    streams();
    objects();
    records();
    mirror();
    codes::write();
}

/// The contents of a handshake, as in `docs/protocol.md`.
#[derive(Clone, Serialize)]
struct Payload {
    n: NodeId,
    c: HandshakeCounter,
    i: u32,
    g: u64,
    e: Vec<(NetworkId, u64)>,
    l: u8,
    h: u8,
    b: u64,
}

impl Payload {
    fn bytes(&self) -> Vec<u8> {
        let body = cbor::encode(self);
        let len = u16::try_from(body.len()).unwrap().to_le_bytes();
        [&len[..], &body].concat()
    }
}

fn tunnels() {
    let datagram = |name, mode: u8, at: u16, rest: &[u8]| {
        put(
            "tunnel_datagram",
            name,
            &[&[mode], &at.to_le_bytes()[..], rest].concat(),
        );
    };
    datagram("raw-nothing", 0, 0, &[]);
    put(
        "tunnel_datagram",
        "raw-init",
        &[&[0, 1, 1, 0, 0][..], &[7; 1020]].concat(),
    );
    put(
        "tunnel_datagram",
        "raw-transport",
        &[&[0, 4, 1, 1, 0][..], &[7; 60]].concat(),
    );
    datagram("init-again", 1, 0, &[]);
    datagram("init-of-version-2", 1, 1, &[3]);
    datagram("init-other-index", 1, 4, &[0xff; 4]);
    datagram("init-other-ephemeral", 1, 8, &[0x55; 32]);
    datagram("init-ephemeral-high-bit", 1, 39, &[0x80]);
    datagram("init-with-cookie", 1, 1008, &[0x11; 16]);
    datagram("response-again", 2, 0, &[]);
    datagram("response-other-receiver", 2, 8, &[1]);
    datagram("response-other-payload", 2, 60, &[0xaa; 900]);
    datagram("cookie-nobody-asked-for", 3, 8, &[0x22; 56]);
    datagram("cookie-other-index", 3, 4, &[0xff; 4]);
    datagram("transport-again", 4, 0, &[]);
    datagram("transport-other-kind", 4, 2, &[1]);
    datagram("transport-last-counter", 4, 8, &[0xff; 8]);
    let payload = Payload {
        n: NodeId([1; 32]),
        c: HandshakeCounter { major: 2, minor: 7 },
        i: 5,
        g: 1,
        e: vec![(NETWORK, 5)],
        l: 1,
        h: 1,
        b: 0,
    };
    let with = |name, change: &dyn Fn(&mut Payload)| {
        let mut payload = payload.clone();
        change(&mut payload);
        put("tunnel_payload", name, &payload.bytes());
    };
    with("valid", &|_| ());
    with("old-counter", &|p| {
        p.c = HandshakeCounter { major: 0, minor: 0 }
    });
    with("last-counter", &|p| {
        p.c = HandshakeCounter {
            major: u64::MAX,
            minor: u32::MAX,
        }
    });
    with("another-node", &|p| p.n = NodeId([0x11; 32]));
    with("another-index", &|p| p.i = 6);
    with("too-many-networks", &|p| {
        p.e = vec![(NETWORK, u64::MAX); 17]
    });
    with("only-newer-versions", &|p| (p.l, p.h) = (2, 255));
    put(
        "tunnel_payload",
        "length-beyond-the-end",
        &[0xff, 0xff, 0xa0],
    );
    put("tunnel_payload", "no-length", &[]);
    controls();
}

fn controls() {
    let addr = SocketAddr::from(([203, 0, 113, 1], 12976));
    let all = [
        (
            "keepalive",
            Control::Keepalive {
                generation: 1,
                epochs: vec![(NETWORK, 6)],
            },
        ),
        (
            "keepalive-of-17",
            Control::Keepalive {
                generation: u64::MAX,
                epochs: vec![(NETWORK, 6); 17],
            },
        ),
        (
            "ping",
            Control::Ping {
                nonce: 1,
                primary: true,
            },
        ),
        (
            "pong-nobody-asked-for",
            Control::Pong {
                nonce: 1,
                seen: addr,
                held: 0,
            },
        ),
        (
            "pong-held",
            Control::Pong {
                nonce: 1,
                seen: addr,
                held: 10,
            },
        ),
        (
            "mtu-probe",
            Control::MtuProbe {
                nonce: 1,
                pad: vec![0; 200],
            },
        ),
        (
            "mtu-ack-nobody-asked-for",
            Control::MtuAck {
                nonce: 1,
                size: u16::MAX,
            },
        ),
        ("close", Control::Close { reason: 0 }),
    ];
    for (name, control) in all {
        put("tunnel_control", name, &cbor::encode(&control));
    }
    put(
        "tunnel_control",
        "fragment-1-of-2",
        &[0, 0, 0, 1, 0, 2, 0, 0, 9, 9],
    );
    put("tunnel_control", "nothing", &[]);
}

fn packets() {
    let v4 = |total: u16, first: u8, to: [u8; 4]| {
        let mut packet = vec![first, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 198, 19, 0, 1];
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet.extend(to);
        packet.resize(28, 0);
        packet
    };
    put("inner_packet", "ipv4", &v4(28, 0x45, [198, 19, 0, 2]));
    put("inner_packet", "ipv4-broadcast", &v4(28, 0x45, [255; 4]));
    put(
        "inner_packet",
        "ipv4-multicast",
        &v4(28, 0x45, [239, 1, 2, 3]),
    );
    put(
        "inner_packet",
        "ipv4-a-byte-longer-than-it-is",
        &v4(29, 0x45, [198, 19, 0, 2]),
    );
    put(
        "inner_packet",
        "ipv4-options-beyond-the-end",
        &v4(28, 0x4f, [198, 19, 0, 2]),
    );
    put(
        "inner_packet",
        "ipv4-header-of-16",
        &v4(28, 0x44, [198, 19, 0, 2]),
    );
    let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
    v6.extend([0xfd; 16]);
    v6.extend([0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfb]);
    v6.extend([0; 8]);
    put("inner_packet", "ipv6-multicast", &v6);
    put(
        "inner_packet",
        "ipv6-jumbogram",
        &[&[0x60, 0, 0, 0, 0, 0, 0, 64][..], &v6[8..]].concat(),
    );
    put(
        "inner_packet",
        "fragment-1-of-2",
        &[1, 0, 0, 0, 0, 2, 0, 0, 9, 9],
    );
    put(
        "inner_packet",
        "fragment-9-of-9",
        &[1, 0, 0, 0, 8, 9, 0, 0, 9, 9],
    );
}

fn hello(org: OrgId) -> ClientMessage {
    let key = SecretKey::from_seed(&[9; 32]);
    ClientMessage::Hello(Hello {
        min_version: 1,
        max_version: 1,
        caps: 0,
        client: "seed".into(),
        org,
        tunnel: TunnelKey::sign(&key, &org, 1, [9; 32]),
        boot: 1,
        held: vec![],
        candidates: vec![],
        nat: None,
        away: vec![],
        ext: vec![],
    })
}

fn streams() {
    let frame = |kind, id, body: &[u8]| unknown(kind, id, false, body);
    put(
        "frames",
        "two",
        &[frame(1, 1, b"x"), frame(2, 2, &[0; 100])].concat(),
    );
    put("frames", "empty-body", &frame(0, 0, b""));
    put("frames", "cut", &frame(3, 3, &[7; 60])[..40]);
    put("frames", "length-of-4-gib", &[0xff; 12]);
    let broken = [&frame(1, 1, b"x")[..], &[0, 0, 0, 2, 0xff, 0xff]].concat();
    put("frames", "not-a-frame-behind-one", &broken);
    requests();
    let session = |name, bytes: &[u8]| put("node_session", name, bytes);
    let pong = ServerMessage::Pong(Nonce(1)).frame(77).to_bytes();
    let ping = ServerMessage::Ping(Nonce(1)).frame(0).to_bytes();
    session("pong-nobody-asked-for", &pong);
    session("a-hundred-pings", &ping.repeat(100));
    let show = |network| ServerMessage::ShowRoster(ShowRoster { network }).frame(0);
    let of_nothing = show(NETWORK).to_bytes();
    session("show-a-roster-that-is-not-held", &of_nothing.repeat(20));
    session("unknown-critical", &unknown(999, 0, true, &[0xa0]));
    session("length-of-4-gib", &[0xff; 8]);
}

fn unknown(kind: u16, id: u64, critical: bool, body: &[u8]) -> Vec<u8> {
    let body = body.to_vec();
    Frame {
        kind,
        id,
        critical,
        body,
    }
    .to_bytes()
}

fn requests() {
    let (network, member) = (NETWORK, MemberId([3; 32]));
    let password = Password::new("correct horse").unwrap();
    let by_password = ClientMessage::JoinByPassword(JoinByPassword {
        network: "games".into(),
        password: password.clone(),
        member_name: "lamp".into(),
    });
    let evict = ClientMessage::Evict(Evict {
        network,
        member,
        password: Some(password),
    });
    let access = ClientMessage::SetAccess(SetAccess {
        network,
        locked: Some(true),
        approval: None,
    });
    let join = ClientMessage::Join(Join {
        token: [5; 32],
        name: "lamp".into(),
    });
    let invite = ClientMessage::MakeInvite(MakeInvite {
        network,
        uses: None,
        expires_in: u64::MAX,
    });
    let stranger = hello(OrgId([7; 32]));
    let say = |all: &[&ClientMessage]| {
        let frames = all
            .iter()
            .zip(1..)
            .map(|(message, id)| message.frame(id).to_bytes());
        frames.collect::<Vec<_>>().concat()
    };
    put("messages", "join-by-password", &say(&[&by_password]));
    put("messages", "evict-and-set-access", &say(&[&evict, &access]));
    let (shown, suspended) = (shown(), suspended());
    put("messages", "shown", &say(&[&shown]));
    put("messages", "suspended", &say(&[&suspended]));
    let session = |name, bytes: &[u8]| put("coordinator_session", name, bytes);
    session("hello-of-another-organisation", &say(&[&stranger]));
    session(
        "hello-twice-then-join",
        &say(&[&stranger, &stranger, &join]),
    );
    session("join-by-an-unknown-invite", &say(&[&join, &join, &join]));
    session(
        "as-an-owner",
        &say(&[&evict, &access, &invite, &by_password]),
    );
    session(
        "a-hundred-pings",
        &say(&[&ClientMessage::Ping(Nonce(1)); 100]),
    );
    session("unknown-critical", &unknown(999, 1, true, &[0xa0]));
    session("shows-what-nobody-asked-for", &say(&[&shown, &shown]));
    session(
        "suspends-whom-nobody-knows",
        &say(&[&suspended, &suspended]),
    );
}

/// The first page of two, under a head that somebody signed.
fn shown() -> ClientMessage {
    let page = Page {
        network: NETWORK,
        head: Signed::sign(&head(), &SecretKey::from_seed(&[2; 32])),
        index: 0,
        count: 2,
        settings: Some(vec![0xa0].into()),
        entries: vec![],
    };
    ClientMessage::Shown(Box::new(Shown {
        page,
        secret: Some(NetworkSecret::new(1, [6; 32])),
    }))
}

fn suspended() -> ClientMessage {
    let suspend = Suspend {
        org: OrgId([1; 32]),
        network: NETWORK,
        member: MemberId([3; 32]),
        by: MemberId([4; 32]),
        seq: 1,
        epoch: u64::MAX,
    };
    ClientMessage::Suspended(Suspended {
        suspends: vec![Signed::sign(&suspend, &SecretKey::from_seed(&[4; 32]))],
    })
}

/// A head that expires before it was signed, of an epoch that no number is above.
fn head() -> Head {
    Head {
        org: OrgId([1; 32]),
        network: NETWORK,
        generation: 1,
        epoch: u64::MAX,
        root: Hash([2; 32]),
        size: u64::MAX,
        prev_root: Hash([0; 32]),
        secret_id: 1,
        secret_hash: Hash([3; 32]),
        issued_at: UnixTime(u64::MAX),
        soft_expires_at: UnixTime(0),
        hard_expires_at: None,
        ext: vec![],
    }
}

fn objects() {
    put(
        "objects",
        "payload-of-a-head-that-expires-first",
        &cbor::encode(&head()),
    );
    let record = OuterRecord {
        key: SecretKey::from_seed(&[1; 32]).public_key(),
        seq: 1,
        ttl: 1,
        ciphertext: vec![0; 64],
    };
    put(
        "objects",
        "payload-of-an-outer-record",
        &cbor::encode(&record),
    );
}

fn records() {
    let key = SecretKey::from_seed(&[4; 32]);
    let record = |ttl, signer: &SecretKey| {
        let record = OuterRecord {
            key: key.public_key(),
            seq: 5,
            ttl,
            ciphertext: vec![7; 100],
        };
        cbor::encode(&Signed::sign(&record, signer))
    };
    put("record_policy", "kept", &record(600, &key));
    put("record_policy", "expired", &record(0, &key));
    put("record_policy", "lives-for-ever", &record(u32::MAX, &key));
    put(
        "record_policy",
        "signed-by-somebody-else",
        &record(600, &SecretKey::from_seed(&[5; 32])),
    );
    let node = SecretKey::from_seed(&[2; 32]);
    let record = |ttl| PeerRecord {
        node: node.node_id(),
        boot: 7,
        seq: 9,
        candidates: vec![],
        relays: vec![],
        epochs: vec![],
        ttl,
        nat: None,
    };
    let signed = Signed::sign(&record(600), &node);
    put("record_open", "a-record", &cbor::encode(&record(600)));
    put(
        "record_open",
        "a-record-that-lives-for-ever",
        &cbor::encode(&record(u32::MAX)),
    );
    put("record_open", "a-signed-record", &cbor::encode(&signed));
    let secret = NetworkSecret::new(3, [0x61; 32]);
    let with = Sealing {
        secret: &secret,
        day: 20_717,
        seq: 9,
        nonce: [0x62; 12],
    };
    put("record_open", "a-value", &seal(&record(600), &node, &with));
}

fn mirror() {
    let root = SecretKey::from_seed(&[1; 32]);
    let signing = SecretKey::from_seed(&[2; 32]);
    let now = UnixTime(1_800_000_000);
    let manifest = |generation| {
        let manifest = Manifest {
            root: root.public_key(),
            generation,
            signing_keys: vec![signing.public_key()],
            issued_at: now,
            ext: vec![],
        };
        Signed::sign(&manifest, &root)
    };
    let org = OrgId::of_root(&root.public_key());
    let put_keys = |generation, seq| {
        let directory = Directory {
            org,
            generation,
            seq,
            coordinators: vec![Server {
                id: root.node_id(),
                addresses: vec![Address::new("192.0.2.1", 1)],
            }],
            bootstraps: vec![],
            pool: kanpachi_common::Pool::default(),
            issued_at: now,
            ext: vec![],
        };
        let item = Mirrored {
            manifest: manifest(generation),
            directory: Signed::sign(&directory, &signing),
            roster: None,
        };
        MirrorRequest::Put(Box::new(item)).frame().to_bytes()
    };
    let get = MirrorRequest::Get(org, NETWORK).frame().to_bytes();
    let directory = MirrorRequest::Directory(org).frame().to_bytes();
    put(
        "mirror",
        "put-newer-then-older-then-get",
        &[put_keys(2, 5), put_keys(1, 9), get, directory].concat(),
    );
    put(
        "mirror",
        "put-two-directories-of-one-number",
        &[put_keys(1, 1), put_keys(1, 1), put_keys(2, 1)].concat(),
    );
}
