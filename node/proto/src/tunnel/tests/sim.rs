//! A network of nodes in one thread: virtual time, and loss, delay, reordering and duplication from a seed.
//!
//! Every host has one address in each of several underlying networks; a datagram to an address of network `k` leaves
//! from the sender's address in network `k`. Networks can be cut, and addresses can change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kanpachi_common::{NodeId, OrgId};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

use super::nats::Filters;
use crate::{
    path::{Candidate, PathKind, Via},
    tunnel::{
        Attended, Config, Datagram, Event, HEADER_LEN, Kind, LocalIdentity, OVERHEAD, PathState,
        PeerConfig, Receipt, ReplayWindow, SealError, Session, Tunnels, attend, classify,
    },
};

pub(super) const ORG: OrgId = OrgId([0xaa; 32]);
/// Networks of the simulation.
pub(super) const NETWORKS: u8 = 3;

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// How bad the network is.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    /// Percent of datagrams lost, each way.
    pub(super) loss: u64,
    /// Percent delivered twice.
    pub(super) duplicate: u64,
    /// Milliseconds on the way: from, and up to how many more.
    pub(super) delay: (u64, u64),
}

pub(super) const CLEAR: Weather = Weather {
    loss: 0,
    duplicate: 0,
    delay: (10, 0),
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) at: Duration,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) data: Vec<u8>,
}

pub(super) struct Host {
    pub(super) id: NodeId,
    pub(super) key: [u8; 32],
    pub(super) tunnels: Tunnels,
    pub(super) ports: [u16; NETWORKS as usize],
    number: u8,
    table: BTreeMap<u32, (Arc<Session>, ReplayWindow)>,
    pub(super) sending: BTreeMap<NodeId, (Arc<Session>, SocketAddr)>,
    pub(super) received: Vec<Vec<u8>>,
    pub(super) events: Vec<(Duration, Event)>,
    /// What the packet thread answers, and what it leaves for when the core is awake anyway.
    answers: Vec<(SocketAddr, Vec<u8>)>,
    later: Vec<Left>,
}

/// A control message that was attended to, and when.
type Left = (Receipt, Vec<u8>, Instant);

impl Host {
    fn new(number: u8, config: Config, seed: u64, floor: u64, now: Instant) -> Self {
        let secret = [number + 1; 32];
        let id = NodeId([number * 16 + 1; 32]);
        let identity = LocalIdentity::new(id, ORG, &secret);
        let mut full = [number; 32];
        full[..8].copy_from_slice(&seed.to_le_bytes());
        Self {
            id,
            key: x25519_dalek::x25519(secret, x25519_dalek::X25519_BASEPOINT_BYTES),
            tunnels: Tunnels::new(identity, config, full, floor, now),
            ports: [1000; NETWORKS as usize],
            number,
            table: BTreeMap::new(),
            sending: BTreeMap::new(),
            received: Vec::new(),
            events: Vec::new(),
            answers: Vec::new(),
            later: Vec::new(),
        }
    }

    /// What a shell does first whenever the core is awake.
    fn catch_up(&mut self) {
        for (receipt, payload, at) in std::mem::take(&mut self.later) {
            self.tunnels.handle_attended(receipt, &payload, at);
        }
    }

    /// Answers for a session at rest. `false` when the core has to.
    fn attend(
        &mut self,
        session: &Session,
        receipt: Receipt,
        payload: &[u8],
        now: Instant,
    ) -> bool {
        let (index, from) = (session.local_index(), receipt.from);
        let usual = self
            .sending
            .get(&session.peer())
            .is_some_and(|(s, endpoint)| s.local_index() == index && *endpoint == from);
        if !usual {
            return false;
        }
        match attend(session, &receipt, payload, self.tunnels.millis(now)) {
            Attended::No => return false,
            Attended::Later => {}
            Attended::Answered(answer) => self.answers.push((from, answer)),
        }
        self.later.push((receipt, payload.to_vec(), now));
        true
    }

    pub(super) fn addr(&self, network: u8) -> SocketAddr {
        SocketAddr::from((
            [10, network, 0, self.number + 1],
            self.ports[usize::from(network)],
        ))
    }

    pub(super) fn config(&self) -> PeerConfig {
        PeerConfig {
            node_id: self.id,
            tunnel_key: self.key,
            networks: Vec::new(),
        }
    }

    pub(super) fn table_len(&self) -> usize {
        self.table.len()
    }

    /// The session that this host sends with.
    pub(super) fn session(&self, peer: &NodeId) -> Option<Arc<Session>> {
        self.sending
            .get(peer)
            .map(|(session, _)| Arc::clone(session))
    }

