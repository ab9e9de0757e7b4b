//! The file: its modes, its neighbours, its settings, its versions, and what is not in it.

use std::{
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use futures::executor::block_on;
use kanpachi_common::Password;

use super::{Fixture, key, node, secret};
use crate::{
    org::Organisation,
    password::{Argon2id, Passwords as _},
    store::{
        Store, StoreError,
        sqlite::{DATABASE, Database, LOCK, open},
    },
};

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn refused(dir: &Path) -> StoreError {
    Database::open(dir).expect_err("the database must not open")
}

#[test]
fn only_the_owner_can_read_any_of_it() {
    let f = Fixture::on_file();
    f.make_invite(1, None);
    f.join(1, 1).unwrap();
    let dir = f.dir.as_ref().unwrap().path();
    assert_eq!(mode(dir), 0o700);
    let mut seen = 0;
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 4, "database, WAL, shared memory and lock");
}

#[test]
fn loose_modes_are_tightened() {
    let f = Fixture::on_file();
    let dir = f.dir.as_ref().unwrap().path().to_owned();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let database = dir.join(DATABASE);
    std::fs::set_permissions(&database, std::fs::Permissions::from_mode(0o644)).unwrap();
    let f = f.reopen();
    assert_eq!((mode(&dir), mode(&database)), (0o700, 0o600));
    f.changes();
}

#[test]
fn a_symbolic_link_in_the_way_is_refused_and_not_followed() {
    for name in [DATABASE, LOCK, "coordinator.db-wal", "coordinator.db-shm"] {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let target = elsewhere.path().join("target");
        symlink(&target, dir.path().join(name)).unwrap();
        assert!(
            refused(dir.path()).to_string().contains("symbolic link"),
            "{name}"
        );
        assert!(!target.exists(), "{name}");
    }
    // Above the directory links are ordinary.
    let real = tempfile::tempdir().unwrap();
    let parent = tempfile::tempdir().unwrap();
    let link = parent.path().join("state");
    symlink(real.path(), &link).unwrap();
    Database::open(&link).unwrap();
    let blocked = tempfile::tempdir().unwrap();
    std::fs::create_dir(blocked.path().join(DATABASE)).unwrap();
    assert!(refused(blocked.path()).to_string().contains("not a file"));
}

#[test]
fn a_second_coordinator_on_the_directory_is_refused() {
    let f = Fixture::on_file();
    let dir = f.dir.as_ref().unwrap().path();
    assert!(matches!(refused(dir), StoreError::InUse(_)));
    f.reopen();
}

#[test]
fn the_engine_is_set_as_it_must_be() {
    let f = Fixture::on_file();
    let read = |pragma: &'static str| {
        f.sqlite.with_connection(move |conn| {
            conn.query_row(&format!("PRAGMA {pragma}"), [], |row| {
                row.get_ref(0).map(|v| match v {
                    rusqlite::types::ValueRef::Integer(i) => i.to_string(),
                    other => other.as_str().unwrap().to_owned(),
                })
            })
            .unwrap()
        })
    };
    assert_eq!(read("journal_mode"), "wal");
    assert_eq!(read("synchronous"), "2", "FULL");
    assert_eq!(read("foreign_keys"), "1");
    assert_eq!(read("busy_timeout"), "5000");
    assert_eq!(read("trusted_schema"), "0");
    assert_eq!(read("secure_delete"), "1");
    assert_eq!(read("cell_size_check"), "1");
    assert_eq!(read("application_id"), 0x4b50_436f.to_string());
    assert_eq!(read("user_version"), "0", "schema_version is a table");
}

#[test]
fn migrations_run_once_each_in_order_and_all_or_nothing() {
    let mut conn = rusqlite::Connection::open_in_memory().unwrap();
    let sql = open::Migration::sql;
    let (first, second) = (sql("CREATE TABLE a (x)"), sql("ALTER TABLE a ADD COLUMN y"));
    open::migrate(&mut conn, &[first]).unwrap();
    open::migrate(&mut conn, &[first]).unwrap();
    let broken = open::migrate(&mut conn, &[first, second, sql("nonsense")]);
    assert!(matches!(broken, Err(StoreError::Failed(_))));
    let columns = |conn: &rusqlite::Connection| -> u32 {
        conn.query_row("SELECT count(*) FROM pragma_table_info('a')", [], |r| {
            r.get(0)
        })
        .unwrap()
    };
    assert_eq!(columns(&conn), 1, "the second went back with the third");
    open::migrate(&mut conn, &[first, second]).unwrap();
    assert_eq!(columns(&conn), 2);
    let older = open::migrate(&mut conn, &[first]).unwrap_err();
    assert_eq!(older, StoreError::Newer { found: 2, known: 1 });
    assert!(older.to_string().contains("update Kanpachi"));
}

