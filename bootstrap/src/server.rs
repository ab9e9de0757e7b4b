//! The event loop: the only code that sees the swarm, the mirror and the DHT's records together.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use kanpachi_common::record::shelf::{Offer, Shelf};
use kanpachi_transport::{
    AddressFilter, Reader, node_id, peer_id, resolve, routing, swarm::shutdown,
};
use libp2p::{
    Multiaddr, PeerId, Swarm, identify,
    kad::{
        self, InboundRequest, Record, RecordKey,
        store::{MemoryStore, RecordStore as _},
    },
    multiaddr::Protocol,
    swarm::{SwarmEvent, dial_opts::DialOpts},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    behaviour::{Behaviour, BehaviourEvent, RECORDS, admits},
    handle::Shared,
    mirror::Mirror,
};

/// How often the routing table is gone through, which asks every member several times. Members come into it when they connect, and
/// kad looks around by itself as long as there are few.
const REFRESH: Duration = Duration::from_secs(6 * 60 * 60);
/// How often expired records are dropped and missing bootstraps are dialled.
const TICK: Duration = Duration::from_secs(30);
/// Goodbyes take at most this long.
const GOODBYE: Duration = Duration::from_millis(700);

/// What the owner may ask for.
#[derive(Debug)]
pub(crate) enum Command {
    AddExternal(Multiaddr),
    RemoveExternal(Multiaddr),
    Disconnect(PeerId),
    Stop,
}

/// What a server is made of.
pub(crate) struct Parts {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) reader: Reader,
    pub(crate) mirror: Mirror,
    pub(crate) filter: AddressFilter,
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Nothing was given to advertise: tell of the addresses that it listens on.
    pub(crate) announce_listeners: bool,
    /// Of loopback too: it listens on nothing else.
    pub(crate) announce_loopback: bool,
}

/// The running bootstrap.
pub(crate) struct Server {
    parts: Parts,
    /// Which records are kept, and who brought them.
    shelf: Shelf,
    /// Connected peers that were let into the DHT when they were last looked at, whatever protocols they speak.
    members: BTreeSet<PeerId>,
    /// Where connected peers said that they are who could be members before long.
    applicants: BTreeMap<PeerId, Vec<Multiaddr>>,
    /// Those that are no members any more, for as long as they are told so.
    leaving: FuturesUnordered<BoxFuture<'static, PeerId>>,
    directory_changes: watch::Receiver<u64>,
    dials: mpsc::Receiver<DialOpts>,
    dial: mpsc::Sender<DialOpts>,
    tick: Interval,
    refresh: Interval,
}

impl Server {
    pub(crate) fn new(parts: Parts) -> Self {
        let (mut tick, mut refresh) = (interval(TICK), interval(REFRESH));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // One look-up for each bootstrap of a directory at a time.
        let (dial, dials) = mpsc::channel(kanpachi_common::org::MAX_SERVERS);
        Self {
            directory_changes: parts.mirror.watch(),
            parts,
            shelf: Shelf::new(RECORDS),
            members: BTreeSet::new(),
            applicants: BTreeMap::new(),
            leaving: FuturesUnordered::new(),
            dials,
            dial,
            tick,
            refresh,
        }
    }

    pub(crate) fn add_external(&mut self, addresses: Vec<Multiaddr>) {
        for addr in addresses {
            self.parts.swarm.add_external_address(addr);
        }
        self.publish_external();
    }

    fn publish_external(&self) {
        let all = self.parts.swarm.external_addresses().cloned().collect();
        *write(&self.parts.shared.external) = all;
    }