    pub(super) fn endpoint(&self, peer: &NodeId) -> Option<SocketAddr> {
        self.sending.get(peer).map(|(_, endpoint)| *endpoint)
    }

    fn apply(&mut self, at: Duration, event: Event) {
        match &event {
            Event::SessionPending { session, .. } => {
                let new = (Arc::clone(session), ReplayWindow::new());
                self.table.entry(session.local_index()).or_insert(new);
            }
            Event::SessionUp {
                peer,
                session,
                endpoint,
            } => {
                let new = (Arc::clone(session), ReplayWindow::new());
                self.table.entry(session.local_index()).or_insert(new);
                self.sending.insert(*peer, (Arc::clone(session), *endpoint));
            }
            Event::SessionClosed {
                peer, local_index, ..
            } => {
                self.table.remove(local_index);
                if self
                    .session(peer)
                    .is_some_and(|s| s.local_index() == *local_index)
                {
                    self.sending.remove(peer);
                }
            }
            Event::EndpointChanged { peer, endpoint, .. } => {
                if let Some((_, old)) = self.sending.get_mut(peer) {
                    *old = *endpoint;
                }
            }
            Event::Trouble { .. }
            | Event::Unanswered { .. }
            | Event::PathState { .. }
            | Event::Epochs { .. }
            | Event::Rtt { .. }
            | Event::Observed { .. }
            | Event::Pong { .. }
            | Event::OpenSockets { .. }
            | Event::PathMtu { .. } => {}
        }
        self.events.push((at, event));
    }

    /// What a packet thread does.
    fn receive(&mut self, from: SocketAddr, data: &mut [u8], held: Duration, now: Instant) {
        let now_ms = self.tunnels.millis(now);
        match classify(data) {
            None => {}
            Some(Datagram::Handshake) => {
                self.catch_up();
                self.tunnels.handle_datagram(from, data, now);
            }
            Some(Datagram::Transport { receiver }) => {
                let Some((session, window)) = self.table.get_mut(&receiver) else {
                    return;
                };
                let Ok(opened) = session.open_in_place(data, now_ms) else {
                    return;
                };
                if !window.check_and_set(opened.counter) {
                    return;
                }
                session.record_rx(opened.kind, data.len(), now_ms);
                let payload = &data[opened.payload];
                let session = Arc::clone(session);
                let receipt = Receipt {
                    held,
                    ..Receipt::at_once(receiver, from, opened.counter)
                };
                let left =
                    opened.kind == Kind::Control && self.attend(&session, receipt, payload, now);
                if left {
                    return;
                }
                self.catch_up();
                if opened.kind == Kind::Control {
                    self.tunnels.handle_opened_control(receipt, payload, now);
                    return;
                }
                if session.wakes() {
                    self.tunnels.handle_woken(receiver, now);
                }
                let endpoint = self.sending.get(&session.peer()).map(|(_, e)| *e);
                self.received.push(payload.to_vec());
                if !session.is_confirmed() || endpoint != Some(from) {
                    self.tunnels
                        .handle_authenticated(receiver, from, opened.counter, now);
                }
            }
        }
    }
}

pub(super) struct Sim {
    pub(super) hosts: Vec<Host>,
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) weather: Weather,
    pub(super) cut: BTreeSet<u8>,
    /// For up to this long what arrives lies unread.
    pub(super) nap: Duration,
    /// Longer datagrams are lost.
    pub(super) largest: usize,
    /// Everything ever put on the wire.
    pub(super) log: Vec<Packet>,
    queue: BTreeMap<(Instant, u64), Packet>,
    seq: u64,
    seed: u64,
    rng: ChaCha20Rng,
    config: Config,
    /// In network 1 one host is behind a symmetric NAT, and the others let in only what they have sent to.
    pub(super) symmetric: Option<Symmetric>,
    /// In network 1 hosts are behind NATs of their own.
    pub(super) filters: Filters,
}

/// A host that has another port for each socket, which the others do not know.
#[derive(Default)]
pub(super) struct Symmetric {
    pub(super) host: usize,
    /// Ports that are open, with the socket behind each.
    pub(super) ports: BTreeMap<u16, SocketAddr>,
    /// Ports that somebody has sent to.
    pub(super) tried: BTreeSet<u16>,
}

pub(super) fn config() -> Config {
    Config::default()
}

