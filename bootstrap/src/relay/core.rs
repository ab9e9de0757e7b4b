//! Decides who has a session, who is paired with whom, and when that ends. No sockets, no streams, no clock: messages,
//! changes of rosters and the time come in; messages go to the outboxes and the result to the table.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;
use kanpachi_common::{
    NetworkId, NodeId, Signed, UnixTime,
    roster::Head,
    wire::{
        negotiate,
        relay::{
            LIFETIME, MAX_CHANNELS, Open, Opened, Pair, PairState, Paired, Reason, RelayMessage,
            RelayRefused, SessionKey, Wanted,
        },
    },
};

use super::{
    bucket::{Bucket, Rate},
    judge::{Claims, Judge},
    outbox::Outbox,
    table::{Lane, Session, Sessions},
};

/// Notices that somebody wants a channel: so many at once, then so many a second for each member.
const WANTED: Rate = Rate {
    per_second: 16,
    burst: 256,
};

/// Names a stream for as long as the relay runs.
pub(crate) type StreamId = u64;

/// What time it is: on the relay's own clock, in nanoseconds, and for people.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) nanos: u64,
    pub(crate) wall: UnixTime,
}

/// Randomness for one session.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) number: u32,
    pub(crate) key: SessionKey,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    max_sessions: usize,
    /// What members are told that they may send, in bytes a second.
    rate: Option<u64>,
    table: Arc<ArcSwap<Sessions>>,
    members: HashMap<NodeId, Member>,
    streams: HashMap<StreamId, Stream>,
    next_stream: StreamId,
}

#[derive(Debug)]
struct Stream {
    node: NodeId,
    outbox: Arc<Outbox>,
    /// It was told so; what still comes on it does not count.
    ended: bool,
}

/// A node that has a session.
#[derive(Debug)]
struct Member {
    session: Arc<Session>,
    stream: Option<StreamId>,
    claims: Claims,
    networks: BTreeSet<NetworkId>,
    channels: HashMap<u16, Channel>,
    by_peer: HashMap<NodeId, u16>,
    wanted: Bucket,
}

#[derive(Debug)]
struct Channel {
    peer: NodeId,
    told: Option<PairState>,
    /// The session of the peer that was told of it.
    told_peer: Option<u32>,
    paired: bool,
}

impl Core {
    pub(crate) fn new(
        max_sessions: usize,
        rate: Option<u64>,
        table: Arc<ArcSwap<Sessions>>,
    ) -> Self {
        Self {
            max_sessions,
            rate,
            table,
            members: HashMap::new(),
            streams: HashMap::new(),
            next_stream: 1,
        }
    }

