//! Members, show 3: hundreds at once, and an attacker who guesses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures::future::try_join_all;
use kanpachi_common::invite::Invite;
use kanpachi_common::org::Directory;
use kanpachi_common::wire::control::{ClientMessage, Join, ServerMessage, codes};
use kanpachi_common::{Hash, cbor};
use kanpachi_tests::client::{COORDINATOR_PORT, Node};
use kanpachi_tests::hostile::{Guest, StolenCoordinator, Target};
use kanpachi_tests::lab::{Host, Lab, run};
use kanpachi_tests::mesh::{Hub, Member, NETWORK};
use kanpachi_tests::note;
use kanpachi_tests::wait::{eventually, scaled};
use tokio::sync::Barrier;

const ADDRESSES: u32 = 100;
const JOINS: u32 = 200;
const LOGINS: u32 = 64;
const GUESSES: u64 = 100_000;
/// For all of them to get in, and for all to be answered.
const STAGE: Duration = Duration::from_secs(30);
/// For one dial.
const DIAL: Duration = Duration::from_secs(5);
/// Questions that one stranger has open at a time; the coordinator takes 16.
const WINDOW: u64 = 16;

/// A hub with an owner, and a host with a hundred addresses.
fn crowd(lab: &mut Lab) -> Result<(Hub, Member, Target, Host, Vec<IpAddr>)> {
    let host = lab.public_host("hub")?;
    let hub = Hub::start(lab, &host, &["--no-node"])?;
    let host = lab.public_host("alice")?;
    let alice = Member::join(Node::new(lab, &host)?, hub.invite()?)?;
    let stolen = StolenCoordinator::read(&hub.node.state_dir)?;
    let directory: Directory = cbor::decode(&stolen.directory.payload, 64 * 1024)?;
    let target = Target {
        org: stolen.org(),
        server: directory.coordinators.first().context("no coordinator")?.id,
        addr: (hub.node.host.v4, COORDINATOR_PORT).into(),
    };
    let crowd = lab.public_host("crowd")?;
    let mut addresses = Vec::new();
    for n in 100..100 + ADDRESSES {
        let (v4, _) = lab.public().address(n);
        crowd.ns.ip(&format!("addr add {v4}/24 dev eth0\n"))?;
        addresses.push(v4.into());
    }
    Ok((hub, alice, target, crowd, addresses))
}

/// Runs something asynchronous on a host.
fn on<T: Send + 'static>(
    host: &Host,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let thread = host.ns.spawn_async(work);
    thread.join().map_err(|_| anyhow!("it panicked"))?
}

fn seed(what: &str, n: u32) -> [u8; 32] {
    Hash::of(&[what.as_bytes(), &n.to_be_bytes()]).0
}

/// A stranger with a session. Hundreds who dial in one moment can fill a socket of a busy machine, and QUIC waits ever
/// longer before it says again what was lost: so the dial is given up and made anew, under another name.
async fn get_in(target: Target, from: IpAddr, n: u32) -> Result<Guest> {
    let begin = Instant::now();
    let mut lives = 0;
    loop {
        let who = seed("join", n * 1000 + lives);
        lives += 1;
        match tokio::time::timeout(scaled(DIAL), Guest::connect(target, from, who)).await {
            Ok(Ok(guest)) => return Ok(guest),
            _ if begin.elapsed() < scaled(STAGE) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(anyhow!("guest {n} from {from} does not get in")),
        }
    }
}

/// So many strangers, all logged in, ask to join at the same moment.
async fn join_at_once(
    target: Target,
    addresses: Vec<IpAddr>,
    count: u32,
    token: [u8; 32],
) -> Result<Vec<ServerMessage>> {
    let start = Arc::new(Barrier::new(count as usize));
    try_join_all((0..count).map(|n| {
        let from = addresses[n as usize % addresses.len()];
        let start = Arc::clone(&start);
        async move {
            let mut guest = get_in(target, from, n).await?;
            tokio::time::timeout(scaled(2 * STAGE), start.wait())
                .await
                .context("not everybody gets in")?;
            let join = Join {
                token,
                name: format!("guest-{n}"),
            };
            let message = ClientMessage::Join(join);
            tokio::time::timeout(scaled(STAGE), guest.request(&message))
                .await
                .with_context(|| format!("guest {n} gets no answer"))?
        }
    }))
    .await
}

fn token(link: &str) -> Result<[u8; 32]> {
    Ok(Invite::parse(link)?.secret.token())
}

#[test]
fn two_hundred_joins_on_one_single_use_invite_let_one_in() {
    run("members-show3-single", |lab| {
        let (_hub, alice, target, crowd, addresses) = crowd(lab)?;
        let token = token(&alice.node.invite(NETWORK, &[])?)?;
        let began = Instant::now();
        let answers = on(&crowd, join_at_once(target, addresses, JOINS, token))?;
        let joined = answers
            .iter()
            .filter(|a| matches!(a, ServerMessage::Joined(_)));
        let used = answers
            .iter()
            .filter(|a| matches!(a, ServerMessage::Refused(r) if r.code == codes::INVITE_USED));
        let (joined, used) = (joined.count(), used.count());
        note(format_args!(
            "{joined} of {JOINS} joined, {used} were told that the invite is used, in {:.1} s",
            began.elapsed().as_secs_f64()
        ));
        ensure!(joined == 1 && used == JOINS as usize - 1, "{answers:?}");
        Ok(())
    });
}

