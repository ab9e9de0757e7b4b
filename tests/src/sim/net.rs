//! The virtual network: datagrams that are lost, late, doubled and overtaken, and control streams that are ordered and
//! reliable until somebody cuts them.
//!
//! A stream is what QUIC makes of the same weather: each piece is sent again until it is through, and what came too
//! early waits. Nobody tells a node that a server is gone; its pieces go nowhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use kanpachi_proto::login::Attempt;

use crate::rng::Rng;

/// First wait before a piece of a stream is sent again; it doubles each time.
const RESEND: Duration = Duration::from_millis(300);
/// Longest wait.
const MAX_RESEND: Duration = Duration::from_secs(2);

/// Datagrams that somebody on the way keeps.
const OVERHEARD: usize = 256;
/// Where that somebody sends from.
const ATTACKER: ([u8; 4], u16) = ([198, 51, 100, 66], 666);

/// How bad the network is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// Chance that a datagram is lost, in percent.
    pub loss: f64,
    /// Chance that it comes twice, in percent.
    pub duplicate: f64,
    /// Shortest and longest delay in milliseconds, each datagram its own: what lies between them is reordering.
    pub delay: (u64, u64),
    /// Chance that a datagram brings along an older one, from an address that it never came from, in percent: what
    /// somebody does who listens on the way.
    pub replay: f64,
    /// Chance that one bit of it is changed, in percent.
    pub damage: f64,
}

impl Weather {
    /// No loss, and next to no jitter.
    pub const CLEAR: Self = Self {
        loss: 0.0,
        duplicate: 0.0,
        delay: (10, 12),
        replay: 0.0,
        damage: 0.0,
    };
    /// A tenth is lost, and datagrams overtake each other.
    pub const ROUGH: Self = Self {
        loss: 10.0,
        duplicate: 2.0,
        delay: (5, 60),
        replay: 0.0,
        damage: 0.0,
    };
    /// Almost a third is lost, much comes late or twice.
    pub const STORM: Self = Self {
        loss: 30.0,
        duplicate: 5.0,
        delay: (5, 150),
        replay: 0.0,
        damage: 0.0,
    };
    /// Rough, and somebody on the way repeats and changes what passes.
    pub const HOSTILE: Self = Self {
        replay: 20.0,
        damage: 5.0,
        ..Self::ROUGH
    };
}

/// A control stream, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineId(pub u64);

/// An end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Who dialled.
    Node,
    /// Who listens.
    Server,
}

/// A piece of a stream.
#[derive(Clone, Debug)]
pub enum Item {
    /// The node wants to talk.
    Dial,
    /// The server takes it.
    Accept,
    /// Bytes.
    Bytes(Vec<u8>),
    /// Nothing more will come.
    Fin,
}

/// A stream and what is on its way.
#[derive(Debug)]
pub struct Line {
    /// Which node.
    pub node: usize,
    /// Which process of it.
    pub life: u64,
    /// What the node calls it.
    pub attempt: Attempt,
    from: IpAddr,
    server: SocketAddr,
    /// The process that took the call.
    server_life: Option<u64>,
    to_node: Pipe,
    to_server: Pipe,
}

impl Line {
    fn pipe(&mut self, to: End) -> &mut Pipe {
        match to {
            End::Node => &mut self.to_node,
            End::Server => &mut self.to_server,
        }
    }
}

#[derive(Debug, Default)]
struct Pipe {
    sent: u64,
    received: u64,
    early: BTreeMap<u64, Item>,
}

#[derive(Debug)]
struct Segment {
    line: LineId,
    to: End,
    number: u64,
    item: Item,
    tries: u32,
}

#[derive(Debug)]
enum Flight {
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        data: Vec<u8>,
    },
    Letter(Letter),
    Segment(Segment),
    /// The piece was lost; it goes out again.
    Again(Segment),
}

/// A question to a member or its answer: a stream of its own, which takes a moment longer in bad weather and comes to
/// nothing where nothing passes.
#[derive(Debug)]
pub struct Letter {
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// The process that asks.
    pub asker: (usize, u64),
    /// What it calls its question.
    pub number: u64,
    /// Frames, as on the wire.
    pub bytes: Vec<u8>,
    /// The answer, or the question?
    pub is_answer: bool,
}

