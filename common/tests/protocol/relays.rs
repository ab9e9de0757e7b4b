//! One of each message of the relay's stream, and of its datagrams.

use kanpachi_common::wire::{
    frame::Frame,
    relay::{
        Channel, Open, Opened, Pair, PairState, Paired, Reason, RelayMessage as R, RelayRefused,
        Renew, SessionKey, Wanted, data_frame,
        datagram::{self, Bind, Step},
    },
};

use crate::{fixture::*, page::Vectors};

const KEY: SessionKey = SessionKey([0x81; 32]);
const SESSION: u32 = 0x1234_5678;

/// Names and frames of the relay's stream.
pub(crate) fn frames() -> Vec<(&'static str, Frame)> {
    let open = Open {
        min_version: 1,
        max_version: 1,
        org: org(),
        proofs: vec![proof(false)],
        manifest: Some(manifest()),
        ext: vec![],
    };
    let opened = Opened {
        version: 1,
        session: SESSION,
        key: KEY,
        rate: Some(62_500_000),
        ext: vec![],
    };
    let renew = Renew {
        proofs: vec![proof(false)],
    };
    let (channel, peer) = (3, node(3).node_id());
    let paired = Paired {
        channel,
        state: PairState::Open,
    };
    let refused = |reason, head| RelayRefused { reason, head };
    let gone = refused(Reason::NotAMember, Some(Box::new(head5())));
    vec![
        ("open", R::Open(Box::new(open)).frame(0)),
        ("opened", R::Opened(opened).frame(0)),
        ("renew", R::Renew(renew).frame(0)),
        ("pair", R::Pair(Pair { channel, peer }).frame(0)),
        ("unpair", R::Unpair(Channel { channel }).frame(0)),
        ("paired", R::Paired(paired).frame(0)),
        ("wanted", R::Wanted(Wanted { peer }).frame(0)),
        ("gone", R::Refused(gone).frame(0)),
        (
            "replaced",
            R::Refused(refused(Reason::Replaced, None)).frame(0),
        ),
        ("data", data_frame(channel, vec![0x82; 40])),
    ]
}

#[test]
fn frames_of_relays() {
    let mut v = Vectors::default();
    for (name, frame) in frames() {
        v.bytes(name, frame.to_bytes());
    }
    v.assert_on_page("relay");
}

#[test]
fn datagrams_of_relays() {
    let mut v = Vectors::default();
    let bind = |cookie| Bind {
        session: SESSION,
        nonce: [0x83; 8],
        cookie,
    };
    let (first, second) = (bind([0; 16]), bind([0x84; 16]));
    v.bytes("key", KEY.0);
    v.bytes("bind", datagram::encode_bind(&first, &KEY));
    let challenge = datagram::encode_bound(Step::Challenge, &second, &KEY);
    v.bytes("challenge", challenge);
    v.bytes("bind-again", datagram::encode_bind(&second, &KEY));
    let bound = datagram::encode_bound(Step::Bound, &second, &KEY);
    v.bytes("bound", bound);
    let header = datagram::encode_header(SESSION, 3);
    v.bytes("data", [&header[..], &[0x82; 40]].concat());
    v.assert_on_page("relay-datagrams");
}
