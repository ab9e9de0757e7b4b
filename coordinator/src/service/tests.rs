//! The whole coordinator over real QUIC and TCP on the loopback.

mod mirrors;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use kanpachi_common::{
    NetworkId, OrgId, Password, SecretKey, Signed, TunnelKey,
    id::Hash,
    invite::Invite,
    org::{Address, Directory, Manifest},
    roster::{Head, Page},
    wire::{
        control::{ClientMessage, Hello, Join, Joined, PROTOCOL, ServerMessage, codes},
        frame::{FrameReader, MAX_REPLY},
        membership::{CreateNetwork, JoinByPassword},
        mirror::{MirrorReply, MirrorRequest, Mirrored},
    },
};
use kanpachi_transport::streams::Stream;
use kanpachi_transport::{
    AddressFilter, DatagramHandler, SharedSocket, keypair_from_seed, peer_id,
};
use libp2p::{Multiaddr, StreamProtocol, swarm::SwarmEvent};
use tokio::sync::oneshot;

use super::{InviteOptions, Mirror, MirrorError, Servers, Service, Setup};
use crate::{
    clock,
    org::Organisation,
    server::{Config, Coordinator},
    store::sqlite::Database,
};

const SOON: Duration = Duration::from_secs(20);

struct Ignore;

impl DatagramHandler for Ignore {
    fn handle(&mut self, _: std::net::SocketAddr, _: &mut [u8]) {}
}

/// A node, as far as the control stream goes.
struct Client {
    key: SecretKey,
    stream: Stream,
    reader: FrameReader,
    _swarm: tokio::task::JoinHandle<()>,
}

