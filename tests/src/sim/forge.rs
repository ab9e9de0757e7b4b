//! Rosters and changes that nobody should believe, made from ones that are true.

use futures::executor::block_on;
use kanpachi_common::{
    SecretKey, Signed,
    roster::{Delta, Head, Page, Roster},
    wire::control::{Held, ServerMessage},
};
use kanpachi_coordinator::store::{Change, SetName, Store as _};

use super::{
    net::{End, Item},
    world::World,
};

/// Something that is not true, and how it is counted: stale, signature, mismatch, equivocation.
#[derive(Debug)]
pub struct Forgery {
    pub what: &'static str,
    pub messages: Vec<ServerMessage>,
    pub counted: [u64; 4],
}

/// The whole roster as the store has it now.
///
/// # Panics
/// When the store fails.
pub fn whole(world: &World) -> Vec<Page> {
    let coordinator = &world.coordinator;
    let roster = block_on(coordinator.store.roster(coordinator.network)).expect("a roster");
    Page::split(coordinator.network, roster.head().signed(), roster.body())
}

/// The change from what a node holds to what the store has now.
///
/// # Panics
/// When there is none.
pub fn delta(world: &World, index: usize) -> Delta {
    let rosters = world.nodes[index]
        .process
        .as_ref()
        .and_then(|p| p.rosters());
    let held: Vec<Held> = rosters.expect("the node is in").held();
    let coordinator = &world.coordinator;
    let changes = coordinator.store.changes_since(coordinator.network, held);
    let answers = block_on(changes).expect("changes").answers;
    match answers.into_iter().next() {
        Some(Change::Delta(delta)) => *delta,
        other => panic!("no delta but {other:?}"),
    }
}

/// A member is called something else from now on, and nobody is told.
///
/// # Panics
/// When the store fails.
pub fn rename(world: &World, index: usize, name: &str) {
    let set = SetName {
        node: world.nodes[index].id(),
        network: None,
        name: name.to_owned(),
        now: world.coordinator.wall.read(&world.clock),
    };
    block_on(world.coordinator.store.set_name(set)).expect("a new name");
}

/// What a node calls another one.
pub fn name_of(world: &World, index: usize, other: usize) -> Option<String> {
    let process = world.nodes[index].process.as_ref()?;
    let members = process.members(world.clock.now());
    let peer = members.get(&world.nodes[other].id())?;
    Some(peer.networks.first()?.name.clone())
}

/// What a node has refused so far: stale, signature, mismatch, equivocation.
pub fn refusals(world: &World, index: usize) -> [u64; 4] {
    let counters = world.nodes[index].process.as_ref().map(|p| p.refused());
    let c = counters.unwrap_or_default();
    [
        c.roster_stale,
        c.roster_bad_signature,
        c.roster_mismatch,
        c.roster_equivocation,
    ]
}

/// Puts a message into a node's control stream, as only its coordinator could.
pub fn push(world: &mut World, index: usize, message: &ServerMessage) {
    let bytes = message.frame(0).to_bytes();
    for line in world.net.lines_of(index) {
        let item = Item::Bytes(bytes.clone());
        let now = world.elapsed();
        world.net.put(line, End::Node, item, now);
    }
}

/// The head with one bit changed.
fn bent(head: &Signed<Head>) -> Signed<Head> {
    let mut head = head.clone();
    head.payload[20] ^= 1;
    head
}

/// The same statement, signed by somebody else.
fn foreign(head: &Signed<Head>) -> Signed<Head> {
    let stranger = SecretKey::from_seed(&[0x66; 32]);
    let value: Head = kanpachi_common::cbor::decode(&head.payload, 4096).expect("a head");
    Signed::sign(&value, &stranger)
}

/// The last page of the roster without its last member.
fn short(pages: &[Page]) -> Vec<Page> {
    let (head, mut roster) = Page::join(pages.to_vec()).expect("a roster");
    roster.entries.pop();
    Page::split(pages[0].network, &head, &roster)
}

