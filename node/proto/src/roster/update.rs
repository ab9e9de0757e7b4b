//! Verified news, on their way to disk.

use kanpachi_common::{
    Hash, NetworkId, Verified,
    org::{Directory, Manifest},
    roster::{Position, Suspend, VerifiedRoster},
    secret::NetworkSecret,
};

use super::Bearer;

/// Something verified that is to be written to disk and then committed.
#[derive(Clone, Debug)]
pub enum Update {
    /// Newer keys.
    Manifest(Box<Verified<Manifest>>),
    /// Newer servers.
    Directory(Box<Verified<Directory>>),
    /// A newer roster, or the renewal of the one held.
    Roster(Box<VerifiedRoster>),
    /// The secret that the held head names.
    Secret {
        /// The network.
        network: NetworkId,
        /// Its secret.
        secret: NetworkSecret,
    },
    /// Two roots were signed for one epoch.
    Equivocation {
        /// The network.
        network: NetworkId,
        /// Where.
        position: Position,
        /// The root that came second.
        root: Hash,
    },
    /// An owner put a member out while no coordinator could.
    Suspend(Box<Verified<Suspend>>),
    /// A head above the roster held: nothing lower is believed any more, and its roster is owed.
    Seen {
        /// The network.
        network: NetworkId,
        /// Where the head stands.
        position: Position,
        /// Its root.
        root: Hash,
        /// Who brought it and is a member under it: let in, alone, until the roster is here.
        bearer: Option<Box<Bearer>>,
    },
    /// This node is no member any more.
    Removed(NetworkId),
}
