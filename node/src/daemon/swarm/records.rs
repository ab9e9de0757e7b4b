//! The DHT's part in peer records: putting, getting, and keeping for others what the core says is to be kept.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use kanpachi_common::{Hash, NodeId};
use kanpachi_proto::records::{Action, Query};
use kanpachi_transport::{node_id, peer_id, routing};
use libp2p::{
    PeerId,
    kad::{
        self, GetRecordOk, InboundRequest, ProgressStep, QueryId, QueryResult, Quorum, Record,
        RecordKey,
        store::{MemoryStore, RecordStore as _},
    },
    swarm::ConnectionId,
};

use tokio::task::AbortHandle;

use super::{
    Event, Task,
    calls::Call,
    trickle::{Given, Offer, Trickle},
};

/// Servers that a record is given to: the nearest to its key.
const NEAREST: usize = 20;
/// Fewer than this are not enough: the others are asked for nearer ones, although the table has all that there are.
const FEW: usize = 3;
/// Records that one peer may offer in a burst, and how long one takes to come back. Far more than it has networks.
const BURST: u32 = 64;
const BACK: Duration = Duration::from_millis(500);
/// Peers whose offers are counted.
const MAX_COUNTED: usize = 8192;

/// What happened in the DHT.
#[derive(Debug)]
pub(in crate::daemon) enum RecordEvent {
    /// A record went out to so many servers.
    Stored { query: Query, servers: usize },
    /// A look-up found something.
    Value { query: Query, value: Vec<u8> },
    /// A look-up ended.
    Finished(Query),
    /// Somebody wants a record kept here.
    Offered {
        source: NodeId,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    /// A server can be reached that could not be before: one of the directory's, or a member.
    Server { node: NodeId, lasting: bool },
}

#[derive(Debug)]
enum Track {
    Put {
        /// `None` after the beginning of a round: nobody waits for that.
        query: Option<Query>,
        offer: Offer,
        /// What is put to nearer servers if hardly any of those takes it.
        again: Option<(Record, BTreeSet<PeerId>)>,
    },
    /// Puts the record to those that were not given it yet.
    Closest {
        record: Record,
        /// The round, as the trickle counts them.
        number: u64,
        given: BTreeSet<PeerId>,
    },
    Get(Query),
}

/// A look-up, until both have ended.
#[derive(Debug)]
struct Get {
    /// Of whoever is nearest to the key.
    nearest: Option<QueryId>,
    /// Of the bootstraps.
    bootstraps: Option<AbortHandle>,
}

/// Queries under way, and how much each peer has offered.
#[derive(Debug, Default)]
pub(super) struct Dht {
    tracks: HashMap<QueryId, Track>,
    gets: HashMap<Query, Get>,
    pub(super) servers: BTreeSet<PeerId>,
    offers: HashMap<PeerId, (u32, Instant)>,
    pub(super) trickle: Trickle,
    /// What servers are given that are being dialled at one address.
    pub(super) calls: HashMap<ConnectionId, Call>,
}

impl Dht {
    /// May this peer offer one more?
    fn admit(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.offers.len() >= MAX_COUNTED {
            self.offers.retain(|_, (_, at)| now < *at + BACK * BURST);
        }
        let (left, at) = self.offers.entry(peer).or_insert((BURST, now));
        let back = now.duration_since(*at).as_millis() / BACK.as_millis();
        if back > 0 {
            *left = BURST.min(left.saturating_add(u32::try_from(back).unwrap_or(BURST)));
            *at = now;
        }
        let admitted = *left > 0;
        *left = left.saturating_sub(1);
        admitted
    }
}

/// The servers known here that are to have a record.
fn nearest(kad: &mut kad::Behaviour<MemoryStore>, key: &RecordKey) -> Vec<PeerId> {
    let target = kad::KBucketKey::from(key.clone());
    let nearest = kad.get_closest_local_peers(&target).take(NEAREST);
    nearest.map(|key| *key.preimage()).collect()
}

/// Who is given a record at once. What is not new goes to the bootstraps, or to a few others where none of them is connected.
fn whom(
    gently: bool,
    mut bootstraps: Vec<PeerId>,
    mut nearest: Vec<PeerId>,
    connected: impl Fn(&PeerId) -> bool,
) -> Vec<PeerId> {
    nearest.retain(|peer| !bootstraps.contains(peer));
    if gently {
        let least = if bootstraps.iter().any(&connected) {
            0
        } else {
            FEW
        };
        // Those first that are connected; otherwise the nearest first.
        nearest.sort_by_key(|peer| !connected(peer));
        nearest.truncate(least);
    }
    bootstraps.extend(nearest);
    bootstraps
}

fn key_of(hash: &Hash) -> RecordKey {
    RecordKey::new(&hash.0)
}

impl Task {
    pub(super) fn handle_record_action(&mut self, action: Action) {
        match action {
            Action::Put {
                query,
                key,
                value,
                life,
                gently,
            } => {
                let record = self.keep(&key, value, life);
                self.put(query, record, life, gently);
            }
            Action::PutOne(keys) => {
                self.keep_only(&keys);
                self.put_one();
            }
            Action::Give { server, lost, keys } => {
                self.keep_only(&keys);
                self.give(peer_id(server), lost);
            }
            Action::Get { query, key, gently } => self.get(query, &key, gently),
            Action::Stop(query) => self.stop_get(query),
            Action::Keep { key, value, life } => drop(self.keep(&key, value, life)),
            Action::Drop(keys) => {
                let store = self.kad().store_mut();
                for key in keys {
                    store.remove(&key_of(&key));
                }
            }
            Action::Found(_) => {}
        }
    }

