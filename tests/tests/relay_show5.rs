//! Show 5 of Part 4: how fast a relayed path is, and that one who floods the relay leaves the others theirs.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_common::SecretKey;
use kanpachi_tests::client::Node;
use kanpachi_tests::hostile::{NodeKeys, RelayGuest, Silent, StolenCoordinator, Target};
use kanpachi_tests::lab::{Host, Lab, run};
use kanpachi_tests::mesh::{DIRECT, Member, Mesh};
use kanpachi_tests::note;
use kanpachi_tests::traffic::ping;
use kanpachi_tests::traffic::tcp::{Payload, Transfer};
use kanpachi_tests::wait::{eventually, slack};
use kanpachi_transport::{SharedSocket, priority::nice as first};

/// Each measurement takes so long.
const MEASURE: Duration = Duration::from_secs(4);
/// Before it, a transfer gets up to speed.
const WARM_UP: Duration = Duration::from_secs(1);
const RELAYED: Duration = Duration::from_secs(15);
const STOP: Duration = Duration::from_secs(10);
const PORT: u16 = 12975;
/// So many new connections to the relay are made in the flood, each within this, and six in seven of them nearly as fast as
/// without a flood, which is some ten milliseconds.
const CONNECTIONS: u8 = 40;
const QUIC: Duration = Duration::from_secs(5);
const USUAL_QUIC_MS: f64 = 150.0;
/// Median round trip under load, in milliseconds, and how often it is measured until it is less.
const LOADED_MS: f64 = 5.0;
const TRIES: usize = 3;
/// Mbit/s of a member at a relay with a narrow line, and of the line.
const RATE: u32 = 80;
const LINE: u32 = 200;

/// What somebody sends who floods: so many datagrams in one call, and bytes in each.
#[derive(Clone, Copy)]
struct Flood {
    datagrams: usize,
    len: usize,
}

/// As much as the line has.
const BIG: Flood = Flood {
    datagrams: 40,
    len: 1400,
};
/// More than a relay gets forwarded: to send many small ones in one call costs far less than to look at each.
const SMALL: Flood = Flood {
    datagrams: 60,
    len: 120,
};

#[test]
fn a_relayed_path_has_a_third_of_a_direct_ones_rate_and_answers_under_load() {
    run("relay-show5", |lab| {
        let mesh = Mesh::three(lab, &["--no-node", "--relay-rate", "0"])?;
        let (alice, bob) = (mesh.member("alice")?, mesh.member("bob")?);
        alice.node.wait_for_path("bob", "direct", DIRECT)?;
        let (direct, usual) = loaded(alice, bob)?;
        goes_first(alice)?;
        mesh.cut_direct(0, 1, RELAYED)?;
        let (relayed, mut median) = loaded(alice, bob)?;
        note(format_args!(
            "direct {direct:.0} Mbit/s, median RTT {usual:.2} ms under load; relayed {relayed:.0} Mbit/s ({:.0} %), {median:.2} ms",
            relayed / direct * 100.0,
        ));
        ensure!(
            relayed >= 0.3 * direct,
            "{relayed:.0} of {direct:.0} Mbit/s"
        );
        // A machine that is busy with other things for a moment delays everybody's packets.
        for _ in 1..TRIES {
            if median >= LOADED_MS {
                (_, median) = loaded(alice, bob)?;
                note(format_args!("once more: {median:.2} ms"));
            }
        }
        ensure!(
            median < LOADED_MS,
            "{median} ms under load, {usual} ms direct"
        );
        alice.node.wait_for_path("bob", "relay", DIRECT).map(drop)
    });
}

#[test]
fn one_who_floods_leaves_another_half_of_its_share_and_quic_alive() {
    run("relay-show5-flood", |lab| {
        let mut mesh = Mesh::three(lab, &["--no-node", "--relay-rate", "0"])?;
        let relay = Flooded::new(lab, &mut mesh)?;
        // The small ones at a rate at which the relay could not keep up if it forwarded them all.
        for (flood, times) in [(BIG, 4.0), (SMALL, 1.25)] {
            let beside = relay.beside(&mesh, flood, times * relay.alone)?;
            // Two send, so the share of each is half of what goes through.
            relay.ensure_part(beside, 0.25)?;
        }
        mesh.wait_until_logged_in(Duration::from_secs(1))
    });
}

