//! Answers of routers.

use super::put;

pub(super) fn write() {
    let with_len = |datagrams: &[&[u8]]| {
        let each = datagrams.iter().map(|d| [&[d.len() as u8], *d].concat());
        [vec![0], each.collect::<Vec<_>>().concat()].concat()
    };
    let address = [0, 128, 0, 0, 0, 0, 0, 9, 203, 0, 113, 9];
    let mapped = [
        0, 129, 0, 0, 0, 0, 0, 9, 0x32, 0xb0, 0x32, 0xb0, 0, 0, 0x1c, 0x20,
    ];
    let refused = [0, 128, 0, 1, 0, 0, 0, 9];
    put(
        "router",
        "nat-pmp",
        &with_len(&[&address, &address, &refused, &mapped]),
    );
    let private = [0, 128, 0, 0, 0, 0, 0, 9, 10, 0, 0, 1];
    put(
        "router",
        "nat-pmp-private",
        &with_len(&[&private, &private, &refused, &mapped]),
    );
    let mut pcp = [0_u8; 60];
    pcp[..2].copy_from_slice(&[2, 0x81]);
    pcp[4..12].copy_from_slice(&[0, 0, 0x1c, 0x20, 0, 0, 0, 9]);
    pcp[36] = 17;
    pcp[40..44].copy_from_slice(&[0x32, 0xb0, 0x32, 0xb0]);
    pcp[54..].copy_from_slice(&[0xff, 0xff, 203, 0, 113, 9]);
    put("router", "pcp", &with_len(&[&pcp]));
    let text = |text: &str| [&[1], text.as_bytes()].concat();
    let found = "HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1:5000/root.xml\r\n\r\n";
    put("router", "ssdp", &text(found));
    let service = "urn:schemas-upnp-org:service:WANIPConnection:1";
    let description = format!(
        "HTTP/1.1 200 OK\r\n\r\n<service><serviceType>{service}</serviceType>\
         <controlURL>http://192.168.1.1:5000/control</controlURL></service>"
    );
    put("router", "description", &text(&description));
    let ip = "HTTP/1.0 200 OK\r\n\r\n<NewExternalIPAddress>203.0.113.9</NewExternalIPAddress>";
    put("router", "external-address", &text(ip));
    let error = "HTTP/1.1 500 no\r\n\r\n<errorCode>725</errorCode>";
    put("router", "error", &text(error));
}
