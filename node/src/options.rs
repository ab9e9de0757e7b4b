//! What a daemon is started with. The command line fills these in, the daemon and the host read them.

use std::path::PathBuf;

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
}

/// `--advertise HOST[:PORT]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// Host name or address; IPv6 without brackets.
    pub host: String,
    /// The port; `None` is the one that is listened on.
    pub port: Option<u16>,
}
