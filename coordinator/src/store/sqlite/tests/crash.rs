//! SIGKILL in the middle of writing: what was acknowledged is there, and what is there fits together.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use futures::executor::block_on;
use kanpachi_common::NodeId;

use super::{Fixture, LAN, NOW, node};
use crate::store::Leave;

const DIR: &str = "KANPACHI_TEST_CRASH_DIR";
/// The first node that the process lets join.
const FROM: &str = "KANPACHI_TEST_CRASH_FROM";
const KILLS: u32 = 200;
/// Above this many members each join is followed by the departure of the oldest.
const CROWD: usize = 12;

/// Not a test of its own: the process that is killed. Lets nodes join and leave, and says what it is about to do and what
/// was done.
#[test]
fn crash_child() {
    let Ok(dir) = std::env::var(DIR) else {
        return;
    };
    let from: u16 = std::env::var(FROM).unwrap().parse().unwrap();
    let f = Fixture::open(dir.as_ref(), None);
    let mut present: Vec<u16> = (0..from).filter(|n| is_member(&f, *n)).collect();
    for n in from.. {
        println!("trying join {n}");
        let address = f.join(n, 1).unwrap().registration.ipv4.unwrap();
        println!("done join {n} {address} {}", f.changes().position.epoch);
        present.push(n);
        if present.len() > CROWD {
            let n = present.remove(0);
            println!("trying leave {n}");
            let leave = Leave {
                network: LAN,
                node: node(n),
                heir: None,
                secret: [0xd0; 32],
                now: NOW.plus(2),
            };
            block_on(f.store.leave(leave)).unwrap();
            println!("done leave {n} - {}", f.changes().position.epoch);
        }
    }
}

fn is_member(f: &Fixture, n: u16) -> bool {
    let id = node(n);
    f.changes().members.iter().any(|m| m.node == id)
}

/// What the killed processes acknowledged.
#[derive(Default)]
struct Witness {
    next: u16,
    epoch: u64,
    members: BTreeSet<u16>,
    addresses: BTreeMap<Ipv4Addr, u16>,
    /// Under way when the process died.
    open: Option<(bool, u16)>,
}

impl Witness {
    fn hear(&mut self, line: &str) {
        let Some(at) = line.find("trying ").or(line.find("done ")) else {
            return;
        };
        let words: Vec<&str> = line[at..].split(' ').collect();
        let (joins, n) = (words[1] == "join", words[2].parse().unwrap());
        if words[0] == "trying" {
            self.open = Some((joins, n));
            self.next = self.next.max(if joins { n + 1 } else { 0 });
            return;
        }
        self.open = None;
        if joins {
            self.members.insert(n);
            let before = self.addresses.insert(words[3].parse().unwrap(), n);
            assert_eq!(before, None, "an address that was another's");
        } else {
            self.members.remove(&n);
        }
        let epoch = words[4].parse().unwrap();
        assert!(epoch > self.epoch, "{epoch} after {}", self.epoch);
        self.epoch = epoch;
    }

    /// Opens what is left: everything acknowledged is in it, and nothing else but what was under way.
    fn check(&mut self, dir: &Path) {
        let f = Fixture::open(dir, None);
        let whole: String = f.sqlite.with_connection(|conn| {
            conn.query_row("PRAGMA integrity_check", [], |row| row.get(0))
                .unwrap()
        });
        assert_eq!(whole, "ok");
        let roster = block_on(f.store.roster(LAN)).unwrap();
        assert!(roster.unusable().is_empty());
        if let Some((joins, n)) = self.open.take()
            && roster.member(&node(n)).is_some() == joins
        {
            // It was committed, and the process died before it could say so.
            self.epoch += 1;
            if joins {
                self.members.insert(n);
                let address = roster.member(&node(n)).unwrap().ipv4.unwrap();
                assert_eq!(self.addresses.insert(address, n), None, "an address twice");
            } else {
                self.members.remove(&n);
            }
        }
        assert_eq!(roster.head().epoch, self.epoch, "one epoch for each change");
        let members: BTreeSet<NodeId> = roster.members().map(|m| m.node).collect();
        let acknowledged: BTreeSet<NodeId> = self.members.iter().map(|n| node(*n)).collect();
        assert_eq!(members, acknowledged);
        for member in roster.members() {
            let owner = self.addresses[&member.ipv4.unwrap()];
            assert_eq!(node(owner), member.node, "an address for life");
        }
    }
}

#[test]
fn acknowledged_joins_and_departures_survive_200_kills_at_any_moment() {
    let f = Fixture::on_file();
    let mut invite = f.invite(1, None);
    invite.expires_at = NOW.plus(1 << 30);
    block_on(f.store.create_invite(invite)).unwrap();
    let mut witness = Witness {
        epoch: f.changes().position.epoch,
        ..Witness::default()
    };
    let dir = f.stop();
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::sqlite::tests::crash::crash_child",
                "--nocapture",
            ])
            .env(DIR, dir.path())
            .env(FROM, witness.next.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Some writes, then a moment of the next one: another in each round, from before its start to after its end.
        for line in lines.by_ref().take((kill % 7) as usize + 2) {
            witness.hear(&line.unwrap());
        }
        std::thread::sleep(Duration::from_micros(u64::from(kill * 97 % 4000)));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts as said.
        for line in lines {
            witness.hear(&line.unwrap());
        }
        witness.check(dir.path());
    }
    assert!(
        witness.addresses.len() > KILLS as usize / 2,
        "little was written"
    );
}
