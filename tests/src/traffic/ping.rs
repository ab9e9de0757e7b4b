//! The system's `ping`, with its round trip times.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::netns::Netns;

/// Answers to a series of echo requests.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub sent: u32,
    /// Round trips in milliseconds, in order of arrival.
    pub rtt_ms: Vec<f64>,
}

impl Report {
    /// The round trip in milliseconds that `percent` of 100 answers were not slower than.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let mut sorted = self.rtt_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }
}

/// Echo requests to send.
#[derive(Debug, Clone, Copy)]
pub struct Burst {
    pub count: u32,
    /// Between two, in seconds.
    pub interval: f64,
    /// Of the payload, in bytes.
    pub size: u32,
}

/// Sends `count` echo requests, `interval` seconds apart, and reports what came back, even if that is nothing.
pub fn series(from: &Netns, to: IpAddr, count: u32, interval: f64) -> Result<Report> {
    let size = 56;
    burst(
        from,
        to,
        Burst {
            count,
            interval,
            size,
        },
    )
}

/// [`series`], with a say in the size.
pub fn burst(from: &Netns, to: IpAddr, burst: Burst) -> Result<Report> {
    let [count, interval, size] = [
        burst.count.to_string(),
        burst.interval.to_string(),
        burst.size.to_string(),
    ];
    let args = ["-c", &count, "-i", &interval, "-s", &size, "-W", "1"];
    Ok(Report {
        sent: burst.count,
        rtt_ms: ping(from, to, &args)?,
    })
}

/// Sends echo requests, five a second, until one is answered: how long that took from the first on, or `None` after `limit`.
pub fn first(from: &Netns, to: IpAddr, limit: Duration) -> Result<Option<Duration>> {
    let limit = (limit.as_secs_f64().ceil() as u64).to_string();
    let start = Instant::now();
    let answers = ping(from, to, &["-c", "1", "-i", "0.2", "-w", &limit])?;
    Ok((!answers.is_empty()).then(|| start.elapsed()))
}

/// The round trips that `ping` with these options reports.
fn ping(from: &Netns, to: IpAddr, options: &[&str]) -> Result<Vec<f64>> {
    let output = from.run(|| {
        Command::new("ping")
            .arg("-n")
            .args(options)
            .arg(to.to_string())
            .env("LC_ALL", "C")
            .output()
            .context("cannot run `ping`: is it installed?")
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    // 0: answered, 1: unanswered; anything else is about the call.
    ensure!(
        matches!(output.status.code(), Some(0 | 1)),
        "ping {to}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rtt = |line: &str| {
        line.split_once("time=")?
            .1
            .split(' ')
            .next()?
            .parse::<f64>()
            .ok()
    };
    Ok(text
        .lines()
        .filter(|line| !line.contains("DUP!"))
        .filter_map(rtt)
        .collect())
}

/// One echo request, answered within a second: the round trip in milliseconds.
///
/// # Errors
/// If nothing came back.
pub fn once(from: &Netns, to: IpAddr) -> Result<f64> {
    series(from, to, 1, 1.0)?
        .rtt_ms
        .first()
        .copied()
        .with_context(|| format!("no answer from {to}"))
}
