//! The member's side of relays: sessions at several of them, and a channel to each peer that is wanted.
//!
//! The shell opens a stream to each relay and keeps it open; this machine says what goes over it, binds the shared socket's
//! address to the session by datagrams, and knows which channels are open at both ends. Each of them is a *way* to a peer,
//! named by a [`Via`] address, and a path like any other to the tunnels. Formats: [`kanpachi_common::wire::relay`].
//!
//! A relay that cannot be reached by UDP carries the same datagrams over the stream. A stream that breaks leaves the
//! session as it is until its time is over, so a relay whose libp2p side starts anew does not cut the data.

mod binding;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use kanpachi_common::{
    NodeId, OrgId, Signed,
    org::Manifest,
    roster::Proof,
    wire::{
        MAX_VERSION, MIN_VERSION,
        relay::{
            Channel, LIFETIME, MAX_CHANNELS, MAX_PROOFS, Open, Opened, PairState, Paired, RENEW,
            RelayMessage, Renew, Wanted,
        },
    },
};

use self::binding::Binding;
use crate::{
    path::Via,
    tunnel::{Entropy, Transmit},
};

/// Relays that a node has sessions with at once.
pub const MAX_RELAYS: usize = 4;
/// A channel that was refused is asked for again after this: the relay may have heard of a membership since.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);
/// Where a relay says nothing on its stream for so long, though it was asked for something, the stream is opened anew. One that is
/// slow has longer: twice as long after each time, or twice as long as it took last.
const ANSWER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// And so many times that while UDP carries the data: a new stream ends the session that does.
const BOUND_PATIENCE: u32 = 3;
/// A relay is asked no more often than this whether it is there.
const DOUBT_EVERY: Duration = Duration::from_secs(2);

/// Who wants a channel is remembered of so many who are not known, of each relay.
const MAX_EARLY: usize = 256;

/// A relay and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayAt {
    /// Its libp2p identity.
    pub node: NodeId,
    /// Its UDP addresses.
    pub addrs: Vec<SocketAddr>,
}

/// What the shell does.
#[derive(Clone, Debug)]
pub enum Output {
    /// Say this on the stream to this relay.
    Say(NodeId, Box<RelayMessage>),
    /// Send this from the shared socket.
    Transmit(Transmit),
    /// These are the ways to this peer now.
    Ways(NodeId, Vec<SocketAddr>),
    /// [`Relays::table`] has changed.
    Table,
    /// The stream to this relay leads nowhere: it is to be opened anew.
    Reopen(NodeId),
}

/// How data of one session travels, for the packet path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The relay.
    pub relay: NodeId,
    /// Number of the session.
    pub session: u32,
    /// The relay's UDP address, when this node's is bound there; otherwise data goes over the stream.
    pub bound: Option<SocketAddr>,
    /// All its UDP addresses. It may send from any: of a binding it knows before this node does.
    pub addrs: Vec<SocketAddr>,
    /// Channels, each with the address that names it. Data may come on one, and be answered, before the word that it is open: that
    /// is said on the stream, and UDP is faster.
    pub channels: Vec<(u16, SocketAddr)>,
}

/// What a person may want to know of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayStatus {
    /// Which.
    pub node: NodeId,
    /// Is there a session?
    pub session: bool,
    /// The UDP address that is bound, if any.
    pub bound: Option<SocketAddr>,
    /// Open channels.
    pub channels: usize,
}

#[derive(Debug)]
struct Pair {
    channel: u16,
    number: u32,
    state: PairState,
    /// Ask again then.
    again: Option<Instant>,
}

#[derive(Debug)]
struct Session {
    binding: Binding,
    renew_at: Instant,
    ends_at: Instant,
    pairs: BTreeMap<NodeId, Pair>,
}

#[derive(Debug)]
struct Relay {
    slot: u16,
    addrs: Vec<SocketAddr>,
    /// The stream is open.
    stream: bool,
    /// There are other proofs than it was shown when that was opened, which it has not answered yet.
    outdated: bool,
    /// It was asked for something then, and did not answer since.
    asked: Option<Instant>,
    /// How long it is waited for.
    patience: Duration,
    /// It was asked whether it is there.
    doubted: Option<Instant>,
    /// Who wants a channel to this node and is not known here yet: a roster may come later than this.
    early: BTreeSet<NodeId>,
    session: Option<Session>,
}

impl Relay {
    /// It has said something. What it needed for that it may need again.
    fn answered(&mut self, now: Instant) {
        if let Some(asked) = self.asked.take() {
            let took = now.saturating_duration_since(asked);
            self.patience = (took * 2).clamp(ANSWER.0, ANSWER.1);
        }
    }