#[test]
fn one_who_floods_a_narrow_line_gets_no_more_of_it_than_its_rate() {
    run("relay-show5-rate", |lab| {
        let rate = RATE.to_string();
        let mut mesh = Mesh::three(lab, &["--no-node", "--relay-rate", &rate])?;
        // All that leaves the relay, and what a line does with more.
        mesh.hub.node.host.ns.nft(&format!(
            "table inet line {{\n chain output {{ type filter hook output priority 0;\n \
             udp sport {PORT} limit rate over {} kbytes/second burst 256 kbytes drop\n }}\n}}\n",
            LINE * 125
        ))?;
        let relay = Flooded::new(lab, &mut mesh)?;
        let beside = relay.beside(&mesh, BIG, 3.0 * f64::from(LINE))?;
        // The line has room for what both may send.
        relay.ensure_part(beside, 0.5)?;
        mesh.wait_until_logged_in(Duration::from_secs(1))
    });
}

/// A relay that somebody floods.
struct Flooded {
    host: Host,
    /// Two members, both of them the flooder.
    keys: [SecretKey; 2],
    stolen: StolenCoordinator,
    target: Target,
    /// What alice gets through to bob over the relay alone, in Mbit/s.
    alone: f64,
}

impl Flooded {
    fn new(lab: &mut Lab, mesh: &mut Mesh) -> Result<Self> {
        let (host, keys) = flooders(lab, mesh)?;
        let stolen = StolenCoordinator::read(&mesh.hub.coordinator_dir())?;
        let target = Target {
            org: stolen.org(),
            server: stolen.identity.node_id(),
            addr: SocketAddr::from((mesh.hub.node.host.v4, PORT)),
        };
        mesh.cut_direct(0, 1, RELAYED)?;
        let alone = rate(mesh.member("alice")?, mesh.member("bob")?)?;
        Ok(Self {
            host,
            keys,
            stolen,
            target,
            alone,
        })
    }

    fn ensure_part(&self, beside: f64, part: f64) -> Result<()> {
        let alone = self.alone;
        ensure!(beside >= alone * part, "{beside:.0} of {alone:.0} Mbit/s");
        Ok(())
    }

