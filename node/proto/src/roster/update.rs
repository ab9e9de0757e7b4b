//! Verified news, on their way to disk.

use kanpachi_common::{
    Hash, NetworkId, Verified,
    org::{Directory, Manifest},
    roster::{Position, VerifiedRoster},
    secret::NetworkSecret,
};

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
    /// This node is no member any more.
    Removed(NetworkId),
}