    /// When it should have answered what it was asked.
    fn owes_since(&self) -> Option<Instant> {
        let carried = self
            .session
            .as_ref()
            .is_some_and(|s| s.binding.bound().is_some());
        let times = if carried { BOUND_PATIENCE } else { 1 };
        self.asked.map(|at| at + self.patience * times)
    }
}

/// See the module.
pub struct Relays {
    org: OrgId,
    entropy: Entropy,
    relays: BTreeMap<NodeId, Relay>,
    slots: u16,
    pairs: u32,
    /// Peers that this node may have a channel to, and whether it wants one.
    peers: BTreeMap<NodeId, bool>,
    proofs: Vec<Proof>,
    manifest: Option<Signed<Manifest>>,
    told: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// When bindings are kept, with everything else that is.
    beat: Option<Instant>,
    outputs: VecDeque<Output>,
}

impl fmt::Debug for Relays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relays")
            .field("relays", &self.relays)
            .finish_non_exhaustive()
    }
}

impl Relays {
    /// No relays yet. `seed` is 32 fresh random bytes.
    #[must_use]
    pub fn new(org: OrgId, seed: [u8; 32]) -> Self {
        Self {
            org,
            entropy: Entropy::new(seed),
            relays: BTreeMap::new(),
            slots: 0,
            pairs: 0,
            peers: BTreeMap::new(),
            proofs: Vec::new(),
            manifest: None,
            told: BTreeMap::new(),
            beat: None,
            outputs: VecDeque::new(),
        }
    }

    /// The organisation became known, or is another one: everything begins anew.
    pub fn set_org(&mut self, org: OrgId) {
        if self.org != org {
            self.org = org;
            self.proofs.clear();
            self.manifest = None;
            self.relays.clear();
            self.changed();
        }
    }

    /// As [`Tunnels::set_beat`](crate::tunnel::Tunnels::set_beat).
    pub fn set_beat(&mut self, moment: Instant) {
        self.beat = Some(moment);
    }

    /// Replaces the relays to use; the first [`MAX_RELAYS`] count.
    pub fn set_relays(&mut self, relays: &[RelayAt], now: Instant) {
        let now_used: BTreeSet<NodeId> = relays.iter().take(MAX_RELAYS).map(|r| r.node).collect();
        self.relays.retain(|node, _| now_used.contains(node));
        for at in relays.iter().take(MAX_RELAYS) {
            if let Some(relay) = self.relays.get_mut(&at.node) {
                relay.addrs.clone_from(&at.addrs);
                if let Some(session) = &mut relay.session {
                    session.binding.set_addrs(&at.addrs, now);
                }
                continue;
            }
            self.slots = self.slots.wrapping_add(1);
            let relay = Relay {
                slot: self.slots,
                addrs: at.addrs.clone(),
                stream: false,
                outdated: false,
                asked: None,
                patience: ANSWER.0,
                doubted: None,
                early: BTreeSet::new(),
                session: None,
            };
            self.relays.insert(at.node, relay);
        }
        self.changed();
    }

    /// This node's memberships and whose keys they are signed by, shown to relays from now on.
    pub fn set_proofs(&mut self, mut proofs: Vec<Proof>, manifest: Option<Signed<Manifest>>) {
        self.manifest = manifest;
        proofs.truncate(MAX_PROOFS);
        if self.proofs == proofs {
            return;
        }
        self.proofs = proofs;
        let mut open = Vec::new();
        for (node, relay) in self.relays.iter_mut().filter(|(_, r)| r.stream) {
            match relay.session {
                Some(_) => open.push(*node),
                // Until its answer there is no session to renew.
                None => relay.outdated = true,
            }
        }
        for node in open {
            self.say_renew(node);
        }
    }

    /// Everybody this node may talk to. Channels to others are closed.
    pub fn set_peers(&mut self, peers: impl IntoIterator<Item = NodeId>, now: Instant) {
        let peers: BTreeSet<NodeId> = peers.into_iter().collect();
        let gone: Vec<NodeId> = self
            .peers
            .keys()
            .filter(|p| !peers.contains(p))
            .copied()
            .collect();
        for peer in gone {
            self.peers.remove(&peer);
            self.unpair(&peer);
        }
        for peer in peers {
            self.peers.entry(peer).or_insert(false);
        }
        let mut early = Vec::new();
        for (node, relay) in &mut self.relays {
            let known = relay
                .early
                .extract_if(.., |peer| self.peers.contains_key(peer));
            early.extend(known.map(|peer| (*node, peer)));
        }
        for (node, peer) in early {
            self.pair(node, peer, now);
        }
        self.changed();
    }