/// The roster with one bit of one private half changed.
fn altered(pages: &[Page]) -> Vec<Page> {
    let (head, roster) = Page::join(pages.to_vec()).expect("a roster");
    let mut entries = roster.entries;
    if let Some(byte) = entries.last_mut().and_then(|e| e.private.last_mut()) {
        *byte ^= 1;
    }
    let roster = Roster { entries, ..roster };
    Page::split(pages[0].network, &head, &roster)
}

fn paged(what: &'static str, pages: Vec<Page>, counted: [u64; 4]) -> Forgery {
    let messages = pages.into_iter().map(|p| ServerMessage::Page(Box::new(p)));
    Forgery {
        what,
        messages: messages.collect(),
        counted,
    }
}

fn changed(what: &'static str, delta: Delta, counted: [u64; 4]) -> Forgery {
    Forgery {
        what,
        messages: vec![ServerMessage::Delta(Box::new(delta))],
        counted,
    }
}

/// The roster without its last member, properly signed for the epoch that has one already.
///
/// # Panics
/// When the store has no roster.
pub fn equivocation(world: &World) -> ServerMessage {
    let pages = whole(world);
    let (head, mut roster) = Page::join(pages.clone()).expect("a roster");
    let value: Head = kanpachi_common::cbor::decode(&head.payload, 4096).expect("a head");
    roster.entries.pop();
    let head = world.coordinator.sign(&Head {
        root: roster.root(),
        size: roster.entries.len() as u64 + 1,
        ..value
    });
    let page = Page::split(pages[0].network, &head, &roster).remove(0);
    ServerMessage::Page(Box::new(page))
}

/// Every kind of lie. `stale` was the whole roster once, `delta` leads to `newest`, and the node was told of neither.
pub fn all(stale: &[Page], delta: &Delta, newest: &[Page]) -> Vec<Forgery> {
    let with_head = |page: &Page, head: Signed<Head>| Page {
        head,
        ..page.clone()
    };
    let (page, head) = (&newest[0], &newest[0].head);
    let late = Page {
        index: 1,
        count: 2,
        settings: None,
        ..page.clone()
    };
    let rebased = |by| {
        let mut delta = delta.clone();
        delta.base.epoch = delta.base.epoch.saturating_add_signed(by);
        delta
    };
    let tampered = {
        let mut delta = delta.clone();
        if let Some(byte) = delta.upserts.last_mut().and_then(|e| e.private.last_mut()) {
            *byte ^= 1;
        }
        delta
    };
    let smuggled = Delta {
        removed: vec![kanpachi_common::MemberId([7; 32])],
        upserts: vec![],
        ..delta.clone()
    };
    let redirected = |head| Delta {
        head,
        ..delta.clone()
    };
    vec![
        paged("a stale roster", stale.to_vec(), [1, 0, 0, 0]),
        changed(
            "a stale change",
            redirected(stale[0].head.clone()),
            [1, 0, 0, 0],
        ),
        paged(
            "a roster under a bent head",
            vec![with_head(page, bent(head))],
            [0, 1, 0, 0],
        ),
        changed(
            "a change under a bent head",
            redirected(bent(head)),
            [0, 1, 0, 0],
        ),
        paged(
            "a roster by a stranger",
            vec![with_head(page, foreign(head))],
            [0, 1, 0, 0],
        ),
        changed(
            "a change by a stranger",
            redirected(foreign(head)),
            [0, 1, 0, 0],
        ),
        paged(
            "a roster with a member too few",
            short(newest),
            [0, 0, 1, 0],
        ),
        paged(
            "a roster with an altered member",
            altered(newest),
            [0, 0, 1, 0],
        ),
        paged("a page out of order", vec![late], [0, 0, 1, 0]),
        changed("a change with an altered member", tampered, [0, 0, 1, 0]),
        changed("a change with another content", smuggled, [0, 0, 1, 0]),
        // Not a lie by itself, but nothing to act on: the node pulls, and what it is sent then counts.
        changed("a change from the epoch before", rebased(-1), [0, 0, 0, 0]),
        changed("a change from a later epoch", rebased(1), [0, 0, 0, 0]),
    ]
}