    fn keep(&mut self, key: &Hash, value: Vec<u8>, life: Duration) -> Record {
        let record = Record {
            key: key_of(key),
            value,
            // Whose it is, is nobody's business.
            publisher: None,
            expires: Some(Instant::now() + life),
        };
        if let Err(error) = self.kad().store_mut().put(record.clone()) {
            tracing::debug!(?error, "a record was not kept");
        }
        record
    }

    fn get(&mut self, query: Query, key: &Hash, gently: bool) {
        let nearest = (!gently).then(|| self.kad().get_record(key_of(key)));
        if let Some(id) = nearest {
            self.dht.tracks.insert(id, Track::Get(query));
        }
        let bootstraps = self.ask_bootstraps(query, key);
        let get = Get {
            nearest,
            bootstraps,
        };
        self.dht.gets.insert(query, get);
        self.check_finished(query);
    }

    fn stop_get(&mut self, query: Query) {
        let Some(get) = self.dht.gets.remove(&query) else {
            return;
        };
        if let Some(asking) = get.bootstraps {
            asking.abort();
        }
        if let Some(id) = get.nearest {
            self.dht.tracks.remove(&id);
            if let Some(mut query) = self.kad().query_mut(&id) {
                query.finish();
            }
        }
    }

    /// The bootstraps have answered, or will not.
    pub(super) fn handle_asked(&mut self, query: Query) {
        if let Some(get) = self.dht.gets.get_mut(&query) {
            get.bootstraps = None;
        }
        self.check_finished(query);
    }

    fn check_finished(&mut self, query: Query) {
        let get = self.dht.gets.get(&query);
        if get.is_some_and(|get| get.nearest.is_none() && get.bootstraps.is_none()) {
            self.dht.gets.remove(&query);
            self.tell(Event::Record(RecordEvent::Finished(query)));
        }
    }

    /// Gives a record of this node to the bootstraps and to the nearest servers known here at once, and to nearer ones as they
    /// are found. What is not new, to the bootstraps or a few; the others have it [one by one](Self::put_one).
    fn put(&mut self, query: Query, record: Record, life: Duration, gently: bool) {
        // Before the others: not all are given it at once, and some of those may be long in not answering.
        let bootstraps = self.reach_bootstraps();
        let nearest = nearest(self.kad(), &record.key);
        let known = bootstraps.iter().chain(&nearest).copied().collect();
        let swarm = &self.swarm;
        let servers = whom(gently, bootstraps, nearest, |peer| swarm.is_connected(peer));
        tracing::debug!(gently, servers = servers.len(), "a record goes out");
        let now = crate::clock::now();
        let number = self.dht.trickle.start(&record, life, &servers, now);
        let offer = Offer {
            key: record.key.clone(),
            number,
            servers,
            at_once: true,
        };
        let all = offer.servers.clone().into_iter();
        let id = self.kad().put_record_to(record.clone(), all, Quorum::All);
        // Of few members, those that have no address here have not been there: they are not looked for each time. Of many, the
        // table has room for those only that are near to this node.
        let walks = !gently || self.members.len() > 2 * NEAREST;
        let again = if walks && !self.knows_all_servers() {
            self.put_nearer(record, number, known);
            None
        } else {
            (!gently).then_some((record, known))
        };
        let query = Some(query);
        let track = Track::Put {
            query,
            offer,
            again,
        };
        self.dht.tracks.insert(id, track);
    }

