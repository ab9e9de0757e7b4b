//! What the network in front of this node does, and where the node is seen from outside.
//!
//! A check is made when the organisation's servers are known, when the addresses of this machine change, when the
//! reflectors see another address than before, when a person asks, and seldom otherwise. The shared socket's own public
//! address is asked for between two keepalives of a NAT, but only behind one.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use kanpachi_common::{CandidateKind, NatBehaviour, NodeId, nat::Mapping, org::Server};
use kanpachi_proto::{
    netcheck::Outcome,
    portmap::{Protocol, Wanted},
};
use tokio::sync::oneshot;

use super::{Core, book::Origin, candidates::is_portable, engine, session::resolve};
use crate::{
    clock,
    daemon::netcheck::{self, About, Facts, Lacks, Report},
    ipc::netcheck::PortMapping,
};

/// Reflectors asked at once.
const MAX_REFLECTORS: usize = 4;
/// Addresses that others see this node at, at the most.
const MAX_OBSERVED: usize = 4;
/// Peers of which it is remembered where they see this node; of each the last that it said.
const MAX_SAID: usize = 16;
/// Addresses that nobody confirmed for this long are forgotten while reflectors answer: a few rounds of questions.
const CONFIRMED_FOR: Duration = Duration::from_secs(200);
/// While there are tunnels the reflectors are asked this often behind a NAT: peers say with each keepalive where they see this
/// node. When one sees it elsewhere than before, or nothing comes through to one, the reflectors are asked as soon as the last
/// question is as old as the second.
const BESIDE_TUNNELS: (Duration, Duration) = (Duration::from_secs(70), Duration::from_secs(5));
/// Without a NAT the reflectors are asked this often, and everything is checked again after a network without UDP.
const SELDOM: Duration = Duration::from_secs(300);
/// Otherwise everything is checked this often.
const RARELY: Duration = Duration::from_secs(1800);
/// Who asks again so soon is told what was found just now.
const FRESH: Duration = Duration::from_secs(3);
/// Views of peers that are kept.
const MAX_VIEWS: usize = 8;
/// People who wait for a check at the most.
const MAX_WAITING: usize = 16;

/// An address that this node is seen at.
#[derive(Clone, Copy, Debug)]
struct Seen {
    addr: SocketAddr,
    at: Instant,
}

/// A reflector, and the server that it belongs to.
pub(super) type Reflector = (NodeId, SocketAddr);

/// What a check says.
#[derive(Clone, Debug, Default)]
pub(super) struct Checked {
    pub(super) report: Report,
    pub(super) reflectors: Vec<Reflector>,
}

