//! An HTTP proxy as in an office: it takes CONNECT, and only to port 443.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd as _;

use crate::netns::Netns;

/// The only port there is.
const PORT: u16 = 443;
/// A request head, at the most.
const MAX_HEAD: usize = 8192;
/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// For the head, and to connect.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon a stopped proxy notices.
const IDLE: Duration = Duration::from_millis(50);

/// The proxy; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    listener: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    open: AtomicUsize,
}

impl Proxy {
    /// Listens in a namespace, and connects from there.
    pub fn start(ns: &Netns, address: SocketAddr) -> Result<Self> {
        let socket = ns.run(|| TcpListener::bind(address).with_context(|| format!("{address}")))?;
        socket.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let listener = ns.spawn({
            let (shared, ns) = (Arc::clone(&shared), ns.clone());
            move || listen(&socket, &ns, &shared)
        });
        Ok(Self {
            shared,
            listener: Some(listener),
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn listen(socket: &TcpListener, ns: &Netns, shared: &Arc<Shared>) -> Result<()> {
    while !shared.stop.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::try_from(IDLE)?);
        let Ok((client, _)) = socket.accept() else {
            continue;
        };
        if shared.open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            shared.open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let shared = Arc::clone(shared);
        // What a client does wrong ends its own connection.
        drop(ns.spawn(move || {
            let outcome = serve(client, &shared);
            shared.open.fetch_sub(1, Ordering::Relaxed);
            outcome
        }));
    }
    Ok(())
}

fn serve(mut client: TcpStream, shared: &Shared) -> Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let target = match read_target(&mut client) {
        Ok(target) => target,
        Err(error) => {
            client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")?;
            return Err(error);
        }
    };
    let Ok(server) = TcpStream::connect_timeout(&target, PATIENCE) else {
        client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")?;
        bail!("{target} does not answer");
    };
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(IDLE))?;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| copy(&client, &server, shared));
        copy(&server, &client, shared);
    });
    Ok(())
}

/// Where a request wants to go.
fn read_target(client: &mut TcpStream) -> Result<SocketAddr> {
    let mut head = Vec::new();
    let mut byte = [0u8; 1];
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < MAX_HEAD, "the head is too long");
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?;
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    ensure!(words.next() == Some("CONNECT"), "only CONNECT");
    let target = words.next().context("no target")?;
    let target = target.to_socket_addrs()?.next().context("no address")?;
    ensure!(target.port() == PORT, "only port {PORT}");
    Ok(target)
}

/// Until one end is done or the proxy stops.
fn copy(mut from: &TcpStream, mut to: &TcpStream, shared: &Shared) {
    let mut buffer = [0u8; 16 * 1024];
    while !shared.stop.load(Ordering::Relaxed) {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
