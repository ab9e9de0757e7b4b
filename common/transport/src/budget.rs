//! How often a swarm dials a peer that does not answer.
//!
//! libp2p learns where a peer is from whoever says so: the peer itself (identify), whoever makes a hole with it (DCUtR, with
//! as many addresses as go into 4 KiB), servers of the DHT. It dials all that, and again with the next query, and each dial
//! is some datagrams of 1200 bytes. An address may be somebody else's. So every dial of a peer costs it something of an
//! allowance, whichever part of libp2p wants it: a dial that it answers gives that back, and where it has answered before
//! it is dialled for nothing. Dials that were given up because another one was faster are not given back: a member could
//! answer one and name somebody else in all others. [`Budgeted`] wraps the whole transport, so no part above has to remember that.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId,
    core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent},
    multiaddr::Protocol,
};
use thiserror::Error;

/// Dials of one member that it does not answer: as many at once as it may tell of addresses, then one in so long. Each is some
/// fifteen datagrams of 1200 bytes within ten seconds.
pub const MOST: u32 = 16;
/// See [`MOST`].
pub const EVERY: Duration = Duration::from_secs(10);
/// Other addresses that are dialled beside one at which a peer has answered before.
const BESIDE: usize = 2;
/// Addresses of one peer that are remembered because it was met there.
const MAX_MET: usize = 8;

/// What may be dialled of each peer. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct DialBudget(Arc<Mutex<Peers>>);

#[derive(Debug, Default)]
struct Peers {
    /// Not counted: the organisation says where they are.
    servers: BTreeSet<PeerId>,
    members: BTreeMap<PeerId, Member>,
    /// All others together.
    strangers: Allowance,
}

#[derive(Debug, Default)]
struct Member {
    allowance: Allowance,
    /// It has answered there, the last first.
    met: VecDeque<SocketAddr>,
    /// A tunnel to it was up there last. That it answers there is not said by that.
    up: Option<SocketAddr>,
    /// Where in its list it is dialled next, if that is not everywhere.
    turn: usize,
}

/// Dials that are left: the time at which all of them will be there again.
#[derive(Clone, Copy, Debug, Default)]
struct Allowance {
    full_at: Option<Instant>,
}

impl Allowance {
    fn left(&self, now: Instant) -> u32 {
        let missing = self
            .full_at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let missing = missing.as_millis().div_ceil(EVERY.as_millis());
        MOST.saturating_sub(u32::try_from(missing).unwrap_or(MOST))
    }

    fn take(&mut self, now: Instant) -> bool {
        let left = self.left(now) > 0;
        if left {
            self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + EVERY);
        }
        left
    }

    fn give_back(&mut self) {
        self.full_at = self.full_at.and_then(|at| at.checked_sub(EVERY));
    }
}

impl Peers {
    fn allowance(&mut self, peer: &PeerId) -> &mut Allowance {
        match self.members.get_mut(peer) {
            Some(member) => &mut member.allowance,
            None => &mut self.strangers,
        }
    }

    /// May this peer be dialled there? `true` for what is not counted, `None` for no.
    fn admit(&mut self, peer: &PeerId, at: Option<SocketAddr>, now: Instant) -> Option<bool> {
        let met = |member: &Member| at.is_some_and(|at| member.met.contains(&at));
        if self.servers.contains(peer) || self.members.get(peer).is_some_and(met) {
            return Some(true);
        }
        self.allowance(peer).take(now).then_some(false)
    }

    /// The peer has answered there, and that was counted or not.
    fn answered(&mut self, peer: &PeerId, at: Option<SocketAddr>, free: bool) {
        if !free {
            self.allowance(peer).give_back();
        }
        if let (Some(member), Some(at)) = (self.members.get_mut(peer), at) {
            member.met.retain(|met| *met != at);
            member.met.push_front(at);
            member.met.truncate(MAX_MET);
        }
    }
}

impl DialBudget {
    fn peers(&self) -> MutexGuard<'_, Peers> {
        // Nobody leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who the servers and the members are: dials of the former are not counted, those of each member by themselves, and
    /// those of all others together.
    pub fn set_known(&self, servers: BTreeSet<PeerId>, members: &BTreeSet<PeerId>) {
        let mut peers = self.peers();
        peers.servers = servers;
        peers.members.retain(|peer, _| members.contains(peer));
        for peer in members {
            peers.members.entry(*peer).or_default();
        }
    }

