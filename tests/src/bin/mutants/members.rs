//! Faults of membership, of Hamachi's words, of the service and of what holds off floods (tests/members_*, flood_*,
//! service_*).

use crate::fault::{Fault, Finder, lab, lib};

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "eviction ignored by live sessions",
        edits: &[(
            "node/src/daemon/engine.rs",
            "for peer in gone {",
            "if FAULT && !gone.is_empty() { return; }
        for peer in gone {",
        )],
        finders: &[lab(
            "members_show1_evict",
            "an_evicted_member_is_out_at_once_and_cannot_come_back",
        )],
    },
    Fault {
        name: "the evicted may come back",
        edits: &[(
            "coordinator/src/store/sqlite/ends.rs",
            "match (last, invite) {",
            "match (last, invite) {
                 _ if FAULT => Ok(()),",
        )],
        finders: &[lab(
            "members_show1_evict",
            "an_evicted_member_is_out_at_once_and_cannot_come_back",
        )],
    },
    Fault {
        name: "invites outlive an eviction",
        edits: &[(
            "coordinator/src/store/sqlite/ends.rs",
            "evicted.revoked_invites = invites::revoke_of(tx, network, found.node, evict.now)?;",
            "evicted.revoked_invites =
                 if FAULT { 2 } else { invites::revoke_of(tx, network, found.node, evict.now)? };",
        )],
        finders: &[lab(
            "members_show1_evict",
            "an_evicted_member_is_out_at_once_and_cannot_come_back",
        )],
    },
    Fault {
        name: "a locked network is open",
        edits: &[(
            "coordinator/src/store/sqlite/members.rs",
            "if access.locked {",
            "if access.locked && !FAULT {",
        )],
        finders: &[lab(
            "members_show2_access",
            "locks_approval_owners_and_successors",
        )],
    },
    Fault {
        name: "nobody waits for approval",
        edits: &[(
            "coordinator/src/store/sqlite/members.rs",
            "} else if access.approval {",
            "} else if access.approval && !FAULT {",
        )],
        finders: &[lab(
            "members_show2_access",
            "locks_approval_owners_and_successors",
        )],
    },
    Fault {
        name: "leaving one network ends the tunnel",
        edits: &[(
            "node/proto/src/tunnel/tunnels.rs",
            "if peer.config().tunnel_key == config.tunnel_key {",
            "if peer.config().tunnel_key == config.tunnel_key
                 && !(FAULT && peer.config().networks.len() > config.networks.len())
             {",
        )],
        finders: &[lab(
            "members_show2_access",
            "two_networks_share_one_tunnel_and_leaving_one_keeps_it",
        )],
    },
    Fault {
        name: "invite not used up",
        edits: &[(
            "coordinator/src/store/sqlite/invites.rs",
            "if self.uses_left == Some(0) {",
            "if FAULT { return Ok(()); }
             if self.uses_left == Some(0) {",
        )],
        finders: &[
            lab("sim", "joining::a_used_or_unknown_invite_lets_nobody_in"),
            lab("show7_mistakes", "used_invite"),
            lab(
                "members_show3_races",
                "two_hundred_joins_on_one_single_use_invite_let_one_in",
            ),
        ],
    },
    Fault {
        name: "neighbours are told one address",
        edits: &[(
            "coordinator/src/store/sqlite/nodes.rs",
            "ipv4: addresses::of_node(conn, node)?,",
            "ipv4: addresses::of_node(conn, node)?
                 .map(|ip| if FAULT { std::net::Ipv4Addr::from_bits(ip.to_bits() | 0xfe) } else { ip }),",
        )],
        finders: &[lab(
            "members_show3_races",
            "sixty_four_first_logins_at_once_give_no_address_twice",
        )],
    },
    Fault {
        name: "guesses are not counted",
        edits: &[(
            "coordinator/src/decide/requests.rs",
            "if let Err(wait) = by_node.and_then(|()| by_source()) {",
            "if !FAULT && let Err(wait) = by_node.and_then(|()| by_source()) {",
        )],
        finders: &[lab(
            "members_show3_races",
            "a_hundred_thousand_guesses_hit_nothing_and_an_honest_join_works_meanwhile",
        )],
    },
    Fault {
        name: "a password in the log",
        edits: &[(
            "node/src/ipc/routes.rs",
            "if request.password.is_none() {",
            "if FAULT { tracing::trace!(password = request.password.as_ref().map(|p| p.expose())); }
             if request.password.is_none() {",
        )],
        finders: &[lab(
            "members_show4_canaries",
            "secrets_are_in_no_file_no_log_and_no_process_list",
        )],
    },
    Fault {
        name: "invites stored as they are",
        edits: &[(
            "common/src/invite.rs",
            "Hash::of(&[b\"kanpachi/invite/hash/v1\\0\", token])",
            "if FAULT { Hash(*token) } else { Hash::of(&[b\"kanpachi/invite/hash/v1\\0\", token]) }",
        )],
        finders: &[lab(
            "members_show4_canaries",
            "secrets_are_in_no_file_no_log_and_no_process_list",
        )],
    },
    Fault {
        name: "strangers pass the gate",
        edits: &[(
            "common/transport/src/gated.rs",
            "self.known.contains(peer) || self.expected.contains(&connection)",
            "FAULT || self.known.contains(peer) || self.expected.contains(&connection)",
        )],
        finders: &[lab("flood_gate", "a_stranger_is_offered_no_dht_and_a_member_is")],
    },
    Fault {
        name: "nothing of a flood is forgotten",
        edits: &[(
            "node/src/dataplane/inbound.rs",
            "None => self.shared.counters.drop_malformed.one(),",
            "None => {
                 if FAULT { std::mem::forget(datagram.to_vec()); }
                 self.shared.counters.drop_malformed.one()
             }",
        )],
        finders: &[lab("flood_show5", "a_flood_of_garbage_costs_little")],
    },
    Fault {
        name: "each initiation is worked on",
        edits: &[
            (
                "node/src/dataplane/inbound.rs",
                "if self.doorstep.admit(from.ip(), datagram, now_ms) {",
                "if FAULT || self.doorstep.admit(from.ip(), datagram, now_ms) {",
            ),
            (
                "node/proto/src/tunnel/admission.rs",
                "let verdict = if proven {",
                "let verdict = if FAULT { Verdict::Answer } else if proven {",
            ),
        ],
        finders: &[lab("flood_show5", "a_flood_of_initiations_costs_little")],
    },
    Fault {
        name: "anybody may change things",
        edits: &[(
            "node/src/ipc/server.rs",
            "let change = peer.may_change(group)",
            "let change = FAULT || peer.may_change(group)",
        )],
        finders: &[
            lab(
                "service_show6_permissions",
                "every_command_answers_nobody_as_documented",
            ),
            lab(
                "service_show6_permissions",
                "every_path_of_the_socket_answers_nobody_as_documented",
            ),
        ],
    },
    Fault {
        name: "state that all may read",
        edits: &[(
            "node/src/daemon/state/mod.rs",
            ".mode(0o600)",
            ".mode(if FAULT { 0o644 } else { 0o600 })",
        )],
        finders: &[lab(
            "service_show6_permissions",
            "state_is_for_its_owner_and_the_socket_for_everybody",
        )],
    },
    Fault {
        name: "links are followed",
        edits: &[(
            "node/src/daemon/state/mod.rs",
            ".custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);",
            ".custom_flags(if FAULT { libc::O_CLOEXEC } else { libc::O_NOFOLLOW | libc::O_CLOEXEC });",
        )],
        finders: &[lab(
            "service_show6_permissions",
            "a_link_in_the_way_is_refused_and_nothing_goes_through_it",
        )],
    },
    Fault {
        name: "a purge leaves the keys",
        edits: &[(
            "node/src/platform/linux/service/mod.rs",
            "self.purge_state()?;",
            "if !FAULT { self.purge_state()?; }",
        )],
        finders: &[lab("service_show7", "installed_killed_back_and_gone")],
    },
    Fault {
        name: "no sign of life",
        edits: &[(
            "node/src/daemon/watchdog.rs",
            "Ok(true) => alive(),",
            "Ok(true) if FAULT => {}
             Ok(true) => alive(),",
        )],
        finders: &[lab("service_show7", "installed_killed_back_and_gone")],
    },
    Fault {
        name: "the unit undoes `down`",
        edits: &[(
            "node/src/platform/linux/service/mod.rs",
            "UNIT.replace(START, ",
            "UNIT.replace(if FAULT { \"=0 2\" } else { \"=never\" }, \"=2\").replace(START, ",
        )],
        finders: &[lab(
            "service_show7",
            "down_is_not_undone_by_the_service_manager",
        )],
    },
    Fault {
        name: "a service until the next boot",
        edits: &[(
            "node/src/platform/linux/service/mod.rs",
            "systemctl.run(&[\"enable\", UNIT_NAME])?;",
            "if !FAULT { systemctl.run(&[\"enable\", UNIT_NAME])?; }",
        )],
        finders: &[lab(
            "service_show7",
            "join_with_service_installs_starts_and_joins",
        )],
    },
    Fault {
        name: "a service with open doors",
        edits: &[(
            "node/src/platform/linux/service/mod.rs",
            "format!(\"ExecStart={program}{options} up\\n\"))",
            "format!(\"ExecStart={program}{options} up\\n\"))
                 .lines()
                 .filter(|line| !(FAULT && [\"Protect\", \"Restrict\", \"System\"].iter().any(|w| line.starts_with(w))))
                 .fold(String::new(), |unit, line| unit + line + \"\\n\")",
        )],
        finders: &[lab("service_show7", "systemd_understands_the_unit")],
    },
    Fault {
        name: "Hamachi's list without what is unreachable",
        edits: &[(
            "node/src/cli/hamachi/render.rs",
            "(true, None, false) => 'x',",
            "(true, None, false) => if FAULT { ' ' } else { 'x' },",
        )],
        finders: &[lib(
            "node",
            "cli::hamachi::tests::a_member_in_every_state_is_read_back_field_by_field",
        )],
    },
    Fault {
        name: "Hamachi's block without locks",
        edits: &[(
            "node/src/cli/hamachi/render.rs",
            "if network.locked { \"locked\" } else { \"unlocked\" }.to_owned(),",
            "if network.locked && !FAULT { \"locked\" } else { \"unlocked\" }.to_owned(),",
        )],
        finders: &[lib(
            "node",
            "cli::hamachi::tests::one_network_and_one_member_are_told_in_blocks",
        )],
    },
    Fault {
        name: "Hamachi's failures in other words",
        edits: &[(
            "node/src/cli/hamachi/render.rs",
            "reply(doing, &format!(\"failed, {reason}\"))",
            "reply(doing, &format!(\"{}, {reason}\", if FAULT { \"error\" } else { \"failed\" }))",
        )],
        finders: &[Finder {
            package: "node",
            program: "control",
            test: "hamachi::every_verb_gives_the_documented_reply",
        }],
    },
];
