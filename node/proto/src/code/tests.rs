//! Both sides against each other, and against whoever does not keep to the rules.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use kanpachi_common::{
    NetworkId, NodeId, OrgId,
    invite::{Invite, InviteSecret},
    org::Address,
    roster::Position,
    wire::code::{CodeRefusal, CodeReply, CodeRequest, Element, Tag},
};
use proptest::prelude::*;

use super::{exchange::Ends, *};

const ORG: OrgId = OrgId([1; 32]);
const HOST: NodeId = NodeId([2; 32]);
const JOINER: NodeId = NodeId([3; 32]);
const OTHER: NodeId = NodeId([4; 32]);

fn from(n: u8) -> IpAddr {
    [192, 0, 2, n].into()
}

fn ends(joiner: NodeId, host: NodeId) -> Ends {
    Ends {
        org: ORG,
        joiner,
        host,
    }
}

fn link(org: OrgId) -> String {
    let invite = Invite {
        org,
        network: NetworkId([5; 32]),
        floor: Position::default(),
        secret: InviteSecret([6; 16]),
        addresses: vec![Address::new("192.0.2.1", 12975)],
        name: "lan".to_owned(),
    };
    invite.to_link()
}

struct Bench {
    door: Door,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            door: Door::new(ORG, HOST, [9; 32], now),
            now,
        }
    }

    /// One whole try with this code.
    fn try_code(&mut self, code: &Code, who: IpAddr) -> Result<String, Failure> {
        let (mut joiner, start) = Joiner::start(code, ends(JOINER, HOST), [7; 32]);
        let (id, element) = match self.door.handle_start(who, JOINER, &start, self.now) {
            Ok(answer) => answer,
            Err(refusal) => return joiner.handle_reply(&CodeReply::Refused(refusal)).map(done),
        };
        let Step::Send(confirm) = joiner.handle_reply(&element)? else {
            panic!("done too soon");
        };
        let reply = match self.door.handle_confirm(id, &confirm, self.now) {
            Ok(granted) => granted.seal(&link(ORG)),
            Err(refusal) => CodeReply::Refused(refusal),
        };
        joiner.handle_reply(&reply).map(done)
    }

    fn wrong(&mut self, who: IpAddr) -> Failure {
        let code = Code::from_random(&[0xfe; 32]);
        self.try_code(&code, who).unwrap_err()
    }

    fn new_code(&mut self) -> Option<Code> {
        let Event::NewCode(code, _) = self.door.poll_event()?;
        Some(code)
    }
}

fn done(step: Step) -> String {
    match step {
        Step::Done(link) => link.to_string(),
        Step::Send(message) => panic!("not done: {message:?}"),
    }
}

const fn wrong(left: u8) -> Failure {
    Failure::Refused(CodeRefusal::Wrong { left })
}

#[test]
fn whoever_knows_the_code_is_handed_the_invite() {
    let mut bench = Bench::new();
    let code = bench.door.code().clone();
    assert_eq!(bench.try_code(&code, from(1)), Ok(link(ORG)));
    // The code stays: the next machine may use it, too.
    assert_eq!(bench.try_code(&code, from(2)), Ok(link(ORG)));
}

#[test]
fn a_code_is_typed_as_people_type() {
    let code = Code::from_random(&[0x42; 32]);
    let text = code.text();
    assert_eq!(text.len(), 9);
    let loose = format!(" {} \n", text.to_lowercase().replace('-', " - "));
    assert_eq!(Code::parse(&loose), Ok(code.clone()));
    assert_eq!(Code::parse(&text.replace('-', "")), Ok(code));
    for bad in [
        "",
        "ACDE-346",
        "ACDE-34677",
        "ACDE-346O",
        "ACDE-346\u{e4}",
        "ACDE_3467",
    ] {
        assert_eq!(Code::parse(bad), Err(NotACode), "{bad}");
    }
}

#[test]
fn three_wrong_tries_make_a_new_code_and_the_old_one_is_refused() {
    let mut bench = Bench::new();
    let old = bench.door.code().clone();
    assert_eq!(bench.wrong(from(1)), wrong(2));
    assert_eq!(bench.wrong(from(2)), wrong(1));
    assert_eq!(bench.new_code(), None);
    assert_eq!(bench.wrong(from(3)), wrong(0));
    let new = bench.new_code().expect("a new code");
    assert_ne!(new, old);
    // A pause, in which nobody may try.
    assert_eq!(
        bench.try_code(&new, from(4)),
        Err(Failure::Refused(CodeRefusal::Later { ms: 1000 }))
    );
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.try_code(&old, from(4)), Err(wrong(2)));
    assert_eq!(bench.try_code(&new, from(4)), Ok(link(ORG)));
}

