//! Show 5: rekeys every few seconds, 10 % loss and reordering, and no packet arrives twice, altered or late.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::run;
use kanpachi_tests::mesh::{DIRECT, Hub, Member, reach};
use kanpachi_tests::note;
use kanpachi_tests::traffic::udp::{Load, Report, UdpFlow};
use kanpachi_tests::wait::eventually;
use kanpachi_tests::wire::Settings;

const REKEY_SECONDS: &str = "3";
const REKEYS: usize = 6;
const LOAD: Load = Load {
    packets_per_second: 1500,
    size: 1000,
};
const LONGEST_GAP: Duration = Duration::from_secs(1);

#[test]
fn packets_arrive_once_unaltered_and_without_a_gap_across_rekeys() {
    run("show5", |lab| {
        let hub_host = lab.public_host("hub")?;
        let hub = Hub::start(lab, &hub_host, &[])?;
        let (east, west) = (lab.lan("east")?, lab.lan("west")?);
        let (alice_host, wire) = lab.host_by_wire("alice", &east, Settings::default())?;
        let bob_host = lab.host("bob", &west)?;
        let rekeying = |host| {
            Ok::<_, anyhow::Error>(
                Node::new(lab, host)?.set("KANPACHI_TEST_REKEY_SECS", REKEY_SECONDS),
            )
        };
        let alice = Member::join(rekeying(&alice_host)?, hub.invite()?)?;
        let bob = Member::join(rekeying(&bob_host)?, &hub.node.invite("lan", &[])?)?;
        reach(&alice, &bob, DIRECT)?;
        alice.node.wait_for_path(bob.name(), "direct", DIRECT)?;
        wire.set(Settings {
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(3),
            reorder_percent: 5.0,
            reorder_by: Duration::from_millis(15),
            loss_percent: 10.0,
            duplicate_percent: 2.0,
            seed: 5,
        });
        let before = [unopened(&alice)?, unopened(&bob)?];
        let forth = UdpFlow::start(
            &alice.node.host.ns,
            (&bob.node.host.ns, bob.overlay.v4.into()),
            LOAD,
        )?;
        let back = UdpFlow::start(
            &bob.node.host.ns,
            (&alice.node.host.ns, alice.overlay.v6.into()),
            LOAD,
        )?;
        wait_for_rekeys(&alice, &bob)?;
        check("alice to bob", &forth.finish()?)?;
        check("bob to alice", &back.finish()?)?;
        // What was under way when keys changed is opened with the old ones.
        let after = [unopened(&alice)?, unopened(&bob)?];
        ensure!(
            before == after,
            "no keys for packets: {before:?}, {after:?}"
        );
        note(format_args!("the wire: {:?}", wire.counters()));
        Ok(())
    });
}

/// Packets that came when the keys for them were gone.
fn unopened(member: &Member) -> Result<u64> {
    let status = member.node.status()?;
    Ok(status.counter("drop_session") + status.counter("drop_expired"))
}

/// Waits until the time of the last handshake has changed often enough.
fn wait_for_rekeys(alice: &Member, bob: &Member) -> Result<()> {
    let mut handshakes = BTreeSet::new();
    eventually(Duration::from_secs(60), &format!("{REKEYS} rekeys"), || {
        let peer = alice.node.status()?.peer(bob.name())?;
        handshakes.insert(
            peer["last_handshake"]
                .as_str()
                .context("no last_handshake")?
                .to_owned(),
        );
        ensure!(
            handshakes.len() > REKEYS,
            "{} handshakes so far",
            handshakes.len()
        );
        Ok(())
    })
}

fn check(what: &str, report: &Report) -> Result<()> {
    note(format_args!(
        "{what}: {report:?}, {:.1} % lost",
        report.loss_percent()
    ));
    ensure!(
        report.duplicates == 0,
        "{what}: {} duplicates",
        report.duplicates
    );
    ensure!(report.altered == 0, "{what}: {} altered", report.altered);
    ensure!(
        report.longest_gap < LONGEST_GAP,
        "{what}: a gap of {:?}",
        report.longest_gap
    );
    // The wire loses 10 % in each direction; much more would be ours.
    ensure!(
        (5.0..14.0).contains(&report.loss_percent()),
        "{what}: {:.1} % lost",
        report.loss_percent()
    );
    ensure!(
        report.reordered > 0,
        "{what}: nothing was reordered, so the test shows nothing"
    );
    Ok(())
}
