//! What a bad disk does: an error in one sentence, nothing half-written, and never an empty roster.

use futures::executor::block_on;
use kanpachi_common::{NetworkId, id::Hash, roster::Position, wire::control::Held};

use super::{Fixture, LAN, NOW, new_network, node};
use crate::store::{
    StoreError,
    sqlite::{DATABASE, Database},
};

fn member_fixture() -> Fixture {
    let f = Fixture::on_file();
    f.make_invite(1, None);
    f.join(1, 1).unwrap();
    f.join(2, 1).unwrap();
    f
}

fn execute(f: &Fixture, sql: &'static str) {
    f.sqlite
        .with_connection(move |conn| conn.execute_batch(sql).unwrap());
}

#[test]
fn a_full_disk_is_said_and_nothing_is_half_written() {
    let f = member_fixture();
    let before = f.changes();
    execute(
        &f,
        "PRAGMA max_page_count = 1; PRAGMA wal_checkpoint(TRUNCATE)",
    );
    let mut stored = 0;
    let full = loop {
        match f.join(100 + stored, 1) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, StoreError::Full);
    assert!(full.to_string().contains("disk is full"));
    let after = f.changes();
    assert_eq!(
        after.position.epoch,
        before.position.epoch + u64::from(stored)
    );
    assert_eq!(
        after.members.len(),
        before.members.len() + usize::from(stored)
    );
    assert_eq!(
        block_on(f.store.registration(node(100 + stored))).unwrap(),
        None
    );
    execute(&f, "PRAGMA max_page_count = 100000");
    f.join(100 + stored, 1).unwrap();
}

#[test]
fn a_read_only_database_serves_and_says_what_it_cannot() {
    let f = member_fixture();
    execute(&f, "PRAGMA query_only = 1");
    let error = f.join(3, 1).unwrap_err();
    assert_eq!(error, StoreError::ReadOnly);
    assert_eq!(f.changes().members.len(), 2);
}

#[test]
fn a_database_locked_by_others_is_busy_and_keeps_its_state() {
    let f = member_fixture();
    execute(&f, "PRAGMA busy_timeout = 10");
    let path = f.dir.as_ref().unwrap().path().join(DATABASE);
    let other = rusqlite::Connection::open(path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(f.join(3, 1).unwrap_err(), StoreError::Busy);
    assert_eq!(f.changes().members.len(), 2);
    other.execute_batch("ROLLBACK").unwrap();
    f.join(3, 1).unwrap();
}

#[test]
fn members_that_do_not_match_the_signed_head_are_never_served() {
    for damage in [
        "DELETE FROM member",
        "DELETE FROM member WHERE rowid = (SELECT min(rowid) FROM member)",
        "UPDATE member SET private = public",
        "UPDATE member SET salt = zeroblob(16)",
        "UPDATE network SET settings = x'a0'",
        "UPDATE secret SET bytes = zeroblob(32)",
        "UPDATE head SET signed = x'00'",
        "DELETE FROM head",
        "DELETE FROM head WHERE epoch = (SELECT max(epoch) FROM head)",
        "PRAGMA foreign_keys = 0; DELETE FROM secret",
    ] {
        let f = member_fixture();
        execute(&f, damage);
        let held = Held {
            network: LAN,
            position: Position::default(),
            root: Hash([0; 32]),
        };
        let read = block_on(f.store.changes_since(LAN, vec![held]));
        assert!(
            matches!(read, Err(StoreError::Damaged(_))),
            "{damage}: {read:?}"
        );
        assert!(block_on(f.store.roster(LAN)).is_err(), "{damage}");
        assert!(block_on(f.store.public_roster(LAN)).is_err(), "{damage}");
        assert!(
            f.join(3, 1).is_err(),
            "{damage}: nothing is signed on top of it"
        );
        assert!(block_on(f.store.networks()).is_err(), "{damage}");
    }
}

#[test]
fn damage_in_one_network_leaves_the_others_alone() {
    let f = member_fixture();
    let games = NetworkId([0xbb; 32]);
    block_on(f.store.create_network(new_network(games, "games"))).unwrap();
    execute(&f, "DELETE FROM member");
    assert!(block_on(f.store.roster(LAN)).is_err());
    block_on(f.store.roster(games)).unwrap();
}

#[test]
fn a_damaged_file_is_refused_at_the_start_with_what_to_do() {
    let f = member_fixture();
    let dir = f.stop();
    let path = dir.path().join(DATABASE);
    let good = std::fs::read(&path).unwrap();
    let mut damaged = 0;
    for page in 0..good.len() / 4096 {
        let mut bytes = good.clone();
        bytes[page * 4096..page * 4096 + 100].fill(0xa5);
        std::fs::write(&path, &bytes).unwrap();
        match Database::open(dir.path()) {
            Err(error @ StoreError::Damaged(_)) => {
                assert!(error.to_string().contains("backup"));
                damaged += 1;
            }
            // A page that nobody uses.
            Ok(_) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(damaged > 5);
    for bytes in [b"not a database, by far".repeat(50), good[..5000].to_vec()] {
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(
            Database::open(dir.path()),
            Err(StoreError::Damaged(_))
        ));
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the evidence is kept");
    }
}

#[test]
fn heads_are_unique_for_an_epoch_and_addresses_for_a_node() {
    let f = member_fixture();
    f.sqlite.with_connection(|conn| {
        let twice = conn.execute(
            "INSERT INTO head SELECT network, generation, epoch, zeroblob(32), issued_at, signed FROM head LIMIT 1",
            [],
        );
        assert!(twice.unwrap_err().to_string().contains("UNIQUE"));
        let twice = conn.execute("UPDATE address SET ipv4 = (SELECT max(ipv4) FROM address)", []);
        assert!(twice.unwrap_err().to_string().contains("UNIQUE"));
    });
}

#[test]
fn an_organisation_that_is_gone_is_no_first_start() {
    let f = member_fixture();
    execute(&f, "DELETE FROM organisation");
    let mut database = Database::open(f.stop().path()).unwrap();
    let error = crate::org::Organisation::open(&mut database, None, NOW).unwrap_err();
    assert!(
        error.to_string().contains("organisation is gone"),
        "{error}"
    );
}
