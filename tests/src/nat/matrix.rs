//! Every host of a [`World`](super::world::World) against every other: who talks to whom how, read from the packets on
//! the public segment.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::behaviour::{Verdict, expected};
use super::joined::Joined;
use super::world::Site;
use crate::capture::{Capture, Report, TCP, UDP};
use crate::mesh::Member;
use crate::traffic::ping;
use crate::wait::{quietly, scaled};

/// Echo requests in a burst, their payload in bytes and the time between two in seconds.
const BURST: u32 = 20;
const BURST_SIZE: u32 = 1000;
const BURST_INTERVAL: f64 = 0.02;
/// The capture is behind by so much at the most.
const CAPTURE_LAG: Duration = Duration::from_secs(1);
/// From the first packet to the first answer.
pub const FIRST_ANSWER: Duration = Duration::from_secs(3);

/// How a pair was seen to talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// From one's address to the other's, on the public segment or inside a router that they share.
    Direct,
    /// By datagrams to a third host and on from there.
    Relay,
    /// By a third host, at least one leg of it over TCP.
    RelayStream,
    /// Answers came, and the packets were not seen to take any of these ways.
    Unclear,
    /// No answers.
    Silent,
}

impl Found {
    /// Is this what the verdict promised, or better?
    #[must_use]
    pub const fn keeps(self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Direct | Verdict::DirectByBirthday => matches!(self, Self::Direct),
            Verdict::Relay => matches!(self, Self::Direct | Self::Relay),
            Verdict::RelayStream => matches!(self, Self::Direct | Self::Relay | Self::RelayStream),
        }
    }

    /// Does a status line that calls the path so tell the truth?
    #[must_use]
    pub fn agrees_with(self, path: &str) -> bool {
        match self {
            Self::Direct => matches!(path, "lan" | "direct"),
            Self::Relay | Self::RelayStream => path == "relay",
            Self::Unclear => false,
            Self::Silent => !matches!(path, "lan" | "direct" | "relay"),
        }
    }
}

/// What became of a pair.
#[derive(Debug, Clone)]
pub struct Cell {
    pub one: usize,
    pub other: usize,
    pub expected: Verdict,
    pub found: Found,
    /// From the first packet to the first answer.
    pub first_answer: Option<Duration>,
    /// From the first packet until packets and status were as expected.
    pub settled: Option<Duration>,
    /// What the status of both ends calls the path.
    pub status: [String; 2],
    /// What was found first, if it was tried again.
    pub retried: Option<Found>,
}

impl Cell {
    /// There was an answer in time, and packets and status are as expected, and were in time.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.settled.is_some() && self.first_answer.is_some()
    }
}

/// Pairs that are probed at the same time.
pub type Wave = Vec<(usize, usize)>;

/// All pairs of hosts with these outside addresses, in waves: no host twice in one, and no address in two pairs.
#[must_use]
pub fn waves(outsides: &[Vec<IpAddr>]) -> Vec<Wave> {
    let mut waves: Vec<(Wave, BTreeSet<IpAddr>)> = Vec::new();
    for one in 0..outsides.len() {
        for other in one + 1..outsides.len() {
            let both = [&outsides[one], &outsides[other]];
            let addresses: BTreeSet<IpAddr> = both.into_iter().flatten().copied().collect();
            let free = waves
                .iter_mut()
                .find(|(_, taken)| taken.is_disjoint(&addresses));
            match free {
                Some((wave, taken)) => {
                    wave.push((one, other));
                    taken.extend(addresses);
                }
                None => waves.push((vec![(one, other)], addresses)),
            }
        }
    }
    waves.into_iter().map(|(wave, _)| wave).collect()
}

/// Where packets are counted while a pair is probed.
struct Watch<'a> {
    public: &'a Capture,
    inside: Vec<Capture>,
}

impl Watch<'_> {
    /// Bytes of UDP between addresses of the two, in LANs of the router that they share.
    fn inside(&self, pair: &Pair<'_>) -> u64 {
        let addresses = [&pair.one.0.addresses, &pair.other.0.addresses];
        let theirs = |address: &IpAddr| addresses.iter().any(|all| all.contains(address));
        let reports = self.inside.iter().map(Capture::report);
        let between = reports.map(|report| {
            let sum =
                report.sum(|flow| flow.protocol == UDP && theirs(&flow.from) && theirs(&flow.to));
            sum.bytes
        });
        between.sum()
    }
}

/// One pair under test.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    pub one: (&'a Site, &'a Member),
    pub other: (&'a Site, &'a Member),
}

