//! What somebody changes about networks at this node: as `core/networks.rs` of the daemon.

use std::time::Instant;

use kanpachi_common::{
    MemberId, NetworkId, NodeId,
    roster::Caps,
    wire::{control::ClientMessage, membership::SetPresence},
};

use super::Node;

impl Node {
    /// Asks the coordinator for a change. What comes of it shows in the rosters.
    pub fn ask(&mut self, message: &ClientMessage, now: Instant) {
        self.request(message);
        self.drive(now);
    }

    fn request(&mut self, message: &ClientMessage) {
        if let Some(session) = self.process.as_mut().and_then(|p| p.session.as_mut()) {
            let _ = session.login.request(message);
        }
    }

    /// Is there for the others of a network from now on, or is not.
    pub fn set_online(&mut self, network: NetworkId, online: bool, now: Instant) {
        if self.disk.set_online(network, online).is_err() {
            return self.note("cannot write where it is to be there");
        }
        if let Some(session) = self.process.as_mut().and_then(|p| p.session.as_mut()) {
            session.rosters.set_online(network, online);
        }
        self.request(&ClientMessage::SetPresence(SetPresence { network, online }));
        self.members_changed(now);
        self.drive(now);
    }

    /// Tells the coordinator in which networks this node is not there.
    pub(super) fn tell_presence(&mut self) {
        let rosters = self.process.as_ref().and_then(|p| p.rosters());
        let offline: Vec<NetworkId> = rosters.map(|r| r.offline().collect()).unwrap_or_default();
        for network in offline {
            let online = false;
            self.request(&ClientMessage::SetPresence(SetPresence { network, online }));
        }
    }

    /// The network of this name, if its roster is here.
    pub fn network(&self, name: &str) -> Option<NetworkId> {
        let rosters = self.process.as_ref().and_then(|p| p.rosters())?;
        let roster = rosters.rosters().find(|r| r.settings().name == name)?;
        Some(roster.head().network)
    }

    /// What the roster here says of a node.
    pub fn listed(&self, network: &NetworkId, node: &NodeId) -> Option<(MemberId, Caps)> {
        let rosters = self.process.as_ref().and_then(|p| p.rosters())?;
        let member = rosters.roster(network)?.member(node)?;
        Some((member.member, member.caps))
    }
}