/// What arrives.
#[derive(Debug)]
pub enum Arrival {
    /// A question to a member, or its answer.
    Letter(Letter),
    /// A datagram.
    Datagram {
        /// Claimed source.
        from: SocketAddr,
        /// Where to.
        to: SocketAddr,
        /// All of it.
        data: Vec<u8>,
    },
    /// The next piece of a stream.
    Item {
        /// Which stream.
        line: LineId,
        /// At which end.
        to: End,
        /// What.
        item: Item,
    },
}

/// The network.
#[derive(Debug)]
pub struct Net {
    pub weather: Weather,
    rng: Rng,
    queue: BTreeMap<(Duration, u64), Flight>,
    sequence: u64,
    lines: BTreeMap<LineId, Line>,
    next_line: u64,
    /// Addresses that are served, with the number of the process.
    listening: BTreeMap<SocketAddr, u64>,
    /// Pairs of hosts between which nothing passes.
    cut: BTreeSet<(IpAddr, IpAddr)>,
    /// Datagrams that somebody has written down.
    overheard: Vec<(SocketAddr, Vec<u8>)>,
}

impl Net {
    pub fn new(weather: Weather, seed: u64) -> Self {
        Self {
            weather,
            rng: Rng::new(seed),
            queue: BTreeMap::new(),
            sequence: 0,
            lines: BTreeMap::new(),
            next_line: 0,
            listening: BTreeMap::new(),
            cut: BTreeSet::new(),
            overheard: Vec::new(),
        }
    }

    /// Cuts two hosts off from each other, or joins them again.
    pub fn set_cut(&mut self, a: IpAddr, b: IpAddr, cut: bool) {
        for pair in [(a, b), (b, a)] {
            if cut {
                self.cut.insert(pair);
            } else {
                self.cut.remove(&pair);
            }
        }
    }

    /// Joins everybody again.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// A process serves an address from now on, or nobody does.
    pub fn set_listening(&mut self, server: SocketAddr, life: Option<u64>) {
        match life {
            Some(life) => drop(self.listening.insert(server, life)),
            None => drop(self.listening.remove(&server)),
        }
    }

    /// Sends a datagram.
    pub fn send(&mut self, from: SocketAddr, to: SocketAddr, mut data: Vec<u8>, now: Duration) {
        if self.weather.replay > 0.0 {
            self.overhear(to, &data, now);
        }
        if self.is_lost(from.ip(), to.ip()) {
            return;
        }
        if self.rng.percent(self.weather.damage) {
            let at = self.rng.below(data.len() as u64) as usize;
            if let Some(byte) = data.get_mut(at) {
                *byte ^= 1 << self.rng.below(8);
            }
        }
        let twice = self.rng.percent(self.weather.duplicate);
        if twice {
            let data = data.clone();
            self.fly(Flight::Datagram { from, to, data }, now);
        }
        self.fly(Flight::Datagram { from, to, data }, now);
    }

    /// Sends a question or an answer. What is lost of it is sent again, which takes time.
    pub fn send_letter(&mut self, letter: Letter, now: Duration) {
        let mut at = now;
        while self.rng.percent(self.weather.loss) {
            at += RESEND;
        }
        self.fly(Flight::Letter(letter), at);
    }

    /// Somebody on the way writes datagrams down, and now and then sends one again.
    fn overhear(&mut self, to: SocketAddr, data: &[u8], now: Duration) {
        if self.rng.percent(self.weather.replay) && !self.overheard.is_empty() {
            let at = self.rng.below(self.overheard.len() as u64) as usize;
            let (to, data) = self.overheard[at].clone();
            let from = ATTACKER.into();
            self.fly(Flight::Datagram { from, to, data }, now);
        }
        if self.overheard.len() < OVERHEARD {
            self.overheard.push((to, data.to_vec()));
        } else {
            let at = self.rng.below(OVERHEARD as u64) as usize;
            self.overheard[at] = (to, data.to_vec());
        }
    }

    /// A node dials a server.
    pub fn dial(
        &mut self,
        (node, life, attempt): (usize, u64, Attempt),
        from: IpAddr,
        server: SocketAddr,
        now: Duration,
    ) -> LineId {
        let line = LineId(self.next_line);
        self.next_line += 1;
        self.lines.insert(
            line,
            Line {
                node,
                life,
                attempt,
                from,
                server,
                server_life: None,
                to_node: Pipe::default(),
                to_server: Pipe::default(),
            },
        );
        self.put(line, End::Server, Item::Dial, now);
        line
    }

    /// Puts a piece into a stream.
    pub fn put(&mut self, line: LineId, to: End, item: Item, now: Duration) {
        let Some(known) = self.lines.get_mut(&line) else {
            return;
        };
        let pipe = known.pipe(to);
        let number = pipe.sent;
        pipe.sent += 1;
        let tries = 0;
        self.transmit(
            Segment {
                line,
                to,
                number,
                item,
                tries,
            },
            now,
        );
    }