impl Client {
    async fn connect(n: u8, coordinator: &Coordinator, addr: Multiaddr) -> Self {
        let key = SecretKey::from_seed(&[n; 32]);
        let socket = SharedSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let reader = socket.spawn_reader(Ignore).unwrap();
        let options = kanpachi_transport::swarm::Options {
            keypair: keypair_from_seed(&key.seed()),
            socket,
            filter: AddressFilter::allow_all(),
            relay: None,
            tcp: true,
            proxy: None,
            dials: None,
        };
        let behaviour = kanpachi_transport::streams::Behaviour::new();
        let mut control = behaviour.new_control();
        let mut swarm = kanpachi_transport::swarm::swarm(options, behaviour).unwrap();
        swarm.dial(addr.clone()).unwrap();
        let (connected, connection) = oneshot::channel();
        let swarm = tokio::spawn(async move {
            let _reader = reader;
            let mut connected = Some(connected);
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { .. } => {
                        if let Some(connected) = connected.take() {
                            connected.send(()).unwrap();
                        }
                    }
                    SwarmEvent::OutgoingConnectionError { error, .. } => {
                        panic!("cannot dial {addr}: {error}");
                    }
                    _ => {}
                }
            }
        });
        tokio::time::timeout(SOON, connection)
            .await
            .expect("a connection in time")
            .expect("a connection");
        let peer = peer_id(coordinator.service.identity());
        let stream = control
            .open_stream(peer, StreamProtocol::new(PROTOCOL))
            .await
            .unwrap();
        Self {
            key,
            stream,
            reader: FrameReader::new(MAX_REPLY),
            _swarm: swarm,
        }
    }

    async fn send(&mut self, id: u64, message: &ClientMessage) {
        let bytes = message.frame(id).to_bytes();
        self.stream.write_all(&bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next message that is no ping; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(u64, ServerMessage)> {
        tokio::time::timeout(SOON, async {
            loop {
                if let Some(frame) = self.reader.next_frame().unwrap() {
                    match ServerMessage::from_frame(&frame).unwrap() {
                        ServerMessage::Ping(_) => continue,
                        message => return Some((frame.id, message)),
                    }
                }
                let mut chunk = [0; 4096];
                let len = self.stream.read(&mut chunk).await.unwrap_or(0);
                if len == 0 {
                    return None;
                }
                self.reader.extend(&chunk[..len]);
            }
        })
        .await
        .expect("an answer in time")
    }

    /// Reads until a message is what was looked for.
    async fn until<T>(&mut self, mut found: impl FnMut(u64, ServerMessage) -> Option<T>) -> T {
        loop {
            let (id, message) = self.next().await.expect("the stream goes on");
            if let Some(found) = found(id, message) {
                return found;
            }
        }
    }

    async fn hello(&mut self, org: OrgId) {
        let hello = Hello {
            min_version: 1,
            max_version: 1,
            caps: 0,
            client: "test".into(),
            org,
            tunnel: TunnelKey::sign(&self.key, &org, 1, [7; 32]),
            boot: 1,
            held: vec![],
            candidates: vec![],
            nat: None,
            away: vec![],
            ext: vec![],
        };
        self.send(1, &ClientMessage::Hello(hello)).await;
    }

    async fn join(&mut self, link: &str) -> Result<Joined, u16> {
        let invite = Invite::parse(link).unwrap();
        self.hello(invite.org).await;
        let join = Join {
            token: invite.secret.token(),
            name: "node".into(),
        };
        self.until(|_, m| matches!(m, ServerMessage::Done(_)).then_some(()))
            .await;
        self.send(2, &ClientMessage::Join(join)).await;
        self.joined().await
    }

    async fn joined(&mut self) -> Result<Joined, u16> {
        self.until(|_, m| match m {
            ServerMessage::Joined(joined) => Some(Ok(joined)),
            ServerMessage::Refused(refused) => Some(Err(refused.code)),
            _ => None,
        })
        .await
    }
}

async fn start(dir: &Path, tcp: Vec<u16>) -> Coordinator {
    let mut config = Config::new(dir.to_owned());
    config.listen = 0;
    config.listen_tcp = tcp;
    Coordinator::start(config, |_| Ok(())).await.unwrap()
}

fn quic(coordinator: &Coordinator) -> Multiaddr {
    format!("/ip4/127.0.0.1/udp/{}/quic-v1", coordinator.port)
        .parse()
        .unwrap()
}

async fn invite(coordinator: &Coordinator) -> String {
    let network = coordinator.network.network;
    let made = coordinator
        .service
        .make_invite(network, InviteOptions::default())
        .await;
    made.unwrap().link
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_over_quic_and_tcp_and_keep_their_addresses_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let coordinator = start(dir.path(), vec![tcp]).await;
    let (org, id) = (coordinator.service.org(), coordinator.service.identity());

    let link = invite(&coordinator).await;
    let mut first = Client::connect(1, &coordinator, quic(&coordinator)).await;
    let joined = first.join(&link).await.unwrap();
    let ipv4 = joined.registration.ipv4.unwrap();

    let over_tcp = format!("/ip4/127.0.0.1/tcp/{tcp}").parse().unwrap();
    let mut second = Client::connect(2, &coordinator, over_tcp).await;
    assert_eq!(second.join(&link).await.unwrap_err(), codes::INVITE_USED);
    let other = invite(&coordinator).await;
    drop(second);
    let mut second = Client::connect(2, &coordinator, quic(&coordinator)).await;
    assert_eq!(second.join(&other).await.unwrap().name, "node-2");
    let online = first
        .until(|_, m| match m {
            ServerMessage::PeerOnline(peer) => Some(peer),
            _ => None,
        })
        .await;
    assert_eq!(online.node, second.key.node_id());
    coordinator.shutdown().await;

    let coordinator = start(dir.path(), vec![]).await;
    assert_eq!(
        (coordinator.service.org(), coordinator.service.identity()),
        (org, id)
    );
    let mut first = Client::connect(1, &coordinator, quic(&coordinator)).await;
    first.hello(org).await;
    let welcome = first
        .until(|_, m| match m {
            ServerMessage::Welcome(welcome) => Some(welcome),
            _ => None,
        })
        .await;
    assert_eq!(welcome.registration.unwrap().ipv4, Some(ipv4));
    let manifest = Manifest::verify(&welcome.manifest, &org).unwrap();
    Directory::verify(&welcome.directory, &manifest).unwrap();
    let page = first
        .until(|_, m| match m {
            ServerMessage::Page(page) => Some(*page),
            _ => None,
        })
        .await;
    let (head, roster) = Page::join(vec![page]).unwrap();
    let roster = roster
        .verify(Head::verify(&head, &manifest).unwrap())
        .unwrap();
    assert_eq!(roster.members().count(), 2);
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_with_a_password_is_made_and_joined_over_the_wire_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path(), vec![]).await;
    let network = NetworkId([0xbb; 32]);
    let password = |text: &str| Password::new(text).unwrap();
    let mut first = Client::connect(1, &coordinator, quic(&coordinator)).await;
    first.join(&invite(&coordinator).await).await.unwrap();
    let create = CreateNetwork {
        network,
        name: "games".into(),
        password: Some(password("correct horse")),
        member_name: "owner".into(),
    };
    first.send(3, &ClientMessage::CreateNetwork(create)).await;
    assert_eq!(first.joined().await.unwrap().network, network);
    let mut second = Client::connect(2, &coordinator, quic(&coordinator)).await;
    second.join(&invite(&coordinator).await).await.unwrap();
    drop((first, second));
    coordinator.shutdown().await;

    let coordinator = start(dir.path(), vec![]).await;
    let org = coordinator.service.org();
    let mut second = Client::connect(2, &coordinator, quic(&coordinator)).await;
    second.hello(org).await;
    second
        .until(|_, m| matches!(m, ServerMessage::Done(_)).then_some(()))
        .await;
    for (text, name, answer) in [
        ("wrong horse", "games", Err(codes::WRONG_PASSWORD)),
        ("correct horse", "nowhere", Err(codes::WRONG_PASSWORD)),
        ("correct horse", "Games", Ok(network)),
    ] {
        let join = JoinByPassword {
            network: name.into(),
            password: password(text),
            member_name: "second".into(),
        };
        second.send(4, &ClientMessage::JoinByPassword(join)).await;
        let joined = second.joined().await.map(|joined| joined.network);
        assert_eq!(joined, answer, "{name}");
    }
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_frame_is_refused_and_the_stream_closed() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path(), vec![]).await;
    let mut client = Client::connect(1, &coordinator, quic(&coordinator)).await;
    client.stream.write_all(&[0xff; 64]).await.unwrap();
    client.stream.flush().await.unwrap();
    let code = client
        .until(|_, m| match m {
            ServerMessage::Refused(refused) => Some(refused.code),
            _ => None,
        })
        .await;
    assert_eq!(code, codes::BAD_REQUEST);
    assert!(client.next().await.is_none());
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_addresses_are_signed_with_a_higher_number_and_told_to_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = start(dir.path(), vec![]).await;
    let link = invite(&coordinator).await;
    let mut client = Client::connect(1, &coordinator, quic(&coordinator)).await;
    client.join(&link).await.unwrap();
    let service = &coordinator.service;
    let org = service.org();
    let seq = |signed: &Signed<Directory>| {
        let manifest = Manifest::verify(service.manifest(), &org).unwrap();
        Directory::verify(signed, &manifest).unwrap().seq
    };
    let before = seq(&service.directory());
    let addresses = vec![Address::new("203.0.113.77", 443)];
    let servers = Servers {
        addresses: addresses.clone(),
        bootstraps: vec![],
    };
    service.set_servers(servers).await.unwrap();
    let told = client
        .until(|_, m| match m {
            ServerMessage::Directory(told) => Some(told),
            _ => None,
        })
        .await;
    assert!(seq(&told.directory) > before);
    let link = invite(&coordinator).await;
    assert_eq!(Invite::parse(&link).unwrap().addresses, addresses);
    coordinator.shutdown().await;
}

