//! What happened, in order: a digest of everything, and the last lines to show when something is wrong.

use std::{collections::VecDeque, fmt, time::Duration};

/// Lines kept of a run that is not recorded.
const TAIL: usize = 120;

/// The event log of a run.
#[derive(Debug, Default)]
pub struct Log {
    lines: VecDeque<String>,
    digest: u64,
    count: u64,
    whole: bool,
}

impl Log {
    /// A log that keeps all lines, or only the last ones.
    pub fn new(whole: bool) -> Self {
        Self {
            whole,
            ..Self::default()
        }
    }

    /// Adds a line.
    pub fn add(&mut self, at: Duration, line: impl fmt::Display) {
        let line = format!("{:>12.6} {line}", at.as_secs_f64());
        self.digest = mix(self.digest, line.as_bytes());
        self.count += 1;
        if !self.whole && self.lines.len() == TAIL {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// The lines that were kept.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// Number of lines and a digest of all of them, kept or not.
    pub fn summary(&self) -> (u64, u64) {
        (self.count, self.digest)
    }
}

/// FNV-1a over some bytes, going on from `state`. Tells runs and datagrams apart; protects nothing.
pub fn mix(state: u64, bytes: &[u8]) -> u64 {
    let start = state ^ 0xcbf2_9ce4_8422_2325;
    bytes.iter().fold(start, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
