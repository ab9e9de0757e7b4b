//! Where datagrams go, how many of them, and that nobody gets more out of it than goes in.

use super::*;

#[test]
fn what_a_member_sends_arrives_at_its_partner_under_the_partners_numbers() {
    let mut world = World::new();
    let (a, b) = world.pair_of_members();
    assert_eq!(a.states().last(), Some(&(3, PairState::Open)));
    let sent = world.data(at(10), &a, 3, b"sealed");
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, at(11));
    assert_eq!(decode_header(&sent[0].1), Some((b.session, 5)));
    assert_eq!(&sent[0].1[8..], b"sealed");
    let back = world.data(at(11), &b, 5, b"answer");
    assert_eq!(
        (back[0].0, decode_header(&back[0].1)),
        (at(10), Some((a.session, 3)))
    );
    world.say(&b, &RelayMessage::Unpair(Channel { channel: 5 }));
    assert_eq!(a.states(), [(3, PairState::Waiting)]);
    assert_eq!(world.data(at(10), &a, 3, b"late"), []);
    assert_eq!(world.data(at(10), &a, 4, b"no such channel"), []);
}

#[test]
fn a_bind_that_was_overheard_takes_no_member_back_to_where_it_was() {
    let mut world = World::new();
    let (a, b) = world.pair_of_members();
    let first = world.bind(&a, at(20));
    assert_eq!(world.data(at(11), &b, 5, b"x")[0].0, at(20));
    // From the address that is bound it may be repeated: that keeps the NAT's mapping.
    let answers = world.datagram(at(20), &first);
    assert_eq!(decode_bound(&answers[0].1).unwrap().0, Step::Bound);
    world.bind(&a, at(30));
    let answers = world.datagram(at(20), &first);
    assert_eq!(decode_bound(&answers[0].1).unwrap().0, Step::Challenge);
    assert_eq!(world.data(at(11), &b, 5, b"x")[0].0, at(30));
    assert_eq!(
        world.data(at(20), &a, 3, b"x"),
        [],
        "the old address is no longer bound"
    );
    // Elsewhere the cookie is worth nothing.
    let answers = world.datagram(at(40), &first);
    assert_eq!(decode_bound(&answers[0].1).unwrap().0, Step::Challenge);
}

#[test]
fn a_cookie_is_good_for_a_minute_or_two() {
    let mut world = World::new();
    world.hears(1, 1, &[10]);
    let mut a = world.connect(10);
    world.open(&mut a, vec![], false);
    let challenge = world.datagram(at(10), &a.bind([0; 16]));
    let cookie = decode_bound(&challenge[0].1).unwrap().1.cookie;
    world.wait(60 * SECOND);
    let elsewhere = world.datagram(at(11), &a.bind(cookie));
    assert_eq!(decode_bound(&elsewhere[0].1).unwrap().0, Step::Challenge);
    world.wait(58 * SECOND);
    let late = world.datagram(at(10), &a.bind(cookie));
    assert_eq!(decode_bound(&late[0].1).unwrap().0, Step::Bound);
    let mut again = world.connect(10);
    world.open(&mut again, vec![], false);
    let challenge = world.datagram(at(10), &again.bind([0; 16]));
    let cookie = decode_bound(&challenge[0].1).unwrap().1.cookie;
    world.wait(119 * SECOND);
    let too_late = world.datagram(at(10), &again.bind(cookie));
    assert_eq!(decode_bound(&too_late[0].1).unwrap().0, Step::Challenge);
}

#[test]
fn data_goes_to_the_stream_of_a_member_that_udp_does_not_reach() {
    let mut world = World::new();
    world.hears(1, 1, &[10, 11]);
    let a = world.member(10, at(10));
    let mut b = world.connect(11);
    world.open(&mut b, vec![], false);
    world.pair(&a, 3, &b);
    world.pair(&b, 5, &a);
    let _ = b.said();
    assert_eq!(world.data(at(10), &a, 3, b"x"), []);
    let now = world.shared.now();
    assert_eq!(b.frames(now), [(5, b"x".to_vec())]);
    world.data(at(10), &a, 3, b"old");
    assert_eq!(b.frames(now + 201_000_000), []);
    // Bound, then silent there while data comes on the stream: UDP is blocked by now.
    world.bind(&b, at(11));
    assert_eq!(world.data(at(10), &a, 3, b"x")[0].0, at(11));
    let session = world.shared.core().session(b.id).unwrap();
    world.wait(SECOND);
    session.heard_on_stream(world.shared.now());
    assert_eq!(
        world.data(at(10), &a, 3, b"x").len(),
        1,
        "heard a moment ago"
    );
    world.wait(5 * SECOND);
    session.heard_on_stream(world.shared.now());
    assert_eq!(world.data(at(10), &a, 3, b"x"), []);
    assert_eq!(b.frames(world.shared.now()).len(), 1);
    world.shared.core().stream_closed(b.id);
    assert_eq!(world.data(at(10), &a, 3, b"x"), []);
    assert_eq!(world.shared.budget.load(Relaxed), 0);
}

