//! Somebody in the DHT, or who would like to be: a member without manners, or a stranger who knows the organisation.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use kanpachi_common::Hash;
use kanpachi_common::secret::NetworkSecret;
use kanpachi_common::wire::kademlia;
use kanpachi_common::{NodeId, OrgId, SecretKey};
use kanpachi_transport::swarm as stack;
use kanpachi_transport::{AddressFilter, Reader, SharedSocket, keypair_from_seed, peer_id};
use libp2p::kad::{
    self, QueryResult, Quorum, Record, RecordKey,
    store::{MemoryStore, RecordStore as _},
};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, identify};

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often one who haunts others sees to it that it is connected.
const HAUNTS: Duration = Duration::from_millis(500);
/// Keys that are looked through for each one that is to lie near a place.
const TRIES: u32 = 64;

#[derive(NetworkBehaviour)]
struct Behaviour {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
    streams: kanpachi_transport::streams::Behaviour,
}

/// A peer that speaks Kademlia and does what it is told. Inside a tokio runtime of the namespace.
pub struct DhtPeer {
    swarm: Swarm<Behaviour>,
    protocol: StreamProtocol,
    port: u16,
    _reader: Reader,
}

impl std::fmt::Debug for DhtPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DhtPeer").finish_non_exhaustive()
    }
}

impl DhtPeer {
    /// One with this identity, which keeps what it is given and tells of whom it meets.
    pub fn new(identity: &SecretKey, org: OrgId) -> Result<Self> {
        Self::with(identity, org, |_| {})
    }

    /// One that keeps nothing and so gives nobody anything, and tells of nobody but those of [`DhtPeer::tell_of`].
    pub fn withholding(identity: &SecretKey, org: OrgId) -> Result<Self> {
        Self::with(identity, org, |config| {
            config
                .set_record_filtering(kad::StoreInserts::FilterBoth)
                .set_kbucket_inserts(kad::BucketInserts::Manual);
        })
    }

    /// One that asks and is asked nothing, so that nobody puts it into a routing table.
    pub fn asking(identity: &SecretKey, org: OrgId) -> Result<Self> {
        let mut peer = Self::withholding(identity, org)?;
        let kad = &mut peer.swarm.behaviour_mut().kad;
        kad.set_mode(Some(kad::Mode::Client));
        Ok(peer)
    }

    fn with(
        identity: &SecretKey,
        org: OrgId,
        adjust: impl FnOnce(&mut kad::Config),
    ) -> Result<Self> {
        let keypair = keypair_from_seed(&identity.seed());
        let peer = keypair.public().to_peer_id();
        let socket = SharedSocket::bind_port(0)?;
        let port = socket.port();
        let reader = socket.spawn_reader(super::Silent)?;
        let name = StreamProtocol::try_from_owned(format!("/kanpachi/{org}/kad/1"))?;
        let mut config = kad::Config::new(name.clone());
        config.set_query_timeout(PATIENCE / 3);
        adjust(&mut config);
        let mut kad = kad::Behaviour::with_config(peer, MemoryStore::new(peer), config);
        kad.set_mode(Some(kad::Mode::Server));
        let identify = identify::Config::new("/kanpachi/1".to_owned(), keypair.public());
        let options = stack::Options {
            keypair,
            socket,
            filter: AddressFilter::allow_all(),
            relay: None,
            tcp: false,
            proxy: None,
            dials: None,
        };
        let behaviour = Behaviour {
            kad,
            identify: identify::Behaviour::new(identify),
            streams: kanpachi_transport::streams::Behaviour::new(),
        };
        let mut swarm = stack::swarm(options, behaviour)?;
        swarm.listen_on("/ip4/0.0.0.0/udp/0/quic-v1".parse()?)?;
        Ok(Self {
            swarm,
            protocol: name,
            port,
            _reader: reader,
        })
    }

    /// Its UDP port, on every address of its host.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// For streams of other protocols to and from whoever it meets.
    pub fn streams(&self) -> kanpachi_transport::streams::Control {
        self.swarm.behaviour().streams.new_control()
    }