    /// Sessions, and channels that are open at both ends.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        let channels = self.members.values().flat_map(|m| m.channels.values());
        let paired = channels.filter(|channel| channel.paired).count();
        (self.members.len(), paired / 2)
    }

    /// A stream of a node, which libp2p has authenticated.
    pub(crate) fn stream_opened(&mut self, node: NodeId, outbox: Arc<Outbox>) -> StreamId {
        let id = self.next_stream;
        self.next_stream += 1;
        let ended = false;
        let stream = Stream {
            node,
            outbox,
            ended,
        };
        self.streams.insert(id, stream);
        id
    }

    /// The stream is gone. What is bound to a UDP address goes on until the session ends.
    pub(crate) fn stream_closed(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        stream.outbox.end(None);
        if let Some(member) = self.members.get_mut(&stream.node)
            && member.stream == Some(id)
        {
            member.stream = None;
            member.session.outbox.store(None);
        }
    }

    /// The session that a stream has opened.
    pub(crate) fn session(&self, id: StreamId) -> Option<Arc<Session>> {
        let node = self.streams.get(&id)?.node;
        let member = self.members.get(&node)?;
        (member.stream == Some(id)).then(|| Arc::clone(&member.session))
    }

    /// A node asks for a session, and this is what [`examine`] says to it.
    pub(crate) fn open(
        &mut self,
        id: StreamId,
        examined: Result<Admitted, RelayRefused>,
        judge: &dyn Judge,
        fresh: impl FnOnce() -> Option<Fresh>,
        now: Now,
    ) {
        let Some(node) = self.node(id) else { return };
        let admitted = match examined {
            Ok(_) if self.session(id).is_some() => Err(refused(Reason::Malformed)),
            Ok(admitted) => self.judge(&node, &admitted, judge).map(|n| (admitted, n)),
            Err(why) => Err(why),
        };
        match admitted {
            Ok((admitted, networks)) => self.admit(id, admitted, networks, fresh, now),
            Err(why) => self.end_stream(id, why),
        }
    }

    /// A member has renewed its session with these proofs.
    pub(crate) fn renew(&mut self, id: StreamId, claims: Claims, judge: &dyn Judge, now: Now) {
        let Some(node) = self.node(id).filter(|_| self.session(id).is_some()) else {
            self.malformed(id);
            return;
        };
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        member.claims = claims;
        member.session.renew(now.nanos.saturating_add(lifetime()));
        if self.weigh(node, judge, now) {
            self.publish();
        }
        // Notices that were held back are tried again.
        self.settle_all(&node, now);
    }

    /// Any other message of a member.
    pub(crate) fn message(&mut self, id: StreamId, message: &RelayMessage, now: Now) {
        let Some(node) = self.node(id) else { return };
        let has_session = self.session(id).is_some();
        match message {
            RelayMessage::Pair(pair) if has_session => self.pair(node, *pair, now),
            RelayMessage::Unpair(channel) if has_session => {
                self.unpair(&node, channel.channel, now);
            }
            RelayMessage::Unknown(_) => {}
            _ => self.malformed(id),
        }
    }

    /// The stream cannot be read any further.
    pub(crate) fn malformed(&mut self, id: StreamId) {
        self.end_stream(id, refused(Reason::Malformed));
    }

    /// Rosters have changed: whoever is no member any more is out at once.
    pub(crate) fn rejudge(&mut self, judge: &dyn Judge, now: Now) {
        let nodes: Vec<NodeId> = self.members.keys().copied().collect();
        let mut gone = false;
        for node in nodes {
            gone |= self.weigh(node, judge, now);
        }
        if gone {
            self.publish();
        }
    }

    /// Ends what was not renewed.
    pub(crate) fn tick(&mut self, now: Now) {
        let over = |member: &Member| member.session.expires_at() <= now.nanos;
        let over = self.members.iter().filter(|(_, member)| over(member));
        let over: Vec<NodeId> = over.map(|(node, _)| *node).collect();
        if over.is_empty() {
            return;
        }
        for node in over {
            self.expel(&node, refused(Reason::Expired), now);
        }
        self.publish();
    }

    /// Whose stream it is, as long as it was not told that it ends.
    fn node(&self, id: StreamId) -> Option<NodeId> {
        let stream = self.streams.get(&id)?;
        (!stream.ended).then_some(stream.node)
    }

    /// Rosters may have changed since the proofs were examined, so they are weighed here.
    fn judge(
        &self,
        node: &NodeId,
        admitted: &Admitted,
        judge: &dyn Judge,
    ) -> Result<BTreeSet<NetworkId>, RelayRefused> {
        let standing = admitted.claims.standing(judge, node);
        if standing.networks.is_empty() {
            return Err(not_a_member(standing.gone));
        }
        if !self.members.contains_key(node) && self.members.len() >= self.max_sessions {
            return Err(refused(Reason::Full));
        }
        Ok(standing.networks)
    }

    fn admit(
        &mut self,
        id: StreamId,
        admitted: Admitted,
        networks: BTreeSet<NetworkId>,
        fresh: impl FnOnce() -> Option<Fresh>,
        now: Now,
    ) {
        let Some(Fresh { mut number, key }) = fresh() else {
            self.end_stream(id, refused(Reason::Full));
            return;
        };
        let Some(Stream { node, outbox, .. }) = self.streams.get(&id) else {
            return;
        };
        let (node, outbox) = (*node, Arc::clone(outbox));
        let before = self.members.get(&node).map(|m| Arc::clone(&m.session));
        let allowance = before.map_or_else(Arc::default, |s| Arc::clone(&s.allowance));
        self.expel(&node, refused(Reason::Replaced), now);
        let taken = self.table.load();
        while number == 0 || taken.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        drop(taken);
        let expires_at = now.nanos.saturating_add(lifetime());
        outbox.tell(RelayMessage::Opened(Opened {
            version: admitted.version,
            session: number,
            key,
            rate: self.rate,
            ext: Vec::new(),
        }));
        let session = Session::new(number, key, expires_at, outbox, allowance);
        let member = Member {
            session: Arc::new(session),
            stream: Some(id),
            claims: admitted.claims,
            networks,
            channels: HashMap::new(),
            by_peer: HashMap::new(),
            wanted: Bucket::default(),
        };
        self.members.insert(node, member);
        self.publish();
        self.settle_all(&node, now);
    }

    /// `true` if it is a member no more and out.
    fn weigh(&mut self, node: NodeId, judge: &dyn Judge, now: Now) -> bool {
        let Some(member) = self.members.get_mut(&node) else {
            return false;
        };
        let standing = member.claims.standing(judge, &node);
        if standing.networks.is_empty() {
            self.expel(&node, not_a_member(standing.gone), now);
            return true;
        }
        if standing.networks != member.networks {
            member.networks = standing.networks;
            self.settle_all(&node, now);
        }
        false
    }

    fn pair(&mut self, node: NodeId, Pair { channel, peer }: Pair, now: Now) {
        let Some(member) = self.members.get(&node) else {
            return;
        };
        // Another peer under this number, and another channel to the same peer, give way.
        let before = member.by_peer.get(&peer).copied();
        if before != Some(channel) {
            for old in before.into_iter().chain([channel]) {
                self.unpair(&node, old, now);
            }
        }
        let Some(member) = self.members.get_mut(&node) else {
            return;
        };
        if peer == node || channel == 0 || channel > MAX_CHANNELS {
            member.tell(channel, PairState::Refused);
            return;
        }
        let entry = member.channels.entry(channel).or_insert(Channel {
            peer,
            told: None,
            told_peer: None,
            paired: false,
        });
        entry.told = None;
        member.by_peer.insert(peer, channel);
        self.settle(&node, &peer, now);
    }

    fn unpair(&mut self, node: &NodeId, channel: u16, now: Now) {
        let Some(member) = self.members.get_mut(node) else {
            return;
        };
        let Some(removed) = member.channels.remove(&channel) else {
            return;
        };
        member.by_peer.remove(&removed.peer);
        member.session.set_lane(channel, None);
        self.settle(node, &removed.peer, now);
    }

    /// Ends a session: from here on nothing is forwarded from it or to it. The table is to be published afterwards.
    fn expel(&mut self, node: &NodeId, why: RelayRefused, now: Now) {
        let Some(member) = self.members.remove(node) else {
            return;
        };
        member.session.close();
        if let Some(stream) = member.stream {
            self.end_stream(stream, why);
        }
        self.settle_all(node, now);
    }

    fn end_stream(&mut self, id: StreamId, why: RelayRefused) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.ended = true;
            stream.outbox.end(Some(RelayMessage::Refused(why)));
        }
    }

    fn publish(&self) {
        let sessions = self.members.values().map(|m| &m.session);
        let sessions = sessions.map(|s| (s.number, Arc::clone(s))).collect();
        self.table.store(Arc::new(sessions));
    }

    /// Puts in order all channels from and to a node.
    fn settle_all(&mut self, node: &NodeId, now: Now) {
        let mut peers: BTreeSet<NodeId> = self
            .members
            .iter()
            .filter(|(_, member)| member.by_peer.contains_key(node))
            .map(|(peer, _)| *peer)
            .collect();
        if let Some(member) = self.members.get(node) {
            peers.extend(member.by_peer.keys());
        }
        for peer in peers {
            self.settle(node, &peer, now);
        }
    }

    /// Makes the channels between two nodes what they should be by now, and says so to both.
    fn settle(&mut self, one: &NodeId, other: &NodeId, now: Now) {
        let [Some(a), Some(b)] = self.members.get_disjoint_mut([one, other]) else {
            for (node, peer) in [(one, other), (other, one)] {
                if let Some(member) = self.members.get_mut(node) {
                    member.part(peer, PairState::Absent);
                }
            }
            return;
        };
        if a.networks.is_disjoint(&b.networks) {
            a.part(other, PairState::Refused);
            b.part(one, PairState::Refused);
            return;
        }
        match (a.by_peer.get(other), b.by_peer.get(one)) {
            (Some(&to_b), Some(&to_a)) => {
                let allowance = Arc::default();
                a.join(to_b, b, to_a, &allowance);
                b.join(to_a, a, to_b, &allowance);
            }
            (Some(_), None) => {
                a.part(other, PairState::Waiting);
                b.want(a, one, other, now);
            }
            (None, Some(_)) => {
                b.part(one, PairState::Waiting);
                a.want(b, other, one, now);
            }
            (None, None) => {}
        }
    }
}