#[test]
fn a_member_sends_no_more_than_its_rate_whatever_it_opens() {
    let mut world = World::new();
    let (a, b) = world.pair_of_members();
    let c = world.member(12, at(12));
    world.pair(&c, 1, &b);
    world.pair(&b, 6, &c);
    let body = [0; 1000];
    let flood = |world: &mut World, client: &Client, channel, from| {
        let through = (0..500).filter(|_| !world.data(from, client, channel, &body).is_empty());
        through.count()
    };
    let first = flood(&mut world, &a, 3, at(10));
    assert!((115..135).contains(&first), "125 kB at once: {first}");
    assert_eq!(
        flood(&mut world, &c, 1, at(12)),
        first,
        "another member has its own"
    );
    let again = world.member(10, at(10));
    world.pair(&again, 3, &b);
    assert_eq!(
        flood(&mut world, &again, 3, at(10)),
        0,
        "a new session is no new allowance"
    );
    world.wait(SECOND / 20);
    let later = flood(&mut world, &again, 3, at(10));
    assert!((45..55).contains(&later), "1 MB a second: {later}");
}

proptest! {
    /// Whatever comes from wherever: without a key nothing is answered, and with one no more bytes go out than came in, to
    /// nobody but the source, until it has shown that it receives there.
    #[test]
    fn a_datagram_is_answered_with_no_more_bytes_and_to_its_source_only(
        datagrams in prop::collection::vec((0u8..40, prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            (7u8..10, any::<[u8; 47]>()).prop_map(|(first, rest)| [&[first][..], &rest].concat()),
        ], any::<bool>(), any::<[u8; 16]>()), 1..60)
    ) {
        let mut world = World::new();
        world.hears(1, 1, &[10, 11]);
        let mut a = world.connect(10);
        world.open(&mut a, vec![], false);
        let mut b = world.connect(11);
        world.open(&mut b, vec![], false);
        world.pair(&a, 3, &b);
        world.pair(&b, 5, &a);
        for (host, bytes, signed, cookie) in datagrams {
            let datagram = if signed { a.bind(cookie).to_vec() } else { bytes };
            let sent = world.datagram(at(host), &datagram);
            prop_assert!(signed || sent.is_empty());
            let out: usize = sent.iter().map(|(_, bytes)| bytes.len()).sum();
            prop_assert!(out <= datagram.len() && sent.iter().all(|(to, _)| *to == at(host)));
        }
        prop_assert_eq!(world.data(at(1), &a, 3, b"x"), []);
        prop_assert!(b.frames(world.shared.now()).is_empty());
    }

    /// Whatever members do in whatever order, both ends of a channel agree on whether it is open, and data flows exactly
    /// where both were told so.
    #[test]
    fn both_ends_agree(steps in prop::collection::vec((0u8..4, 0u8..4, 1u16..4, 0u8..6), 1..60)) {
        let mut world = World::new();
        world.hears(1, 1, &[10, 11, 12]);
        world.hears(2, 1, &[12, 13]);
        let mut clients: Vec<Client> = (10..14).map(|seed| world.member(seed, at(seed))).collect();
        let mut told: BTreeMap<(usize, u16), PairState> = BTreeMap::new();
        let mut peers: BTreeMap<(usize, u16), usize> = BTreeMap::new();
        for (one, other, channel, what) in steps {
            let (one, other) = (usize::from(one), usize::from(other));
            match what {
                0..=2 => {
                    world.pair(&clients[one], channel, &clients[other]);
                    peers.retain(|(a, _), peer| *a != one || *peer != other);
                    peers.remove(&(one, channel));
                    if one != other {
                        peers.insert((one, channel), other);
                    }
                }
                3 => {
                    world.say(&clients[one], &RelayMessage::Unpair(Channel { channel }));
                    peers.remove(&(one, channel));
                }
                4 => {
                    let seed = 10 + u8::try_from(one).unwrap();
                    clients[one] = world.member(seed, at(seed));
                    peers.retain(|(a, _), _| *a != one);
                }
                _ => world.wait(SECOND),
            }
            for (i, client) in clients.iter().enumerate() {
                told.extend(client.states().into_iter().map(|(c, state)| ((i, c), state)));
            }
            for ((i, c), j) in &peers {
                let back = peers.iter().find(|((b, _), a)| b == j && *a == i);
                let common = matches!((i.min(j), i.max(j)), (0 | 1, 1 | 2) | (2, 3));
                let open = common && back.is_some();
                prop_assert_eq!(told[&(*i, *c)] == PairState::Open, open, "{} {} {}", i, c, j);
                let from = at(10 + u8::try_from(*i).unwrap());
                let sent = world.data(from, &clients[*i], *c, b"x");
                prop_assert_eq!(sent.len(), usize::from(open));
                if let (Some(((_, channel), _)), [(_, bytes)]) = (back, &sent[..]) {
                    prop_assert_eq!(decode_header(bytes), Some((clients[*j].session, *channel)));
                }
            }
        }
    }
}

