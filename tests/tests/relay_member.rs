//! A member that relays for the others (`--relay`), where no server does.

use std::time::Duration;

use anyhow::ensure;
use kanpachi_tests::lab::run;
use kanpachi_tests::mesh::{Mesh, NETWORK, reach};
use kanpachi_tests::note;
use kanpachi_tests::wait::eventually;

const RELAYED: Duration = Duration::from_secs(20);

#[test]
fn a_member_relays_for_two_others_until_one_of_them_is_evicted() {
    run("relay-member", |lab| {
        let arguments = ["--no-node", "--no-relay"];
        let mesh = Mesh::three_with(lab, &arguments, |name, node| {
            Ok(match name {
                "carol" => node.set("KANPACHI_RELAY", "1"),
                _ => node,
            })
        })?;
        mesh.cut_direct(0, 1, RELAYED)?;
        let (alice, bob) = (mesh.member("alice")?, mesh.member("bob")?);
        reach(alice, bob, RELAYED)?;
        let peer = alice.node.status()?.peer("bob")?;
        note(format_args!(
            "alice to bob: {} via {}",
            peer["path"], peer["via"]
        ));
        ensure!(peer["via"] == "carol", "{peer}");
        let carol = mesh.member("carol")?;
        eventually(RELAYED, "carol tells what she relays", || {
            let relaying = carol.node.status()?.0["relaying"].clone();
            let count = |field: &str| relaying[field].as_u64().unwrap_or(0);
            ensure!(count("members") >= 2 && count("pairs") == 1, "{relaying}");
            ensure!(
                count("forwarded") > 0 && count("forwarded_bytes") > 0,
                "{relaying}"
            );
            Ok(())
        })?;
        ensure!(
            alice.node.status()?.0["relaying"].is_null(),
            "alice is no relay"
        );
        alice.node.json(&["evict", NETWORK, "bob"])?;
        eventually(RELAYED, "bob has no path any more", || {
            let status = bob.node.status()?;
            ensure!(status.peer("alice").is_err(), "{}", status.0["networks"]);
            Ok(())
        })
    });
}
