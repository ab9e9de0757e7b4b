//! Where a node stands: with whom, in which order, and how seldom that changes.

use super::*;

const NETWORK: NetworkId = NetworkId([1; 32]);
const OTHER: NetworkId = NetworkId([2; 32]);

fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn fellow(n: u8) -> Fellow {
    Fellow {
        node: node(n),
        networks: BTreeSet::from([NETWORK]),
        open: false,
        up: true,
        there: true,
    }
}

/// A node, its co-members, and which of them give reservations.
struct World {
    standing: Standing,
    fellows: BTreeMap<NodeId, Fellow>,
    /// Nobody gets a reservation there.
    deaf: BTreeSet<NodeId>,
    now: Instant,
    stood: Vec<NodeId>,
    left: Vec<NodeId>,
}

impl World {
    fn new(me: u8, fellows: impl IntoIterator<Item = Fellow>) -> Self {
        let now = Instant::now();
        let fellows = fellows.into_iter().map(|f| (f.node, f)).collect();
        let mut world = Self {
            standing: Standing::new(node(me), now),
            fellows,
            deaf: BTreeSet::new(),
            now,
            stood: Vec::new(),
            left: Vec::new(),
        };
        world.tell();
        world
    }

    fn tell(&mut self) {
        let fellows = self.fellows.values().cloned().collect();
        self.standing.set_fellows(fellows);
    }

    fn change(&mut self, n: u8, change: impl FnOnce(&mut Fellow)) {
        change(self.fellows.get_mut(&node(n)).unwrap());
        self.tell();
    }

    /// Lets time pass; members answer at once.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            while let Some(action) = self.standing.poll_action(self.now) {
                match action {
                    Action::Stand(node) => {
                        self.stood.push(node);
                        if self.deaf.contains(&node) {
                            self.standing.handle_ended(&node, self.now);
                        } else {
                            self.standing.handle_stands(&node, self.now);
                        }
                    }
                    Action::Leave(node) => self.left.push(node),
                }
            }
            let due = self.standing.poll_timeout();
            match due.filter(|due| *due <= end) {
                Some(due) => {
                    assert!(due > self.now, "it wants to be asked again at once");
                    self.now = due;
                }
                None => break,
            }
        }
        self.now = end;
    }

    fn held(&self) -> BTreeSet<NodeId> {
        self.standing.relays().into_iter().collect()
    }
}

const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_node_stands_at_a_few_members_and_lets_it_be() {
    let mut world = World::new(0, (1..=20).map(fellow));
    world.run(SOON);
    assert_eq!(world.held().len(), STANDING);
    world.run(Duration::from_secs(3600));
    assert_eq!(world.stood.len(), STANDING);
    assert_eq!(world.left, []);
    assert_eq!(world.standing.poll_timeout(), None, "it waits for nothing");
}

#[test]
fn whoever_looks_for_a_node_asks_where_it_stands() {
    for me in 0..30 {
        let others = |but: u8| (0..30).filter(move |n| *n != but).map(fellow);
        let mut sought = World::new(me, others(me));
        sought.run(SOON);
        let seeker = World::new(30, others(30));
        let ways = seeker.standing.ways_to(&node(me), &[]);
        assert_eq!(ways.len(), MAX_WAYS);
        let first: BTreeSet<_> = ways.into_iter().take(STANDING).collect();
        assert_eq!(first, sought.held());
    }
}

#[test]
fn those_that_anybody_reaches_come_first_on_both_sides() {
    let open = |n| Fellow {
        open: n % 10 == 0,
        ..fellow(n)
    };
    let mut sought = World::new(1, (2..=40).map(open));
    sought.run(SOON);
    let held = sought.held();
    assert!(
        held.iter().all(|node| sought.fellows[node].open),
        "{held:?}"
    );
    let seeker = World::new(41, (1..=40).map(open));
    let ways = seeker.standing.ways_to(&node(1), &[]);
    assert!(held.iter().all(|node| ways.contains(node)));
    // What the member itself says comes before what is guessed.
    let named = seeker.standing.ways_to(&node(1), &[node(33), node(99)]);
    assert_eq!(named[0], node(33));
    assert!(!named.contains(&node(99)), "a stranger");
}