    /// Will tell others that this one is there, whether it is or not.
    pub fn tell_of(&mut self, node: &NodeId, at: SocketAddr) {
        let address = quic(at);
        self.swarm
            .behaviour_mut()
            .kad
            .add_address(&peer_id(*node), address);
    }

    /// Is there for whoever asks, and connects to these again and again, until it is told to stop.
    pub async fn haunt(&mut self, whom: &[(NodeId, SocketAddr)], stop: &AtomicBool) {
        let mut tick = tokio::time::interval(HAUNTS);
        while !stop.load(Ordering::Relaxed) {
            tokio::select! {
                _ = self.swarm.select_next_some() => continue,
                _ = tick.tick() => {}
            }
            for (node, at) in whom {
                let peer = peer_id(*node);
                let options = DialOpts::peer_id(peer)
                    .addresses(vec![quic(*at)])
                    .condition(PeerCondition::DisconnectedAndNotDialing);
                // Whoever is connected, or being dialled, is refused here.
                let _ = self.swarm.dial(options.build());
            }
        }
    }

    async fn until<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(SwarmEvent<BehaviourEvent>) -> Option<T>,
    ) -> Result<T> {
        let found = async {
            loop {
                if let Some(found) = wanted(self.swarm.select_next_some().await) {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.with_context(|| format!("{what} took too long"))
    }

    /// Connects to somebody and waits until both have told who they are.
    pub async fn meet(&mut self, node: &NodeId, at: SocketAddr) -> Result<()> {
        let peer = peer_id(*node);
        let address = quic(at);
        // It may have been told by somebody else, and have dialled already.
        if self.swarm.is_connected(&peer) {
            self.swarm.behaviour_mut().kad.add_address(&peer, address);
            return Ok(());
        }
        self.swarm.dial(
            DialOpts::peer_id(peer)
                .addresses(vec![address.clone()])
                .condition(PeerCondition::Always)
                .build(),
        )?;
        self.until("meeting", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                ..
            })) if peer_id == peer => Some(Ok(())),
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(whom),
                error,
                ..
            } if whom == peer => Some(Err(anyhow!("{error:?}"))),
            SwarmEvent::ConnectionClosed { peer_id, cause, .. } if peer_id == peer => {
                Some(Err(anyhow!("closed: {cause:?}")))
            }
            _ => None,
        })
        .await??;
        self.swarm.behaviour_mut().kad.add_address(&peer, address);
        Ok(())
    }

    /// Offers a record to one peer; whether it keeps it nobody says.
    pub async fn put(&mut self, to: &NodeId, key: &[u8], value: Vec<u8>) -> Result<()> {
        let record = Record::new(RecordKey::new(&key), value);
        let to: [PeerId; 1] = [peer_id(*to)];
        let kad = &mut self.swarm.behaviour_mut().kad;
        let query = kad.put_record_to(record, to.into_iter(), Quorum::One);
        self.finished(query).await.map(drop)
    }

    /// Will give this to whoever looks for it here.
    pub fn keep(&mut self, key: &[u8], value: Vec<u8>) -> Result<()> {
        let record = Record::new(RecordKey::new(&key), value);
        let store = self.swarm.behaviour_mut().kad.store_mut();
        store.put(record).map_err(|error| anyhow!("{error:?}"))
    }

    /// Says goodbye to everybody.
    pub async fn leave(self) {
        stack::shutdown(self.swarm, PATIENCE).await;
    }

    /// Says to everybody that it provides this.
    pub async fn provide(&mut self, key: &[u8]) -> Result<()> {
        let kad = &mut self.swarm.behaviour_mut().kad;
        let Ok(query) = kad.start_providing(RecordKey::new(&key)) else {
            return Ok(());
        };
        self.finished(query).await.map(drop)
    }

    /// The values under a key, from all who answer.
    pub async fn get(&mut self, key: &[u8]) -> Result<Vec<Vec<u8>>> {
        let kad = &mut self.swarm.behaviour_mut().kad;
        let query = kad.get_record(RecordKey::new(&key));
        let results = self.finished(query).await?;
        let values = results.into_iter().filter_map(|result| match result {
            QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(found))) => {
                Some(found.record.value)
            }
            _ => None,
        });
        Ok(values.collect())
    }

    /// What one server that it has met answers when it is asked for a record: all of it, as it comes.
    pub async fn asks_one(&mut self, server: &NodeId, key: &[u8; 32]) -> Result<Vec<u8>> {
        let mut control = self.streams();
        let (peer, protocol) = (peer_id(*server), self.protocol.clone());
        let conversation = async {
            let mut stream = control.open_stream(peer, protocol).await?;
            stream.write_all(&kademlia::question(key)).await?;
            stream.close().await?;
            let mut answer = Vec::new();
            let limit = u64::try_from(kademlia::MAX_ANSWER)?;
            stream.take(limit).read_to_end(&mut answer).await?;
            Ok(answer)
        };
        tokio::pin!(conversation);
        loop {
            tokio::select! {
                answer = &mut conversation => return answer,
                _ = self.swarm.select_next_some() => {}
            }
        }
    }

    /// The addresses of all who are said to be near somebody.
    pub async fn around(&mut self, node: &NodeId) -> Result<Vec<(PeerId, Vec<Multiaddr>)>> {
        self.closest(peer_id(*node).to_bytes()).await
    }

    /// The same for a key of the DHT.
    pub async fn closest(&mut self, key: Vec<u8>) -> Result<Vec<(PeerId, Vec<Multiaddr>)>> {
        let kad = &mut self.swarm.behaviour_mut().kad;
        let query = kad.get_closest_peers(key);
        let results = self.finished(query).await?;
        let peers = results.into_iter().flat_map(|result| match result {
            QueryResult::GetClosestPeers(
                Ok(kad::GetClosestPeersOk { peers, .. })
                | Err(kad::GetClosestPeersError::Timeout { peers, .. }),
            ) => peers,
            _ => vec![],
        });
        Ok(peers.map(|info| (info.peer_id, info.addrs)).collect())
    }

    async fn finished(&mut self, query: kad::QueryId) -> Result<Vec<QueryResult>> {
        let mut results = Vec::new();
        self.until("a query", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result,
                step,
                ..
            })) if id == query => {
                results.push(result);
                step.last.then_some(())
            }
            _ => None,
        })
        .await?;
        Ok(results)
    }
}