    /// Runs until the system has listed the addresses of every listener, or time is up: a family without any
    /// address never has one.
    pub(crate) async fn wait_for_addresses(&mut self, timeout: Duration) {
        let deadline = tokio::time::sleep(timeout);
        tokio::pin!(deadline);
        loop {
            // The system lists everything it has at once: an idle moment after the first address is the end.
            let known = !read_is_empty(&self.parts.shared.listen);
            let idle = async {
                if known {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                event = self.parts.swarm.select_next_some() => self.on_event(event),
                () = idle => return,
                () = &mut deadline => return,
            }
        }
    }

    /// Runs until told to stop (`None`) or until it cannot go on (why).
    pub(crate) async fn run(mut self) -> Option<String> {
        let why = loop {
            tokio::select! {
                event = self.parts.swarm.select_next_some() => self.on_event(event),
                command = self.parts.commands.recv() => match command {
                    Some(Command::Stop) | None => break None,
                    Some(command) => self.on_command(command),
                },
                () = self.parts.reader.ended() => {
                    break Some("the UDP socket of the bootstrap failed; see the log".to_owned());
                }
                Some(opts) = self.dials.recv() => self.on_dial(opts),
                Some(peer) = self.leaving.next() => self.on_left(peer),
                Ok(()) = self.directory_changes.changed() => {
                    self.check_members();
                    self.dial_bootstraps();
                }
                _ = self.refresh.tick() => {
                    // The error says that nobody is known yet.
                    let _ = self.kad().bootstrap();
                }
                _ = self.tick.tick() => {
                    self.drop_expired();
                    self.dial_bootstraps();
                }
            }
        };
        shutdown(self.parts.swarm, GOODBYE).await;
        match self.parts.reader.stop() {
            Ok(()) => why,
            Err(e) => Some(format!("the UDP socket of the bootstrap failed: {e}")),
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::AddExternal(addr) => self.add_external(vec![addr]),
            Command::RemoveExternal(addr) => {
                self.parts.swarm.remove_external_address(&addr);
                self.publish_external();
            }
            Command::Disconnect(peer) => {
                // The error says that it is gone already.
                let _ = self.parts.swarm.disconnect_peer_id(peer);
            }
            Command::Stop => {}
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => self.on_identify(peer_id, &info),
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::InboundRequest {
                request:
                    InboundRequest::PutRecord {
                        source,
                        record: Some(record),
                        ..
                    },
            })) => self.on_record(source, record),
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(&address),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_not_listening(&address),
            SwarmEvent::ListenerClosed { addresses, .. } => {
                addresses
                    .iter()
                    .for_each(|addr| self.on_not_listening(addr));
            }
            SwarmEvent::ConnectionEstablished { peer_id, .. }
                if admits(&self.parts.mirror, &peer_id) =>
            {
                self.members.insert(peer_id);
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                num_established: 0,
                ..
            } => {
                self.members.remove(&peer_id);
                self.applicants.remove(&peer_id);
            }
            // Everything else is the protocols' own business: provider records are dropped by not being stored,
            // queries are kad's refreshing of its buckets.
            _ => {}
        }
    }

    fn on_listening(&mut self, addr: &Multiaddr) {
        tracing::debug!(%addr, "listening");
        write(&self.parts.shared.listen).push(addr.clone());
        let loopback = ip_of(addr).is_some_and(|ip| ip.is_loopback());
        if self.parts.announce_listeners && (self.parts.announce_loopback || !loopback) {
            self.add_external(vec![addr.clone()]);
        }
    }

    fn on_not_listening(&mut self, addr: &Multiaddr) {
        tracing::debug!(%addr, "no longer listening");
        write(&self.parts.shared.listen).retain(|known| known != addr);
        if self.parts.announce_listeners {
            self.parts.swarm.remove_external_address(addr);
            self.publish_external();
        }
    }

    /// Puts a member into the routing table, with what it says and what is seen of its addresses. Whoever is none yet says it
    /// before it joins, and not again for a long time.
    fn on_identify(&mut self, peer: PeerId, info: &identify::Info) {
        let kad = self.parts.swarm.behaviour().kad.inner();
        let speaks = kad
            .protocol_names()
            .iter()
            .any(|name| info.protocols.contains(name));
        if !speaks {
            return;
        }
        let near = self.remote_is_loopback(&peer);
        let usable = |addr: &&Multiaddr| {
            let ip_fits = match ip_of(addr) {
                Some(ip) => self.parts.filter.allows(addr) && (near || !ip.is_loopback()),
                None => false,
            };
            let names_it = !addr
                .iter()
                .any(|p| matches!(p, Protocol::P2p(id) if id != peer))
                || addr.iter().any(|p| p == Protocol::P2pCircuit);
            ip_fits && names_it
        };
        let addresses = info.listen_addrs.iter().filter(usable).cloned();
        if admits(&self.parts.mirror, &peer) {
            let addresses: Vec<Multiaddr> = addresses.collect();
            routing::add(self.kad(), &peer, addresses);
            self.applicants.remove(&peer);
        } else if self.parts.swarm.is_connected(&peer) {
            self.applicants.insert(peer, routing::within(addresses));
        }
    }

    /// Does this peer run on this machine? Then its loopback addresses are worth something.
    fn remote_is_loopback(&self, peer: &PeerId) -> bool {
        let remotes = &self.parts.swarm.behaviour().remotes;
        let addresses = remotes.remotes().addresses(peer);
        let mut ips = addresses.iter().filter_map(ip_of);
        ips.any(|ip| ip.is_loopback())
    }

    /// Keeps a record of a member if it is properly signed and there is room.
    fn on_record(&mut self, source: PeerId, record: Record) {
        let Some(bearer) = node_id(&source).filter(|node| self.parts.mirror.admits(node)) else {
            tracing::debug!(%source, "a record of a stranger is not kept");
            return;
        };
        let now = Instant::now();
        let taken = self.shelf.offer(
            &Offer {
                source: bearer,
                key: record.key.as_ref(),
                value: &record.value,
            },
            now,
        );
        let taken = match taken {
            Ok(taken) => taken,
            Err(why) => {
                tracing::debug!(%source, %why, "a record is not kept");
                return;
            }
        };
        let store = self.kad().store_mut();
        for key in taken.dropped {
            store.remove(&RecordKey::new(&key.0));
        }
        let kept = store.put(Record {
            key: record.key,
            value: record.value,
            // Whose it is, is nobody's business.
            publisher: None,
            expires: Some(now + taken.life),
        });
        if let Err(e) = kept {
            tracing::warn!(error = ?e, "there is no room for another record");
        }
    }

    fn drop_expired(&mut self) {
        let expired = self.shelf.expire(Instant::now());
        let store = self.kad().store_mut();
        for key in expired {
            store.remove(&RecordKey::new(&key.0));
        }
    }

    fn kad(&mut self) -> &mut kad::Behaviour<MemoryStore> {
        self.parts.swarm.behaviour_mut().kad.inner_mut()
    }

    /// Whoever is no member any more is looked up by nobody from now on, and loses the streams that it has open as soon as
    /// those who have something to say about it have said it.
    fn check_members(&mut self) {
        let mirror = self.parts.mirror.clone();
        let connected = self.parts.swarm.connected_peers().copied();
        let admitted: BTreeSet<PeerId> = connected.filter(|peer| admits(&mirror, peer)).collect();
        for peer in &admitted {
            if let Some(addresses) = self.applicants.remove(peer) {
                routing::add(self.kad(), peer, addresses);
            }
        }
        let before = std::mem::replace(&mut self.members, admitted);
        let gone: Vec<PeerId> = before.difference(&self.members).copied().collect();
        for peer in gone {
            // It may be back at once: rosters of several networks come one after the other.
            let addresses = routing::known(self.kad(), &peer);
            self.applicants.insert(peer, addresses);
            self.kad().remove_peer(&peer);
            let later = tokio::time::sleep(GOODBYE).map(move |()| peer);
            self.leaving.push(later.boxed());
        }
    }

    fn on_left(&mut self, peer: PeerId) {
        if !admits(&self.parts.mirror, &peer) {
            // The error says that it is gone already.
            let _ = self.parts.swarm.disconnect_peer_id(peer);
        }
    }

    /// Looks up the other bootstraps of the organisation, so that they are one DHT.
    fn dial_bootstraps(&mut self) {
        let Some(directory) = self.parts.mirror.directory() else {
            return;
        };
        let me = node_id(self.parts.swarm.local_peer_id());
        for server in directory.bootstraps {
            let peer = peer_id(server.id);
            if Some(server.id) == me || self.parts.swarm.is_connected(&peer) {
                continue;
            }
            let Ok(permit) = self.dial.clone().try_reserve_owned() else {
                // Earlier look-ups are still under way.
                return;
            };
            tokio::spawn(async move {
                let mut addresses = Vec::new();
                for address in &server.addresses {
                    match resolve(address).await {
                        Ok(found) => addresses.extend(found),
                        Err(e) => tracing::debug!(%address, error = %e, "not found"),
                    }
                }
                permit.send(DialOpts::peer_id(peer).addresses(addresses).build());
            });
        }
    }

    fn on_dial(&mut self, opts: DialOpts) {
        if let Err(e) = self.parts.swarm.dial(opts) {
            tracing::debug!(error = %e, "another bootstrap was not dialled");
        }
    }
}

/// The first IP address in a multiaddr.
fn ip_of(addr: &Multiaddr) -> Option<IpAddr> {
    addr.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    // Each change is one step, so that no panic leaves half of one.
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn read_is_empty(list: &RwLock<Vec<Multiaddr>>) -> bool {
    list.read()
        .unwrap_or_else(PoisonError::into_inner)
        .is_empty()
}