#[test]
fn the_pause_between_codes_grows_and_is_bounded() {
    let mut bench = Bench::new();
    let mut pauses = Vec::new();
    for round in 0..9 {
        for source in 0..3 {
            let _ = bench.wrong(from(round * 3 + source));
        }
        let Failure::Refused(CodeRefusal::Later { ms }) = bench.wrong(from(200)) else {
            panic!("no pause");
        };
        pauses.push(ms / 1000);
        bench.now += Duration::from_millis(u64::from(ms));
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    bench.now += Duration::from_secs(900);
    for source in 0..3 {
        let _ = bench.wrong(from(source));
    }
    let first = CodeRefusal::Later { ms: 1000 };
    assert_eq!(bench.wrong(from(9)), Failure::Refused(first));
}

#[test]
fn a_source_that_does_not_stop_keeps_nobody_else_out() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        let _ = bench.wrong(from(1));
    }
    bench.now += Duration::from_secs(1);
    // From now on it gets nowhere near the code, however often it comes.
    for _ in 0..10_000 {
        assert!(matches!(
            bench.wrong(from(1)),
            Failure::Refused(CodeRefusal::Later { .. })
        ));
    }
    let code = bench.new_code().expect("the first three made a new code");
    assert_eq!(bench.new_code(), None);
    assert_eq!(bench.try_code(&code, from(2)), Ok(link(ORG)));
    // Addresses of one IPv6 network are one source.
    let v6 = |n: u128| IpAddr::from(std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | n));
    for n in 0..3 {
        let _ = bench.wrong(v6(n));
    }
    bench.now += Duration::from_secs(2);
    assert!(matches!(
        bench.wrong(v6(99)),
        Failure::Refused(CodeRefusal::Later { .. })
    ));
}

#[test]
fn memory_does_not_grow_with_the_sources_of_wrong_tries() {
    let mut bench = Bench::new();
    for n in 0..2000u32 {
        let _ = bench.wrong(IpAddr::from(n.to_be_bytes()));
        bench.now += Duration::from_secs(61);
    }
    assert!(
        format!("{:?}", bench.door).contains("sources: 64"),
        "{:?}",
        bench.door
    );
    // Nobody read the events: only the newest code is kept.
    assert!(bench.new_code().is_some());
    assert_eq!(bench.new_code(), None);
}

#[test]
fn going_away_after_the_hosts_half_costs_a_try_and_before_it_none() {
    let mut bench = Bench::new();
    let (_, start) = Joiner::start(&Code::from_random(&[1; 32]), ends(JOINER, HOST), [7; 32]);
    let bad = CodeRequest::Start {
        min_version: 1,
        max_version: 1,
        org: ORG,
        element: Element([0xff; 33]),
    };
    for _ in 0..9 {
        let refused = bench.door.handle_start(from(1), JOINER, &bad, bench.now);
        assert_eq!(refused.map(drop), Err(CodeRefusal::Malformed));
    }
    let (id, _) = bench
        .door
        .handle_start(from(1), JOINER, &start, bench.now)
        .unwrap();
    // Meanwhile somebody else has to wait.
    assert_eq!(
        bench.wrong(from(2)),
        Failure::Refused(CodeRefusal::Later { ms: 300 })
    );
    bench.door.handle_gone(id, bench.now);
    let (_, _) = bench
        .door
        .handle_start(from(1), JOINER, &start, bench.now)
        .unwrap();
    let due = bench.door.poll_timeout().expect("a try has a limit");
    assert_eq!(due, bench.now + TRY_LIMIT);
    bench.now = due;
    assert_eq!(
        bench.wrong(from(2)),
        wrong(0),
        "one went away, one was too slow"
    );
}

#[test]
fn a_confirmation_out_of_place_is_a_wrong_try() {
    let mut bench = Bench::new();
    let (_, start) = Joiner::start(bench.door.code(), ends(JOINER, HOST), [7; 32]);
    let (id, _) = bench
        .door
        .handle_start(from(1), JOINER, &start, bench.now)
        .unwrap();
    let refused = bench
        .door
        .handle_confirm(id, &start, bench.now)
        .unwrap_err();
    assert_eq!(refused, CodeRefusal::Wrong { left: 2 });
    let confirm = CodeRequest::Confirm(Tag([0; 32]));
    let refused = bench
        .door
        .handle_start(from(1), JOINER, &confirm, bench.now);
    assert_eq!(refused.map(drop), Err(CodeRefusal::Malformed));
}

