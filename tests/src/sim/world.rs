//! Everything together, and the loop that moves time on.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use kanpachi_common::{
    NodeId,
    org::Address,
    roster::{HARD_SECONDS, SOFT_SECONDS},
    wire::{
        frame::{FrameReader, MAX_REPLY},
        member::{Ask, MemberMessage},
    },
};
use kanpachi_proto::{login::Attempt, tunnel};

use super::{
    clock::Clock,
    coordinator::Coordinator,
    inner,
    invariants::Invariants,
    log::{Log, mix},
    net::{Arrival, End, Item, Letter, LineId, Net, Weather},
    node::{Node, Out},
    traffic::{Flow, Traffic},
};
use crate::rng::Rng;

/// The coordinator's address.
const COORDINATOR: ([u8; 4], u16) = ([192, 0, 2, 1], 12975);
/// The nodes' port.
const PORT: u16 = 12976;
/// First byte of a handshake's first message.
const INITIATION: u8 = 1;
/// More steps than this in one virtual second mean that some timer is always due.
const MAX_STEPS_PER_SECOND: u32 = 100_000;

/// What a simulation is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    pub weather: Weather,
    pub tunnels: tunnel::Config,
    /// Seconds from signing a head to its soft and hard expiry.
    pub lifetime: (u64, u64),
    /// Keep every line of the log.
    pub record: bool,
}

impl Plan {
    /// Nodes in good weather.
    pub fn new(seed: u64, nodes: usize) -> Self {
        Self {
            seed,
            nodes,
            weather: Weather::CLEAR,
            tunnels: tunnel::Config::default(),
            lifetime: (SOFT_SECONDS, HARD_SECONDS),
            record: false,
        }
    }

    pub fn weather(self, weather: Weather) -> Self {
        Self { weather, ..self }
    }

    /// Sessions get a successor after this time.
    pub fn rekey_after(mut self, time: Duration) -> Self {
        self.tunnels.rekey_after = time;
        self
    }

    /// Heads expire after so many seconds: first a warning, then nothing is opened any more.
    pub fn lifetime(self, soft: u64, hard: u64) -> Self {
        Self {
            lifetime: (soft, hard),
            ..self
        }
    }

    pub fn recorded(self) -> Self {
        Self {
            record: true,
            ..self
        }
    }
}

/// Nodes, a coordinator, and what lies between them.
#[derive(Debug)]
pub struct World {
    pub seed: u64,
    pub clock: Clock,
    pub net: Net,
    pub nodes: Vec<Node>,
    pub coordinator: Coordinator,
    pub traffic: Traffic,
    pub log: Log,
    /// For whoever directs the run.
    pub rng: Rng,
    invariants: Invariants,
    steps: u64,
    questions: u64,
    initiations: u64,
    hot: (u64, u32),
}

