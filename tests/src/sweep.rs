//! Who owns what the lab leaves in the system, and removing it when the owner is gone.
//!
//! Every namespace and directory of a lab carries its owner: process id and start time, so that a process id used again
//! by somebody else is not taken for the owner. What a dead owner left (SIGKILL, power) is removed by the next lab.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{netns, shell};

/// Start of every namespace and directory name of the lab.
const PREFIX: &str = "kanpachi-lab";

/// `kanpachi-lab.<pid>.<start>.<rest>`; the rest may hold anything.
pub fn owned_name(rest: &str) -> String {
    let pid = std::process::id();
    format!("{PREFIX}.{pid}.{}.{rest}", start_time(pid).unwrap_or(0))
}

/// Where lab directories are made. Short, because unix socket paths hold 107 bytes.
pub fn directory_root() -> PathBuf {
    PathBuf::from("/tmp")
}

/// Removes what dead owners left. Returns how many namespaces and directories that were.
pub fn stale() -> Result<usize> {
    remove(|owner| owner.is_stale())
}

/// Removes everything of this process, for instance before an exit on Ctrl-C that runs no destructors.
pub fn own() -> Result<usize> {
    let pid = std::process::id();
    remove(|owner| owner.pid == pid)
}

#[derive(Debug, PartialEq, Eq)]
struct Owner {
    pid: u32,
    start: u64,
}

impl Owner {
    /// `None` for a name that is not the lab's.
    fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('.')?.splitn(3, '.');
        Some(Self {
            pid: parts.next()?.parse().ok()?,
            start: parts.next()?.parse().ok()?,
        })
    }

    fn is_stale(&self) -> bool {
        start_time(self.pid) != Some(self.start)
    }
}

fn remove(doomed: impl Fn(&Owner) -> bool) -> Result<usize> {
    let mut removed = 0;
    for (name, _) in owned_entries(Path::new(netns::NETNS_DIR), &doomed) {
        kill_inside(&name)?;
        shell::run("ip", &["netns", "delete", &name])?;
        removed += 1;
    }
    for (_, directory) in owned_entries(&directory_root(), &doomed) {
        remove_directory(&directory);
        removed += 1;
    }
    Ok(removed)
}

fn owned_entries(parent: &Path, doomed: impl Fn(&Owner) -> bool) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .filter(|(name, _)| Owner::of(name).is_some_and(|owner| doomed(&owner)))
        .collect()
}

/// Ends what runs in one namespace, which by its name is the lab's.
pub fn kill_inside(netns: &str) -> Result<()> {
    let pids = shell::run("ip", &["netns", "pids", netns])?;
    for pid in pids
        .lines()
        .filter_map(|line| line.trim().parse::<i32>().ok())
    {
        // Threads of this very process may be inside for a moment.
        if pid != std::process::id() as i32 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    Ok(())
}

/// Unmounts what is mounted below a lab directory, then removes it.
pub fn remove_directory(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|point| Path::new(point).starts_with(directory));
    for point in below {
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
    let _ = fs::remove_dir_all(directory);
}

/// The start time of a process in clock ticks since boot: field 22 of `/proc/<pid>/stat`, counted after the command name,
/// which may itself hold spaces and brackets.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Owner, owned_name, start_time};

    #[test]
    fn own_names_are_alive_and_others_are_not() {
        let owner = Owner::of(&owned_name("x.public")).unwrap();
        assert!(!owner.is_stale());
        assert!(
            Owner {
                pid: owner.pid,
                start: owner.start + 1
            }
            .is_stale(),
            "the same pid used again is not the owner"
        );
        assert!(
            Owner {
                pid: u32::MAX,
                start: 1
            }
            .is_stale()
        );
    }

    #[test]
    fn foreign_names_are_left_alone() {
        for name in [
            "kanpachi",
            "kanpachi-lab",
            "kanpachi-lab.x.1.a",
            "kanpachi-labs.1.1.a",
            "eth0",
            "",
        ] {
            assert_eq!(Owner::of(name), None, "{name}");
        }
    }

    #[test]
    fn start_time_of_self_is_known() {
        assert!(start_time(std::process::id()).is_some_and(|ticks| ticks > 0));
    }
}