    /// A stream that is still there.
    pub fn line(&self, line: LineId) -> Option<&Line> {
        self.lines.get(&line)
    }

    /// The stream of a node's attempt.
    pub fn line_of(&self, node: usize, life: u64, attempt: Attempt) -> Option<LineId> {
        let mine = |l: &Line| l.node == node && l.life == life && l.attempt == attempt;
        (self.lines.iter())
            .find(|(_, l)| mine(l))
            .map(|(id, _)| *id)
    }

    /// All streams of a node.
    pub fn lines_of(&self, node: usize) -> Vec<LineId> {
        let mine = self.lines.iter().filter(|(_, l)| l.node == node);
        mine.map(|(id, _)| *id).collect()
    }

    /// A node closes a stream: the server sees its end, unless it never saw its beginning.
    pub fn close(&mut self, line: LineId, now: Duration) {
        match self.lines.get(&line) {
            Some(known) if known.server_life.is_some() => {
                self.put(line, End::Server, Item::Fin, now);
            }
            _ => self.forget(line),
        }
    }

    /// Forgets a stream; what is on its way arrives nowhere.
    pub fn forget(&mut self, line: LineId) {
        self.lines.remove(&line);
    }

    /// When the next thing happens on the wire.
    pub fn next_at(&self) -> Option<Duration> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// What arrives at `now`, one flight at a time; empty when it came to nothing.
    pub fn arrive(&mut self, now: Duration) -> Vec<Arrival> {
        let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= now) else {
            return Vec::new();
        };
        match entry.remove() {
            Flight::Datagram { from, to, data } => vec![Arrival::Datagram { from, to, data }],
            Flight::Letter(letter) => {
                let cut = self.cut.contains(&(letter.from.ip(), letter.to.ip()));
                if cut {
                    Vec::new()
                } else {
                    vec![Arrival::Letter(letter)]
                }
            }
            Flight::Again(segment) => {
                self.transmit(segment, now);
                Vec::new()
            }
            Flight::Segment(segment) => self.receive(segment, now),
        }
    }

    fn receive(&mut self, segment: Segment, now: Duration) -> Vec<Arrival> {
        let Some(line) = self.lines.get_mut(&segment.line) else {
            return Vec::new();
        };
        let listening = self.listening.get(&line.server).copied();
        if segment.to == End::Server {
            if matches!(segment.item, Item::Dial) {
                let Some(life) = listening else {
                    self.again(segment, now);
                    return Vec::new();
                };
                line.server_life = Some(life);
            } else if line.server_life.is_none() || line.server_life != listening {
                // The process that had this stream is gone, and its successor knows nothing of it.
                return Vec::new();
            }
        }
        let (id, to) = (segment.line, segment.to);
        let pipe = line.pipe(to);
        if segment.number >= pipe.received {
            pipe.early.insert(segment.number, segment.item);
        }
        let mut out = Vec::new();
        while let Some(item) = pipe.early.remove(&pipe.received) {
            pipe.received += 1;
            out.push(Arrival::Item { line: id, to, item });
        }
        out
    }

    fn transmit(&mut self, segment: Segment, now: Duration) {
        let Some(line) = self.lines.get(&segment.line) else {
            return;
        };
        let (from, to) = (line.from, line.server.ip());
        if self.is_lost(from, to) {
            self.again(segment, now);
        } else {
            self.fly(Flight::Segment(segment), now);
        }
    }

    fn again(&mut self, mut segment: Segment, now: Duration) {
        let wait = (RESEND * 2u32.pow(segment.tries.min(8))).min(MAX_RESEND);
        segment.tries += 1;
        self.queue_at(now + wait, Flight::Again(segment));
    }

    fn is_lost(&mut self, from: IpAddr, to: IpAddr) -> bool {
        // The dice are rolled in any case: cutting a pair changes nothing for the others.
        let unlucky = self.rng.percent(self.weather.loss);
        unlucky || self.cut.contains(&(from, to))
    }

    fn fly(&mut self, flight: Flight, now: Duration) {
        let (low, high) = self.weather.delay;
        let micros = 1000 * low + self.rng.below(1000 * (high - low) + 1);
        self.queue_at(now + Duration::from_micros(micros), flight);
    }

    fn queue_at(&mut self, at: Duration, flight: Flight) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), flight);
    }
}