/// What a node has shown that may have a session.
#[derive(Debug)]
pub(crate) struct Admitted {
    version: u16,
    pub(crate) claims: Claims,
}

/// Looks at the proofs of a node that asks for a session. The costly part, so that it is done where nobody waits for it,
/// and nothing is kept of a node that fails here.
pub(crate) fn examine(
    judge: &dyn Judge,
    node: &NodeId,
    open: &Open,
    wall: UnixTime,
) -> Result<Admitted, RelayRefused> {
    let version = negotiate(open.min_version, open.max_version);
    let version = version.ok_or_else(|| refused(Reason::Version))?;
    if open.org != judge.org() {
        return Err(refused(Reason::Organisation));
    }
    let mut claims = Claims::default();
    if let Some(manifest) = &open.manifest {
        claims.bring(judge, manifest);
    }
    claims.prove(judge, node, &open.proofs, wall);
    Ok(Admitted { version, claims })
}

impl Member {
    fn tell(&self, channel: u16, state: PairState) {
        if let Some(outbox) = &*self.session.outbox.load() {
            outbox.tell(RelayMessage::Paired(Paired { channel, state }));
        }
    }

    /// The channel to this peer, if there is one, carries nothing for this reason.
    fn part(&mut self, peer: &NodeId, why: PairState) {
        let Some(&number) = self.by_peer.get(peer) else {
            return;
        };
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        if std::mem::take(&mut channel.paired) {
            self.session.set_lane(number, None);
        }
        if channel.told.replace(why) != Some(why) {
            self.tell(number, why);
        }
    }