impl Pair<'_> {
    #[must_use]
    pub fn expected(&self) -> Verdict {
        expected(&self.one.0.place, &self.other.0.place)
    }

    /// Probes until packets and status are as expected, at most `limit`. Returns the cell with its last observation.
    pub fn probe(&self, public: &Capture, at: (usize, usize), limit: Duration) -> Result<Cell> {
        let watch = Watch {
            public,
            inside: self.capture_inside()?,
        };
        let start = Instant::now();
        let mut cell = Cell {
            one: at.0,
            other: at.1,
            expected: self.expected(),
            found: Found::Silent,
            first_answer: None,
            settled: None,
            status: [String::new(), String::new()],
            retried: None,
        };
        cell.first_answer = self.first_answer()?;
        loop {
            cell.found = self.burst(&watch)?;
            cell.status = self.status()?;
            let told = cell.status.iter().all(|path| cell.found.agrees_with(path));
            if cell.found.keeps(cell.expected) && told {
                cell.settled = Some(start.elapsed());
                return Ok(cell);
            }
            if start.elapsed() >= scaled(limit) {
                return Ok(cell);
            }
        }
    }

    /// Where packets between two behind one router go by.
    fn capture_inside(&self) -> Result<Vec<Capture>> {
        let (one, other) = (&self.one.0.outside, &self.other.0.outside);
        let shared = one.iter().any(|address| other.contains(address));
        let router = self.one.0.router.as_ref().filter(|_| shared);
        let Some((ns, bridges)) = router else {
            return Ok(Vec::new());
        };
        bridges
            .iter()
            .map(|bridge| Capture::start(ns, bridge, b""))
            .collect()
    }

    fn first_answer(&self) -> Result<Option<Duration>> {
        let (from, to) = (&self.one.1.node.host.ns, self.other.1.overlay.v4.into());
        ping::first(from, to, scaled(FIRST_ANSWER))
    }

    fn status(&self) -> Result<[String; 2]> {
        let told = |from: &Member, to: &Member| -> Result<String> {
            let peer = from.node.status()?.peer(to.name())?;
            Ok(peer["path"].as_str().unwrap_or("none").to_owned())
        };
        Ok([
            told(self.one.1, self.other.1)?,
            told(self.other.1, self.one.1)?,
        ])
    }

    /// Sends a burst through the overlay and looks which way it took.
    fn burst(&self, watch: &Watch<'_>) -> Result<Found> {
        let (before, inside_before) = (watch.public.report(), watch.inside(self));
        let (from, to) = (&self.one.1.node.host.ns, self.other.1.overlay.v6.into());
        let burst = ping::Burst {
            count: BURST,
            interval: BURST_INTERVAL,
            size: BURST_SIZE,
        };
        let answers = ping::burst(from, to, burst)?.rtt_ms.len() as u64;
        if answers * 2 < u64::from(BURST) {
            return Ok(Found::Silent);
        }
        let least = answers * u64::from(BURST_SIZE);
        let look = || {
            if watch.inside(self).saturating_sub(inside_before) >= 2 * least {
                return Ok(Found::Direct);
            }
            let found = self.way(&before, &watch.public.report(), least);
            ensure!(found != Found::Unclear, "no packets of the burst");
            Ok(found)
        };
        Ok(quietly(CAPTURE_LAG, look).unwrap_or(Found::Unclear))
    }

    /// Which way at least so many bytes went, there and back, between two reports.
    fn way(&self, before: &Report, after: &Report, least: u64) -> Found {
        let (one, other) = (&self.one.0.outside, &self.other.0.outside);
        let moved = |protocol: u8, from: &dyn Fn(&IpAddr) -> bool, to: &dyn Fn(&IpAddr) -> bool| {
            let sum = |report: &Report| {
                let picked = report
                    .sum(|flow| flow.protocol == protocol && from(&flow.from) && to(&flow.to));
                picked.bytes
            };
            sum(after).saturating_sub(sum(before))
        };
        let is_one = |address: &IpAddr| one.contains(address);
        let is_other = |address: &IpAddr| other.contains(address);
        let is_third = |address: &IpAddr| !is_one(address) && !is_other(address);
        if moved(UDP, &is_one, &is_other) >= least && moved(UDP, &is_other, &is_one) >= least {
            return Found::Direct;
        }
        // Each leg in both directions.
        let leg = |protocol, end: &dyn Fn(&IpAddr) -> bool| {
            moved(protocol, end, &is_third) >= least && moved(protocol, &is_third, end) >= least
        };
        match (leg(UDP, &is_one), leg(UDP, &is_other)) {
            (true, true) => Found::Relay,
            (true, false) if leg(TCP, &is_other) => Found::RelayStream,
            (false, true) if leg(TCP, &is_one) => Found::RelayStream,
            (false, false) if leg(TCP, &is_one) && leg(TCP, &is_other) => Found::RelayStream,
            _ => Found::Unclear,
        }
    }
}

/// How long a pair may take until it is what was expected.
#[must_use]
pub const fn limit(verdict: Verdict) -> Duration {
    match verdict {
        Verdict::Direct => Duration::from_secs(10),
        Verdict::DirectByBirthday => Duration::from_secs(15),
        Verdict::Relay | Verdict::RelayStream => Duration::from_secs(5),
    }
}

/// Probes all pairs, as many at the same time as do not disturb each other.
pub fn probe_all(members: &Joined<'_>, capture: &Capture) -> Result<Vec<Cell>> {
    let outsides: Vec<_> = members
        .iter()
        .map(|(site, _)| site.outside.clone())
        .collect();
    let mut cells = Vec::new();
    for wave in waves(&outsides) {
        cells.extend(probe(members, capture, &wave)?);
    }
    Ok(cells)
}

