//! What must hold after every step, whatever happens.
//!
//! - No counter on a disk falls: boot, epochs seen and held, floors, serials, generation, directory.
//! - Whatever a process goes by is on its disk.
//! - An inner packet is delivered only if its source is in its sender's entry, once, and as it was sent.
//! - Nobody has a session with a node that is no member under the roster that it holds.
//! - No IPv4 address is ever given to two nodes, and a node keeps the one it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use kanpachi_common::NodeId;

use super::{disk::Counters, inner::Inner, node::Node};

/// What was true before.
#[derive(Debug, Default)]
pub struct Invariants {
    disks: BTreeMap<usize, (u64, Counters)>,
    owners: BTreeMap<Ipv4Addr, NodeId>,
    addresses: BTreeMap<NodeId, Ipv4Addr>,
    /// Who sent which packet.
    senders: BTreeMap<u64, usize>,
    delivered: BTreeSet<(usize, u64)>,
}

impl Invariants {
    /// A packet is sent.
    pub fn sent(&mut self, number: u64, from: usize) {
        self.senders.insert(number, from);
    }

    /// A packet came out at a node; returns who sent it.
    ///
    /// # Panics
    /// When it should not have.
    pub fn delivered(
        &mut self,
        inner: Inner,
        nodes: &[Node],
        at: usize,
        peer: NodeId,
        now: Instant,
    ) -> usize {
        let number = inner.number;
        assert!(inner.intact, "packet {number} was altered");
        let from = self.senders.get(&number).copied();
        let from = from.unwrap_or_else(|| panic!("nobody sent packet {number}"));
        assert_eq!(
            nodes[from].id(),
            peer,
            "packet {number} came out of another's tunnel"
        );
        assert!(
            self.delivered.insert((at, number)),
            "packet {number} was delivered twice"
        );
        let members = (nodes[at].process.as_ref()).map(|p| p.members(now));
        let members = members.unwrap_or_default();
        let entry = members
            .get(&peer)
            .unwrap_or_else(|| panic!("packet {number} came from a stranger"));
        let sources: Vec<IpAddr> = entry.sources().collect();
        assert!(
            sources.contains(&inner.source),
            "packet {number} has source {}, its sender is {sources:?}",
            inner.source
        );
        from
    }

    /// Something happened to a node.
    ///
    /// # Panics
    /// When it is in a state in which it must not be.
    pub fn check(&mut self, node: &Node, now: Instant) {
        self.check_disk(node);
        let Some(process) = &node.process else {
            return;
        };
        for roster in process.rosters().into_iter().flat_map(|r| r.rosters()) {
            let head = roster.head();
            assert_eq!(
                node.disk.counters().held.get(&head.network),
                Some(&head.position()),
                "node {} goes by a roster that is not on its disk",
                node.index
            );
        }
        let members = process.members(now);
        for peer in process.session_peers() {
            assert!(
                members.contains_key(&peer),
                "node {} has a session with {}, who is no member",
                node.index,
                peer.short()
            );
        }
        if let Some(ipv4) = process.own().and_then(|own| own.ipv4) {
            self.check_address(node.id(), ipv4);
        }
    }

    fn check_disk(&mut self, node: &Node) {
        let (writes, before) = self.disks.entry(node.index).or_default();
        if *writes == node.disk.writes {
            return;
        }
        if let Some(what) = node.disk.counters().fell_below(before) {
            panic!("on the disk of node {}: {what}", node.index);
        }
        *writes = node.disk.writes;
        before.clone_from(node.disk.counters());
        let rosters = node.process.as_ref().and_then(|p| p.rosters());
        let members = rosters.into_iter().flat_map(|r| r.rosters());
        let members: Vec<_> = members
            .flat_map(|r| r.members())
            .filter_map(|m| Some((m.node, m.ipv4?)))
            .collect();
        for (id, ipv4) in members {
            self.check_address(id, ipv4);
        }
    }

    fn check_address(&mut self, id: NodeId, ipv4: Ipv4Addr) {
        let owner = *self.owners.entry(ipv4).or_insert(id);
        assert_eq!(owner, id, "{ipv4} was given to two nodes");
        let first = *self.addresses.entry(id).or_insert(ipv4);
        assert_eq!(
            first,
            ipv4,
            "{} has another address than before",
            id.short()
        );
    }
}