impl World {
    /// Machines that were just set up: the coordinator runs, the nodes do, and nobody has joined.
    pub fn new(plan: &Plan) -> Self {
        let mut rng = Rng::new(plan.seed);
        let mut fork = || Rng::new(rng.next_u64());
        let clock = Clock::new();
        let nodes = (0..plan.nodes).map(|index| {
            let host = u8::try_from(index + 10).expect("a handful of nodes");
            let addr = SocketAddr::from(([192, 0, 2, host], PORT));
            Node::new(index, addr, plan.tunnels.clone(), fork())
        });
        let nodes = nodes.collect();
        let coordinator = Coordinator::new(COORDINATOR.into(), plan.lifetime, &clock, fork());
        let net = Net::new(plan.weather, fork().next_u64());
        let mut world = Self {
            seed: plan.seed,
            clock,
            net,
            nodes,
            coordinator,
            traffic: Traffic::default(),
            log: Log::new(plan.record),
            rng: fork(),
            invariants: Invariants::default(),
            steps: 0,
            questions: 0,
            initiations: 0,
            hot: (0, 0),
        };
        world.start_coordinator();
        for index in 0..plan.nodes {
            world.start_node(index);
        }
        world
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Questions of members to members so far.
    pub fn questions(&self) -> u64 {
        self.questions
    }

    /// Handshakes that nodes began so far, each sending counted.
    pub fn initiations(&self) -> u64 {
        self.initiations
    }

    pub fn start_coordinator(&mut self) {
        let life = self.coordinator.start(&self.clock);
        self.net.set_listening(self.coordinator.addr, Some(life));
        self.note("the coordinator starts");
        self.settle_coordinator();
    }

    /// SIGKILL, or the plug: nobody is told.
    pub fn kill_coordinator(&mut self) {
        self.coordinator.kill();
        self.net.set_listening(self.coordinator.addr, None);
        self.note("the coordinator is killed");
    }

    /// Somebody sets the coordinator up anew, at the same address.
    pub fn wipe_coordinator(&mut self) {
        self.kill_coordinator();
        let rng = Rng::new(self.rng.next_u64());
        let lifetime = (SOFT_SECONDS, HARD_SECONDS);
        let addr = self.coordinator.addr;
        self.coordinator = Coordinator::new(addr, lifetime, &self.clock, rng);
        self.start_coordinator();
    }

    pub fn start_node(&mut self, index: usize) -> bool {
        let started = self.nodes[index].start(&self.clock);
        self.settle_node(index);
        started
    }

    /// Ends a node's process: at a word, with farewells, or by SIGKILL. Then nobody is told.
    pub fn stop_node(&mut self, index: usize, farewell: bool) {
        let now = self.nodes[index].now(&self.clock);
        self.nodes[index].stop(farewell, now);
        self.settle_node(index);
        for line in self.net.lines_of(index) {
            if farewell {
                self.net.close(line, self.clock.elapsed());
            } else {
                self.net.forget(line);
            }
        }
    }

    /// Does something to a node and carries out what it leads to.
    pub fn with_node<T>(
        &mut self,
        index: usize,
        f: impl FnOnce(&mut Node, std::time::Instant) -> T,
    ) -> T {
        let now = self.nodes[index].now(&self.clock);
        let out = f(&mut self.nodes[index], now);
        self.settle_node(index);
        out
    }

    /// Does something to the coordinator and carries out what it leads to.
    pub fn with_coordinator<T>(&mut self, f: impl FnOnce(&mut Coordinator, &Clock) -> T) -> T {
        let out = f(&mut self.coordinator, &self.clock);
        self.settle_coordinator();
        out
    }

    /// Cuts a node's streams: both ends see them end.
    pub fn cut_lines(&mut self, index: usize) {
        for line in self.net.lines_of(index) {
            let at = self.elapsed();
            self.net.put(line, End::Node, Item::Fin, at);
            self.net.put(line, End::Server, Item::Fin, at);
        }
    }

    /// Sends numbered packets from now on.
    pub fn flow(&mut self, from: usize, to: usize, every: Duration) {
        let next = self.elapsed();
        let v6 = self.traffic.flows.len() % 2 == 1;
        self.traffic.flows.push(Flow {
            from,
            to,
            every,
            next,
            v6,
        });
    }

    /// Adds a line to the log.
    pub fn note(&mut self, line: impl std::fmt::Display) {
        self.log.add(self.clock.elapsed(), line);
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.elapsed() + time;
        while self.step(end) {}
    }

    /// Runs until `done`; how long it took, or `None` when it took longer than `limit`.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let begin = self.elapsed();
        loop {
            if done(self) {
                return Some(self.elapsed() - begin);
            }
            if !self.step(begin + limit) {
                return None;
            }
        }
    }

    /// Moves on to the next thing that happens and lets it happen; `false` when nothing does before `end`.
    pub fn step(&mut self, end: Duration) -> bool {
        let nodes = self.nodes.iter().filter_map(|n| self.due(n)).min();
        let coordinator = self.coordinator.poll_timeout().map(|t| self.clock.at(t));
        let next = [
            nodes,
            coordinator,
            self.net.next_at(),
            self.traffic.next_at(),
        ];
        let next = next.into_iter().flatten().min();
        let Some(at) = next.filter(|at| *at <= end) else {
            self.clock.advance_to(end);
            return false;
        };
        self.clock.advance_to(at);
        self.count_step();
        let now = self.elapsed();
        if self.net.next_at().is_some_and(|at| at <= now) {
            for arrival in self.net.arrive(now) {
                self.carry(arrival);
            }
        } else if let Some(flow) = self.traffic.due(now) {
            self.send(flow.from, flow.to, flow.v6);
        } else {
            self.run_timers();
        }
        true
    }

    /// When something is to be done at a node: a sleeping one does nothing but wake up.
    fn due(&self, node: &Node) -> Option<Duration> {
        match node.asleep {
            Some(sleep) => Some(sleep.until),
            None => node
                .poll_timeout()
                .map(|at| self.clock.at(at) + node.behind),
        }
    }

    fn count_step(&mut self) {
        self.steps += 1;
        let second = self.elapsed().as_secs();
        if self.hot.0 != second {
            self.hot = (second, 0);
        }
        self.hot.1 += 1;
        assert!(self.hot.1 < MAX_STEPS_PER_SECOND, "the timers run hot");
    }

    fn run_timers(&mut self) {
        let elapsed = self.elapsed();
        for index in 0..self.nodes.len() {
            if self.due(&self.nodes[index]).is_some_and(|at| at <= elapsed) {
                self.rouse(index);
                let now = self.nodes[index].now(&self.clock);
                self.nodes[index].handle_timeout(now);
                self.settle_node(index);
            }
        }
        let now = self.clock.now();
        if self.coordinator.poll_timeout().is_some_and(|at| at <= now) {
            self.coordinator.handle_timeout(&self.clock);
            self.settle_coordinator();
        }
    }

