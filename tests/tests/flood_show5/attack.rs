//! What the floods are made of.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use kanpachi_common::roster::Member;
use kanpachi_common::{NetworkId, OrgId, SecretKey};
use kanpachi_proto::path::{Candidate, PathKind};
use kanpachi_proto::tunnel::{Config, HANDSHAKE_LEN, LocalIdentity, PeerConfig, Tunnels};
use kanpachi_tests::rng::Rng;

use crate::paced::Batch;

/// Different initiations; they are sent in turn.
const INITIATIONS: u8 = 200;
/// Batches of garbage, each of one kind and size.
const GARBAGE: u64 = 400;
/// Datagrams in a batch, and bytes, at the most.
const MAX_DATAGRAMS: usize = 40;
const MAX_BYTES: usize = 40_000;
/// The longest datagram of the underlay.
const MAX_SIZE: u64 = 1400;

/// Initiations to a member by strangers who know its tunnel key: mac1 is right, and so is the Noise message, up to
/// where it says who sent it. Nothing costs the member more without a cookie.
pub(crate) fn initiations(
    to: &Member,
    org: OrgId,
    network: NetworkId,
    at: SocketAddr,
) -> Result<Vec<Vec<u8>>> {
    let now = Instant::now();
    let initiation = |number: u8| {
        let identity = LocalIdentity {
            node_id: SecretKey::from_seed(&[number; 32]).node_id(),
            org,
            tunnel_secret: [number; 32].into(),
        };
        let mut tunnels = Tunnels::new(identity, Config::default(), [number; 32], 1, now);
        let peer = PeerConfig {
            node_id: to.node,
            tunnel_key: to.tunnel.key.0,
            networks: vec![network],
        };
        tunnels.set_peer(peer, now);
        let candidate = Candidate {
            addr: at,
            kind: PathKind::Host,
        };
        tunnels.set_candidates(&to.node, &[candidate], now);
        tunnels.connect(&to.node, now);
        let sent = std::iter::from_fn(|| tunnels.poll_transmit()).next();
        Ok(sent.context("no initiation")?.data)
    };
    (1..=INITIATIONS).map(initiation).collect()
}

/// Initiations as batches.
pub(crate) fn honest_looking(initiations: &[Vec<u8>]) -> Arc<[Batch]> {
    let batches = initiations.chunks(MAX_BYTES / HANDSHAKE_LEN);
    let batch = |datagrams: &[Vec<u8>]| Batch {
        bytes: datagrams.concat(),
        size: HANDSHAKE_LEN,
    };
    batches.map(batch).collect()
}

/// Random bytes, messages of every type with random content, and initiations with some bytes changed.
pub(crate) fn garbage(initiations: &[Vec<u8>], seed: u64) -> Arc<[Batch]> {
    let mut rng = Rng::new(seed);
    (0..GARBAGE)
        .map(|number| {
            let size = match number % 6 {
                0 | 1 => HANDSHAKE_LEN,
                2 => rng.below(48) as usize + 1,
                _ => rng.below(MAX_SIZE) as usize + 1,
            };
            let count = (MAX_BYTES / size).clamp(1, MAX_DATAGRAMS);
            let mut bytes = vec![0; size * count];
            rng.fill(&mut bytes);
            for datagram in bytes.chunks_mut(size) {
                shape(number % 6, datagram, initiations, &mut rng);
            }
            Batch { bytes, size }
        })
        .collect()
}

/// Makes random bytes look like something.
fn shape(kind: u64, datagram: &mut [u8], initiations: &[Vec<u8>], rng: &mut Rng) {
    let head = |datagram: &mut [u8], bytes: &[u8]| {
        let length = bytes.len().min(datagram.len());
        datagram[..length].copy_from_slice(&bytes[..length]);
    };
    match kind {
        0 => {
            let real = &initiations[rng.below(initiations.len() as u64) as usize];
            datagram.copy_from_slice(real);
            for _ in 0..=rng.below(4) {
                let at = rng.below(datagram.len() as u64) as usize;
                datagram[at] ^= 1 << rng.below(8);
            }
        }
        1 => head(datagram, &[rng.below(3) as u8 + 1, 1, 0, 0]),
        2 => head(datagram, &[rng.below(8) as u8, 1]),
        3 => head(datagram, &[4, 1, rng.below(4) as u8 + 1, 0]),
        4 => head(datagram, &[0xc0 | rng.below(64) as u8, 0, 0, 0, 1, 8]),
        _ => {}
    }
}
