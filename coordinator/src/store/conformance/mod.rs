//! A suite that every implementation of [`Store`] has to pass, written against the trait alone.
//!
//! `conformance!(MAKE, MAKE_SMALL)` makes one test of each check. `MAKE` gives a value that derefs to a [`Subject`] with
//! a pool of its own size, `MAKE_SMALL` one whose pool has 14 addresses.

pub(crate) mod changes;
pub(crate) mod races;
pub(crate) mod recovery;
pub(crate) mod suite;

use std::sync::Arc;

use futures::executor::block_on;
use kanpachi_common::{
    MemberId, NetworkId, NodeId, OrgId, SecretKey, TunnelKey, UnixTime,
    id::Hash,
    invite::{InviteSecret, token_hash},
    secret::NetworkSecret,
};

use crate::org::Signer;

use super::{
    Changes, JoinNetwork, JoinedNetwork, NewInvite, NewNetwork, Result, Store, StoreError,
};

pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);
pub(crate) const LAN: NetworkId = NetworkId([0xaa; 32]);

/// A store with a network called "lan", and the means to join it.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) org: OrgId,
    /// Signs what the store has not signed: what another life of it did.
    pub(crate) signer: Signer,
}

pub(crate) fn key(n: u16) -> SecretKey {
    let mut seed = [0x5a; 32];
    seed[..2].copy_from_slice(&n.to_be_bytes());
    SecretKey::from_seed(&seed)
}

pub(crate) fn node(n: u16) -> NodeId {
    key(n).node_id()
}

pub(crate) fn secret(n: u16) -> InviteSecret {
    let mut bytes = [0x77; 16];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    InviteSecret(bytes)
}

pub(crate) fn hash_of(n: u16) -> Hash {
    token_hash(&secret(n).token())
}

impl Subject {
    /// A store that holds an organisation and nothing else.
    pub(crate) fn new(store: Arc<dyn Store>, signer: Signer) -> Self {
        block_on(store.create_network(new_network(LAN, "lan"))).unwrap();
        let org = signer.org();
        Self { store, org, signer }
    }

    pub(crate) fn tunnel(&self, n: u16, serial: u64) -> TunnelKey {
        let key_bytes = [u8::try_from(serial % 251).unwrap(); 32];
        TunnelKey::sign(&key(n), &self.org, serial, key_bytes)
    }

    pub(crate) fn invite(&self, n: u16, uses: Option<u32>) -> NewInvite {
        NewInvite {
            network: LAN,
            by: None,
            token_hash: hash_of(n),
            uses,
            expires_at: NOW.plus(3600),
            founder: false,
            now: NOW,
        }
    }

    pub(crate) fn make_invite(&self, n: u16, uses: Option<u32>) {
        block_on(self.store.create_invite(self.invite(n, uses))).unwrap();
    }

    pub(crate) fn joining(&self, n: u16, invite: u16) -> JoinNetwork {
        let mut member = [0x11; 32];
        member[..2].copy_from_slice(&n.to_be_bytes());
        JoinNetwork {
            token_hash: hash_of(invite),
            node: node(n),
            tunnel: self.tunnel(n, 1),
            name: format!("m{n}"),
            member: MemberId(member),
            salt: [9; 16],
            now: NOW.plus(1),
        }
    }

    pub(crate) fn join(&self, n: u16, invite: u16) -> Result<JoinedNetwork> {
        block_on(self.store.join_network(self.joining(n, invite)))
    }

    /// A node that is in the organisation already, with a membership of its own.
    pub(crate) fn join_again(&self, n: u16, invite: u16, time: u8) -> Result<JoinedNetwork> {
        let mut join = self.joining(n, invite);
        join.member.0[31] = time;
        block_on(self.store.join_network(join))
    }

    pub(crate) fn changes(&self) -> Changes {
        block_on(self.store.changes_since(LAN, vec![])).unwrap()
    }
}

