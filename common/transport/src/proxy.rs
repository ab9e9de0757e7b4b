//! TCP through an HTTP proxy, for networks where nothing else leads out (RFC 9110 §9.3.6, CONNECT).
//!
//! What goes through is the same as without: multistream, Noise, Yamux. The proxy sees the server's address and how much is
//! said. Dials go both ways at once, the direct one a little ahead; whichever is there first is taken.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use data_encoding::BASE64;
use futures::{
    FutureExt as _,
    future::{self, BoxFuture, Either},
};
use libp2p::{
    Multiaddr,
    core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent},
    multiaddr::Protocol,
    tcp,
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use zeroize::Zeroizing;

/// The direct way is this much ahead.
const HEAD_START: Duration = Duration::from_millis(250);
/// The proxy has to answer within this: it connects to the server meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest head of an answer.
const MAX_HEAD: usize = 8192;
const MAX_URL: usize = 1024;

/// Why a text names no proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProxyError {
    /// Another scheme than `http`.
    #[error("only proxies of the form http://HOST:PORT can be used")]
    Scheme,
    /// No host, or no port that could be one.
    #[error("that is no proxy: it has to be http://[USER:PASSWORD@]HOST:PORT")]
    Malformed,
}

/// An HTTP proxy.
#[derive(Clone)]
pub struct Proxy {
    host: String,
    port: u16,
    /// Value of the header that says who asks.
    authorization: Option<Arc<Zeroizing<String>>>,
    /// Hosts that are reached without it, as in `NO_PROXY`.
    without: Vec<String>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Proxy {
    /// Reads what `HTTPS_PROXY` and `NO_PROXY` hold.
    ///
    /// # Errors
    /// [`ProxyError`]
    pub fn parse(url: &str, without: &str) -> Result<Self, ProxyError> {
        if url.len() > MAX_URL || url.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(ProxyError::Malformed);
        }
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ProxyError::Scheme),
            None => url,
        };
        let rest = rest.split('/').next().unwrap_or_default();
        let (user, at) = match rest.rsplit_once('@') {
            Some((user, at)) => (Some(user), at),
            None => (None, rest),
        };
        let (host, port) = at.rsplit_once(':').ok_or(ProxyError::Malformed)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().map_err(|_| ProxyError::Malformed)?;
        if host.is_empty() || port == 0 {
            return Err(ProxyError::Malformed);
        }
        let authorization = user.map(|user| {
            let user = Zeroizing::new(percent_decoded(user));
            Arc::new(Zeroizing::new(format!("Basic {}", BASE64.encode(&user))))
        });
        let without = without.split(',').map(|host| host.trim().to_owned());
        Ok(Self {
            host: host.to_owned(),
            port,
            authorization,
            without: without.filter(|host| !host.is_empty()).take(64).collect(),
        })
    }

    /// Is this address reached through the proxy? What is on this machine or its link never is.
    fn serves(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let near = match ip {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
        };
        let text = ip.to_string();
        !near && !self.without.iter().any(|host| host == "*" || *host == text)
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let mut request = Zeroizing::new(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n"));
        if let Some(authorization) = &self.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        let head = read_head(&mut stream).await?;
        match status(&head) {
            Some(200..=299) => Ok(stream),
            Some(407) => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the proxy wants a user name and a password",
            )),
            Some(status) => Err(io::Error::other(format!(
                "the proxy refuses to connect to {to} (status {status})"
            ))),
            None => Err(io::Error::other("what answers is no HTTP proxy")),
        }
    }
}

/// The head of the answer, byte by byte: what follows it is the server's.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            return Err(io::Error::other("the proxy answers too much"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

/// The status code of an answer.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|b| *b == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut parts = line.split(' ');
    let version = parts.next()?;
    let status: u16 = parts.next().filter(|code| code.len() == 3)?.parse().ok()?;
    version.starts_with("HTTP/1.").then_some(status)
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let hex = hex.and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// TCP, dialled through a proxy as well when there is one.
pub(crate) struct ProxiedTcp {
    inner: tcp::tokio::Transport,
    proxy: Option<Proxy>,
}

impl ProxiedTcp {
    pub(crate) const fn new(inner: tcp::tokio::Transport, proxy: Option<Proxy>) -> Self {
        Self { inner, proxy }
    }
}

