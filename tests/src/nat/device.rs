//! A router whose NAT is [`Nat`]: a TUN device that the kernel routes the router's traffic through.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::table::{Fate, Nat};
use crate::netns::Netns;
use crate::wire::{Device, open_device};

/// Name of the TUN device in the router.
pub const INTERFACE: &str = "nat0";
/// A packet at MTU 1500, with room.
const PACKET_MAX: usize = 2048;
/// How soon a stopped device notices, milliseconds.
const IDLE: u8 = 50;
/// Packets translated before it is asked whether to stop.
const BATCH: usize = 256;

/// The device and the thread that translates. Gone when dropped.
#[derive(Debug)]
pub struct UserNat {
    nat: Arc<Mutex<Nat>>,
    stop: Arc<AtomicBool>,
    carrier: Option<JoinHandle<()>>,
}

impl UserNat {
    /// Makes the device in a router's namespace. Routes into it are the caller's.
    pub fn start(ns: &Netns, nat: Nat) -> Result<Self> {
        let device = open_device(ns, INTERFACE, Device::Tun)?;
        let nat = Arc::new(Mutex::new(nat));
        let stop = Arc::new(AtomicBool::new(false));
        let carrier = std::thread::Builder::new().name("nat".to_owned()).spawn({
            let (nat, stop) = (Arc::clone(&nat), Arc::clone(&stop));
            move || carry(&device, &nat, &stop)
        })?;
        Ok(Self {
            nat,
            stop,
            carrier: Some(carrier),
        })
    }

    /// Forgets all mappings at once.
    pub fn forget(&self) {
        self.nat
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .forget();
    }
}

impl Drop for UserNat {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }
}

fn carry(mut device: &File, nat: &Mutex<Nat>, stop: &AtomicBool) {
    let mut buffer = [0u8; PACKET_MAX];
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(IDLE));
        let mut nat = nat.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..BATCH {
            let Ok(length) = device.read(&mut buffer) else {
                break;
            };
            let packet = &mut buffer[..length];
            if nat.translate(packet, Instant::now()) == Fate::Pass {
                // A full queue drops, as a router's does.
                let _ = device.write(packet);
            }
        }
    }
}