/// Everything about checks.
#[derive(Debug, Default)]
pub(super) struct Netcheck {
    /// Where reflectors see this node, newest first.
    seen: Vec<Seen>,
    /// Where each peer does, newest first. It may be wrong, or lie.
    said: VecDeque<(NodeId, Seen)>,
    /// And where it did before that.
    said_before: BTreeMap<NodeId, SocketAddr>,
    /// What each reflector said last.
    reflected: BTreeMap<SocketAddr, Seen>,
    /// Where tunnels ended, and at which address the peer there sees this node.
    views: VecDeque<(IpAddr, SocketAddr)>,
    asked: Option<Instant>,
    /// This node may be seen elsewhere than they said.
    doubted: bool,
    checked: Option<(Instant, Checked)>,
    running: Option<oneshot::Receiver<Checked>>,
    /// Something changed while one was running.
    again: bool,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Netcheck {
    /// Where others see this node: what reflectors say, newest first, and behind that what peers say, where no reflector
    /// answers or two peers agree.
    pub(super) fn observed(&self) -> impl Iterator<Item = (SocketAddr, CandidateKind)> {
        let confirmed = self.seen.iter().map(|seen| seen.addr);
        let mut out: Vec<_> = confirmed.map(|a| (a, CandidateKind::Reflexive)).collect();
        for least in [2, 1] {
            for (_, Seen { addr, .. }) in &self.said {
                let witnesses = self.said.iter().filter(|(_, s)| s.addr == *addr).count();
                let counts = witnesses >= 2 || !self.is_reflected(addr);
                if witnesses >= least && counts && !out.iter().any(|(a, _)| a == addr) {
                    out.push((*addr, CandidateKind::Observed));
                }
            }
        }
        out.truncate(MAX_OBSERVED);
        out.into_iter()
    }

    /// Does a reflector see it there?
    fn is_confirmed(&self, addr: SocketAddr) -> bool {
        self.seen.iter().any(|seen| seen.addr == addr)
    }

    /// When reflectors are asked because of a doubt, if there is one and they were asked before.
    fn doubt_due(&self) -> Option<Instant> {
        let asked = self.asked.filter(|_| self.doubted)?;
        Some(asked + BESIDE_TUNNELS.1)
    }

    /// Does a reflector answer over the same family?
    fn is_reflected(&self, addr: &SocketAddr) -> bool {
        let mut answering = self.reflected.keys();
        answering.any(|reflector| reflector.is_ipv4() == addr.is_ipv4())
    }

    /// What the last check said.
    pub(super) fn last(&self) -> Option<&Checked> {
        self.checked.as_ref().map(|(_, checked)| checked)
    }

    /// The end of the check that is running.
    pub(super) async fn finished(&mut self) -> Checked {
        let Some(running) = &mut self.running else {
            return std::future::pending().await;
        };
        let checked = running.await.unwrap_or_default();
        self.running = None;
        checked
    }

    /// Notes where a peer sees this node; `true` if the addresses are others than before.
    fn note_said(&mut self, peer: NodeId, addr: SocketAddr, now: Instant) -> bool {
        let before: Vec<_> = self.observed().collect();
        let last = self.said.iter().find(|(node, _)| *node == peer);
        let last = last.map(|(_, seen)| seen.addr).filter(|a| *a != addr);
        if let Some(last) = last {
            let before = self.said_before.insert(peer, last);
            let family = last.is_ipv4() == addr.is_ipv4();
            // It may see this node by two ways, by turns.
            self.doubted |= family && before != Some(addr) && !self.is_confirmed(addr);
        }
        self.said.retain(|(node, _)| *node != peer);
        self.said.push_front((peer, Seen { addr, at: now }));
        self.said.truncate(MAX_SAID);
        let kept = |peer: &NodeId| self.said.iter().any(|(node, _)| node == peer);
        self.said_before.retain(|peer, _| kept(peer));
        !self.observed().eq(before)
    }

    /// Notes an address that a reflector says; `true` if it is new.
    fn note(&mut self, addr: SocketAddr, now: Instant) -> bool {
        if let Some(known) = self.seen.iter_mut().find(|seen| seen.addr == addr) {
            known.at = now;
            return false;
        }
        self.seen.insert(0, Seen { addr, at: now });
        self.seen.truncate(MAX_OBSERVED);
        true
    }

    /// Notes what a reflector says; `true` if the addresses are others than before, and whether it said otherwise
    /// before.
    fn note_reflected(
        &mut self,
        reflector: SocketAddr,
        addr: SocketAddr,
        now: Instant,
    ) -> (bool, bool) {
        let seen = Seen { addr, at: now };
        let before = self.reflected.insert(reflector, seen).map(|seen| seen.addr);
        let moved = before.is_some_and(|before| before != addr);
        if let Some(before) = before.filter(|_| moved)
            && !self.reflected.values().any(|seen| seen.addr == before)
        {
            self.seen.retain(|seen| seen.addr != before);
        }
        (self.note(addr, now) || moved, moved)
    }

    /// Forgets what nobody confirms any more while reflectors of that family answer; `true` if that was something.
    fn expire(&mut self, now: Instant) -> bool {
        let before: Vec<_> = self.observed().collect();
        let fresh = |seen: &Seen| now.saturating_duration_since(seen.at) < CONFIRMED_FOR;
        self.reflected.retain(|_, seen| fresh(seen));
        let answering: Vec<bool> = self.reflected.keys().map(SocketAddr::is_ipv4).collect();
        let kept = |seen: &Seen| fresh(seen) || !answering.contains(&seen.addr.is_ipv4());
        self.seen.retain(kept);
        self.said.retain(|(_, seen)| kept(seen));
        !self.observed().eq(before)
    }

    /// Are the reflectors to be asked, and is everything to be checked?
    fn due(&self, tunnels: bool, now: Instant) -> (bool, bool) {
        let since = |at: Option<Instant>| at.map_or(Duration::MAX, |at| now - at);
        let report = self.last().map(|checked| &checked.report);
        let calm = report.and_then(Report::behind_nat) == Some(false);
        let ask = match (calm, tunnels) {
            (true, _) => SELDOM,
            (false, true) => BESIDE_TUNNELS.0,
            (false, false) => Duration::ZERO,
        };
        let udp = report.and_then(Report::udp) == Some(true);
        let pause = if udp { RARELY } else { SELDOM };
        let checked = self.checked.as_ref().map(|(at, _)| *at);
        (since(self.asked) >= ask, since(checked) >= pause)
    }

    /// Notes how a peer at this address sees the node.
    fn note_view(&mut self, from: IpAddr, addr: SocketAddr) {
        if !self.views.contains(&(from, addr)) {
            self.views.push_front((from, addr));
            self.views.truncate(MAX_VIEWS);
        }
    }

    /// What the NAT does. One reflector with one address cannot tell a mapping that is the same for everybody from one
    /// for each address; a peer elsewhere that sees the same as the reflector can.
    fn nat(&self) -> Option<NatBehaviour> {
        let mut nat = self.last()?.report.nat()?;
        let agrees = |(from, addr): &(IpAddr, SocketAddr)| {
            let elsewhere = !self.reflected.keys().any(|r| r.ip() == *from);
            elsewhere && self.reflected.values().any(|seen| seen.addr == *addr)
        };
        if nat.mapping == Mapping::Unknown && self.views.iter().any(agrees) {
            nat.mapping = Mapping::EndpointIndependent;
        }
        Some(nat)
    }

    /// The machine is somewhere else: what was seen before is about the past.
    fn forget(&mut self) {
        self.views.clear();
        self.seen.clear();
        self.said.clear();
        self.said_before.clear();
        self.reflected.clear();
        self.doubted = false;
    }
}

impl Core {
    /// A peer says where this node's packets come from.
    pub(super) fn note_observed(&mut self, peer: NodeId, addr: SocketAddr) {
        if self.is_own(addr) || !self.overlay.is_underlay(&addr) {
            return;
        }
        if self.state.netcheck.note_said(peer, addr, clock::now()) {
            tracing::debug!(%addr, %peer, "seen from outside");
            self.announce();
            self.state.netcheck.doubted = true;
        }
        self.settle_doubts();
    }