    /// A channel to this peer is wanted at every relay, or no more.
    pub fn set_wanted(&mut self, peer: &NodeId, wanted: bool, now: Instant) {
        let Some(before) = self.peers.get_mut(peer) else {
            return;
        };
        if std::mem::replace(before, wanted) == wanted {
            return;
        }
        if wanted {
            self.pair_all(now);
        } else {
            self.unpair(peer);
        }
        self.changed();
    }

    /// The stream to a relay is open.
    pub fn handle_stream(&mut self, node: NodeId, now: Instant) {
        let Some(relay) = self.relays.get_mut(&node) else {
            return;
        };
        (relay.stream, relay.outdated) = (true, false);
        relay.asked = Some(now);
        relay.early.clear();
        let open = RelayMessage::Open(Box::new(Open {
            min_version: MIN_VERSION,
            max_version: MAX_VERSION,
            org: self.org,
            proofs: self.proofs.clone(),
            manifest: self.manifest.clone(),
            ext: Vec::new(),
        }));
        self.say(node, open);
    }

    /// The stream to a relay is gone.
    pub fn handle_stream_closed(&mut self, node: NodeId) {
        let Some(relay) = self.relays.get_mut(&node) else {
            return;
        };
        (relay.stream, relay.asked) = (false, None);
        let carries = |s: &Session| s.binding.bound().is_some();
        relay.session.take_if(|session| !carries(session));
        self.changed();
    }

    /// A relay says something on its stream.
    pub fn handle_message(&mut self, node: NodeId, message: RelayMessage, now: Instant) {
        if let Some(relay) = self.relays.get_mut(&node) {
            relay.answered(now);
        }
        match message {
            RelayMessage::Opened(opened) => self.handle_opened(node, &opened, now),
            RelayMessage::Paired(paired) => self.handle_paired(node, paired, now),
            RelayMessage::Wanted(Wanted { peer }) => self.handle_wanted(node, peer, now),
            RelayMessage::Refused(_) => {
                if let Some(relay) = self.relays.get_mut(&node) {
                    relay.session = None;
                }
                self.changed();
            }
            _ => {}
        }
    }

    /// Data comes on the stream of a relay. What it owes may be behind more of that.
    pub fn handle_data(&mut self, node: NodeId, now: Instant) {
        if let Some(relay) = self.relays.get_mut(&node) {
            relay.asked = relay.asked.map(|_| now);
        }
    }

    fn handle_opened(&mut self, node: NodeId, opened: &Opened, now: Instant) {
        let Some(relay) = self.relays.get_mut(&node).filter(|r| r.stream) else {
            return;
        };
        relay.session = Some(Session {
            binding: Binding::new(opened.session, opened.key, &relay.addrs, now),
            renew_at: now + RENEW,
            ends_at: now + LIFETIME,
            pairs: BTreeMap::new(),
        });
        if std::mem::take(&mut relay.outdated) {
            self.say_renew(node);
        }
        self.pair_all(now);
        // Answers to its binds are expected from now on.
        self.changed();
        self.handle_timeout(now);
    }

    fn handle_wanted(&mut self, node: NodeId, peer: NodeId, now: Instant) {
        if self.peers.contains_key(&peer) {
            if self.pair(node, peer, now) {
                self.changed();
            }
        } else if let Some(relay) = self.relays.get_mut(&node)
            && relay.early.len() < MAX_EARLY
        {
            relay.early.insert(peer);
        }
    }

    fn handle_paired(&mut self, node: NodeId, paired: Paired, now: Instant) {
        let session = self.relays.get_mut(&node).and_then(|r| r.session.as_mut());
        let pairs = session.into_iter().flat_map(|s| s.pairs.values_mut());
        for pair in pairs.filter(|p| p.channel == paired.channel) {
            pair.state = paired.state;
            let refused = paired.state == PairState::Refused;
            pair.again = refused.then_some(now + REFUSED_AGAIN);
        }
        self.changed();
    }

    /// A datagram whose first byte says that it is an answer of a relay.
    pub fn handle_answer(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        for relay in self.relays.values_mut() {
            let Some(session) = &mut relay.session else {
                continue;
            };
            let before = session.binding.bound();
            if let Some(next) = session
                .binding
                .handle_answer(from, datagram, self.beat, now)
            {
                self.outputs.extend(next.map(Output::Transmit));
                if session.binding.bound() != before {
                    self.changed();
                }
                return;
            }
        }
    }

