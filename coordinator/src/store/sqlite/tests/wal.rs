//! A power cut at any moment: the WAL ends anywhere, and what it holds up to there counts.

use std::{fs, path::Path};

use futures::executor::block_on;

use super::{Fixture, LAN, NOW};
use crate::{
    org::Organisation,
    store::{
        Store as _, StoreError,
        sqlite::{DATABASE, Database},
    },
};

/// Bytes before the first frame, and before the page of each.
const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// Where a frame ends, and how many transactions are whole with it.
fn frames(wal: &[u8]) -> Vec<(usize, usize)> {
    let page = u32::from_be_bytes(wal[8..12].try_into().unwrap()) as usize;
    let salt = &wal[16..24];
    let (mut at, mut commits, mut out) = (HEADER, 0, vec![]);
    while at + FRAME_HEADER + page <= wal.len() {
        // Behind a checkpoint stand frames of the round before, with another salt.
        if wal[at + 8..at + 16] != *salt {
            break;
        }
        let size = u32::from_be_bytes(wal[at + 4..at + 8].try_into().unwrap());
        commits += usize::from(size != 0);
        at += FRAME_HEADER + page;
        out.push((at, commits));
    }
    out
}

/// Opens what is left and says how many members are in it, and at which epoch.
fn members(dir: &Path) -> (usize, u64) {
    let mut database = Database::open(dir).unwrap();
    let organisation = Organisation::open(&mut database, None, NOW).unwrap();
    let store = database.into_store(organisation.signer).unwrap();
    let whole: String = store.with_connection(|conn| {
        conn.query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap()
    });
    assert_eq!(whole, "ok");
    match block_on(store.roster(LAN)) {
        Ok(roster) => {
            assert!(roster.unusable().is_empty());
            (roster.members().count(), roster.head().epoch)
        }
        Err(StoreError::Refused(_)) => (0, 0),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_wal_that_ends_anywhere_holds_every_transaction_up_to_there() {
    const JOINS: u16 = 8;
    let f = Fixture::on_file();
    f.make_invite(1, None);
    let dir = f.dir.as_ref().unwrap().path().to_owned();
    // Everything before is in the database itself; no checkpoint comes in between.
    f.sqlite.with_connection(|conn| {
        conn.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
    });
    let first = f.changes().position.epoch;
    for n in 0..JOINS {
        f.join(n, 1).unwrap();
    }
    let database = fs::read(dir.join(DATABASE)).unwrap();
    let wal = fs::read(dir.join("coordinator.db-wal")).unwrap();
    let frames = frames(&wal);
    assert_eq!(
        frames.last().unwrap().1,
        usize::from(JOINS),
        "a commit a join"
    );
    assert!(frames.len() > usize::from(JOINS) * 3, "{}", frames.len());

    let copy = tempfile::tempdir().unwrap();
    let cut = |end: usize, commits: usize| {
        for file in fs::read_dir(copy.path()).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        fs::write(copy.path().join(DATABASE), &database).unwrap();
        fs::write(copy.path().join("coordinator.db-wal"), &wal[..end]).unwrap();
        let (members, epoch) = members(copy.path());
        assert_eq!(members, commits, "cut at {end}");
        assert_eq!(epoch, first + commits as u64, "cut at {end}");
    };
    cut(0, 0);
    cut(HEADER, 0);
    let mut before = 0;
    for (end, commits) in frames {
        // Within the header of the frame, within its page, and at its end.
        let start = end - FRAME_HEADER - 4096;
        cut(start + FRAME_HEADER / 2, before);
        cut(end - 1, before);
        cut(end, commits);
        before = commits;
    }
}

#[test]
fn a_wal_whose_end_is_noise_holds_every_transaction_before_it() {
    let f = Fixture::on_file();
    f.make_invite(1, None);
    let dir = f.dir.as_ref().unwrap().path().to_owned();
    for n in 0..3 {
        f.join(n, 1).unwrap();
    }
    let database = fs::read(dir.join(DATABASE)).unwrap();
    let mut wal = fs::read(dir.join("coordinator.db-wal")).unwrap();
    let last = frames(&wal).last().unwrap().0;
    wal.truncate(last);
    wal[last - 2000..].fill(0xa5);
    let copy = tempfile::tempdir().unwrap();
    fs::write(copy.path().join(DATABASE), &database).unwrap();
    fs::write(copy.path().join("coordinator.db-wal"), &wal).unwrap();
    assert_eq!(
        members(copy.path()).0,
        2,
        "the last one was not written whole"
    );
}