    /// Those of the addresses that a member tells of that are to be dialled now, `most` at the most: first where it has
    /// answered before, and then as many others as there is room for, others each time. That does not take anything yet.
    pub fn pick(&self, peer: &PeerId, told: &[SocketAddr], most: usize) -> Vec<SocketAddr> {
        let mut peers = self.peers();
        let Some(member) = peers.members.get_mut(peer) else {
            return Vec::new();
        };
        let (mut out, others): (Vec<_>, Vec<_>) =
            told.iter().partition(|at| member.met.contains(at));
        let left = usize::try_from(member.allowance.left(Instant::now())).unwrap_or(0);
        // A dial that another one was faster than is not given back, so few go beside one that will do.
        let left = if out.is_empty() {
            left
        } else {
            left.min(BESIDE)
        };
        out.truncate(most);
        let count = others.len().min(most - out.len()).min(left);
        let begin = member.turn.checked_rem(others.len()).unwrap_or(0);
        member.turn = if count == others.len() {
            0
        } else {
            begin + count
        };
        out.extend(others.into_iter().cycle().skip(begin).take(count));
        out
    }

    /// Where a member is to be dialled that is dialled at one address: where a tunnel was up last, or where it has answered last.
    #[must_use]
    pub fn likely(&self, peer: &PeerId) -> Option<SocketAddr> {
        let peers = self.peers();
        let member = peers.members.get(peer)?;
        member.up.or_else(|| member.met.front().copied())
    }

    /// A tunnel to a member is up there. It is not dialled for nothing there for that.
    pub fn note_up(&self, peer: &PeerId, at: SocketAddr) {
        if let Some(member) = self.peers().members.get_mut(peer) {
            member.up = Some(at);
        }
    }

    /// A member was met at these addresses: its tunnel was up there.
    pub fn note_met(&self, peer: &PeerId, at: &[SocketAddr]) {
        let mut peers = self.peers();
        for at in at.iter().rev() {
            peers.answered(peer, Some(*at), true);
        }
    }
}

/// A transport that dials nobody more often than its budget allows.
pub(crate) struct Budgeted<T> {
    inner: T,
    budget: DialBudget,
}

impl<T> Budgeted<T> {
    pub(crate) const fn new(inner: T, budget: DialBudget) -> Self {
        Self { inner, budget }
    }
}

