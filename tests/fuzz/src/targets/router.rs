//! What a router, or whoever takes its place, answers to those who want ports forwarded.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use kanpachi_proto::portmap::{
    Mapper, Protocol, Wanted, is_public,
    upnp::{Place, body, control, external_address, location},
};

/// Where the router is.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const WANTED: Wanted = Wanted {
    protocol: Protocol::Udp,
    port: 12976,
};

/// The first byte says which: datagrams of PCP and NAT-PMP, each after its length, or texts of UPnP.
///
/// # Panics
/// When an address is believed that leads nowhere, or another machine than the router is followed.
pub fn router(data: &[u8]) {
    match data.split_first() {
        Some((0, rest)) => datagrams(rest),
        Some((_, rest)) => texts(rest),
        None => {}
    }
}

fn datagrams(mut rest: &[u8]) {
    let start = Instant::now();
    let mut now = start;
    let mut mapper = Mapper::new(Ipv4Addr::new(192, 168, 1, 2), &[WANTED], [7; 32], now);
    while let Some((len, after)) = rest.split_first() {
        let len = usize::from(*len).min(after.len());
        let (datagram, after) = after.split_at(len);
        mapper.handle_datagram(datagram, now);
        rest = after;
        now += Duration::from_millis(300);
        mapper.handle_timeout(now);
        assert!(mapper.mappings().all(|m| is_public(*m.external.ip())));
        let sent = std::iter::from_fn(|| mapper.poll_transmit()).count();
        assert!(sent <= 8, "one answer makes few questions");
        assert!(mapper.poll_timeout().is_some(), "it goes on");
    }
    mapper.release();
}

fn texts(text: &[u8]) {
    if let Some(place) = location(text, ROUTER) {
        assert_eq!(*place.at.ip(), ROUTER);
    }
    let from = Place {
        at: SocketAddrV4::new(ROUTER, 5000),
        path: "/".to_owned(),
    };
    let Ok(body) = body(text) else { return };
    if let Some(control) = control(&body, &from) {
        assert_eq!(*control.place.at.ip(), ROUTER);
        assert!(control.place.path.bytes().all(|b| b.is_ascii_graphic()));
    }
    assert!(external_address(&body).is_none_or(is_public));
}
