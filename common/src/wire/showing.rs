//! Messages of the control stream by which members show a coordinator what it has forgotten: one that was restored from an
//! old backup asks whoever holds a newer roster, and believes what its own key has signed.

use serde::{Deserialize, Serialize};

use crate::{
    cbor::DecodeError, id::NetworkId, roster::Page, secret::NetworkSecret, wire::control::Body,
};

/// Aim for the size of a page that a node shows, in bytes of entries: as a request it is shorter than what a coordinator
/// sends.
pub const PAGE_TARGET: usize = 40 * 1024;

/// Asks a node for the whole roster that it holds of a network. Answered by [`Shown`] once for each page, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShowRoster {
    /// Of which network.
    pub network: NetworkId,
}

/// A page of a roster that a node holds and is a member in. Pages come in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    /// The page.
    pub page: Page,
    /// The network secret that the head names, on page 0, if the node has it. The coordinator made it.
    pub secret: Option<NetworkSecret>,
}

impl Body for ShowRoster {}

impl Body for Box<Shown> {
    fn check(&self) -> Result<(), DecodeError> {
        if self.page.count > Page::MAX_PAGES {
            Err(DecodeError::Invalid("too many pages"))
        } else {
            Ok(())
        }
    }
}
