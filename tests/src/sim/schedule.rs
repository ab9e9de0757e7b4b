//! Schedules: what happens to machines, drawn from a seed, in an order that nobody would think of.
//!
//! A schedule is made before the run and does not depend on it, so that it can be printed. What makes no sense when its
//! turn comes (starting what runs, removing who is no member) passes without effect.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    time::Duration,
};

use futures::executor::block_on;
use kanpachi_common::MemberId;
use kanpachi_coordinator::store::Store as _;

use super::{Plan, Weather, World, forge, node::Joined};
use crate::rng::Rng;

/// Most events of one schedule.
const MAX_EVENTS: u64 = 60;
/// Longest pause between two of them, in milliseconds.
const MAX_PAUSE: u64 = 6000;
/// Ten years in seconds.
const TEN_YEARS: i64 = 10 * 365 * 86_400;
/// How long a join may take once everything works.
const JOIN_WITHIN: Duration = Duration::from_secs(40);

/// One of the things that happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A machine joins by an invite of the operator, for the first time or again.
    Join(usize),
    /// The operator removes a member.
    Evict(usize),
    /// The first machine, which owns the network, puts a member out by its own word.
    Suspend(usize),
    /// SIGKILL.
    KillCoordinator,
    StartCoordinator,
    /// SIGKILL.
    Crash(usize),
    /// The daemon is told to stop.
    Stop(usize),
    Start(usize),
    /// A node's streams break.
    CutLines(usize),
    /// Nothing passes between two machines.
    Part(usize, usize),
    /// Nothing passes between a machine and anybody.
    Isolate(usize),
    /// Nothing passes between any machine and the coordinator.
    HideCoordinator,
    /// Everybody reaches everybody again.
    Heal,
    /// Clear, rough, storm, hostile.
    Weather(usize),
    /// Somebody sets a machine's clock.
    Jump(usize, i64),
    /// The coordinator's clock is set, so many seconds ahead.
    JumpCoordinator(i64),
    /// All heads are signed again.
    Renew,
    Rename(usize, u8),
    /// A machine gets another address.
    Move(usize, u8),
    /// A disk is full, or has room again.
    Fill(usize, bool),
    /// A machine that is off loses its tunnel key.
    NewTunnelKey(usize),
}

