//! What is wrong with an organisation's rosters, in sentences for people: found here, mended by whoever runs it.

use kanpachi_common::{NodeId, UnixTime};
use kanpachi_proto::roster::{Conflict, Rosters};

use super::Core;

impl Core {
    /// Notes what is wrong now, and says each thing once in the log.
    pub(super) fn note_problems(&mut self) {
        let now = self.wall();
        let found = self.rosters().map(|rosters| problems(rosters, now));
        let found = found.unwrap_or_default();
        for problem in &found {
            if !self.state.problems.contains(problem) {
                tracing::warn!("{problem}");
            }
        }
        self.state.problems = found;
    }
}

fn problems(rosters: &Rosters, now: UnixTime) -> Vec<String> {
    let conflicts = rosters.conflicts(now);
    let conflicts = conflicts.iter().map(|conflict| of(rosters, conflict));
    let equivocal = rosters
        .rosters()
        .filter(|roster| rosters.is_equivocal(&roster.head().network))
        .map(|roster| {
            format!(
                "two different lists of members of {} were signed with one number: nobody new is let in until the \
                 organisation has new keys",
                roster.settings().name
            )
        });
    conflicts.chain(equivocal).collect()
}

fn of(rosters: &Rosters, conflict: &Conflict) -> String {
    let [keeps, loses] = [conflict.keeps, conflict.loses].map(|node| called(rosters, &node));
    let address = conflict.address;
    format!(
        "{keeps} and {loses} were given the same address {address}: {keeps} keeps it, {loses} goes by IPv6 alone. A \
         coordinator that came back from a backup does that"
    )
}

fn called(rosters: &Rosters, node: &NodeId) -> String {
    if *node == rosters.me() {
        return "this machine".to_owned();
    }
    let member = rosters.rosters().find_map(|roster| roster.member(node));
    member.map_or_else(|| node.short(), |member| member.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::core::fixture::{MEMBERS, Org};

    #[test]
    fn a_conflict_is_told_by_name_and_an_organisation_in_order_tells_nothing() {
        let org = Org::new();
        let rosters = org.rosters(1, &[("lan", &MEMBERS)]);
        assert!(problems(&rosters, UnixTime(1000)).is_empty());
        let conflict = |keeps, loses| Conflict {
            address: [198, 19, 0, 7].into(),
            keeps: Org::node(keeps),
            loses: Org::node(loses),
        };
        let text = of(&rosters, &conflict(3, 2));
        assert!(
            text.starts_with(
                "cleo and bob were given the same address 198.19.0.7: cleo keeps it, bob goes by"
            ),
            "{text}"
        );
        let text = of(&rosters, &conflict(2, 1));
        assert!(
            text.contains("bob keeps it, this machine goes by"),
            "{text}"
        );
    }
}
