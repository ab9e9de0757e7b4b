//! Any order of joins, approvals, departures, removals, renewals and store failures ends with everybody knowing the same.

use std::collections::{BTreeMap, BTreeSet};

use futures::executor::block_on;
use kanpachi_common::{
    NetworkId, NodeId,
    roster::{Caps, Head, Page, VerifiedRoster},
    wire::{
        control::{ClientMessage, Held, Join, Pull, ServerMessage, SetName},
        membership::{self, SetAccess, Settle},
    },
};
use proptest::prelude::*;

use super::{
    super::SessionId,
    lab::{LAN, Lab, node},
};
use crate::store::{RemoveMember, Store as _, StoreError};

const GAMES: NetworkId = NetworkId([0xbb; 32]);
const NODES: u8 = 6;

#[derive(Clone, Debug)]
enum Op {
    Login(u8),
    /// Logs in and remembers nothing, as after a lost state directory.
    LoginEmpty(u8),
    Join(u8, bool),
    Leave(u8),
    Remove(u8, bool),
    /// Leaves a network for good, as far as the network lets it.
    Quit(u8, bool),
    /// Asks that newcomers to the games be approved, or not; heard from an owner.
    Approval(u8, bool),
    /// Settles whoever waits for the games; heard from an owner.
    Settle(u8, bool),
    Rename(u8, u8),
    Pull(u8),
    Renew,
    Pass(u8),
    Break,
    Mend,
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0..NODES;
    prop_oneof![
        3 => n.clone().prop_map(Op::Login),
        1 => n.clone().prop_map(Op::LoginEmpty),
        4 => (n.clone(), any::<bool>()).prop_map(|(n, games)| Op::Join(n, games)),
        2 => n.clone().prop_map(Op::Leave),
        1 => (n.clone(), any::<bool>()).prop_map(|(n, games)| Op::Remove(n, games)),
        1 => (n.clone(), any::<bool>()).prop_map(|(n, games)| Op::Quit(n, games)),
        2 => (n.clone(), any::<bool>()).prop_map(|(n, on)| Op::Approval(n, on)),
        2 => (n.clone(), any::<bool>()).prop_map(|(n, yes)| Op::Settle(n, yes)),
        1 => (n.clone(), 0..3u8).prop_map(|(n, name)| Op::Rename(n, name)),
        1 => n.prop_map(Op::Pull),
        1 => Just(Op::Renew),
        1 => (1..5u8).prop_map(Op::Pass),
        1 => Just(Op::Break),
        2 => Just(Op::Mend),
    ]
}

/// A node that keeps what it was told over its sessions.
#[derive(Default)]
struct Memory {
    session: Option<SessionId>,
    rosters: BTreeMap<NetworkId, VerifiedRoster>,
    secrets: BTreeMap<NetworkId, u32>,
    pages: Vec<Page>,
    /// Of this session.
    peers: BTreeSet<NodeId>,
}

struct World {
    lab: Lab,
    nodes: Vec<Memory>,
    tokens: [[u8; 32]; 2],
}

fn network(games: bool) -> NetworkId {
    if games { GAMES } else { LAN }
}