    /// One server more is given what it had the longest ago. Who does not take it has its next turn in the next round.
    fn put_one(&mut self) {
        // A bootstrap that did not take it at once.
        let bootstraps = self.bootstraps.keys();
        let there = bootstraps.filter(|peer| self.swarm.is_connected(peer));
        let there: Vec<PeerId> = there.copied().collect();
        let (kad, trickle) = self.trickle();
        let servers = |key: &RecordKey| {
            let mut servers = nearest(kad, key);
            servers.extend(&there);
            servers
        };
        if let Some((server, given)) = trickle.next(servers, crate::clock::now()) {
            self.call(server, given);
        }
    }

    /// Of those to whom a record was offered these took it.
    pub(super) fn end_offer(&mut self, offer: &Offer, taken: &[PeerId]) {
        let came = (self.dht.trickle).ended(offer, taken, crate::clock::now());
        for server in came {
            self.give(server, false);
        }
    }

    /// A server that is connected is given what it misses, or everything, if it may have lost that. One that has gone again is not
    /// dialled for it: it could go on so for ever.
    fn give(&mut self, server: PeerId, lost: bool) {
        if !self.dht.servers.contains(&server) {
            return;
        }
        let all = self.bootstraps.contains_key(&server);
        let (kad, trickle) = self.trickle();
        let servers = |key: &RecordKey| {
            if all { vec![server] } else { nearest(kad, key) }
        };
        let given = trickle.to(&server, servers, lost, crate::clock::now());
        self.put_to(server, given, lost);
    }

    fn keep_only(&mut self, keys: &[Hash]) {
        let keys: Vec<_> = keys.iter().map(key_of).collect();
        self.dht.trickle.keep_only(&keys);
    }

    fn trickle(&mut self) -> (&mut kad::Behaviour<MemoryStore>, &mut Trickle) {
        let (behaviour, trickle) = (self.swarm.behaviour_mut(), &mut self.dht.trickle);
        (&mut behaviour.for_known.inner_mut().kad, trickle)
    }

    pub(super) fn put_to(&mut self, server: PeerId, given: Vec<Given>, at_once: bool) {
        for Given { record, number } in given {
            tracing::debug!(%server, "a record goes out to one");
            self.put_after(record, number, vec![server], at_once);
        }
    }

    /// Gives servers what others had at the beginning of a round.
    fn put_after(&mut self, record: Record, number: u64, servers: Vec<PeerId>, at_once: bool) {
        let offer = Offer {
            key: record.key.clone(),
            number,
            servers,
            at_once,
        };
        let all = offer.servers.clone().into_iter();
        let id = self.kad().put_record_to(record, all, Quorum::All);
        let (query, again) = (None, None);
        let track = Track::Put {
            query,
            offer,
            again,
        };
        self.dht.tracks.insert(id, track);
    }

    /// Asks around for servers that are nearer to a record, and puts it there.
    fn put_nearer(&mut self, record: Record, number: u64, given: BTreeSet<PeerId>) {
        tracing::debug!(known = given.len(), "nearer servers are looked for");
        let closest = self.kad().get_closest_peers(record.key.to_vec());
        let track = Track::Closest {
            record,
            number,
            given,
        };
        self.dht.tracks.insert(closest, track);
    }

    /// Does the routing table have all members? Then nobody knows of nearer ones, and asking around would cost far more
    /// than the record.
    fn knows_all_servers(&mut self) -> bool {
        let members = self.members.clone();
        let mut known = 0;
        for bucket in self.kad().kbuckets() {
            let entries = bucket.iter();
            let peers = entries.map(|entry| *entry.node.key.preimage());
            known += peers.filter(|peer| members.contains(peer)).count();
        }
        known >= members.len()
    }