    /// What alice gets through beside a flood of so many Mbit/s. New connections to the relay are made all the while.
    fn beside(&self, mesh: &Mesh, flood: Flood, rate: f64) -> Result<f64> {
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let (quic, beside) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let flooding = || self.flood(flood, rate / 8e-6, (&stop, &sent));
                self.host.ns.run(flooding)
            });
            let outcome = self.under_flood(mesh, &sent);
            stop.store(true, Ordering::Relaxed);
            flood.join().expect("the flood does not panic")?;
            outcome
        })?;
        let [median, most, worst] = [50, 85, 100].map(|part| quic[(quic.len() - 1) * part / 100]);
        note(format_args!(
            "alone {:.0} Mbit/s, beside a flood of {} MB in {} bytes each {beside:.0} Mbit/s, QUIC after {median:.0} ms, mostly {most:.0} ms, {worst:.0} ms at the most",
            self.alone,
            sent.load(Ordering::Relaxed) / 1_000_000,
            flood.len,
        ));
        ensure!(
            most < USUAL_QUIC_MS * slack(),
            "one connection in seven took longer than {most:.0} ms"
        );
        Ok(beside)
    }

    /// What a transfer gets through while the flood runs, and the milliseconds that new connections take, in order.
    fn under_flood(&self, mesh: &Mesh, sent: &AtomicU64) -> Result<(Vec<f64>, f64)> {
        eventually(RELAYED, "the flood has begun", || {
            ensure!(sent.load(Ordering::Relaxed) > 10_000_000);
            Ok(())
        })?;
        let transfer = start(mesh.member("alice")?, mesh.member("bob")?)?;
        let mut quic = Vec::new();
        let beside = measure(&transfer, || {
            for number in 0..CONNECTIONS {
                quic.push(self.connect(number)?.as_secs_f64() * 1e3);
            }
            Ok(())
        })?;
        transfer.stop();
        transfer.finish()?;
        quic.sort_by(f64::total_cmp);
        Ok((quic, beside))
    }

    /// How long a new connection to the relay takes, of somebody it does not know.
    fn connect(&self, number: u8) -> Result<Duration> {
        let begin = Instant::now();
        self.host.ns.run_async(async || {
            let nobody = SecretKey::from_seed(&[0x77 + number; 32]);
            let connecting = RelayGuest::connect(self.target, self.host.v4.into(), &nobody);
            let connected = tokio::time::timeout(QUIC, connecting).await;
            connected.with_context(|| format!("no connection within {QUIC:?}"))?
        })?;
        Ok(begin.elapsed())
    }

    /// So many bytes a second to the relay, until told to stop.
    fn flood(
        &self,
        flood: Flood,
        rate: f64,
        (stop, sent): (&AtomicBool, &AtomicU64),
    ) -> Result<()> {
        let runtime = runtime()?;
        let (mut from, _to) = runtime.block_on(self.members())?;
        let own = from.udp.local_addr()?;
        let datagram = from.datagram(1, &vec![0x55; flood.len]);
        let batch = datagram.repeat(flood.datagrams);
        // The session knows this address: another socket there can send many at once.
        from.udp = std::net::UdpSocket::bind((self.host.v4, 0))?;
        let socket = SharedSocket::bind(own)?;
        let _reader = socket.spawn_reader(Silent)?;
        let begin = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let due = sent.load(Ordering::Relaxed) as f64 / rate;
            std::thread::sleep(Duration::from_secs_f64(due).saturating_sub(begin.elapsed()));
            match socket.send(self.target.addr, &batch, Some(datagram.len())) {
                Ok(()) => {
                    sent.fetch_add(batch.len() as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    socket.wait_writable(Duration::from_millis(10))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Both members, paired.
    async fn members(&self) -> Result<(RelayGuest, RelayGuest)> {
        let own = self.host.v4.into();
        let mut from = RelayGuest::connect(self.target, own, &self.keys[0]).await?;
        let mut to = RelayGuest::connect(self.target, own, &self.keys[1]).await?;
        from.get_in(&self.stolen).await?;
        to.get_in(&self.stolen).await?;
        from.pair(1, &mut to).await?;
        Ok((from, to))
    }
}

/// Mbit/s of a transfer, and the median round trip in milliseconds beside it.
fn loaded(from: &Member, to: &Member) -> Result<(f64, f64)> {
    let transfer = start(from, to)?;
    let rate = measure(&transfer, || Ok(()))?;
    let pings = ping::series(&from.node.host.ns, to.overlay.v4.into(), 100, 0.02)?;
    transfer.stop();
    transfer.finish()?;
    let median = pings.percentile(50.0).context("no answer under load")?;
    Ok((rate, median))
}

/// The threads of a member that carry packets have the processor before what sends and takes the load.
fn goes_first(member: &Member) -> Result<()> {
    for thread in ["udp-reader", "adapter-reader"] {
        let nice = member.process.niceness(thread)?;
        ensure!(nice == [first()], "{thread} is as nice as {nice:?}");
    }
    Ok(())
}

/// A host, and the keys of two members that joined from there and are run by somebody else now.
fn flooders(lab: &mut Lab, mesh: &mut Mesh) -> Result<(Host, [SecretKey; 2])> {
    let host = lab.public_host("flooder")?;
    let key = |name: &str| -> Result<SecretKey> {
        let mut node = Node::new(lab, &host)?;
        node.state_dir = lab.directory().join(name);
        let mut member = Member::join(node, &mesh.fresh_invite()?)?;
        member.process.terminate(STOP)?;
        Ok(NodeKeys::read(&member.node.state_dir)?.identity)
    };
    let keys = [key("dora")?, key("emil")?];
    Ok((host, keys))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread();
    Ok({ runtime }.enable_all().build()?)
}

fn start(from: &Member, to: &Member) -> Result<Transfer> {
    let to = (&to.node.host.ns, to.overlay.v4.into());
    Transfer::start(&from.node.host.ns, to, Payload::default())
}

/// Mbit/s of a transfer under way, while something else is done.
fn measure(transfer: &Transfer, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    std::thread::sleep(WARM_UP);
    let (begin, before) = (Instant::now(), transfer.progress());
    work()?;
    std::thread::sleep(MEASURE.saturating_sub(begin.elapsed()));
    let bytes = transfer.progress() - before;
    Ok(bytes as f64 * 8e-6 / begin.elapsed().as_secs_f64())
}

fn rate(from: &Member, to: &Member) -> Result<f64> {
    let transfer = start(from, to)?;
    let rate = measure(&transfer, || Ok(()))?;
    transfer.stop();
    transfer.finish()?;
    Ok(rate)
}