    /// This node may be seen elsewhere than reflectors said: they are asked again, or will be if that was just now.
    pub(super) fn doubt_reflectors(&mut self) {
        self.state.netcheck.doubted = true;
        self.settle_doubts();
    }

    /// When [`Core::settle_doubts`] has something to do.
    pub(super) fn doubts_timeout(&self) -> Option<Instant> {
        self.state.netcheck.doubt_due()
    }

    /// Asks the reflectors because of a doubt, if that is due.
    pub(super) fn settle_doubts(&mut self) {
        let due = self.state.netcheck.doubt_due();
        if due.is_some_and(|due| due <= clock::now()) {
            self.state.netcheck.doubted = false;
            self.ask_reflectors();
        }
    }

    /// A reflector says where this node's packets come from.
    pub(super) fn note_reflected(&mut self, reflector: SocketAddr, addr: SocketAddr) {
        if self.is_own(addr) || !self.overlay.is_underlay(&addr) {
            return;
        }
        let now = clock::now();
        let (changed, moved) = self.state.netcheck.note_reflected(reflector, addr, now);
        if changed {
            tracing::debug!(%addr, %reflector, "seen by a reflector");
            self.announce();
        }
        self.nat_may_differ();
        if moved {
            self.check_network();
        }
    }

    fn is_own(&self, addr: SocketAddr) -> bool {
        self.local.iter().any(|l| l.address == addr.ip())
    }

    /// The addresses of this machine changed.
    pub(super) fn network_moved(&mut self) {
        self.state.netcheck.forget();
        self.state.nat = None;
    }

    /// Now and then.
    pub(super) fn mind_network(&mut self) {
        let now = clock::now();
        if self.state.netcheck.expire(now) {
            self.announce();
        }
        let tunnels = !self.state.up.is_empty();
        let (ask, check) = self.state.netcheck.due(tunnels, now);
        if ask {
            self.ask_reflectors();
        }
        if check {
            self.check_network();
        }
    }

    /// Asks the bootstraps how they see this node's socket.
    pub(super) fn ask_reflectors(&mut self) {
        let Some(servers) = self.servers() else {
            return;
        };
        self.state.netcheck.asked = Some(clock::now());
        self.state.netcheck.doubted = false;
        let engine = self.engine.clone();
        tokio::spawn(async move {
            let reflectors = servers.find().await;
            let addrs = reflectors.into_iter().map(|(_, addr)| addr).collect();
            engine.send(engine::Command::Reflect(addrs)).await;
        });
    }

