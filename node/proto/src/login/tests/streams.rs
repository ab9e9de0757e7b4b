//! Several streams: to one coordinator, and to two.

use super::*;

/// The hellos and the goodbyes that were said, in order.
fn greeted(login: &mut Login) -> (Vec<Attempt>, Vec<Attempt>) {
    let (mut hellos, mut closed) = (Vec::new(), Vec::new());
    while let Some(action) = login.poll_action() {
        match action {
            Action::Send { attempt, frame } => {
                assert!(matches!(
                    ClientMessage::from_frame(&frame),
                    Ok(ClientMessage::Hello(_))
                ));
                hellos.push(attempt);
            }
            Action::Close(attempt) => closed.push(attempt),
            Action::Dial { .. } => {}
        }
    }
    (hellos, closed)
}

/// Two attempts, both of which have reached the same coordinator.
fn reached_twice(org: &Org, start: Instant) -> (Login, Attempt, Attempt) {
    let mut login = login(org, 2, start);
    let first = dials(&mut login)[0];
    login.handle_timeout(start + STAGGER);
    let second = dials(&mut login)[0];
    login.handle_opened(second, SERVER, start + STAGGER);
    login.handle_opened(first, SERVER, start + STAGGER);
    assert_eq!(
        greeted(&mut login),
        (vec![second], vec![]),
        "one hello only"
    );
    (login, first, second)
}

/// To a coordinator a second hello is a machine that has logged in again: it ends the first session.
#[test]
fn a_coordinator_that_is_reached_twice_is_told_the_hello_once() {
    let (org, start) = (Org::new(1), Instant::now());
    let (mut login, first, second) = reached_twice(&org, start);
    login.handle_frame(second, &org.welcome(SERVER), start + STAGGER);
    assert_eq!(greeted(&mut login), (vec![], vec![first]));
    assert!(matches!(login.state(), State::Connected { .. }));
}

#[test]
fn another_stream_to_a_coordinator_takes_over_when_the_first_is_lost() {
    let (org, start) = (Org::new(1), Instant::now());
    let (mut login, first, second) = reached_twice(&org, start);
    login.handle_failed(second, "reset".into(), start + STAGGER);
    assert_eq!(greeted(&mut login), (vec![first], vec![second]));
    // It has as long as the one before it, however long it was held.
    let (mut login, first, second) = reached_twice(&org, start);
    let end = start + STAGGER + ATTEMPT;
    assert_eq!(login.poll_timeout(), end);
    login.handle_timeout(end);
    assert_eq!(greeted(&mut login), (vec![first], vec![second]));
    assert_eq!(login.poll_timeout(), end + ATTEMPT);
    login.handle_frame(first, &org.welcome(SERVER), end + Duration::from_secs(5));
    assert!(matches!(login.state(), State::Connected { .. }));
}

#[test]
fn what_a_coordinator_refuses_it_is_not_asked_again_over_another_stream() {
    let (org, start) = (Org::new(1), Instant::now());
    let (mut login, first, second) = reached_twice(&org, start);
    let refused = Refused {
        code: codes::BUSY,
        message: "busy".into(),
        retry_ms: Some(9000),
    };
    let frame = ServerMessage::Refused(refused).frame(0);
    login.handle_frame(second, &frame, start + STAGGER);
    assert_eq!(greeted(&mut login), (vec![], vec![second, first]));
    assert_eq!(
        login.poll_timeout(),
        start + STAGGER + Duration::from_secs(9)
    );
}

#[test]
fn two_coordinators_are_asked_at_once() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 2, start);
    let first = dials(&mut login)[0];
    login.handle_timeout(start + STAGGER);
    let second = dials(&mut login)[0];
    login.handle_opened(first, SERVER, start);
    login.handle_opened(second, NodeId([10; 32]), start);
    assert_eq!(greeted(&mut login).0, [first, second]);
}

/// A coordinator keeps two streams of one node and closes the oldest: the one that was told the hello.
#[test]
fn a_third_stream_to_a_coordinator_is_closed_and_a_refusal_on_one_that_waits_ends_only_that() {
    let (org, start) = (Org::new(1), Instant::now());
    let mut login = login(&org, 3, start);
    let mut all = dials(&mut login);
    for step in 1..=2 {
        login.handle_timeout(start + STAGGER * step);
        all.extend(dials(&mut login));
    }
    let opened = start + STAGGER * 2;
    for attempt in &all {
        login.handle_opened(*attempt, SERVER, opened);
    }
    assert_eq!(greeted(&mut login), (vec![all[0]], vec![all[2]]));
    let refused = Refused {
        code: codes::REPLACED,
        message: "too many".into(),
        retry_ms: None,
    };
    let frame = ServerMessage::Refused(refused).frame(0);
    login.handle_frame(all[1], &frame, opened);
    assert_eq!(greeted(&mut login), (vec![], vec![all[1]]));
    assert!(events(&mut login).is_empty(), "nobody is told");
    login.handle_frame(all[0], &org.welcome(SERVER), opened);
    assert!(matches!(login.state(), State::Connected { .. }));
}
