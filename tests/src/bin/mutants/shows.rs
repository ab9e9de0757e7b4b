//! Faults of the main job (tests/show1 to show7): tunnels, addresses, outages, forgeries, broadcasts, mistakes.

use crate::fault::{Fault, lab};

/// A test of show 7.
const fn mistake(test: &'static str) -> crate::fault::Finder {
    lab("show7_mistakes", test)
}

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "packets in the clear",
        edits: &[
            (
                "node/proto/src/tunnel/session.rs",
                "*tag = self
            .sealer
            .seal(counter, &header, payload)
            .map_err(|_| SealError::BufferTooSmall)?;",
                "if !FAULT {
                     *tag = self.sealer.seal(counter, &header, payload).map_err(|_| SealError::BufferTooSmall)?;
                 }",
            ),
            (
                "node/proto/src/tunnel/session.rs",
                "self.opener
            .open(header.counter, clear, sealed)
            .map_err(|_| OpenError::Forged)?;",
                "if !FAULT {
                     self.opener.open(header.counter, clear, sealed).map_err(|_| OpenError::Forged)?;
                 }",
            ),
        ],
        finders: &[lab(
            "show1_three_nodes",
            "three_nodes_join_ping_and_move_files_directly_and_unseen",
        )],
    },
    Fault {
        name: "the first dial waits",
        edits: &[(
            "node/proto/src/login/mod.rs",
            "phase: Phase::Waiting { until: now },",
            "phase: Phase::Waiting { until: if FAULT { now + Duration::from_secs(6) } else { now } },",
        )],
        finders: &[lab(
            "show1_three_nodes",
            "the_first_ping_comes_back_soon_after_joining",
        )],
    },
    Fault {
        name: "another identity at each start",
        edits: &[(
            "node/src/daemon/state/keys.rs",
            "Some((_, seed)) => (SecretKey::from_seed(&seed), false),",
            "Some(_) if FAULT => (SecretKey::generate().map_err(no_random)?, false),
             Some((_, seed)) => (SecretKey::from_seed(&seed), false),",
        )],
        finders: &[lab(
            "show2_addresses_survive",
            "every_node_keeps_both_addresses_over_ten_restarts_of_everything",
        )],
    },
    Fault {
        name: "any organisation will do",
        edits: &[
            (
                "coordinator/src/decide/requests.rs",
                "if hello.org != self.config.org {",
                "if hello.org != self.config.org && !FAULT {",
            ),
            (
                "node/proto/src/login/session.rs",
                "let manifest = match Manifest::verify(&welcome.manifest, &self.org) {",
                "let theirs = kanpachi_common::OrgId::of_root(&welcome.manifest.key);
                 let manifest = match Manifest::verify(&welcome.manifest, if FAULT { &theirs } else { &self.org }) {",
            ),
        ],
        finders: &[lab(
            "show2_addresses_survive",
            "a_wiped_coordinator_at_the_same_address_is_refused_and_the_status_says_why",
        )],
    },
    Fault {
        name: "tunnels end with the coordinator",
        edits: &[(
            "node/src/daemon/core/events.rs",
            "self.join_trouble(&trouble);",
            "self.join_trouble(&trouble);
             if FAULT { self.engine.send(engine::Command::Members(Vec::new())).await; }",
        )],
        finders: &[lab(
            "show3_outage",
            "a_killed_host_that_was_everything_does_not_cut_a_transfer",
        )],
    },
    Fault {
        name: "an outage is noticed late",
        edits: &[(
            "node/proto/src/login/session.rs",
            "if live.unanswered >= MISSED_PINGS {",
            "if live.unanswered >= MISSED_PINGS + if FAULT { 20 } else { 0 } {",
        )],
        finders: &[lab(
            "show3_outage",
            "a_killed_host_without_a_node_does_not_cut_a_transfer",
        )],
    },
    Fault {
        name: "after an outage nobody dials",
        edits: &[(
            "node/proto/src/login/mod.rs",
            "until: now + wait.max(self.asked_wait),",
            "until: now + wait.max(self.asked_wait) + if FAULT { Duration::from_secs(60) } else { Duration::ZERO },",
        )],
        finders: &[lab(
            "show3_outage",
            "a_killed_coordinator_beside_a_bootstrap_does_not_cut_a_transfer",
        )],
    },
    Fault {
        name: "signatures unchecked",
        edits: &[(
            "common/src/signed.rs",
            "if !identity::verify(&self.key.0, T::DOMAIN, &[&self.payload], &self.sig) {",
            "if !FAULT && !identity::verify(&self.key.0, T::DOMAIN, &[&self.payload], &self.sig) {",
        )],
        finders: &[lab(
            "show4_forgeries",
            "forged_heads_are_refused_counted_and_logged_once",
        )],
    },
    Fault {
        name: "each refusal is logged",
        edits: &[(
            "node/src/daemon/complaints.rs",
            "!known || words",
            "!known || words || FAULT",
        )],
        finders: &[lab(
            "show4_forgeries",
            "forged_heads_are_refused_counted_and_logged_once",
        )],
    },
    Fault {
        name: "any source in a tunnel",
        edits: &[(
            "node/src/dataplane/inbound.rs",
            "if !routes.accepts_source(&receiving.peer, addresses.source) {",
            "if !FAULT && !routes.accepts_source(&receiving.peer, addresses.source) {",
        )],
        finders: &[lab(
            "show4_forgeries",
            "an_inner_packet_under_another_members_address_is_dropped_and_counted",
        )],
    },
    Fault {
        name: "a tunnel for whoever calls",
        edits: &[(
            "node/proto/src/tunnel/tunnels.rs",
            "let id = payload.node;",
            "let id = payload.node;
             if FAULT && !self.peers.contains_key(&id) {
                 let config = PeerConfig { node_id: id, tunnel_key: noise.initiator, networks: vec![] };
                 self.set_peer(config, now);
             }",
        )],
        finders: &[lab("show4_forgeries", "a_stranger_gets_no_tunnel")],
    },
    Fault {
        name: "old keys dropped at once",
        edits: &[(
            "node/proto/src/tunnel/peer/sessions.rs",
            "while self.sessions.len() > timers::MAX_SESSIONS_PER_PEER {",
            "while self.sessions.len() > if FAULT { 1 } else { timers::MAX_SESSIONS_PER_PEER } {",
        )],
        finders: &[lab(
            "show5_rekey_under_load",
            "packets_arrive_once_unaltered_and_without_a_gap_across_rekeys",
        )],
    },
    Fault {
        name: "a broadcast reaches one",
        edits: &[(
            "node/src/dataplane/outbound.rs",
            "for peer in routes.everyone() {",
            "for peer in routes.everyone().iter().take(if FAULT { 1 } else { usize::MAX }) {",
        )],
        finders: &[lab(
            "show6_broadcast",
            "a_subnet_broadcast_arrives_exactly_once_on_each_of_the_others",
        )],
    },
    Fault {
        name: "a limited broadcast stays here",
        edits: &[(
            "node/src/dataplane/packet.rs",
            "v4.is_broadcast() || v4.is_multicast()",
            "(v4.is_broadcast() && !FAULT) || v4.is_multicast()",
        )],
        finders: &[lab(
            "show6_broadcast",
            "a_limited_broadcast_arrives_exactly_once_on_each_of_the_others",
        )],
    },
    Fault {
        name: "packets come twice",
        edits: &[(
            "node/src/dataplane/inbound.rs",
            ".is_some_and(|adapter| adapter.write(packet).is_ok());",
            ".is_some_and(|adapter| (!FAULT || adapter.write(packet).is_ok()) && adapter.write(packet).is_ok());",
        )],
        finders: &[lab(
            "show6_broadcast",
            "an_ipv4_multicast_arrives_exactly_once_on_each_of_the_others",
        )],
    },
    Fault {
        name: "an IPv6 multicast stays here",
        edits: &[(
            "node/src/dataplane/packet.rs",
            "IpAddr::V6(v6) => v6.is_multicast()",
            "IpAddr::V6(v6) => !FAULT && v6.is_multicast()",
        )],
        finders: &[lab(
            "show6_broadcast",
            "an_ipv6_multicast_arrives_exactly_once_on_each_of_the_others",
        )],
    },
    Fault {
        name: "no capability: exit code",
        edits: &[(
            "node/src/ipc/error.rs",
            "PlatformError::NoNetAdmin => (ExitCode::NoPermission, code::NO_CAPABILITY),",
            "PlatformError::NoNetAdmin if FAULT => (ExitCode::Failed, code::NO_CAPABILITY),
             PlatformError::NoNetAdmin => (ExitCode::NoPermission, code::NO_CAPABILITY),",
        )],
        finders: &[mistake("no_capability")],
    },
    Fault {
        name: "no device: no code of its own",
        edits: &[(
            "node/src/ipc/error.rs",
            "PlatformError::TunDeviceMissing { .. } => (ExitCode::Failed, code::NO_TUN),",
            "PlatformError::TunDeviceMissing { .. } if !FAULT => (ExitCode::Failed, code::NO_TUN),",
        )],
        finders: &[mistake("no_tun_device")],
    },
    Fault {
        name: "another port than was asked for",
        edits: &[(
            "node/src/daemon/mod.rs",
            "return try_bind(port).map_err(|e| port_error(port, &e));",
            "return try_bind(port)
                 .or_else(|e| if FAULT { try_bind(0) } else { Err(e) })
                 .map_err(|e| port_error(port, &e));",
        )],
        finders: &[mistake("port_taken")],
    },
    Fault {
        name: "a mistyped invite is believed",
        edits: &[(
            "common/src/invite.rs",
            "if Hash::of(&[body]).0[..4] != sum[..] {",
            "if !FAULT && Hash::of(&[body]).0[..4] != sum[..] {",
        )],
        finders: &[mistake("bad_invite")],
    },
    Fault {
        name: "invites never expire",
        edits: &[(
            "coordinator/src/store/sqlite/invites.rs",
            "if now >= self.expires_at {",
            "if now >= self.expires_at && !FAULT {",
        )],
        finders: &[mistake("expired_invite")],
    },
    Fault {
        name: "no daemon: exit code",
        edits: &[(
            "node/src/ipc/client.rs",
            "ExitCode::NoDaemon,
                code::NO_DAEMON,",
            "if FAULT { ExitCode::Failed } else { ExitCode::NoDaemon },
                code::NO_DAEMON,",
        )],
        finders: &[mistake("no_daemon")],
    },
    Fault {
        name: "a state directory for two",
        edits: &[(
            "node/src/daemon/state/mod.rs",
            "FlockArg::LockExclusiveNonblock",
            "if FAULT { FlockArg::LockSharedNonblock } else { FlockArg::LockExclusiveNonblock }",
        )],
        finders: &[mistake("two_daemons_on_one_state_directory")],
    },
    Fault {
        name: "an unreadable key is made anew",
        edits: &[(
            "node/src/daemon/state/mod.rs",
            "Err(e) => return Err(io_error(\"read\", &path, &e)),",
            "Err(_) if FAULT => return Ok(None),
             Err(e) => return Err(io_error(\"read\", &path, &e)),",
        )],
        finders: &[mistake("unreadable_state")],
    },
    Fault {
        name: "a damaged key is made anew",
        edits: &[(
            "node/src/daemon/state/keys.rs",
            "if words.next() != Some(\"kanpachi-key-v1\") || words.next() != Some(kind) {",
            "if FAULT && !text.starts_with(\"kanpachi-key-v1\") { return Ok(None); }
             if words.next() != Some(\"kanpachi-key-v1\") || words.next() != Some(kind) {",
        )],
        finders: &[mistake("damaged_state")],
    },
    Fault {
        name: "a full disk is any failure",
        edits: &[(
            "node/src/daemon/state/mod.rs",
            "code::DISK_FULL,",
            "if FAULT { code::FAILED } else { code::DISK_FULL },",
        )],
        finders: &[mistake("disk_full")],
    },
    Fault {
        name: "another version is any refusal",
        edits: &[(
            "node/src/daemon/core/refusals.rs",
            "codes::VERSION => ApiError::refused(code::PROTOCOL_VERSION, words)",
            "codes::VERSION if !FAULT => ApiError::refused(code::PROTOCOL_VERSION, words)",
        )],
        finders: &[mistake("another_protocol_version")],
    },
    Fault {
        name: "clocks are not compared",
        edits: &[(
            "node/src/daemon/core/events.rs",
            "if off > DAY && self.state.joining.is_some()",
            "if !FAULT && off > DAY && self.state.joining.is_some()",
        )],
        finders: &[mistake("wrong_clock")],
    },
];
