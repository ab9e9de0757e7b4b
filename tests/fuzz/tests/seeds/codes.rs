//! Conversations of the short code.

use std::time::Instant;

use kanpachi_common::{
    NodeId, OrgId,
    wire::code::{CodeRefusal, CodeReply, CodeRequest, Element, Tag},
};
use kanpachi_proto::code::{Code, Door, Joiner, exchange::Ends};

use super::put;

pub(super) fn write() {
    let ends = Ends {
        org: OrgId([1; 32]),
        joiner: NodeId([3; 32]),
        host: NodeId([2; 32]),
    };
    let (_, start) = Joiner::start(&Code::from_random(&[8; 32]), ends, [7; 32]);
    let start = start.frame().to_bytes();
    let wrong = CodeRequest::Confirm(Tag([0x55; 32])).frame().to_bytes();
    let at = |side: u8, parts: &[&[u8]]| [&[side], &parts.concat()[..]].concat();
    put("code_session", "door-wrong-code", &at(0, &[&start, &wrong]));
    let tries = [&start[..], &wrong].concat().repeat(4);
    put("code_session", "door-four-wrong-codes", &at(0, &[&tries]));
    put(
        "code_session",
        "door-starts-only",
        &at(0, &[&start.repeat(5)]),
    );
    put(
        "code_session",
        "door-confirm-first",
        &at(0, &[&wrong, &start, &start]),
    );
    let odd = |min_version, org, element| {
        let start = CodeRequest::Start {
            min_version,
            max_version: u16::MAX,
            org: OrgId([org; 32]),
            element: Element(element),
        };
        start.frame().to_bytes()
    };
    let odd = [
        odd(1, 1, [0xff; 33]),
        odd(9, 1, [0; 33]),
        odd(1, 9, [0; 33]),
    ]
    .concat();
    put("code_session", "door-odd-starts", &at(0, &[&odd]));
    let now = Instant::now();
    let mut door = Door::new(ends.org, ends.host, [6; 32], now);
    let (_, start) = Joiner::start(door.code(), ends, [7; 32]);
    let from = [192, 0, 2, 1].into();
    let (_, element) = door.handle_start(from, ends.joiner, &start, now).unwrap();
    let element = element.frame().to_bytes();
    let invite = CodeReply::Invite {
        tag: Tag([0x55; 32]),
        sealed: vec![0x55; 200],
    };
    let invite = invite.frame().to_bytes();
    put(
        "code_session",
        "joiner-forged-invite",
        &at(1, &[&element, &invite]),
    );
    put("code_session", "joiner-invite-first", &at(1, &[&invite]));
    put(
        "code_session",
        "joiner-two-elements",
        &at(1, &[&element, &element]),
    );
    for (name, refusal) in [
        ("joiner-wrong", CodeRefusal::Wrong { left: 255 }),
        ("joiner-later", CodeRefusal::Later { ms: u32::MAX }),
    ] {
        let refused = CodeReply::Refused(refusal).frame().to_bytes();
        put("code_session", name, &at(1, &[&element, &refused]));
    }
}
