//! What scenarios have in common: seeds, machines that have joined, and what to wait for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kanpachi_common::{NodeId, invite::Invite, roster::Position};
use kanpachi_proto::{roster::Rosters, tunnel::CloseReason};

use super::{
    node::Joined,
    world::{Plan, World},
};

/// Names the seed of the one run to look at again, or the seeds of many more: `7`, `1..5000`.
pub const SEED: &str = "KANPACHI_SEED";

/// The seeds to run: those asked for, or as many as given.
///
/// # Panics
/// When what was asked for is no seed.
pub fn seeds(asked: Option<&str>, count: u64) -> Vec<u64> {
    let Some(asked) = asked else {
        return (1..=count).collect();
    };
    let number = |text: &str| text.parse::<u64>().expect("a seed is a number");
    match asked.split_once("..") {
        Some((first, end)) => (number(first)..number(end)).collect(),
        None => vec![number(asked)],
    }
}

impl World {
    /// Makes an invite for one machine and joins with it.
    pub fn join(&mut self, index: usize) {
        let invite = self.invite(Some(1));
        self.join_with(index, invite);
    }

    /// Makes an invite.
    pub fn invite(&mut self, uses: Option<u32>) -> Invite {
        self.coordinator.invite(uses, &self.clock)
    }

    /// Joins with an invite.
    pub fn join_with(&mut self, index: usize, invite: Invite) {
        self.with_node(index, |node, now| node.join(invite, now));
    }

    /// Machines that have joined and have a tunnel with each other.
    ///
    /// # Panics
    /// When that takes longer than a minute.
    pub fn mesh(plan: &Plan) -> Self {
        let mut world = Self::new(plan);
        for index in 0..plan.nodes {
            world.join(index);
        }
        let all: Vec<usize> = (0..plan.nodes).collect();
        let time = world.run_until(Duration::from_secs(60), |w| w.all_up(&all));
        assert!(time.is_some(), "no mesh within a minute");
        world
    }

    /// As [`World::mesh`]; the first node owns the network.
    ///
    /// # Panics
    /// When that takes longer than a minute.
    pub fn owned_mesh(plan: &Plan) -> Self {
        let mut world = Self::new(plan);
        let invite = world.coordinator.founder_invite(&world.clock);
        world.join_with(0, invite);
        let all: Vec<usize> = (0..plan.nodes).collect();
        for index in &all[1..] {
            world.join(*index);
        }
        let time = world.run_until(Duration::from_secs(60), |w| w.all_up(&all));
        assert!(time.is_some(), "no mesh within a minute");
        world
    }

    /// Has the join of this node worked?
    pub fn is_in(&self, index: usize) -> bool {
        self.nodes[index].joined() == Joined::Done
    }

    /// Both send in a session that the other receives.
    pub fn is_up(&self, a: usize, b: usize) -> bool {
        [(a, b), (b, a)].iter().all(|(x, y)| {
            let (Some(from), Some(to)) = (&self.nodes[*x].process, &self.nodes[*y].process) else {
                return false;
            };
            from.sending(&self.nodes[*y].id())
                .is_some_and(|s| s.session.is_confirmed() && to.receives(s.session.remote_index()))
        })
    }

    /// Is every pair of these up?
    pub fn all_up(&self, nodes: &[usize]) -> bool {
        let pairs = nodes
            .iter()
            .flat_map(|a| nodes.iter().map(move |b| (*a, *b)));
        pairs.filter(|(a, b)| a < b).all(|(a, b)| self.is_up(a, b))
    }

    /// Is every one of these logged in?
    pub fn all_connected(&self, nodes: &[usize]) -> bool {
        nodes.iter().all(|index| self.nodes[*index].is_connected())
    }

    /// Index of the session that each node sends with to each peer.
    pub fn sessions(&self) -> BTreeMap<(usize, NodeId), u32> {
        let mut out = BTreeMap::new();
        for node in &self.nodes {
            let Some(process) = &node.process else {
                continue;
            };
            for peer in process.session_peers() {
                if let Some(sending) = process.sending(&peer) {
                    out.insert((node.index, peer), sending.session.local_index());
                }
            }
        }
        out
    }

    /// Sessions that a node has closed for a reason.
    pub fn closed(&self, index: usize, why: CloseReason) -> usize {
        let process = self.nodes[index].process.as_ref();
        process.map_or(0, |p| p.closed.iter().filter(|(_, r)| *r == why).count())
    }

    /// What a node holds of the organisation.
    pub fn held(&self, index: usize) -> Option<&Rosters> {
        self.nodes[index].process.as_ref()?.rosters()
    }

    /// Where the roster stands that a node holds.
    pub fn position(&self, index: usize) -> Option<Position> {
        let roster = self.held(index)?.roster(&self.coordinator.network)?;
        Some(roster.head().position())
    }

    /// Those that a tunnel, or a chain of tunnels, connects with a node; itself among them.
    pub fn part_of(&self, index: usize) -> BTreeSet<usize> {
        let mut part = BTreeSet::from([index]);
        loop {
            let next = (0..self.nodes.len())
                .find(|n| !part.contains(n) && part.iter().any(|m| self.is_up(*n, *m)));
            let Some(next) = next else {
                return part;
            };
            part.insert(next);
        }
    }

    /// Cuts a node off from everybody.
    pub fn isolate(&mut self, index: usize) {
        let own = self.nodes[index].addr.ip();
        let others: Vec<_> = self.nodes.iter().map(|n| n.addr.ip()).collect();
        for other in others.into_iter().chain([self.coordinator.ip()]) {
            self.net.set_cut(own, other, true);
        }
    }

    /// Cuts every node off from the coordinator, or joins them again.
    pub fn cut_coordinator(&mut self, cut: bool) {
        let server = self.coordinator.ip();
        let nodes: Vec<_> = self.nodes.iter().map(|n| n.addr.ip()).collect();
        for node in nodes {
            self.net.set_cut(node, server, cut);
        }
    }
}