    /// Sends one numbered packet; `false` when the sender knows no way, or has no address.
    pub fn send(&mut self, from: usize, to: usize, v6: bool) -> bool {
        if self.nodes[from].asleep.is_some() {
            return false;
        }
        let address = |node: &Node| -> Option<IpAddr> {
            let own = node.process.as_ref()?.own()?;
            if v6 {
                Some(own.ipv6.into())
            } else {
                own.ipv4.map(IpAddr::from)
            }
        };
        let destination = address(&self.nodes[to]).or_else(|| {
            let ipv4 = self.nodes[to].disk.ipv4().flatten()?;
            (!v6).then_some(ipv4.into())
        });
        let (Some(source), Some(destination)) = (address(&self.nodes[from]), destination) else {
            return false;
        };
        let number = self.traffic.number();
        self.invariants.sent(number, from);
        self.traffic.sent(from, to);
        let packet = inner::build(source, destination, number);
        self.with_node(from, |node, now| node.send_inner(&packet, now))
    }

    /// A packet that `from` seals for `to` although its source belongs to somebody else.
    pub fn send_forged(&mut self, from: usize, to: usize, source: IpAddr, destination: IpAddr) {
        let number = self.traffic.number();
        self.invariants.sent(number, from);
        let (packet, peer) = (
            inner::build(source, destination, number),
            self.nodes[to].id(),
        );
        self.with_node(from, |node, now| node.send_raw(&peer, &packet, now));
    }