/// Probes the pairs of a wave at the same time.
fn probe(members: &Joined<'_>, capture: &Capture, wave: &[(usize, usize)]) -> Result<Vec<Cell>> {
    std::thread::scope(|scope| {
        let probes: Vec<_> = wave
            .iter()
            .map(|at| {
                let pair = pair(members, *at);
                scope.spawn(move || pair.probe(capture, *at, limit(pair.expected())))
            })
            .collect();
        probes
            .into_iter()
            .map(|probe| {
                probe
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

/// Two of the members.
#[must_use]
pub fn pair<'a>(members: &'a Joined<'_>, at: (usize, usize)) -> Pair<'a> {
    let end = |at: usize| (members[at].0, &members[at].1);
    Pair {
        one: end(at.0),
        other: end(at.1),
    }
}

/// The matrix as text, with what each sign means and a line for each cell that is not as expected or was retried.
pub fn print(names: &[&str], cells: &[Cell]) -> Result<String> {
    let mut out = String::new();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    write!(out, "{:width$}", "")?;
    for at in 0..names.len() {
        write!(out, " {at:>2} ")?;
    }
    for (row, name) in names.iter().enumerate() {
        write!(out, "\n{name:width$}")?;
        for column in 0..names.len() {
            let pair = (row.min(column), row.max(column));
            let cell = cells.iter().find(|cell| (cell.one, cell.other) == pair);
            let sign = if row == column {
                format!("{row:>2}")
            } else {
                cell.map_or_else(|| " ?".to_owned(), sign)
            };
            write!(out, " {sign:<3}")?;
        }
    }
    out.push_str(
        "\n\nD direct, B direct by a birthday punch, R relay, S relay over a stream, . no answer, u unclear;\n\
         ! not as expected, * retried, ? not probed\n",
    );
    for cell in cells
        .iter()
        .filter(|cell| !cell.is_good() || cell.retried.is_some())
    {
        let [one, other] = [cell.one, cell.other].map(|at| names.get(at).copied().unwrap_or("?"));
        writeln!(
            out,
            "{one} and {other}: {:?} expected, {:?} found{}; first answer {}; status {:?}",
            cell.expected,
            cell.found,
            cell.retried
                .map_or_else(String::new, |first| format!(", retried after {first:?}")),
            cell.first_answer.map_or_else(
                || "none".to_owned(),
                |took| format!("{:.2} s", took.as_secs_f64())
            ),
            cell.status
        )?;
    }
    Ok(out)
}

fn sign(cell: &Cell) -> String {
    let letter = match (cell.found, cell.expected) {
        (Found::Direct, Verdict::DirectByBirthday) => 'B',
        (Found::Direct, _) => 'D',
        (Found::Relay, _) => 'R',
        (Found::RelayStream, _) => 'S',
        (Found::Silent, _) => '.',
        (Found::Unclear, _) => 'u',
    };
    let mut sign = format!(" {letter}");
    if !cell.is_good() {
        sign.push('!');
    }
    if cell.retried.is_some() {
        sign.push('*');
    }
    sign
}

/// The median and the slowest of some times, for the last line of a report.
pub fn spread(times: impl Iterator<Item = Duration>) -> Result<(Duration, Duration)> {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    let median = times.get(times.len() / 2).context("no times")?;
    let slowest = times.last().context("no times")?;
    Ok((*median, *slowest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outsides(addresses: &[u8]) -> Vec<Vec<IpAddr>> {
        let outside = |last: &u8| vec![IpAddr::from([203, 0, 113, *last])];
        addresses.iter().map(outside).collect()
    }

    /// Every pair once, no host and no outside address in two pairs of a wave.
    #[test]
    fn waves_hold_every_pair_once_and_never_mix() {
        // Three of these share an address.
        let outsides = outsides(&[1, 2, 3, 3, 3, 4, 5]);
        let mut seen = BTreeSet::new();
        for wave in waves(&outsides) {
            let mut taken = BTreeSet::new();
            for (one, other) in wave {
                assert!(seen.insert((one, other)));
                let addresses: BTreeSet<_> = [one, other]
                    .iter()
                    .flat_map(|at| outsides[*at].clone())
                    .collect();
                assert!(addresses.iter().all(|address| taken.insert(*address)));
            }
        }
        assert_eq!(seen.len(), 7 * 6 / 2);
    }

    #[test]
    fn a_verdict_is_kept_by_what_is_as_good() {
        assert!(Found::Direct.keeps(Verdict::Relay));
        assert!(!Found::Relay.keeps(Verdict::DirectByBirthday));
        assert!(!Found::RelayStream.keeps(Verdict::Relay));
        assert!(!Found::Silent.keeps(Verdict::RelayStream));
        assert!(Found::Direct.agrees_with("lan") && !Found::Direct.agrees_with("relay"));
        assert!(Found::Silent.agrees_with("connecting") && !Found::Silent.agrees_with("direct"));
    }
}
