//! `kanpachi netcheck --server`: a check without a daemon.

use std::{net::SocketAddr, time::Duration};

use crate::{
    daemon::netcheck,
    ipc::{
        error::{ApiError, code},
        netcheck::{NetcheckReply, PortMapping},
    },
    options::Advertise,
};

/// The port of a bootstrap unless told otherwise.
const PORT: u16 = 12975;
/// For a name to be looked up.
const LOOKUP: Duration = Duration::from_secs(5);
/// Addresses asked at the most.
const MAX_ADDRESSES: usize = 8;

/// Asks these servers.
pub(super) async fn alone(servers: &[Advertise]) -> Result<NetcheckReply, ApiError> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for server in servers {
        let lookup = tokio::net::lookup_host((server.host.as_str(), server.port.unwrap_or(PORT)));
        let found = tokio::time::timeout(LOOKUP, lookup).await;
        let found = found.ok().and_then(Result::ok).ok_or_else(|| {
            let words = format_args!("{} is not found", server.host);
            ApiError::unreachable(code::FAILED, words).hint("is the name right, and does DNS work?")
        })?;
        addresses.extend(found);
    }
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    let report = netcheck::run(&addresses).await;
    let named: Vec<_> = addresses.iter().map(|addr| (None, *addr)).collect();
    let nat = report.nat().unwrap_or_default();
    Ok(netcheck::reply(
        &report,
        &named,
        PortMapping::default(),
        nat,
    ))
}
