//! Rosters that come in pages, put together from each source by itself: what one of them brings wrong, late or over and over
//! is no loss to what another brings.

use std::collections::BTreeMap;

use kanpachi_common::{
    NetworkId, NodeId,
    roster::{Entry, Head, Page, Position, RosterError, Settings},
};

use super::{Refusal, Rosters, Update};

/// A member, or else the coordinator.
type Source = Option<NodeId>;

/// Rosters that are put together at once, at the most: more than members are asked at once.
const MAX_PARTIAL: usize = 32;

/// The beginning of a roster.
#[derive(Debug)]
struct Partial {
    position: Position,
    pages: Vec<Page>,
    entries: usize,
}

impl Partial {
    /// Takes the next page in; `true` when it was the last one. No more is kept than the signed head allows.
    fn add(&mut self, head: &Head, page: Page) -> Result<bool, RosterError> {
        let next = usize::from(page.index) == self.pages.len();
        let like = |first: &Page| first.head == page.head && first.count == page.count;
        let fits = self.pages.first().is_none_or(like) && page.count <= Page::MAX_PAGES;
        let small = |s: &[u8]| s.len() <= Settings::MAX_LEN;
        let settings = match &page.settings {
            Some(settings) => page.index == 0 && small(settings),
            None => page.index > 0 && !page.entries.is_empty(),
        };
        self.entries += page.entries.len();
        let few = (self.entries as u64) < head.size;
        if !(next && fits && settings && few && page.entries.iter().all(Entry::within_limits)) {
            return Err(RosterError::Malformed);
        }
        let count = usize::from(page.count);
        self.pages.push(page);
        Ok(self.pages.len() >= count)
    }
}

/// The rosters that are being put together.
#[derive(Debug, Default)]
pub(super) struct Partials(BTreeMap<(Source, NetworkId), Partial>);

impl Partials {
    /// Takes a page in; all of the roster when it was the last one.
    fn add(
        &mut self,
        source: Source,
        head: &Head,
        page: Page,
    ) -> Result<Option<Vec<Page>>, RosterError> {
        let network = head.network;
        if source.is_some() {
            // A member says one roster after the other.
            self.0.retain(|(s, n), _| *s != source || *n == network);
        }
        let key = (source, network);
        if page.index == 0 {
            self.0.remove(&key);
            if self.0.len() >= MAX_PARTIAL {
                self.0.pop_last();
            }
            let partial = Partial {
                position: head.position(),
                pages: Vec::new(),
                entries: 0,
            };
            self.0.insert(key, partial);
        }
        let partial = self.0.get_mut(&key).ok_or(RosterError::Malformed)?;
        match partial.add(head, page) {
            Ok(false) => Ok(None),
            Ok(true) => Ok(self.0.remove(&key).map(|p| p.pages)),
            Err(error) => {
                self.0.remove(&key);
                Err(error)
            }
        }
    }

    /// A roster is here: those as old are needed no more.
    pub(super) fn settle(&mut self, network: &NetworkId, position: Position) {
        self.0
            .retain(|(_, n), p| n != network || p.position > position);
    }

    /// The network is none of this node's any more.
    pub(super) fn drop_network(&mut self, network: &NetworkId) {
        self.0.retain(|(_, n), _| n != network);
    }
}

impl Rosters {
    /// Takes a page of a whole roster in that the coordinator gave; an update when it was the last one, or when the head
    /// alone says all.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn check_page(&mut self, page: Page) -> Result<Option<Update>, Refusal> {
        self.check_page_from(None, page)
    }

    /// Takes a page in that a member gave: only of networks that this node is in. Others it joins through a
    /// coordinator.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn check_page_of_ours(
        &mut self,
        from: &NodeId,
        page: Page,
    ) -> Result<Option<Update>, Refusal> {
        if self.roster(&page.network).is_none() {
            return Err(Refusal::NotHeld);
        }
        self.check_page_from(Some(*from), page)
    }

    /// A member gives no more pages: what it did not bring to an end is dropped.
    pub fn end_pages(&mut self, from: &NodeId) {
        self.partial
            .0
            .retain(|(source, _), _| *source != Some(*from));
    }

    fn check_page_from(&mut self, source: Source, page: Page) -> Result<Option<Update>, Refusal> {
        let head = self.check_head(&page.head)?;
        if page.network != head.network {
            return Err(self.mismatch(RosterError::Malformed));
        }
        // What is known, out of date or signed twice is not worth keeping.
        if let Some(outcome) = self.judge(&head)? {
            return Ok(outcome);
        }
        let whole = self.partial.add(source, &head, page);
        let Some(pages) = whole.map_err(|e| self.mismatch(e))? else {
            return Ok(None);
        };
        let (head, roster) = Page::join(pages).map_err(|e| self.mismatch(e))?;
        self.check_roster(&head, roster)
    }
}

