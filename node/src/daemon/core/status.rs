//! The status, put together from what the parts know. It never says more than that.

use std::{collections::BTreeMap, time::Instant};

use jiff::Timestamp;
use kanpachi_common::{
    ClientId, NetworkId, NodeId,
    roster::{self, Caps, VerifiedRoster},
};
use kanpachi_proto::{
    login::State,
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

/// What its entry says of a member, and nothing of where it is.
fn plain(member: &roster::Member) -> Member {
    Member {
        name: member.name.clone(),
        node_id: member.node.to_string(),
        client_id: member.client_id.to_string(),
        ipv4: member.ipv4,
        ipv6: Some(member.ipv6),
        role: role(member.caps),
        waiting: member.caps.has(Caps::PENDING),
        online: false,
        path: None,
        via: None,
        path_since: None,
        endpoint: None,
        rtt_ms: None,
        loss: None,
        path_mtu: None,
        rx_bytes: 0,
        tx_bytes: 0,
        last_handshake: None,
    }
}

impl Core {
    pub(super) async fn status(&mut self) -> Status {
        let report = self.engine.report().await;
        let adapter = self.state.adapter.as_ref();
        let rosters = self.rosters().into_iter().flat_map(|r| r.rosters());
        let networks: Vec<Network> = rosters
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
            client_id: self.client_id().to_string(),
            logged_in: !self.state.logged_out,
            waiting: self.waiting_names(),
            counters: self.counters(report.as_ref()),
        }
    }

    /// The name of this node: what its first network calls it, or what it would like to be called.
    pub(super) fn own_name(&self) -> Option<String> {
        Some(self.entry()?.name.clone())
    }

    /// Its entry in the first of its networks.
    fn entry(&self) -> Option<&roster::Member> {
        self.rosters()?.rosters().find_map(|r| r.member(&self.me()))
    }

    /// Its client id, as its entries have it, or the coordinator says, or it follows from the key.
    fn client_id(&self) -> ClientId {
        let entry = self.entry().map(|me| me.client_id);
        entry
            .or(self.state.client_id)
            .unwrap_or_else(|| ClientId::of(&self.me(), 0))
    }

    fn coordinator(&self) -> Coordinator {
        let state = self.state.session.as_ref().map(|s| s.login.state());
        let (state, address, trouble) = match state {
            None if self.state.logged_out => (
                CoordinatorState::Unreachable,
                None,
                Some("this machine is logged out".to_owned()),
            ),
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
        let others = roster.members().filter(|m| m.node != self.me());
        let mut members: Vec<Member> = others
            .map(|member| self.member(member, &head.network, report))
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
            online: self.rosters().is_some_and(|r| r.is_online(&head.network)),
            members,
        }
    }

    fn member(
        &self,
        member: &roster::Member,
        network: &NetworkId,
        report: Option<&engine::Report>,
    ) -> Member {
        let out = plain(member);
        // Whoever awaits approval, or is in a network that this node is not there in, is nobody to this node.
        let peer = self.state.peers.get(&member.node);
        if !peer.is_some_and(|p| p.networks.iter().any(|n| n.network == *network)) {
            return out;
        }
        let status = report.and_then(|r| r.peers.get(&member.node));
        let traffic = report
            .and_then(|r| r.traffic.get(&member.node))
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
        let told = self.state.online.contains_key(&member.node);
        let path = match up {
            Some((endpoint, _)) if is_on_link(&self.local, endpoint.ip()) => Some(Path::Lan),
            Some(_) => Some(Path::Direct),
            None if status.is_some_and(|s| s.wanted && s.state == PathState::Connecting)
                && self.may_be_there(&member.node) =>
            {
                Some(Path::Connecting)
            }
            None => None,
        };
        let primary =
            up.and_then(|(endpoint, _)| status?.paths.iter().find(|p| p.addr == endpoint));
        Member {
            online: up.is_some() || (told && self.is_connected()),
            path,
            path_since: up.map(|(_, since)| wall_of(since)),
            endpoint: up.map(|(endpoint, _)| endpoint),
            rtt_ms: primary
                .and_then(|p| p.rtt)
                .map(|rtt| rtt.as_secs_f64() * 1000.0),
            loss: primary.map(|p| f64::from(p.loss)),
            rx_bytes: traffic.rx_bytes,
            tx_bytes: traffic.tx_bytes,
            last_handshake: handshake(status),
            ..out
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
        if let Some(rosters) = self
            .rosters()
            .map(kanpachi_proto::roster::Rosters::counters)
        {
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
