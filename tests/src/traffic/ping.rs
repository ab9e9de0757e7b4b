//! The system's `ping`, with its round trip times.

use std::net::IpAddr;
use std::process::Command;

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

/// Sends `count` echo requests, `interval` seconds apart, and reports what came back, even if that is nothing.
pub fn series(from: &Netns, to: IpAddr, count: u32, interval: f64) -> Result<Report> {
    let (count_text, interval_text, to) = (count.to_string(), interval.to_string(), to.to_string());
    let output = from.run(|| {
        Command::new("ping")
            .args([
                "-n",
                "-c",
                &count_text,
                "-i",
                &interval_text,
                "-W",
                "1",
                &to,
            ])
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
    Ok(Report {
        sent: count,
        rtt_ms: text
            .lines()
            .filter(|line| !line.contains("DUP!"))
            .filter_map(rtt)
            .collect(),
    })
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
