//! Who was asked for which roster a short while ago, in a size that sessions cannot grow.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use kanpachi_common::NetworkId;

use super::SessionId;

/// The same session is asked for the same roster again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Asked {
    by_session: BTreeMap<SessionId, BTreeMap<NetworkId, Instant>>,
    /// The same, oldest first; sessions that are gone stay in it until their time is over.
    order: VecDeque<(Instant, SessionId, NetworkId)>,
}

impl Asked {
    pub(super) fn insert(&mut self, session: SessionId, network: NetworkId, now: Instant) {
        let of_session = self.by_session.entry(session).or_default();
        of_session.insert(network, now);
        self.order.push_back((now, session, network));
    }

    pub(super) fn has(&self, session: SessionId, network: NetworkId) -> bool {
        let of_session = self.by_session.get(&session);
        of_session.is_some_and(|networks| networks.contains_key(&network))
    }

    /// How many rosters a session was asked for.
    pub(super) fn of(&self, session: SessionId) -> usize {
        self.by_session.get(&session).map_or(0, BTreeMap::len)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.order
            .len()
            .max(self.by_session.values().map(BTreeMap::len).sum())
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        self.by_session.remove(&session);
    }

    /// Forgets what is long ago: looks at that only, and at one more.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(asked, session, network)) = self.order.front()
            && now >= asked + ASK_AGAIN
        {
            self.order.pop_front();
            let Some(of_session) = self.by_session.get_mut(&session) else {
                continue;
            };
            of_session.remove(&network);
            if of_session.is_empty() {
                self.by_session.remove(&session);
            }
        }
    }
}
