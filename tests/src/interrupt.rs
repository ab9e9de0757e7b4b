//! Ctrl-C in a program with a lab: destructors do not run then, so the lab is swept by hand.

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::sweep;

/// The signals that end a program from outside, blocked in every thread that is started from now on.
#[derive(Debug)]
pub struct Interrupts(SigSet);

impl Interrupts {
    /// Blocks them in this thread. To be called first, while there is no other thread.
    pub fn block() -> Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block().context("block signals")?;
        Ok(Self(set))
    }

    /// Starts the thread that takes them: it ends what the lab runs, removes what it made, and exits like the signal.
    pub fn clean_up_and_exit(self) {
        std::thread::spawn(move || {
            let Ok(signal) = self.0.wait() else { return };
            eprintln!("\n{signal}: cleaning up");
            let code = match sweep::own() {
                Ok(_) => 128 + signal as i32,
                Err(error) => {
                    eprintln!("not everything could be removed, the next run will: {error:#}");
                    1
                }
            };
            std::process::exit(code);
        });
    }
}
