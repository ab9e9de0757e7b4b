//! Streams: frames, and the messages in them.

use kanpachi_common::wire::{
    code::{self, CodeReply, CodeRequest},
    control::{ClientMessage, ServerMessage},
    frame::{Frame, FrameReader, MAX_REPLY, MAX_REQUEST},
    kademlia,
    mirror::{self, MirrorReply, MirrorRequest},
    relay::{self, RelayMessage, data_channel},
};

/// All frames that come out of a stream that arrives in pieces of this size, until it ends or cannot be read.
fn read(data: &[u8], max: usize, piece: usize) -> Vec<Frame> {
    let mut reader = FrameReader::new(max);
    let mut frames = Vec::new();
    for part in data.chunks(piece) {
        reader.extend(part);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}

/// A stream of frames: however it is cut, the same comes out, and nothing longer than allowed.
///
/// # Panics
/// When that does not hold.
pub fn frames(data: &[u8]) {
    let whole = read(data, MAX_REQUEST, data.len().max(1));
    assert_eq!(whole, read(data, MAX_REQUEST, 7));
    for frame in &whole {
        assert!(frame.body.len() <= MAX_REQUEST);
        let again = read(&frame.to_bytes(), MAX_REQUEST + 64, 1024);
        assert_eq!(again, std::slice::from_ref(frame));
    }
    let short = read(data, 64, 33);
    assert!(short.iter().all(|frame| frame.body.len() <= 64));
}

/// Messages of all conversations: what is read can be written and read again.
///
/// # Panics
/// When that does not hold.
pub fn messages(data: &[u8]) {
    for frame in read(data, MAX_REPLY, 4096) {
        if let Ok(message) = ClientMessage::from_frame(&frame) {
            let again = message.frame(frame.id);
            let back = ClientMessage::from_frame(&again).expect("it was read before");
            assert_eq!(back.frame(frame.id), again);
        }
        if let Ok(message) = ServerMessage::from_frame(&frame) {
            let again = message.frame(frame.id);
            let back = ServerMessage::from_frame(&again).expect("it was read before");
            assert_eq!(back.frame(frame.id), again);
        }
    }
    for frame in read(data, code::MAX, 4096) {
        if let Ok(message) = CodeRequest::from_frame(&frame) {
            assert_eq!(CodeRequest::from_frame(&message.frame()), Ok(message));
        }
        if let Ok(message) = CodeReply::from_frame(&frame) {
            assert_eq!(CodeReply::from_frame(&message.frame()), Ok(message));
        }
    }
    for frame in read(data, relay::MAX, 4096) {
        if let Ok(message) = RelayMessage::from_frame(&frame) {
            let again = message.frame(frame.id);
            let back = RelayMessage::from_frame(&again).expect("it was read before");
            assert_eq!(back.frame(frame.id), again);
        }
        if let Some(channel) = data_channel(&frame) {
            assert_eq!(u64::from(channel), frame.id);
        }
    }
    for frame in read(data, mirror::MAX, 4096) {
        if let Ok(message) = MirrorRequest::from_frame(&frame) {
            assert_eq!(MirrorRequest::from_frame(&message.frame()), Ok(message));
        }
        if let Ok(message) = MirrorReply::from_frame(&frame) {
            assert_eq!(MirrorReply::from_frame(&message.frame()), Ok(message));
        }
    }
}

/// What a server of the DHT answers, read as it comes in.
///
/// # Panics
/// When an answer is longer than it may be, or a value than its answer.
pub fn kademlia(data: &[u8]) {
    let Ok(Some((length, begin))) = kademlia::length(data) else {
        return;
    };
    assert!(length <= kademlia::MAX_ANSWER && begin <= 3);
    let answer = data.get(begin..).unwrap_or_default();
    for answer in [answer, answer.get(..length).unwrap_or_default()] {
        if let Ok(Some(value)) = kademlia::value(answer) {
            assert!(value.len() < answer.len(), "a value out of nothing");
        }
    }
}