    /// Finds out what the network does, unless that is being found out already.
    pub(super) fn check_network(&mut self) {
        let Some(servers) = self.servers() else {
            self.state.netcheck.waiting.clear();
            return;
        };
        if self.state.netcheck.running.is_some() {
            self.state.netcheck.again = true;
            return;
        }
        let (sender, receiver) = oneshot::channel();
        self.state.netcheck.running = Some(receiver);
        tokio::spawn(async move {
            let reflectors = servers.find().await;
            let addrs: Vec<SocketAddr> = reflectors.iter().map(|(_, addr)| *addr).collect();
            let report = netcheck::run(&addrs).await;
            // A daemon that stops wants it no more.
            let _ = sender.send(Checked { report, reflectors });
        });
    }

    /// A check ended.
    pub(super) fn note_checked(&mut self, checked: Checked) {
        tracing::debug!(report = ?checked.report, "checked the network");
        self.state.netcheck.checked = Some((clock::now(), checked));
        if std::mem::take(&mut self.state.netcheck.again) {
            self.check_network();
        } else {
            self.state.netcheck.waiting.clear();
        }
        self.nat_may_differ();
    }

    /// A peer with a tunnel sees this node at an address.
    pub(super) fn note_view(&mut self, peer: &NodeId, addr: SocketAddr) {
        let mut sightings = self.state.book.of(peer).iter();
        let tunnel = sightings.find(|s| s.origin == Origin::Tunnel);
        if let Some(tunnel) = tunnel.map(|s| s.candidate.addr) {
            self.state.netcheck.note_view(tunnel.ip(), addr);
            self.nat_may_differ();
        }
    }

    /// Tells everybody when the NAT is another one than was said before.
    fn nat_may_differ(&mut self) {
        let nat = self.state.netcheck.nat();
        if self.state.nat != nat {
            self.state.nat = nat;
            self.announce();
        }
    }

    /// Checks now; the sender is dropped when that is over.
    pub(super) fn check_for(&mut self, reply: oneshot::Sender<()>) {
        let last = self.state.netcheck.checked.as_ref();
        let fresh = last.is_some_and(|(at, _)| clock::since(*at) < FRESH);
        if !fresh && self.state.netcheck.waiting.len() < MAX_WAITING {
            self.state.netcheck.waiting.push(reply);
            if self.state.netcheck.running.is_none() {
                self.check_network();
            }
        }
    }

    /// Where the router forwards a port to this node's socket.
    pub(super) fn mapped(&self) -> Option<SocketAddr> {
        let wanted = Wanted {
            protocol: Protocol::Udp,
            port: self.socket.port(),
        };
        let state = self.port_mapper.as_ref()?.state.borrow();
        let external = SocketAddr::from(state.external(wanted)?);
        self.overlay.is_underlay(&external).then_some(external)
    }

    /// What the router does for this node.
    fn port_mapping(&self) -> PortMapping {
        let state = self.port_mapper.as_ref().map(|p| p.state.borrow().clone());
        let enabled = state.is_some();
        let state = state.unwrap_or_default();
        PortMapping {
            enabled,
            upnp: state.upnp,
            nat_pmp: state.nat_pmp,
            pcp: state.pcp,
            external: self.mapped(),
        }
    }

    /// What there is to tell of the network.
    pub(super) fn network_facts(&self) -> Facts {
        let nothing = Checked::default();
        let Checked { report, reflectors } = self.state.netcheck.last().unwrap_or(&nothing);
        let named = |(node, addr): &Reflector| (Some(node.to_string()), *addr);
        let named: Vec<_> = reflectors.iter().map(named).collect();
        let nat = self.nat().unwrap_or_default();
        let mapping = self.port_mapping();
        let peers = self.state.peers.keys().map(|node| {
            let about = About {
                nat: self.state.book.nat(node),
                candidates: self.state.book.now(node),
            };
            (node.to_string(), about)
        });
        let silent = |family: &Option<Outcome>, v4: bool| match family {
            Some(outcome) => outcome.public.is_none() && !outcome.reflectors.is_empty(),
            None => {
                !self.local.is_empty() && !self.local.iter().any(|l| leads_out_by(l.address, v4))
            }
        };
        Facts {
            reply: netcheck::reply(report, &named, mapping, nat),
            lacks: Lacks {
                v4: silent(&report.v4, true),
                v6: silent(&report.v6, false),
            },
            nat,
            peers: peers.collect(),
        }
    }

