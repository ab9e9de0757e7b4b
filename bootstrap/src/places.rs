//! How many streams each peer has open.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// Places for streams, so many for each peer. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Places<K: Eq + Hash> {
    busy: Arc<Mutex<HashMap<K, usize>>>,
    of_one: usize,
}

impl<K: Eq + Hash + Clone> Places<K> {
    pub(crate) fn new(of_one: usize) -> Self {
        Self {
            busy: Arc::default(),
            of_one,
        }
    }

    /// Takes a place of a peer, if it has one left.
    pub(crate) fn take(&self, peer: K) -> Option<Place<K>> {
        let mut counts = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(peer.clone()).or_default();
        if *count >= self.of_one {
            return None;
        }
        *count += 1;
        drop(counts);
        let busy = Arc::clone(&self.busy);
        Some(Place { busy, peer })
    }
}

/// One of the streams that a peer may have.
#[derive(Debug)]
pub(crate) struct Place<K: Eq + Hash> {
    busy: Arc<Mutex<HashMap<K, usize>>>,
    peer: K,
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}
