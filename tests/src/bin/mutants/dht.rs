//! Faults in peer records, in the DHT, and in how members meet by way of others.

use crate::fault::{Fault, Finder, lab, lib};

const fn format(test: &'static str) -> Finder {
    Finder {
        package: "common",
        program: "protocol",
        test,
    }
}

/// A record whose nearest places are the attackers'.
const SURROUNDED: Finder = lab(
    "dht_show6",
    "surrounded::a_record_that_members_surround_and_withhold_is_found_by_the_dht_alone",
);

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "all give their first record at one moment",
        edits: &[(
            "node/proto/src/records/publish.rs",
            "self.pace() + self.share_of(self.pace())",
            "self.pace() + self.share_of(self.pace()) * u32::from(!FAULT)",
        )],
        finders: &[lib(
            "node/proto",
            "records::tests::gently::nodes_that_started_together_give_their_first_one_at_moments_of_their_own",
        )],
    },
    Fault {
        name: "what was under the key of a network that was left goes on",
        edits: &[(
            "node/proto/src/records/publish.rs",
            "if self.values.len() < before {",
            "if !FAULT && self.values.len() < before {",
        )],
        finders: &[lib(
            "node/proto",
            "records::tests::what_a_network_had_that_was_left_is_given_to_nobody_any_more",
        )],
    },
    Fault {
        name: "record of somebody else believed",
        edits: &[(
            "common/src/record/seal.rs",
            "if record.node != *node {",
            "if record.node != *node && !FAULT {",
        )],
        finders: &[format(
            "records::a_member_that_squats_the_key_of_another_cannot_speak_for_it",
        )],
    },
    Fault {
        name: "records of one bearer without end",
        edits: &[(
            "common/src/record/shelf.rs",
            "if share >= self.limits.per_source {",
            "if share >= self.limits.per_source && !FAULT {",
        )],
        finders: &[lib(
            "common",
            "record::shelf::tests::one_source_fills_its_share_and_no_more",
        )],
    },
    Fault {
        name: "older record taken for news",
        edits: &[(
            "node/proto/src/records/hold.rs",
            "std::cmp::Ordering::Less => return Fresh::Older,",
            "std::cmp::Ordering::Less if !FAULT => return Fresh::Older,
                std::cmp::Ordering::Less => {}",
        )],
        finders: &[
            lib(
                "node/proto",
                "records::tests::an_older_start_and_a_lower_number_are_not_believed",
            ),
            lab(
                "dht_show6",
                "replayed::old_records_that_are_put_back_mislead_nobody",
            ),
        ],
    },
    Fault {
        name: "nobody publishes",
        edits: &[(
            "node/proto/src/records/publish.rs",
            "if self.candidates.is_empty() || self.bases.is_empty() {",
            "if FAULT || self.candidates.is_empty() || self.bases.is_empty() {",
        )],
        finders: &[
            lib(
                "node/proto",
                "records::tests::a_wanted_peer_is_found_where_it_says_that_it_is",
            ),
            lab(
                "dht_show1",
                "two_that_never_had_a_tunnel_find_each_other_through_the_dht_alone",
            ),
        ],
    },
    Fault {
        name: "strangers served by the DHT",
        edits: &[(
            "common/transport/src/selective.rs",
            "if (self.admits)(&self.peer) {",
            "if FAULT || (self.admits)(&self.peer) {",
        )],
        finders: &[lab(
            "dht_show6",
            "a_stranger_who_knows_the_organisation_learns_where_no_member_is",
        )],
    },
    Fault {
        name: "lower number kept for others",
        edits: &[(
            "common/src/record/shelf.rs",
            "Some(std::cmp::Ordering::Less) => Err(Refusal::Older),",
            "Some(std::cmp::Ordering::Less) if !FAULT => Err(Refusal::Older),",
        )],
        finders: &[
            lib(
                "common",
                "record::shelf::tests::only_the_owner_of_a_key_writes_there_and_only_forwards",
            ),
            lab(
                "dht_show6",
                "replayed::old_records_that_are_put_back_mislead_nobody",
            ),
        ],
    },
    Fault {
        name: "addresses without end in the DHT",
        edits: &[(
            "common/transport/src/routing.rs",
            "if bytes + length <= MAX_BYTES && !kept.contains(&address) {",
            "if (FAULT || bytes + length <= MAX_BYTES) && !kept.contains(&address) {",
        )],
        finders: &[
            lib(
                "common/transport",
                "routing::tests::addresses_without_end_leave_the_newest_and_no_more_than_there_is_room_for",
            ),
            lab(
                "dht_show6",
                "withheld::members_that_surround_a_record_and_withhold_it_cut_nobody_off",
            ),
        ],
    },
    Fault {
        name: "nobody is asked for a record",
        edits: &[(
            "node/src/daemon/swarm/records.rs",
            "Action::Get { query, key, gently } => self.get(query, &key, gently),",
            "Action::Get { query, key, gently } => if !FAULT { self.get(query, &key, gently); },",
        )],
        finders: &[
            lab(
                "dht_show1",
                "a_record_of_somebody_who_stands_still_is_looked_up_by_one_who_was_not_there",
            ),
            lab(
                "dht_show1",
                "of_twenty_members_that_forgot_everything_each_finds_every_other",
            ),
        ],
    },
    Fault {
        name: "members pass no signals on",
        edits: &[(
            "node/src/daemon/behaviour.rs",
            "signals.set_status(Some(relay::Status::Enable));",
            "if !FAULT { signals.set_status(Some(relay::Status::Enable)); }
    else { signals.set_status(Some(relay::Status::Disable)); }",
        )],
        finders: &[lab(
            "signals",
            "two_behind_nats_meet_by_way_of_a_member_after_the_whole_host_died",
        )],
    },
    Fault {
        name: "signals passed on for the evicted",
        edits: &[(
            "node/src/daemon/swarm/mod.rs",
            "self.allowed.store(Arc::new(members.clone()));",
            "if FAULT && members.len() < self.members.len() { return; }
        self.allowed.store(Arc::new(members.clone()));",
        )],
        finders: &[lab(
            "signals",
            "no_member_passes_signals_on_for_a_stranger_or_for_whoever_was_evicted",
        )],
    },
    Fault {
        name: "members sought in another order than they stand",
        edits: &[(
            "node/proto/src/standing/mod.rs",
            "let rank = rank(target, &fellow.node);",
            "let rank = rank(if FAULT { &self.me } else { target }, &fellow.node);",
        )],
        finders: &[lib(
            "node/proto",
            "standing::tests::whoever_looks_for_a_node_asks_where_it_stands",
        )],
    },
    Fault {
        name: "bootstraps are given no record",
        edits: &[(
            "node/src/daemon/swarm/records.rs",
            "let bootstraps = self.reach_bootstraps();",
            "let bootstraps = if FAULT { Vec::new() } else { self.reach_bootstraps() };",
        )],
        finders: &[SURROUNDED],
    },
    Fault {
        name: "bootstraps are asked for no record",
        edits: &[(
            "node/src/daemon/swarm/records.rs",
            "let bootstraps = self.ask_bootstraps(query, key);",
            "let bootstraps = if FAULT { None } else { self.ask_bootstraps(query, key) };",
        )],
        finders: &[SURROUNDED],
    },
    Fault {
        name: "nothing of a refused record is forgotten",
        edits: &[(
            "bootstrap/src/server.rs",
            "tracing::debug!(%source, %why, \"a record is not kept\");",
            "if FAULT { std::mem::forget(vec![1_u8; 1 << 16]); }
                tracing::debug!(%source, %why, \"a record is not kept\");",
        )],
        finders: &[lab(
            "dht_show6",
            "a_hostile_member_of_the_dht_cuts_nobody_off_and_fills_no_memory",
        )],
    },
    Fault {
        name: "a secret waits for the next change of the roster",
        edits: &[(
            "node/src/daemon/core/events.rs",
            "self.settle(\"a network secret\", outcome)",
            "self.settle(\"a network secret\", outcome) && !FAULT",
        )],
        finders: &[lab(
            "dht_show1",
            "a_node_restarted_without_a_coordinator_reaches_the_others",
        )],
    },
];
