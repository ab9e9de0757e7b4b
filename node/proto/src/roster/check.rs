//! What is believed, and what is refused and counted.

use kanpachi_common::{
    NetworkId, NodeId, Signed, UnixTime, Verified,
    org::{Directory, Manifest},
    roster::{
        Delta, Head, Position, Proof, ProofError, Proved, Roster, RosterError, VerifiedRoster,
    },
    secret::NetworkSecret,
    signed::VerifyError,
};
use thiserror::Error;

use super::{Rosters, Update};

/// Why something signed is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Signature, signer, limits or encoding.
    #[error(transparent)]
    Signature(#[from] VerifyError),
    /// Lower than what was seen before.
    #[error("epoch {got:?} is older than {seen:?}, which was seen here before")]
    Stale {
        /// What came.
        got: Position,
        /// What was seen.
        seen: Position,
    },
    /// Same epoch, other contents. Both are signed: somebody has the key who should not, or a coordinator was
    /// restored and went on.
    #[error("two different rosters are signed for epoch {0:?}")]
    Equivocation(Position),
    /// Body and head do not fit.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// A proof that proves nothing.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// No manifest yet, so nobody is trusted to sign.
    #[error("the organisation's keys are not known yet")]
    NoManifest,
    /// The change starts from a roster that is not here: pull the whole.
    #[error("the change starts from a roster that is not held here")]
    NotHeld,
    /// Not the secret that the head names.
    #[error("not the secret that the roster names")]
    WrongSecret,
    /// A tunnel key older than one seen before.
    #[error("a member's tunnel key went back")]
    OldTunnelKey,
    /// A suspension that is not by an owner of the network, or of somebody who is no member.
    #[error("only an owner suspends, and only members")]
    NotOwner,
}

