//! The session with the coordinators in virtual time, against coordinators made of frames.

mod streams;

use kanpachi_common::{
    Candidate, CandidateKind, Pool, SecretKey, Signed, TunnelKey,
    org::Server,
    wire::control::{Announce, Nonce, Pull, Refused, Resting, Welcome, codes},
};

use super::*;

struct Org {
    root: SecretKey,
    signer: SecretKey,
}

impl Org {
    fn new(seed: u8) -> Self {
        Self {
            root: SecretKey::from_seed(&[seed; 32]),
            signer: SecretKey::from_seed(&[seed + 1; 32]),
        }
    }

    fn id(&self) -> OrgId {
        OrgId::of_root(&self.root.public_key())
    }

    fn welcome(&self, coordinator: NodeId) -> Frame {
        let manifest = Manifest {
            root: self.root.public_key(),
            generation: 1,
            signing_keys: vec![self.signer.public_key()],
            issued_at: UnixTime(1),
            ext: vec![],
        };
        let directory = Directory {
            org: self.id(),
            generation: 1,
            seq: 1,
            issued_at: UnixTime(1),
            pool: Pool::default(),
            coordinators: vec![Server {
                id: coordinator,
                addresses: vec![address(1)],
            }],
            bootstraps: vec![],
            ext: vec![],
        };
        let welcome = Welcome {
            version: 1,
            caps: 0,
            manifest: Signed::sign(&manifest, &self.root),
            directory: Signed::sign(&directory, &self.signer),
            time: UnixTime(1),
            registration: None,
            ext: vec![],
        };
        ServerMessage::Welcome(Box::new(welcome)).frame(0)
    }
}

const SERVER: NodeId = NodeId([9; 32]);

fn address(n: u16) -> Address {
    Address::new("203.0.113.1", n)
}

fn login(org: &Org, addresses: u16, now: Instant) -> Login {
    let identity = SecretKey::from_seed(&[7; 32]);
    let hello = Hello {
        min_version: 1,
        max_version: 1,
        caps: 0,
        client: "test".into(),
        org: org.id(),
        tunnel: TunnelKey::sign(&identity, &org.id(), 1, [1; 32]),
        boot: 1,
        held: vec![],
        candidates: vec![],
        nat: None,
        away: vec![],
        ext: vec![],
    };
    Login::new(
        org.id(),
        None,
        (1..=addresses).map(address).collect(),
        hello,
        [3; 32],
        now,
    )
}

fn dials(login: &mut Login) -> Vec<Attempt> {
    let dial = |action| {
        if let Action::Dial { attempt, .. } = action {
            Some(attempt)
        } else {
            None
        }
    };
    std::iter::from_fn(|| login.poll_action())
        .filter_map(dial)
        .collect()
}

fn events(login: &mut Login) -> Vec<Event> {
    std::iter::from_fn(|| login.poll_event()).collect()
}

/// Logs in; the login is live afterwards.
fn connect(login: &mut Login, org: &Org, now: Instant) -> Attempt {
    let attempt = dials(login)[0];
    login.handle_opened(attempt, SERVER, now);
    login.handle_frame(attempt, &org.welcome(SERVER), now);
    assert!(matches!(events(login)[..], [Event::Welcome(_)]));
    while login.poll_action().is_some() {}
    attempt
}

#[test]
fn coordinators_are_dialled_a_quarter_second_apart_and_the_first_welcome_wins() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 3, start);
    let mut all = dials(&mut login);
    assert_eq!(all.len(), 1);
    for step in 1..=2 {
        assert_eq!(login.poll_timeout(), start + STAGGER * step);
        login.handle_timeout(start + STAGGER * step);
        all.extend(dials(&mut login));
    }
    assert_eq!(all.len(), 3);
    login.handle_opened(all[1], SERVER, start);
    login.handle_frame(all[1], &org.welcome(SERVER), start);
    assert!(matches!(
        login.state(),
        State::Connected { server: SERVER, .. }
    ));
    let closed: Vec<_> = std::iter::from_fn(|| login.poll_action())
        .filter_map(|a| {
            if let Action::Close(attempt) = a {
                Some(attempt)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(closed, [all[0], all[2]]);
}

#[test]
fn a_coordinator_that_falls_silent_is_unreachable_within_ten_seconds() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 1, start);
    connect(&mut login, &org, start);
    let mut now = start;
    while matches!(login.state(), State::Connected { .. }) {
        now = login.poll_timeout();
        login.handle_timeout(now);
    }
    assert!(now - start <= Duration::from_secs(10), "{:?}", now - start);
    assert!(matches!(
        events(&mut login)[..],
        [Event::Unreachable(Trouble::Silent(_))]
    ));
}

