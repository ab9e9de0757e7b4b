//! Faults of discovery: what is found out of networks and told of it, and ports that routers forward (tests/netcheck,
//! tests/portmap).

use crate::fault::{Fault, lab, lib};

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "no relay is asked when nothing comes through",
        edits: &[(
            "node/proto/src/relay/binding.rs",
            "let age = match self.bound {",
            "if FAULT {\n            return;\n        }\n        let age = match self.bound {",
        )],
        finders: &[lib(
            "node/proto",
            "relay::tests::a_relay_is_asked_when_nothing_comes_through_and_not_all_the_time",
        )],
    },
    Fault {
        name: "a doubt is forgotten that comes too soon after the last word of a relay",
        edits: &[(
            "node/proto/src/relay/binding.rs",
            "self.next = self.next.min(doubtful.max(now));",
            "if !FAULT {\n                self.next = self.next.min(doubtful.max(now));\n            }",
        )],
        finders: &[lib(
            "node/proto",
            "relay::tests::a_relay_is_asked_when_nothing_comes_through_and_not_all_the_time",
        )],
    },
    Fault {
        name: "who never answered is asked as often as who did",
        edits: &[(
            "node/proto/src/relay/binding.rs",
            "None => DOUBTFUL_UNANSWERED,",
            "None if !FAULT => DOUBTFUL_UNANSWERED,\n            None => DOUBTFUL / 4,",
        )],
        finders: &[lib(
            "node/proto",
            "relay::tests::what_never_answered_gets_little_however_often_nothing_comes_through",
        )],
    },
    Fault {
        name: "that nothing comes through is said once",
        edits: &[(
            "node/proto/src/tunnel/peer/live.rs",
            "self.told.trouble_at.is_none_or(again)",
            "self.told.trouble_at.is_none_or(|at| !FAULT && again(at))",
        )],
        finders: &[lib(
            "node/proto",
            "tunnel::tests::paths::that_nothing_comes_through_is_said_as_long_as_it_is_so",
        )],
    },
    Fault {
        name: "a peer that sees this node elsewhere than before is no reason to ask",
        edits: &[(
            "node/src/daemon/core/netcheck.rs",
            "self.doubted |= family && before != Some(addr) && !self.is_confirmed(addr);",
            "self.doubted |= !FAULT && family && before != Some(addr) && !self.is_confirmed(addr);",
        )],
        finders: &[lib(
            "node",
            "daemon::core::netcheck::tests::who_sees_this_node_elsewhere_than_before_is_a_reason_to_ask",
        )],
    },
    Fault {
        name: "netcheck knows nothing of address families",
        edits: &[(
            "node/src/daemon/netcheck.rs",
            "if !public.is_empty() && (lacks.v4 || by_ipv4.peek().is_none()) {",
            "if !FAULT && !public.is_empty() && (lacks.v4 || by_ipv4.peek().is_none()) {",
        )],
        finders: &[lib(
            "node",
            "daemon::netcheck::tests::who_speaks_no_family_in_common_has_a_relay",
        )],
    },
    Fault {
        name: "netcheck knows nothing of NATs that are shared",
        edits: &[(
            "node/src/daemon/netcheck.rs",
            "if behind_one && reply.hairpinning == Some(false) {",
            "if !FAULT && behind_one && reply.hairpinning == Some(false) {",
        )],
        finders: &[lib(
            "node",
            "daemon::netcheck::tests::who_is_behind_the_same_nat_meets_there_or_not_at_all",
        )],
    },
    Fault {
        name: "one reflector is believed to know the mapping",
        edits: &[(
            "node/proto/src/netcheck/check.rs",
            "if untranslated || pairs(false).next().is_some() {",
            "if FAULT || untranslated || pairs(false).next().is_some() {",
        )],
        finders: &[lib(
            "node/proto",
            "netcheck::tests::one_address_tells_what_it_can_and_no_more",
        )],
    },
    Fault {
        name: "a filter by address is called none",
        edits: &[(
            "node/proto/src/netcheck/check.rs",
            "if self.from_other_address {",
            "if self.from_other_address || FAULT && self.from_other_port {",
        )],
        finders: &[lab(
            "netcheck",
            "every_kind_of_network_is_told_for_what_it_is",
        )],
    },
    Fault {
        name: "the NATs of peers are forgotten",
        edits: &[(
            "node/src/daemon/core/events.rs",
            "book.set_nat(online.node, online.nat);",
            "if !FAULT { book.set_nat(online.node, online.nat); }",
        )],
        finders: &[lab(
            "netcheck",
            "a_daemon_knows_its_own_network_and_those_of_its_peers",
        )],
    },
    Fault {
        name: "an address is announced for ever",
        edits: &[(
            "node/src/daemon/core/netcheck.rs",
            "now.saturating_duration_since(seen.at) < CONFIRMED_FOR;",
            "FAULT || now.saturating_duration_since(seen.at) < CONFIRMED_FOR;",
        )],
        finders: &[lib(
            "node",
            "daemon::core::netcheck::tests::an_address_that_no_reflector_confirms_any_more_is_forgotten",
        )],
    },
    Fault {
        name: "a router's private address is believed",
        edits: &[(
            "node/proto/src/portmap/mapper.rs",
            "let usable = is_public(*external.ip())",
            "let usable = (FAULT || is_public(*external.ip()))",
        )],
        finders: &[lib(
            "node/proto",
            "portmap::tests::an_address_that_leads_nowhere_is_not_believed",
        )],
    },
    Fault {
        name: "a forwarded port is told nobody",
        edits: &[(
            "node/src/daemon/core/candidates.rs",
            "let mapped = self.mapped().map(",
            "let mapped = self.mapped().filter(|_| !FAULT).map(",
        )],
        finders: &[lab("portmap", "a_node_is_reached_by_a_mapping_of_nat_pmp")],
    },
    Fault {
        name: "a forwarded port is never given back",
        edits: &[(
            "node/src/portmap/mod.rs",
            "mapper.release();",
            "if !FAULT { mapper.release(); }",
        )],
        finders: &[lab("portmap", "a_node_is_reached_by_a_mapping_of_pcp")],
    },
    Fault {
        name: "the invite lacks the forwarded address",
        edits: &[(
            "node/src/host.rs",
            "advertise.extend(external.map(",
            "advertise.extend(external.filter(|_| !FAULT).map(",
        )],
        finders: &[lab(
            "portmap",
            "a_host_at_home_invites_by_the_address_that_its_router_forwards",
        )],
    },
    Fault {
        name: "an address keeps the kind that was said first",
        edits: &[(
            "node/src/daemon/core/book.rs",
            "known.candidate.kind = candidate.kind;",
            "if !FAULT { known.candidate.kind = candidate.kind; }",
        )],
        finders: &[lib(
            "node",
            "daemon::core::book::tests::the_kind_of_an_address_is_what_was_said_last",
        )],
    },
    Fault {
        name: "dead ways keep the place of new ones",
        edits: &[(
            "node/proto/src/path/set.rs",
            "(path.unanswered < STREAK, path.last_answer, *at)",
            "(FAULT || path.unanswered < STREAK, path.last_answer, *at)",
        )],
        finders: &[lib(
            "node/proto",
            "path::set::tests::what_has_stopped_answering_makes_room_for_what_is_seen_now",
        )],
    },
    Fault {
        name: "nobody says that it is left on the relay",
        edits: &[(
            "node/proto/src/path/set.rs",
            "|| self.waits_for_a_lead(activity, now)",
            "|| (!FAULT && self.waits_for_a_lead(activity, now))",
        )],
        finders: &[lib(
            "node/proto",
            "path::set::tests::whoever_is_left_behind_on_a_relay_says_so",
        )],
    },
    Fault {
        name: "news of an address is asked about once",
        edits: &[(
            "node/proto/src/path/set.rs",
            "_ if self.is_hopeful(now) =>",
            "_ if !FAULT && self.is_hopeful(now) =>",
        )],
        finders: &[lib(
            "node/proto",
            "path::set::tests::news_of_an_address_is_followed_up_for_a_while",
        )],
    },
    Fault {
        name: "what goes over a relay is called direct",
        edits: &[(
            "node/src/daemon/core/status.rs",
            "Some((_, PathKind::Relay, _)) => Some(Path::Relay),",
            "Some((_, PathKind::Relay, _)) if !FAULT => Some(Path::Relay),",
        )],
        finders: &[lab(
            "nat_matrix",
            "every_pair_of_nats_is_as_direct_as_it_can_be",
        )],
    },
    Fault {
        name: "a path is there while there are keys",
        edits: &[
            (
                "node/proto/src/path/set.rs",
                "self.is_healthy() && last.is_some_and(|at| now < at + FRESH_FOR)",
                "if FAULT {
            return self.primary.is_some();
        }
        self.is_healthy() && last.is_some_and(|at| now < at + FRESH_FOR)",
            ),
            (
                "node/proto/src/tunnel/peer/mod.rs",
                "self.attempt.is_some() && self.paths.trouble_since().is_some()",
                "!FAULT && self.attempt.is_some() && self.paths.trouble_since().is_some()",
            ),
        ],
        finders: &[lab(
            "nat_roaming",
            "a_sleeper_that_wakes_elsewhere_is_reached_and_nobody_lies_meanwhile",
        )],
    },
    Fault {
        name: "guesses elsewhere are paid for by a direct path",
        edits: &[(
            "node/proto/src/path/punch.rs",
            "if self.guessed == [host] {",
            "if self.guessed == [host] || (FAULT && self.guessed.contains(&host)) {",
        )],
        finders: &[lib(
            "node/proto",
            "path::punch::tests::who_is_met_at_one_address_pays_not_for_guesses_at_another",
        )],
    },
    Fault {
        name: "where peers see this node is told once",
        edits: &[(
            "node/proto/src/tunnel/peer/live.rs",
            "addr == seen && now < at + OBSERVED_EVENT_EVERY",
            "addr == seen && (FAULT || now < at + OBSERVED_EVENT_EVERY)",
        )],
        finders: &[lib(
            "node/proto",
            "tunnel::tests::paths::where_peers_see_this_node_is_told_again_now_and_then_and_when_the_network_changes",
        )],
    },
    Fault {
        name: "an attempt without an address ends as one",
        edits: &[(
            "node/proto/src/tunnel/peer/mod.rs",
            "None => self.paths.next_admission(now),",
            "None => self.paths.next_admission(now).filter(|_| !FAULT),",
        )],
        finders: &[lib(
            "node/proto",
            "tunnel::tests::lured::an_attempt_that_had_nothing_to_try_goes_on_when_it_may_try_something",
        )],
    },
    Fault {
        name: "a member has all dialled that it tells of",
        edits: &[(
            "common/transport/src/budget.rs",
            "MOST.saturating_sub(u32::try_from(missing).unwrap_or(MOST))",
            "MOST.saturating_sub(if FAULT { 0 } else { u32::try_from(missing).unwrap_or(MOST) })",
        )],
        finders: &[
            lib(
                "common/transport",
                "budget::tests::a_member_that_names_addresses_without_end_has_few_dialled_and_others_are_not_concerned",
            ),
            lab(
                "relay_show8",
                "a_member_that_says_it_is_where_somebody_else_is_sends_little_there",
            ),
        ],
    },
    Fault {
        name: "a TCP connection outlives the other end",
        edits: &[(
            "common/transport/src/websocket.rs",
            "set_tcp_user_timeout(Some(UNACKNOWLEDGED))",
            "set_tcp_user_timeout(Some(UNACKNOWLEDGED).filter(|_| !FAULT))",
        )],
        finders: &[lib(
            "common/transport",
            "websocket::tests::no_connection_outlives_the_other_end_for_long",
        )],
    },
    Fault {
        name: "a path that was cut is waited for",
        edits: &[(
            "node/proto/src/path/set.rs",
            "} else {
            FAILOVER_AFTER
        }",
            "} else {
            FAILOVER_AFTER * if FAULT { 20 } else { 1 }
        }",
        )],
        finders: &[lab(
            "relay_show3",
            "a_cut_path_is_replaced_by_a_relay_and_a_dead_relay_by_the_next",
        )],
    },
    Fault {
        name: "each relay is as good as another",
        edits: &[(
            "node/proto/src/path/address.rs",
            "rtt + loss + preference(self.addr, self.kind)",
            "if FAULT { 0 } else { rtt + loss + preference(self.addr, self.kind) }",
        )],
        finders: &[lab(
            "relay_show7",
            "data_leaves_the_nearest_relay_when_another_has_become_nearer",
        )],
    },
];