impl Sim {
    /// Hosts that know and authorise each other; nobody is connected yet.
    pub(super) fn new(hosts: u8, seed: u64, config: Config) -> Self {
        let start = Instant::now();
        let mut sim = Self {
            hosts: (0..hosts)
                .map(|n| Host::new(n, config.clone(), seed, 1000, start))
                .collect(),
            start,
            now: start,
            weather: CLEAR,
            cut: BTreeSet::new(),
            nap: Duration::ZERO,
            largest: usize::MAX,
            log: Vec::new(),
            queue: BTreeMap::new(),
            seq: 0,
            seed,
            rng: ChaCha20Rng::seed_from_u64(seed),
            config,
            symmetric: None,
            filters: Filters::default(),
        };
        for at in 0..sim.hosts.len() {
            sim.introduce(at);
        }
        sim
    }

    fn introduce(&mut self, at: usize) {
        let others: Vec<_> = self.hosts.iter().map(|h| (h.config(), h.addr(0))).collect();
        let host = &mut self.hosts[at];
        for (config, addr) in others {
            let id = config.node_id;
            host.tunnels.set_peer(config, self.now);
            let candidate = Candidate {
                addr,
                kind: PathKind::Host,
            };
            host.tunnels.set_candidates(&id, &[candidate], self.now);
        }
    }

    /// The process of a host dies without a word and starts again.
    pub(super) fn restart(&mut self, at: usize, floor: u64) {
        self.seed += 1;
        let number = self.hosts[at].number;
        self.hosts[at] = Host::new(number, self.config.clone(), self.seed, floor, self.now);
        self.introduce(at);
    }

