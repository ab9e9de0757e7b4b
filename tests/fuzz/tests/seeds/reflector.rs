//! Datagrams of the reflector.

use kanpachi_transport::reflect::{Other, Request, Response, Via, encode_request};

use super::put;

pub(super) fn write() {
    let id = *b"12345678";
    let request = encode_request(id);
    put("reflector", "request", &request);
    let mut later = request;
    later[1] = 3;
    put("reflector", "request-of-version-3", &later);
    for (name, via) in [
        ("request-other-port", Via::OtherPort),
        (
            "request-other-ipv4",
            Via::OtherAddress([192, 0, 2, 7].into()),
        ),
        (
            "request-other-ipv6",
            Via::OtherAddress([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7].into()),
        ),
    ] {
        put("reflector", name, &Request { id, via }.encode());
    }
    put(
        "reflector",
        "request-too-long",
        &[&request[..], &[0]].concat(),
    );
    let response = |addr: &str| {
        let other = Other {
            port: Some(12977),
            address: true,
        };
        let observed = addr.parse().unwrap();
        Response {
            id,
            observed,
            other,
        }
        .encode()
    };
    put("reflector", "response-ipv4", &response("192.0.2.7:12975"));
    put("reflector", "response-ipv6", &response("[2001:db8::7]:1"));
    put("reflector", "response-multicast", &response("224.0.0.1:1"));
    put("reflector", "response-port-0", &response("192.0.2.7:0"));
}
