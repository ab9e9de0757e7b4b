//! A coordinator that was restored from an old backup asks what this node holds.

use kanpachi_common::wire::{control::ClientMessage, showing::ShowRoster};

use super::Core;

impl Core {
    /// Shows the roster held of a network, if this node is a member of it.
    pub(super) fn show_roster(&mut self, asked: ShowRoster) {
        let Some(session) = &mut self.state.session else {
            return;
        };
        let pages = session.rosters.show(&asked.network);
        tracing::warn!(network = %asked.network.short(), pages = pages.len(),
            "the coordinator has an older roster than this machine and asks for it");
        for shown in pages {
            // Gone with the session that it was asked in; the next coordinator asks again.
            let _ = session
                .login
                .request(&ClientMessage::Shown(Box::new(shown)));
        }
    }
}
