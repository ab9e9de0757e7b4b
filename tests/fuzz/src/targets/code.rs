//! Joining by code: any bytes at the host's door, and any answers to who joins.

use std::time::{Duration, Instant};

use kanpachi_common::{
    NodeId, OrgId,
    wire::{
        code::{CodeReply, CodeRequest, MAX},
        frame::{Frame, FrameReader},
    },
};
use kanpachi_proto::code::{Code, Door, Joiner, Step, exchange::Ends};

const ENDS: Ends = Ends {
    org: OrgId([1; 32]),
    joiner: NodeId([3; 32]),
    host: NodeId([2; 32]),
};

fn frames(data: &[u8]) -> Vec<Frame> {
    let mut reader = FrameReader::new(MAX);
    reader.extend(data);
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = reader.next_frame() {
        frames.push(frame);
    }
    frames
}

/// The first byte says which side the rest goes to.
///
/// # Panics
/// When a stranger is granted something, keeps others out, or an answer is accepted that no host gave.
pub fn code_session(data: &[u8]) {
    match data.split_first() {
        Some((0, rest)) => at_the_door(&frames(rest)),
        Some((_, rest)) => at_who_joins(&frames(rest)),
        None => {}
    }
}

fn at_the_door(frames: &[Frame]) {
    let mut now = Instant::now();
    let mut door = Door::new(ENDS.org, ENDS.host, [9; 32], now);
    let from = [192, 0, 2, 1].into();
    let mut trying = None;
    for frame in frames {
        let Ok(request) = CodeRequest::from_frame(frame) else {
            if let Some(id) = trying.take() {
                door.handle_gone(id, now);
            }
            continue;
        };
        assert_eq!(
            CodeRequest::from_frame(&request.frame()).as_ref(),
            Ok(&request)
        );
        if let Some(id) = trying.take() {
            let granted = door.handle_confirm(id, &request, now);
            assert!(granted.is_err(), "granted without the code");
        } else if let Ok((id, reply)) = door.handle_start(from, ENDS.joiner, &request, now) {
            assert!(CodeReply::from_frame(&reply.frame()).is_ok());
            trying = Some(id);
        }
        while door.poll_event().is_some() {}
    }
    // Whatever came: after the pauses, whoever knows the code gets in.
    now += Duration::from_secs(120);
    let code = {
        door.handle_timeout(now);
        now += Duration::from_secs(120);
        door.code().clone()
    };
    let (mut joiner, start) = Joiner::start(&code, ENDS, [7; 32]);
    let other = [192, 0, 2, 2].into();
    let (id, element) = door
        .handle_start(other, ENDS.joiner, &start, now)
        .expect("its turn");
    let Ok(Step::Send(confirm)) = joiner.handle_reply(&element) else {
        panic!("the element is not taken");
    };
    assert!(door.handle_confirm(id, &confirm, now).is_ok(), "kept out");
}

fn at_who_joins(frames: &[Frame]) {
    let (mut joiner, _) = Joiner::start(&Code::from_random(&[5; 32]), ENDS, [7; 32]);
    for frame in frames {
        let Ok(reply) = CodeReply::from_frame(frame) else {
            return;
        };
        assert_eq!(CodeReply::from_frame(&reply.frame()).as_ref(), Ok(&reply));
        match joiner.handle_reply(&reply) {
            Ok(Step::Send(_)) => {}
            Ok(Step::Done(_)) => panic!("an invite from nowhere"),
            Err(_) => return,
        }
    }
}
