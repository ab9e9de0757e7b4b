//! Faults that tests of the cores, the store and the simulator find.

use crate::fault::{Fault, Finder, lab, lib};

const fn sim(test: &'static str) -> Finder {
    lab("sim", test)
}

/// Whoever sleeps, whoever talks after it, and a network that is not there yet.
const SLEPT: Finder =
    sim("sleeps::a_machine_that_slept_is_reached_again_within_seconds_and_without_a_storm");
const LATE_NETWORK: Finder =
    sim("sleeps::a_machine_whose_network_comes_later_makes_no_storm_either");

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "address reused too early",
        edits: &[(
            "coordinator/src/store/sqlite/addresses.rs",
            "now.0.saturating_sub(REST)",
            "now.0.saturating_sub(if FAULT { 0 } else { REST })",
        )],
        finders: &[lib(
            "coordinator",
            "store::sqlite::tests::in_memory::an_address_is_kept_for_life_and_rests_when_it_is_free",
        )],
    },
    Fault {
        name: "acknowledged and not written",
        edits: &[(
            "coordinator/src/store/sqlite/mod.rs",
            "let out = intent(&tx, &self.signer)?;
        tx.commit()?;",
            "let out = intent(&tx, &self.signer)?;
             static WRITES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
             let write = WRITES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
             if FAULT && write % 3 == 2 { tx.rollback()?; } else { tx.commit()?; }",
        )],
        finders: &[lib(
            "coordinator",
            "store::sqlite::tests::crash::acknowledged_joins_and_departures_survive_200_kills_at_any_moment",
        )],
    },
    Fault {
        name: "persist skipped: news of the organisation",
        edits: &[(
            "tests/src/sim/node/members.rs",
            "if self.disk.save(&update).is_err()",
            "if !FAULT && self.disk.save(&update).is_err()",
        )],
        finders: &[sim(
            "joining::two_machines_join_by_invite_and_talk_within_five_seconds",
        )],
    },
    Fault {
        name: "persist skipped: number of the start",
        edits: &[(
            "node/src/daemon/state/db.rs",
            "self.set_blob(\"boot\", &boot.to_be_bytes())?;",
            "if !FAULT { self.set_blob(\"boot\", &boot.to_be_bytes())?; }",
        )],
        finders: &[lib(
            "node",
            "daemon::state::tests::boots_rise_also_when_the_clock_falls",
        )],
    },
    Fault {
        name: "replay check before authentication",
        edits: &[
            (
                "node/src/dataplane/inbound.rs",
                "let opened = match receiving.session.open_in_place(datagram, now_ms) {",
                "let early = datagram[8..16].try_into().map_or(0, u64::from_le_bytes);
                 let early = FAULT.then(|| receiving.window.lock().is_ok_and(|mut w| w.check_and_set(early)));
                 let opened = match receiving.session.open_in_place(datagram, now_ms) {",
            ),
            (
                "node/src/dataplane/inbound.rs",
                "window.check_and_set(opened.counter)",
                "early.unwrap_or_else(|| window.check_and_set(opened.counter))",
            ),
        ],
        finders: &[Finder {
            package: "node",
            program: "packet_path",
            test: "a_forged_packet_moves_no_replay_window",
        }],
    },
    Fault {
        name: "replayed packets let through",
        edits: &[(
            "node/proto/src/tunnel/replay.rs",
            "let fresh = *slot & bit == 0;",
            "let fresh = *slot & bit == 0 || FAULT;",
        )],
        finders: &[
            sim("mishaps::whatever_happens_the_invariants_hold_and_everybody_finds_together_again"),
            lab(
                "show5_rekey_under_load",
                "packets_arrive_once_unaltered_and_without_a_gap_across_rekeys",
            ),
            lab(
                "loss_show2",
                "every_pair_connects_at_thirty_percent_loss_and_nothing_comes_twice",
            ),
        ],
    },
    Fault {
        name: "lower epoch accepted",
        edits: &[(
            "node/proto/src/roster/check.rs",
            "if let Some(seen) = self.floor(&head.network).filter(|seen| position < *seen) {",
            "if let Some(seen) = self.floor(&head.network).filter(|seen| position < *seen && !FAULT) {",
        )],
        finders: &[
            sim("rosters::stale_forged_and_foreign_rosters_change_nothing_and_are_counted"),
            lib(
                "node/proto",
                "spread::situations::a_roster_that_is_older_than_what_was_seen_is_refused_whoever_brings_it",
            ),
        ],
    },
    Fault {
        name: "the tunnels keep who was removed",
        edits: &[(
            "node/proto/src/tunnel/tunnels.rs",
            "self.remove(peer, CloseReason::Removed, now);",
            "if !FAULT { self.remove(peer, CloseReason::Removed, now); }",
        )],
        finders: &[sim(
            "rosters::a_removed_member_loses_its_sessions_the_moment_the_news_arrive",
        )],
    },
    Fault {
        name: "eviction told to nobody",
        edits: &[(
            "coordinator/src/decide/mod.rs",
            "pub fn handle_changed(&mut self, network: NetworkId) {",
            "pub fn handle_changed(&mut self, network: NetworkId) {
                 if FAULT { return; }",
        )],
        finders: &[sim(
            "rosters::a_removed_member_loses_its_sessions_the_moment_the_news_arrive",
        )],
    },
    Fault {
        name: "two rosters of one epoch accepted",
        edits: &[(
            "node/proto/src/roster/check.rs",
            ".is_some_and(|(seen, root)| seen == position && root != head.root)",
            ".is_some_and(|(seen, root)| seen == position && root != head.root && !FAULT)",
        )],
        finders: &[
            sim(
                "rosters::two_rosters_for_one_epoch_keep_sessions_and_let_nobody_new_in_not_even_after_a_restart",
            ),
            lib(
                "node/proto",
                "spread::situations::two_rosters_of_one_epoch_keep_who_is_in_and_let_nobody_new_in",
            ),
        ],
    },
    Fault {
        name: "clocks that stand still while the machine sleeps",
        edits: &[
            (
                "tests/src/sim/sleep.rs",
                "let node = &mut self.nodes[index];
        if sleep.counted {",
                "let node = &mut self.nodes[index];
        if FAULT && sleep.counted {
            node.behind += slept;
        }
        if sleep.counted {",
            ),
            (
                "node/src/clock.rs",
                "let awake = Instant::now();
    awake.checked_add(slept())",
                "let awake = Instant::now();
    awake.checked_add(if FAULT { Duration::ZERO } else { slept() })",
            ),
        ],
        finders: &[
            SLEPT,
            lib(
                "node",
                "clock::tests::time_goes_on_by_what_was_slept_and_never_back",
            ),
        ],
    },
    Fault {
        name: "whoever has no keys any more waits to be called",
        edits: &[(
            "node/proto/src/tunnel/peer/sessions.rs",
            "if self.wanted && self.attempt.is_none() && self.retry_at.is_none() {",
            "if !FAULT && self.wanted && self.attempt.is_none() && self.retry_at.is_none() {",
        )],
        finders: &[SLEPT, LATE_NETWORK],
    },
    Fault {
        name: "silence counts from when it was noticed",
        edits: &[(
            "node/proto/src/tunnel/peer/live.rs",
            "let dead = self.paths.trouble_since().is_some() && silent >= timers::DEAD_PEER;",
            "let noticed = self.paths.trouble_since().filter(|_| FAULT);
        let silent = noticed.map_or(silent, |at| now.saturating_duration_since(at));
        let dead = self.paths.trouble_since().is_some() && silent >= timers::DEAD_PEER;",
        )],
        finders: &[SLEPT],
    },
    Fault {
        name: "a new handshake twice a second",
        edits: &[(
            "node/proto/src/tunnel/initiation.rs",
            "ends: now + timers::RETRY + Duration::from_millis(jitter),",
            "ends: now + if FAULT { Duration::from_millis(500) } else { timers::RETRY } + Duration::from_millis(jitter),",
        )],
        finders: &[LATE_NETWORK],
    },
    Fault {
        name: "each packet begins a handshake anew",
        edits: &[(
            "node/proto/src/tunnel/peer/mod.rs",
            "if !self.has_session() && self.attempt.is_none() {",
            "if !self.has_session() && (self.attempt.is_none() || FAULT) {",
        )],
        finders: &[SLEPT, LATE_NETWORK],
    },
];
