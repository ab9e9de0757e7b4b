//! One network namespace with a name: making it, entering it, removing it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::shell;

/// Where `ip netns` keeps its names.
pub const NETNS_DIR: &str = "/run/netns";

/// A named network namespace; clones share it, and it is removed when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
}

impl Netns {
    /// Makes the namespace and brings its loopback up.
    pub fn create(name: &str) -> Result<Self> {
        shell::run("ip", &["netns", "add", name])?;
        let file = File::open(path(name)).with_context(|| format!("namespace {name}"))?;
        let netns = Self(Arc::new(Inner {
            name: name.to_owned(),
            file,
        }));
        netns.ip("link set lo up\n")?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The open namespace file, for `setns` in a child.
    pub fn file(&self) -> &File {
        &self.0.file
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<()> {
        setns(&self.0.file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter namespace {}", self.0.name))
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it. Sockets it returns stay in the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter()?;
                work()
            });
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The same for something asynchronous.
    pub fn run_async<T: Send>(&self, work: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
        self.run(move || runtime()?.block_on(work()))
    }

    /// Starts `work` on a thread of its own inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> std::thread::JoinHandle<Result<T>> {
        let netns = self.clone();
        std::thread::spawn(move || {
            netns.enter()?;
            work()
        })
    }

    /// The same for something asynchronous.
    pub fn spawn_async<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> std::thread::JoinHandle<Result<T>> {
        self.spawn(move || runtime()?.block_on(work))
    }

    /// Runs lines of `ip -batch` inside the namespace.
    pub fn ip(&self, lines: &str) -> Result<()> {
        shell::feed("ip", &["-n", self.name(), "-batch", "-"], lines).map(drop)
    }

    /// Runs an nftables script inside the namespace.
    pub fn nft(&self, script: &str) -> Result<()> {
        self.run(|| shell::feed("nft", &["-f", "-"], script).map(drop))
    }

    /// Writes a `net.*` kernel setting of this namespace; `key` with slashes, relative to `/proc/sys/net`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| {
            std::fs::write(Path::new("/proc/sys/net").join(key), value)
                .with_context(|| format!("set net/{key}"))
        })
    }

    /// The kernel's byte counters of an interface: received, sent.
    pub fn interface_bytes(&self, interface: &str) -> Result<(u64, u64)> {
        let text = shell::run(
            "ip",
            &[
                "-n",
                self.name(),
                "-s",
                "-j",
                "link",
                "show",
                "dev",
                interface,
            ],
        )?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        let count = |direction: &str| {
            json[0]["stats64"][direction]["bytes"]
                .as_u64()
                .context("no interface statistics")
        };
        Ok((count("rx")?, count("tx")?))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nothing to do about a failure here; the next lab sweeps what is left.
        let _ = shell::run("ip", &["netns", "delete", &self.name]);
    }
}

/// The file of a namespace name.
pub fn path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// For one thread: threads of its own would not be in the namespace.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}
