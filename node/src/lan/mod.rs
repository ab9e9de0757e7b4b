//! Joining over the LAN with nothing else: how `kanpachi host` makes itself seen ([`announce`], [`door`]) and how
//! `kanpachi join` without an invite finds it ([`browse`]) and gets one for a code ([`ask`]).
//!
//! mDNS says who is there, to everybody and without proof. The code decides (`kanpachi_proto::code`).

#[cfg(feature = "host")]
pub(crate) mod announce;
pub(crate) mod ask;
pub(crate) mod browse;
#[cfg(feature = "host")]
pub(crate) mod door;
mod stream;

use std::net::IpAddr;

use kanpachi_common::Prefix;
use mdns_sd::{IfKind, IfPredicate, ServiceDaemon};

/// The type of the service, in the one domain that mDNS has.
const SERVICE: &str = "_kanpachi._udp.local.";
/// What stands in the TXT record.
mod txt {
    /// Version of the code stream.
    pub(super) const VERSION: &str = "v";
    /// Organisation id.
    pub(super) const ORG: &str = "org";
    /// The libp2p identity that answers at the port.
    pub(super) const ID: &str = "id";
    /// Name of the machine.
    pub(super) const NAME: &str = "name";
    /// Name of the network.
    pub(super) const NETWORK: &str = "net";
}

/// mDNS on every interface but the overlay's: a host found through a tunnel would be dialled through it.
fn mdns(interface: &str, overlay: Vec<Prefix>) -> mdns_sd::Result<ServiceDaemon> {
    let daemon = ServiceDaemon::new()?;
    let interface = interface.to_owned();
    let overlay = move |ip: IpAddr| overlay.iter().any(|p| p.contains(ip));
    daemon.disable_interface(vec![
        IfKind::Predicate(IfPredicate::new(move |i| {
            i.name == interface || overlay(i.ip())
        })),
        IfKind::LoopbackV4,
        IfKind::LoopbackV6,
    ])?;
    Ok(daemon)
}
