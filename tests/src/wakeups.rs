//! How often a running process wakes up: the voluntary context switches of its threads, which are the times that they
//! waited for something and it came.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use anyhow::{Context as _, Result, ensure};

/// Counts from its making on. A thread that ends is counted up to the last [`look`](Self::look) before that.
#[derive(Debug)]
pub struct Wakeups {
    pid: u32,
    /// By thread id: name, count when it was seen first, count now.
    threads: BTreeMap<u32, (String, u64, u64)>,
}

impl Wakeups {
    pub fn of(pid: u32) -> Result<Self> {
        let threads = counts(pid)?.into_iter();
        let threads = threads.map(|(id, (name, count))| (id, (name, count, count)));
        Ok(Self {
            pid,
            threads: threads.collect(),
        })
    }

    /// Brings the counts up to date.
    pub fn look(&mut self) -> Result<()> {
        for (id, (name, count)) in counts(self.pid)? {
            // What is new now had not slept yet when counting began.
            let thread = self.threads.entry(id).or_default();
            // A thread bears its parent's name until it has set its own.
            thread.0 = name;
            thread.2 = count;
        }
        Ok(())
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.threads
            .values()
            .map(|(_, before, now)| now - before)
            .sum()
    }

    /// By name of the thread, those that never woke up left out.
    #[must_use]
    pub fn by_thread(&self) -> BTreeMap<&str, u64> {
        let mut out = BTreeMap::new();
        for (name, before, now) in self.threads.values() {
            if now > before {
                *out.entry(name.as_str()).or_default() += now - before;
            }
        }
        out
    }
}

/// Name and voluntary context switches of each thread.
fn counts(pid: u32) -> Result<BTreeMap<u32, (String, u64)>> {
    let mut out = BTreeMap::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    for task in tasks.with_context(|| format!("process {pid}"))? {
        let task = task?;
        let id = task.file_name().to_string_lossy().parse()?;
        let status = match fs::read_to_string(task.path().join("status")) {
            Ok(status) => status,
            // It ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
            Err(error) => return Err(error).context("a thread's status"),
        };
        let field = |name: &str| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(name));
            value
                .map(str::trim)
                .with_context(|| format!("no {name} in a thread's status"))
        };
        let name = field("Name:")?.to_owned();
        out.insert(id, (name, field("voluntary_ctxt_switches:")?.parse()?));
    }
    ensure!(!out.is_empty(), "process {pid} has no threads");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use anyhow::bail;

    use super::*;

    #[test]
    fn a_thread_that_waits_ten_times_wakes_ten_times() {
        let (go, wait) = mpsc::channel::<mpsc::Sender<()>>();
        let thread = std::thread::Builder::new().name("waiter".to_owned());
        let thread = thread.spawn(move || {
            for answer in wait {
                let _ = answer.send(());
            }
        });
        let mut wakeups = Wakeups::of(std::process::id()).unwrap();
        let asleep = |wakeups: &mut Wakeups, least: u64| {
            crate::wait::quietly(std::time::Duration::from_secs(10), || {
                wakeups.look()?;
                let woken = wakeups.by_thread().get("waiter").copied().unwrap_or(0);
                if woken < least {
                    bail!("{woken} of {least}");
                }
                Ok(woken)
            })
        };
        for round in 1..=10 {
            let (answer, answered) = mpsc::channel();
            go.send(answer).unwrap();
            answered.recv().unwrap();
            asleep(&mut wakeups, round).unwrap();
        }
        let woken = asleep(&mut wakeups, 10).unwrap();
        assert!(woken <= 20 && wakeups.total() >= woken, "{woken}");
        drop(go);
        thread.unwrap().join().unwrap();
    }
}