type Direct = <tcp::tokio::Transport as Transport>::Dial;

async fn either_way(
    direct: Direct,
    proxy: Proxy,
    to: SocketAddr,
) -> io::Result<tcp::tokio::TcpStream> {
    let around = async {
        sleep(HEAD_START).await;
        let connected = timeout(PATIENCE, proxy.connect(to)).await;
        let stream = connected
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the proxy does not answer"))??;
        Ok(tcp::tokio::TcpStream(stream))
    };
    match future::select(direct, Box::pin(around)).await {
        Either::Left((Ok(stream), _)) | Either::Right((Ok(stream), _)) => Ok(stream),
        Either::Left((Err(_), around)) => around.await,
        Either::Right((Err(error), direct)) => direct.await.map_err(|direct| {
            // Nobody is helped by hearing of the way that could not work.
            tracing::debug!(%direct, "not reached directly either");
            error
        }),
    }
}

pub(crate) fn socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

impl Transport for ProxiedTcp {
    type Output = tcp::tokio::TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = <tcp::tokio::Transport as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<tcp::tokio::TcpStream>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let to = socket_addr(&addr);
        let direct = self.inner.dial(addr, opts)?;
        let proxy = self.proxy.as_ref().zip(to);
        match proxy.filter(|(proxy, to)| proxy.serves(to.ip())) {
            Some((proxy, to)) => Ok(either_way(direct, proxy.clone(), to).boxed()),
            None => Ok(direct.boxed()),
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Proxy, ProxyError> {
        Proxy::parse(url, "")
    }

    #[test]
    fn a_proxy_is_host_and_port_and_perhaps_a_user() {
        for url in [
            "http://proxy.example:3128",
            "HTTP://proxy.example:3128/",
            "proxy.example:3128",
        ] {
            let proxy = parse(url).unwrap();
            assert_eq!(proxy.to_string(), "proxy.example:3128");
            assert!(proxy.authorization.is_none());
        }
        let proxy = parse("http://me:p%40ss@[2001:db8::1]:8080").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("2001:db8::1", 8080));
        let expected = format!("Basic {}", BASE64.encode(b"me:p@ss"));
        assert_eq!(proxy.authorization.as_ref().unwrap().as_str(), expected);
        let shown = format!("{proxy:?} {proxy}");
        assert!(
            !shown.contains("ss") && !shown.contains(&expected),
            "{shown}"
        );
    }

    #[test]
    fn what_is_no_proxy_is_refused_in_one_sentence() {
        assert_eq!(parse("https://proxy:1").unwrap_err(), ProxyError::Scheme);
        assert_eq!(parse("socks5://proxy:1").unwrap_err(), ProxyError::Scheme);
        let long = format!("http://{}:1", "x".repeat(MAX_URL));
        for url in [
            "",
            "http://",
            "proxy",
            "http://:1",
            "http://p:0",
            "p:99999",
            "p\r\n:1",
            &long,
        ] {
            assert_eq!(parse(url).unwrap_err(), ProxyError::Malformed, "{url}");
        }
    }

    #[test]
    fn what_is_near_or_named_goes_without() {
        let proxy = Proxy::parse("p:1", "192.0.2.1, 2001:db8::1").unwrap();
        let serves = |ip: &str| proxy.serves(ip.parse().unwrap());
        assert!(serves("192.0.2.2") && serves("2001:db8::2"));
        for ip in [
            "192.0.2.1",
            "::ffff:192.0.2.1",
            "2001:db8::1",
            "127.0.0.1",
            "::1",
            "fe80::1",
        ] {
            assert!(!serves(ip), "{ip}");
        }
        assert!(
            !Proxy::parse("p:1", "*")
                .unwrap()
                .serves([9, 9, 9, 9].into())
        );
    }

    #[test]
    fn only_a_status_line_has_a_status() {
        assert_eq!(
            status(b"HTTP/1.1 200 Connection established\r\n\r\n"),
            Some(200)
        );
        assert_eq!(status(b"HTTP/1.0 407 no\r\n\r\n"), Some(407));
        for line in [
            &b""[..],
            b"\r\n\r\n",
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 2000\r\n",
            b"HTTP/2 200\r\n",
            b"HTTP/1.1 \xff\r\n",
        ] {
            assert_eq!(status(line), None, "{line:?}");
        }
    }
}