    pub(super) fn id(&self, at: usize) -> NodeId {
        self.hosts[at].id
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(super) fn roll(&mut self, end: u64) -> u64 {
        self.rng.next_u64() % end.max(1)
    }

    /// Offers `of`'s addresses in these networks to `to`.
    pub(super) fn offer(&mut self, to: usize, of: usize, kinds: &[(u8, PathKind)]) {
        let candidates: Vec<_> = kinds
            .iter()
            .map(|(network, kind)| Candidate {
                addr: self.hosts[of].addr(*network),
                kind: *kind,
            })
            .collect();
        let (now, id) = (self.now, self.id(of));
        self.hosts[to].tunnels.set_candidates(&id, &candidates, now);
        self.drain();
    }

    pub(super) fn connect(&mut self, from: usize, to: usize) {
        let (now, id) = (self.now, self.id(to));
        self.hosts[from].catch_up();
        self.hosts[from].tunnels.connect(&id, now);
        self.drain();
    }

    pub(super) fn with<T>(&mut self, at: usize, f: impl FnOnce(&mut Tunnels, Instant) -> T) -> T {
        self.hosts[at].catch_up();
        let out = f(&mut self.hosts[at].tunnels, self.now);
        self.drain();
        out
    }

    /// Seals data and puts it on the wire, as a packet thread does.
    pub(super) fn send(&mut self, from: usize, to: usize, payload: &[u8]) -> Result<(), SealError> {
        let id = self.id(to);
        let host = &self.hosts[from];
        let Some((session, endpoint)) = host.sending.get(&id) else {
            return Err(SealError::Closed);
        };
        let mut buf = vec![0; payload.len() + OVERHEAD];
        buf[HEADER_LEN..HEADER_LEN + payload.len()].copy_from_slice(payload);
        let now_ms = host.tunnels.millis(self.now);
        session.seal_into(Kind::Ip, &mut buf, payload.len(), now_ms)?;
        let (endpoint, session) = (*endpoint, Arc::clone(session));
        if session.wakes() {
            let now = self.now;
            self.hosts[from]
                .tunnels
                .handle_woken(session.local_index(), now);
        }
        self.put(from, endpoint, buf);
        Ok(())
    }

    fn put(&mut self, from: usize, to: SocketAddr, data: Vec<u8>) {
        let Some((from, to)) = self.translate(from, to) else {
            return;
        };
        self.inject(from, to, data);
    }

    /// What NATs make of source and destination; `None` when they drop it.
    fn translate(&mut self, from: usize, to: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
        let (random, network) = (self.roll(64_000), network_of(to));
        let source = self.hosts[from].addr(network);
        self.filters.sends(from, to, self.now);
        let Some(nat) = self.symmetric.as_mut() else {
            return Some((source, to));
        };
        let host = &self.hosts[nat.host];
        if matches!(Via::of(to), Some(Via::Socket { .. })) {
            assert_eq!(from, nat.host);
            let known = nat.ports.iter().find(|(_, via)| **via == to);
            let port = known.map(|(port, _)| *port);
            let port = port.unwrap_or(1024 + u16::try_from(random).unwrap());
            nat.ports.insert(port, to);
            let other = self.hosts[1 - from].addr(1);
            let outside = SocketAddr::new(host.addr(1).ip(), port);
            return nat.tried.contains(&port).then_some((outside, other));
        }
        if network != 1 {
            return Some((source, to));
        }
        if from == nat.host || to.ip() != host.addr(1).ip() {
            return None;
        }
        nat.tried.insert(to.port());
        // The socket behind the port is where it arrives.
        Some((*nat.ports.get(&to.port())?, host.addr(1)))
    }

    /// Puts a datagram with any source address on the wire.
    pub(super) fn inject(&mut self, from: SocketAddr, to: SocketAddr, data: Vec<u8>) {
        let packet = Packet {
            at: self.elapsed(),
            from,
            to,
            data,
        };
        self.log.push(packet.clone());
        let lost = self.cut.contains(&network_of(to)) || packet.data.len() > self.largest;
        if lost || self.roll(100) < self.weather.loss {
            return;
        }
        let copies = if self.roll(100) < self.weather.duplicate {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let nap = u64::try_from(self.nap.as_millis()).unwrap();
            let delay = self.weather.delay.0 + self.roll(self.weather.delay.1 + 1);
            let delay = delay + if nap == 0 { 0 } else { self.roll(nap + 1) };
            self.seq += 1;
            self.queue
                .insert((self.now + ms(delay), self.seq), packet.clone());
        }
    }

    fn drain(&mut self) {
        for at in 0..self.hosts.len() {
            for (to, answer) in std::mem::take(&mut self.hosts[at].answers) {
                self.put(at, to, answer);
            }
            while let Some(transmit) = self.hosts[at].tunnels.poll_transmit() {
                self.put(at, transmit.to, transmit.data);
            }
            let elapsed = self.elapsed();
            while let Some(event) = self.hosts[at].tunnels.poll_event() {
                self.hosts[at].apply(elapsed, event);
            }
        }
    }

    fn next_step(&self) -> Option<Instant> {
        let timers = self.hosts.iter().filter_map(|h| h.tunnels.poll_timeout());
        timers
            .chain(self.queue.keys().map(|(at, _)| *at).take(1))
            .min()
    }

    fn step(&mut self, at: Instant) {
        self.now = self.now.max(at);
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= self.now
        {
            let mut packet = entry.remove();
            let host = (self.hosts.iter())
                .position(|h| (0..NETWORKS).any(|network| h.addr(network) == packet.to));
            let free = |host| {
                network_of(packet.to) != 1 || self.filters.let_in(host, packet.from, self.now)
            };
            if let Some(host) = host.filter(|host| free(*host)) {
                self.hosts[host].receive(packet.from, &mut packet.data, self.nap, self.now);
            }
            self.drain();
        }
        for host in &mut self.hosts {
            let due = host.tunnels.poll_timeout();
            if due.is_some_and(|due| due <= self.now) {
                host.catch_up();
                host.tunnels.handle_timeout(self.now);
            }
        }
        self.drain();
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(time, |_| false);
        self.now = end;
    }

    /// Runs until `done`, for `limit` at most; returns how long it took.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        let mut steps = 0_u32;
        while !done(self) {
            let at = self.next_step()?;
            if at > begin + limit {
                self.now = begin + limit;
                return None;
            }
            self.step(at);
            steps += 1;
            assert!(steps < 2_000_000, "the timers run hot");
        }
        Some(self.now - begin)
    }

    /// Both have a session to send with, and the other has its counterpart.
    pub(super) fn is_up(&self, a: usize, b: usize) -> bool {
        [(a, b), (b, a)].iter().all(|(x, y)| {
            self.hosts[*x].session(&self.id(*y)).is_some_and(|s| {
                s.is_confirmed() && self.hosts[*y].table.contains_key(&s.remote_index())
            })
        })
    }

    pub(super) fn state(&self, at: usize, peer: usize) -> PathState {
        self.hosts[at]
            .tunnels
            .status(&self.id(peer), self.now)
            .unwrap()
            .state
    }

    /// Connected in both directions with data flowing, from scratch.
    pub(super) fn connected(seed: u64, config: Config) -> Self {
        let mut sim = Self::new(2, seed, config);
        sim.connect(0, 1);
        sim.run_until(secs(2), |s| s.is_up(0, 1))
            .expect("a clear network connects");
        sim
    }
}

pub(super) fn network_of(addr: SocketAddr) -> u8 {
    match addr {
        SocketAddr::V4(v4) => v4.ip().octets()[1],
        SocketAddr::V6(_) => 0,
    }
}
