//! Show 7: a member between two parts of a network carries news across.

use std::time::Duration;

use anyhow::ensure;
use kanpachi_tests::{lab::run, loss, note, wait::eventually};

use super::town::{epoch, evict_with_one_witness, four, silent, wall};

/// From the bridge being there to the news on the other side.
const ACROSS: Duration = Duration::from_secs(60);

#[test]
fn a_bridge_carries_an_eviction_to_those_who_never_see_the_witness() {
    run("spread-show7", |lab| {
        let mut mesh = four(lab)?;
        evict_with_one_witness(&mut mesh)?;
        let [alice, bob, carol, dora] = &mesh.members[..] else {
            unreachable!("four were asked for");
        };
        let wanted = epoch(&alice.node)?;
        ensure!(epoch(&bob.node)? < wanted, "bob knows already");
        // Dora sees alice and bob. Alice and bob never see each other, and carol sees bob alone.
        loss::restore(&mesh.lans[3].ns)?;
        wall(&mesh.lans[0], &[&bob.node.host, &carol.node.host])?;
        eventually(ACROSS, "bob holds the roster that alice holds", || {
            let now = epoch(&bob.node)?;
            ensure!(now == wanted, "{now} and not {wanted}");
            Ok(())
        })?;
        let time = silent(carol, bob, ACROSS)?;
        note(format_args!("silent {:.1} s later", time.as_secs_f64()));
        ensure!(epoch(&dora.node)? == wanted, "the bridge itself is behind");
        Ok(())
    });
}
