//! What a bootstrap is told when it starts.

use std::{fmt, net::IpAddr, path::PathBuf};

use kanpachi_common::{OrgId, org::Address};
use kanpachi_transport::AddressFilter;
use libp2p::{StreamProtocol, identity::Keypair};

use crate::relay::Limits;

/// UDP and TCP port unless told otherwise, shared with coordinator and relay.
pub const DEFAULT_PORT: u16 = 12_975;

/// Settings of a bootstrap.
#[derive(Clone)]
pub struct Config {
    /// Its libp2p identity.
    pub keypair: Keypair,
    /// The organisation that it serves.
    pub org: OrgId,
    /// Directory for what survives a restart (the mirror); must exist. `None` keeps it in memory only.
    pub state_dir: Option<PathBuf>,
    /// Address to listen on; `None` for all of this machine.
    pub listen_ip: Option<IpAddr>,
    /// UDP port, 0 for a free one.
    pub listen: u16,
    /// TCP ports, none for no TCP, 0 for the number that UDP has.
    pub listen_tcp: Vec<u16>,
    /// Where the world reaches it. Without any, the addresses of this machine are told.
    pub advertise: Vec<Address>,
    /// What it relays for members at the most; `None` for no data.
    pub relay: Option<Limits>,
    /// Addresses that are never used, besides the overlay's own.
    pub filter: AddressFilter,
    /// Streams of this wait from the beginning for the owner, who takes them by [`Handle::take_own`](crate::Handle::take_own).
    pub own: Option<StreamProtocol>,
}

impl Config {
    /// The usual settings: port 12975 on UDP and TCP, all addresses.
    #[must_use]
    pub fn new(keypair: Keypair, org: OrgId) -> Self {
        Self {
            keypair,
            org,
            state_dir: None,
            listen_ip: None,
            listen: DEFAULT_PORT,
            listen_tcp: vec![DEFAULT_PORT],
            advertise: Vec::new(),
            relay: Some(Limits::BOOTSTRAP),
            filter: AddressFilter::allow_all(),
            own: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("peer", &self.keypair.public().to_peer_id())
            .field("org", &self.org)
            .field("state_dir", &self.state_dir)
            .field("listen", &self.listen)
            .field("listen_tcp", &self.listen_tcp)
            .field("advertise", &self.advertise)
            .field("relay", &self.relay)
            .finish_non_exhaustive()
    }
}

/// The name of the organisation's own Kademlia: `/kanpachi/<org id in base32>/kad/1`.
#[must_use]
pub(crate) fn kad_protocol(org: &OrgId) -> StreamProtocol {
    StreamProtocol::try_from_owned(format!("/kanpachi/{org}/kad/1"))
        .expect("a protocol name starts with a slash")
}
