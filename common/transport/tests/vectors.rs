//! The reflector's test vectors in `docs/protocol.md`.

#[path = "../../tests/protocol/page.rs"]
mod page;

use std::net::SocketAddr;

use kanpachi_transport::reflect::{self, Other, Request, Response, Via};
use page::Vectors;

#[test]
fn both_datagrams() {
    let mut v = Vectors::default();
    let request = reflect::encode_request(*b"\x01\x02\x03\x04\x05\x06\x07\x08");
    v.bytes("request", request);
    let id = *b"\x01\x02\x03\x04\x05\x06\x07\x08";
    let other = |via| Request { id, via }.encode();
    v.bytes("request-other-port", other(Via::OtherPort));
    let asked = Via::OtherAddress([192, 0, 2, 1].into());
    v.bytes("request-other-address", other(asked));
    for (name, from) in [
        ("ipv4", "198.51.100.4:40000"),
        ("ipv6", "[2001:db8::20]:12976"),
    ] {
        let from: SocketAddr = from.parse().unwrap();
        v.text(&format!("{name}.from"), from);
        let response = reflect::answer(from, &request).unwrap();
        v.bytes(&format!("{name}.response"), response);
    }
    let response = Response {
        id,
        observed: "198.51.100.4:40000".parse().unwrap(),
        other: Other {
            port: Some(12977),
            address: true,
        },
    };
    v.bytes("ipv4.response-with-others", response.encode());
    v.assert_on_page("reflector");
}
