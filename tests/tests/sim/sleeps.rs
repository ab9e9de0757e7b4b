//! Machines that sleep, and who has to notice: if both ends do something about it, each hides what is wrong with the other.

use std::time::Duration;

use kanpachi_tests::{
    note,
    sim::{Plan, Weather, World},
};

use super::{for_seeds, ms, secs};

/// Who has something to say once the machine is awake.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Talk {
    Both,
    Sleeper,
    Others,
    /// Nobody: the tunnels are kept all the same.
    Nobody,
}

const TALKS: [Talk; 4] = [Talk::Both, Talk::Sleeper, Talk::Others, Talk::Nobody];

/// The machine that sleeps, and its peers.
const SLEEPER: usize = 0;
const PEERS: std::ops::Range<usize> = 1..4;

/// A sleep and what is around it.
#[derive(Clone, Copy, Debug)]
struct Case {
    time: Duration,
    talk: Talk,
    /// No coordinator is there to tell anybody that the machine is back.
    alone: bool,
    /// The machine's clock counts the sleep.
    counted: bool,
    /// The sessions were new when the machine fell asleep: none is due for a successor because of its age.
    young: bool,
    /// A peer has begun again meanwhile, and knows nothing of the session that the sleeper believes in.
    restarted: bool,
    /// For so long after the machine its network is still away.
    offline: Duration,
}

impl Case {
    const fn new(time: Duration, talk: Talk, alone: bool) -> Self {
        Self {
            time,
            talk,
            alone,
            counted: true,
            young: false,
            restarted: false,
            offline: Duration::ZERO,
        }
    }

    /// Does packets of this machine have to arrive?
    fn speaks(&self, from: usize) -> bool {
        match self.talk {
            Talk::Both => true,
            Talk::Sleeper => from == SLEEPER,
            Talk::Others => from != SLEEPER,
            Talk::Nobody => false,
        }
    }

    /// Sends from now on what there is to say.
    fn talk(&self, world: &mut World) {
        for (a, b) in PEERS.flat_map(|peer| [(SLEEPER, peer), (peer, SLEEPER)]) {
            if self.speaks(a) {
                world.flow(a, b, ms(100));
            }
        }
    }

    /// Whatever was said has been heard, and each pair has a session that both have.
    fn is_back(&self, world: &World) -> bool {
        let heard = |a, b| !self.speaks(a) || world.traffic.score(a, b).delivered > 0;
        PEERS
            .into_iter()
            .all(|peer| heard(SLEEPER, peer) && heard(peer, SLEEPER) && world.is_up(SLEEPER, peer))
    }

    /// Puts the machine to sleep amid traffic and goes on until it wakes up.
    fn sleep(&self, world: &mut World) {
        if self.alone {
            world.kill_coordinator();
            let lost = |w: &World| w.nodes.iter().all(|n| n.is_unreachable());
            assert!(world.run_until(secs(120), lost).is_some(), "still there");
        }
        if self.young {
            world.stop_node(SLEEPER, true);
            world.start_node(SLEEPER);
            assert!(world.run_until(secs(60), whole).is_some(), "{self:?}");
        }
        Self::new(self.time, Talk::Both, false).talk(world);
        world.run_for(secs(3));
        if self.counted {
            world.sleep(SLEEPER, self.time);
        } else {
            world.pause(SLEEPER, self.time);
        }
        // At first somebody calls, later the peers sleep as well as they can.
        world.run_for(secs(10));
        world.traffic.flows.clear();
        if self.restarted {
            world.stop_node(1, false);
            world.start_node(1);
        }
        world.run_for(self.time - secs(10) - ms(1));
        if !self.offline.is_zero() {
            world.isolate(SLEEPER);
        }
    }

