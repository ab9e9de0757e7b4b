//! Part 4, show 1: hosts behind every kind of NAT, all alive at once, each against each.
//!
//! `make nat-matrix` prints the matrix. What a cell should be is derived from mapping and filtering of both ends
//! ([`expected`](kanpachi_tests::nat::behaviour::expected)); what it is, is read from packets on the public segment.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kanpachi_tests::capture::Capture;
use kanpachi_tests::lab::run;
use kanpachi_tests::nat::joined::{Joined, join};
use kanpachi_tests::nat::matrix::{Cell, limit, pair, print, probe_all, spread};
use kanpachi_tests::nat::world::{Kind, Site, World};
use kanpachi_tests::wait::scaled;

/// Cells that may be tried again, of all 136: a machine that is busy with something else for a moment.
const RETRIED: usize = 6;
/// The whole matrix, from the first host to the last cell.
const WHOLE: Duration = Duration::from_secs(300);

#[test]
fn every_pair_of_nats_is_as_direct_as_it_can_be() {
    run("nat-matrix", |lab| {
        let start = Instant::now();
        let world = World::of(lab, &Kind::ALL)?;
        let (_hub, members) = join(lab, &world)?;
        let capture = Capture::start(&lab.public().ns, lab.public().bridge, b"")?;
        let mut cells = probe_all(&members, &capture)?;
        retry(&members, &capture, &mut cells)?;
        let names: Vec<&str> = members.iter().map(|(site, _)| site.name()).collect();
        let took = start.elapsed();
        println!("\n{}", print(&names, &cells)?);
        let first = spread(cells.iter().filter_map(|cell| cell.first_answer))?;
        let settled = spread(cells.iter().filter_map(|cell| cell.settled))?;
        println!(
            "{} pairs in {took:.0?}; first answer: median {:.0?}, slowest {:.0?}; settled: median {:.0?}, slowest {:.0?}",
            cells.len(),
            first.0,
            first.1,
            settled.0,
            settled.1
        );
        let left_out: Vec<&str> = world
            .sites
            .iter()
            .map(Site::name)
            .filter(|name| !names.contains(name))
            .collect();
        ensure!(left_out.is_empty(), "did not join: {}", left_out.join(", "));
        let bad = cells.iter().filter(|cell| !cell.is_good()).count();
        ensure!(bad == 0, "{bad} pairs are not as they can be, see above");
        let retried = cells.iter().filter(|cell| cell.retried.is_some()).count();
        ensure!(retried <= RETRIED, "{retried} pairs were tried again");
        ensure!(took < scaled(WHOLE), "the matrix took {took:?}");
        Ok(())
    });
}

/// Once more, alone, for what was not there.
fn retry(members: &Joined<'_>, capture: &Capture, cells: &mut [Cell]) -> Result<()> {
    for cell in cells {
        if !cell.is_good() {
            let (at, first) = ((cell.one, cell.other), cell.found);
            *cell = pair(members, at).probe(capture, at, limit(cell.expected))?;
            cell.retried = Some(first);
        }
    }
    Ok(())
}