    /// The servers to ask; `None` when nobody is to be asked now.
    fn servers(&self) -> Option<Servers> {
        if self.state.drill.is_some() {
            return None;
        }
        let directory = self.state.session.as_ref()?.rosters.directory()?;
        Some(Servers {
            servers: directory
                .bootstraps
                .iter()
                .take(MAX_REFLECTORS)
                .cloned()
                .collect(),
            socket: self.socket.clone(),
            local: self.local.iter().map(|l| l.address).collect(),
            overlay: self.overlay.clone(),
        })
    }
}

/// Has this machine an address of the same family that means something elsewhere? Otherwise nothing that is sent there gets
/// out, and nobody would answer.
fn leads_out(local: &[IpAddr], to: IpAddr) -> bool {
    // Unless the addresses are not known at all.
    local.is_empty() || local.iter().any(|own| leads_out_by(*own, to.is_ipv4()))
}

fn leads_out_by(own: IpAddr, v4: bool) -> bool {
    own.is_ipv4() == v4 && is_portable(own)
}

/// Servers whose addresses are still to be looked up.
struct Servers {
    servers: Vec<Server>,
    socket: kanpachi_transport::SharedSocket,
    local: Vec<IpAddr>,
    overlay: crate::daemon::overlay::Overlay,
}

impl Servers {
    /// Their addresses, those of different servers first. One on this very machine has nothing to tell.
    async fn find(self) -> Vec<Reflector> {
        let mut found: Vec<(usize, Reflector)> = Vec::new();
        for server in &self.servers {
            let addrs = resolve(&server.addresses).await.into_iter();
            let usable = addrs.filter(|addr| {
                let ip = addr.ip().to_canonical();
                self.socket.speaks(ip)
                    && leads_out(&self.local, ip)
                    && !ip.is_loopback()
                    && !self.local.contains(&ip)
                    && self.overlay.is_underlay(addr)
            });
            let mut count = [0, 0];
            for addr in usable {
                let place = &mut count[usize::from(addr.is_ipv6())];
                *place += 1;
                found.push((*place, (server.id, addr)));
            }
        }
        found.sort_by_key(|(place, _)| *place);
        let mut left = [MAX_REFLECTORS; 2];
        let found = found.into_iter().map(|(_, reflector)| reflector);
        let few = found.filter(|(_, addr)| {
            let left = &mut left[usize::from(addr.is_ipv6())];
            *left > 0 && {
                *left -= 1;
                true
            }
        });
        few.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: u8, port: u16) -> SocketAddr {
        ([203, 0, 113, host], port).into()
    }

    #[test]
    fn an_address_that_no_reflector_confirms_any_more_is_forgotten() {
        let (mut net, start) = (Netcheck::default(), Instant::now());
        let observed = |net: &Netcheck| net.observed().map(|(a, _)| a).collect::<Vec<_>>();
        // Two peers agree on this one.
        for peer in [1, 2] {
            net.note_said(NodeId([peer; 32]), at(9, 5), start);
        }
        assert_eq!(
            net.note_reflected(at(1, 1), at(9, 4000), start),
            (true, false)
        );
        assert_eq!(
            net.note_reflected(at(2, 1), at(9, 4000), start),
            (false, false)
        );
        // Another one as soon as one says so, and the old one is gone when nobody says it any more.
        assert_eq!(
            net.note_reflected(at(1, 1), at(9, 4001), start),
            (true, true)
        );
        assert_eq!(observed(&net), [at(9, 4001), at(9, 4000), at(9, 5)]);
        assert_eq!(
            net.note_reflected(at(2, 1), at(9, 4001), start),
            (true, true)
        );
        assert_eq!(observed(&net), [at(9, 4001), at(9, 5)]);
        // What only a peer saw ages while reflectors answer.
        let later = start + CONFIRMED_FOR;
        net.note_reflected(at(1, 1), at(9, 4001), later);
        assert!(net.expire(later));
        assert_eq!(observed(&net), [at(9, 4001)]);
        // Without a reflector to confirm anything, everything stays.
        assert!(!net.expire(later + 10 * CONFIRMED_FOR));
        assert_eq!(observed(&net), [at(9, 4001)]);
    }

