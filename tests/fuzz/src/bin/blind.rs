//! Fuzzing without libFuzzer: damaged copies of the corpus from a random seed, until the time is over or one falls.

#![expect(
    clippy::print_stdout,
    reason = "this program is a report on standard output"
)]

use std::{
    error::Error,
    fs,
    hash::{BuildHasher as _, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};

use kanpachi_fuzz::{corpus, find, mutate::Damage};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            println!("blind: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("blind TARGET [SECONDS] [SEED]")?;
    let target = find(&name).ok_or("there is no such target")?;
    let seconds = arguments.next().map_or(Ok(60), |text| text.parse())?;
    // The standard library's hasher is seeded by the system.
    let seed = arguments
        .next()
        .map_or(Ok(RandomState::new().hash_one(0)), |text| text.parse())?;
    println!("{name}: seed {seed}");
    let seeds = corpus::of(target)?;
    let (begin, limit) = (Instant::now(), Duration::from_secs(seconds));
    let mut damage = Damage::of(&name, seed);
    let mut count: usize = 0;
    while begin.elapsed() < limit {
        let (_, bytes) = &seeds[count % seeds.len()];
        let (_, lender) = &seeds[(count / seeds.len()) % seeds.len()];
        let damaged = damage.apply(bytes, lender);
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&damaged))).is_err() {
            let file = std::env::temp_dir().join(format!("kanpachi-{name}-{seed}-{count}"));
            fs::write(&file, &damaged)?;
            println!("input {count} falls: {}", file.display());
            return Ok(ExitCode::FAILURE);
        }
        count += 1;
    }
    println!("{name}: {count} inputs in {seconds} s, nothing fell");
    Ok(ExitCode::SUCCESS)
}
