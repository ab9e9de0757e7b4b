//! Datagrams of reflector and relay.

use std::net::{Ipv4Addr, SocketAddr};

use kanpachi_common::wire::relay::{
    SessionKey,
    datagram::{
        BIND_LEN, HEADER_LEN, decode_bind, decode_bound, decode_header, encode_bind, encode_bound,
        encode_header, is_authentic,
    },
};
use kanpachi_transport::reflect::{LEN, Request, Response, Via, answer};

/// A datagram as a request and as a response. What is read is what was written, and nothing is answered by more.
///
/// # Panics
/// When that does not hold.
pub fn reflector(data: &[u8]) {
    let from = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 5), 4000));
    let reply = answer(from, data);
    if let Some(request) = Request::decode(data) {
        assert_eq!(data, request.encode());
        assert_eq!(reply.is_some(), request.via == Via::Same);
        if let Some(reply) = reply {
            assert!(reply.len() <= data.len(), "an answer is no longer");
            let response = Response::decode(&reply).expect("an answer is one");
            assert_eq!((response.id, response.observed), (request.id, from));
        }
    } else {
        assert_eq!(reply, None);
    }
    if let Some(response) = Response::decode(data) {
        assert_eq!(data, response.encode());
        assert_eq!(data.len(), LEN);
        assert_ne!(response.observed.port(), 0);
    }
}

/// The key that the corpus is made with.
pub const RELAY_KEY: SessionKey = SessionKey([0x81; 32]);

/// A datagram as each of the relay's. What is read is what was written, whoever signed it, and nothing is two things.
///
/// # Panics
/// When that does not hold.
pub fn relay(data: &[u8]) {
    let authentic = is_authentic(data, &RELAY_KEY);
    assert!(!authentic || !is_authentic(data, &SessionKey([0; 32])));
    let bind = decode_bind(data);
    if let Some(bind) = bind {
        let written = encode_bind(&bind, &RELAY_KEY);
        assert_eq!(data[..32], written[..32]);
        assert_eq!(authentic, data == written);
    }
    let bound = decode_bound(data);
    if let Some((step, bind)) = bound {
        let written = encode_bound(step, &bind, &RELAY_KEY);
        assert_eq!(data[..32], written[..32]);
        assert_eq!(authentic, data == written);
    }
    let header = decode_header(data);
    if let Some((session, channel)) = header {
        assert_eq!(data[..HEADER_LEN], encode_header(session, channel));
        assert!(session != 0 && channel != 0 && data.len() > HEADER_LEN);
    }
    let kinds = [bind.is_some(), bound.is_some(), header.is_some()];
    assert!(kinds.into_iter().filter(|is| *is).count() <= 1);
    assert!(bind.is_none() && bound.is_none() || data.len() == BIND_LEN);
}
