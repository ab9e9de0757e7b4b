//! `make bench`: what the tunnel costs, beside the bare underlay in the same run.
//!
//! Two hosts on the public segment, a hub apart, client and server and both daemons on the same processors. Every row
//! is measured first over the underlay, then through the tunnel, and shown with the ratio of the two.

#![expect(clippy::print_stdout, reason = "the bench prints a table")]

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::client::Node;
use kanpachi_tests::interrupt::Interrupts;
use kanpachi_tests::lab::{Host, Lab};
use kanpachi_tests::mesh::{DIRECT, Hub, Member, reach};
use kanpachi_tests::netns::Netns;
use kanpachi_tests::process::{OnHost, Process, print_log_tails};
use kanpachi_tests::traffic::ping;
use kanpachi_tests::wait::quietly;
use serde_json::Value;

/// Seconds per measurement.
const SECONDS: u32 = 5;
const PORT: &str = "5201";
const GIB: f64 = (1u64 << 30) as f64;

fn main() -> ExitCode {
    kanpachi_tests::be_quiet();
    warn_if_busy();
    let prepared = Interrupts::block()
        .map(Interrupts::clean_up_and_exit)
        .and_then(|()| Lab::new("bench"));
    let outcome = prepared
        .and_then(|mut lab| bench(&mut lab).inspect_err(|_| print_log_tails(lab.directory())));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("✘ {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Other work on the machine makes every number worse, the tunnel's more than the underlay's.
fn warn_if_busy() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = load
        .split(' ')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0.0);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if load > processors as f64 / 2.0 {
        println!(
            "load {load} on {processors} processors: this machine is busy, the numbers will be too low\n"
        );
    }
}

/// Two members and everything that is measured between them.
struct Bench {
    client: Member,
    server: Member,
    iperf: String,
    logs: std::path::PathBuf,
}

fn bench(lab: &mut Lab) -> Result<()> {
    let iperf = find("iperf3").context("the bench needs iperf3: `make bench` installs it")?;
    let hub_host = lab.public_host("hub")?;
    let hub = Hub::start(lab, &hub_host, &["--no-node"])?;
    let (client, server) = (lab.public_host("alice")?, lab.public_host("bob")?);
    let client = Member::join(Node::new(lab, &client)?, hub.invite()?)?;
    let server = Member::join(Node::new(lab, &server)?, &client.node.invite("lan", &[])?)?;
    reach(&client, &server, DIRECT)?;
    quietly(DIRECT, || {
        let path = client.node.status()?.peer(server.name())?["path"].clone();
        ensure!(path == "direct" || path == "lan", "the path is {path}");
        Ok(())
    })?;
    let mut bench = Bench {
        client,
        server,
        iperf,
        logs: lab.directory().to_owned(),
    };
    let idle = bench.memory()?;
    let mut table = Table::default();
    bench.throughput(&mut table)?;
    bench.small_packets(&mut table)?;
    bench.latency(&mut table)?;
    let loaded = bench.memory()?;
    table.plain("memory, idle", idle, "MiB a daemon");
    table.plain("memory, after load", loaded, "MiB a daemon");
    table.print();
    Ok(())
}

impl Bench {
    fn underlay(&self) -> IpAddr {
        self.server.node.host.v4.into()
    }

    fn overlay(&self) -> IpAddr {
        self.server.overlay.v4.into()
    }

    fn throughput(&mut self, table: &mut Table) -> Result<()> {
        for (name, options) in [
            ("TCP, one stream", &[] as &[&str]),
            ("TCP, one stream back", &["-R"]),
            ("TCP, four streams", &["-P", "4"]),
        ] {
            let bare = tcp_rate(&self.iperf(self.underlay(), options)?)?;
            let before = self.cpu()?;
            let through = self.iperf(self.overlay(), options)?;
            let cpu = self.cpu()? - before;
            let bytes = through["end"]["sum_received"]["bytes"]
                .as_f64()
                .context("no bytes")?;
            table.ratio(name, bare, tcp_rate(&through)?, "Mbit/s");
            if options.is_empty() {
                table.plain(
                    "processor time, both daemons",
                    cpu.as_secs_f64() / (bytes / GIB),
                    "s a GiB",
                );
            }
        }
        Ok(())
    }

    /// Received 64-byte UDP payloads a second, as many as the sender can make.
    fn small_packets(&mut self, table: &mut Table) -> Result<()> {
        let options = ["-u", "-b", "0", "-l", "64"];
        let bare = packet_rate(&self.iperf(self.underlay(), &options)?)?;
        let through = packet_rate(&self.iperf(self.overlay(), &options)?)?;
        table.ratio("UDP, 64 bytes", bare, through, "packets/s");
        Ok(())
    }

