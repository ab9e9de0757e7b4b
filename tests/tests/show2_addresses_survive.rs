//! Show 2: addresses survive restarts of everything, and a wiped coordinator is not believed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::lab::run;
use kanpachi_tests::mesh::{DIRECT, Mesh};
use kanpachi_tests::note;
use kanpachi_tests::wait::eventually;

const ROUNDS: usize = 10;
const STOP: Duration = Duration::from_secs(10);
const LOGIN: Duration = Duration::from_secs(15);

#[test]
fn every_node_keeps_both_addresses_over_ten_restarts_of_everything() {
    run("show2", |lab| {
        let mut mesh = Mesh::three(lab, &["--no-node"])?;
        let before: Vec<_> = mesh
            .members
            .iter()
            .map(|member| member.overlay.clone())
            .collect();
        for round in 0..ROUNDS {
            // In turns a clean stop and a power cut, and in turns who is there first.
            stop_all(&mut mesh, round % 2 == 1)?;
            if round % 3 == 0 {
                start_members(&mut mesh)?;
                mesh.hub.start_again()?;
            } else {
                mesh.hub.start_again()?;
                start_members(&mut mesh)?;
            }
            mesh.wait_until_logged_in(LOGIN)?;
            for (member, before) in mesh.members.iter().zip(&before) {
                let now = member.node.overlay()?;
                ensure!(now == *before, "round {round}: {before:?} became {now:?}");
            }
        }
        mesh.wait_until_connected(DIRECT)
    });
}

#[test]
fn a_wiped_coordinator_at_the_same_address_is_refused_and_the_status_says_why() {
    run("show2-wiped", |lab| {
        let mut mesh = Mesh::three(lab, &["--no-node"])?;
        let org = mesh.hub.ready["org"].clone();
        mesh.hub.process.kill()?;
        std::fs::remove_dir_all(&mesh.hub.node.state_dir)?;
        mesh.hub.start_again()?;
        ensure!(
            mesh.hub.ready["org"] != org,
            "the wiped coordinator is the same organisation"
        );
        for member in &mesh.members {
            let what = format!("{} says why it refuses the coordinator", member.name());
            let error = eventually(LOGIN, &what, || {
                let status = member.node.status()?;
                ensure!(status.coordinator_state() != "connected", "it logged in");
                let error = status.0["coordinator"]["last_error"]
                    .as_str()
                    .context("no last_error")?
                    .to_owned();
                ensure!(error.contains("organisation"), "last_error {error:?}");
                Ok(error)
            })?;
            note(format_args!("{}: {error}", member.name()));
            ensure!(
                member.node.overlay()? == member.overlay,
                "{} changed its addresses",
                member.name()
            );
        }
        mesh.wait_until_connected(DIRECT)
    });
}

fn stop_all(mesh: &mut Mesh, power_cut: bool) -> Result<()> {
    let processes = mesh.members.iter_mut().map(|member| &mut member.process);
    for process in processes.chain([&mut mesh.hub.process]) {
        if power_cut {
            process.kill()?;
        } else {
            let status = process.terminate(STOP)?;
            ensure!(
                status.success(),
                "{} ended with {status} on SIGTERM",
                process.name
            );
        }
    }
    Ok(())
}

fn start_members(mesh: &mut Mesh) -> Result<()> {
    mesh.members
        .iter_mut()
        .try_for_each(kanpachi_tests::mesh::Member::start_again)
}