/// Keeps whatever is put while it is not away, as a bootstrap does after checking it.
#[derive(Debug, Default)]
struct Keeper {
    kept: Mutex<BTreeMap<Option<NetworkId>, Mirrored>>,
    away: AtomicBool,
    /// Takes nothing in.
    refuses: AtomicBool,
    /// Leaves questions about a network without an answer.
    mute: AtomicBool,
    /// How often it was asked such a question.
    asked: AtomicUsize,
    beside: AtomicBool,
    /// What it was brought, in order, and how often it was away then.
    told: Mutex<Vec<Option<NetworkId>>>,
    missed: AtomicUsize,
}

impl Keeper {
    fn has(&self, network: NetworkId) -> bool {
        self.kept.lock().unwrap().contains_key(&Some(network))
    }
}

#[async_trait]
impl Mirror for Keeper {
    async fn ask(&self, request: MirrorRequest) -> Result<MirrorReply, MirrorError> {
        if self.away.load(Ordering::SeqCst) {
            self.missed.fetch_add(1, Ordering::SeqCst);
            return Err(MirrorError("away".to_owned()));
        }
        if matches!(request, MirrorRequest::Get(..)) {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.mute.load(Ordering::SeqCst) {
                return std::future::pending().await;
            }
        }
        let mut kept = self.kept.lock().unwrap();
        let found = |m: Option<&Mirrored>| match m {
            Some(m) => MirrorReply::Found(Box::new(m.clone())),
            None => MirrorReply::Unknown,
        };
        Ok(match request {
            MirrorRequest::Put(_) if self.refuses.load(Ordering::SeqCst) => {
                MirrorReply::Refused("no room".to_owned())
            }
            MirrorRequest::Put(put) => {
                let network = put.roster.as_ref().map(|r| {
                    let head: Head = kanpachi_common::cbor::decode(&r.head.payload, 2048).unwrap();
                    head.network
                });
                self.told.lock().unwrap().push(network);
                kept.insert(network, *put);
                MirrorReply::Kept
            }
            MirrorRequest::Get(_, network) => found(kept.get(&Some(network))),
            MirrorRequest::Directory(_) => found(kept.get(&None)),
        })
    }

    fn is_beside(&self) -> bool {
        self.beside.load(Ordering::SeqCst)
    }
}
