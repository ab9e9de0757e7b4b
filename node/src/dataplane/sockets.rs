//! Extra sockets of birthday punches: many for a few seconds, and those that were hit for as long as they are used.
//!
//! One set of sockets serves all attempts: a symmetric NAT has another port for each pair of socket and destination anyway.
//! A path over one is named by a [`Via::Socket`] address; where it sends to is fixed by its attempt, and datagrams from
//! elsewhere are dropped. A thread reads them all, and ends with the last of them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use kanpachi_proto::path::Via;
use kanpachi_proto::path::punch::SOCKETS;
use kanpachi_transport::DatagramHandler as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Inbound;
use crate::platform::{PacketWriter, ignore_icmp};

/// Attempts that are not forgotten yet, at the most.
const MAX_ATTEMPTS: usize = 256;
/// How long a socket waits for the first datagram.
const UNTIL_HIT: Duration = Duration::from_secs(12);
/// How long one that was hit may be silent: probes come far more often while the path is good for anything.
const UNTIL_IDLE: Duration = Duration::from_secs(150);
/// How often the thread looks at the time and for new sockets, in milliseconds: while somebody guesses, and later.
const LOOK: (u16, u16) = (50, 1000);
/// Datagrams read from one socket before the next one has its turn.
const ROUND: usize = 64;

/// What senders see. Immutable once published.
#[derive(Clone, Debug, Default)]
struct Open {
    sockets: Vec<Option<Arc<UdpSocket>>>,
    /// Where the datagrams of each attempt go.
    attempts: HashMap<u32, SocketAddr>,
}

/// What the reader goes by.
#[derive(Debug, Default)]
struct Ages {
    running: bool,
    /// When each attempt began, and when it was last heard.
    attempts: HashMap<u32, (Instant, Option<Instant>)>,
    /// When each socket was last heard.
    sockets: HashMap<usize, Instant>,
}

/// The sockets.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: ArcSwap<Open>,
    ages: Mutex<Ages>,
}

impl Sockets {
    /// Sends datagrams of `segment` bytes each. A socket that is closed takes them without a word.
    pub(super) fn send(&self, via: SocketAddr, datagrams: &[u8], segment: usize) -> io::Result<()> {
        let open = self.open.load();
        let Some((socket, to)) = open.find(via) else {
            return Ok(());
        };
        for part in datagrams.chunks(segment.max(1)) {
            socket.send_to(part, to)?;
        }
        Ok(())
    }

    /// Where a path over one of the sockets leads.
    pub(super) fn leads_to(&self, via: SocketAddr) -> Option<SocketAddr> {
        Some(self.open.load().find(via)?.1)
    }

    /// Begins an attempt: opens what is not open, and reads it.
    pub(super) fn open<W: PacketWriter + 'static>(
        self: &Arc<Self>,
        attempt: u32,
        to: SocketAddr,
        inbound: impl FnOnce() -> Inbound<W>,
    ) -> io::Result<()> {
        if !to.is_ipv4() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut ages = self.ages();
        if ages.attempts.len() >= MAX_ATTEMPTS {
            return Err(io::Error::other("too many punches at once"));
        }
        let mut open = Open::clone(&self.open.load());
        open.sockets.resize(SOCKETS.into(), None);
        for socket in open.sockets.iter_mut().filter(|s| s.is_none()) {
            let new = UdpSocket::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))?;
            new.set_nonblocking(true)?;
            ignore_icmp(&new)?;
            *socket = Some(Arc::new(new));
        }
        open.attempts.insert(attempt, to);
        ages.attempts.insert(attempt, (Instant::now(), None));
        self.open.store(Arc::new(open));
        if !ages.running {
            let reader = Reader {
                sockets: Arc::clone(self),
                inbound: inbound(),
            };
            std::thread::Builder::new()
                .name("punch".to_owned())
                .spawn(move || reader.run())?;
            ages.running = true;
        }
        Ok(())
    }

    fn ages(&self) -> MutexGuard<'_, Ages> {
        // Nothing panics while it holds the lock; should it have, the value is whole nevertheless.
        self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets attempts that came to nothing and closes sockets that serve nobody. `None` when nothing is left, and
    /// otherwise how long to wait for the next look.
    fn review(&self) -> Option<u16> {
        let mut ages = self.ages();
        let young = |(since, _): &(Instant, Option<Instant>)| since.elapsed() < UNTIL_HIT;
        let heard = |at: &Instant| at.elapsed() < UNTIL_IDLE;
        ages.attempts
            .retain(|_, age| young(age) || age.1.is_some_and(|at| heard(&at)));
        ages.sockets.retain(|_, at| heard(at));
        let guessing = ages.attempts.values().any(young);
        let mut open = Open::clone(&self.open.load());
        let before = (open.attempts.len(), open.sockets.iter().flatten().count());
        open.attempts
            .retain(|attempt, _| ages.attempts.contains_key(attempt));
        for (at, socket) in open.sockets.iter_mut().enumerate() {
            if !guessing && !ages.sockets.contains_key(&at) {
                *socket = None;
            }
        }
        let left = open.sockets.iter().flatten().count();
        if (open.attempts.len(), left) != before {
            self.open.store(Arc::new(open));
        }
        if left == 0 {
            ages.running = false;
            return None;
        }
        Some(if guessing { LOOK.0 } else { LOOK.1 })
    }
}