#[test]
fn sixty_four_first_logins_at_once_give_no_address_twice() {
    run("members-show3-logins", |lab| {
        let (_hub, alice, target, crowd, addresses) = crowd(lab)?;
        let token = token(&alice.node.invite(NETWORK, &["--uses", "64"])?)?;
        let answers = on(&crowd, join_at_once(target, addresses, LOGINS, token))?;
        let mut v4 = BTreeSet::from([alice.overlay.v4]);
        let (mut v6, mut ids) = (BTreeSet::from([alice.overlay.v6]), BTreeSet::new());
        for answer in &answers {
            let ServerMessage::Joined(joined) = answer else {
                return Err(anyhow!("not joined: {answer:?}"));
            };
            v4.extend(joined.registration.ipv4);
            v6.insert(joined.registration.ipv6);
            ids.extend(joined.registration.client_id);
        }
        note(format_args!(
            "{} joined, {} IPv4 addresses",
            answers.len(),
            v4.len()
        ));
        let all = LOGINS as usize + 1;
        ensure!(v4.len() == all && v6.len() == all, "{v4:?} {v6:?}");
        ensure!(ids.len() == LOGINS as usize, "client ids: {ids:?}");
        Ok(())
    });
}

#[derive(Debug, Default)]
struct Tally {
    asked: AtomicU64,
    hits: AtomicU64,
    unknown: AtomicU64,
    throttled: AtomicU64,
}

/// Guesses until its share is done; a stranger who is sent away comes again under another name.
async fn guess(target: Target, from: IpAddr, n: u32, share: u64, tally: Arc<Tally>) -> Result<()> {
    let (mut asked, mut lives) = (0, 0);
    while asked < share {
        ensure!(lives < 1000, "sent away a thousand times");
        let who = seed("guess", n * 1000 + lives);
        lives += 1;
        let Ok(mut guest) = Guest::connect(target, from, who).await else {
            continue;
        };
        while asked < share {
            let batch = WINDOW.min(share - asked);
            let Ok(answers) = batch_of(&mut guest, batch, asked, n).await else {
                break;
            };
            asked += batch;
            tally.asked.fetch_add(batch, Ordering::Relaxed);
            for answer in answers {
                let counter = match answer {
                    ServerMessage::Refused(r) if r.code == codes::INVITE_UNKNOWN => &tally.unknown,
                    ServerMessage::Refused(r) if r.code == codes::BUSY => &tally.throttled,
                    _ => &tally.hits,
                };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

async fn batch_of(guest: &mut Guest, size: u64, from: u64, n: u32) -> Result<Vec<ServerMessage>> {
    let mut ids = Vec::new();
    for guess in from..from + size {
        let token = Hash::of(&[b"guess", &n.to_be_bytes(), &guess.to_be_bytes()]).0;
        let name = "guess".to_owned();
        ids.push(
            guest
                .ask(&ClientMessage::Join(Join { token, name }))
                .await?,
        );
    }
    let mut answers = Vec::new();
    for _ in ids {
        answers.push(guest.any_answer().await?);
    }
    Ok(answers)
}

#[test]
fn a_hundred_thousand_guesses_hit_nothing_and_an_honest_join_works_meanwhile() {
    run("members-show3-guesses", |lab| {
        let (hub, alice, target, crowd, addresses) = crowd(lab)?;
        let invite = alice.node.invite(NETWORK, &[])?;
        let tally = Arc::new(Tally::default());
        let began = Instant::now();
        let attack = std::thread::spawn({
            let (tally, crowd) = (Arc::clone(&tally), crowd.clone());
            move || {
                on(&crowd, async move {
                    let share = GUESSES / u64::from(ADDRESSES);
                    let all = addresses
                        .into_iter()
                        .zip(0..)
                        .map(|(from, n)| guess(target, from, n, share, Arc::clone(&tally)));
                    try_join_all(all).await.map(drop)
                })
            }
        });
        eventually(Duration::from_secs(20), "the attack is under way", || {
            let asked = tally.asked.load(Ordering::Relaxed);
            ensure!(asked > 1000, "{asked} guesses");
            Ok(())
        })?;
        let host = lab.public_host("bob")?;
        let honest = Instant::now();
        let bob = Member::join(Node::new(lab, &host)?, &invite)?;
        let (took, during) = (honest.elapsed(), !attack.is_finished());
        attack.join().map_err(|_| anyhow!("it panicked"))??;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (hits, unknown, throttled) =
            (get(&tally.hits), get(&tally.unknown), get(&tally.throttled));
        note(format_args!(
            "{} guesses in {:.1} s: {hits} hits, {unknown} looked up, {throttled} throttled; {} joined in {:.2} s meanwhile ({during})",
            get(&tally.asked),
            began.elapsed().as_secs_f64(),
            bob.name(),
            took.as_secs_f64()
        ));
        ensure!(hits == 0, "{hits} hits");
        ensure!(
            throttled > GUESSES * 3 / 4,
            "only {throttled} were throttled"
        );
        ensure!(during, "the attack was over before the honest join");
        ensure!(
            !hub.process.stderr().contains("panicked"),
            "the hub panicked"
        );
        Ok(())
    });
}
