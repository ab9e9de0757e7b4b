//! Datagrams of the relay.

use kanpachi_common::wire::relay::datagram::{
    Bind, Step, encode_bind, encode_bound, encode_header,
};
use kanpachi_fuzz::targets::datagram::RELAY_KEY;

use super::put;

pub(super) fn write() {
    let bind = Bind {
        session: 0x1234_5678,
        nonce: [0x83; 8],
        cookie: [0x84; 16],
    };
    let datagram = encode_bind(&bind, &RELAY_KEY);
    put("relay", "bind", &datagram);
    let mut forged = datagram;
    forged[47] ^= 1;
    put("relay", "bind-of-another-key", &forged);
    let mut later = datagram;
    later[1] = 2;
    put("relay", "bind-of-version-2", &later);
    let nobody = Bind { session: 0, ..bind };
    put(
        "relay",
        "bind-of-no-session",
        &encode_bind(&nobody, &RELAY_KEY),
    );
    put("relay", "bind-too-long", &[&datagram[..], &[0]].concat());
    for (name, step) in [("challenge", Step::Challenge), ("bound", Step::Bound)] {
        put("relay", name, &encode_bound(step, &bind, &RELAY_KEY));
    }
    let data = |session, channel, len: usize| {
        let header = encode_header(session, channel);
        [&header[..], &vec![0x82; len]].concat()
    };
    put("relay", "data", &data(bind.session, 3, 40));
    put("relay", "data-of-nothing", &data(bind.session, 3, 0));
    put("relay", "data-on-channel-0", &data(bind.session, 0, 40));
}
