//! The status, put together from what the parts know. It never says more than that.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kanpachi_common::{
    ClientId, NetworkId, NodeId, UnixTime,
    roster::{self, Caps, VerifiedRoster},
    time::DAY,
};
use kanpachi_proto::{
    login::State,
    path::PathKind,
    roster::Rosters,
    tunnel::{PathState, PeerStatus},
};
use tokio::sync::oneshot;

use super::{Core, book::Origin};
use crate::{
    clock::{self, wall_of},
    daemon::engine,
    ipc::api::{
        Adapter, AddressSource, Coordinator, CoordinatorState, Freshness, Member, Network, Path,
        Relay, Relaying, SCHEMA, Status, Underlay, timestamp,
    },
    platform::{Adapter as _, is_on_link},
};

/// People who wait for a status at the most; others are told at once what is known.
const MAX_WANT_STATUS: usize = 64;

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
        suspended: false,
        underlay: vec![],
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

/// What the age of a head means.
fn freshness(issued_at: UnixTime, soft_expires_at: UnixTime, now: UnixTime) -> Freshness {
    if now >= soft_expires_at {
        Freshness::Red
    } else if now.since(issued_at) >= DAY {
        Freshness::Yellow
    } else {
        Freshness::Green
    }
}

impl Core {
    /// Wall time to tell ages by: at least as late as the newest signature seen.
    fn now(&self) -> UnixTime {
        let newest = self.rosters().map(Rosters::newest_issued);
        self.wall().max(newest.unwrap_or_default())
    }

    /// Tells how everything is, once it is known whether the coordinator is there.
    pub(super) async fn tell_status(&mut self, reply: oneshot::Sender<Status>) {
        let session = self.state.session.as_mut();
        let sure = session.is_none_or(|s| s.login.look(clock::now()));
        if sure || self.state.want_status.len() >= MAX_WANT_STATUS {
            let _ = reply.send(self.status().await);
        } else {
            self.state.want_status.push(reply);
        }
    }

    /// Tells those who wait for it, when it is known by now.
    pub(super) async fn tell_statuses(&mut self) {
        let session = self.state.session.as_ref();
        let sure = session.is_none_or(|s| s.login.is_sure(clock::now()));
        if !sure || self.state.want_status.is_empty() {
            return;
        }
        let status = self.status().await;
        for reply in std::mem::take(&mut self.state.want_status) {
            let _ = reply.send(status.clone());
        }
    }