/// A reader that handles so much a millisecond: forwarding costs ten, dropping one. What waits is dropped at the end of the
/// queue, whosever it is, as the kernel does. Returns what of the modest member's and of the flooder's datagrams got
/// through in the second half.
fn flooded(world: &mut World, modest: &[u8], flood: &[u8]) -> (usize, usize) {
    const QUEUE: usize = 1500;
    const BUDGET: u32 = 1000;
    const READ: usize = 16;
    let mut waiting: std::collections::VecDeque<bool> = std::collections::VecDeque::new();
    let mut through = (0, 0);
    for round in 0..2000 {
        for n in 0..420 {
            if waiting.len() < QUEUE {
                waiting.push_back(n % 21 == 0);
            }
        }
        let mut budget = BUDGET;
        while budget > 10 * READ as u32 && !waiting.is_empty() {
            let read: Vec<bool> = waiting.drain(..READ.min(waiting.len())).collect();
            for is_modest in read {
                let before = world.shared.counters.drop_rate.load(Relaxed);
                let (from, datagram) = if is_modest {
                    (at(10), modest)
                } else {
                    (at(12), flood)
                };
                world.packets.handle(from, datagram);
                let dropped = world.shared.counters.drop_rate.load(Relaxed) > before;
                budget -= if dropped { 1 } else { 10 };
                if !dropped && round >= 1000 {
                    *if is_modest {
                        &mut through.0
                    } else {
                        &mut through.1
                    } += 1;
                }
            }
            world.packets.end_of_batch();
            world.packets.end_of_read(!waiting.is_empty());
        }
        world.wire.0.lock().unwrap().clear();
        world.wait(SECOND / 1000);
    }
    through
}

#[test]
fn one_who_floods_leaves_another_what_it_sends_below_its_share() {
    let limits = Limits {
        rate: 0,
        ..limits()
    };
    let mut world = World::with(Org::new(), limits);
    world.hears(1, 1, &[10, 11, 12, 13]);
    let members = [10, 11, 12, 13].map(|seed| world.member(seed, at(seed)));
    let [a, b, c, d] = &members;
    for (one, other) in [(a, b), (c, d)] {
        world.pair(one, 1, other);
        world.pair(other, 1, one);
    }
    let datagram = |client: &Client| [&encode_header(client.session, 1)[..], &[0; 1400]].concat();
    let (modest, flood) = flooded(&mut world, &datagram(a), &datagram(c));
    // 20 a millisecond were sent by the one and 400 by the other, and 100 can be forwarded.
    assert!(modest >= 15_000, "{modest} of 20000");
    assert!(flood >= 10_000, "{flood} of the flood");
}

proptest! {
    /// What is read at once leaves in as few sends as possible: every datagram arrives whole and in order nevertheless.
    #[test]
    fn batches_come_apart_into_what_went_in(
        datagrams in prop::collection::vec((any::<bool>(), prop_oneof![Just(1200usize), 1usize..1400, Just(9000)]), 0..200)
    ) {
        let limits = Limits { rate: 0, ..limits() };
        let mut world = World::with(Org::new(), limits);
        let (a, b) = world.pair_of_members();
        let c = world.member(12, at(12));
        world.pair(&a, 4, &c);
        world.pair(&c, 6, &a);
        let mut expected: BTreeMap<SocketAddr, Vec<Vec<u8>>> = BTreeMap::new();
        for (n, (to_b, len)) in datagrams.into_iter().enumerate() {
            let body = vec![u8::try_from(n).unwrap(); len];
            let (to, channel, header) = if to_b {
                (at(11), 3, encode_header(b.session, 5))
            } else {
                (at(12), 4, encode_header(c.session, 6))
            };
            let sent = [&encode_header(a.session, channel)[..], &body].concat();
            world.packets.handle(at(10), &sent);
            expected.entry(to).or_default().push([&header[..], &body].concat());
        }
        world.packets.end_of_batch();
        let mut arrived: BTreeMap<SocketAddr, Vec<Vec<u8>>> = BTreeMap::new();
        for (to, datagram) in std::mem::take(&mut *world.wire.0.lock().unwrap()) {
            arrived.entry(to).or_default().push(datagram);
        }
        prop_assert_eq!(arrived, expected);
    }
}
