//! Faults in what is believed when no coordinator answers: the rows of the table of situations, schedules, clocks, codes.

use crate::fault::{Fault, Finder, lab, lib};

/// A row of the table.
const fn row(test: &'static str) -> Finder {
    lib("node/proto", test)
}

/// Whatever happens, in whatever order.
const ALONE: Finder = lab(
    "sim",
    "schedules::without_a_coordinator_whoever_could_know_of_an_eviction_obeys_it",
);
const TOGETHER: Finder = lab(
    "sim",
    "schedules::whatever_the_schedule_members_reach_each_other_in_the_end_and_nobody_else_does",
);

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "a proof of before lets in",
        edits: &[(
            "node/proto/src/roster/check.rs",
            ".filter(|seen| position < *seen)
        {
            return Err(self.stale(position.generation, position.epoch, seen));
        }
        Ok(proved)",
            ".filter(|seen| !FAULT && position < *seen)
        {
            return Err(self.stale(position.generation, position.epoch, seen));
        }
        Ok(proved)",
        )],
        finders: &[row(
            "spread::situations::the_peer_is_evicted_and_this_node_knows_it_is_refused_and_told_why",
        )],
    },
    Fault {
        name: "a roster that leaves somebody out is not gone by",
        edits: &[(
            "node/proto/src/roster/mod.rs",
            "slot.held = Some(roster);
        slot.settle_suspends();",
            "let fewer = slot.held.as_ref().is_some_and(|held| held.members().count() > roster.members().count());
        if !(FAULT && fewer) { slot.held = Some(roster); }
        slot.settle_suspends();",
        )],
        finders: &[
            row(
                "spread::situations::the_peer_holds_a_higher_epoch_its_roster_comes_before_anything_else",
            ),
            row(
                "spread::situations::the_peer_is_evicted_and_nobody_knows_it_is_let_in_until_a_witness_comes",
            ),
            TOGETHER,
            ALONE,
        ],
    },
    Fault {
        name: "the evicted are talked to as before",
        edits: &[(
            "node/proto/src/roster/peers.rs",
            "let unconfirmed = slot.admitted().map(|m| (m, true));",
            "let unconfirmed = slot.admitted().map(|m| (m, true)).chain(
                if FAULT { GONE.with_borrow_mut(|gone| once(gone, &self.me, roster)) } else { Vec::new() }
                    .into_iter()
                    .map(|m| (m, false)),
            );",
        ), (
            "node/proto/src/roster/peers.rs",
            "fn new_peer(member: &Member, unconfirmed: bool) -> Peer {",
            "thread_local! {
    static GONE: std::cell::RefCell<BTreeMap<(NodeId, NodeId), &'static Member>> = const { std::cell::RefCell::new(BTreeMap::new()) };
}

/// Whoever this node ever saw in a roster, and is in none now.
fn once(
    gone: &mut BTreeMap<(NodeId, NodeId), &'static Member>,
    me: &NodeId,
    roster: &kanpachi_common::roster::VerifiedRoster,
) -> Vec<&'static Member> {
    for member in roster.members() {
        gone.entry((*me, member.node)).or_insert_with(|| Box::leak(Box::new(member.clone())));
    }
    let left = gone.iter().filter(|((who, node), _)| who == me && roster.member(node).is_none());
    left.map(|(_, member)| *member).collect()
}

