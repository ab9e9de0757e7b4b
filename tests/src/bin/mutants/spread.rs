//! Faults in how rosters, suspensions and secrets go from member to member (tests/spread).

use crate::fault::{Fault, lab, lib};

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "members ask nobody",
        edits: &[(
            "node/src/daemon/core/spread.rs",
            "let due = self.state.spread.poll_ask(&session.rosters, clock::now());",
            "let due = self.state.spread.poll_ask(&session.rosters, clock::now()).filter(|_| !FAULT);",
        )],
        finders: &[lab(
            "spread",
            "bridge::a_bridge_carries_an_eviction_to_those_who_never_see_the_witness",
        )],
    },
    Fault {
        name: "news are told once",
        edits: &[(
            "node/proto/src/tunnel/peer/live.rs",
            "self.tell_again = (self.current.is_some() && self.is_behind(cx)).then_some(next);",
            "self.tell_again = (!FAULT && self.current.is_some() && self.is_behind(cx)).then_some(next);",
        )],
        finders: &[
            lab(
                "sim",
                "spreading::news_that_were_told_while_nothing_passed_are_told_again_when_it_does",
            ),
            lab(
                "spread",
                "witness::one_witness_is_enough_and_whoever_was_away_hears_of_it",
            ),
        ],
    },
    Fault {
        name: "a suspended peer is still one",
        edits: &[(
            "node/proto/src/roster/peers.rs",
            ".filter(|m| !slot.is_suspended(&m.member) && !slot.bearers.contains_key(&m.node))",
            ".filter(|m| (FAULT || !slot.is_suspended(&m.member)) && !slot.bearers.contains_key(&m.node))",
        )],
        finders: &[
            lib(
                "node/proto",
                "spread::tests::an_owners_suspension_goes_from_member_to_member_and_holds",
            ),
            lab(
                "spread",
                "owner::an_owner_evicts_without_a_coordinator_and_its_return_changes_nothing",
            ),
        ],
    },
    Fault {
        name: "any newer roster lifts a suspension",
        edits: &[(
            "node/proto/src/roster/suspends.rs",
            "self.suspends.retain(|s| stands(held, &s.member, &s.by));",
            "self.suspends.retain(|s| !FAULT && stands(held, &s.member, &s.by));",
        )],
        finders: &[lib(
            "node/proto",
            "spread::tests::a_suspension_ends_with_the_membership_and_not_with_any_newer_roster",
        )],
    },
    Fault {
        name: "anybody suspends",
        edits: &[(
            "node/proto/src/roster/suspends.rs",
            "let is_owner = |m: &Member| m.caps.has(Caps::OWNER) && !m.caps.has(Caps::PENDING);",
            "let is_owner =
        |m: &Member| FAULT || (m.caps.has(Caps::OWNER) && !m.caps.has(Caps::PENDING));",
        )],
        finders: &[lib(
            "node/proto",
            "spread::tests::only_owners_suspend_and_only_members",
        )],
    },
    Fault {
        name: "a head that is not held blocks everybody",
        edits: &[(
            "node/proto/src/roster/peers.rs",
            "let open = roster.head().freshness(wall) != Freshness::Expired;",
            "let open = roster.head().freshness(wall) != Freshness::Expired
                && (!FAULT || slot.seen.is_none_or(|(seen, _)| seen <= roster.head().position()));",
        )],
        finders: &[lab(
            "spread",
            "withheld::a_head_whose_roster_is_withheld_blocks_nobody",
        )],
    },
    Fault {
        name: "a head that is not held ends sessions",
        edits: &[(
            "node/proto/src/roster/peers.rs",
            "if slot.is_suspended(&me.member) {",
            "let behind = slot.seen.is_some_and(|(seen, _)| seen > roster.head().position());
            if slot.is_suspended(&me.member) || (FAULT && behind) {",
        )],
        finders: &[
            lib(
                "node/proto",
                "spread::tests::a_head_whose_roster_is_withheld_blocks_nobody_and_lets_nobody_else_in",
            ),
            lab(
                "spread",
                "withheld::a_head_whose_roster_is_withheld_blocks_nobody",
            ),
        ],
    },
    Fault {
        name: "two have one address",
        edits: &[(
            "node/proto/src/roster/peers.rs",
            "loser.ipv4 = None;",
            "loser.ipv4 = loser.ipv4.filter(|_| FAULT);",
        )],
        finders: &[lib(
            "node/proto",
            "roster::conflicts::tests::of_two_with_one_address_the_lower_serial_loses_and_both_are_named",
        )],
    },
    Fault {
        name: "who fails with a claim is told nothing",
        edits: &[(
            "node/proto/src/spread/mod.rs",
            "peer.needed |= !(behind && peer.live)",
            "peer.needed = (peer.needed && !FAULT) || !(behind && peer.live)",
        )],
        finders: &[lib(
            "node/proto",
            "spread::tests::what_is_to_be_told_is_told_whatever_comes_meanwhile",
        )],
    },
    Fault {
        name: "who breaks off was told",
        edits: &[(
            "node/proto/src/spread/mod.rs",
            "|| (peer.asked_needed && !answered);",
            "|| (!FAULT && peer.asked_needed && !answered);",
        )],
        finders: &[lib(
            "node/proto",
            "spread::tests::what_was_to_be_told_is_told_again_when_the_question_broke_off",
        )],
    },
    Fault {
        name: "a record that nobody changed goes out all the time",
        edits: &[(
            "node/proto/src/records/publish.rs",
            "(self.unchanged + 1).min(32) * u32::from(!self.changed);",
            "(self.unchanged + u32::from(!FAULT)).min(32) * u32::from(!self.changed);",
        )],
        finders: &[lib(
            "node/proto",
            "records::tests::changes_go_out_soon_but_not_in_a_storm_and_the_timer_does_the_rest",
        )],
    },
    Fault {
        name: "at rest anybody is asked",
        edits: &[(
            "node/proto/src/spread/mod.rs",
            "let farther = self.refreshed.is_multiple_of(FARTHER)",
            "let farther = FAULT || self.refreshed.is_multiple_of(FARTHER)",
        )],
        finders: &[lib(
            "node/proto",
            "spread::tests::at_rest_those_are_asked_who_are_connected_and_now_and_then_each_of_the_others",
        )],
    },
];