    /// Nothing comes through to some peer, which may be for a router that has forgotten this node. Relays are asked whether they
    /// still know where it is: who has answered before at most every two seconds, and again as usual until it counts as lost;
    /// anybody else with one datagram to each of its addresses at most every five. One that this node reaches by its stream only
    /// is asked there, for what it has granted already.
    pub fn handle_doubt(&mut self, now: Instant) {
        let mut by_stream = Vec::new();
        for (node, relay) in &mut self.relays {
            let Some(session) = &mut relay.session else {
                continue;
            };
            session.binding.doubt(now);
            let lately = relay.doubted.is_some_and(|at| now < at + DOUBT_EVERY);
            if session.binding.bound().is_none() && relay.stream && !lately {
                relay.doubted = Some(now);
                let pair = session.pairs.iter().next();
                by_stream.extend(pair.map(|(peer, pair)| (*node, *peer, pair.channel)));
            }
        }
        for (node, peer, channel) in by_stream {
            self.say_pair(node, peer, channel, now);
        }
        self.handle_timeout(now);
    }

    /// This node's addresses have changed: say everywhere where it is.
    pub fn handle_network_change(&mut self, now: Instant) {
        for session in self.relays.values_mut().filter_map(|r| r.session.as_mut()) {
            session.binding.again(now);
        }
        self.handle_timeout(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut renew = Vec::new();
        let mut again = Vec::new();
        let mut silent = Vec::new();
        let mut changed = false;
        for (node, relay) in &mut self.relays {
            if relay.owes_since().is_some_and(|at| now >= at) {
                relay.patience = (relay.patience * 2).min(ANSWER.1);
                silent.push(*node);
            }
            changed |= relay.session.take_if(|s| now >= s.ends_at).is_some();
            let Some(session) = &mut relay.session else {
                continue;
            };
            let before = session.binding.bound();
            let mut transmits = Vec::new();
            session
                .binding
                .handle_timeout(&mut self.entropy, now, &mut transmits);
            self.outputs
                .extend(transmits.into_iter().map(Output::Transmit));
            changed |= session.binding.bound() != before;
            if relay.stream && now >= session.renew_at {
                session.renew_at = now + RENEW;
                session.ends_at = now + LIFETIME;
                renew.push(*node);
            }
            for (peer, pair) in &mut session.pairs {
                if pair.again.take_if(|at| now >= *at).is_some() {
                    again.push((*node, *peer, pair.channel));
                }
            }
        }
        for node in renew {
            self.say_renew(node);
        }
        for (node, peer, channel) in again {
            self.say_pair(node, peer, channel, now);
        }
        if changed {
            self.changed();
        }
        for node in silent {
            self.handle_stream_closed(node);
            self.outputs.push_back(Output::Reopen(node));
        }
    }

    /// When to call [`Self::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = |relay: &Relay| {
            let session = relay.session.as_ref();
            let of_session = session.map(|session| {
                let renew = relay.stream.then_some(session.renew_at);
                let again = session.pairs.values().filter_map(|p| p.again).min();
                let times = [renew, again, session.binding.poll_timeout()];
                times
                    .into_iter()
                    .flatten()
                    .fold(session.ends_at, Instant::min)
            });
            let times = [of_session, relay.owes_since()];
            times.into_iter().flatten().min()
        };
        self.relays.values().filter_map(due).min()
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// How data travels now.
    #[must_use]
    pub fn table(&self) -> Vec<Route> {
        let route = |(node, relay): (&NodeId, &Relay)| {
            let session = relay.session.as_ref()?;
            Some(Route {
                relay: *node,
                session: session.binding.session(),
                bound: session.binding.bound(),
                addrs: session.binding.addrs().collect(),
                channels: pairs(relay).map(|(_, _, via)| (via.port(), via)).collect(),
            })
        };
        self.relays.iter().filter_map(route).collect()
    }

    /// The relay that a way leads over.
    #[must_use]
    pub fn relay_of(&self, way: SocketAddr) -> Option<NodeId> {
        let Some(Via::Relay { relay, .. }) = Via::of(way) else {
            return None;
        };
        let (node, _) = self.relays.iter().find(|(_, r)| r.slot == relay)?;
        Some(*node)
    }

