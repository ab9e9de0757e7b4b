//! UPnP: finds the router by SSDP, and has it forward ports by a few calls over HTTP. Every answer has a length and a
//! time at the most.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use kanpachi_proto::portmap::{
    LIFETIME, Mapping, Wanted,
    upnp::{
        Call, Control, MULTICAST, body, call, control, external_address, get, location, search,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// For answers to a search.
const SEARCH: Duration = Duration::from_millis(1500);
/// Datagrams looked at in one search.
const MAX_ANSWERS: usize = 32;
/// For one call.
const CALL: Duration = Duration::from_secs(3);
/// Bytes of an answer over HTTP.
const MAX_ANSWER: u64 = 128 * 1024;
/// Ports tried when the same one is taken.
const MAX_PORTS: u16 = 4;
/// UPnP: only mappings for ever.
const ONLY_PERMANENT: u16 = 725;
/// UPnP: somebody else has that port.
const CONFLICT: u16 = 718;

/// One router's UPnP.
#[derive(Debug)]
pub(super) struct Upnp {
    router: Ipv4Addr,
    client: Ipv4Addr,
    wanted: Vec<Wanted>,
    control: Option<Control>,
    offered: Option<bool>,
    mappings: Vec<Mapping>,
    due: Option<Instant>,
}

impl Upnp {
    pub(super) fn new(router: Ipv4Addr, client: Ipv4Addr, wanted: &[Wanted]) -> Self {
        Self {
            router,
            client,
            wanted: wanted.to_vec(),
            control: None,
            offered: None,
            mappings: Vec::new(),
            due: None,
        }
    }

    pub(super) const fn offered(&self) -> Option<bool> {
        self.offered
    }

    pub(super) fn mappings(&self) -> impl Iterator<Item = Mapping> {
        self.mappings.iter().copied()
    }

    pub(super) fn is_active(&self) -> bool {
        !self.mappings.is_empty()
    }

    /// When to try or renew.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Nothing to do for a while.
    pub(super) fn rest(&mut self, retry: Duration) {
        self.due = Some(crate::clock::now() + retry);
    }

    /// Finds the router where that is not done yet, and maps or renews all.
    pub(super) async fn attempt(&mut self, retry: Duration) {
        if self.control.is_none() {
            self.control = self.find().await;
            self.offered = Some(self.control.is_some());
        }
        self.mappings = match self.control.clone() {
            Some(control) => self.map(&control).await,
            None => Vec::new(),
        };
        if self.mappings.is_empty() {
            // It may be another one the next time.
            self.control = None;
            self.rest(retry);
        } else {
            self.rest(Duration::from_secs(u64::from(LIFETIME) / 2));
        }
    }

    async fn find(&self) -> Option<Control> {
        let socket = UdpSocket::bind((self.client, 0)).await.ok()?;
        // Some listen to the group only, some to their own address only.
        let own = SocketAddrV4::new(self.router, MULTICAST.port());
        for to in [MULTICAST, own] {
            let _ = socket.send_to(search().as_bytes(), to).await;
        }
        let found = timeout(SEARCH, async {
            let mut buffer = [0; 2048];
            for _ in 0..MAX_ANSWERS {
                let (len, from) = socket.recv_from(&mut buffer).await.ok()?;
                if from.ip() == IpAddr::V4(self.router)
                    && let Some(place) = location(&buffer[..len], self.router)
                {
                    return Some(place);
                }
            }
            None
        });
        let place = found.await.ok().flatten()?;
        let answer = exchange(place.at, &get(&place)).await?;
        control(&body(&answer).ok()?, &place)
    }

    async fn map(&self, control: &Control) -> Vec<Mapping> {
        let address = ask(control, Call::ExternalAddress).await;
        let Some(ip) = address.ok().as_deref().and_then(external_address) else {
            return Vec::new();
        };
        let mut mappings = Vec::new();
        for wanted in &self.wanted {
            let known = self.mappings.iter().find(|m| m.wanted == *wanted);
            let first = known.map_or(wanted.port, |m| m.external.port());
            if let Some(port) = self.map_one(control, *wanted, first).await {
                mappings.push(Mapping {
                    wanted: *wanted,
                    external: SocketAddrV4::new(ip, port),
                });
            }
        }
        mappings
    }

    /// Maps one port, to the same outside or one near by.
    async fn map_one(&self, control: &Control, wanted: Wanted, first: u16) -> Option<u16> {
        for external in (0..MAX_PORTS).filter_map(|n| first.checked_add(n * 101)) {
            let add = |lifetime| Call::Add {
                wanted,
                client: self.client,
                external,
                lifetime,
            };
            let mut asked = ask(control, add(LIFETIME)).await;
            if asked == Err(ONLY_PERMANENT) {
                asked = ask(control, add(0)).await;
            }
            match asked {
                Ok(_) => return Some(external),
                Err(CONFLICT) => {}
                Err(error) => {
                    tracing::debug!(error, "UPnP refuses a mapping");
                    return None;
                }
            }
        }
        None
    }

    /// Gives all mappings back.
    pub(super) async fn release(&mut self) {
        let Some(control) = self.control.take() else {
            return;
        };
        for mapping in self.mappings.drain(..) {
            let delete = Call::Delete {
                protocol: mapping.wanted.protocol,
                external: mapping.external.port(),
            };
            // It ends by itself, unless the router keeps mappings for ever.
            let _ = ask(&control, delete).await;
        }
    }
}

async fn ask(control: &Control, what: Call) -> Result<String, u16> {
    let answer = exchange(control.place.at, &call(control, what)).await;
    body(&answer.ok_or(0_u16)?)
}

/// One request over HTTP/1.0 and its answer.
async fn exchange(at: SocketAddrV4, request: &str) -> Option<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(at).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        let mut bounded = stream.take(MAX_ANSWER);
        // Some reset the connection after their answer.
        let _ = bounded.read_to_end(&mut answer).await;
        Some(answer)
    };
    timeout(CALL, exchange).await.ok().flatten()
}
