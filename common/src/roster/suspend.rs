//! An owner's word that a member is out, for as long as no coordinator can sign a new head.

use serde::{Deserialize, Serialize};

use crate::{
    cbor::DecodeError,
    id::{MemberId, NetworkId, OrgId},
    signed::SignedObject,
};

/// Takes effect at once and holds until a head of a higher epoch settles it. Signed with the identity key of a
/// member that is an owner under the newest roster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspend {
    /// The organisation.
    pub org: OrgId,
    /// The network.
    pub network: NetworkId,
    /// Who is out.
    pub member: MemberId,
    /// The owner whose key signed it.
    pub by: MemberId,
    /// Rises with every suspension by this owner.
    pub seq: u64,
    /// Epoch of the roster that the owner held.
    pub epoch: u64,
}

impl SignedObject for Suspend {
    const DOMAIN: &'static str = "kanpachi/suspend/v1";
    const MAX_LEN: usize = 512;

    fn check(&self) -> Result<(), DecodeError> {
        if self.member == self.by {
            Err(DecodeError::Invalid("an owner does not suspend itself"))
        } else {
            Ok(())
        }
    }
}
