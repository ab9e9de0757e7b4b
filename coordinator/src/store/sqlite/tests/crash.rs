//! SIGKILL in the middle of writing: what was acknowledged is there, and what is there fits together.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use futures::executor::block_on;

use super::{Fixture, LAN, NOW};
use crate::{
    org::Organisation,
    store::{Store, sqlite::Database},
};

const CHILD: &str = "KANPACHI_TEST_CRASH_DIR";
/// Kills, each after another number of acknowledged writes.
const ROUNDS: u16 = 8;

/// Not a test of its own: the process that is killed. Joins nodes and says so after each.
#[test]
fn crash_child() {
    let Ok(dir) = std::env::var(CHILD) else {
        return;
    };
    let fixture = Fixture::open(dir.as_ref(), None);
    let first = u16::try_from(fixture.changes().members.len()).unwrap();
    for n in first.. {
        fixture.join(n, 1).unwrap();
        println!("acknowledged {n}");
    }
}

#[test]
fn acknowledged_writes_survive_a_kill_at_any_point() {
    let f = Fixture::on_file();
    let mut invite = f.invite(1, None);
    invite.expires_at = NOW.plus(1 << 30);
    block_on(f.store.create_invite(invite)).unwrap();
    let dir = f.stop();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::sqlite::tests::crash::crash_child",
                "--nocapture",
            ])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = None;
        // The kill comes right after an acknowledgement, while the child is writing the next.
        for _ in 0..3 + round {
            acknowledged = lines.by_ref().map(Result::unwrap).find_map(|line| {
                let (_, n) = line.split_once("acknowledged ")?;
                n.trim().parse::<usize>().ok()
            });
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let last = acknowledged.expect("the child wrote something");

        let mut database = Database::open(dir.path()).unwrap();
        let organisation = Organisation::open(&mut database, None, NOW).unwrap();
        let store = database.into_store(organisation.signer).unwrap();
        let roster = block_on(store.roster(LAN)).unwrap();
        let members = roster.members().count();
        assert!(members > last, "{members} members, {last} acknowledged");
        assert_eq!(
            roster.head().epoch,
            members as u64 + 1,
            "one epoch for each join"
        );
        assert!(roster.unusable().is_empty());
    }
}
