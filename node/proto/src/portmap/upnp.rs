//! The texts of UPnP: finding a router (SSDP), what it describes, and the few SOAP calls for mappings.
//!
//! No XML parser: of a description only two elements are of interest, and what a stranger puts around them cannot hurt
//! a search for text. Everything read is bounded by its caller.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
};

use super::{Protocol, Wanted, is_public};

/// Where routers listen for searches.
pub const MULTICAST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
/// Longest path that is taken from a stranger.
const MAX_PATH: usize = 256;
/// Services that map ports, best first.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];
/// What a mapping is called in the router.
const DESCRIPTION: &str = "kanpachi";

/// A place on the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its address and port.
    pub at: SocketAddrV4,
    /// The path there.
    pub path: String,
}

/// The service that maps ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Where its calls go.
    pub place: Place,
    /// Its name.
    pub service: &'static str,
}

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Which public address does the router have?
    ExternalAddress,
    /// Forward a port.
    Add {
        /// The port here.
        wanted: Wanted,
        /// This machine.
        client: Ipv4Addr,
        /// The port outside.
        external: u16,
        /// For so many seconds; 0 for ever, as some routers insist.
        lifetime: u32,
    },
    /// Forward it no longer.
    Delete {
        /// Which protocol.
        protocol: Protocol,
        /// The port outside.
        external: u16,
    },
}

/// The search for a router.
#[must_use]
pub fn search() -> String {
    "M-SEARCH * HTTP/1.1\r\n\
     HOST: 239.255.255.250:1900\r\n\
     ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\
     MAN: \"ssdp:discover\"\r\n\
     MX: 1\r\n\r\n"
        .to_owned()
}

/// Where the description is, from the answer to a search. The router has to speak for itself: an answer that leads
/// to another machine is not followed.
#[must_use]
pub fn location(answer: &[u8], router: Ipv4Addr) -> Option<Place> {
    let text = std::str::from_utf8(answer).ok()?;
    let mut lines = text.lines();
    lines
        .next()
        .filter(|line| line.starts_with("HTTP/1.1 200"))?;
    let url = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim()
            .eq_ignore_ascii_case("location")
            .then(|| value.trim())
    })?;
    place(url, router)
}

/// Reads a URL on the router.
fn place(url: &str, router: Ipv4Addr) -> Option<Place> {
    let rest = url.strip_prefix("http://")?;
    let at = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    let at = match host.parse::<SocketAddrV4>() {
        Ok(at) => at,
        Err(_) => SocketAddrV4::new(host.parse().ok()?, 80),
    };
    let path = path_of(if path.is_empty() { "/" } else { path })?;
    (*at.ip() == router && at.port() != 0).then_some(Place { at, path })
}

/// A path that can stand in a request line.
fn path_of(path: &str) -> Option<String> {
    let plain = path.bytes().all(|b| b.is_ascii_graphic());
    (plain && path.starts_with('/') && path.len() <= MAX_PATH).then(|| path.to_owned())
}

/// Finds the service that maps ports in a description that was read at this place.
#[must_use]
pub fn control(description: &str, from: &Place) -> Option<Control> {
    SERVICES.iter().find_map(|service| {
        let (_, after) = description.split_once(service)?;
        // Its address is in the same element.
        let own = after.split("</service>").next()?;
        let url = element(own, "controlURL")?;
        let place = match url.strip_prefix("http://") {
            Some(_) => place(url, *from.at.ip())?,
            None => Place {
                at: from.at,
                path: path_of(&format!("/{}", url.trim_start_matches('/')))?,
            },
        };
        Some(Control { place, service })
    })
}

/// What stands in an element.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once(&format!("</{name}>"))?;
    Some(value.trim())
}

/// The request for a description.
#[must_use]
pub fn get(place: &Place) -> String {
    format!("GET {} HTTP/1.0\r\nHost: {}\r\n\r\n", place.path, place.at)
}

/// The request of a call.
#[must_use]
pub fn call(control: &Control, call: Call) -> String {
    let word = |protocol| match protocol {
        Protocol::Udp => "UDP",
        Protocol::Tcp => "TCP",
    };
    let (action, arguments) = match call {
        Call::ExternalAddress => ("GetExternalIPAddress", String::new()),
        Call::Add {
            wanted,
            client,
            external,
            lifetime,
        } => {
            let mut out = String::new();
            let _ = write!(
                out,
                "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort>\
                 <NewProtocol>{}</NewProtocol><NewInternalPort>{}</NewInternalPort>\
                 <NewInternalClient>{client}</NewInternalClient><NewEnabled>1</NewEnabled>\
                 <NewPortMappingDescription>{DESCRIPTION}</NewPortMappingDescription>\
                 <NewLeaseDuration>{lifetime}</NewLeaseDuration>",
                word(wanted.protocol),
                wanted.port
            );
            ("AddPortMapping", out)
        }
        Call::Delete { protocol, external } => (
            "DeletePortMapping",
            format!(
                "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort>\
                 <NewProtocol>{}</NewProtocol>",
                word(protocol)
            ),
        ),
    };
    let service = control.service;
    let body = format!(
        "<?xml version=\"1.0\"?>\
         <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
         <u:{action} xmlns:u=\"{service}\">{arguments}</u:{action}></s:Body></s:Envelope>"
    );
    format!(
        "POST {} HTTP/1.0\r\nHost: {}\r\nContent-Type: text/xml; charset=\"utf-8\"\r\n\
         SOAPAction: \"{service}#{action}\"\r\nContent-Length: {}\r\n\r\n{body}",
        control.place.path,
        control.place.at,
        body.len()
    )
}

