//! Fragments from a member: what is put together, and what is kept for it meanwhile.

use kanpachi_proto::tunnel::{
    FragmentHeader, Kind, LIFETIME_MS, MAX_HELD, MAX_OPEN, MAX_WHOLE, Reassembly,
};

/// Fragments that arrive one after the other, each behind a pause in 8 ms (1) and its length (2, little endian).
///
/// # Panics
/// When a whole is not made of pieces that were sent, or more is kept than may be.
pub fn reassembly(data: &[u8]) {
    let mut all = Reassembly::default();
    let mut sent: Vec<&[u8]> = Vec::new();
    let (mut rest, mut now_ms) = (data, 0);
    while let Some((&[pause, low, high], more)) = rest.split_first_chunk::<3>() {
        let len = usize::from(u16::from_le_bytes([low, high])).min(more.len());
        let fragment;
        (fragment, rest) = more.split_at(len);
        now_ms += u64::from(pause) * 8;
        let whole = all.add(fragment, now_ms);
        assert!(all.waiting() <= MAX_OPEN && all.held() <= MAX_HELD);
        if let Some((_, piece)) = FragmentHeader::decode(fragment) {
            sent.push(piece);
        }
        if let Some(whole) = whole {
            assert!(whole.kind != Kind::Fragment && whole.bytes.len() <= MAX_WHOLE);
            assert!(is_made_of(&whole.bytes, &sent), "nobody sent that");
        }
    }
    all.expire(now_ms + LIFETIME_MS);
    assert!(all.is_empty() && all.held() == 0);
    assert!(all.take_lost() <= sent.len() as u64 + data.len() as u64);
}

/// Can these bytes be laid out of the pieces? Every prefix that can is found, so that no order is overlooked.
fn is_made_of(bytes: &[u8], pieces: &[&[u8]]) -> bool {
    let mut reached = vec![false; bytes.len() + 1];
    reached[0] = true;
    for at in 0..bytes.len() {
        if reached[at] {
            for piece in pieces.iter().filter(|p| bytes[at..].starts_with(p)) {
                reached[at + piece.len()] = true;
            }
        }
    }
    reached[bytes.len()]
}
