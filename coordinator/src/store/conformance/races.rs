//! Many at once: one single-use invite has one winner, and no address has two owners.

use std::{collections::BTreeSet, sync::Arc};

use super::{LAN, Subject};
use crate::store::{JoinNetwork, JoinedNetwork, Refusal, Result, StoreError};

/// Joins from as many tasks on eight threads.
fn all_join(f: &Subject, joins: Vec<JoinNetwork>) -> Vec<Result<JoinedNetwork>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(8)
        .build()
        .unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = joins
            .into_iter()
            .map(|join| {
                let store = Arc::clone(&f.store);
                tokio::spawn(async move { store.join_network(join).await })
            })
            .collect();
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await.unwrap());
        }
        results
    })
}

pub(crate) fn of_200_joins_with_one_single_use_invite_one_succeeds(f: &Subject) {
    f.make_invite(1, Some(1));
    let results = all_join(f, (0..200).map(|n| f.joining(n, 1)).collect());
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    let used = StoreError::Refused(Refusal::InviteUsed);
    let refused = results.iter().filter(|r| **r == Err(used.clone()));
    assert_eq!(refused.count(), 199);
    assert_eq!(f.changes().members.len(), 1);
}

pub(crate) fn of_64_first_logins_every_one_gets_an_address_and_a_client_id_of_its_own(f: &Subject) {
    f.make_invite(1, None);
    let results = all_join(f, (0..64).map(|n| f.joining(n, 1)).collect());
    let registrations: Vec<_> = results
        .into_iter()
        .map(|r| r.unwrap().registration)
        .collect();
    let addresses: BTreeSet<_> = registrations.iter().map(|r| r.ipv4.unwrap()).collect();
    let ids: BTreeSet<_> = registrations.iter().map(|r| r.client_id.unwrap()).collect();
    assert_eq!((addresses.len(), ids.len()), (64, 64));
}

pub(crate) fn one_node_that_joins_in_parallel_is_one_member_and_uses_the_invite_once(f: &Subject) {
    f.make_invite(1, Some(2));
    let joins = (0..50).map(|i: u8| {
        let mut join = f.joining(1, 1);
        join.member.0[31] = i;
        join
    });
    for result in all_join(f, joins.collect()) {
        result.unwrap();
    }
    f.join(2, 1).unwrap();
    assert_eq!(f.changes().members.len(), 2);
    assert_eq!(f.changes().network, LAN);
}
