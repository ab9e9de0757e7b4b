//! The member's side against a relay that is played here.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use kanpachi_common::{
    NodeId, OrgId, SecretKey,
    roster::Proof,
    wire::relay::{
        Channel, LIFETIME, Opened, PairState, Paired, RENEW, Reason, RelayMessage, RelayRefused,
        SessionKey, Wanted,
        datagram::{Bind, Step, decode_bind, encode_bound, is_authentic},
    },
};

use super::{Output, RelayAt, Relays, Route};
use crate::path::Via;

const RELAY: NodeId = NodeId([9; 32]);
const BOB: NodeId = NodeId([2; 32]);
const CAROL: NodeId = NodeId([3; 32]);
const KEY: SessionKey = SessionKey([7; 32]);
const COOKIE: [u8; 16] = [5; 16];

/// A node with one relay, and what it has said and sent.
struct Scene {
    relays: Relays,
    now: Instant,
    said: Vec<RelayMessage>,
    sent: Vec<(SocketAddr, Vec<u8>)>,
    ways: Vec<(NodeId, Vec<SocketAddr>)>,
    /// What the relay answers to one who asks for a channel, unless that is that the other has not asked yet.
    states: BTreeMap<u16, PairState>,
    /// It answers nothing.
    deaf: bool,
    reopened: usize,
}

fn addr(last: u8) -> SocketAddr {
    ([203, 0, 113, last], 12975).into()
}

impl Scene {
    fn new() -> Self {
        let now = Instant::now();
        let mut relays = Relays::new(OrgId([1; 32]), [4; 32]);
        relays.set_peers([BOB, CAROL], now);
        let at = RelayAt {
            node: RELAY,
            addrs: vec![addr(1), addr(2)],
        };
        relays.set_relays(&[at], now);
        let mut scene = Self {
            relays,
            now,
            said: Vec::new(),
            sent: Vec::new(),
            ways: Vec::new(),
            states: BTreeMap::new(),
            deaf: false,
            reopened: 0,
        };
        scene.drain();
        scene
    }

    /// The stream is open and the relay has taken the node in.
    fn open(number: u32) -> Self {
        let mut scene = Self::new();
        scene.relays.set_wanted(&BOB, true, scene.now);
        scene.begin(number);
        scene
    }

    fn begin(&mut self, session: u32) {
        self.states.clear();
        self.relays.handle_stream(RELAY, self.now);
        self.tell(RelayMessage::Opened(Opened {
            version: 1,
            session,
            key: KEY,
            rate: None,
            ext: vec![],
        }));
    }

    fn drain(&mut self) {
        while let Some(output) = self.relays.poll_output() {
            match output {
                Output::Say(to, message) => {
                    assert_eq!(to, RELAY);
                    self.hear(&message);
                    self.said.push(*message);
                }
                Output::Transmit(transmit) => self.sent.push((transmit.to, transmit.data)),
                Output::Ways(peer, ways) => self.ways.push((peer, ways)),
                Output::Reopen(relay) => {
                    assert_eq!(relay, RELAY);
                    self.reopened += 1;
                }
                Output::Table => {}
            }
        }
    }

    /// The relay hears something.
    fn hear(&mut self, message: &RelayMessage) {
        if let RelayMessage::Pair(pair) = message
            && !self.deaf
        {
            let channel = pair.channel;
            let state = self.states.get(&channel);
            let state = state.copied().unwrap_or(PairState::Waiting);
            let answer = RelayMessage::Paired(Paired { channel, state });
            self.relays.handle_message(RELAY, answer, self.now);
        }
    }