    pub(super) fn handle_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } => self.handle_progress(id, result, &step),
            kad::Event::InboundRequest {
                request:
                    InboundRequest::PutRecord {
                        source,
                        record: Some(record),
                        ..
                    },
            } => self.handle_offer(source, record),
            // Provider records are dropped by not being stored.
            _ => {}
        }
    }

    fn handle_offer(&mut self, source: PeerId, record: Record) {
        let Some(node) = node_id(&source) else {
            return;
        };
        if !self.dht.admit(source, crate::clock::now()) {
            tracing::trace!(%source, "offers too many records");
            return;
        }
        self.tell(Event::Record(RecordEvent::Offered {
            source: node,
            key: record.key.to_vec(),
            value: record.value,
        }));
    }

    fn handle_progress(&mut self, id: QueryId, result: QueryResult, step: &ProgressStep) {
        match (self.dht.tracks.get(&id), result) {
            (Some(Track::Put { .. }), QueryResult::PutRecord(result)) => {
                let taken = match result {
                    Ok(_) => None,
                    Err(
                        kad::PutRecordError::QuorumFailed { success, .. }
                        | kad::PutRecordError::Timeout { success, .. },
                    ) => Some(success),
                };
                self.end_put(id, taken);
            }
            (Some(Track::Get(query)), QueryResult::GetRecord(result)) => {
                let query = *query;
                if let Ok(GetRecordOk::FoundRecord(found)) = result {
                    let value = found.record.value;
                    self.tell(Event::Record(RecordEvent::Value { query, value }));
                }
                if step.last {
                    self.dht.tracks.remove(&id);
                    if let Some(get) = self.dht.gets.get_mut(&query) {
                        get.nearest = None;
                    }
                    self.check_finished(query);
                }
            }
            (Some(Track::Closest { .. }), QueryResult::GetClosestPeers(result)) if step.last => {
                let Some(Track::Closest {
                    record,
                    number,
                    given,
                }) = self.dht.tracks.remove(&id)
                else {
                    return;
                };
                let peers = match result {
                    Ok(found) => found.peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                let local = *self.swarm.local_peer_id();
                let more: Vec<PeerId> = peers
                    .iter()
                    .map(|info| info.peer_id)
                    .filter(|peer| *peer != local && !given.contains(peer))
                    .take(NEAREST)
                    .collect();
                let more = self.dht.trickle.extend(&record.key, number, more);
                if !more.is_empty() {
                    self.put_after(record, number, more, true);
                }
            }
            _ => {}
        }
    }

    /// A put has ended; these servers took it, or all.
    fn end_put(&mut self, id: QueryId, taken: Option<Vec<PeerId>>) {
        let Some(Track::Put {
            query,
            offer,
            again,
        }) = self.dht.tracks.remove(&id)
        else {
            return;
        };
        let taken = taken.as_ref().unwrap_or(&offer.servers);
        self.end_offer(&offer, taken);
        let Some(query) = query else {
            return;
        };
        let servers = taken.len();
        if let Some((record, given)) = again.filter(|_| servers < FEW) {
            self.put_nearer(record, offer.number, given);
        }
        self.tell(Event::Record(RecordEvent::Stored { query, servers }));
    }

    /// A peer that speaks the DHT's protocol is connected.
    pub(super) fn note_server(&mut self, peer: PeerId) {
        let new = self.dht.servers.insert(peer);
        if let Some(node) = node_id(&peer).filter(|_| new) {
            let lasting = self.bootstraps.contains_key(&peer);
            self.tell(Event::Record(RecordEvent::Server { node, lasting }));
        }
    }

    /// Where members may be, for the routing table: they serve each other when nobody else is there.
    pub(super) fn set_addresses(&mut self, node: &NodeId, addrs: &[SocketAddr]) {
        let peer = peer_id(*node);
        if !self.members.contains(&peer) {
            return;
        }
        routing::replace(
            self.kad(),
            &peer,
            addrs.iter().map(|addr| super::quic_addr(*addr)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_new_goes_to_the_bootstraps_or_to_a_few() {
        let peers: Vec<PeerId> = (0..12).map(|_| PeerId::random()).collect();
        let (bootstraps, nearest) = (peers[..2].to_vec(), peers[1..].to_vec());
        let whom = |gently, there: &[PeerId]| {
            let connected = |peer: &PeerId| there.contains(peer);
            whom(gently, bootstraps.clone(), nearest.clone(), connected)
        };
        assert_eq!(whom(false, &[]), peers);
        // A bootstrap is there, and a member.
        assert_eq!(whom(true, &[peers[0], peers[7]]), peers[..2]);
        // The bootstraps are listed and dead.
        assert_eq!(whom(true, &[]), peers[..5]);
        let there = [peers[7]];
        let few = [0, 1, 7, 2, 3].map(|at| peers[at]);
        assert_eq!(whom(true, &there), few);
    }
}
