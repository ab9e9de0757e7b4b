//! A dial to where the machine has no route fails at once, over QUIC as it does over TCP.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::lab::{Families, run};
use kanpachi_transport::{SharedSocket, keypair_from_seed, quic::QuicTransport};
use libp2p::core::{
    Endpoint, Transport as _,
    transport::{DialOpts, PortUse},
};

/// A login waits for the last of its dials before it begins again: one that cannot succeed must not take long.
#[test]
fn a_dial_without_a_route_fails_at_once() {
    run("no-route", |lab| {
        let public = lab.public().clone();
        let host = lab.host_with("only-v4", &public, Families::OnlyV4)?;
        host.ns.run_async(async || {
            let keys = keypair_from_seed(&[1; 32]);
            let mut quic = QuicTransport::new(SharedSocket::bind_port(0)?, &keys)?;
            let options = DialOpts {
                role: Endpoint::Dialer,
                port_use: PortUse::Reuse,
            };
            let dial = async {
                match quic.dial("/ip6/2001:db8::1/udp/9/quic-v1".parse()?, options) {
                    Ok(dial) => dial.await.map(drop).map_err(anyhow::Error::from),
                    Err(error) => Err(error.into()),
                }
            };
            let ended = tokio::time::timeout(Duration::from_secs(1), dial);
            let outcome: Result<()> = ended.await.context("it waits for an answer")?;
            let error = format!("{:#}", outcome.err().context("connected to nobody")?);
            ensure!(error.contains("unreachable"), "{error}");
            Ok(())
        })
    });
}