    /// All relays, for a status display.
    #[must_use]
    pub fn status(&self) -> Vec<RelayStatus> {
        let status = |(node, relay): (&NodeId, &Relay)| RelayStatus {
            node: *node,
            session: relay.session.is_some(),
            bound: relay.session.as_ref().and_then(|s| s.binding.bound()),
            channels: open_pairs(relay).count(),
        };
        self.relays.iter().map(status).collect()
    }

    /// Asks for all channels that are wanted and not there.
    fn pair_all(&mut self, now: Instant) {
        let wanted: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, w)| **w)
            .map(|(p, _)| *p)
            .collect();
        let nodes: Vec<NodeId> = self.relays.keys().copied().collect();
        for node in nodes {
            for peer in &wanted {
                self.pair(node, *peer, now);
            }
        }
    }

    /// Asks for a channel unless there is one; returns whether it was asked.
    fn pair(&mut self, node: NodeId, peer: NodeId, now: Instant) -> bool {
        // A peer that relays is reached without its own help.
        let relay = self
            .relays
            .get_mut(&node)
            .filter(|r| r.stream && node != peer);
        let Some(session) = relay.and_then(|r| r.session.as_mut()) else {
            return false;
        };
        if session.pairs.contains_key(&peer) {
            return false;
        }
        let used: BTreeSet<u16> = session.pairs.values().map(|p| p.channel).collect();
        let Some(channel) = (1..=MAX_CHANNELS).find(|c| !used.contains(c)) else {
            return false;
        };
        self.pairs = self.pairs.wrapping_add(1);
        let pair = Pair {
            channel,
            number: self.pairs,
            state: PairState::Absent,
            again: None,
        };
        session.pairs.insert(peer, pair);
        self.say_pair(node, peer, channel, now);
        true
    }

    fn unpair(&mut self, peer: &NodeId) {
        let mut closed = Vec::new();
        for (node, relay) in &mut self.relays {
            let pair = relay.session.as_mut().and_then(|s| s.pairs.remove(peer));
            closed.extend(pair.filter(|_| relay.stream).map(|p| (*node, p.channel)));
        }
        for (node, channel) in closed {
            self.say(node, RelayMessage::Unpair(Channel { channel }));
        }
    }

    fn say(&mut self, node: NodeId, message: RelayMessage) {
        self.outputs.push_back(Output::Say(node, Box::new(message)));
    }

    fn say_renew(&mut self, node: NodeId) {
        let proofs = self.proofs.clone();
        self.say(node, RelayMessage::Renew(Renew { proofs }));
    }

    /// Asks for a channel, which a relay answers with what it is now.
    fn say_pair(&mut self, node: NodeId, peer: NodeId, channel: u16, now: Instant) {
        if let Some(relay) = self.relays.get_mut(&node).filter(|r| r.stream) {
            relay.asked.get_or_insert(now);
        }
        let pair = kanpachi_common::wire::relay::Pair { channel, peer };
        self.say(node, RelayMessage::Pair(pair));
    }

    /// Tells what is different from what was told last.
    fn changed(&mut self) {
        let mut ways: BTreeMap<NodeId, Vec<SocketAddr>> = BTreeMap::new();
        for relay in self.relays.values() {
            for (peer, via) in open_pairs(relay) {
                ways.entry(peer).or_default().push(via);
            }
        }
        self.outputs.push_back(Output::Table);
        for peer in self.told.keys() {
            if !ways.contains_key(peer) {
                self.outputs.push_back(Output::Ways(*peer, Vec::new()));
            }
        }
        for (peer, now) in &ways {
            if self.told.get(peer) != Some(now) {
                self.outputs.push_back(Output::Ways(*peer, now.clone()));
            }
        }
        self.told = ways;
    }
}

/// Channels that data flows on.
fn open_pairs(relay: &Relay) -> impl Iterator<Item = (NodeId, SocketAddr)> {
    let open = pairs(relay).filter(|(_, state, _)| *state == PairState::Open);
    open.map(|(peer, _, via)| (peer, via))
}

/// All that were asked for, unless nothing carries them.
fn pairs(relay: &Relay) -> impl Iterator<Item = (NodeId, PairState, SocketAddr)> {
    let carried = |s: &&Session| relay.stream || s.binding.bound().is_some();
    let session = relay.session.as_ref().filter(carried);
    let pairs = session.into_iter().flat_map(|s| &s.pairs);
    pairs.map(|(peer, pair)| {
        let via = Via::Relay {
            relay: relay.slot,
            pair: pair.number,
            channel: pair.channel,
        };
        (*peer, pair.state, via.addr())
    })
}
