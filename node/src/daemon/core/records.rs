//! Peer records: the swarm carries out what the core of [`kanpachi_proto::records`] wants, the disk keeps what it must.

use std::{collections::BTreeSet, time::Instant};

use kanpachi_common::{
    NodeId,
    wire::member::{MemberMessage, RecordIs},
};
use kanpachi_proto::records::{Action, Found, Group, Now, Records, Source, Update};

use super::{Core, book::Origin, swarm};
use crate::clock;
use crate::ipc::error::{ApiError, code};

impl Core {
    fn records_now(&self) -> Now {
        Now {
            instant: clock::now(),
            wall: self.wall(),
        }
    }

    /// Takes up what is on disk of records.
    pub(super) fn start_records(&mut self) -> Result<(), ApiError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| {
            ApiError::failed(
                code::FAILED,
                format_args!("the system gives no random numbers: {e}"),
            )
        })?;
        let stored = self.db.records()?;
        let now = self.records_now();
        let identity = self.keys.identity.clone();
        self.state.records = Some(Records::new(identity, self.boot, stored, seed, now));
        Ok(())
    }

    /// The networks changed, or may have.
    pub(super) fn groups_changed(&mut self) {
        let now = self.records_now();
        let Some(session) = &self.state.session else {
            return;
        };
        let me = self.me();
        let rosters = &session.rosters;
        let mine = rosters.rosters().filter(|roster| {
            rosters.is_online(&roster.head().network) && roster.member(&me).is_some()
        });
        let groups = mine.map(|roster| {
            let network = roster.head().network;
            let fellows = self.state.peers.values();
            let fellows = fellows.filter(|p| p.networks.iter().any(|n| n.network == network));
            Group {
                network,
                position: roster.head().position(),
                secrets: rosters.secrets(&network).take(2).cloned().collect(),
                members: fellows.map(|p| p.node).collect(),
            }
        });
        let groups = groups.collect();
        if let Some(records) = &mut self.state.records {
            records.set_groups(groups, now);
        }
        self.state.wants_changed = true;
    }

    /// Where this node is changed, or may have.
    pub(super) fn own_changed(&mut self) {
        let (now, candidates) = (self.records_now(), self.own_candidates());
        let nat = self.nat();
        let relays = self.standing_at();
        if let Some(records) = &mut self.state.records {
            records.set_nat(nat, now);
            records.set_own(candidates, relays, now);
        }
    }

    /// Peers without a tunnel that may be there: those whom the coordinator calls online, and without its word all.
    fn wanted(&self) -> BTreeSet<NodeId> {
        let peers = self.state.peers.values();
        peers
            .filter(|peer| peer.may_open && !self.state.up.contains(&peer.node))
            .filter(|peer| self.may_be_there(&peer.node))
            .map(|peer| peer.node)
            .collect()
    }

    /// Carries out what the records want, until they want nothing more.
    pub(super) async fn drive_records(&mut self) {
        let now = self.records_now();
        if std::mem::take(&mut self.state.wants_changed) {
            let wanted = self.wanted();
            self.state.spread.set_sought(&wanted, now.instant);
            self.tell_fellows();
            if let Some(records) = &mut self.state.records {
                records.set_wanted(&wanted, now);
            }
        }
        loop {
            let Some(records) = &mut self.state.records else {
                return;
            };
            if let Some(update) = records.poll_update() {
                self.write_records(&update, now);
            } else if let Some(action) = records.poll_action() {
                self.carry_out(action).await;
            } else {
                return;
            }
        }
    }

    fn write_records(&mut self, update: &Update, now: Now) {
        match self.db.save_records(update) {
            Ok(()) => {
                if let Some(records) = &mut self.state.records {
                    records.commit(update, now);
                }
            }
            Err(error) => tracing::warn!(%error, "records were not stored"),
        }
    }

    async fn carry_out(&mut self, action: Action) {
        let action = match action {
            Action::Found(found) => return self.note_found(found).await,
            action => action,
        };
        if let Some(session) = &self.state.session {
            session.swarm.send(swarm::Command::Record(action)).await;
        }
    }

    async fn note_found(&mut self, found: Found) {
        let node = found.node;
        if !self.state.peers.contains_key(&node) {
            return;
        }
        let origin = match found.source {
            Source::Dht => Origin::Dht,
            Source::Member => Origin::Member,
            Source::Disk => Origin::Disk,
        };
        let usable = found
            .candidates
            .into_iter()
            .filter(|c| c.is_plausible() && self.overlay.is_underlay(&c.addr));
        let usable: Vec<_> = usable.collect();
        tracing::debug!(%node, ?origin, addresses = usable.len(), "a record");
        if origin == Origin::Disk {
            self.state.book.note(node, origin, usable, found.received);
        } else {
            self.state
                .book
                .replace(node, origin, &usable, found.received);
        }
        self.state.book.set_relays(node, found.relays);
        self.state.wants_changed = true;
        // What the coordinator says of somebody who is there is newer than any record.
        if !self.state.online.contains_key(&node) {
            self.state.book.set_nat(node, found.nat);
        }
        self.tell_candidates(&node).await;
        // Nobody publishes who is not there; an old record says nothing about now.
        if !self.state.up.contains(&node) && (origin != Origin::Disk || !self.is_connected()) {
            self.connect(node).await;
        }
    }

    /// What the DHT says.
    pub(super) fn handle_record(&mut self, event: swarm::RecordEvent) {
        let now = self.records_now();
        let Some(records) = &mut self.state.records else {
            return;
        };
        match event {
            swarm::RecordEvent::Stored { query, servers } => {
                records.handle_put(query, servers, now);
            }
            swarm::RecordEvent::Value { query, value } => {
                records.handle_value(query, &value, now);
            }
            swarm::RecordEvent::Finished(query) => records.handle_finished(query, now),
            swarm::RecordEvent::Offered { source, key, value } => {
                records.handle_offered(source, &key, &value, now);
            }
            swarm::RecordEvent::Server { node, lasting } => {
                records.handle_server(node, lasting, now);
            }
        }
    }

    /// What this node holds of the networks that it shares with a member, for that member.
    pub(super) fn records_for(&self, node: &NodeId) -> Vec<MemberMessage> {
        let (now, records) = (self.records_now(), self.state.records.as_ref());
        let peer = self.state.peers.get(node);
        let networks = peer
            .into_iter()
            .flat_map(|p| &p.networks)
            .map(|n| n.network);
        networks
            .flat_map(|network| {
                let values = records.map(|r| r.held_for(&network, now));
                let values = values.into_iter().flatten();
                values.map(move |value| MemberMessage::Record(RecordIs { network, value }))
            })
            .collect()
    }

    /// A member says where somebody is.
    pub(super) fn handle_given(&mut self, record: &RecordIs) {
        let now = self.records_now();
        if let Some(records) = &mut self.state.records {
            records.handle_given(&record.network, &record.value, now);
        }
    }

    pub(super) fn records_timeout(&self) -> Option<Instant> {
        let records = self.state.records.as_ref()?;
        self.state.session.as_ref()?;
        if records.has_work() || self.state.wants_changed {
            return Some(clock::now());
        }
        records.poll_timeout()
    }

    pub(super) fn handle_records_timeout(&mut self) {
        let now = self.records_now();
        if let Some(records) = &mut self.state.records {
            records.handle_timeout(now);
        }
    }
}
