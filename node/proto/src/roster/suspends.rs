//! What holds without a coordinator: suspensions by owners, and newcomers that bring their own proof.

use kanpachi_common::{
    MemberId, NetworkId, NodeId, Signed, UnixTime, Verified,
    roster::{Caps, Freshness, Member, Position, Proof, Suspend, VerifiedRoster},
    secret::NetworkSecret,
};

use super::{Refusal, Rosters, Slot, Update};

/// Newcomers of one network that are let in on their own proof at once, at the most.
const MAX_BEARERS: usize = 64;

/// A member that is let in on its own proof, until the roster that names it is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Where the roster stands that names it.
    pub position: Position,
    /// Its entry.
    pub member: Member,
}

/// Does a suspension still stand under this roster? It ends with the membership of either side. A head that merely
/// has a higher epoch does not end it: its coordinator may not have heard of it.
#[must_use]
pub fn stands(roster: &VerifiedRoster, member: &MemberId, by: &MemberId) -> bool {
    let is_owner = |m: &Member| m.caps.has(Caps::OWNER) && !m.caps.has(Caps::PENDING);
    roster.members().any(|m| m.member == *member)
        && roster.members().any(|m| m.member == *by && is_owner(m))
}

impl Rosters {
    /// Checks an owner's word that a member is out; `None` when it is known.
    ///
    /// # Errors
    /// [`Refusal`]; after [`Refusal::NotHeld`] it may be brought again when the roster is here.
    pub fn check_suspend(&mut self, signed: &Signed<Suspend>) -> Result<Option<Update>, Refusal> {
        let suspend = signed
            .verify(&[signed.key])
            .map_err(|e| self.bad_signature(e))?;
        let slot = self.networks.get(&suspend.network);
        let held = slot.and_then(|slot| slot.held.as_ref());
        let (Some(slot), Some(roster)) = (slot, held) else {
            return Err(Refusal::NotHeld);
        };
        let signer = NodeId(signed.key.0);
        let is_signer = |m: &Member| m.member == suspend.by && m.node == signer;
        if suspend.org != self.org || !roster.members().any(is_signer) {
            return Err(self.not_owner());
        }
        if !stands(roster, &suspend.member, &suspend.by) {
            return Err(self.not_owner());
        }
        let known = slot.suspends.iter().any(|s| s.member == suspend.member);
        Ok((!known).then(|| Update::Suspend(Box::new(suspend))))
    }

    fn not_owner(&mut self) -> Refusal {
        self.counters.suspend_refused += 1;
        Refusal::NotOwner
    }

    /// Checks a newcomer's proof under a head above the roster held; `None` when the roster held decides, because it
    /// is as new.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn check_bearer(
        &mut self,
        proof: &Proof,
        bearer: &NodeId,
    ) -> Result<Option<Update>, Refusal> {
        let proved = self.check_proof(proof, bearer)?;
        let (network, position, root) = (
            proved.head.network,
            proved.head.position(),
            proved.head.root,
        );
        let Some(held) = self.roster(&network) else {
            return Err(Refusal::NotHeld);
        };
        if position <= held.head().position() {
            return Ok(None);
        }
        if let Some(outcome) = self.judge(&proved.head)? {
            return Ok(outcome);
        }
        let known = self.serials.get(bearer).copied().unwrap_or_default();
        let member = proved
            .member
            .filter(|m| !m.caps.has(Caps::PENDING))
            .map(|member| Bearer { position, member });
        if member
            .as_ref()
            .is_some_and(|b| b.member.tunnel.serial < known)
        {
            return Err(Refusal::OldTunnelKey);
        }
        Ok(Some(Update::Seen {
            network,
            position,
            root,
            bearer: member.map(Box::new),
        }))
    }

    /// All suspensions that stand.
    pub fn suspends(&self) -> impl Iterator<Item = &Verified<Suspend>> {
        self.networks.values().flat_map(|slot| &slot.suspends)
    }

    /// The suspension of a member of a network, if there is one.
    #[must_use]
    pub fn suspension(&self, network: &NetworkId, member: &MemberId) -> Option<&Verified<Suspend>> {
        let slot = self.networks.get(network)?;
        slot.suspends.iter().find(|s| s.member == *member)
    }

    /// A head above the roster held was seen: the roster is owed, and somebody should be asked for it.
    #[must_use]
    pub fn owed(&self, network: &NetworkId) -> Option<Position> {
        let slot = self.networks.get(network)?;
        let (seen, _) = slot.seen?;
        let held = slot.held.as_ref()?.head().position();
        (seen > held).then_some(seen)
    }

    /// Is this node a member of the network by the roster held, at this time, and not suspended?
    #[must_use]
    pub fn is_member(&self, network: &NetworkId, node: &NodeId) -> bool {
        let Some(slot) = self.networks.get(network) else {
            return false;
        };
        let in_roster = slot.held.as_ref().and_then(|r| r.member(node));
        in_roster.is_some_and(|m| !m.caps.has(Caps::PENDING) && !slot.is_suspended(&m.member))
            || slot.admitted().any(|m| m.node == *node)
    }

    /// The networks in which both this node and the other are members, and this node is there.
    pub fn common(&self, node: &NodeId) -> impl Iterator<Item = &VerifiedRoster> {
        self.rosters().filter(|roster| {
            let network = roster.head().network;
            self.is_online(&network)
                && self.is_member(&network, &self.me)
                && self.is_member(&network, node)
        })
    }

    /// Is the secret of any network lacking that its newest head names?
    #[must_use]
    pub fn lacks_secret(&self) -> bool {
        self.networks.values().any(|slot| {
            let head = slot.held.as_ref().map(VerifiedRoster::head);
            head.is_some_and(|head| {
                let named = |s: &NetworkSecret| s.matches(head.secret_id, &head.secret_hash);
                !slot.secrets.iter().any(named)
            })
        })
    }

    /// After the hard expiry a roster opens no session and hands out nothing.
    #[must_use]
    pub fn is_expired(&self, network: &NetworkId, clock: UnixTime) -> bool {
        self.freshness(network, clock) == Some(Freshness::Expired)
    }
}

impl Slot {
    pub(super) fn is_suspended(&self, member: &MemberId) -> bool {
        self.suspends.iter().any(|s| s.member == *member)
    }

    /// Newcomers that are let in on their own proof.
    pub(super) fn admitted(&self) -> impl Iterator<Item = &Member> {
        let members = self.bearers.values().map(|b| &b.member);
        members.filter(|m| !self.is_suspended(&m.member))
    }

    /// A roster came: what it settles ends.
    pub(super) fn settle_suspends(&mut self) {
        let Some(held) = &self.held else {
            self.suspends.clear();
            self.bearers.clear();
            return;
        };
        let position = held.head().position();
        self.suspends.retain(|s| stands(held, &s.member, &s.by));
        self.bearers.retain(|_, b| b.position > position);
    }

    pub(super) fn admit(&mut self, bearer: Bearer) {
        let node = bearer.member.node;
        if self.bearers.len() < MAX_BEARERS || self.bearers.contains_key(&node) {
            self.bearers.insert(node, bearer);
        }
    }
}
