//! Reflector datagrams.

use std::net::{Ipv4Addr, SocketAddr};

use kanpachi_transport::reflect::{
    LEN, answer, decode_request, decode_response, encode_request, encode_response,
};

/// A datagram as a request and as a response. What is read is what was written, and nothing is answered by more.
///
/// # Panics
/// When that does not hold.
pub fn reflector(data: &[u8]) {
    let from = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 5), 4000));
    if let Some(id) = decode_request(data) {
        assert_eq!(data, encode_request(id));
        let reply = answer(from, data).expect("a request is answered");
        assert!(reply.len() <= data.len(), "an answer is no longer");
        assert_eq!(decode_response(&reply), Some((id, from)));
    } else {
        assert_eq!(answer(from, data), None);
    }
    if let Some((id, observed)) = decode_response(data) {
        assert_eq!(data, encode_response(id, observed));
        assert_eq!(data.len(), LEN);
        assert_ne!(observed.port(), 0);
    }
}