    /// The channel leads to the partner's.
    fn join(&mut self, number: u16, partner: &Self, theirs: u16, allowance: &Arc<Bucket>) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        if !std::mem::replace(&mut channel.paired, true) {
            let lane = Lane {
                to: Arc::clone(&partner.session),
                channel: theirs,
                allowance: Arc::clone(allowance),
            };
            self.session.set_lane(number, Some(&lane));
        }
        if channel.told.replace(PairState::Open) != Some(PairState::Open) {
            self.tell(number, PairState::Open);
        }
    }

    /// Hears that `who` has opened a channel to it, once for each session.
    fn want(&self, from: &mut Self, who: &NodeId, me: &NodeId, now: Now) {
        let channel = from.by_peer.get(me);
        let Some(channel) = channel.and_then(|number| from.channels.get_mut(number)) else {
            return;
        };
        let outbox = self.session.outbox.load();
        let Some(outbox) = &*outbox else { return };
        let known = channel.told_peer == Some(self.session.number);
        if !known && self.wanted.take(1, WANTED, now.nanos) {
            channel.told_peer = Some(self.session.number);
            outbox.tell(RelayMessage::Wanted(Wanted { peer: *who }));
        }
    }
}

fn lifetime() -> u64 {
    u64::try_from(LIFETIME.as_nanos()).unwrap_or(u64::MAX)
}

fn refused(reason: Reason) -> RelayRefused {
    RelayRefused { reason, head: None }
}

fn not_a_member(gone: Option<Signed<Head>>) -> RelayRefused {
    RelayRefused {
        reason: Reason::NotAMember,
        head: gone.map(Box::new),
    }
}
