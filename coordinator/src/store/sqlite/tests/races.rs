//! Many at once: one single-use invite has one winner, and no address has two owners.

use std::{collections::BTreeSet, sync::Arc};

use super::{Fixture, NOW};
use crate::store::{Refusal, Result, Store, StoreError};

async fn all_join(
    f: &Fixture,
    nodes: std::ops::Range<u16>,
    invite: u16,
) -> Vec<Result<crate::store::JoinedNetwork>> {
    let tasks: Vec<_> = nodes
        .map(|n| {
            let (store, join) = (Arc::clone(&f.store), f.joining(n, invite));
            tokio::spawn(async move { store.join_network(join).await })
        })
        .collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn of_200_joins_with_one_single_use_invite_one_succeeds() {
    let f = Fixture::on_file();
    f.store.create_invite(f.invite(1, Some(1))).await.unwrap();
    let results = all_join(&f, 0..200, 1).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    let used = StoreError::Refused(Refusal::InviteUsed);
    assert_eq!(
        results.iter().filter(|r| **r == Err(used.clone())).count(),
        199
    );
    let changes = f.store.changes_since(super::LAN, vec![]).await.unwrap();
    assert_eq!(changes.members.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn of_64_first_logins_every_one_gets_an_address_of_its_own() {
    let f = Fixture::on_file();
    f.store.create_invite(f.invite(1, None)).await.unwrap();
    let results = all_join(&f, 0..64, 1).await;
    let addresses: BTreeSet<_> = results
        .into_iter()
        .map(|r| r.unwrap().registration.ipv4.unwrap())
        .collect();
    assert_eq!(addresses.len(), 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn one_node_that_joins_in_parallel_is_one_member_and_uses_the_invite_once() {
    let f = Fixture::on_file();
    f.store.create_invite(f.invite(1, Some(2))).await.unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|i: u8| {
            let (store, mut join) = (Arc::clone(&f.store), f.joining(1, 1));
            join.member.0[31] = i;
            tokio::spawn(async move { store.join_network(join).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let mut other = f.joining(2, 1);
    other.now = NOW;
    f.store.join_network(other).await.unwrap();
    let changes = f.store.changes_since(super::LAN, vec![]).await.unwrap();
    assert_eq!(changes.members.len(), 2);
}