impl Rosters {
    /// Checks a manifest: signed by the organisation's root, and no generation falls.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn check_manifest(&mut self, signed: &Signed<Manifest>) -> Result<Update, Refusal> {
        let manifest = Manifest::verify(signed, &self.org).map_err(|e| self.bad_signature(e))?;
        if let Some(known) = &self.manifest
            && manifest.generation < known.generation
        {
            return Err(self.stale(
                manifest.generation,
                0,
                Position {
                    generation: known.generation,
                    epoch: 0,
                },
            ));
        }
        Ok(Update::Manifest(Box::new(manifest)))
    }

    /// Checks a directory; `None` when it is the one known.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn check_directory(
        &mut self,
        signed: &Signed<Directory>,
    ) -> Result<Option<Update>, Refusal> {
        let manifest = self.manifest.as_ref().ok_or(Refusal::NoManifest)?;
        let directory = Directory::verify(signed, manifest).map_err(|e| self.bad_signature(e))?;
        if let Some(known) = self
            .directory
            .as_ref()
            .filter(|d| d.generation == directory.generation)
        {
            if directory.seq < known.seq {
                let seen = Position {
                    generation: known.generation,
                    epoch: known.seq,
                };
                return Err(self.stale(directory.generation, directory.seq, seen));
            }
            if directory.signed() == known.signed() {
                return Ok(None);
            }
        }
        Ok(Some(Update::Directory(Box::new(directory))))
    }

    /// Checks a change; `None` when it leads to what is held.
    ///
    /// # Errors
    /// [`Refusal`]; after [`Refusal::NotHeld`] the whole roster should be pulled.
    pub fn check_delta(&mut self, delta: Delta) -> Result<Option<Update>, Refusal> {
        let head = self.check_head(&delta.head)?;
        if let Some(outcome) = self.judge(&head)? {
            return Ok(outcome);
        }
        let base = self.roster(&head.network).ok_or(Refusal::NotHeld)?;
        let roster = match base.apply(delta, head) {
            Err(RosterError::WrongBase) => return Err(Refusal::NotHeld),
            other => other.map_err(|e| self.mismatch(e))?,
        };
        self.accept(roster).map(Some)
    }

    /// Checks a whole roster; `None` when it is the one held.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn check_roster(
        &mut self,
        head: &Signed<Head>,
        roster: Roster,
    ) -> Result<Option<Update>, Refusal> {
        let head = self.check_head(head)?;
        if let Some(outcome) = self.judge(&head)? {
            return Ok(outcome);
        }
        let roster = roster.verify(head).map_err(|e| self.mismatch(e))?;
        self.accept(roster).map(Some)
    }

    /// Checks a proof that a node brings along.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn check_proof(&mut self, proof: &Proof, bearer: &NodeId) -> Result<Proved, Refusal> {
        let manifest = self.manifest.as_ref().ok_or(Refusal::NoManifest)?;
        let proved = proof
            .verify(manifest, bearer)
            .inspect_err(|_| self.counters.proof_refused += 1)?;
        let position = proved.head.position();
        if let Some(seen) = self
            .floor(&proved.head.network)
            .filter(|seen| position < *seen)
        {
            return Err(self.stale(position.generation, position.epoch, seen));
        }
        Ok(proved)
    }

    /// Checks a network secret against the head that is held.
    ///
    /// # Errors
    /// [`Refusal`]
    pub fn check_secret(
        &mut self,
        network: NetworkId,
        secret: NetworkSecret,
    ) -> Result<Option<Update>, Refusal> {
        let head = self.roster(&network).ok_or(Refusal::NotHeld)?.head();
        if !secret.matches(head.secret_id, &head.secret_hash) {
            return Err(Refusal::WrongSecret);
        }
        let known = self
            .networks
            .get(&network)
            .is_some_and(|slot| slot.secrets.iter().any(|s| s.id == secret.id));
        Ok((!known).then_some(Update::Secret { network, secret }))
    }

    pub(super) fn check_head(&mut self, signed: &Signed<Head>) -> Result<Verified<Head>, Refusal> {
        let manifest = self.manifest.as_ref().ok_or(Refusal::NoManifest)?;
        Head::verify(signed, manifest).map_err(|e| self.bad_signature(e))
    }

    /// The lowest position that is still believed.
    fn floor(&self, network: &NetworkId) -> Option<Position> {
        let seen = self
            .networks
            .get(network)
            .and_then(|slot| slot.seen)
            .map(|(position, _)| position);
        seen.max(self.floors.get(network).copied())
    }

    /// Is the head new? `Ok(None)`: go on and look at the body. `Ok(Some(..))`: settled without one.
    pub(super) fn judge(
        &mut self,
        head: &Verified<Head>,
    ) -> Result<Option<Option<Update>>, Refusal> {
        let position = head.position();
        if let Some(seen) = self.floor(&head.network).filter(|seen| position < *seen) {
            return Err(self.stale(position.generation, position.epoch, seen));
        }
        let Some(slot) = self.networks.get(&head.network) else {
            return Ok(None);
        };
        if slot
            .seen
            .is_some_and(|(seen, root)| seen == position && root != head.root)
        {
            if slot.equivocation {
                return Err(Refusal::Equivocation(position));
            }
            let update = Update::Equivocation {
                network: head.network,
                position,
                root: head.root,
            };
            return Ok(Some(Some(update)));
        }
        if slot.equivocation
            && slot
                .seen
                .is_some_and(|(seen, _)| seen.generation == position.generation)
        {
            return Err(Refusal::Equivocation(position));
        }
        let Some(held) = slot
            .held
            .as_ref()
            .filter(|held| held.head().position() == position)
        else {
            return Ok(None);
        };
        if held.head().issued_at >= head.issued_at {
            return Ok(Some(None));
        }
        // The renewal of an expiring head: same body, later time.
        let renewed = held
            .body()
            .clone()
            .verify(head.clone())
            .map_err(|e| self.mismatch(e))?;
        Ok(Some(Some(Update::Roster(Box::new(renewed)))))
    }

    fn accept(&mut self, roster: VerifiedRoster) -> Result<Update, Refusal> {
        let went_back = |serials: &std::collections::BTreeMap<NodeId, u64>| {
            roster.members().any(|m| {
                serials
                    .get(&m.node)
                    .is_some_and(|known| m.tunnel.serial < *known)
            })
        };
        if went_back(&self.serials) {
            return Err(Refusal::OldTunnelKey);
        }
        Ok(Update::Roster(Box::new(roster)))
    }

    pub(super) fn bad_signature(&mut self, error: VerifyError) -> Refusal {
        self.counters.roster_bad_signature += 1;
        error.into()
    }

    pub(super) fn mismatch(&mut self, error: RosterError) -> Refusal {
        self.counters.roster_mismatch += 1;
        error.into()
    }

    fn stale(&mut self, generation: u64, epoch: u64, seen: Position) -> Refusal {
        self.counters.roster_stale += 1;
        Refusal::Stale {
            got: Position { generation, epoch },
            seen,
        }
    }

    /// The newest time that was signed: a clock before it is wrong.
    #[must_use]
    pub const fn newest_issued(&self) -> UnixTime {
        self.newest_issued
    }
}