impl<T, M> Transport for Budgeted<T>
where
    T: Transport<Output = (PeerId, M), Error = io::Error> + Unpin,
    T::Dial: Send + 'static,
{
    type Output = T::Output;
    type Error = io::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<T::Output>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let Some((peer, at)) = whom(&addr) else {
            return Ok(self.inner.dial(addr, opts)?.boxed());
        };
        let admitted = self.budget.peers().admit(&peer, at, Instant::now());
        let free = admitted.ok_or_else(refusal)?;
        let dial = self.inner.dial(addr, opts).inspect_err(|_| {
            if !free {
                self.budget.peers().allowance(&peer).give_back();
            }
        })?;
        let budget = self.budget.clone();
        let dial = dial.inspect(move |outcome| {
            if outcome.as_ref().is_ok_and(|(who, _)| *who == peer) {
                budget.peers().answered(&peer, at, free);
            }
        });
        Ok(dial.boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// Who is dialled, and where. `None` where nobody in particular is looked for; nor is a circuit counted, whose relay is
/// dialled by itself.
fn whom(addr: &Multiaddr) -> Option<(PeerId, Option<SocketAddr>)> {
    let (mut ip, mut port, mut peer) = (None, None, None);
    for protocol in addr {
        match protocol {
            Protocol::Ip4(v4) => ip = Some(v4.into()),
            Protocol::Ip6(v6) => ip = Some(v6.into()),
            Protocol::Udp(number) | Protocol::Tcp(number) => port = Some(number),
            Protocol::P2p(id) => peer = Some(id),
            Protocol::P2pCircuit => return None,
            _ => {}
        }
    }
    let at = ip.zip(port).map(|(ip, port)| SocketAddr::new(ip, port));
    Some((peer?, at))
}

/// Nothing was sent there, which says nothing of the address.
#[derive(Debug, Error)]
#[error("it was dialled often enough for now")]
pub struct TooOften;

pub(crate) fn refusal() -> TransportError<io::Error> {
    TransportError::Other(io::Error::new(io::ErrorKind::WouldBlock, TooOften))
}

/// Was an address not dialled because of the budget?
#[must_use]
pub fn is_refusal(error: &TransportError<io::Error>) -> bool {
    matches!(error, TransportError::Other(error) if says_too_often(error))
}

/// A boxed transport puts one error of the system into another.
fn says_too_often(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| {
        inner.is::<TooOften>() || inner.downcast_ref().is_some_and(says_too_often)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures::future::{Ready, ready};

    use super::*;

    /// Whoever is dialled at these addresses answers; all other dials fail.
    struct Wire {
        there: Vec<(SocketAddr, PeerId)>,
    }

    impl Transport for Wire {
        type Output = (PeerId, ());
        type Error = io::Error;
        type ListenerUpgrade = Ready<io::Result<Self::Output>>;
        type Dial = Ready<io::Result<Self::Output>>;

        fn listen_on(
            &mut self,
            _: ListenerId,
            addr: Multiaddr,
        ) -> Result<(), TransportError<io::Error>> {
            Err(TransportError::MultiaddrNotSupported(addr))
        }

        fn remove_listener(&mut self, _: ListenerId) -> bool {
            false
        }

        fn dial(
            &mut self,
            addr: Multiaddr,
            _: DialOpts,
        ) -> Result<Self::Dial, TransportError<io::Error>> {
            let at = whom(&addr).and_then(|(_, at)| at);
            let there = self.there.iter().find(|(addr, _)| Some(*addr) == at);
            Ok(ready(
                there
                    .map(|(_, peer)| (*peer, ()))
                    .ok_or_else(|| io::ErrorKind::TimedOut.into()),
            ))
        }

        fn poll(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
            Poll::Pending
        }
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 9], port))
    }

    fn addr(port: u16, peer: PeerId) -> Multiaddr {
        format!("/ip4/203.0.113.9/udp/{port}/quic-v1/p2p/{peer}")
            .parse()
            .unwrap()
    }

    const OPTS: DialOpts = DialOpts {
        role: libp2p::core::Endpoint::Dialer,
        port_use: libp2p::core::transport::PortUse::Reuse,
    };

    /// Dials, and says whether something went out and whether somebody answered.
    fn dial(transport: &mut Budgeted<Wire>, addr: Multiaddr) -> (bool, bool) {
        match transport.dial(addr, OPTS) {
            Ok(dial) => (true, dial.now_or_never().unwrap().is_ok()),
            Err(_) => (false, false),
        }
    }

    fn transport(there: Vec<(SocketAddr, PeerId)>, members: &[PeerId]) -> Budgeted<Wire> {
        let budget = DialBudget::default();
        let members: BTreeSet<PeerId> = members.iter().copied().collect();
        budget.set_known(BTreeSet::new(), &members);
        Budgeted::new(Wire { there }, budget)
    }

    #[test]
    fn a_member_that_names_addresses_without_end_has_few_dialled_and_others_are_not_concerned() {
        let (liar, other) = (PeerId::random(), PeerId::random());
        let mut transport = transport(vec![], &[liar, other]);
        let out = (1..=300).filter(|port| dial(&mut transport, addr(*port, liar)).0);
        assert_eq!(out.count(), MOST as usize);
        assert!(dial(&mut transport, addr(1, other)).0);
    }

    #[test]
    fn identities_without_end_have_one_allowance_together() {
        let mut transport = transport(vec![], &[]);
        let out = (1..=300).filter(|port| dial(&mut transport, addr(*port, PeerId::random())).0);
        assert_eq!(out.count(), MOST as usize);
    }

    #[test]
    fn a_member_that_answers_is_dialled_as_often_as_anybody_likes() {
        let (member, thief) = (PeerId::random(), PeerId::random());
        let mut transport = transport(vec![(at(5), member), (at(6), member)], &[member, thief]);
        for _ in 0..100 {
            assert_eq!(dial(&mut transport, addr(5, member)), (true, true));
        }
        for port in 100..200 {
            dial(&mut transport, addr(port, member));
        }
        // Where it was met, and nowhere else.
        assert_eq!(dial(&mut transport, addr(5, member)), (true, true));
        assert_eq!(dial(&mut transport, addr(6, member)), (false, false));
        transport.budget.note_met(&member, &[at(6)]);
        assert_eq!(dial(&mut transport, addr(6, member)), (true, true));
        // Somebody else who answers gives nothing back.
        let out = (0..100).filter(|_| dial(&mut transport, addr(5, thief)).0);
        assert_eq!(out.count(), MOST as usize);
    }

    #[test]
    fn where_a_tunnel_is_up_a_member_is_likely_and_not_dialled_for_nothing() {
        let member = PeerId::random();
        let mut transport = transport(vec![(at(5), member)], &[member]);
        assert_eq!(transport.budget.likely(&member), None);
        dial(&mut transport, addr(5, member));
        assert_eq!(transport.budget.likely(&member), Some(at(5)));
        // Who forges one packet of its tunnel can have it said to be anywhere.
        transport.budget.note_up(&member, at(9));
        assert_eq!(transport.budget.likely(&member), Some(at(9)));
        let out = (0..100).filter(|_| dial(&mut transport, addr(9, member)).0);
        assert_eq!(out.count(), MOST as usize);
    }

    #[test]
    fn servers_and_circuits_and_whoever_is_at_an_address_are_not_counted() {
        let server = PeerId::random();
        let mut transport = transport(vec![], &[server]);
        let servers = BTreeSet::from([server]);
        transport
            .budget
            .set_known(servers, &BTreeSet::from([server]));
        let nobody: Multiaddr = "/ip4/203.0.113.9/udp/1/quic-v1".parse().unwrap();
        let circuit = addr(1, PeerId::random())
            .with(Protocol::P2pCircuit)
            .with(Protocol::P2p(PeerId::random()));
        for each in [addr(1, server), nobody, circuit] {
            let out = (0..100).filter(|_| dial(&mut transport, each.clone()).0);
            assert_eq!(out.count(), 100, "{each}");
        }
    }

    #[test]
    fn one_dial_comes_back_in_a_while() {
        let (mut allowance, start) = (Allowance::default(), Instant::now());
        let hour = (0..3600).filter(|s| allowance.take(start + Duration::from_secs(*s)));
        assert_eq!(hour.count(), 16 + 359);
        let later = start + Duration::from_secs(3600) + EVERY * MOST;
        assert_eq!(allowance.left(later), MOST);
        assert!(allowance.take(later) && allowance.left(later) == MOST - 1);
        allowance.give_back();
        assert_eq!(allowance.left(later), MOST);
    }

    #[test]
    fn every_address_has_its_turn_one_at_a_time_and_several() {
        let member = PeerId::random();
        let mut transport = transport(vec![], &[member]);
        let told: Vec<SocketAddr> = (1..=16).map(at).collect();
        let all = transport.budget.pick(&member, &told, usize::MAX);
        assert_eq!(all, told);
        // A circuit over this member wants one address, and takes nobody's turn away.
        let one = || transport.budget.pick(&member, &told, 1);
        let ones: BTreeSet<SocketAddr> = (0..16).flat_map(|_| one()).collect();
        assert_eq!(ones.len(), 16);
        for port in 100..113 {
            dial(&mut transport, addr(port, member));
        }
        let some = || transport.budget.pick(&member, &told, usize::MAX);
        let seen: BTreeSet<SocketAddr> = (0..6).flat_map(|_| some()).collect();
        assert_eq!((some().len(), seen.len()), (3, 16));
    }

    #[test]
    fn where_a_member_has_answered_it_is_dialled_first_and_few_others_beside() {
        let member = PeerId::random();
        let mut transport = transport(vec![], &[member]);
        let told: Vec<SocketAddr> = (1..=16).map(at).collect();
        transport.budget.note_met(&member, &[at(9)]);
        let pick = |most| transport.budget.pick(&member, &told, most);
        assert_eq!(pick(1), [at(9)]);
        assert_eq!(pick(16), [at(9), at(1), at(2)]);
        assert_eq!(pick(16), [at(9), at(3), at(4)]);
        for port in 100..116 {
            dial(&mut transport, addr(port, member));
        }
        assert_eq!(transport.budget.pick(&member, &told, 16), [at(9)]);
    }

    #[test]
    fn a_refusal_is_told_from_a_failure_also_when_it_was_boxed() {
        let member = PeerId::random();
        let mut transport = transport(vec![], &[member]).boxed();
        for port in 1..=16 {
            let dial = transport.dial(addr(port, member), OPTS).unwrap();
            let failed = dial.now_or_never().unwrap().unwrap_err();
            assert!(!is_refusal(&TransportError::Other(failed)));
        }
        let refused = transport.dial(addr(17, member), OPTS).map(drop);
        assert!(is_refusal(&refused.unwrap_err()) && is_refusal(&refusal()));
    }
}