#[test]
fn a_coordinator_that_answers_stays_connected_for_an_hour() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 1, start);
    let attempt = connect(&mut login, &org, start);
    let (mut pings, mut rests) = (0, 0);
    let mut now = start;
    while now < start + Duration::from_secs(3600) {
        now = login.poll_timeout();
        login.handle_timeout(now);
        for message in said(&mut login) {
            match message {
                ClientMessage::Ping(_) => {
                    pings += 1;
                    answer(&mut login, attempt, now + Duration::from_millis(40));
                }
                ClientMessage::Resting(Resting(ms)) => {
                    assert_eq!(ms, REST_MS);
                    rests += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(matches!(login.state(), State::Connected { .. }));
    // A minute as often as ever, and then nobody looks.
    assert_eq!(rests, 1);
    assert!((145..=152).contains(&pings), "{pings}");
}

fn said(login: &mut Login) -> Vec<ClientMessage> {
    let mut out = Vec::new();
    while let Some(Action::Send { frame, .. }) = login.poll_action() {
        out.push(ClientMessage::from_frame(&frame).unwrap());
    }
    out
}

fn answer(login: &mut Login, attempt: Attempt, now: Instant) {
    login.handle_frame(attempt, &ServerMessage::Pong(Nonce(0)).frame(0), now);
}

/// A session that nobody has looked at for so long that it rests, a while after the last sign of life.
fn at_rest(org: &Org, start: Instant) -> (Login, Attempt, Instant) {
    let mut login = login(org, 1, start);
    let attempt = connect(&mut login, org, start);
    let mut now = start;
    while now < start + Duration::from_secs(120) {
        now = login.poll_timeout();
        login.handle_timeout(now);
        if !said(&mut login).is_empty() {
            answer(&mut login, attempt, now);
        }
    }
    assert_eq!(login.poll_timeout(), now + PING_AT_REST);
    (login, attempt, now + PING_AT_REST - Duration::from_secs(1))
}

#[test]
fn whoever_looks_is_told_when_the_coordinator_has_been_asked() {
    let (org, start) = (Org::new(1), Instant::now());
    let (mut login, attempt, now) = at_rest(&org, start);
    assert!(!login.look(now), "it claims what it does not know");
    let said = said(&mut login);
    assert!(
        matches!(
            said[..],
            [
                ClientMessage::Resting(Resting(0)),
                ClientMessage::Ping(Nonce(_))
            ]
        ),
        "{said:?}"
    );
    let answered = now + Duration::from_millis(30);
    assert!(!login.is_sure(answered));
    answer(&mut login, attempt, answered);
    assert!(login.is_sure(answered) && login.look(answered));
    assert_eq!(login.poll_timeout(), answered + PING);
}

#[test]
fn whoever_looks_at_a_dead_coordinator_is_told_so_within_four_seconds() {
    let (org, start) = (Org::new(1), Instant::now());
    let (mut login, _, looked) = at_rest(&org, start);
    assert!(!login.look(looked));
    let mut now = looked;
    while !login.is_sure(now) {
        now = login.poll_timeout();
        login.handle_timeout(now);
    }
    assert!(matches!(login.state(), State::Unreachable { .. }));
    assert!(now - looked <= Duration::from_secs(4), "{:?}", now - looked);
}

#[test]
fn nobody_waits_who_looks_while_the_last_word_is_new() {
    let (org, start) = (Org::new(1), Instant::now());
    let (mut login, attempt, now) = at_rest(&org, start);
    answer(&mut login, attempt, now);
    let later = now + Duration::from_secs(3);
    assert!(login.look(later));
    assert_eq!(login.poll_timeout(), now + PING);
}

#[test]
fn a_coordinator_that_speaks_is_not_asked() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 1, start);
    let attempt = connect(&mut login, &org, start);
    for second in 1..60 {
        let now = start + Duration::from_secs(second * 3);
        login.handle_timeout(now);
        assert!(login.poll_action().is_none(), "asked after {second} words");
        login.handle_frame(attempt, &ServerMessage::Pong(Nonce(0)).frame(0), now);
    }
}

#[test]
fn waits_grow_to_eight_seconds_and_no_further() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 1, start);
    let (mut now, mut rounds) = (start, 0);
    let mut longest = Duration::ZERO;
    while rounds < 20 {
        for attempt in dials(&mut login) {
            login.handle_failed(attempt, "refused".into(), now);
            rounds += 1;
        }
        longest = longest.max(login.poll_timeout() - now);
        now = login.poll_timeout();
        login.handle_timeout(now);
    }
    assert!(longest <= MAX_BACKOFF, "{longest:?}");
    assert!(longest > MAX_BACKOFF / 2);
    let State::Unreachable { since, .. } = login.state() else {
        panic!("not unreachable")
    };
    assert_eq!(since, start, "since the first failure, not the last");
}

