//! Client ids that collide.

use futures::executor::block_on;
use kanpachi_common::{ClientId, cbor, roster::Private};

use super::{Fixture, LAN, node};

fn private(f: &Fixture, n: u16) -> Private {
    let roster = block_on(f.store.roster(LAN)).unwrap();
    let entries = &roster.body().entries;
    let all = entries
        .iter()
        .map(|e| cbor::decode::<Private>(&e.private, Private::MAX_LEN).unwrap());
    all.into_iter()
        .find(|p| p.tunnel.verify(&node(n), &f.org))
        .unwrap()
}

#[test]
fn a_taken_client_id_is_settled_and_said_in_every_entry() {
    let f = Fixture::in_memory();
    f.make_invite(1, None);
    f.join(1, 1).unwrap();
    // Node 1 has what would be the first two of node 2.
    let (first, second) = (ClientId::of(&node(2), 0), ClientId::of(&node(2), 1));
    f.sqlite.with_connection(move |conn| {
        conn.execute("UPDATE node SET client_id = $1", [first.get()])
            .unwrap();
    });
    let joined = f.join(2, 1).unwrap();
    assert_eq!(joined.registration.client_id, Some(second));
    let entry = private(&f, 2);
    assert_eq!(ClientId::in_entry(&node(2), &entry.ext), second);
    // The other one says its own as soon as its entry is written again.
    let login = crate::store::Login {
        node: node(1),
        tunnel: f.tunnel(1, 2),
        held: vec![],
        may_sign: true,
        now: super::NOW,
    };
    block_on(f.store.login(login)).unwrap();
    let entry = private(&f, 1);
    assert_eq!(ClientId::in_entry(&node(1), &entry.ext), first);
    let roster = block_on(f.store.roster(LAN)).unwrap();
    assert!(roster.unusable().is_empty());
}