    fn latency(&mut self, table: &mut Table) -> Result<()> {
        for (name, loaded) in [("idle", false), ("under load", true)] {
            let bare = self.ping(self.underlay(), loaded)?;
            let through = self.ping(self.overlay(), loaded)?;
            for percent in [50.0, 99.0] {
                let value = |report: &ping::Report| {
                    report.percentile(percent).context("no answer to any ping")
                };
                table.ratio(
                    &format!("ping {name}, p{percent:.0}"),
                    value(&bare)?,
                    value(&through)?,
                    "ms",
                );
            }
        }
        Ok(())
    }

    /// Pings while nothing else happens, or while one TCP stream runs the same way.
    fn ping(&self, to: IpAddr, loaded: bool) -> Result<ping::Report> {
        let ns = &self.client.node.host.ns;
        if !loaded {
            return ping::series(ns, to, 1000, 0.002);
        }
        std::thread::scope(|scope| {
            let load = scope.spawn(|| self.iperf(to, &[]));
            let report = ping::series(ns, to, 400, 0.01);
            load.join()
                .map_err(|_| anyhow::anyhow!("iperf3 panicked"))??;
            report
        })
    }

    /// One iperf3 run from client to server; the server serves this one run.
    fn iperf(&self, to: IpAddr, options: &[&str]) -> Result<Value> {
        let mut server = self.iperf_server(&self.server.node.host)?;
        let (seconds, to) = (SECONDS.to_string(), to.to_string());
        let args = ["-c", &to, "-p", PORT, "-t", &seconds, "-J"];
        let client = OnHost::new(&self.client.node.host, self.iperf.as_ref())
            .args(args)
            .args(options);
        let result = client.output("")?.json()?;
        quietly(Duration::from_secs(5), || {
            server.exited().context("the iperf3 server runs on")
        })?;
        ensure!(
            result["error"].is_null(),
            "iperf3 to {to}: {}",
            result["error"]
        );
        Ok(result)
    }

    fn iperf_server(&self, host: &Host) -> Result<Process> {
        let server = OnHost::new(host, self.iperf.as_ref()).args(["-s", "-1", "-p", PORT]);
        let process = server.start(&self.logs, "iperf3")?;
        quietly(Duration::from_secs(5), || listens(&host.ns, PORT))?;
        Ok(process)
    }

    fn cpu(&self) -> Result<Duration> {
        Ok(self.client.process.cpu_time()? + self.server.process.cpu_time()?)
    }

    /// The larger of the two daemons, MiB.
    fn memory(&self) -> Result<f64> {
        let bytes = self.client.process.rss()?.max(self.server.process.rss()?);
        Ok(bytes as f64 / f64::from(1 << 20))
    }
}

fn find(program: &str) -> Option<String> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file());
    found.map(|file| file.display().to_string())
}

fn listens(ns: &Netns, port: &str) -> Result<()> {
    // Sockets in LISTEN are state 0A; the port is in hex.
    let wanted = format!(":{:04X} ", port.parse::<u16>()?);
    ns.run(|| {
        let tables = std::fs::read_to_string("/proc/thread-self/net/tcp")?
            + &std::fs::read_to_string("/proc/thread-self/net/tcp6")?;
        ensure!(
            tables
                .lines()
                .any(|line| line.contains(&wanted) && line.contains(" 0A ")),
            "nobody listens on {port}"
        );
        Ok(())
    })
}

fn tcp_rate(result: &Value) -> Result<f64> {
    Ok(result["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .context("no rate")?
        / 1e6)
}

fn packet_rate(result: &Value) -> Result<f64> {
    let sum = &result["end"]["sum"];
    let number = |field: &str| sum[field].as_f64().with_context(|| format!("no {field}"));
    Ok((number("packets")? - number("lost_packets")?) / number("seconds")?)
}

/// Rows of the result: name, bare, through the tunnel, ratio, unit.
#[derive(Default)]
struct Table(Vec<[String; 5]>);

impl Table {
    fn ratio(&mut self, name: &str, bare: f64, through: f64, unit: &str) {
        self.row(
            name,
            figure(bare),
            figure(through),
            format!("{:.3}", through / bare),
            unit,
        );
    }

    fn plain(&mut self, name: &str, value: f64, unit: &str) {
        self.row(name, "-".to_owned(), figure(value), "-".to_owned(), unit);
    }

    fn row(&mut self, name: &str, bare: String, through: String, ratio: String, unit: &str) {
        println!("  {name}: {through} {unit}");
        self.0
            .push([name.to_owned(), bare, through, ratio, unit.to_owned()]);
    }

    fn print(&self) {
        println!(
            "\n{:<30} {:>10} {:>10} {:>8}  unit",
            "", "underlay", "kanpachi", "ratio"
        );
        for [name, bare, through, ratio, unit] in &self.0 {
            println!("{name:<30} {bare:>10} {through:>10} {ratio:>8}  {unit}");
        }
    }
}

/// Three digits that mean something.
fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}
