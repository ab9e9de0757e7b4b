//! What mirrors are brought: changes when they happen, and everything now and then.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::join_all;
use kanpachi_common::{
    NetworkId,
    wire::mirror::{MirrorReply, MirrorRequest},
};

use super::{Mirror, MirrorError, Service};

/// Which mirrors took what they were brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fed {
    Nobody,
    Some,
    All,
}

/// The mirrors that are brought something one after the other. One that does not answer is left out of the rest, or it would
/// be waited for as often as there are networks, and the others with it.
struct Round {
    mirrors: Vec<Arc<dyn Mirror>>,
    /// Some mirror is left out.
    short: bool,
}

impl Round {
    async fn ask(&mut self, request: &MirrorRequest) -> Vec<MirrorReply> {
        let asked = self.mirrors.iter().map(|m| m.ask(request.clone()));
        let asked: Vec<Result<MirrorReply, MirrorError>> = join_all(asked).await;
        let mut answered = asked.iter().map(Result::is_ok);
        self.mirrors.retain(|_| answered.next().unwrap_or(false));
        let mut replies = Vec::new();
        for reply in asked {
            match reply {
                Ok(reply) => replies.push(reply),
                Err(error) => {
                    self.short = true;
                    tracing::debug!(%error, "a mirror could not be told");
                }
            }
        }
        replies
    }
}

impl Service {
    /// Brings everything to every mirror.
    pub(super) async fn sweep(&self, owed: &mut BTreeSet<NetworkId>) {
        if self.recovery().is_some() {
            return;
        }
        let mut round = self.round();
        let known = round.ask(&MirrorRequest::Directory(self.inner.org)).await;
        if known.contains(&MirrorReply::Unknown) {
            // It is new, or has lost what it had: of networks that ended too.
            owed.extend(self.ended().await);
        }
        if self.feed(&mut round, None).await == Fed::Nobody {
            return;
        }
        if let Ok(networks) = self.networks().await {
            for network in networks {
                self.heed_meanwhile(&mut round, owed).await;
                self.feed(&mut round, Some(network.network)).await;
            }
        }
        for network in std::mem::take(owed) {
            self.heed_meanwhile(&mut round, owed).await;
            if self.feed(&mut round, Some(network)).await != Fed::All {
                owed.insert(network);
            }
        }
    }

    /// Brings what has changed to every mirror.
    pub(super) async fn heed(&self, changed: BTreeSet<NetworkId>, owed: &mut BTreeSet<NetworkId>) {
        self.tell(&mut self.round(), changed, owed).await;
    }

    /// A change that comes during a sweep goes before the rest of it: it may be an eviction.
    async fn heed_meanwhile(&self, round: &mut Round, owed: &mut BTreeSet<NetworkId>) {
        let changed = self.inner.notices.changes_so_far();
        self.tell(round, changed, owed).await;
    }

    async fn tell(
        &self,
        round: &mut Round,
        changed: BTreeSet<NetworkId>,
        owed: &mut BTreeSet<NetworkId>,
    ) {
        let mut missed = BTreeSet::new();
        for network in changed {
            if self.feed(round, Some(network)).await != Fed::All {
                missed.insert(network);
            }
        }
        if !missed.is_empty() {
            // Those that are there still are in every sweep by themselves.
            owed.extend(self.ended().await.intersection(&missed));
        }
    }

    /// The last heads of networks that ended.
    pub(super) async fn ended(&self) -> BTreeSet<NetworkId> {
        match self.inner.store.ended_networks().await {
            Ok(ended) => ended.into_iter().collect(),
            Err(error) => {
                tracing::error!(%error, "deleted networks could not be read for the mirrors");
                BTreeSet::new()
            }
        }
    }

    fn round(&self) -> Round {
        Round {
            mirrors: self.inner.mirrors.clone(),
            short: false,
        }
    }

    /// Brings mirrors the newest state of a network, or keys and servers alone.
    async fn feed(&self, round: &mut Round, network: Option<NetworkId>) -> Fed {
        if round.mirrors.is_empty() || self.recovery().is_some() {
            return Fed::Nobody;
        }
        let mirrored = match self.mirrored(network).await {
            Ok(mirrored) => Box::new(mirrored),
            Err(error) => {
                tracing::error!(%error, "a roster could not be read for the mirrors");
                return Fed::Nobody;
            }
        };
        let replies = round.ask(&MirrorRequest::Put(mirrored)).await;
        let took =
            |reply: &&MirrorReply| matches!(reply, MirrorReply::Kept | MirrorReply::Older(_));
        let mut fed = match replies.iter().filter(took).count() {
            0 => Fed::Nobody,
            count if count == replies.len() && !round.short => Fed::All,
            _ => Fed::Some,
        };
        for reply in replies {
            match reply {
                MirrorReply::Older(theirs) => {
                    fed = Fed::Some;
                    self.confront(&theirs).await;
                }
                MirrorReply::Refused(why) => tracing::warn!("a mirror refused a roster: {why}"),
                _ => {}
            }
        }
        fed
    }
}