#[test]
fn who_stands_between_two_connections_has_two_keys() {
    // The right code at both ends, but each end is connected to the one in the middle.
    let mut bench = Bench::new();
    let code = bench.door.code().clone();
    let (mut joiner, start) = Joiner::start(&code, ends(JOINER, OTHER), [7; 32]);
    let (id, element) = bench
        .door
        .handle_start(from(1), OTHER, &start, bench.now)
        .unwrap();
    let Step::Send(confirm) = joiner.handle_reply(&element).unwrap() else {
        panic!("done too soon");
    };
    let refused = bench
        .door
        .handle_confirm(id, &confirm, bench.now)
        .unwrap_err();
    assert_eq!(refused, CodeRefusal::Wrong { left: 2 });
}

#[test]
fn a_host_that_does_not_know_the_code_gives_nothing() {
    let code = Code::from_random(&[1; 32]);
    let guess = Code::from_random(&[2; 32]);
    let (mut joiner, _) = Joiner::start(&code, ends(JOINER, HOST), [7; 32]);
    let (_, element) = exchange::host(&guess, &ends(JOINER, HOST), [8; 32]);
    joiner.handle_reply(&CodeReply::Element(element)).unwrap();
    let reply = CodeReply::Invite {
        tag: Tag([0; 32]),
        sealed: vec![0; 100],
    };
    assert_eq!(
        joiner.handle_reply(&reply).map(drop),
        Err(Failure::Impostor)
    );
    // It is over: nothing more is believed.
    assert_eq!(
        joiner.handle_reply(&reply).map(drop),
        Err(Failure::Malformed)
    );
}

#[test]
fn an_invite_without_the_hosts_own_proof_is_not_opened() {
    let mut bench = Bench::new();
    let code = bench.door.code().clone();
    let (mut joiner, start) = Joiner::start(&code, ends(JOINER, HOST), [7; 32]);
    let started = bench.door.handle_start(from(1), JOINER, &start, bench.now);
    let (id, element) = started.unwrap();
    let Step::Send(confirm) = joiner.handle_reply(&element).unwrap() else {
        panic!("done too soon");
    };
    let granted = bench.door.handle_confirm(id, &confirm, bench.now).unwrap();
    let CodeReply::Invite { sealed, .. } = granted.seal(&link(ORG)) else {
        panic!("no invite");
    };
    let reply = CodeReply::Invite {
        tag: Tag([0; 32]),
        sealed,
    };
    assert_eq!(
        joiner.handle_reply(&reply).map(drop),
        Err(Failure::Impostor)
    );
}

#[test]
fn an_invite_of_another_organisation_is_refused() {
    let mut bench = Bench::new();
    let code = bench.door.code().clone();
    let (mut joiner, start) = Joiner::start(&code, ends(JOINER, HOST), [7; 32]);
    let (id, element) = bench
        .door
        .handle_start(from(1), JOINER, &start, bench.now)
        .unwrap();
    let Step::Send(confirm) = joiner.handle_reply(&element).unwrap() else {
        panic!("done too soon");
    };
    let granted = bench.door.handle_confirm(id, &confirm, bench.now).unwrap();
    let reply = granted.seal(&link(OrgId([8; 32])));
    assert_eq!(
        joiner.handle_reply(&reply).map(drop),
        Err(Failure::Malformed)
    );
}

#[test]
fn versions_and_organisations_must_match() {
    let mut bench = Bench::new();
    let start = |min_version, org| CodeRequest::Start {
        min_version,
        max_version: 9,
        org,
        element: Element([0; 33]),
    };
    for (request, refusal) in [
        (start(2, ORG), CodeRefusal::Version),
        (start(1, OrgId([8; 32])), CodeRefusal::Organisation),
    ] {
        let refused = bench
            .door
            .handle_start(from(1), JOINER, &request, bench.now);
        assert_eq!(refused.map(drop), Err(refusal));
    }
}

proptest! {
    #[test]
    fn every_code_reads_back_and_uses_its_letters_only(random: [u8; 32]) {
        let code = Code::from_random(&random);
        let text = code.text();
        prop_assert!(text.bytes().all(|b| b == b'-' || ALPHABET.contains(&b)));
        prop_assert_eq!(Code::parse(&text), Ok(code));
    }
}