    fn tell(&mut self, message: RelayMessage) {
        self.relays.handle_message(RELAY, message, self.now);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..10_000 {
            match self.relays.poll_timeout().filter(|at| *at <= end) {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.relays.handle_timeout(self.now);
                    self.drain();
                }
                None => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("a timer that is always due");
    }

    /// The relay answers the newest bind to this address.
    fn answer(&mut self, from: SocketAddr, step: Step, key: &SessionKey) {
        let bind = self.last_bind(from).expect("no bind was sent there");
        let cookie = match step {
            Step::Challenge => COOKIE,
            Step::Bound => bind.cookie,
        };
        let answer = encode_bound(step, &Bind { cookie, ..bind }, key);
        self.relays.handle_answer(from, &answer, self.now);
        self.drain();
    }

    fn last_bind(&self, to: SocketAddr) -> Option<Bind> {
        let (_, data) = self.sent.iter().rfind(|(at, _)| *at == to)?;
        assert!(is_authentic(data, &KEY));
        decode_bind(data)
    }

    fn bind(&mut self, from: SocketAddr) {
        self.answer(from, Step::Challenge, &KEY);
        self.answer(from, Step::Bound, &KEY);
    }

    fn channel(&self, peer: NodeId) -> Option<u16> {
        self.said.iter().rev().find_map(|m| match m {
            RelayMessage::Pair(pair) if pair.peer == peer => Some(pair.channel),
            _ => None,
        })
    }

    fn paired(&mut self, peer: NodeId, state: PairState) {
        let channel = self.channel(peer).expect("never asked for");
        self.states.insert(channel, state);
        self.tell(RelayMessage::Paired(Paired { channel, state }));
    }

    fn ways(&self, peer: NodeId) -> Vec<SocketAddr> {
        let told = self.ways.iter().rfind(|(p, _)| *p == peer);
        told.map(|(_, ways)| ways.clone()).unwrap_or_default()
    }

    fn route(&self) -> Route {
        self.relays.table().pop().expect("no session")
    }
}

#[test]
fn a_way_is_open_once_both_ends_have_paired_and_goes_by_stream_until_udp_is_bound() {
    let mut scene = Scene::open(5);
    assert!(matches!(scene.said[0], RelayMessage::Open(_)));
    assert!(scene.ways(BOB).is_empty());
    scene.paired(BOB, PairState::Waiting);
    assert!(scene.ways(BOB).is_empty());
    // What the other end sends at once may come before the word that the channel is open.
    let channel = scene.channel(BOB).unwrap();
    assert!(scene.route().channels.iter().any(|(c, _)| *c == channel));
    scene.paired(BOB, PairState::Open);
    let [way] = scene.ways(BOB)[..] else {
        panic!("{:?}", scene.ways)
    };
    assert!(matches!(Via::of(way), Some(Via::Relay { .. })));
    assert_eq!(scene.relays.relay_of(way), Some(RELAY));
    assert_eq!(scene.route().bound, None);
    assert_eq!(scene.route().channels, [(way.port(), way)]);
    scene.bind(addr(2));
    assert_eq!(scene.route().bound, Some(addr(2)));
    assert_eq!(scene.ways(BOB), [way], "the path is the same one");
}

#[test]
fn nothing_but_the_relays_own_answer_binds_an_address() {
    let mut scene = Scene::open(5);
    scene.answer(addr(1), Step::Bound, &SessionKey([8; 32]));
    let bind = scene.last_bind(addr(1)).unwrap();
    let other = Bind {
        nonce: [0; 8],
        ..bind
    };
    let wrong = encode_bound(Step::Bound, &other, &KEY);
    scene.relays.handle_answer(addr(1), &wrong, scene.now);
    let right = encode_bound(Step::Bound, &bind, &KEY);
    scene.relays.handle_answer(addr(7), &right, scene.now);
    scene.relays.handle_answer(addr(1), &right[1..], scene.now);
    assert_eq!(scene.route().bound, None);
    scene.relays.handle_answer(addr(1), &right, scene.now);
    assert_eq!(scene.route().bound, Some(addr(1)));
}

/// Under load it takes longer than the first pause until an answer is looked at.
#[test]
fn an_answer_may_come_after_the_next_bind() {
    let mut scene = Scene::open(5);
    let first = scene.last_bind(addr(1)).unwrap();
    let answer = encode_bound(Step::Bound, &first, &KEY);
    scene.pass(Duration::from_millis(800));
    scene.relays.handle_answer(addr(1), &answer, scene.now);
    assert_eq!(scene.route().bound, None, "two came after it");
    let mut scene = Scene::open(5);
    scene.pass(Duration::from_millis(300));
    assert_ne!(scene.last_bind(addr(1)).unwrap().nonce, first.nonce);
    let first = scene.sent.iter().find(|(to, _)| *to == addr(1)).unwrap();
    let first = decode_bind(&first.1).unwrap();
    let answer = encode_bound(Step::Bound, &first, &KEY);
    scene.relays.handle_answer(addr(1), &answer, scene.now);
    assert_eq!(scene.route().bound, Some(addr(1)));
    assert_eq!(
        scene.route().addrs,
        [addr(1), addr(2)],
        "it may send from both"
    );
}

#[test]
fn a_relay_that_challenges_without_end_gets_few_answers() {
    let mut scene = Scene::open(5);
    for _ in 0..200 {
        scene.answer(addr(1), Step::Challenge, &KEY);
    }
    assert!(scene.sent.len() < 40, "{}", scene.sent.len());
}

#[test]
fn a_bound_address_is_kept_and_given_up_when_nobody_answers() {
    let mut scene = Scene::open(5);
    scene.paired(BOB, PairState::Open);
    scene.bind(addr(1));
    scene.sent.clear();
    scene.pass(Duration::from_millis(20_100));
    assert_eq!(scene.sent.len(), 1, "one keepalive, where it is bound");
    scene.answer(addr(1), Step::Bound, &KEY);
    scene.sent.clear();
    scene.pass(Duration::from_secs(30));
    assert_eq!(scene.route().bound, None, "the stream is there for that");
    assert!(scene.sent.iter().any(|(to, _)| *to == addr(2)));
    assert_eq!(scene.ways(BOB).len(), 1);
}

#[test]
fn of_several_addresses_the_relay_keeps_the_one_that_is_used() {
    let mut scene = Scene::open(5);
    scene.answer(addr(1), Step::Challenge, &KEY);
    scene.answer(addr(2), Step::Challenge, &KEY);
    scene.answer(addr(1), Step::Bound, &KEY);
    let bind = scene.last_bind(addr(2)).unwrap();
    scene.sent.clear();
    // What was sent to the other address is on its way: the relay goes by the last that it takes in.
    let stale = encode_bound(Step::Challenge, &bind, &KEY);
    scene.relays.handle_answer(addr(2), &stale, scene.now);
    scene.drain();
    assert!(scene.sent.is_empty(), "the other is not wanted any more");
    let moved = encode_bound(Step::Bound, &bind, &KEY);
    scene.relays.handle_answer(addr(2), &moved, scene.now);
    scene.drain();
    assert_eq!(scene.sent.len(), 1);
    assert_eq!(scene.sent[0].0, addr(1), "it is told again");
    assert_eq!(scene.route().bound, Some(addr(1)));
    scene.sent.clear();
    scene.pass(Duration::from_millis(250));
    assert_eq!(scene.sent.len(), 1, "and again, if that was lost");
    scene.answer(addr(1), Step::Bound, &KEY);
    scene.pass(Duration::from_secs(15));
    assert_eq!(scene.sent.len(), 1);
}

#[test]
fn a_relay_that_does_not_answer_on_its_stream_has_another_one() {
    let mut scene = Scene::open(5);
    scene.paired(BOB, PairState::Open);
    scene.bind(addr(1));
    scene.pass(Duration::from_secs(4));
    assert_eq!(scene.reopened, 0, "it was asked for nothing");
    scene.deaf = true;
    scene.relays.set_wanted(&CAROL, true, scene.now);
    scene.drain();
    scene.pass(Duration::from_millis(14_900));
    assert_eq!(scene.reopened, 0);
    scene.pass(Duration::from_millis(200));
    assert_eq!(scene.reopened, 1);
    assert_eq!(scene.ways(BOB).len(), 1, "UDP carries it meanwhile");
    scene.pass(Duration::from_secs(10));
    assert_eq!(scene.reopened, 1, "there is no stream");
    scene.deaf = false;
    scene.begin(6);
    scene.paired(CAROL, PairState::Open);
    assert_eq!(scene.ways(CAROL).len(), 1);
    // The first message of all counts as well.
    scene.relays.handle_stream_closed(RELAY);
    scene.relays.handle_stream(RELAY, scene.now);
    scene.pass(Duration::from_secs(6));
    assert_eq!(scene.reopened, 2);
}

#[test]
fn a_slow_relay_has_more_time() {
    let mut scene = Scene::new();
    let mut ends = Vec::new();
    for _ in 0..6 {
        scene.relays.handle_stream(RELAY, scene.now);
        let (begun, before) = (scene.now, scene.reopened);
        while scene.reopened == before {
            scene.pass(Duration::from_secs(1));
        }
        ends.push((scene.now - begun).as_secs());
    }
    assert_eq!(ends, [5, 10, 20, 40, 60, 60]);
    // It answers at last, and needs as long for the next.
    scene.relays.handle_stream(RELAY, scene.now);
    scene.pass(Duration::from_secs(8));
    scene.tell(RelayMessage::Unknown(99));
    scene.relays.set_wanted(&BOB, true, scene.now);
    assert_eq!(scene.reopened, 6);
    scene.relays.handle_stream_closed(RELAY);
    scene.relays.handle_stream(RELAY, scene.now);
    scene.pass(Duration::from_secs(15));
    assert_eq!(scene.reopened, 6);
    // Data says that the answer is only late.
    for _ in 0..20 {
        scene.relays.handle_data(RELAY, scene.now);
        scene.pass(Duration::from_secs(15));
    }
    assert_eq!(scene.reopened, 6);
    scene.pass(Duration::from_secs(2));
    assert_eq!(scene.reopened, 7);
}

#[test]
fn a_stream_that_carries_all_is_asked_when_nothing_comes_through() {
    let mut scene = Scene::open(5);
    scene.paired(BOB, PairState::Open);
    let doubt = |scene: &mut Scene| {
        scene.said.clear();
        scene.relays.handle_doubt(scene.now);
        scene.drain();
        let asked = scene.said.iter();
        let asked = asked.filter(|m| matches!(m, RelayMessage::Pair(_)));
        asked.count()
    };
    assert_eq!(doubt(&mut scene), 1);
    scene.pass(Duration::from_secs(6));
    assert_eq!((scene.reopened, scene.ways(BOB).len()), (0, 1));
    scene.deaf = true;
    assert_eq!(doubt(&mut scene), 1);
    assert_eq!(doubt(&mut scene), 0, "it has just been asked");
    scene.pass(Duration::from_secs(6));
    assert_eq!((scene.reopened, scene.ways(BOB).len()), (1, 0));
    // Where UDP carries the data the bind is the question.
    let mut scene = Scene::open(5);
    scene.paired(BOB, PairState::Open);
    scene.bind(addr(1));
    assert_eq!(doubt(&mut scene), 0);
}

#[test]
fn a_machine_that_moved_says_so_at_once() {
    let mut scene = Scene::open(5);
    scene.bind(addr(1));
    scene.sent.clear();
    scene.relays.handle_network_change(scene.now);
    scene.drain();
    assert_eq!(scene.sent.len(), 1);
}

#[test]
fn a_relay_is_asked_when_nothing_comes_through_and_not_all_the_time() {
    let mut scene = Scene::open(5);
    scene.bind(addr(1));
    scene.sent.clear();
    let doubt = |scene: &mut Scene| {
        for _ in 0..20 {
            scene.relays.handle_doubt(scene.now);
            scene.drain();
        }
        std::mem::take(&mut scene.sent).len()
    };
    assert_eq!(doubt(&mut scene), 0, "it has just said so");
    scene.pass(Duration::from_secs(2));
    assert_eq!(scene.sent.len(), 1, "that it was too soon is not forgotten");
    scene.answer(addr(1), Step::Bound, &KEY);
    scene.sent.clear();
    scene.now += Duration::from_secs(2);
    assert_eq!(doubt(&mut scene), 1);
    scene.now += Duration::from_secs(2);
    assert_eq!(doubt(&mut scene), 1);
}

#[test]
fn what_never_answered_gets_little_however_often_nothing_comes_through() {
    let mut scene = Scene::open(5);
    scene.pass(Duration::from_secs(30));
    scene.sent.clear();
    let (begun, minute) = (scene.now, Duration::from_secs(60));
    while scene.now < begun + minute {
        scene.relays.handle_doubt(scene.now);
        scene.drain();
        scene.pass(Duration::from_millis(100));
    }
    let to = scene.sent.iter().filter(|(to, _)| *to == addr(1)).count();
    assert!((10..=13).contains(&to), "{to} in a minute");
    // Nobody doubts any more.
    scene.sent.clear();
    scene.pass(minute);
    let to = scene.sent.iter().filter(|(to, _)| *to == addr(1)).count();
    assert!((1..=3).contains(&to), "{to} in a minute");
}

#[test]
fn a_broken_stream_leaves_what_udp_carries_until_the_session_ends() {
    let mut scene = Scene::open(5);
    scene.paired(BOB, PairState::Open);
    scene.bind(addr(1));
    scene.relays.handle_stream_closed(RELAY);
    scene.drain();
    assert_eq!(scene.ways(BOB).len(), 1);
    scene.pass(LIFETIME);
    assert!(scene.ways(BOB).is_empty() && scene.relays.table().is_empty());

    let mut scene = Scene::open(5);
    scene.paired(BOB, PairState::Open);
    scene.relays.handle_stream_closed(RELAY);
    scene.drain();
    assert!(scene.ways(BOB).is_empty(), "nothing carries it");
}

#[test]
fn a_new_stream_makes_new_channels_under_new_names() {
    let mut scene = Scene::open(5);
    scene.paired(BOB, PairState::Open);
    let before = scene.ways(BOB);
    scene.relays.handle_stream_closed(RELAY);
    scene.begin(6);
    assert!(scene.ways(BOB).is_empty());
    scene.paired(BOB, PairState::Open);
    assert_ne!(scene.ways(BOB), before);
    assert_eq!(scene.route().session, 6);
}

#[test]
fn only_who_may_be_talked_to_gets_a_channel() {
    let mut scene = Scene::open(5);
    let stranger = NodeId([66; 32]);
    scene.tell(RelayMessage::Wanted(Wanted { peer: stranger }));
    assert_eq!(scene.channel(stranger), None);
    scene.relays.set_peers([BOB, CAROL, stranger], scene.now);
    scene.drain();
    assert!(scene.channel(stranger).is_some(), "it is a member by now");
    scene.tell(RelayMessage::Wanted(Wanted { peer: CAROL }));
    scene.paired(CAROL, PairState::Open);
    assert_eq!(scene.ways(CAROL).len(), 1, "it called, so it is answered");
    assert_ne!(scene.channel(CAROL), scene.channel(BOB));
    scene.said.clear();
    scene.relays.set_peers([BOB], scene.now);
    scene.drain();
    assert!(scene.ways(CAROL).is_empty());
    assert!(matches!(
        scene.said[..],
        [
            RelayMessage::Unpair(Channel { .. }),
            RelayMessage::Unpair(Channel { .. })
        ]
    ));
}

#[test]
fn a_proof_that_comes_while_a_session_is_being_opened_is_shown_at_once() {
    let org = crate::roster::tests::Org::new();
    let rosters = org.node();
    let roster = rosters.roster(&crate::roster::tests::NETWORK).unwrap();
    let bearer = SecretKey::from_seed(&[2; 32]).node_id();
    let proof = Proof::of(roster, &bearer, true).unwrap();
    let mut scene = Scene::new();
    scene.relays.handle_stream(RELAY, scene.now);
    scene.relays.set_proofs(vec![proof.clone()], None);
    scene.drain();
    assert!(matches!(scene.said[..], [RelayMessage::Open(_)]));
    scene.said.clear();
    let opened = Opened {
        version: 1,
        session: 5,
        key: KEY,
        rate: None,
        ext: vec![],
    };
    scene.tell(RelayMessage::Opened(opened.clone()));
    let shown = |said: &[RelayMessage]| match said {
        [RelayMessage::Renew(renew)] => renew.proofs.clone(),
        _ => Vec::new(),
    };
    assert_eq!(shown(&scene.said), std::slice::from_ref(&proof));
    // The next stream begins with it.
    scene.relays.handle_stream_closed(RELAY);
    scene.relays.handle_stream(RELAY, scene.now);
    scene.said.clear();
    scene.tell(RelayMessage::Opened(opened));
    assert!(
        scene
            .said
            .iter()
            .all(|m| matches!(m, RelayMessage::Open(_)))
    );
}

#[test]
fn a_session_is_renewed_and_a_refusal_ends_it() {
    let mut scene = Scene::open(5);
    scene.paired(BOB, PairState::Open);
    scene.bind(addr(1));
    scene.said.clear();
    scene.pass(RENEW * 3 + Duration::from_secs(1));
    let renewals = scene.said.iter();
    let renewals = renewals.filter(|m| matches!(m, RelayMessage::Renew(_)));
    assert_eq!(renewals.count(), 3);
    scene.tell(RelayMessage::Refused(RelayRefused {
        reason: Reason::NotAMember,
        head: None,
    }));
    assert!(scene.ways(BOB).is_empty() && scene.relays.table().is_empty());
}

#[test]
fn a_refused_channel_is_asked_for_again() {
    let mut scene = Scene::open(5);
    scene.paired(BOB, PairState::Refused);
    scene.said.clear();
    scene.pass(Duration::from_secs(11));
    assert!(scene.channel(BOB).is_some());
    scene.paired(BOB, PairState::Open);
    assert_eq!(scene.ways(BOB).len(), 1);
}