    #[test]
    fn a_peer_elsewhere_tells_what_one_reflector_cannot() {
        use kanpachi_proto::netcheck::Reached;
        let (mut net, now) = (Netcheck::default(), Instant::now());
        let reflector = at(1, 12975);
        let outcome = Outcome {
            public: Some(at(9, 5)),
            reflectors: vec![Reached {
                reflector,
                rtt: None,
            }],
            ..Outcome::default()
        };
        let report = Report {
            v4: Some(outcome),
            v6: None,
        };
        net.checked = Some((
            now,
            Checked {
                report,
                reflectors: vec![],
            },
        ));
        net.note_reflected(reflector, at(9, 4000), now);
        let mapping = |net: &Netcheck| net.nat().map(|nat| nat.mapping);
        net.note_view(reflector.ip(), at(9, 4000));
        net.note_view(at(2, 1).ip(), at(9, 4001));
        assert_eq!(mapping(&net), Some(Mapping::Unknown));
        net.note_view(at(2, 1).ip(), at(9, 4000));
        assert_eq!(mapping(&net), Some(Mapping::EndpointIndependent));
    }

    #[test]
    fn whoever_makes_up_addresses_fills_no_memory() {
        let (mut net, start) = (Netcheck::default(), Instant::now());
        for port in 1..1000 {
            let peer = NodeId([(port % 200) as u8; 32]);
            net.note_said(peer, at(9, port), start);
        }
        assert_eq!(net.observed().count(), MAX_OBSERVED);
        assert_eq!(net.said.len(), MAX_SAID);
    }

    #[test]
    fn the_word_of_a_peer_displaces_nothing_that_a_reflector_says() {
        use CandidateKind::{Observed, Reflexive};
        let (mut net, start) = (Netcheck::default(), Instant::now());
        let (liar, honest) = (NodeId([1; 32]), NodeId([2; 32]));
        let all = |net: &Netcheck| net.observed().collect::<Vec<_>>();
        // Nobody else says anything: the last word of each counts, and no more than that.
        for port in 1..100 {
            assert!(net.note_said(liar, at(7, port), start));
            assert_eq!(all(&net), [(at(7, port), Observed)]);
        }
        net.note_said(honest, at(9, 4000), start);
        assert_eq!(all(&net).len(), 2);
        net.note_reflected(at(1, 1), at(9, 4000), start);
        for port in 1..100 {
            assert!(!net.note_said(liar, at(7, port), start));
            assert_eq!(all(&net), [(at(9, 4000), Reflexive)]);
        }
        // Two agree: there may be another way out. The other family is another matter.
        let six: SocketAddr = ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7], 5).into();
        net.note_said(honest, at(7, 99), start);
        assert_eq!(all(&net), [(at(9, 4000), Reflexive), (at(7, 99), Observed)]);
        net.note_said(honest, six, start);
        assert_eq!(all(&net), [(at(9, 4000), Reflexive), (six, Observed)]);
    }

    #[test]
    fn who_sees_this_node_elsewhere_than_before_is_a_reason_to_ask() {
        let (mut net, start) = (Netcheck::default(), Instant::now());
        let (one, other) = (NodeId([1; 32]), NodeId([2; 32]));
        net.note_reflected(at(1, 1), at(9, 4000), start);
        net.note_said(one, at(9, 4000), start);
        // It is another port for each behind some NATs.
        net.note_said(other, at(9, 4001), start);
        assert_eq!((net.doubted, net.doubt_due()), (false, None));
        assert!(!net.note_said(one, at(9, 4002), start));
        assert_eq!(
            (net.doubted, net.doubt_due()),
            (true, None),
            "nobody was asked before"
        );
        // It is put off, not forgotten.
        net.asked = Some(start);
        assert_eq!(net.doubt_due(), Some(start + BESIDE_TUNNELS.1));
        (net.doubted, net.asked) = (false, None);
        net.note_said(one, at(9, 4000), start);
        assert!(!net.doubted, "a reflector says so too");
        // It sees this node by two ways.
        for port in [4003, 4004, 4003, 4004, 4003] {
            net.note_said(one, at(9, port), start);
            if port == 4004 {
                net.doubted = false;
            }
        }
        assert!(!net.doubted);
    }
}
