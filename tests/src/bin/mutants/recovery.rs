//! Faults of a coordinator that is older than its members, and of what it says of who is there.

use crate::fault::{Fault, Finder, lab, lib};

const fn decide(test: &'static str) -> Finder {
    lib("coordinator", test)
}

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "recovery: addresses are given out",
        edits: &[(
            "coordinator/src/store/sqlite/mod.rs",
            "recovery::check(tx)?;",
            "if !FAULT { recovery::check(tx)?; }",
        )],
        finders: &[decide(
            "store::sqlite::tests::in_memory::nothing_is_signed_or_given_out_in_recovery",
        )],
    },
    Fault {
        name: "recovery: goes on right above",
        edits: &[(
            "coordinator/src/store/sqlite/recovery.rs",
            ".checked_add(JUMP)",
            ".checked_add(if FAULT { 1 } else { JUMP })",
        )],
        finders: &[decide(
            "decide::tests::recovery::the_end_goes_on_far_above_with_the_same_members_and_takes_new_ones",
        )],
    },
    Fault {
        name: "recovery: what was abandoned comes back",
        edits: &[(
            "coordinator/src/store/sqlite/recovery.rs",
            "if abandoned {",
            "if abandoned && !FAULT {",
        )],
        finders: &[decide(
            "decide::tests::recovery::what_the_restored_one_signed_by_itself_gives_way_and_does_not_come_back",
        )],
    },
    Fault {
        name: "recovery: old invites stay good",
        edits: &[(
            "coordinator/src/store/sqlite/recovery.rs",
            "void_invites(tx, end.now)?;",
            "if !FAULT { void_invites(tx, end.now)?; }",
        )],
        finders: &[decide(
            "decide::tests::recovery::the_evicted_stays_out_before_and_after_the_end_of_the_recovery",
        )],
    },
    Fault {
        name: "an old invite lets the evicted in",
        edits: &[(
            "coordinator/src/store/sqlite/ends.rs",
            "(Some(last), Some(invite)) if invite > last =>",
            "(Some(last), Some(invite)) if FAULT || invite > last =>",
        )],
        finders: &[lab(
            "spread",
            "witness::one_witness_is_enough_and_whoever_was_away_hears_of_it",
        )],
    },
    Fault {
        name: "what owners signed meanwhile is not taken",
        edits: &[(
            "coordinator/src/store/sqlite/suspensions.rs",
            "let frozen = recovery::is_frozen(tx)?;",
            "if FAULT {
        return Ok(Vec::new());
    }
    let frozen = recovery::is_frozen(tx)?;",
        )],
        finders: &[
            lab(
                "spread",
                "owner::an_owner_evicts_without_a_coordinator_and_its_return_changes_nothing",
            ),
            lab(
                "spread",
                "owner::an_owner_evicts_without_a_coordinator_and_an_old_backup_changes_nothing",
            ),
        ],
    },
    Fault {
        name: "recovery: an outsider speaks for the members",
        edits: &[(
            "coordinator/src/decide/showing.rs",
            "let member = roster.member(&by)?;",
            "let anybody = if FAULT { roster.members().next() } else { None };
             let member = roster.member(&by).or(anybody)?;",
        )],
        finders: &[decide(
            "decide::tests::recovery::what_we_did_not_sign_is_not_believed",
        )],
    },
    Fault {
        name: "recovery: signs while a member is asked",
        edits: &[(
            "coordinator/src/decide/mod.rs",
            "if intent.signs() && !self.comparing.is_over() {",
            "if !FAULT && intent.signs() && !self.comparing.is_over() {",
        )],
        finders: &[
            decide("decide::tests::recovery::nothing_is_signed_while_a_member_is_asked"),
            decide(
                "decide::tests::recovery::a_coordinator_that_is_unsure_hears_a_member_before_it_signs",
            ),
        ],
    },
    Fault {
        name: "suspensions of a recovery are forgotten",
        edits: &[(
            "coordinator/src/store/sqlite/recovery.rs",
            "let evicted = suspensions::carry_out(tx, signer, &end.seed, end.now)?;",
            "let evicted = if FAULT { 0 } else { suspensions::carry_out(tx, signer, &end.seed, end.now)? };",
        )],
        finders: &[decide(
            "decide::tests::recovery::a_suspension_in_recovery_holds_at_once_and_is_an_eviction_before_anything_else_is_signed",
        )],
    },
    Fault {
        name: "the suspended are served in recovery",
        edits: &[(
            "coordinator/src/decide/sync.rs",
            "changes.members.retain(|m| !suspended.contains(&m.node));",
            "changes.members.retain(|m| FAULT || !suspended.contains(&m.node));",
        )],
        finders: &[decide(
            "decide::tests::recovery::a_suspension_in_recovery_holds_at_once_and_is_an_eviction_before_anything_else_is_signed",
        )],
    },
    Fault {
        name: "offline in a network and seen there after a login",
        edits: &[(
            "coordinator/src/decide/requests.rs",
            "session.away = hello.away.into_iter().collect();",
            "if !FAULT { session.away = hello.away.into_iter().collect(); }",
        )],
        finders: &[decide(
            "decide::tests::membership::whoever_is_offline_in_a_network_says_so_with_the_hello_and_never_shows_up_in_it",
        )],
    },
    Fault {
        name: "the end of a network is told once",
        edits: &[(
            "coordinator/src/service/feeding.rs",
            "owed.extend(self.ended().await.intersection(&missed));",
            "if !FAULT { owed.extend(self.ended().await.intersection(&missed)); }",
        )],
        finders: &[decide(
            "service::tests::mirrors::the_end_of_a_network_is_told_to_a_mirror_that_was_away_until_it_has_it",
        )],
    },
];