#[test]
fn a_coordinator_may_ask_for_a_longer_wait_but_not_for_ever() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 1, start);
    let attempt = dials(&mut login)[0];
    login.handle_opened(attempt, SERVER, start);
    let refused = Refused {
        code: codes::BUSY,
        message: "busy".into(),
        retry_ms: Some(u64::MAX),
    };
    login.handle_frame(attempt, &ServerMessage::Refused(refused).frame(0), start);
    assert_eq!(login.poll_timeout() - start, MAX_ASKED);
}

#[test]
fn another_organisation_at_the_address_is_refused_by_name() {
    let (org, other, start) = (Org::new(1), Org::new(50), Instant::now());
    let mut login = login(&org, 1, start);
    let attempt = dials(&mut login)[0];
    login.handle_opened(attempt, SERVER, start);
    login.handle_frame(attempt, &other.welcome(SERVER), start);
    assert!(matches!(
        events(&mut login)[..],
        [Event::Unreachable(Trouble::OtherOrganisation(_))]
    ));
}

#[test]
fn stolen_papers_do_not_make_a_coordinator() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 1, start);
    let attempt = dials(&mut login)[0];
    // Somebody else shows the organisation's manifest and directory, which anybody can get.
    login.handle_opened(attempt, NodeId([66; 32]), start);
    login.handle_frame(attempt, &org.welcome(SERVER), start);
    assert!(matches!(
        events(&mut login)[..],
        [Event::Unreachable(Trouble::NotACoordinator(_))]
    ));
}

#[test]
fn nothing_but_a_welcome_begins_a_session() {
    let (org, start) = (Org::new(1), Instant::now());
    let frames = [
        ServerMessage::Ping(Nonce(1)).frame(0),
        Frame {
            kind: 999,
            id: 0,
            critical: true,
            body: vec![],
        },
        Frame {
            kind: 1,
            id: 0,
            critical: false,
            body: vec![0xff; 40],
        },
    ];
    for frame in frames {
        let mut login = login(&org, 1, start);
        let attempt = dials(&mut login)[0];
        login.handle_opened(attempt, SERVER, start);
        login.handle_frame(attempt, &frame, start);
        assert!(matches!(
            events(&mut login)[..],
            [Event::Unreachable(Trouble::Protocol { .. })]
        ));
    }
}

#[test]
fn late_news_of_a_dead_attempt_changes_nothing() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 2, start);
    let first = dials(&mut login)[0];
    login.handle_failed(first, "refused".into(), start);
    connect(&mut login, &org, start);
    login.handle_failed(first, "again".into(), start);
    login.handle_frame(first, &org.welcome(SERVER), start);
    login.handle_garbage(first, "noise".into(), start);
    assert!(matches!(login.state(), State::Connected { .. }));
    assert!(events(&mut login).is_empty());
}

#[test]
fn a_request_without_a_session_is_refused_at_once() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 1, start);
    assert_eq!(login.request(&ClientMessage::Ping(Nonce(1))), None);
    connect(&mut login, &org, start);
    let (a, b) = (
        login.request(&ClientMessage::Ping(Nonce(1))),
        login.request(&ClientMessage::Ping(Nonce(1))),
    );
    assert!(a.is_some() && b.is_some() && a != b);
}

/// Pings sent so far, and whether the session still lives.
fn pings(login: &mut Login, now: Instant) -> usize {
    login.handle_timeout(now);
    let sent = std::iter::from_fn(|| login.poll_action());
    sent.filter(|action| matches!(action, Action::Send { .. }))
        .count()
}

#[test]
fn on_another_network_a_dead_session_is_noticed_within_three_seconds() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 1, start);
    connect(&mut login, &org, start);
    login.handle_network_change(start);
    let (mut now, mut sent) = (start, 0);
    while matches!(login.state(), State::Connected { .. }) {
        now = login.poll_timeout();
        sent += pings(&mut login, now);
    }
    assert!(now - start <= Duration::from_secs(3), "{:?}", now - start);
    assert_eq!(sent, 5);
}

#[test]
fn on_another_network_one_answer_is_enough() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 1, start);
    let attempt = connect(&mut login, &org, start);
    login.handle_network_change(start);
    assert_eq!(login.poll_timeout(), start);
    assert_eq!(pings(&mut login, start), 1);
    let answered = start + Duration::from_millis(40);
    login.handle_frame(attempt, &ServerMessage::Pong(Nonce(0)).frame(0), answered);
    assert_eq!(login.poll_timeout(), answered + PING);
    assert!(matches!(login.state(), State::Connected { .. }));
}