fn quic(at: SocketAddr) -> Multiaddr {
    Multiaddr::from(at.ip())
        .with(Protocol::Udp(at.port()))
        .with(Protocol::QuicV1)
}

/// Seeds of identities that lie nearer to a key of the DHT than chance would have it, nearest first.
pub fn seeds_near(key: &[u8; 32], count: usize) -> Vec<[u8; 32]> {
    let target = kad::KBucketKey::from(RecordKey::new(key));
    let tries = u32::try_from(count)
        .unwrap_or(u32::MAX)
        .saturating_mul(TRIES);
    let mut seeds: Vec<_> = (0..tries)
        .map(|n| {
            let seed = Hash::of(&[b"near", key, &n.to_be_bytes()]).0;
            let peer = peer_id(SecretKey::from_seed(&seed).node_id());
            (target.distance(&kad::KBucketKey::from(peer)), seed)
        })
        .collect();
    seeds.sort_unstable();
    seeds
        .into_iter()
        .map(|(_, seed)| seed)
        .take(count)
        .collect()
}

/// The newest secret of the one network on a node's disk.
pub fn stolen_secret(state_dir: &std::path::Path) -> Result<NetworkSecret> {
    let db = rusqlite::Connection::open(state_dir.join("node.db"))?;
    let sql = "SELECT id, secret FROM secrets ORDER BY id DESC LIMIT 1";
    let (id, secret): (u32, Vec<u8>) = db.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?)))?;
    let bytes = secret.try_into().ok().context("an odd secret")?;
    Ok(NetworkSecret::new(id, bytes))
}
