//! A small disk of its own for one directory, to fill it up.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A tmpfs mounted on a directory until dropped.
#[derive(Debug)]
pub struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// Makes the directory and mounts `kib` KiB on it. Below the lab's directory, a sweep finds it again.
    pub fn mount(directory: &Path, kib: u64) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let options = format!("size={kib}k,mode=0700");
        mount(
            Some("kanpachi-lab"),
            directory,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| format!("mount a small disk on {}", directory.display()))?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// Fills the disk until only about `leave_kib` are free.
    pub fn fill(&self, leave_kib: u64) -> Result<()> {
        let mut ballast = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())?;
        loop {
            match ballast.write_all(&[0u8; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
        let length = ballast.metadata()?.len();
        Ok(ballast.set_len(length.saturating_sub(leave_kib * 1024))?)
    }

    /// Makes room again.
    pub fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.directory.join(".ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.directory, MntFlags::MNT_DETACH);
    }
}