/// The membership of a node.
pub(crate) fn member_of(f: &Subject, network: NetworkId, n: u16) -> MemberId {
    let changes = block_on(f.store.changes_since(network, vec![])).unwrap();
    let found = changes.members.iter().find(|m| m.node == node(n));
    found.expect("a member").member
}

pub(crate) fn new_network(network: NetworkId, name: &str) -> NewNetwork {
    NewNetwork {
        network,
        name: name.to_owned(),
        secret: NetworkSecret::new(1, [0xcc; 32]),
        soft_seconds: kanpachi_common::roster::SOFT_SECONDS,
        hard_seconds: Some(kanpachi_common::roster::HARD_SECONDS),
        now: NOW,
    }
}

pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T>) -> crate::store::Refusal {
    match result {
        Err(StoreError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// One test for each check.
macro_rules! conformance {
    ($make:path, $small:path) => {
        $crate::store::conformance::conformance!(@ $make, suite:
            a_join_makes_a_member_with_addresses_under_a_signed_head,
            an_invite_is_used_up_and_the_same_node_may_ask_twice,
            invites_for_several_and_for_any_number,
            an_expired_invite_is_refused_as_such,
            names_are_unique_whatever_their_case,
            the_first_by_a_founders_invite_owns_and_only_owners_invite,
            deltas_lead_from_any_kept_epoch_to_the_newest_roster,
            whoever_holds_nothing_or_something_else_gets_the_whole,
            a_newer_tunnel_key_is_taken_and_an_older_one_refused,
            an_unknown_node_is_told_that_it_is_not_registered,
            removal_changes_the_secret_and_revokes_the_ways_back,
            renewal_keeps_the_root_and_moves_the_time,
            networks_have_names_of_their_own,
            the_directory_is_signed_again_only_when_it_changes,
        );
        $crate::store::conformance::conformance!(@ $small, suite:
            an_address_is_kept_for_life_and_rests_when_it_is_free,
            a_pool_does_not_leak_addresses_over_many_lives,
        );
        $crate::store::conformance::conformance!(@ $make, changes:
            a_network_is_made_with_its_owner_in_one_step_and_once,
            a_node_is_in_so_many_networks_and_no_more,
            a_password_lets_in_only_while_it_is_the_one_that_was_verified,
            a_locked_network_takes_nobody_and_uses_no_invite_up,
            whoever_needs_approval_is_listed_and_registered_as_waiting,
            a_founder_needs_nobodys_approval,
            an_evicted_node_stays_out_until_it_is_invited_again,
            eviction_revokes_what_the_node_came_by_and_made,
            a_network_has_an_owner_until_it_ends,
            a_deleted_network_leaves_a_last_head_and_nothing_else,
            an_address_rests_when_the_last_network_of_its_node_ends,
            every_node_has_the_client_id_of_its_key,
        );
        $crate::store::conformance::conformance!(@ $make, recovery:
            a_login_says_how_what_it_holds_stands_to_what_is_stored,
            a_roster_that_a_member_shows_is_taken_over_whole,
            a_network_that_was_forgotten_comes_back_with_what_its_head_says,
            nothing_is_signed_or_given_out_in_recovery,
            a_recovery_ends_above_everything_that_was_seen,
            an_address_that_the_store_gave_away_goes_to_whom_the_roster_says,
            a_suspension_is_an_eviction_or_nothing,
            a_suspension_waits_for_the_end_of_a_recovery_and_holds_meanwhile,
        );
        $crate::store::conformance::conformance!(@ $make, races:
            of_200_joins_with_one_single_use_invite_one_succeeds,
            of_64_first_logins_every_one_gets_an_address_and_a_client_id_of_its_own,
            one_node_that_joins_in_parallel_is_one_member_and_uses_the_invite_once,
        );
    };
    (@ $make:path, $theme:ident: $($check:ident,)*) => {
        $(#[test]
        fn $check() {
            $crate::store::conformance::$theme::$check(&$make());
        })*
    };
}
pub(crate) use conformance;