#[test]
fn where_a_node_is_is_said_once_and_never_faster_than_a_coordinator_listens() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 1, start);
    let attempt = connect(&mut login, &org, start);
    let place = |n: u16| Announce {
        candidates: vec![Candidate {
            addr: ([203, 0, 113, 7], n).into(),
            kind: CandidateKind::Reflexive,
        }],
        nat: None,
    };
    let said = |login: &mut Login| {
        let mut said = Vec::new();
        while let Some(Action::Send { frame, .. }) = login.poll_action() {
            if let Ok(ClientMessage::Announce(announce)) = ClientMessage::from_frame(&frame) {
                said.push(announce.candidates[0].addr.port());
            }
        }
        said
    };
    // A machine that changes its mind four times a second for half a minute.
    let (mut now, mut all) = (start, Vec::new());
    for n in 1..=120 {
        login.announce(place(n), now);
        login.announce(place(n), now);
        all.extend(said(&mut login).into_iter().map(|port| (now, port)));
        now += Duration::from_millis(250);
        if login.poll_timeout() <= now {
            login.handle_timeout(now);
            all.extend(said(&mut login).into_iter().map(|port| (now, port)));
        }
        login.handle_frame(attempt, &ServerMessage::Pong(Nonce(0)).frame(0), now);
    }
    let ports: Vec<u16> = all.iter().map(|(_, port)| *port).collect();
    assert_eq!(ports[..5], [1, 2, 3, 4, 5], "the first are said at once");
    assert!(ports.windows(2).all(|pair| pair[0] < pair[1]), "{ports:?}");
    assert!((30..=42).contains(&all.len()), "{}", all.len());
    // The last word is said, whenever that may be.
    while login.poll_timeout() <= start + Duration::from_secs(33) && all.last().unwrap().1 != 120 {
        now = now.max(login.poll_timeout());
        login.handle_timeout(now);
        all.extend(said(&mut login).into_iter().map(|port| (now, port)));
    }
    assert_eq!(all.last().unwrap().1, 120);
}

/// What is said from now on: the time of each message, and whether it is a pull.
fn note_said(login: &mut Login, now: Instant, all: &mut Vec<(Instant, bool)>) {
    while let Some(action) = login.poll_action() {
        let Action::Send { frame, .. } = action else {
            continue;
        };
        match ClientMessage::from_frame(&frame) {
            Ok(ClientMessage::Pull(_)) => all.push((now, true)),
            Ok(ClientMessage::Announce(_)) => all.push((now, false)),
            _ => {}
        }
    }
}

#[test]
fn members_that_claim_news_without_end_do_not_use_up_what_a_coordinator_listens_to() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 1, start);
    let attempt = connect(&mut login, &org, start);
    let (mut now, mut all) = (start, Vec::new());
    // A hundred claims a second for a minute, and now and then this node is somewhere else.
    for n in 0..6000_u16 {
        login.pull(Pull { held: vec![] }, now);
        if n % 500 == 0 {
            let candidates = vec![Candidate {
                addr: ([203, 0, 113, 7], n + 1).into(),
                kind: CandidateKind::Reflexive,
            }];
            let nat = None;
            login.announce(Announce { candidates, nat }, now);
            note_said(&mut login, now, &mut all);
            assert_eq!(all.last(), Some(&(now, false)), "it is said at once");
        }
        now += Duration::from_millis(10);
        if login.poll_timeout() <= now {
            login.handle_timeout(now);
        }
        note_said(&mut login, now, &mut all);
        login.handle_frame(attempt, &ServerMessage::Pong(Nonce(0)).frame(0), now);
    }
    let pulls: Vec<Instant> = all.iter().filter(|(_, p)| *p).map(|(at, _)| *at).collect();
    assert!((20..=26).contains(&pulls.len()), "{}", pulls.len());
    assert!(
        pulls[1] < start + Duration::from_secs(1),
        "the first at once"
    );
    // As the coordinator counts: 20 at once and one a second, and then the session ends.
    for (n, (at, _)) in all.iter().enumerate() {
        let within = all[n..]
            .iter()
            .take_while(|(t, _)| *t < *at + Duration::from_secs(10));
        assert!(within.count() <= 20, "after {:?}", *at - start);
    }
    // The last claim is not forgotten.
    login.pull(Pull { held: vec![] }, now);
    let before = pulls.len();
    login.handle_timeout(now + Duration::from_secs(3));
    note_said(&mut login, now, &mut all);
    assert_eq!(all.iter().filter(|(_, p)| *p).count(), before + 1);
}
