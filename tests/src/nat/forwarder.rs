//! What a router at home does when it is asked to forward a port: a small server of PCP, NAT-PMP or UPnP in the router's
//! namespace, which really adds rules.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::gateway::Gateway;
use crate::netns::Netns;

const PORT: u16 = 5351;
const SSDP: (Ipv4Addr, u16) = (Ipv4Addr::new(239, 255, 255, 250), 1900);
const HTTP: u16 = 5000;
const SERVICE: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";
/// How soon a stopped server notices.
const IDLE: Duration = Duration::from_millis(50);

/// What the router speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Pcp,
    NatPmp,
    Upnp,
}

/// By protocol and port outside: the host and port inside.
pub type Rules = BTreeMap<(&'static str, u16), (Ipv4Addr, u16)>;

/// The server; it ends when dropped.
#[derive(Debug)]
pub struct Forwarder {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    ns: Netns,
    outside: Ipv4Addr,
    inside: Ipv4Addr,
    rules: Mutex<Rules>,
    asked: AtomicUsize,
    stop: AtomicBool,
}

impl Forwarder {
    /// Serves the first LAN of a router whose NAT is the kernel's.
    pub fn start(gateway: &Gateway, speaks: Speaks) -> Result<Self> {
        let lan = gateway.lans.first().context("no LAN")?;
        let shared = Arc::new(Shared {
            ns: gateway.ns.clone(),
            outside: gateway.outside,
            inside: lan.address(1).0,
            rules: Mutex::default(),
            asked: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        gateway
            .ns
            .nft("insert rule ip filter forward ct status dnat accept\n")?;
        let (inside, ns) = (shared.inside, &gateway.ns);
        let mut threads = Vec::new();
        let spawn = |work: fn(&Shared, &UdpSocket) -> Result<()>, socket: UdpSocket| {
            let shared = Arc::clone(&shared);
            ns.spawn(move || work(&shared, &socket))
        };
        if speaks == Speaks::Upnp {
            let search = ns.run(|| {
                let socket = UdpSocket::bind(SSDP)?;
                socket.join_multicast_v4(&SSDP.0, &inside)?;
                Ok(socket)
            })?;
            search.set_read_timeout(Some(IDLE))?;
            threads.push(spawn(answer_searches, search));
            let http = ns.run(|| Ok(TcpListener::bind((inside, HTTP))?))?;
            http.set_nonblocking(true)?;
            let shared = Arc::clone(&shared);
            threads.push(ns.spawn(move || serve_http(&shared, &http)));
        } else {
            let socket = ns.run(|| Ok(UdpSocket::bind((inside, PORT))?))?;
            socket.set_read_timeout(Some(IDLE))?;
            threads.push(match speaks {
                Speaks::Pcp => spawn(|s, socket| serve_udp(s, socket, pcp), socket),
                _ => spawn(|s, socket| serve_udp(s, socket, pmp), socket),
            });
        }
        Ok(Self { shared, threads })
    }

    /// What is forwarded now.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.shared.rules().clone()
    }

    /// Questions so far.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A server that failed has shown itself in what the test looks at.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Adds a rule or takes it away, in the kernel too.
    fn set(
        &self,
        protocol: &'static str,
        outside: u16,
        inside: Option<(Ipv4Addr, u16)>,
    ) -> Result<()> {
        let mut rules = self.rules();
        match inside {
            Some(inside) => rules.insert((protocol, outside), inside),
            None => rules.remove(&(protocol, outside)),
        };
        let mut script = String::new();
        for ((protocol, outside), (host, port)) in &*rules {
            let to = self.outside;
            writeln!(
                script,
                "ip daddr {to} {protocol} dport {outside} dnat to {host}:{port}"
            )?;
        }
        self.ns.nft(&format!(
            "table ip forwarded\ndelete table ip forwarded\ntable ip forwarded {{\n\
               chain pre {{ type nat hook prerouting priority -110;\n{script}\n}}\n}}\n"
        ))
    }
}

fn serve_udp(
    shared: &Shared,
    socket: &UdpSocket,
    answer: fn(&Shared, Ipv4Addr, &[u8]) -> Option<Vec<u8>>,
) -> Result<()> {
    let mut buffer = [0; 1100];
    while !shared.stopped() {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        shared.asked.fetch_add(1, Ordering::Relaxed);
        let SocketAddr::V4(host) = from else { continue };
        if let Some(answer) = answer(shared, *host.ip(), &buffer[..len]) {
            socket.send_to(&answer, from)?;
        }
    }
    Ok(())
}

fn word(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

fn long(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*data.get(at..)?.first_chunk()?))
}

/// The rule of one host for one of its ports: the same outside, for as long as was asked.
fn grant(
    shared: &Shared,
    host: Ipv4Addr,
    protocol: &'static str,
    port: u16,
    lifetime: u32,
) -> Option<()> {
    let inside = (lifetime > 0).then_some((host, port));
    shared.set(protocol, port, inside).ok()
}

/// RFC 6886.
fn pmp(shared: &Shared, host: Ipv4Addr, data: &[u8]) -> Option<Vec<u8>> {
    match *data {
        [0, 0] => {
            let mut out = vec![0, 128, 0, 0, 0, 0, 0, 100];
            out.extend(shared.outside.octets());
            Some(out)
        }
        [0, op @ 1..=2, ..] => {
            let protocol = if op == 1 { "udp" } else { "tcp" };
            let (port, lifetime) = (word(data, 4)?, long(data, 8)?);
            grant(shared, host, protocol, port, lifetime)?;
            let mut out = vec![0, 128 + op, 0, 0, 0, 0, 0, 100];
            out.extend(port.to_be_bytes());
            out.extend(port.to_be_bytes());
            out.extend(lifetime.to_be_bytes());
            Some(out)
        }
        // Any other version is not supported.
        _ => Some(vec![0, 128, 0, 1, 0, 0, 0, 100]),
    }
}

/// RFC 6887.
fn pcp(shared: &Shared, host: Ipv4Addr, data: &[u8]) -> Option<Vec<u8>> {
    if data.len() != 60 || data[..2] != [2, 1] {
        return None;
    }
    let protocol = if data[36] == 17 { "udp" } else { "tcp" };
    let port = word(data, 40)?;
    grant(shared, host, protocol, port, long(data, 4)?)?;
    let mut out = data.to_vec();
    out[1] = 0x81;
    out[8..24].fill(0);
    out[11] = 100;
    out[42..44].copy_from_slice(&port.to_be_bytes());
    out[44..].copy_from_slice(&shared.outside.to_ipv6_mapped().octets());
    Some(out)
}

fn answer_searches(shared: &Shared, socket: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 2048];
    while !shared.stopped() {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..len]);
        if text.starts_with("M-SEARCH") && text.contains("InternetGatewayDevice:1") {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\
                 LOCATION: http://{}:{HTTP}/root.xml\r\n\r\n",
                shared.inside
            );
            // From its own address, as routers do.
            let own = shared.ns.run(|| Ok(UdpSocket::bind((shared.inside, 0))?))?;
            own.send_to(answer.as_bytes(), from)?;
        }
    }
    Ok(())
}

