//! What the actor tells those who deal with mirrors. Each network is in it once, so that nothing has to be dropped that
//! matters.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kanpachi_common::{NetworkId, NodeId};
use tokio::sync::Notify;

use crate::turns::Turns;

/// Nodes whose claims wait, and claims of one of them. More are not looked into: whoever really knows more shows it.
const MAX_CLAIMANTS: usize = 256;
const MAX_CLAIMS: usize = 16;

#[derive(Debug)]
pub(super) struct Notices {
    waiting: Mutex<Waiting>,
    change: Notify,
    claim: Notify,
}

#[derive(Debug)]
struct Waiting {
    changed: BTreeSet<NetworkId>,
    claims: Turns<NodeId>,
}

impl Notices {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                changed: BTreeSet::new(),
                claims: Turns::new(),
            }),
            change: Notify::new(),
            claim: Notify::new(),
        }
    }

    /// A roster changed or was renewed.
    pub(super) fn changed(&self, network: NetworkId) {
        self.waiting().changed.insert(network);
        self.change.notify_one();
    }

    /// A node claims to know a newer roster.
    pub(super) fn claims_newer(&self, node: NodeId, network: NetworkId) {
        let mut waiting = self.waiting();
        let claims = &mut waiting.claims;
        let of_node = claims.of(&node);
        if of_node < MAX_CLAIMS && (of_node > 0 || claims.askers() < MAX_CLAIMANTS) {
            claims.insert(node, network);
        }
        drop(waiting);
        self.claim.notify_one();
    }

    /// Waits for changes; many of one roster are one. For one task.
    pub(super) async fn changes(&self) -> BTreeSet<NetworkId> {
        loop {
            let changed = self.changes_so_far();
            if !changed.is_empty() {
                return changed;
            }
            self.change.notified().await;
        }
    }

    /// The changes that are there already, for the same task.
    pub(super) fn changes_so_far(&self) -> BTreeSet<NetworkId> {
        std::mem::take(&mut self.waiting().changed)
    }

    /// Waits for a claim. For one task.
    pub(super) async fn claim(&self) -> NetworkId {
        loop {
            let next = self.waiting().claims.next(|_| true, |_| true);
            if let Some((_, network)) = next {
                return network;
            }
            self.claim.notified().await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds the lock; should it have, the sets are whole nevertheless.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