#[test]
fn members_that_cannot_be_reached_are_passed_over_and_tried_ever_more_rarely() {
    let mut world = World::new(0, (1..=4).map(fellow));
    world.deaf = BTreeSet::from([node(1), node(2)]);
    world.run(Duration::from_secs(3600));
    assert_eq!(world.held(), BTreeSet::from([node(3), node(4)]));
    let tries = world.stood.iter().filter(|n| **n == node(1)).count();
    assert!((5..=14).contains(&tries), "{tries} tries in an hour");
    // Its tunnel comes up: it is tried at once.
    world.deaf.clear();
    world.change(1, |f| f.up = false);
    world.change(1, |f| f.up = true);
    world.run(SOON);
    assert!(world.held().contains(&node(1)));
}

#[test]
fn one_that_never_answers_gives_way_to_the_next() {
    let mut standing = Standing::new(node(0), Instant::now());
    standing.set_fellows((1..=4).map(fellow).collect());
    let mut now = standing.poll_timeout().unwrap() + SOON;
    let mut tried = Vec::new();
    while let Some(action) = standing.poll_action(now) {
        tried.push(action);
    }
    assert_eq!(tried.len(), STANDING);
    now = standing.poll_timeout().unwrap();
    let mut next = Vec::new();
    while let Some(action) = standing.poll_action(now) {
        next.push(action);
    }
    let left = next.iter().filter(|a| matches!(a, Action::Leave(_)));
    assert_eq!(left.count(), STANDING);
    let fourth = next.iter().any(|action| {
        let Action::Stand(node) = action else {
            return false;
        };
        !tried.contains(&Action::Stand(*node))
    });
    assert!(fourth, "{next:?}");
}

#[test]
fn better_places_are_taken_and_the_worst_left_once_a_minute() {
    let mut world = World::new(0, (1..=9).map(fellow));
    world.run(SOON);
    let before = world.held();
    let open: Vec<u8> = (1..=9)
        .filter(|n| !before.contains(&node(*n)))
        .take(3)
        .collect();
    world.change(open[0], |f| f.open = true);
    world.run(SOON);
    assert_eq!(world.left.len(), 1);
    for n in &open[1..] {
        world.change(*n, |f| f.open = true);
        world.run(SOON);
    }
    // The new ones are there before an old one goes.
    assert!(open.iter().all(|n| world.held().contains(&node(*n))));
    assert_eq!(world.left.len(), 1);
    world.run(CHANGE);
    assert_eq!(world.left.len(), 3);
    assert_eq!(world.held(), open.iter().map(|n| node(*n)).collect());
}

#[test]
fn a_lost_place_is_replaced_and_taken_up_again() {
    let mut world = World::new(0, (1..=9).map(fellow));
    world.run(SOON);
    let first = world.standing.relays()[0];
    world.change(first.0[0], |f| f.up = false);
    world.standing.handle_ended(&first, world.now);
    world.run(Duration::from_secs(1));
    assert_eq!(world.held().len(), STANDING);
    assert!(!world.held().contains(&first));
    world.change(first.0[0], |f| f.up = true);
    world.run(SOON);
    assert!(world.held().contains(&first));
}

#[test]
fn whoever_is_gone_or_no_member_any_more_is_left() {
    let mut world = World::new(0, (1..=3).map(fellow));
    world.change(2, |f| f.there = false);
    world.run(SOON);
    assert_eq!(world.held(), BTreeSet::from([node(1), node(3)]));
    world.fellows.remove(&node(1));
    world.tell();
    world.run(SOON);
    assert_eq!(world.left, [node(1)]);
    assert_eq!(world.held(), BTreeSet::from([node(3)]));
    assert_eq!(world.standing.ways_to(&node(1), &[]), []);
}

#[test]
fn each_network_has_its_places_and_its_members_alone_are_asked() {
    let of = |n: u8| Fellow {
        networks: BTreeSet::from([if n < 10 { NETWORK } else { OTHER }]),
        ..fellow(n)
    };
    let mut world = World::new(0, (1..=19).map(of));
    world.run(SOON);
    let held = world.held();
    let here = held.iter().filter(|node| node.0[0] < 10).count();
    assert_eq!((here, held.len()), (STANDING, 2 * STANDING));
    let ways = world.standing.ways_to(&node(12), &[]);
    assert!(ways.iter().all(|way| way.0[0] >= 10), "{ways:?}");
}

#[test]
fn many_networks_make_no_more_than_a_handful_of_places() {
    let of = |n: u8| Fellow {
        networks: BTreeSet::from([NetworkId([n % 16; 32])]),
        ..fellow(n)
    };
    let mut world = World::new(0, (1..=200).map(of));
    world.run(Duration::from_secs(60));
    assert_eq!(world.held().len(), MAX_STANDING);
    assert_eq!(world.stood.len(), MAX_STANDING);
}
