//! The status, put together from what the parts know. It never says more than that.

use std::{collections::BTreeMap, time::Instant};

use jiff::Timestamp;
use kanpachi_common::{
    ClientId, NodeId,
    roster::{Caps, VerifiedRoster},
};
use kanpachi_proto::{
    login::State,
    roster::PeerNetwork,
    tunnel::{PathState, PeerStatus},
};

use super::Core;
use crate::{
    daemon::{clock::wall_of, engine},
    ipc::api::{
        Adapter, Coordinator, CoordinatorState, Member, Network, Path, SCHEMA, Status, timestamp,
    },
    platform::{Adapter as _, is_on_link},
};

/// What a member may do, in the word of the contract.
fn role(caps: Caps) -> String {
    if caps.has(Caps::OWNER) {
        "owner".into()
    } else {
        "member".into()
    }
}

impl Core {
    pub(super) async fn status(&mut self) -> Status {
        let report = self.engine.report().await;
        let adapter = self.state.adapter.as_ref();
        let networks: Vec<Network> = self
            .state
            .session
            .iter()
            .flat_map(|s| s.rosters.rosters())
            .map(|roster| self.network(roster, report.as_ref()))
            .collect();
        Status {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            org: self.org().map(|org| org.to_string()),
            name: self.own_name(),
            node_id: self.me().to_string(),
            ipv4: adapter.and_then(|a| a.ipv4()).map(|(a, _)| a),
            ipv6: adapter.and_then(|a| a.ipv6()).map(|(a, _)| a),
            interface: self.interface.clone(),
            adapter: adapter.map(|_| Adapter::Tun),
            mtu: adapter.map(|a| u32::from(a.mtu())),
            listen: vec![self.socket.local_addr()],
            coordinator: self.coordinator(),
            networks,
            client_id: ClientId::of(&self.me(), 0).to_string(),
            logged_in: true,
            waiting: vec![],
            counters: self.counters(report.as_ref()),
        }
    }

    /// The name of this node: what its first network calls it, or what it would like to be called.
    pub(super) fn own_name(&self) -> Option<String> {
        let session = self.state.session.as_ref()?;
        session
            .rosters
            .rosters()
            .find_map(|r| Some(r.member(&self.me())?.name.clone()))
    }

    fn coordinator(&self) -> Coordinator {
        let state = self.state.session.as_ref().map(|s| s.login.state());
        let (state, address, trouble) = match state {
            None | Some(State::Connecting) => (CoordinatorState::Connecting, None, None),
            Some(State::Connected { address, .. }) => {
                (CoordinatorState::Connected, Some(address.to_string()), None)
            }
            Some(State::Unreachable { trouble, .. }) => (
                CoordinatorState::Unreachable,
                None,
                Some(trouble.to_string()),
            ),
        };
        Coordinator {
            state,
            address: address.or_else(|| self.state.last_address.clone()),
            since: self.state.coordinator_since,
            last_error: trouble.or_else(|| self.state.last_error.clone()),
        }
    }

    fn network(&self, roster: &VerifiedRoster, report: Option<&engine::Report>) -> Network {
        let head = roster.head();
        let mut members: Vec<Member> = self
            .state
            .peers
            .values()
            .filter_map(|peer| {
                let place = peer.networks.iter().find(|n| n.network == head.network)?;
                Some(self.member(peer, place, report))
            })
            .collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Network {
            name: roster.settings().name.clone(),
            id: head.network.to_string(),
            generation: head.generation,
            epoch: head.epoch,
            role: role(
                roster
                    .member(&self.me())
                    .map_or_else(Caps::default, |me| me.caps),
            ),
            issued_at: timestamp(head.issued_at),
            soft_expires_at: Some(timestamp(head.soft_expires_at)),
            hard_expires_at: head.hard_expires_at.map(timestamp),
            locked: roster.settings().access().locked,
            approval: roster.settings().access().approval,
            online: true,
            members,
        }
    }