impl World {
    fn new() -> Self {
        let mut lab = Lab::new();
        lab.network(GAMES, "games");
        let tokens = [lab.invite(LAN, None, false), lab.invite(GAMES, None, true)];
        let nodes = (0..NODES).map(|_| Memory::default()).collect();
        Self { lab, nodes, tokens }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Login(n) => self.login(n, true),
            Op::LoginEmpty(n) => {
                let memory = &mut self.nodes[usize::from(n)];
                memory.rosters.clear();
                memory.secrets.clear();
                self.login(n, false);
            }
            Op::Join(n, games) => {
                let token = self.tokens[usize::from(games)];
                let name = format!("node{}", n % 2);
                self.say(n, &ClientMessage::Join(Join { token, name }));
            }
            Op::Leave(n) => {
                if let Some(session) = self.nodes[usize::from(n)].session.take() {
                    self.lab.leave(session);
                }
            }
            Op::Remove(n, games) => self.remove(n, network(games)),
            Op::Quit(n, games) => {
                let leave = membership::Leave {
                    network: network(games),
                    heir: None,
                };
                self.say(n, &ClientMessage::Leave(leave));
            }
            Op::Approval(n, on) => {
                let set = SetAccess {
                    network: GAMES,
                    locked: None,
                    approval: Some(on),
                };
                self.say(n, &ClientMessage::SetAccess(set));
            }
            Op::Settle(n, approved) => self.settle(n, approved),
            Op::Rename(n, name) => {
                let name = format!("other{name}");
                self.say(
                    n,
                    &ClientMessage::SetName(SetName {
                        network: None,
                        name,
                    }),
                );
            }
            Op::Pull(n) => {
                let held = self.held(n);
                self.say(n, &ClientMessage::Pull(Pull { held }));
            }
            Op::Renew => {
                self.lab.now.wall = self.lab.now.wall.plus(10);
                let now = self.lab.now.wall;
                for network in block_on(self.lab.store.renew_heads(now, now)).unwrap() {
                    self.lab.changed(network);
                }
            }
            Op::Pass(seconds) => self.pass(seconds.into()),
            Op::Break => self.lab.broken = Some(StoreError::Busy),
            Op::Mend => self.lab.broken = None,
        }
        self.listen();
    }

    fn settle(&mut self, n: u8, approved: bool) {
        let changes = block_on(self.lab.store.changes_since(GAMES, vec![])).unwrap();
        let waiting = changes.members.iter().find(|m| m.caps.has(Caps::PENDING));
        if let Some(waiting) = waiting {
            let settle = Settle {
                network: GAMES,
                member: waiting.member,
                approved,
            };
            self.say(n, &ClientMessage::Settle(settle));
        }
    }

    fn remove(&mut self, n: u8, network: NetworkId) {
        let remove = RemoveMember {
            network,
            node: node(n),
            by: None,
            secret: [n; 32],
            now: self.lab.now.wall,
        };
        if block_on(self.lab.store.remove_member(remove)).is_ok() {
            self.lab.changed(network);
            // The invite that it came by went with it.
            self.tokens[usize::from(network == GAMES)] = self.lab.invite(network, None, false);
        }
    }

    fn login(&mut self, n: u8, remember: bool) {
        let held = if remember { self.held(n) } else { vec![] };
        let session = self.lab.login(n, held);
        let memory = &mut self.nodes[usize::from(n)];
        // The stream before it ends when it is noticed, which may be later.
        if let Some(old) = memory.session.replace(session) {
            self.lab.read(old);
            self.lab.leave(old);
        }
        memory.peers.clear();
        memory.pages.clear();
    }

    fn say(&mut self, n: u8, message: &ClientMessage) {
        if let Some(session) = self.nodes[usize::from(n)].session {
            self.lab.say(session, 7, message);
        }
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.lab.pass(1);
            for n in 0..NODES {
                let alive = kanpachi_common::wire::control::Nonce(1);
                self.say(n, &ClientMessage::Ping(alive));
            }
        }
    }

    fn held(&self, n: u8) -> Vec<Held> {
        let rosters = &self.nodes[usize::from(n)].rosters;
        let held = |(network, roster): (&NetworkId, &VerifiedRoster)| Held {
            network: *network,
            position: roster.head().position(),
            root: roster.head().root,
        };
        rosters.iter().map(held).collect()
    }

    /// Everybody reads what it was sent.
    fn listen(&mut self) {
        for n in 0..NODES {
            let Some(session) = self.nodes[usize::from(n)].session else {
                continue;
            };
            for (_, message) in self.lab.read(session) {
                self.hear(n, message);
            }
            if self.lab.closed.contains(&session) {
                self.nodes[usize::from(n)].session = None;
            }
        }
    }

    fn hear(&mut self, n: u8, message: ServerMessage) {
        let memory = &mut self.nodes[usize::from(n)];
        match message {
            ServerMessage::Delta(delta) => {
                let head = Head::verify(&delta.head, &self.lab.manifest).unwrap();
                let held = memory
                    .rosters
                    .get(&delta.network)
                    .expect("a roster to change");
                let next = held.apply(*delta, head).expect("a delta that fits");
                memory.rosters.insert(next.head().network, next);
            }
            ServerMessage::Page(page) => {
                memory.pages.push(*page);
                let pages = std::mem::take(&mut memory.pages);
                let (head, roster) = Page::join(pages).unwrap();
                let head = Head::verify(&head, &self.lab.manifest).unwrap();
                memory
                    .rosters
                    .insert(head.network, roster.verify(head).unwrap());
            }
            ServerMessage::Secret(secret) => {
                memory.secrets.insert(secret.network, secret.secret.id);
            }
            ServerMessage::Removed(removed) => {
                memory.rosters.remove(&removed.network);
            }
            ServerMessage::PeerOnline(peer) => {
                assert_ne!(peer.node, node(n), "nobody hears of itself");
                memory.peers.insert(peer.node);
            }
            ServerMessage::PeerOffline(peer) => {
                memory.peers.remove(&peer.node);
            }
            _ => {}
        }
    }

    /// Everybody who is online knows what the store knows, and nobody else does.
    fn check(&self) {
        for n in 0..NODES {
            let memory = &self.nodes[usize::from(n)];
            if memory.session.is_none() {
                continue;
            }
            let mut neighbours = BTreeSet::new();
            for network in [LAN, GAMES] {
                let truth = block_on(self.lab.store.roster(network)).unwrap();
                let held = memory.rosters.get(&network);
                let active = |m: &&kanpachi_common::roster::Member| !m.caps.has(Caps::PENDING);
                if truth.member(&node(n)).filter(active).is_none() {
                    assert!(held.is_none(), "{n} holds a roster that it is not in");
                    continue;
                }
                let held = held.unwrap_or_else(|| panic!("{n} holds no roster"));
                assert_eq!(
                    held.head(),
                    truth.head(),
                    "{n}: the newest head, renewals included"
                );
                assert_eq!(memory.secrets[&network], truth.head().secret_id);
                neighbours.extend(truth.members().filter(active).map(|m| m.node));
            }
            let online = (0..NODES).filter(|m| *m != n).filter(|m| {
                self.nodes[usize::from(*m)].session.is_some() && neighbours.contains(&node(*m))
            });
            let online: BTreeSet<NodeId> = online.map(node).collect();
            let known: BTreeSet<_> = memory.peers.intersection(&neighbours).copied().collect();
            assert_eq!(known, online, "{n} knows who is online");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn everybody_ends_up_knowing_the_same(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
        }
        world.apply(&Op::Mend);
        world.apply(&Op::Pass(2));
        world.check();
    }
}
