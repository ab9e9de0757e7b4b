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
use kanpachi_transport::SharedSocket;

/// Each measurement takes so long.
const MEASURE: Duration = Duration::from_secs(4);
/// Before it, a transfer gets up to speed.
const WARM_UP: Duration = Duration::from_secs(1);
const RELAYED: Duration = Duration::from_secs(15);
const STOP: Duration = Duration::from_secs(10);
const PORT: u16 = 12975;
/// A new connection to the relay is there within this, in the flood.
const QUIC: Duration = Duration::from_secs(5);
/// Median round trip under load, in milliseconds.
const LOADED_MS: f64 = 5.0;
/// Mbit/s of a member at a relay with a narrow line, and of the line.
const RATE: u32 = 80;
const LINE: u32 = 200;
/// How many times what the other gets through alone the flood sends.
const TIMES: f64 = 4.0;
/// Datagrams in one send of the flood, and bytes in each.
const FLOOD: (usize, usize) = (40, 1400);

#[test]
fn a_relayed_path_has_a_third_of_a_direct_ones_rate_and_answers_under_load() {
    run("relay-show5", |lab| {
        let mesh = Mesh::three(lab, &["--no-node", "--relay-rate", "0"])?;
        let (alice, bob) = (mesh.member("alice")?, mesh.member("bob")?);
        alice.node.wait_for_path("bob", "direct", DIRECT)?;
        let (direct, usual) = loaded(alice, bob)?;
        mesh.cut_direct(0, 1, RELAYED)?;
        let (relayed, median) = loaded(alice, bob)?;
        note(format_args!(
            "direct {direct:.0} Mbit/s, median RTT {usual:.2} ms under load; relayed {relayed:.0} Mbit/s ({:.0} %), {median:.2} ms",
            relayed / direct * 100.0,
        ));
        ensure!(
            relayed >= 0.3 * direct,
            "{relayed:.0} of {direct:.0} Mbit/s"
        );
        // A machine that is busy with other things delays everybody's packets.
        ensure!(
            median < LOADED_MS * slack() || median < usual + LOADED_MS,
            "{median} ms under load, {usual} ms direct"
        );
        alice.node.wait_for_path("bob", "relay", DIRECT).map(drop)
    });
}

#[test]
fn one_who_floods_leaves_another_half_of_its_share_and_quic_alive() {
    run("relay-show5-flood", |lab| {
        let mut mesh = Mesh::three(lab, &["--no-node", "--relay-rate", "0"])?;
        let (alone, beside) = flooded(lab, &mut mesh, |alone| TIMES * alone)?;
        // Two send, so the share of each is half of what goes through.
        ensure!(beside >= alone / 4.0, "{beside:.0} of {alone:.0} Mbit/s");
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
        let (alone, beside) = flooded(lab, &mut mesh, |_| 3.0 * f64::from(LINE))?;
        // The line has room for what both may send.
        ensure!(beside >= alone / 2.0, "{beside:.0} of {alone:.0} Mbit/s");
        mesh.wait_until_logged_in(Duration::from_secs(1))
    });
}

/// What alice gets through to bob over the relay alone, and beside somebody who sends so much of it; Mbit/s all three.
fn flooded(lab: &mut Lab, mesh: &mut Mesh, much: impl Fn(f64) -> f64) -> Result<(f64, f64)> {
    let (flooder, keys) = flooders(lab, mesh)?;
    let stolen = StolenCoordinator::read(&mesh.hub.coordinator_dir())?;
    let target = Target {
        org: stolen.org(),
        server: stolen.identity.node_id(),
        addr: SocketAddr::from((mesh.hub.node.host.v4, PORT)),
    };
    mesh.cut_direct(0, 1, RELAYED)?;
    let alone = rate(mesh.member("alice")?, mesh.member("bob")?)?;
    let rate = much(alone) / 8e-6;
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (quic, beside) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            flooder
                .ns
                .run(|| flood(&flooder, target, (&stolen, &keys), rate, (&stop, &sent)))
        });
        let outcome = under_flood(mesh, &flooder, target, &sent);
        stop.store(true, Ordering::Relaxed);
        flood.join().expect("the flood does not panic")?;
        outcome
    })?;
    let flooded = sent.load(Ordering::Relaxed);
    note(format_args!(
        "alone {alone:.0} Mbit/s, beside a flood of {} MB {beside:.0} Mbit/s, QUIC after {:.0} ms",
        flooded / 1_000_000,
        quic.as_secs_f64() * 1e3,
    ));
    ensure!(quic < QUIC, "a connection took {quic:?}");
    Ok((alone, beside))
}

/// What a transfer gets through while the flood runs, and how long a new connection to the relay takes.
fn under_flood(
    mesh: &Mesh,
    host: &Host,
    target: Target,
    sent: &AtomicU64,
) -> Result<(Duration, f64)> {
    eventually(RELAYED, "the flood has begun", || {
        ensure!(sent.load(Ordering::Relaxed) > 10_000_000);
        Ok(())
    })?;
    let transfer = start(mesh.member("alice")?, mesh.member("bob")?)?;
    let mut quic = Duration::MAX;
    let beside = measure(&transfer, || {
        let begin = Instant::now();
        host.ns.run_async(async || {
            let nobody = SecretKey::from_seed(&[0x77; 32]);
            let connecting = RelayGuest::connect(target, host.v4.into(), &nobody);
            tokio::time::timeout(QUIC, connecting).await?
        })?;
        quic = begin.elapsed();
        Ok(())
    })?;
    transfer.stop();
    transfer.finish()?;
    Ok((quic, beside))
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

/// So many bytes a second to a relay, until told to stop.
fn flood(
    host: &Host,
    target: Target,
    (stolen, keys): (&StolenCoordinator, &[SecretKey; 2]),
    rate: f64,
    (stop, sent): (&AtomicBool, &AtomicU64),
) -> Result<()> {
    let runtime = runtime()?;
    let (mut from, _to) = runtime.block_on(async {
        let mut from = RelayGuest::connect(target, host.v4.into(), &keys[0]).await?;
        let mut to = RelayGuest::connect(target, host.v4.into(), &keys[1]).await?;
        from.get_in(stolen).await?;
        to.get_in(stolen).await?;
        from.pair(1, &mut to).await?;
        anyhow::Ok((from, to))
    })?;
    let own = from.udp.local_addr()?;
    let datagram = from.datagram(1, &vec![0x55; FLOOD.1]);
    let batch = datagram.repeat(FLOOD.0);
    // The session knows this address: another socket there can send many at once.
    from.udp = std::net::UdpSocket::bind((host.v4, 0))?;
    let socket = SharedSocket::bind(own)?;
    let _reader = socket.spawn_reader(Silent)?;
    let begin = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let due = sent.load(Ordering::Relaxed) as f64 / rate;
        std::thread::sleep(Duration::from_secs_f64(due).saturating_sub(begin.elapsed()));
        match socket.send(target.addr, &batch, Some(datagram.len())) {
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
