//! A drill: this node cuts itself off from coordinator and bootstraps for a while, to show what goes on without them.
//!
//! It is in memory only and has an end from the start: a daemon that is started again, or whose asker goes away, is
//! connected again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kanpachi_common::NodeId;
use tokio_util::sync::CancellationToken;

use super::{Core, book::Origin, engine, refusals, swarm};
use crate::clock;
use crate::ipc::{
    control::Drill,
    error::{ApiError, code},
};

/// A drill that is on.
#[derive(Debug)]
pub(super) struct Drilling {
    until: Instant,
    /// Cancelled when the asker wants it over, or is gone.
    asked: CancellationToken,
    /// Cancelled when it is over.
    over: CancellationToken,
}

impl Drilling {
    /// Returns when it should end; never, when there is none.
    pub(super) async fn ends(drilling: Option<(Instant, CancellationToken)>) {
        match drilling {
            Some((until, asked)) => {
                tokio::select! {
                    () = asked.cancelled() => {}
                    () = clock::until(Some(until)) => {}
                }
            }
            None => std::future::pending().await,
        }
    }

    /// What [`Self::ends`] waits for.
    pub(super) fn end(&self) -> (Instant, CancellationToken) {
        (self.until, self.asked.clone())
    }
}

impl Core {
    /// Cuts this node off.
    pub(super) async fn begin_drill(&mut self, length: Duration) -> Result<Drill, ApiError> {
        if self.state.drill.is_some() {
            return Err(ApiError::refused(code::BUSY, "a drill is on already"));
        }
        if self.state.logged_out {
            return Err(refusals::logged_out());
        }
        if self.state.session.is_none()
            || self.rosters().is_none_or(|r| r.rosters().next().is_none())
        {
            return Err(refusals::not_joined());
        }
        tracing::warn!(
            seconds = length.as_secs(),
            "a drill cuts this node off from coordinator and bootstraps"
        );
        let drilling = Drilling {
            until: clock::now() + length,
            asked: CancellationToken::new(),
            over: CancellationToken::new(),
        };
        let drill = Drill {
            coordinator: self.state.last_address.clone(),
            sources: self.sources(),
            asked: drilling.asked.clone(),
            over: drilling.over.clone(),
        };
        self.state.drill = Some(drilling);
        self.cut_off_if_drilling().await;
        self.choose_relays().await;
        self.engine.send(engine::Command::Reflect(Vec::new())).await;
        Ok(drill)
    }

    /// A swarm that starts in the middle of a drill is cut off as well.
    pub(super) async fn cut_off_if_drilling(&mut self) {
        if let (Some(_), Some(session)) = (&self.state.drill, &mut self.state.session) {
            session.swarm.send(swarm::Command::CutOff(true)).await;
        }
    }

    /// Is over, for whatever reason.
    pub(super) async fn end_drill(&mut self) {
        let Some(drilling) = self.state.drill.take() else {
            return;
        };
        tracing::warn!("the drill is over, connecting again");
        drilling.over.cancel();
        if let Some(session) = &mut self.state.session {
            session.swarm.send(swarm::Command::CutOff(false)).await;
            // Whoever waits between two dials does not wait any longer.
            session.login.handle_network_change(clock::now());
        }
        self.ask_reflectors();
        self.choose_relays().await;
        self.check_network();
    }

    /// mDNS has shown a node; only peers are of interest.
    pub(super) fn note_on_lan(&mut self, node: NodeId) {
        if self.state.peers.contains_key(&node) {
            self.state.on_lan.insert(node);
        }
    }

    /// How each peer's address would be found now, without a server.
    fn sources(&self) -> BTreeMap<String, Vec<String>> {
        self.state
            .peers
            .keys()
            .map(|node| (node.to_string(), self.sources_of(node)))
            .collect()
    }

    fn sources_of(&self, node: &NodeId) -> Vec<String> {
        let sightings = self.state.book.of(node);
        let from = |origins: &[Origin]| sightings.iter().any(|s| origins.contains(&s.origin));
        let lan = self.state.on_lan.contains(node);
        let cached = self.state.known.get(node).is_some_and(|a| !a.is_empty());
        // What a member told of itself is not remembered apart from what the LAN says, and both are in the cache.
        [
            (lan, "lan"),
            (
                (!lan && from(&[Origin::Heard])) || from(&[Origin::Introduced]),
                "member",
            ),
            (from(&[Origin::Dht, Origin::Member]), "dht"),
            (cached, "cache"),
        ]
        .into_iter()
        .filter(|(has, _)| *has)
        .map(|(_, word)| word.to_owned())
        .collect()
    }
}
