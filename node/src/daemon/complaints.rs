//! "Logged once": remembers which refusals were told already.

use std::{collections::BTreeSet, mem::Discriminant};

use kanpachi_proto::roster::Refusal;

/// Kinds of refusal that were logged.
#[derive(Debug, Default)]
pub(super) struct Complaints(Vec<Discriminant<Refusal>>, BTreeSet<String>);

/// Texts remembered at the most.
const MAX: usize = 64;

impl Complaints {
    /// Is this the first refusal of its kind and words?
    pub(super) fn first(&mut self, refusal: &Refusal) -> bool {
        let kind = std::mem::discriminant(refusal);
        let known = self.0.contains(&kind);
        if !known {
            self.0.push(kind);
        }
        // Words hold epochs, which a stranger can vary: so many, and no more.
        let words = self.1.len() < MAX && self.1.insert(refusal.to_string());
        !known || words
    }
}
