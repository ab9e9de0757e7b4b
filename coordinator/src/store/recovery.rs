//! What goes into the store and what comes out when members know more than it does, and when owners suspended somebody
//! while there was no coordinator.

use std::{fmt, net::Ipv4Addr};

use kanpachi_common::{
    NetworkId, NodeId, UnixTime, Verified,
    roster::{Head, Position, Suspend, VerifiedRoster},
    secret::NetworkSecret,
};

/// How far above everything that was shown the epochs go on: as far as no fork of the past reaches.
pub const JUMP: u64 = 1 << 32;

/// The sentence for everything that is refused during a recovery.
pub const IN_RECOVERY: &str = "this coordinator is older than its members: until its operator ends the recovery, nobody can join and nothing can be changed";

/// A head that somebody showed, and nothing behind it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The head, verified.
    pub head: Verified<Head>,
    /// The member that showed it; `None` for a mirror, and for somebody who is no member here.
    pub by: Option<NodeId>,
    /// Wall time.
    pub now: UnixTime,
}

/// A roster that a member showed.
#[derive(Clone, Debug)]
pub struct Adopt {
    /// The roster, verified.
    pub roster: VerifiedRoster,
    /// The network secret that its head names. Without it the roster is no more than [`Seen`].
    pub secret: Option<NetworkSecret>,
    /// The member that showed it.
    pub by: NodeId,
    /// Wall time.
    pub now: UnixTime,
}

/// What came of a showing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Networks whose roster is another now.
    pub changed: Vec<NetworkId>,
    /// The store is in recovery now.
    pub recovery: bool,
}

/// Suspensions that a member brought, each signed by the key in it.
#[derive(Clone, Debug)]
pub struct BringSuspends {
    /// What it brought.
    pub suspends: Vec<Verified<Suspend>>,
    /// Random bytes that new network secrets are derived from.
    pub seed: [u8; 32],
    /// Wall time.
    pub now: UnixTime,
}

/// A recovery as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Since when.
    pub since: UnixTime,
    /// What was shown, by network.
    pub networks: Vec<ShownNetwork>,
    /// Nodes that lost their address to whom the members' rosters give it.
    pub displaced: Vec<(NodeId, Ipv4Addr)>,
    /// Suspensions that wait to be carried out.
    pub suspensions: u64,
}

/// A network of which a newer roster was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownNetwork {
    /// Which.
    pub network: NetworkId,
    /// Its name, if it is known here.
    pub name: Option<String>,
    /// Where the roster stands that is stored now.
    pub held: Option<Position>,
    /// How many members that has.
    pub members: u64,
    /// The highest head that was shown.
    pub newest: Position,
    /// How many members showed one.
    pub shown_by: u64,
    /// A mirror showed one, or somebody who is no member here.
    pub mirrored: bool,
}

impl ShownNetwork {
    /// Is the highest roster that was shown the one that is stored?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.held.is_some_and(|held| held >= self.newest)
    }
}

impl fmt::Display for ShownNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.network.short();
        let name = self.name.as_deref().unwrap_or(&id);
        match self.held {
            Some(held) if self.is_complete() => write!(
                f,
                "network {name}: the roster of epoch {} was taken over, with {} members; {} of them showed theirs",
                held.epoch, self.members, self.shown_by
            ),
            held => write!(
                f,
                "network {name}: epoch {} was seen and only {} is here; a member that holds it has to log in",
                self.newest.epoch,
                held.map_or(0, |held| held.epoch)
            ),
        }
    }
}

/// The operator ends a recovery.
#[derive(Clone, Debug)]
pub struct EndRecovery {
    /// Random bytes that new network secrets are derived from.
    pub seed: [u8; 32],
    /// Also when a newer head was seen than the rosters that are here.
    pub incomplete: bool,
    /// Wall time.
    pub now: UnixTime,
}

/// A recovery is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Networks with a new head: all that were not deleted.
    pub changed: Vec<NetworkId>,
    /// Memberships that ended by suspensions.
    pub evicted: u64,
    /// Nodes with another address than before, and the address.
    pub moved: Vec<(NodeId, Ipv4Addr)>,
}
