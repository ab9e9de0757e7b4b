//! Show 2: one member knows of an eviction, and the coordinator is dead.

use anyhow::{Result, ensure};
use kanpachi_tests::{
    lab::run,
    loss,
    mesh::{NETWORK, reach},
    note,
    process::Output,
    wait::eventually,
};

use super::town::{
    OUT, SOON, STOP, epoch, evict_with_one_witness, four, out_of_reach, secret, silent, wall,
};

/// What the program ends with when the coordinator said no.
const REFUSED: Option<i32> = Some(5);

#[test]
fn one_witness_is_enough_and_whoever_was_away_hears_of_it() {
    run("spread-show2", |lab| {
        let mut mesh = four(lab)?;
        let old_invite = mesh.members[0].node.invite(NETWORK, &["--uses", "5"])?;
        mesh.members[3].process.terminate(STOP)?;
        evict_with_one_witness(&mut mesh)?;
        // Alice and bob see each other again; nobody sees the coordinator, which is dead.
        for lan in &mesh.lans {
            loss::restore(&lan.ns)?;
        }
        let [alice, bob, carol, _] = &mesh.members[..] else {
            unreachable!("four were asked for");
        };
        for other in [alice, bob] {
            let time = silent(carol, other, OUT)?;
            note(format_args!(
                "{} after {:.1} s",
                other.name(),
                time.as_secs_f64()
            ));
        }
        reach(alice, bob, SOON)?;
        // Dora was away. She comes back with the old roster, and meets carol first: a witness who knows nothing.
        wall(&mesh.lans[3], &[&alice.node.host, &bob.node.host])?;
        mesh.members[3].start_again()?;
        reach(&mesh.members[2], &mesh.members[3], SOON)?;
        out_of_reach(
            &mesh.members[2],
            &[&mesh.members[0], &mesh.members[1]],
            "by an old witness",
        )?;
        loss::restore(&mesh.lans[3].ns)?;
        let time = silent(&mesh.members[2], &mesh.members[3], OUT)?;
        note(format_args!("dora after {:.1} s", time.as_secs_f64()));
        let [alice, bob, _, dora] = &mesh.members[..] else {
            unreachable!("four were asked for");
        };
        reach(dora, alice, SOON)?;
        reach(dora, bob, SOON)?;
        let wanted = (epoch(&alice.node)?, secret(&alice.node.state_dir)?);
        for other in [bob, dora] {
            eventually(
                SOON,
                &format!("{} has roster and secret", other.name()),
                || {
                    let now = (epoch(&other.node)?, secret(&other.node.state_dir)?);
                    ensure!(now == wanted, "{now:?} and not {wanted:?}");
                    Ok(())
                },
            )?;
        }
        // Carol starts again, and tries the invite that she could have used.
        mesh.members[2].process.kill()?;
        mesh.members[2].start_again()?;
        let carol = &mesh.members[2];
        let all = [&mesh.members[0], &mesh.members[1], &mesh.members[3]];
        out_of_reach(carol, &all, "after a restart")?;
        // Nobody is there to say no, and that lets nobody in.
        not_let_in(&carol.node.run(&["join", &old_invite])?, None)?;
        out_of_reach(carol, &all, "after trying an old invite")?;
        mesh.hub.start_again()?;
        let carol = &mesh.members[2];
        let all = [&mesh.members[0], &mesh.members[1], &mesh.members[3]];
        let alone = eventually(SOON, "the coordinator is asked", || {
            let output = carol.node.run(&["join", &old_invite])?;
            ensure!(output.status.code() == REFUSED, "{output:?}");
            Ok(output)
        })?;
        not_let_in(&alone, REFUSED)?;
        out_of_reach(carol, &all, "after the coordinator refused her")
    });
}

/// A refusal, by its code if one is given.
fn not_let_in(output: &Output, code: Option<i32>) -> Result<()> {
    note(format_args!(
        "{}",
        output.stderr.lines().next().unwrap_or_default()
    ));
    ensure!(!output.status.success(), "{output:?}");
    ensure!(code.is_none() || output.status.code() == code, "{output:?}");
    Ok(())
}
