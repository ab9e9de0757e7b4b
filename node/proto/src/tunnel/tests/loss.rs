//! Show 2 of Part 4: ten thousand pairs on networks that lose, delay, reorder and double.

use std::{collections::BTreeMap, time::Duration};

use super::sim::{Sim, Weather, config, ms, secs};

/// Percent lost, each way.
const LOSSES: [u64; 5] = [1, 5, 10, 20, 30];
const PAIRS_EACH: u64 = 2000;
const LIMIT: Duration = Duration::from_secs(90);

fn pair(loss: u64, seed: u64) -> (Sim, Option<Duration>) {
    let mut sim = Sim::new(2, seed, config());
    sim.weather = Weather {
        loss,
        duplicate: 5,
        // 150 ms, and up to 100 more: datagrams overtake each other.
        delay: (150, 100),
    };
    sim.connect(0, 1);
    if seed.is_multiple_of(2) {
        sim.connect(1, 0);
    }
    let took = sim.run_until(LIMIT, |sim| sim.is_up(0, 1));
    (sim, took)
}

/// Sends numbered packets both ways and looks at what came.
fn nothing_twice_or_changed(sim: &mut Sim, seed: u64) {
    for n in 0..20_u64 {
        let packet = [n, seed].map(u64::to_le_bytes).concat();
        let _ = (sim.send(0, 1, &packet), sim.send(1, 0, &packet));
        sim.run(ms(10));
    }
    sim.run(secs(1));
    for host in &mut sim.hosts {
        let all = host.received.len();
        host.received.sort_unstable();
        host.received.dedup();
        assert_eq!(
            host.received.len(),
            all,
            "seed {seed}: something came twice"
        );
        for packet in &host.received {
            let (n, of) = packet.split_at(8);
            assert!(
                n[0] < 20 && of == seed.to_le_bytes(),
                "seed {seed}: {packet:?}"
            );
        }
    }
}

#[test]
fn of_ten_thousand_pairs_on_bad_networks_999_in_1000_connect_within_ninety_seconds() {
    let mut worst = BTreeMap::new();
    let mut failed = BTreeMap::new();
    for (at, loss) in (0..).zip(LOSSES) {
        for seed in 0..PAIRS_EACH {
            let seed = at * PAIRS_EACH + seed;
            let (mut sim, took) = pair(loss, seed);
            match took {
                Some(took) => {
                    let worst = worst.entry(loss).or_insert(took);
                    *worst = took.max(*worst);
                }
                None => *failed.entry(loss).or_insert(0) += 1,
            }
            if seed.is_multiple_of(10) {
                nothing_twice_or_changed(&mut sim, seed);
            }
        }
    }
    println!("failed by percent lost: {failed:?}; the slowest: {worst:?}");
    for (loss, failed) in failed {
        let most = PAIRS_EACH / 1000;
        assert!(
            failed <= most,
            "{failed} of {PAIRS_EACH} did not connect at {loss} %"
        );
    }
}
