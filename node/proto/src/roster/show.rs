//! What a coordinator is shown that has forgotten something: the roster held, page by page.

use kanpachi_common::{
    NetworkId,
    roster::{Caps, Page},
    wire::showing::{PAGE_TARGET, Shown},
};

use super::Rosters;

impl Rosters {
    /// The roster of a network in pages, the network secret with the first. Nothing of a network that this node is no
    /// member of. Only for a coordinator that has proved itself: it made all of this.
    #[must_use]
    pub fn show(&self, network: &NetworkId) -> Vec<Shown> {
        let Some(slot) = self.networks.get(network) else {
            return Vec::new();
        };
        let Some(roster) = &slot.held else {
            return Vec::new();
        };
        let me = roster.member(&self.me);
        if me.is_none_or(|me| me.caps.has(Caps::PENDING)) {
            return Vec::new();
        }
        let head = roster.head();
        let mut secrets = slot.secrets.iter();
        let secret = secrets.find(|s| s.matches(head.secret_id, &head.secret_hash));
        let mut secret = secret.cloned();
        let pages = Page::split_at(*network, head.signed(), roster.body(), PAGE_TARGET);
        let shown = pages.into_iter().map(|page| Shown {
            page,
            secret: secret.take(),
        });
        shown.collect()
    }
}