/// Events with the pause before each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub seed: u64,
    pub nodes: usize,
    /// So many have joined before anything happens.
    pub first: usize,
    pub events: Vec<(Duration, Event)>,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, nodes, .. } = self;
        writeln!(f, "schedule {seed}: {nodes} nodes, {} joined", self.first)?;
        let mut at = Duration::ZERO;
        for (pause, event) in &self.events {
            at += *pause;
            writeln!(f, "  {:>8.3} {event:?}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

impl Schedule {
    /// The schedule of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5c4e_d01e);
        let nodes = 4 + below(&mut rng, 5);
        let first = 2 + below(&mut rng, nodes - 1);
        let events = (0..10 + rng.below(MAX_EVENTS - 9)).map(|_| {
            let pause = Duration::from_millis(rng.below(MAX_PAUSE));
            (pause, Event::draw(&mut rng, nodes))
        });
        let events = events.collect();
        Self {
            seed,
            nodes,
            first,
            events,
        }
    }
}

fn below(rng: &mut Rng, end: usize) -> usize {
    rng.below(end as u64) as usize
}

impl Event {
    fn draw(rng: &mut Rng, nodes: usize) -> Self {
        let (index, other) = (below(rng, nodes), below(rng, nodes));
        let (percent, small) = (rng.below(100), rng.below(250) as u8);
        match percent {
            0..14 => Self::Join(index),
            14..19 => Self::Evict(index),
            19..22 => Self::Suspend(index),
            22..29 => Self::KillCoordinator,
            29..38 => Self::StartCoordinator,
            38..46 => Self::Crash(index),
            46..49 => Self::Stop(index),
            49..61 => Self::Start(index),
            61..64 => Self::CutLines(index),
            64..68 => Self::Part(index, other),
            68..71 => Self::Isolate(index),
            71..73 => Self::HideCoordinator,
            73..79 => Self::Heal,
            79..84 => Self::Weather(other % 4),
            // Ahead of its roster's expiry a clock would be believed at the next start.
            84..87 => Self::Jump(index, [-TEN_YEARS, 86_400, -3600][other % 3]),
            87..89 => Self::JumpCoordinator([60, 3600][other % 2]),
            89..91 => Self::Renew,
            91..93 => Self::Rename(index, small % 9),
            93..95 => Self::Move(index, small),
            95..98 => Self::Fill(index, small.is_multiple_of(2)),
            _ => Self::NewTunnelKey(index),
        }
    }
}

/// A world with a schedule, and who was meant to be what.
#[derive(Debug)]
pub struct Run {
    pub world: World,
    /// Whoever was invited last and not removed since.
    wanted: BTreeSet<usize>,
    /// Whom the owner put out, as which member.
    suspended: BTreeMap<usize, MemberId>,
}

impl Run {
    /// The machines at the beginning, with traffic between neighbours.
    ///
    /// # Panics
    /// When those who join first do not find each other.
    pub fn new(schedule: &Schedule) -> Self {
        let plan = Plan::new(schedule.seed, schedule.nodes).rekey_after(Duration::from_secs(8));
        let mut world = World::new(&plan);
        let first: Vec<usize> = (0..schedule.first).collect();
        let founder = world.coordinator.founder_invite(&world.clock);
        world.join_with(0, founder);
        for index in &first[1..] {
            world.join(*index);
        }
        let up = world.run_until(Duration::from_secs(60), |w| w.all_up(&first));
        assert!(up.is_some(), "no mesh within a minute");
        for from in 0..schedule.nodes {
            let to = (from + 1) % schedule.nodes;
            world.flow(from, to, Duration::from_millis(400));
        }
        world.net.weather = Weather::ROUGH;
        Self {
            world,
            wanted: first.into_iter().collect(),
            suspended: BTreeMap::new(),
        }
    }

    /// Runs the whole schedule.
    pub fn play(&mut self, schedule: &Schedule) {
        for (pause, event) in &schedule.events {
            self.world.run_for(*pause);
            self.world.note(format_args!("{event:?}"));
            self.apply(*event);
        }
    }

    /// Is this machine a member, as the coordinator's store has it?
    ///
    /// # Panics
    /// When the store fails.
    pub fn is_member(&self, index: usize) -> bool {
        let coordinator = &self.world.coordinator;
        let roster = block_on(coordinator.store.roster(coordinator.network)).expect("a roster");
        let id = self.world.nodes[index].id();
        roster.members().any(|member| member.node == id)
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Join(index) => self.join(index),
            Event::Evict(index) => self.evict(index),
            Event::Suspend(index) => self.suspend(index),
            Event::Rename(index, name) if self.is_member(index) => {
                let name = format!("name{name}");
                forge::rename(&self.world, index, &name);
                self.world.with_coordinator(|c, _| c.changed());
            }
            Event::Renew => self.world.with_coordinator(|c, clock| c.renew(0, clock)),
            Event::JumpCoordinator(seconds) => self.world.coordinator.wall.jump(seconds),
            Event::KillCoordinator if self.world.coordinator.is_running() => {
                self.world.kill_coordinator();
            }
            Event::StartCoordinator if !self.world.coordinator.is_running() => {
                self.world.start_coordinator();
            }
            Event::Heal => self.world.net.heal(),
            Event::HideCoordinator => self.world.cut_coordinator(true),
            Event::Weather(kind) => {
                let kinds = [
                    Weather::CLEAR,
                    Weather::ROUGH,
                    Weather::STORM,
                    Weather::HOSTILE,
                ];
                self.world.net.weather = kinds[kind];
            }
            Event::Part(a, b) if a != b => {
                let [a, b] = [a, b].map(|n| self.world.nodes[n].addr.ip());
                self.world.net.set_cut(a, b, true);
            }
            other => self.apply_to_machine(other),
        }
    }

    fn apply_to_machine(&mut self, event: Event) {
        let world = &mut self.world;
        let runs = |world: &World, index: usize| world.nodes[index].process.is_some();
        match event {
            Event::Crash(index) if runs(world, index) => world.stop_node(index, false),
            Event::Stop(index) if runs(world, index) => world.stop_node(index, true),
            Event::Start(index) if !runs(world, index) => drop(world.start_node(index)),
            Event::CutLines(index) => world.cut_lines(index),
            Event::Isolate(index) => world.isolate(index),
            Event::Jump(index, seconds) => world.nodes[index].wall.jump(seconds),
            Event::Fill(index, full) => world.nodes[index].disk.full = full,
            Event::NewTunnelKey(index) if !runs(world, index) => {
                let mut rng = Rng::new(world.rng.next_u64());
                world.nodes[index].disk.replace_tunnel_key(&mut rng);
            }
            Event::Move(index, host) if runs(world, index) => {
                // A range of its own for each machine: no two ever share an address.
                let port = 12976 + u16::try_from(index).expect("a handful");
                let addr = SocketAddr::from(([203, 0, 113, host + 1], port));
                world.with_node(index, |node, now| node.move_to(addr, now));
            }
            _ => {}
        }
    }

    /// Did the owner put this machine out, and the coordinator has not heard of it?
    fn is_put_out(&self, index: usize) -> bool {
        let Some(member) = self.suspended.get(&index) else {
            return false;
        };
        let coordinator = &self.world.coordinator;
        let roster = block_on(coordinator.store.roster(coordinator.network)).expect("a roster");
        roster.members().any(|m| m.member == *member)
    }

    fn join(&mut self, index: usize) {
        // It is a member by the coordinator's word, and by nobody else's.
        if self.is_put_out(index) {
            return;
        }
        self.wanted.insert(index);
        self.world.start_node_if_off(index);
        if !self.is_in(index) {
            self.world.join(index);
        }
    }

    /// Is this machine a member, and does it know?
    fn is_in(&self, index: usize) -> bool {
        let node = &self.world.nodes[index];
        let rosters = node.process.as_ref().and_then(|p| p.rosters());
        let mut held = rosters.into_iter().flat_map(|r| r.rosters());
        held.any(|r| r.members().any(|m| m.node == node.id())) && self.is_member(index)
    }

    fn evict(&mut self, index: usize) {
        if self.wanted.len() <= 2 || !self.is_member(index) {
            return;
        }
        self.wanted.remove(&index);
        let id = self.world.nodes[index].id();
        self.world.with_coordinator(|c, clock| c.remove(id, clock));
    }

    fn suspend(&mut self, index: usize) {
        let world = &mut self.world;
        if index == 0 || self.wanted.len() <= 2 || world.nodes[0].process.is_none() {
            return;
        }
        let (network, id) = (world.coordinator.network, world.nodes[index].id());
        // Whom its roster does not name it cannot put out.
        let Some((member, _)) = world.nodes[0].listed(&network, &id) else {
            return;
        };
        if world.with_node(0, |node, now| node.suspend(network, member, now)) {
            self.wanted.remove(&index);
            self.suspended.insert(index, member);
        }
    }

    /// Nothing is in anybody's way any more, except that there is no coordinator.
    pub fn mend_alone(&mut self) {
        let world = &mut self.world;
        world.net.heal();
        world.net.weather = Weather::CLEAR;
        if world.coordinator.is_running() {
            world.kill_coordinator();
        }
        for index in 0..world.nodes.len() {
            world.nodes[index].disk.full = false;
            world.start_node_if_off(index);
        }
    }

    /// Whatever is broken is mended, and whoever was invited tries until it is in.
    pub fn mend(&mut self) {
        let world = &mut self.world;
        world.net.heal();
        world.net.weather = Weather::CLEAR;
        if !world.coordinator.is_running() {
            world.start_coordinator();
        }
        for index in 0..world.nodes.len() {
            world.nodes[index].disk.full = false;
            world.start_node_if_off(index);
        }
        // The owner's word is brought to it, and becomes an eviction.
        for _ in 0..60 {
            if (0..self.world.nodes.len()).all(|index| !self.is_put_out(index)) {
                break;
            }
            self.world.run_for(Duration::from_secs(1));
        }
        for index in 0..self.world.nodes.len() {
            self.settle_join(index);
        }
    }

    /// A join that met with a mishap is tried again; one that nobody wants any more is waited for.
    fn settle_join(&mut self, index: usize) {
        for _ in 0..3 {
            let waits = |w: &World| w.nodes[index].joined() == Joined::Waiting;
            self.world.run_until(JOIN_WITHIN, |w| !waits(w));
            if !self.wanted.contains(&index) || self.is_in(index) {
                break;
            }
            self.world.join(index);
        }
        // An invite that was on its way when its bearer was removed brought it back in.
        if self.is_member(index) {
            self.wanted.insert(index);
        }
    }

    /// Members and everybody else, as the store has it.
    pub fn sides(&self) -> (Vec<usize>, Vec<usize>) {
        (0..self.world.nodes.len()).partition(|index| self.is_member(*index))
    }

    /// Whoever was invited last and not removed since.
    pub fn wanted(&self) -> Vec<usize> {
        self.wanted.iter().copied().collect()
    }
}

impl World {
    /// Starts a node unless it runs.
    pub fn start_node_if_off(&mut self, index: usize) {
        if self.nodes[index].process.is_none() {
            self.start_node(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another() {
        assert_eq!(Schedule::of(7), Schedule::of(7));
        assert_ne!(Schedule::of(7).events, Schedule::of(8).events);
        let lengths: Vec<usize> = (0..200).map(|s| Schedule::of(s).events.len()).collect();
        assert!(lengths.iter().all(|n| (10..=60).contains(n)));
        assert!(lengths.iter().any(|n| *n > 50));
    }
}
