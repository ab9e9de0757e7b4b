//! What a question says, what is answered, and what is believed of an answer.

use std::collections::BTreeSet;

use kanpachi_common::{
    NetworkId, NodeId, UnixTime, Verified,
    roster::{Page, Position, Proof, Suspend, VerifiedRoster},
    wire::{
        control::{Nonce, SecretIs},
        member::{Ask, Gone, Holds, MAX_COMMON, MAX_PROOFS, MAX_SUSPENDS, MemberMessage},
    },
};

use crate::roster::{Refusal, Rosters, Update};

/// The question for a member: names what both are in, and nothing else.
#[must_use]
pub fn ask(rosters: &Rosters, peer: &NodeId, records: bool) -> Ask {
    let common: Vec<&VerifiedRoster> = rosters.common(peer).take(MAX_COMMON).collect();
    let networks: BTreeSet<NetworkId> = common.iter().map(|r| r.head().network).collect();
    let suspends = rosters.suspends().filter(|s| networks.contains(&s.network));
    let proofs = common
        .iter()
        .filter_map(|roster| Proof::of(roster, &rosters.me(), true));
    Ask {
        generation: rosters.manifest().map_or(0, |m| m.generation),
        directory: rosters.directory().map_or(0, |d| d.seq),
        held: common.iter().map(|r| holds(rosters, r)).collect(),
        suspends: suspends
            .take(MAX_SUSPENDS)
            .map(|s| s.signed().clone())
            .collect(),
        proofs: proofs.take(MAX_PROOFS).collect(),
        records,
        ext: vec![],
    }
}

fn holds(rosters: &Rosters, roster: &VerifiedRoster) -> Holds {
    let head = roster.head();
    Holds {
        network: head.network,
        position: head.position(),
        root: head.root,
        issued_at: head.issued_at,
        secret: rosters.secrets(&head.network).map(|s| s.id).next(),
    }
}

/// Does the question show that its sender holds something newer than this node does? Then it is to be asked.
#[must_use]
pub fn is_behind(rosters: &Rosters, ask: &Ask) -> bool {
    let generation = rosters.manifest().map_or(0, |m| m.generation);
    let newer = |theirs: &Holds| {
        rosters.roster(&theirs.network).is_some_and(|ours| {
            let head = ours.head();
            let secret = rosters.secrets(&theirs.network).map(|s| s.id).next();
            theirs.position > head.position()
                || (theirs.root == head.root && theirs.issued_at > head.issued_at)
                || (theirs.secret == Some(head.secret_id) && theirs.secret != secret)
        })
    };
    ask.generation > generation
        || (ask.generation == generation
            && ask.directory > rosters.directory().map_or(0, |d| d.seq))
        || ask.held.iter().any(newer)
}

/// The proofs in a question that are worth a look: under rosters newer than those held here.
#[must_use]
pub fn newer_proofs(rosters: &Rosters, ask: &Ask) -> Vec<Proof> {
    let newer = |theirs: &Holds| {
        let ours = rosters.roster(&theirs.network);
        ours.is_some_and(|ours| theirs.position > ours.head().position())
    };
    let pairs = ask.held.iter().zip(&ask.proofs);
    pairs
        .filter(|(held, _)| newer(held))
        .map(|(_, proof)| proof.clone())
        .collect()
}

/// The answer to a question, without the records: whatever is newer here, as far as the asker may know it. `Done` is
/// for the caller to add.
#[must_use]
pub fn answer(rosters: &Rosters, asker: &NodeId, ask: &Ask, clock: UnixTime) -> Vec<MemberMessage> {
    let mut out = Vec::new();
    let common: BTreeSet<NetworkId> = rosters.common(asker).map(|r| r.head().network).collect();
    let strange = ask.held.iter().filter(|h| !common.contains(&h.network));
    let gone: Vec<&VerifiedRoster> = strange
        .filter_map(|theirs| {
            let ours = rosters.roster(&theirs.network)?;
            (ours.head().position() > theirs.position).then_some(ours)
        })
        .collect();
    if common.is_empty() && gone.is_empty() {
        return out;
    }
    let generation = rosters.manifest().map_or(0, |m| m.generation);
    if let Some(manifest) = rosters.manifest().filter(|m| m.generation > ask.generation) {
        out.push(MemberMessage::Manifest(Box::new(manifest.signed().clone())));
    }
    let directory_newer = |seq: u64| generation > ask.generation || seq > ask.directory;
    if let Some(directory) = rosters
        .directory()
        .filter(|d| d.generation == generation && directory_newer(d.seq))
    {
        out.push(MemberMessage::Directory(Box::new(
            directory.signed().clone(),
        )));
    }
    for roster in gone {
        let head = roster.head().signed().clone();
        out.push(MemberMessage::Gone(Gone { head }));
    }
    for network in common {
        answer_network(rosters, &network, ask, clock, &mut out);
    }
    out
}

fn answer_network(
    rosters: &Rosters,
    network: &NetworkId,
    ask: &Ask,
    clock: UnixTime,
    out: &mut Vec<MemberMessage>,
) {
    let Some(roster) = rosters.roster(network) else {
        return;
    };
    let head = roster.head();
    let theirs = ask.held.iter().find(|h| h.network == *network);
    let position = theirs.map_or_else(Position::default, |h| h.position);
    let renews = theirs.is_some_and(|h| h.root == head.root && h.issued_at < head.issued_at);
    if head.position() > position || (head.position() == position && renews) {
        let pages = Page::split(*network, head.signed(), roster.body());
        out.extend(pages.into_iter().map(|p| MemberMessage::Page(Box::new(p))));
    }
    let known = |suspend: &&Verified<Suspend>| {
        suspend.network == *network && !ask.suspends.contains(suspend.signed())
    };
    for suspend in rosters.suspends().filter(known) {
        out.push(MemberMessage::Suspend(Box::new(suspend.signed().clone())));
    }
    // A roster that has run out hands nothing on: only the coordinator renews it.
    if rosters.is_expired(network, clock) {
        return;
    }
    let secret = rosters
        .secrets(network)
        .find(|s| s.matches(head.secret_id, &head.secret_hash))
        .filter(|s| theirs.is_none_or(|h| h.secret != Some(s.id)));
    if let Some(secret) = secret {
        out.push(MemberMessage::Secret(SecretIs {
            network: *network,
            secret: secret.clone(),
        }));
    }
}

/// The end of every answer.
#[must_use]
pub const fn done() -> MemberMessage {
    MemberMessage::Done(Nonce(0))
}

/// Checks one piece of a member's answer; `None` when it is known, or none of this module's business.
///
/// # Errors
/// [`Refusal`]
pub fn check(
    rosters: &mut Rosters,
    from: &NodeId,
    message: MemberMessage,
) -> Result<Option<Update>, Refusal> {
    match message {
        MemberMessage::Manifest(manifest) => {
            let known = rosters
                .manifest()
                .is_some_and(|m| m.signed() == manifest.as_ref());
            if known {
                return Ok(None);
            }
            rosters.check_manifest(&manifest).map(Some)
        }
        MemberMessage::Directory(directory) => rosters.check_directory(&directory),
        MemberMessage::Page(page) => rosters.check_page_of_ours(from, *page),
        MemberMessage::Secret(secret) => rosters.check_secret(secret.network, secret.secret),
        MemberMessage::Suspend(suspend) => rosters.check_suspend(&suspend),
        MemberMessage::Ask(_)
        | MemberMessage::Record(_)
        | MemberMessage::Gone(_)
        | MemberMessage::Done(_)
        | MemberMessage::Unknown(_) => Ok(None),
    }
}