    /// How long it took until everything was as before, and how many handshakes were begun meanwhile and a while after.
    fn run(&self, world: &mut World) -> (Duration, u64) {
        self.sleep(world);
        let before = world.initiations();
        world.run_for(ms(2));
        world.traffic.reset();
        self.talk(world);
        world.run_for(self.offline);
        world.net.heal();
        let back = world.run_until(secs(60), |w| self.is_back(w));
        let back = back.unwrap_or_else(|| panic!("not back: {self:?}"));
        world.run_for(secs(10));
        let begun = world.initiations() - before;
        world.traffic.flows.clear();
        if self.alone {
            world.start_coordinator();
        }
        let all = |w: &World| w.all_connected(&[0, 1, 2, 3]) && whole(w);
        assert!(world.run_until(secs(120), all).is_some(), "{self:?}");
        (back, begun)
    }
}

/// Has everybody a session with everybody?
fn whole(world: &World) -> bool {
    world.all_up(&[0, 1, 2, 3])
}

/// The worst that was seen.
#[derive(Default)]
struct Worst {
    back: Duration,
    begun: u64,
}

impl Worst {
    fn add(&mut self, (back, begun): (Duration, u64)) {
        self.back = self.back.max(back);
        self.begun = self.begun.max(begun);
    }

    /// Says what it was, and holds it to a time and to a number of initiations.
    fn judge(&self, what: &str, time: Duration, number: u64) {
        note(format_args!(
            "{what}: back after {:.2} s and {} initiations at the most",
            self.back.as_secs_f64(),
            self.begun
        ));
        assert!(self.back <= time, "back after {:?}", self.back);
        assert!(self.begun <= number, "{} initiations", self.begun);
    }
}

fn world(seed: u64) -> World {
    World::mesh(&Plan::new(seed, 4).weather(Weather::ROUGH))
}

#[test]
fn a_machine_that_slept_is_reached_again_within_seconds_and_without_a_storm() {
    let mut worst = Worst::default();
    for_seeds("sleep", 8, |seed| {
        let mut world = world(seed);
        for (number, (talk, alone)) in (0..).zip(cases()) {
            let mut run = |seconds, young| {
                let case = Case {
                    young,
                    restarted: seed % 2 == 0,
                    ..Case::new(secs(seconds), talk, alone)
                };
                worst.add(case.run(&mut world));
            };
            // Peers still believe in the session.
            run(20, false);
            // They have given it up, and the sleeper has no reason to, or will soon.
            run(110, true);
            run(170, false);
            // Both have.
            run(600, false);
            // A night is long in a simulator, too.
            if number == seed % 8 {
                run(8 * 3600, false);
            }
        }
        world
    });
    // Before anybody has to try twice. The two ends of three pairs may begin at once, and in this weather one in five has to say
    // it again.
    worst.judge("sleep", secs(5), 15);
}

/// Whoever talks, with a coordinator and without.
fn cases() -> impl Iterator<Item = (Talk, bool)> {
    (TALKS.into_iter()).flat_map(|talk| [false, true].map(|alone| (talk, alone)))
}

#[test]
fn a_machine_whose_network_comes_later_makes_no_storm_either() {
    let mut worst = Worst::default();
    for_seeds("late networks", 4, |seed| {
        let mut world = world(seed);
        for (talk, alone) in cases() {
            for time in [secs(170), secs(600)] {
                let case = Case {
                    offline: secs(8),
                    ..Case::new(time, talk, alone)
                };
                worst.add(case.run(&mut world));
            }
        }
        world
    });
    // With the next try or the one after it. Six ends begin anew every five seconds, and say so five times at the most.
    worst.judge("late networks", secs(10), 75);
}

#[test]
fn a_machine_that_was_paused_and_does_not_know_it_is_reached_again() {
    let mut worst = Worst::default();
    for_seeds("pauses", 8, |seed| {
        let mut world = world(seed);
        for (talk, alone) in cases() {
            for time in [secs(170), secs(600)] {
                let case = Case {
                    counted: false,
                    ..Case::new(time, talk, alone)
                };
                worst.add(case.run(&mut world));
            }
        }
        world
    });
    // Only silence tells it: fifteen seconds of it, and then perhaps one try in vain.
    worst.judge("pauses", secs(22), 15);
}
