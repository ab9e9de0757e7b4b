//! News of the organisation: checked, written to disk, then acted on.

use std::collections::BTreeSet;

use kanpachi_common::{NodeId, addr::ipv6_of};
use kanpachi_proto::{
    roster::{Peer, Refusal, Update},
    tunnel::PeerConfig,
};
use kanpachi_transport::peer_id;

use super::{Core, engine, swarm};
use crate::{
    dataplane::{Member, OutboundThread, Own},
    ipc::error::ApiError,
    platform::{Adapter as _, AdapterConfig, Native, Platform as _},
};

impl Core {
    /// Takes up something verified: disk first. `false` when the disk said no; then nothing happened.
    pub(super) fn take_up(&mut self, update: Update) -> bool {
        if let Err(error) = self.db.save(&update) {
            tracing::error!(%error, "news of the organisation were not stored and do not count");
            self.state.unsaved = true;
            self.state.not_stored = Some(error);
            return false;
        }
        if let Some(rosters) = self.rosters_mut() {
            rosters.commit(update);
        }
        true
    }

    /// Takes up the outcome of a check; `true` when something changed. A refusal is logged once per kind: it is
    /// counted every time.
    pub(super) fn settle(
        &mut self,
        what: &'static str,
        outcome: Result<Option<Update>, Refusal>,
    ) -> bool {
        match outcome {
            Ok(Some(Update::Equivocation {
                network,
                position,
                root,
            })) => {
                tracing::error!(network = %network.short(), epoch = position.epoch, "two different rosters are signed for one epoch: nobody new is let in until the keys of the organisation are renewed");
                self.take_up(Update::Equivocation {
                    network,
                    position,
                    root,
                })
            }
            Ok(Some(update)) => self.take_up(update),
            Ok(None) => false,
            Err(error) => {
                if self.complaints.first(&error) {
                    tracing::warn!(what, %error, "refused");
                } else {
                    tracing::debug!(what, %error, "refused again");
                }
                false
            }
        }
    }

    /// Who is a member changed, or may have: everybody who acts on it is told.
    pub(super) async fn members_changed(&mut self) {
        self.wait_no_more();
        let Some(session) = &self.state.session else {
            return;
        };
        if let Some(relaying) = &self.relaying {
            relaying.set_rosters(Some(&session.rosters));
        }
        let peers = session.rosters.peers(self.wall());
        let manifest = session.rosters.manifest();
        let generation = manifest.map_or(0, |m| m.generation);
        let manifest = manifest.map(|m| Box::new(m.signed().clone()));
        let epochs = session
            .rosters
            .rosters()
            .map(|r| (r.head().network, r.head().epoch))
            .collect();
        // After the hard expiry there is no data, only renewal: such a peer has no place in the tunnels.
        let members = peers.values().filter(|peer| peer.may_open).map(|peer| {
            let config = PeerConfig {
                node_id: peer.node,
                tunnel_key: peer.tunnel_key.0,
                networks: peer.networks.iter().map(|n| n.network).collect(),
            };
            let member = Member {
                node_id: peer.node,
                ipv4: peer.ipv4,
                ipv6: Some(peer.ipv6),
            };
            (config, member)
        });
        self.engine
            .send(engine::Command::Members(members.collect()))
            .await;
        self.engine
            .send(engine::Command::Epochs(generation, epochs))
            .await;
        self.engine
            .send(engine::Command::Proofs(self.relay_proofs(), manifest))
            .await;
        self.state
            .spread
            .set_peers(&peers.keys().copied().collect());
        let ids: BTreeSet<_> = peers.keys().map(|node| peer_id(*node)).collect();
        session.swarm.send(swarm::Command::Members(ids)).await;
        let opened = |peer: &&Peer| {
            peer.may_open && !self.state.peers.get(&peer.node).is_some_and(|p| p.may_open)
        };
        let new: Vec<NodeId> = peers.values().filter(opened).map(|p| p.node).collect();
        self.state.up.retain(|node| peers.contains_key(node));
        self.state.peers = peers;
        self.note_problems();
        self.groups_changed();
        for node in new {
            self.tell_candidates(&node).await;
            if self.state.online.contains_key(&node) || !self.state.book.of(&node).is_empty() {
                self.connect(node).await;
            }
        }
        self.refresh_hello();
    }

    /// Brings the adapter up once the node knows its addresses.
    pub(super) async fn bring_adapter_up(&mut self) -> Result<(), ApiError> {
        let (Some(org), Some(ipv4)) = (self.org(), self.state.ipv4) else {
            return Ok(());
        };
        if self.state.adapter.is_some() {
            return Ok(());
        }
        let pool = self
            .state
            .session
            .as_ref()
            .and_then(|s| s.rosters.directory())
            .map_or_else(Default::default, |d| d.pool);
        let ipv6 = ipv6_of(&org, &self.me());
        let config = AdapterConfig {
            name: self.interface.clone(),
            mtu: kanpachi_common::addr::DEFAULT_MTU,
            ipv4: ipv4.map(|a| (a, pool.prefix_len())),
            ipv6: Some((ipv6, 48)),
        };
        let progress = std::sync::Arc::clone(&self.progress);
        let step = progress.step(format!("adapter {}", self.interface));
        let adapter = Native::default()
            .create_adapter(&config)
            .await
            .map_err(ApiError::from)?;
        for missing in adapter.missing() {
            progress.warn(missing);
        }
        self.engine
            .send(engine::Command::Own(Own {
                ipv4: adapter.ipv4().map(|(a, _)| a),
                broadcast: adapter.ipv4().map(|_| pool.broadcast()),
                ipv6: adapter.ipv6().map(|(a, _)| a),
            }))
            .await;
        self.state.outbound = Some(
            self.dataplane
                .attach(&adapter)
                .map_err(|e| ApiError::failed(crate::ipc::error::code::FAILED, e))?,
        );
        let addresses: Vec<String> = adapter
            .ipv4()
            .map(|(a, _)| a.to_string())
            .into_iter()
            .chain(adapter.ipv6().map(|(a, _)| a.to_string()))
            .collect();
        step.done(format_args!(
            "{}, MTU {}",
            addresses.join(" and "),
            adapter.mtu()
        ));
        self.state.adapter = Some(adapter);
        Ok(())
    }

    /// Somebody took the adapter away under us: make it anew, and try again while that does not work.
    pub(super) async fn mind_adapter(&mut self) {
        let outbound = self.state.outbound.as_ref();
        if outbound.is_some_and(OutboundThread::is_finished) {
            tracing::error!(interface = %self.interface, "the adapter is gone; making it anew");
            self.take_adapter_down().await;
        }
        if self.state.logged_out || self.state.adapter.is_some() {
            return;
        }
        if let Err(error) = self.bring_adapter_up().await {
            tracing::error!(%error, "no adapter");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Alone;

    #[tokio::test]
    async fn an_adapter_that_could_not_be_made_is_tried_again_until_the_logout() {
        let mut alone = Alone::new().await;
        let tries = |alone: &mut Alone| std::iter::from_fn(|| alone.steps.try_recv().ok()).count();
        alone.core.mind_adapter().await;
        assert_eq!(tries(&mut alone), 0, "there is no address yet");
        alone.core.state.ipv4 = Some(None);
        for _ in 0..3 {
            alone.core.mind_adapter().await;
            assert_eq!(tries(&mut alone), 1);
        }
        alone.core.state.logged_out = true;
        alone.core.mind_adapter().await;
        assert_eq!(tries(&mut alone), 0);
    }
}