    fn carry(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Datagram { from, to, mut data } => {
                let digest = mix(0, &data);
                let length = data.len();
                self.note(format_args!("{from} -> {to} {length} {digest:016x}"));
                let awake = |n: &Node| n.addr == to && n.asleep.is_none();
                let index = self.nodes.iter().position(awake);
                if let Some(index) = index {
                    let now = self.nodes[index].now(&self.clock);
                    self.nodes[index].handle_datagram(from, &mut data, now);
                    self.settle_node(index);
                }
            }
            Arrival::Letter(letter) => self.carry_letter(&letter),
            Arrival::Item { line, to, item } => {
                let size = match &item {
                    Item::Bytes(bytes) => mix(0, bytes),
                    _ => 0,
                };
                self.note(format_args!("line {} to {to:?} {size:016x}", line.0));
                match to {
                    End::Server => self.carry_to_server(line, item),
                    End::Node => self.carry_to_node(line, item),
                }
            }
        }
    }

    fn carry_to_server(&mut self, line: LineId, item: Item) {
        let now = self.elapsed();
        match item {
            Item::Dial => {
                let Some(known) = self.net.line(line) else {
                    return;
                };
                let node = &self.nodes[known.node];
                let (id, addr) = (node.id(), node.addr);
                self.coordinator.handle_open(line, id, addr, &self.clock);
                self.net.put(line, End::Node, Item::Accept, now);
            }
            Item::Bytes(bytes) => self.coordinator.handle_bytes(line, &bytes, &self.clock),
            Item::Fin => {
                self.coordinator.handle_closed(line);
                self.net.forget(line);
            }
            Item::Accept => {}
        }
        self.settle_coordinator();
    }

    fn carry_to_node(&mut self, line: LineId, item: Item) {
        let Some(known) = self.net.line(line) else {
            return;
        };
        let (index, life, attempt) = (known.node, known.life, known.attempt);
        let node = &mut self.nodes[index];
        if node.life != life || node.process.is_none() || node.asleep.is_some() {
            // Nobody there answers for that process any more, or for so long that the connection is given up.
            return self.net.forget(line);
        }
        let now = node.now(&self.clock);
        match item {
            Item::Accept => node.handle_opened(attempt, self.coordinator.id(), now),
            Item::Bytes(bytes) => {
                self.coordinator.handle_sent(line, bytes.len(), &self.clock);
                node.handle_bytes(attempt, &bytes, now);
                self.settle_coordinator();
            }
            Item::Fin => {
                self.net.forget(line);
                node.handle_closed(attempt, "the connection was closed", now);
            }
            Item::Dial => {}
        }
        self.settle_node(index);
    }

    fn settle_coordinator(&mut self) {
        for event in self.coordinator.drive(&mut self.net, &self.clock) {
            self.note(format_args!("coordinator: {event:?}"));
        }
    }

    pub(super) fn settle_node(&mut self, index: usize) {
        while let Some(out) = self.nodes[index].poll_out() {
            self.put_out(index, out);
        }
        let now = self.nodes[index].now(&self.clock);
        self.invariants.check(&self.nodes[index], now);
    }

    fn put_out(&mut self, index: usize, out: Out) {
        let now = self.elapsed();
        let node = &self.nodes[index];
        let (addr, life) = (node.addr, node.life);
        match out {
            Out::Datagram(to, data) => {
                self.initiations += u64::from(data.first() == Some(&INITIATION));
                self.net.send(addr, to, data, now);
            }
            Out::Dial(attempt, address) => self.dial(index, attempt, &address),
            Out::Bytes(attempt, bytes) => {
                if let Some(line) = self.net.line_of(index, life, attempt) {
                    self.net.put(line, End::Server, Item::Bytes(bytes), now);
                }
            }
            Out::Close(attempt) => {
                if let Some(line) = self.net.line_of(index, life, attempt) {
                    self.net.close(line, now);
                }
            }
            Out::Ask {
                number,
                peer,
                to,
                ask,
            } => self.ask_member(index, number, peer, &to, ask),
            Out::Deliver(peer, packet) => self.deliver(index, peer, &packet),
            Out::Note(text) => self.note(text),
        }
    }

    /// Whoever has the right key at one of the addresses gets the question: anybody else fails libp2p's handshake.
    fn ask_member(
        &mut self,
        index: usize,
        number: u64,
        peer: NodeId,
        to: &[SocketAddr],
        ask: Box<Ask>,
    ) {
        self.questions += 1;
        let there = |n: &&Node| n.id() == peer && n.process.is_some() && to.contains(&n.addr);
        let Some(to) = self.nodes.iter().find(there).map(|n| n.addr) else {
            return;
        };
        let node = &self.nodes[index];
        let letter = Letter {
            from: node.addr,
            to,
            asker: (index, node.life),
            number,
            bytes: MemberMessage::Ask(ask).frame(0).to_bytes(),
            is_answer: false,
        };
        let now = self.elapsed();
        self.net.send_letter(letter, now);
    }

    fn carry_letter(&mut self, letter: &Letter) {
        let (asker, life) = letter.asker;
        let messages = read_messages(&letter.bytes);
        let digest = mix(0, &letter.bytes);
        self.note(format_args!(
            "{} asks {} {digest:016x}",
            letter.from, letter.to
        ));
        if letter.is_answer {
            let node = &mut self.nodes[asker];
            if node.life == life && node.process.is_some() && node.asleep.is_none() {
                let now = node.now(&self.clock);
                node.handle_answers(letter.number, messages, now);
                self.settle_node(asker);
            }
            return;
        }
        let awake = |n: &Node| n.addr == letter.to && n.asleep.is_none();
        let Some(index) = self.nodes.iter().position(awake) else {
            return;
        };
        let id = self.nodes[asker].id();
        let now = self.nodes[index].now(&self.clock);
        for message in messages {
            let MemberMessage::Ask(ask) = message else {
                continue;
            };
            let answers = self.nodes[index].handle_asked(id, &ask, now);
            let frames = answers.iter().flat_map(|m| m.frame(0).to_bytes());
            let answer = Letter {
                from: letter.to,
                to: letter.from,
                asker: letter.asker,
                number: letter.number,
                bytes: frames.collect(),
                is_answer: true,
            };
            let at = self.elapsed();
            self.net.send_letter(answer, at);
            self.settle_node(index);
        }
    }

    fn dial(&mut self, index: usize, attempt: Attempt, address: &Address) {
        let node = &self.nodes[index];
        let (from, call) = (node.addr.ip(), (index, node.life, attempt));
        if let Ok(ip) = address.host.parse::<IpAddr>() {
            let server = SocketAddr::new(ip, address.port);
            let now = self.elapsed();
            self.net.dial(call, from, server, now);
        }
    }

    fn deliver(&mut self, index: usize, peer: NodeId, packet: &[u8]) {
        let inner = inner::read(packet).expect("the node read it too");
        let now = self.nodes[index].now(&self.clock);
        let from = self
            .invariants
            .delivered(inner, &self.nodes, index, peer, now);
        self.note(format_args!("{index} gets packet {}", inner.number));
        self.traffic.delivered(from, index, self.clock.elapsed());
    }
}

/// The messages in a letter, as a stream would have them.
fn read_messages(bytes: &[u8]) -> Vec<MemberMessage> {
    let mut reader = FrameReader::new(MAX_REPLY);
    reader.extend(bytes);
    let frames = std::iter::from_fn(|| reader.next_frame().expect("frames, as they were sent"));
    let read = |frame| MemberMessage::from_frame(&frame).expect("messages, as they were sent");
    frames.map(read).collect()
}

impl Drop for World {
    /// A run that went wrong says how to see it again.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.log.lines() {
                crate::note(line);
            }
            crate::note(format_args!(
                "after {} steps, {:?} of virtual time; again with KANPACHI_SEED={}",
                self.steps,
                self.clock.elapsed(),
                self.seed
            ));
        }
    }
}