fn serve_http(shared: &Shared, listener: &TcpListener) -> Result<()> {
    while !shared.stopped() {
        match listener.accept() {
            Ok((stream, _)) => {
                shared.asked.fetch_add(1, Ordering::Relaxed);
                // A client that hangs up has its own reasons.
                let _ = serve_call(shared, stream);
            }
            Err(_) => std::thread::sleep(IDLE),
        }
    }
    Ok(())
}

fn serve_call(shared: &Shared, mut stream: TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut request, mut chunk) = (String::new(), [0; 4096]);
    while !is_whole(&request) {
        let len = stream.read(&mut chunk)?;
        request.push_str(&String::from_utf8_lossy(&chunk[..len]));
        if len == 0 {
            break;
        }
    }
    let body = if request.starts_with("GET /root.xml") {
        Some(format!(
            "<root><service><serviceType>{SERVICE}</serviceType>\
             <controlURL>/control</controlURL></service></root>"
        ))
    } else {
        soap(shared, &request)
    };
    let (status, body) = match body {
        Some(body) => ("200 OK", body),
        None => (
            "500 Internal Server Error",
            "<errorCode>402</errorCode>".to_owned(),
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes())?;
    Ok(())
}

fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("Content-Length: "));
    length.is_none_or(|length| {
        length
            .parse()
            .is_ok_and(|length: usize| body.len() >= length)
    })
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

fn soap(shared: &Shared, request: &str) -> Option<String> {
    let action = |name: &str| request.contains(&format!("SOAPAction: \"{SERVICE}#{name}\""));
    if action("GetExternalIPAddress") {
        let ip = shared.outside;
        return Some(format!("<NewExternalIPAddress>{ip}</NewExternalIPAddress>"));
    }
    let outside = element(request, "NewExternalPort")?.parse().ok()?;
    let protocol = match element(request, "NewProtocol")? {
        "UDP" => "udp",
        "TCP" => "tcp",
        _ => return None,
    };
    let inside = if action("AddPortMapping") {
        let host = element(request, "NewInternalClient")?.parse().ok()?;
        Some((host, element(request, "NewInternalPort")?.parse().ok()?))
    } else {
        None
    };
    shared.set(protocol, outside, inside).ok()?;
    Some("<ok></ok>".to_owned())
}