/// The body of a good answer, or the number of the error.
///
/// # Errors
/// UPnP's error number; 0 when there is none to be read.
pub fn body(answer: &[u8]) -> Result<String, u16> {
    let text = String::from_utf8_lossy(answer);
    let good = text.starts_with("HTTP/1.1 200") || text.starts_with("HTTP/1.0 200");
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    if good {
        return Ok(body.to_owned());
    }
    let number = element(body, "errorCode").and_then(|code| code.parse().ok());
    Err(number.unwrap_or(0))
}

/// The public address in the answer to [`Call::ExternalAddress`].
#[must_use]
pub fn external_address(body: &str) -> Option<Ipv4Addr> {
    let ip = element(body, "NewExternalIPAddress")?.parse().ok()?;
    is_public(ip).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    fn found(url: &str) -> Option<Place> {
        let answer = format!("HTTP/1.1 200 OK\r\nST: x\r\nLocation: {url}\r\n\r\n");
        location(answer.as_bytes(), ROUTER)
    }

    #[test]
    fn a_router_speaks_for_itself_only() {
        let place = found("http://192.168.1.1:5000/desc.xml").unwrap();
        assert_eq!((place.at.port(), place.path.as_str()), (5000, "/desc.xml"));
        assert_eq!(found("http://192.168.1.1").unwrap().at.port(), 80);
        for bad in [
            "http://192.168.1.7:5000/desc.xml",
            "http://localhost/",
            "https://192.168.1.1/",
            "http://192.168.1.1:0/",
            "http://192.168.1.1/a b",
            "http://192.168.1.1@10.0.0.1/",
            &format!("http://192.168.1.1/{}", "a".repeat(300)),
        ] {
            assert_eq!(found(bad), None, "{bad}");
        }
        assert_eq!(
            location(
                b"HTTP/1.1 500 no\r\nLocation: http://192.168.1.1/\r\n",
                ROUTER
            ),
            None
        );
        assert_eq!(location(&[0xff; 40], ROUTER), None);
    }

    #[test]
    fn the_service_is_found_wherever_it_stands() {
        let from = found("http://192.168.1.1:5000/desc.xml").unwrap();
        let service = |name: &str, url: &str| {
            format!(
                "<service><serviceType>{name}</serviceType><controlURL>{url}</controlURL></service>"
            )
        };
        let text = service("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/no")
            + &service(SERVICES[1], "ctl/IPConn");
        let control = control(&text, &from).unwrap();
        assert_eq!(
            (control.place.path.as_str(), control.service),
            ("/ctl/IPConn", SERVICES[1])
        );
        let elsewhere = service(SERVICES[1], "http://10.0.0.1/x");
        assert_eq!(super::control(&elsewhere, &from), None);
        let nothing = format!("{}</service><controlURL>/x</controlURL>", SERVICES[1]);
        assert_eq!(super::control(&nothing, &from), None);
        let add = Call::Add {
            wanted: Wanted {
                protocol: Protocol::Udp,
                port: 5,
            },
            client: ROUTER,
            external: 6,
            lifetime: 7,
        };
        let request = call(&control, add);
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(body.contains("<NewInternalPort>5</NewInternalPort>"));
    }

    #[test]
    fn answers_are_read_and_private_addresses_refused() {
        let answer = |ip: &str| {
            let text =
                format!("HTTP/1.1 200 OK\r\n\r\n<NewExternalIPAddress>{ip}</NewExternalIPAddress>");
            external_address(&body(text.as_bytes()).unwrap())
        };
        assert_eq!(answer("203.0.113.9"), Some([203, 0, 113, 9].into()));
        assert_eq!(answer("10.0.0.1"), None);
        assert_eq!(answer("junk"), None);
        let error = b"HTTP/1.1 500 Internal Server Error\r\n\r\n<errorCode>725</errorCode>";
        assert_eq!(body(error), Err(725));
        assert_eq!(body(b""), Err(0));
    }
}