#[test]
fn the_schema_is_what_the_migrations_make_of_it() {
    let f = Fixture::on_file();
    let tables = f.sqlite.with_connection(|conn| {
        let mut names = conn
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name")
            .unwrap();
        let names = names.query_map([], |row| row.get::<_, String>(0)).unwrap();
        names.collect::<rusqlite::Result<Vec<_>>>().unwrap()
    });
    assert_eq!(
        tables,
        [
            "abandoned",
            "address",
            "ban",
            "directory",
            "displaced",
            "head",
            "invite",
            "member",
            "network",
            "node",
            "organisation",
            "recovery",
            "removed",
            "schema_version",
            "secret",
            "server",
            "shown",
            "suspension"
        ]
    );
}

#[test]
fn a_newer_or_foreign_file_is_refused_and_left_alone() {
    let f = Fixture::on_file();
    f.sqlite.with_connection(|conn| {
        conn.execute("INSERT INTO schema_version (version) VALUES (99)", [])
            .unwrap();
    });
    let dir = f.stop();
    let newer = refused(dir.path());
    assert!(matches!(newer, StoreError::Newer { found: 99, .. }));

    let dir = tempfile::tempdir().unwrap();
    let conn = rusqlite::Connection::open(dir.path().join(DATABASE)).unwrap();
    conn.execute_batch("CREATE TABLE bookmarks (url)").unwrap();
    drop(conn);
    assert!(refused(dir.path()).to_string().contains("another program"));
}

#[test]
fn neither_invites_nor_passwords_nor_phrase_nor_root_key_are_in_any_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut database = Database::open(dir.path()).unwrap();
    let organisation = Organisation::open(&mut database, None, super::NOW).unwrap();
    let phrase = organisation.phrase.clone().unwrap();
    let root = organisation
        .sealed_root
        .open(&phrase, &organisation.org())
        .unwrap();
    let store = database.into_store(organisation.signer.clone()).unwrap();
    block_on(store.create_network(super::new_network(super::LAN, "lan"))).unwrap();
    let invite = crate::store::NewInvite {
        network: super::LAN,
        by: None,
        token_hash: super::hash_of(7),
        uses: Some(1),
        expires_at: super::NOW.plus(9),
        founder: false,
        now: super::NOW,
    };
    block_on(store.create_invite(invite)).unwrap();
    let password = Password::new("canary of a password").unwrap();
    let hash = tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(Argon2id::new().unwrap().hash(password.clone()))
        .unwrap();
    let tunnel = kanpachi_common::TunnelKey::sign(&key(1), &organisation.org(), 1, [7; 32]);
    let join = crate::store::JoinNetwork {
        token_hash: super::hash_of(7),
        node: node(1),
        tunnel,
        name: "m1".to_owned(),
        member: kanpachi_common::MemberId([1; 32]),
        salt: [1; 16],
        now: super::NOW,
    };
    block_on(store.join_network(join)).unwrap();
    let create = crate::store::CreateNetwork {
        new: super::new_network(kanpachi_common::NetworkId([0xbb; 32]), "games"),
        password: Some(hash),
        owner: crate::store::Newcomer {
            node: node(1),
            name: "m1".to_owned(),
            member: kanpachi_common::MemberId([2; 32]),
            salt: [2; 16],
        },
    };
    block_on(store.create_network_by(create)).unwrap();
    let words: Vec<&str> = phrase.expose().split(' ').collect();
    let three = words[3..6].join(" ");
    let canaries: Vec<Vec<u8>> = vec![
        password.expose().as_bytes().to_vec(),
        secret(7).0.to_vec(),
        secret(7).token().to_vec(),
        root.seed().to_vec(),
        phrase.expose().as_bytes().to_vec(),
        three.into_bytes(),
    ];
    let check = |name: &str| {
        let bytes = std::fs::read(dir.path().join(name)).unwrap();
        assert!(!bytes.is_empty(), "{name}");
        for canary in &canaries {
            let found = bytes.windows(canary.len()).any(|window| window == canary);
            assert!(!found, "a secret is in {name}");
        }
        // The search works: what must be there is found.
        bytes.windows(32).any(|w| w == super::hash_of(7).0)
    };
    assert!(check(DATABASE) | check("coordinator.db-wal"));
    drop(store);
    assert!(check(DATABASE));
}