    async fn status(&mut self) -> Status {
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
            relays: self.relays(report.as_ref()),
            relaying: self.relaying(),
            client_id: self.client_id().to_string(),
            logged_in: !self.state.logged_out,
            waiting: self.waiting_names(),
            problems: self.state.problems.clone(),
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

    fn relays(&self, report: Option<&engine::Report>) -> Vec<Relay> {
        let relays = report.into_iter().flat_map(|r| &r.relays);
        relays
            .map(|relay| Relay {
                name: self.relay_name(&relay.node),
                node_id: relay.node.to_string(),
                connected: relay.session,
                udp: relay.bound,
                channels: relay.channels,
            })
            .collect()
    }

    /// The relay of this node, and that of the host in the same process.
    fn relaying(&self) -> Option<Relaying> {
        let member = self.relaying.as_ref().map(|relay| relay.counts());
        let host = self.own_relay.as_ref().map(|relay| (relay.0)());
        member
            .into_iter()
            .chain(host)
            .reduce(|one, other| one + other)
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
            age_s: Some(self.now().since(head.issued_at)),
            freshness: Some(freshness(head.issued_at, head.soft_expires_at, self.now())),
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
        let mut out = plain(member);
        let suspension = self
            .rosters()
            .and_then(|r| r.suspension(network, &member.member));
        out.suspended = suspension.is_some();
        // Whoever awaits approval, or is in a network that this node is not there in, is nobody to this node.
        let peer = self.state.peers.get(&member.node);
        if !peer.is_some_and(|p| p.networks.iter().any(|n| n.network == *network)) {
            return out;
        }
        // A tunnel for the sake of another network says nothing about this one.
        let there = self.state.online.get(&member.node);
        if there.is_some_and(|there| !there.is_in(network)) {
            return out;
        }
        let status = report.and_then(|r| r.peers.get(&member.node));
        let traffic = report
            .and_then(|r| r.traffic.get(&member.node))
            .copied()
            .unwrap_or_default();
        // A path that has not shown life lately is none, whatever it was.
        let up = status.filter(|s| s.fresh).and_then(|s| {
            if let PathState::Up {
                endpoint,
                kind,
                since,
            } = s.state
            {
                Some((endpoint, kind, since))
            } else {
                None
            }
        });
        let told = there.is_some();
        let path = match up {
            Some((_, PathKind::Relay, _)) => Some(Path::Relay),
            Some((endpoint, ..)) if is_on_link(&self.local, endpoint.ip()) => Some(Path::Lan),
            Some(_) => Some(Path::Direct),
            None if status.is_some_and(|s| s.wanted && s.state != PathState::Down)
                && self.may_be_there(&member.node) =>
            {
                Some(Path::Connecting)
            }
            None => None,
        };
        let primary =
            up.and_then(|(endpoint, ..)| status?.paths.iter().find(|p| p.addr == endpoint));
        Member {
            underlay: self.underlay(&member.node),
            online: up.is_some() || (told && self.is_connected()),
            path,
            via: report
                .and_then(|r| r.via.get(&member.node))
                .map(|relay| self.relay_name(relay)),
            path_since: up.map(|(.., since)| wall_of(since)),
            // Over a relay nobody here knows where the peer is.
            endpoint: up
                .filter(|(_, kind, _)| *kind != PathKind::Relay)
                .and_then(|(endpoint, ..)| self.dataplane.leads_to(endpoint)),
            rtt_ms: primary
                .and_then(|p| p.rtt)
                .map(|rtt| rtt.as_secs_f64() * 1000.0),
            loss: primary.map(|p| f64::from(p.loss)),
            path_mtu: up.and_then(|_| status?.path_mtu).map(u32::from),
            rx_bytes: traffic.rx_bytes,
            tx_bytes: traffic.tx_bytes,
            last_handshake: handshake(status),
            ..out
        }
    }

    /// Where a peer may be reached, as far as anybody said.
    fn underlay(&self, node: &NodeId) -> Vec<Underlay> {
        let sightings = self.state.book.of(node).iter();
        let usable = sightings.filter(|s| self.overlay.is_underlay(&s.candidate.addr));
        usable
            .map(|s| Underlay {
                address: s.candidate.addr,
                source: match s.origin {
                    Origin::Tunnel => AddressSource::Tunnel,
                    Origin::Coordinator => AddressSource::Coordinator,
                    Origin::Heard => AddressSource::Lan,
                    Origin::Dht => AddressSource::Dht,
                    Origin::Introduced => AddressSource::Introduced,
                    Origin::Member => AddressSource::Member,
                    Origin::Disk => AddressSource::Disk,
                },
                seen: timestamp(s.at),
            })
            .collect()
    }

    /// Is there any reason to believe that a peer is there?
    pub(super) fn may_be_there(&self, node: &NodeId) -> bool {
        !self.is_connected() || self.state.online.contains_key(node)
    }

    pub(super) fn is_connected(&self) -> bool {
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
        if let Some(rosters) = self.rosters().map(Rosters::counters) {
            add("roster_stale", rosters.roster_stale);
            add("roster_bad_signature", rosters.roster_bad_signature);
            add("roster_mismatch", rosters.roster_mismatch);
            add("roster_equivocation", rosters.roster_equivocation);
            add("proof_refused", rosters.proof_refused);
            add("suspend_refused", rosters.suspend_refused);
        }
        if let Some(records) = self.state.records.as_ref().map(|r| r.counters()) {
            add("record_published", records.published);
            add("record_taken", records.taken);
            add("record_lookups", records.lookups);
            add("record_found", records.found);
            add("record_invalid", records.invalid);
            add("record_refused", records.refused);
        }
        let standing = self.standing_at().len();
        add(
            "signal_reservations",
            u64::try_from(standing).unwrap_or(u64::MAX),
        );
        add("signal_introductions", self.state.introductions);
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
    Some(wall_of(clock::now().checked_sub(age)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roster_is_green_for_a_day_yellow_until_overdue_and_red_from_then_on() {
        let issued_at = UnixTime(1_790_000_000);
        let at = |now| freshness(issued_at, issued_at.plus(7 * DAY), now);
        for (age, colour) in [
            (0, Freshness::Green),
            (DAY - 1, Freshness::Green),
            (DAY, Freshness::Yellow),
            (7 * DAY - 1, Freshness::Yellow),
            (7 * DAY, Freshness::Red),
            (900 * DAY, Freshness::Red),
        ] {
            assert_eq!(at(issued_at.plus(age)), colour, "{age}");
        }
        // A clock before the signature makes nothing older than it is.
        assert_eq!(at(UnixTime(0)), Freshness::Green);
    }
}
