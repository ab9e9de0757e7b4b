//! What a daemon is started with. The command line fills these in, the daemon and the host read them.

use std::path::PathBuf;

use kanpachi_transport::Proxy;

use crate::ipc::api::Secret;

/// What a network is called unless its owner says otherwise.
pub const DEFAULT_NETWORK: &str = "lan";

/// `kanpachi up`, and `kanpachi join` when it becomes the daemon.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// Keys, rosters, candidates. Made with mode 0700 when missing.
    pub state_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Name of the virtual interface.
    pub interface: String,
    /// UDP and TCP port, exactly this one; `None` is 12976, or a free one if that is busy.
    pub listen: Option<u16>,
    /// Join by this invite first.
    pub join: Option<Secret>,
    /// Neither look for members on the local network nor show up there.
    pub no_mdns: bool,
    /// Have the router forward ports.
    pub port_mapping: bool,
    /// Of all relays use this one only: the name of a member that relays, or host name, address or node id of a server.
    pub relay_via: Option<String>,
    /// Relay for the other members of its networks.
    pub relay: bool,
    /// What each member may send through a relay here, in bytes a second; 0 for no limit, `None` for the usual one.
    pub relay_rate: Option<u64>,
    /// An HTTP proxy that leads out of this network, besides the direct way.
    pub proxy: Option<Proxy>,
}

/// `kanpachi host`
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The node in the same process. `listen` in it is for the node alone and `join` is `None`.
    pub daemon: DaemonOptions,
    /// Name of the network that the invite is for; made when missing.
    pub network: String,
    /// UDP and TCP port of coordinator, bootstrap and relay, exactly this one; `None` is 12975.
    pub listen: Option<u16>,
    /// Further TCP ports.
    pub listen_tcp: Vec<u16>,
    /// Addresses to put into invites before the ones that were found.
    pub advertise: Vec<Advertise>,
    /// Pool of virtual IPv4 addresses; `None` is the default one, or the one that the organisation has.
    pub pool: Option<kanpachi_common::Pool>,
    /// Run a node too.
    pub node: bool,
    /// Relay data for the members of all networks.
    pub relay: bool,
    /// Be seen on the LAN, and be joined there by a code.
    pub lan: bool,
    /// End a recovery first.
    pub recover: Option<Recover>,
}

/// `--recover`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recover {
    /// Also when newer rosters were seen than members have shown.
    pub incomplete: bool,
}

/// `--advertise HOST[:PORT]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// Host name or address; IPv6 without brackets.
    pub host: String,
    /// The port; `None` is the one that is listened on.
    pub port: Option<u16>,
}
