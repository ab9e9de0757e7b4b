//! `make demo`: the main job on one machine, told as a story.
//!
//! Three machines and a coordinator, each a network namespace, form a private network by the command line. Then the
//! coordinator dies in the middle of a file transfer, and nothing happens. Exits with 1 when a step fails.

#![expect(clippy::print_stdout, reason = "the demo is its output")]

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::client::{Node, Overlay};
use kanpachi_tests::interrupt;
use kanpachi_tests::lab::{Host, Lab};
use kanpachi_tests::mesh::{DIRECT, Hub, Member, NETWORK, tunnel_state};
use kanpachi_tests::process::print_log_tails;
use kanpachi_tests::traffic::ping;
use kanpachi_tests::traffic::tcp::{Payload, Transfer};
use kanpachi_tests::wait::{quietly, scaled};

/// Slow enough to last through the outage.
const FILE_RATE: u64 = 20_000_000;
const OUTAGE_NOTICED: Duration = Duration::from_secs(10);
const LOGIN: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    kanpachi_tests::be_quiet();
    let interrupts = interrupt::Interrupts::block();
    let mut story = Story::new();
    if let Err(error) = interrupts.map(interrupt::Interrupts::clean_up_and_exit) {
        story.failed(&error);
        return ExitCode::FAILURE;
    }
    let start = Instant::now();
    let mut lab = match Lab::new("demo") {
        Ok(lab) => lab,
        Err(error) => {
            story.failed(&error);
            return ExitCode::FAILURE;
        }
    };
    let outcome = tell(&mut story, &mut lab);
    if let Err(error) = &outcome {
        print_log_tails(lab.directory());
        story.failed(error);
    }
    drop(lab);
    if outcome.is_err() {
        return ExitCode::FAILURE;
    }
    story.end(start.elapsed());
    ExitCode::SUCCESS
}

fn tell(story: &mut Story, lab: &mut Lab) -> Result<()> {
    story.chapter("Four machines that cannot see each other's networks");
    let (hub_host, hosts) = lay_out(lab)?;
    story.line(&format!(
        "hub      {:<14}  a small server on the public Internet",
        hub_host.v4
    ));
    for host in &hosts {
        story.line(&format!(
            "{:<8} {:<14}  at home, behind a router of its own",
            host.name, host.v4
        ));
    }

    story.chapter("One command on each");
    let (mut hub, members) = form_network(story, lab, &hub_host, &hosts)?;

    story.chapter("Everybody reaches everybody");
    ping_all(story, &members)?;

    story.chapter("A file on its way, and the coordinator dies");
    outage(story, &mut hub, &members)
}

fn lay_out(lab: &mut Lab) -> Result<(Host, Vec<Host>)> {
    let hub = lab.public_host("hub")?;
    let hosts = ["alice", "bob", "carol"].iter().map(|name| {
        let lan = lab.lan(&format!("{name}-lan"))?;
        lab.host(name, &lan)
    });
    Ok((hub, hosts.collect::<Result<_>>()?))
}

fn form_network(
    story: &mut Story,
    lab: &Lab,
    hub_host: &Host,
    hosts: &[Host],
) -> Result<(Hub, Vec<Member>)> {
    let start = story.command("hub", "kanpachi host --no-node");
    let hub = Hub::start(lab, hub_host, &["--no-node"]).context("the hub did not start")?;
    story.done(
        start,
        "coordinator, bootstrap and relay run; it printed an invite:",
    );
    let mut invite = hub.invite()?.to_owned();
    story.line(&shorten(&invite));
    let mut members: Vec<Member> = Vec::new();
    for host in hosts {
        if let Some(owner) = members.first() {
            let start = story.command(&owner.node.host.name, &format!("kanpachi invite {NETWORK}"));
            invite = owner.node.invite(NETWORK, &[]).context("no invite")?;
            story.done(start, "an invite for one more machine");
        }
        let start = story.command(&host.name, "kanpachi join <invite>");
        let member = Member::join(Node::new(lab, host)?, &invite)
            .with_context(|| format!("{} did not join", host.name))?;
        let Overlay { v4, v6, .. } = &member.overlay;
        story.done(start, &format!("{v4} and {v6}, for life"));
        members.push(member);
    }
    Ok((hub, members))
}

fn ping_all(story: &mut Story, members: &[Member]) -> Result<()> {
    let pairs = members
        .iter()
        .flat_map(|from| members.iter().map(move |to| (from, to)));
    for (from, to) in pairs.filter(|(from, to)| from.name() < to.name()) {
        let start = Instant::now();
        let round_trip = |address| {
            quietly(DIRECT, || ping::once(&from.node.host.ns, address))
                .with_context(|| format!("{} cannot ping {} at {address}", from.name(), to.name()))
        };
        let [v4, v6] = to.overlay.addresses();
        let (v4, v6) = (round_trip(v4)?, round_trip(v6)?);
        let path = quietly(DIRECT, || {
            let path = from.node.status()?.peer(to.name())?["path"]
                .as_str()
                .unwrap_or("none")
                .to_owned();
            ensure!(path == "direct" || path == "lan", "the path is {path}");
            Ok(path)
        })
        .with_context(|| format!("no direct path from {} to {}", from.name(), to.name()))?;
        story.done(
            start,
            &format!(
                "{} ↔ {}   IPv4 {v4:.2} ms, IPv6 {v6:.2} ms, path {path}",
                from.name(),
                to.name()
            ),
        );
    }
    Ok(())
}