#[cfg(test)]
mod tests {
    use kanpachi_common::{Signed, roster::Roster};

    use super::*;
    use crate::roster::tests::{NETWORK, Org, take};

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    /// Pages of a newer roster, three members each.
    fn pages(org: &Org, epoch: u64) -> Vec<Page> {
        let roster = org.roster(&(1..=9).collect::<Vec<u8>>());
        cut(&org.head(&roster, epoch, 1000), &roster)
    }

    fn cut(head: &Signed<Head>, whole: &Roster) -> Vec<Page> {
        let chunks = whole.entries.chunks(3);
        let page = |(index, entries): (u16, &[Entry])| Page {
            network: NETWORK,
            head: head.clone(),
            index,
            count: 3,
            settings: (index == 0).then(|| whole.settings.clone().into()),
            entries: entries.to_vec(),
        };
        (0..).zip(chunks).map(page).collect()
    }

    fn give(rosters: &mut Rosters, from: u8, page: &Page) -> Result<bool, Refusal> {
        let outcome = rosters.check_page_of_ours(&node(from), page.clone())?;
        let whole = outcome.is_some();
        if let Some(update) = outcome {
            rosters.commit(update);
        }
        Ok(whole)
    }

    #[test]
    fn pages_of_two_members_and_the_coordinator_do_not_mix() {
        let org = Org::new();
        let mut rosters = org.node();
        let pages = pages(&org, 6);
        for page in &pages[..2] {
            assert_eq!(give(&mut rosters, 8, page), Ok(false));
            assert_eq!(give(&mut rosters, 9, page), Ok(false));
            assert!(matches!(rosters.check_page(page.clone()), Ok(None)));
        }
        assert_eq!(give(&mut rosters, 8, &pages[2]), Ok(true));
        assert_eq!(rosters.roster(&NETWORK).unwrap().members().count(), 9);
        // The others bring what is known now.
        assert_eq!(give(&mut rosters, 9, &pages[2]), Ok(false));
        assert!(matches!(rosters.check_page(pages[2].clone()), Ok(None)));
        assert!(rosters.partial.0.is_empty());
        assert_eq!(rosters.counters().roster_mismatch, 0);
    }

    #[test]
    fn whoever_begins_again_and_again_or_brings_rubbish_holds_nobody_up() {
        let org = Org::new();
        let mut rosters = org.node();
        let pages = pages(&org, 6);
        let mut rubbish = pages[1].clone();
        rubbish.entries.reverse();
        for page in &pages {
            assert_eq!(give(&mut rosters, 9, &pages[0]), Ok(false));
            let whole = give(&mut rosters, 8, page).unwrap();
            assert_eq!(whole, page.index == 2);
            let _ = give(&mut rosters, 9, &rubbish);
        }
        assert_eq!(rosters.roster(&NETWORK).unwrap().head().epoch, 6);
    }

    #[test]
    fn what_is_known_or_stale_is_not_kept_and_neither_is_what_nobody_brings_to_an_end() {
        let org = Org::new();
        let mut rosters = org.node();
        take(&mut rosters, &org, &[1, 2, 3], 7).unwrap();
        let refused = give(&mut rosters, 9, &pages(&org, 6)[0]);
        assert!(matches!(refused, Err(Refusal::Stale { .. })), "{refused:?}");
        assert!(rosters.partial.0.is_empty());
        let newer = pages(&org, 8);
        for n in 0..200 {
            assert_eq!(give(&mut rosters, n, &newer[0]), Ok(false));
        }
        assert_eq!(rosters.partial.0.len(), MAX_PARTIAL);
        for n in 0..200 {
            rosters.end_pages(&node(n));
        }
        assert!(rosters.partial.0.is_empty());
        // And an older one goes when a newer one is here.
        give(&mut rosters, 9, &newer[0]).unwrap();
        give(&mut rosters, 8, &pages(&org, 9)[0]).unwrap();
        take(&mut rosters, &org, &[1, 2, 3], 8).unwrap();
        assert_eq!(rosters.partial.0.len(), 1);
    }

    #[test]
    fn no_more_entries_are_kept_than_the_head_is_about() {
        let org = Org::new();
        let mut rosters = org.node();
        let mut fat = pages(&org, 6);
        for page in &mut fat {
            page.count = 100;
        }
        for page in &fat {
            assert_eq!(give(&mut rosters, 9, page), Ok(false));
        }
        fat[2].index = 3;
        assert!(give(&mut rosters, 9, &fat[2]).is_err());
        assert!(rosters.partial.0.is_empty());
        let mut large = pages(&org, 6)[0].clone();
        large.entries[0].private = vec![0; 100_000];
        assert!(give(&mut rosters, 9, &large).is_err());
        assert!(rosters.partial.0.is_empty());
    }
}