fn new_peer(member: &Member, unconfirmed: bool) -> Peer {",
        )],
        finders: &[ALONE],
    },
    Fault {
        name: "expired rosters open sessions",
        edits: &[(
            "node/proto/src/roster/peers.rs",
            "let open = roster.head().freshness(wall)",
            "let open = FAULT || roster.head().freshness(wall)",
        )],
        finders: &[
            row(
                "spread::situations::a_roster_past_its_hard_expiry_opens_nothing_and_hands_out_no_secret_until_it_is_renewed",
            ),
            lab(
                "sim",
                "clocks::a_roster_that_expired_opens_sessions_again_once_it_is_renewed",
            ),
            lab(
                "sim",
                "clocks::a_month_without_a_coordinator_ends_sessions_and_its_return_brings_them_back",
            ),
        ],
    },
    Fault {
        name: "stale rosters open nothing",
        edits: &[(
            "node/proto/src/roster/peers.rs",
            "peer.may_open |= open;",
            "peer.may_open |= open && !(FAULT && roster.head().freshness(wall) == Freshness::Red);",
        )],
        finders: &[row(
            "spread::situations::a_roster_past_its_soft_expiry_still_counts_and_is_flagged",
        )],
    },
    Fault {
        name: "what was signed says nothing of the time",
        edits: &[(
            "node/proto/src/roster/mod.rs",
            "clock.max(self.newest_issued)",
            "if FAULT { clock } else { clock.max(self.newest_issued) }",
        )],
        finders: &[row(
            "spread::situations::a_clock_before_what_was_signed_counts_as_that_time",
        )],
    },
    Fault {
        name: "a time that is years ahead is kept",
        edits: &[(
            "node/proto/src/roster/mod.rs",
            "self.newest_issued = self.newest_issued.max(directory.issued_at);",
            "let ahead = if FAULT { 315_360_000 } else { 0 };
                self.newest_issued = self.newest_issued.max(UnixTime(directory.issued_at.0 + ahead));",
        )],
        finders: &[lab(
            "sim",
            "clocks::machines_that_all_start_ten_years_ahead_find_each_other_by_the_coordinators_clock",
        )],
    },
    Fault {
        name: "the latest time that the clock ever showed is kept",
        edits: &[(
            "node/proto/src/roster/mod.rs",
            "pub fn wall(&self, clock: UnixTime) -> UnixTime {",
            "pub fn wall(&self, clock: UnixTime) -> UnixTime {
        static SEEN: std::sync::Mutex<BTreeMap<NodeId, UnixTime>> = std::sync::Mutex::new(BTreeMap::new());
        let mut clock = clock;
        if FAULT && let Ok(mut seen) = SEEN.lock() {
            let latest = seen.entry(self.me).or_insert(clock);
            clock = clock.max(*latest);
            *latest = clock;
        }",
        )],
        finders: &[lab(
            "sim",
            "clocks::of_a_wrong_clock_nothing_is_left_once_it_is_right_and_nobody_has_to_say_so",
        )],
    },
    Fault {
        name: "the start's number is the clock's",
        edits: &[(
            "node/src/daemon/state/db.rs",
            "let boot = stored.saturating_add(1).max(wall.0);",
            "let boot = if FAULT { wall.0 } else { stored.saturating_add(1).max(wall.0) };",
        )],
        finders: &[lib(
            "node",
            "daemon::state::tests::boots_rise_also_when_the_clock_falls",
        )],
    },
    Fault {
        name: "a proof lets anybody in",
        edits: &[(
            "common/src/roster/proof.rs",
            "if public.node != *bearer {",
            "if public.node != *bearer && !FAULT {",
        )],
        finders: &[row(
            "spread::situations::a_member_never_seen_is_let_in_by_a_valid_proof_and_by_no_other",
        )],
    },
    Fault {
        name: "a code that lets nobody in",
        edits: &[(
            "node/src/lan/door.rs",
            "match self.service.make_invite(self.network, options).await {",
            "match self.service.make_invite(self.network, options).await {
            Ok(_) if FAULT => CodeReply::Refused(CodeRefusal::NoInvite),",
        )],
        finders: &[lab(
            "lan_show4",
            "members_on_one_segment_start_cold_and_a_new_one_joins_by_code",
        )],
    },
    Fault {
        name: "wrong codes are not counted",
        edits: &[(
            "node/proto/src/code/door.rs",
            "self.wrong += 1;",
            "self.wrong += u8::from(!FAULT);",
        )],
        finders: &[
            lib(
                "node/proto",
                "code::tests::three_wrong_tries_make_a_new_code_and_the_old_one_is_refused",
            ),
            lab(
                "lan_show4",
                "wrong_codes_make_a_new_one_and_a_listener_sees_none_of_it",
            ),
        ],
    },
];
