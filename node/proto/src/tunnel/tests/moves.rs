//! One end is in another network from now on: from a relay back to a direct path.

use std::time::Duration;

use super::{
    paths::sim,
    sim::{Sim, Weather, ms, secs},
};
use crate::{path::PathKind, tunnel::Tunnels};

/// From the moment that the new network carries packets to a direct path at both ends.
const DIRECT: Duration = Duration::from_secs(10);
/// A private address that leads nowhere, one that a reflector saw, and a relay.
const ALL: [(u8, PathKind); 3] = [
    (0, PathKind::Host),
    (1, PathKind::Reflexive),
    (2, PathKind::Relay),
];
/// What is known before a reflector has answered.
const EARLY: [(u8, PathKind); 2] = [(0, PathKind::Host), (2, PathKind::Relay)];

/// Do both ends send to where the other is, and know that it works?
fn is_direct(sim: &Sim) -> bool {
    (0..2).all(|at| {
        let (host, other) = (&sim.hosts[at], &sim.hosts[1 - at]);
        let status = host.tunnels.status(&other.id, sim.now);
        host.endpoint(&other.id) == Some(other.addr(1)) && status.is_some_and(|s| s.fresh)
    })
}

/// A pair of which one end is about to move.
struct Move {
    sim: Sim,
    mover: usize,
    busy: bool,
}

impl Move {
    fn new(seed: u64) -> Self {
        let mut sim = sim(&ALL[1..], seed, &[]);
        let mover = (seed % 2) as usize;
        sim.filters.put_behind(1 - mover);
        let mut this = Self {
            sim,
            mover,
            busy: (seed / 2).is_multiple_of(2),
        };
        this.sim.cut.insert(0);
        for at in 0..2 {
            this.sim.offer(at, 1 - at, &ALL);
        }
        this.pass(secs(20));
        assert!(is_direct(&this.sim), "seed {seed}");
        this.sim.weather = Weather {
            loss: [0, 5, 10][(seed / 4 % 3) as usize],
            duplicate: 2,
            delay: (5, [5, 60, 150][(seed / 12 % 3) as usize]),
        };
        this
    }

    /// Time passes, with data in it or without.
    fn pass(&mut self, time: Duration) {
        let end = self.sim.now + time;
        while self.sim.now < end {
            if self.busy {
                let _ = self.sim.send(0, 1, b"x");
                let _ = self.sim.send(1, 0, b"x");
            }
            self.sim.run(ms(20).min(end - self.sim.now));
        }
    }

    fn below(&mut self, ms: u64) -> Duration {
        Duration::from_millis(self.sim.roll(ms))
    }

    /// The cable is pulled and put in elsewhere, where the interface has its address before anything goes through.
    fn replug(&mut self, port: u16) {
        let mover = self.mover;
        self.sim.cut.extend([0, 1, 2]);
        self.sim.with(mover, Tunnels::handle_network_change);
        let (unplugged, silent) = (self.below(2000), self.below(1000));
        self.pass(unplugged);
        self.sim.hosts[mover].ports[1] = port;
        if self.sim.roll(2) == 0 {
            self.sim.filters.put_behind(mover);
        } else {
            self.sim.filters.take_away(mover);
        }
        self.sim.with(mover, Tunnels::handle_network_change);
        self.pass(silent);
        self.sim.cut.remove(&1);
    }

    /// Relay, coordinator and reflectors hear of it one after the other. Returns how long a direct path took.
    fn spread(&mut self) -> Option<Duration> {
        let (mover, begin) = (self.mover, self.sim.now);
        let mut news = [
            (self.below(1500), 0),
            (self.below(2000), 1),
            (self.below(4000), 2),
        ];
        news.sort_unstable();
        for (at, what) in news {
            self.pass((begin + at).saturating_duration_since(self.sim.now));
            match what {
                0 => drop(self.sim.cut.remove(&2)),
                1 => self.sim.offer(1 - mover, mover, &EARLY),
                _ => self.sim.offer(1 - mover, mover, &ALL),
            }
        }
        while !is_direct(&self.sim) && self.sim.now < begin + secs(60) {
            self.pass(ms(20));
        }
        is_direct(&self.sim).then(|| self.sim.now - begin)
    }
}

#[test]
fn whoever_moves_is_direct_again_within_ten_seconds() {
    let mut late = Vec::new();
    for seed in 0..200 {
        let mut pair = Move::new(seed);
        // To one place and another, and back.
        for (number, port) in [4000, 5000, 4000].into_iter().enumerate() {
            pair.replug(port);
            let took = pair.spread();
            if took.is_none_or(|took| took > DIRECT) {
                late.push((seed, number, pair.busy, took));
            }
            let rest = 20 + pair.sim.roll(40);
            pair.pass(secs(rest));
        }
    }
    assert!(late.is_empty(), "{}: {late:?}", late.len());
}
