//! The state directory on a real disk: modes, damage, links, versions.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use kanpachi_common::{
    NetworkId, OrgId, UnixTime, org::Address, roster::Position, wire::membership::Waiting,
};
use kanpachi_proto::roster::Update;
use tempfile::TempDir;

use super::*;
use crate::ipc::error::ExitCode;

fn place() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("state");
    (dir, path)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn keys_and_database_are_for_the_owner_alone() {
    let (_keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    let (_, new) = Keys::load(&dir).unwrap();
    assert!(new);
    let _db = Database::open(&dir).unwrap();
    assert_eq!(mode(&path), 0o700);
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{:?}", entry.file_name());
    }
}

#[test]
fn the_same_keys_come_back() {
    let (_keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    let (first, _) = Keys::load(&dir).unwrap();
    let (second, new) = Keys::load(&dir).unwrap();
    assert!(!new);
    assert_eq!(first.identity.node_id(), second.identity.node_id());
    assert_eq!(
        (*first.tunnel, first.serial),
        (*second.tunnel, second.serial)
    );
}

#[test]
fn a_lost_tunnel_key_gets_a_higher_serial() {
    let (_keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    let (first, _) = Keys::load(&dir).unwrap();
    fs::remove_file(dir.file("tunnel.key")).unwrap();
    let (second, _) = Keys::load(&dir).unwrap();
    assert!(second.serial > first.serial);
    assert_ne!(*first.tunnel, *second.tunnel);
}

#[test]
fn a_damaged_key_is_an_error_and_stays_where_it_is() {
    let (_keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    Keys::load(&dir).unwrap();
    let key = dir.file("identity.key");
    let whole = fs::read(&key).unwrap();
    let damages: [&[u8]; 5] = [
        b"",
        b"\xff\xff",
        b"kanpachi-key-v1 identity 0",
        &whole[..whole.len() - 3],
        b"kanpachi-key-v1 tunnel 0 00",
    ];
    for damage in damages {
        fs::write(&key, damage).unwrap();
        let error = Keys::load(&dir).unwrap_err();
        assert_eq!(error.code, code::STATE_DAMAGED);
        assert_eq!(
            fs::read(&key).unwrap(),
            damage,
            "a damaged key was replaced"
        );
    }
}

#[test]
fn two_daemons_do_not_share_a_directory() {
    let (_keep, path) = place();
    let first = StateDir::open(&path).unwrap();
    let error = StateDir::open(&path).unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.exit),
        (code::DAEMON_RUNNING, ExitCode::Refused)
    );
    drop(first);
    StateDir::open(&path).unwrap();
}

#[test]
fn symbolic_links_in_the_way_are_not_followed() {
    let (keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    let victim = keep.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    for name in ["identity.key", "node.db"] {
        symlink(&victim, dir.file(name)).unwrap();
    }
    assert!(Keys::load(&dir).is_err());
    assert!(Database::open(&dir).is_err());
    fs::remove_file(dir.file("node.db")).unwrap();
    for name in ["node.db-wal", "node.db-shm", "node.db-journal"] {
        symlink(&victim, dir.file(name)).unwrap();
        let error = Database::open(&dir).unwrap_err();
        assert!(error.message.ends_with("is a symbolic link"), "{error}");
        fs::remove_file(dir.file(name)).unwrap();
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn a_damaged_or_newer_database_is_one_sentence() {
    let (_keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    drop(Database::open(&dir).unwrap());
    let conn = rusqlite::Connection::open(dir.file("node.db")).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    drop(conn);
    let error = Database::open(&dir).unwrap_err();
    assert!(error.message.contains("newer"), "{error}");
    fs::write(dir.file("node.db"), vec![0x5a; 9000]).unwrap();
    let _ = fs::remove_file(dir.file("node.db-wal"));
    let error = Database::open(&dir).unwrap_err();
    assert_eq!(error.code, code::STATE_DAMAGED);
    assert!(error.hint.is_some());
}

#[test]
fn what_the_database_was_told_it_still_knows() {
    let (_keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    let mut db = Database::open(&dir).unwrap();
    let (org, node) = (OrgId([1; 32]), kanpachi_common::NodeId([2; 32]));
    let hints = [Address::new("203.0.113.1", 12975)];
    assert_eq!((db.org().unwrap(), db.ipv4().unwrap()), (None, None));
    db.set_org(&org, &hints).unwrap();
    db.set_ipv4(Some([198, 19, 1, 2].into())).unwrap();
    db.set_port(4000).unwrap();
    let floor = |epoch| Position {
        generation: 1,
        epoch,
    };
    db.set_floor(&NetworkId([3; 32]), floor(9)).unwrap();
    db.set_floor(&NetworkId([3; 32]), floor(4)).unwrap();
    db.remember(
        &node,
        &[
            "192.0.2.1:5".parse().unwrap(),
            "[2001:db8::1]:6".parse().unwrap(),
        ],
        UnixTime(7),
    )
    .unwrap();
    drop(db);
    let db = Database::open(&dir).unwrap();
    assert_eq!(db.org().unwrap(), Some(org));
    assert_eq!(db.hints().unwrap(), hints);
    assert_eq!(db.ipv4().unwrap(), Some(Some([198, 19, 1, 2].into())));
    assert_eq!(db.port().unwrap(), Some(4000));
    assert_eq!(
        db.stored().unwrap().floors,
        [(NetworkId([3; 32]), floor(9))],
        "a floor never falls"
    );
    assert_eq!(db.known_candidates().unwrap().len(), 2);
}

#[test]
fn boots_rise_also_when_the_clock_falls() {
    let (_keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    let mut db = Database::open(&dir).unwrap();
    assert_eq!(db.next_boot(UnixTime(1000)).unwrap(), 1000);
    assert_eq!(db.next_boot(UnixTime(500)).unwrap(), 1001);
    assert_eq!(db.next_boot(UnixTime(2000)).unwrap(), 2000);
}

#[test]
fn addresses_of_one_peer_do_not_fill_the_disk() {
    let (_keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    let mut db = Database::open(&dir).unwrap();
    let node = kanpachi_common::NodeId([2; 32]);
    for i in 0..40u16 {
        db.remember(
            &node,
            &[format!("192.0.2.1:{}", 1000 + i).parse().unwrap()],
            UnixTime(u64::from(i)),
        )
        .unwrap();
    }
    let known = db.known_candidates().unwrap();
    assert_eq!(known.len(), 16);
    assert!(
        known.iter().all(|k| k.seen >= UnixTime(24)),
        "the newest stay"
    );
}

#[test]
fn what_is_waited_for_is_kept_until_it_is_over() {
    let (_keep, path) = place();
    let club = Waiting {
        network: NetworkId([7; 32]),
        name: "club".to_owned(),
    };
    {
        let mut db = Database::open(&StateDir::open(&path).unwrap()).unwrap();
        assert_eq!(db.waiting().unwrap(), []);
        db.set_waiting(std::slice::from_ref(&club)).unwrap();
    }
    let mut db = Database::open(&StateDir::open(&path).unwrap()).unwrap();
    assert_eq!(db.waiting().unwrap(), [club]);
    db.set_waiting(&[]).unwrap();
    assert_eq!(db.waiting().unwrap(), []);
}

#[test]
fn logged_out_and_offline_are_kept_until_somebody_says_otherwise() {
    let (_keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    let (first, second) = (NetworkId([1; 32]), NetworkId([2; 32]));
    let mut db = Database::open(&dir).unwrap();
    assert!(db.is_logged_in().unwrap());
    for _twice in 0..2 {
        db.set_logged_in(false).unwrap();
        db.set_online(&first, false).unwrap();
        db.set_online(&second, false).unwrap();
    }
    drop(db);
    let mut db = Database::open(&dir).unwrap();
    assert!(!db.is_logged_in().unwrap());
    assert_eq!(db.stored().unwrap().offline, [first, second]);
    db.set_logged_in(true).unwrap();
    db.set_online(&first, true).unwrap();
    // Whoever is no member of it any more starts afresh when it joins again.
    db.save(&Update::Removed(second)).unwrap();
    drop(db);
    let db = Database::open(&dir).unwrap();
    assert!(db.is_logged_in().unwrap());
    assert!(db.stored().unwrap().offline.is_empty());
}

#[test]
fn a_database_of_the_first_format_opens_with_everything_in_it() {
    let (_keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    let conn = rusqlite::Connection::open(dir.file("node.db")).unwrap();
    conn.execute_batch(include_str!("0001-start.sql")).unwrap();
    conn.execute("INSERT INTO meta VALUES ('org', ?1)", [[7u8; 32]])
        .unwrap();
    conn.pragma_update(None, "user_version", 1).unwrap();
    drop(conn);
    let mut db = Database::open(&dir).unwrap();
    assert_eq!(db.org().unwrap(), Some(OrgId([7; 32])));
    assert!(db.is_logged_in().unwrap());
    db.set_online(&NetworkId([1; 32]), false).unwrap();
    assert_eq!(db.stored().unwrap().offline, [NetworkId([1; 32])]);
}

/// Every format that a release has left on a disk must be opened by every later one. A change of the format adds a
/// fixture and leaves these as they are.
#[test]
fn the_state_of_every_release_is_opened_and_believed() {
    let (_keep, path) = place();
    let dir = StateDir::open(&path).unwrap();
    let fixtures = [
        ("identity.key", include_str!("fixtures/0001-identity.key")),
        ("tunnel.key", include_str!("fixtures/0001-tunnel.key")),
    ];
    for (name, text) in fixtures {
        dir.write(name, text.as_bytes()).unwrap();
    }
    let conn = rusqlite::Connection::open(dir.file("node.db")).unwrap();
    conn.execute_batch(include_str!("fixtures/0001.sql"))
        .unwrap();
    drop(conn);

    let (keys, new) = Keys::load(&dir).unwrap();
    let me = keys.identity.node_id();
    assert!(!new, "the address of the machine hangs on this key");
    let mut db = Database::open(&dir).unwrap();
    let org = db.org().unwrap().expect("an organisation");
    assert_eq!(db.ipv4().unwrap(), Some(Some([198, 19, 249, 154].into())));
    assert_eq!(db.port().unwrap(), Some(12976));
    assert!(!db.hints().unwrap().is_empty());
    assert_eq!(db.known_candidates().unwrap().len(), 1);
    let stored = db.stored().unwrap();
    assert_eq!((stored.floors.len(), stored.secrets.len()), (1, 1));
    let rosters = kanpachi_proto::roster::Rosters::load(org, me, stored).unwrap();
    let roster = rosters.rosters().next().expect("a roster");
    assert_eq!(roster.members().count(), 2);
    assert!(roster.member(&me).is_some());
    assert!(db.next_boot(UnixTime(0)).unwrap() > 1_700_000_000);
}
