//! State of older programs is opened with everything in place.

use futures::executor::block_on;
use kanpachi_common::{ClientId, NetworkId, UnixTime, name::fold};

use super::{Fixture, LAN, node};
use crate::store::{Refusal, sqlite::DATABASE};

/// Written by the last program with schema 1.
const SCHEMA_1: &str = include_str!("../../../../tests/fixtures/schema-1.sql");
const GAMES: NetworkId = NetworkId([0xbb; 32]);

fn old() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let conn = rusqlite::Connection::open(dir.path().join(DATABASE)).unwrap();
    conn.execute_batch(SCHEMA_1).unwrap();
    drop(conn);
    let path = dir.path().to_owned();
    Fixture::open(&path, Some(dir))
}

#[test]
fn a_database_of_schema_1_opens_with_everything_in_place() {
    let f = old();
    let heads: Vec<_> = block_on(f.store.networks())
        .unwrap()
        .into_iter()
        .map(|n| (n.name, n.position.epoch, n.members, n.owners))
        .collect();
    let expected = [("Games".to_owned(), 2, 1, 1), ("lan".to_owned(), 7, 3, 1)];
    assert_eq!(heads, expected);
    let roster = block_on(f.store.roster(LAN)).unwrap();
    let mut names: Vec<_> = roster.members().map(|m| fold(&m.name)).collect();
    names.sort();
    assert_eq!(names, ["lamp", "m1", "m2"]);
    assert!(roster.unusable().is_empty());
    for n in [1, 2, 3, 4] {
        let known = block_on(f.store.registration(node(n))).unwrap().unwrap();
        assert_eq!(known.client_id, Some(ClientId::of(&node(n), 0)), "{n}");
        assert!(known.waiting.is_empty());
        assert_eq!(known.ipv4.is_some(), n != 4, "{n}");
    }
    let networks = block_on(f.store.networks_of(node(2))).unwrap();
    assert_eq!(networks, vec![LAN, GAMES]);
}

#[test]
fn what_was_made_with_schema_1_goes_on_working() {
    let f = old();
    // An invite for any number, made by an owner; one that is used up; and one that was revoked.
    f.join(5, 2).unwrap();
    assert_eq!(super::refused(f.join(6, 1)), Refusal::InviteUsed);
    assert_eq!(super::refused(f.join(4, 3)), Refusal::InviteUnknown);
    let renewed = block_on(
        f.store
            .renew_heads(UnixTime(u64::MAX >> 2), super::NOW.plus(99_999)),
    );
    assert_eq!(renewed.unwrap().len(), 2);
    let password = block_on(f.store.password_of("lan".to_owned()));
    assert_eq!(password.unwrap(), None);
    let f = f.reopen();
    assert_eq!(f.changes().members.len(), 4);
}
