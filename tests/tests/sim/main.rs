//! The simulation: nodes and a coordinator in virtual time, with loss, reordering, cuts and crashes, thousands of
//! virtual seconds in a few real ones. See `kanpachi_tests::sim`.
//!
//! A test that fails names the seed of the run that went wrong. `KANPACHI_SEED=7 cargo test --test sim NAME` runs one
//! test with that seed again, `KANPACHI_SEED=1..5000` with many.

mod clocks;
mod joining;
mod mishaps;
mod networks;
mod outages;
mod rosters;
mod schedules;
mod sleeps;
mod spreading;
mod tunnels;

use std::time::{Duration, Instant};

use kanpachi_tests::{
    note,
    sim::{World, scenario},
};

/// Ten years in seconds.
const TEN_YEARS: i64 = 10 * 365 * 86_400;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Runs a scenario for each seed, and says what it took.
fn for_seeds(name: &str, count: u64, mut run: impl FnMut(u64) -> World) {
    let asked = std::env::var(scenario::SEED).ok();
    let seeds = scenario::seeds(asked.as_deref(), count);
    let (began, mut virtual_time, mut steps) = (Instant::now(), Duration::ZERO, 0);
    for seed in &seeds {
        let world = run(*seed);
        virtual_time += world.elapsed();
        steps += world.steps();
    }
    note(format_args!(
        "{name}: {} seeds, {} virtual seconds, {steps} steps in {:.1} s",
        seeds.len(),
        virtual_time.as_secs(),
        began.elapsed().as_secs_f64()
    ));
}