    fn member(
        &self,
        peer: &kanpachi_proto::roster::Peer,
        place: &PeerNetwork,
        report: Option<&engine::Report>,
    ) -> Member {
        let status = report.and_then(|r| r.peers.get(&peer.node));
        let traffic = report
            .and_then(|r| r.traffic.get(&peer.node))
            .copied()
            .unwrap_or_default();
        let up = status.and_then(|s| {
            if let PathState::Up {
                endpoint, since, ..
            } = s.state
            {
                Some((endpoint, since))
            } else {
                None
            }
        });
        let told = self.state.online.contains_key(&peer.node);
        let path = match up {
            Some((endpoint, _)) if is_on_link(&self.local, endpoint.ip()) => Some(Path::Lan),
            Some(_) => Some(Path::Direct),
            None if status.is_some_and(|s| s.wanted && s.state == PathState::Connecting)
                && self.may_be_there(&peer.node) =>
            {
                Some(Path::Connecting)
            }
            None => None,
        };
        let primary =
            up.and_then(|(endpoint, _)| status?.paths.iter().find(|p| p.addr == endpoint));
        Member {
            name: place.name.clone(),
            node_id: peer.node.to_string(),
            ipv4: peer.ipv4,
            ipv6: Some(peer.ipv6),
            role: role(place.caps),
            client_id: ClientId::of(&peer.node, 0).to_string(),
            waiting: false,
            online: up.is_some() || (told && self.is_connected()),
            path,
            via: None,
            path_since: up.map(|(_, since)| wall_of(since)),
            endpoint: up.map(|(endpoint, _)| endpoint),
            rtt_ms: primary
                .and_then(|p| p.rtt)
                .map(|rtt| rtt.as_secs_f64() * 1000.0),
            loss: primary.map(|p| f64::from(p.loss)),
            path_mtu: None,
            rx_bytes: traffic.rx_bytes,
            tx_bytes: traffic.tx_bytes,
            last_handshake: handshake(status),
        }
    }

    /// Is there any reason to believe that a peer is there?
    fn may_be_there(&self, node: &NodeId) -> bool {
        !self.is_connected() || self.state.online.contains_key(node)
    }

    fn is_connected(&self) -> bool {
        self.state
            .session
            .as_ref()
            .is_some_and(|s| matches!(s.login.state(), State::Connected { .. }))
    }

    fn counters(&self, report: Option<&engine::Report>) -> BTreeMap<String, u64> {
        let mut out: BTreeMap<String, u64> = self
            .dataplane
            .counters()
            .snapshot()
            .into_iter()
            .map(|(name, n)| (name.to_owned(), n))
            .collect();
        let mut add = |name: &str, n: u64| {
            out.insert(name.to_owned(), n);
        };
        if let Some(rosters) = self.state.session.as_ref().map(|s| s.rosters.counters()) {
            add("roster_stale", rosters.roster_stale);
            add("roster_bad_signature", rosters.roster_bad_signature);
            add("roster_mismatch", rosters.roster_mismatch);
            add("roster_equivocation", rosters.roster_equivocation);
            add("proof_refused", rosters.proof_refused);
        }
        if let Some(tunnels) = report.map(|r| r.counters) {
            add("handshakes", tunnels.handshakes);
            add("handshake_malformed", tunnels.malformed);
            add("handshake_bad_mac", tunnels.bad_mac);
            add("handshake_cookies", tunnels.cookies_sent);
            add("handshake_rate_limited", tunnels.rate_limited);
            add("handshake_undecryptable", tunnels.undecryptable);
            add("handshake_unknown_peer", tunnels.unknown_peer);
            add("handshake_refused", tunnels.refused);
            add("handshake_crowded_out", tunnels.crowded_out);
            add("handshake_repeated", tunnels.repeated);
        }
        out
    }
}

fn handshake(status: Option<&PeerStatus>) -> Option<Timestamp> {
    let age = status?.session.as_ref()?.age;
    Some(wall_of(Instant::now().checked_sub(age)?))
}