fn outage(story: &mut Story, hub: &mut Hub, members: &[Member]) -> Result<()> {
    let [alice, bob, ..] = members else {
        anyhow::bail!("too few members")
    };
    let before = tunnel_state(alice, bob)?;
    let payload = Payload {
        rate: FILE_RATE,
        seed: 1,
        ..Payload::default()
    };
    let transfer = Transfer::start(
        &alice.node.host.ns,
        (&bob.node.host.ns, bob.overlay.v4.into()),
        payload,
    )?;
    let start = Instant::now();
    moved(&transfer, FILE_RATE / 2)?;
    story.done(start, "alice sends bob a file through the tunnel");

    let start = story.command("hub", "kill -9 kanpachi");
    hub.process.kill()?;
    let status = quietly(OUTAGE_NOTICED, || {
        let status = alice.node.status()?;
        ensure!(
            status.coordinator_state() == "unreachable",
            "the status says {}",
            status.coordinator_state()
        );
        Ok(status)
    })
    .context("alice did not notice the outage")?;
    let since = status.0["coordinator"]["since"]
        .as_str()
        .context("no time")?;
    let since = since.parse::<jiff::Timestamp>()?.strftime("%H:%M:%S");
    story.done(
        start,
        &format!("alice's status says: coordinator unreachable since {since} UTC"),
    );
    let start = Instant::now();
    moved(&transfer, FILE_RATE)?;
    story.done(
        start,
        &format!(
            "and the file moves on: {} MB so far",
            transfer.progress() / 1_000_000
        ),
    );
    comes_back(story, hub, members)?;
    moved(&transfer, FILE_RATE / 2)?;
    ensure!(
        tunnel_state(alice, bob)? == before,
        "the tunnel was set up anew"
    );
    arrived(story, transfer)
}

fn arrived(story: &Story, transfer: Transfer) -> Result<()> {
    let start = Instant::now();
    transfer.stop();
    let report = transfer.finish().context("the transfer was cut")?;
    let megabytes = report.received / 1_000_000;
    let hash: String = report.received_sha256[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let pause = report.longest_gap.as_secs_f64() * 1e3;
    let text = format!(
        "{megabytes} MB arrived, SHA-256 {hash}… at both ends, never paused for more than {pause:.0} ms"
    );
    story.done(start, &text);
    Ok(())
}

fn comes_back(story: &mut Story, hub: &mut Hub, members: &[Member]) -> Result<()> {
    let start = story.command("hub", "kanpachi host --no-node");
    hub.start_again().context("the hub did not start again")?;
    for member in members {
        quietly(LOGIN, || {
            let status = member.node.status()?;
            ensure!(
                status.coordinator_state() == "connected",
                "{}",
                status.0["coordinator"]
            );
            Ok(())
        })
        .with_context(|| format!("{} did not log in again", member.name()))?;
    }
    story.done(
        start,
        "the same organisation as before; everybody is logged in again",
    );
    Ok(())
}

/// Waits until so many more bytes have arrived.
fn moved(transfer: &Transfer, bytes: u64) -> Result<()> {
    let goal = transfer.progress() + bytes;
    quietly(Duration::from_secs(10), || {
        ensure!(!transfer.is_finished(), "it ended");
        ensure!(
            transfer.progress() >= goal,
            "{} of {goal} bytes",
            transfer.progress()
        );
        Ok(())
    })
    .context("the transfer stands still")
}

/// A link without most of its secret, as long as a line bears.
fn shorten(invite: &str) -> String {
    let shown: String = invite.chars().take(56).collect();
    format!("{shown}…")
}

/// The narrator: colours on a terminal, plain text elsewhere.
struct Story {
    colour: bool,
    chapter: u32,
}

impl Story {
    fn new() -> Self {
        Self {
            colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            chapter: 0,
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        println!(
            "\n{}",
            self.paint("1", &format!("{}. {title}", self.chapter))
        );
    }

    fn line(&self, text: &str) {
        println!("     {text}");
    }

    /// Shows what is typed on a machine, and starts the clock.
    fn command(&self, host: &str, command: &str) -> Instant {
        println!(
            "   {} {}",
            self.paint("36", &format!("{host} $")),
            self.paint("1", command)
        );
        Instant::now()
    }

    fn done(&self, start: Instant, text: &str) {
        let took = format!("({:.1} s)", start.elapsed().as_secs_f64());
        println!(
            "   {} {text} {}",
            self.paint("32", "✔"),
            self.paint("2", &took)
        );
    }

    fn failed(&mut self, error: &anyhow::Error) {
        println!("   {} {error:#}", self.paint("31", "✘"));
    }

    fn end(&self, took: Duration) {
        let told = format!(
            "That took {:.0} s. Everything it made on this machine is removed again.",
            took.as_secs_f64()
        );
        println!("\n{}", self.paint("1", &told));
        if took > scaled(Duration::from_secs(60)) {
            println!("It should take less than a minute; this machine is busy or slow.");
        }
        println!("On your machines: `kanpachi host` on one, `kanpachi join <invite>` on the next.");
    }
}