impl Open {
    fn find(&self, via: SocketAddr) -> Option<(&UdpSocket, SocketAddr)> {
        let Some(Via::Socket { socket, attempt }) = Via::of(via) else {
            return None;
        };
        let to = self.attempts.get(&attempt)?;
        let socket = self.sockets.get(usize::from(socket))?.as_deref()?;
        Some((socket, *to))
    }

    /// The newest attempt towards this address.
    fn attempt_to(&self, to: SocketAddr) -> Option<u32> {
        let attempts = self.attempts.iter().filter(|(_, at)| **at == to);
        attempts.map(|(attempt, _)| *attempt).max()
    }
}

struct Reader<W> {
    sockets: Arc<Sockets>,
    inbound: Inbound<W>,
}

impl<W> Drop for Reader<W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Paths over sockets that nobody reads are none, and the next attempt is to have a thread.
            *self.sockets.ages() = Ages::default();
            self.sockets.open.store(Arc::default());
        }
    }
}

impl<W: PacketWriter> Reader<W> {
    fn run(mut self) {
        let mut buffer = vec![0; 65_536];
        while let Some(look) = self.sockets.review() {
            let open = self.sockets.open.load_full();
            for at in wait(&open, look) {
                self.read(&open, at, &mut buffer);
            }
        }
    }

    fn read(&mut self, open: &Open, at: usize, buffer: &mut [u8]) {
        let Some(socket) = open.sockets.get(at).and_then(Option::as_deref) else {
            return;
        };
        let Ok(number) = u16::try_from(at) else {
            return;
        };
        for _ in 0..ROUND {
            // Errors of ICMP are no news, and nothing is there.
            let Ok((len, from)) = socket.recv_from(buffer) else {
                break;
            };
            let (Some(attempt), Some(datagram)) = (open.attempt_to(from), buffer.get_mut(..len))
            else {
                continue;
            };
            let now = Instant::now();
            {
                let mut ages = self.sockets.ages();
                ages.sockets.insert(at, now);
                if let Some((_, heard)) = ages.attempts.get_mut(&attempt) {
                    *heard = Some(now);
                }
            }
            let socket = number;
            self.inbound
                .handle(Via::Socket { socket, attempt }.addr(), datagram);
        }
        self.inbound.end_of_batch();
    }
}

/// Positions of the sockets that have something to read, after this many milliseconds at the latest.
fn wait(open: &Open, look: u16) -> Vec<usize> {
    let sockets = open.sockets.iter().enumerate();
    let sockets: Vec<(usize, &Arc<UdpSocket>)> = sockets
        .filter_map(|(at, s)| Some((at, s.as_ref()?)))
        .collect();
    let mut fds: Vec<PollFd<'_>> = sockets
        .iter()
        .map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
        .collect();
    if poll(&mut fds, PollTimeout::from(look)).is_err() {
        return Vec::new();
    }
    let ready = sockets.iter().zip(&fds);
    ready
        .filter(|(_, fd)| fd.any().unwrap_or(false))
        .map(|((at, _), _)| *at)
        .collect()
}

#[cfg(test)]
mod tests {
    use kanpachi_transport::SharedSocket;

    use super::*;
    use crate::dataplane::Dataplane;

    #[derive(Clone)]
    struct NoAdapter;

    impl PacketWriter for NoAdapter {
        fn write(&self, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn when_the_thread_panics_the_next_attempt_has_one_again() {
        let socket = SharedSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let (path, ..) = Dataplane::<NoAdapter>::new(socket, Instant::now(), String::new());
        let sockets = Arc::new(Sockets::default());
        // The thread is the one below.
        sockets.ages().running = true;
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        sockets.open(1, to, || path.inbound()).unwrap();
        let via = Via::Socket {
            socket: 0,
            attempt: 1,
        };
        assert_eq!(sockets.leads_to(via.addr()), Some(to));
        let reader = Reader {
            sockets: Arc::clone(&sockets),
            inbound: path.inbound(),
        };
        let thread = std::thread::spawn(move || {
            let _reader = reader;
            panic!("a test of panics");
        });
        thread.join().unwrap_err();
        assert!(!sockets.ages().running);
        assert_eq!(sockets.leads_to(via.addr()), None);
    }
}
