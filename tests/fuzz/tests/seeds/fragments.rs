//! Seeds of fragments: in order and not, too late, contradictory, too many.

use kanpachi_proto::tunnel::{FragmentHeader, Kind};

use super::put;

pub(super) fn write() {
    let fragment = |pause: u8, id: u32, index: u8, count: u8, piece: &[u8]| {
        let header = FragmentHeader {
            id,
            kind: Kind::Ip,
            index,
            count,
        };
        let fragment = [&header.encode()[..], piece].concat();
        let len = u16::try_from(fragment.len()).unwrap().to_le_bytes();
        [&[pause][..], &len, &fragment].concat()
    };
    let put = |name, all: &[Vec<u8>]| put("reassembly", name, &all.concat());
    let [a, b] = [fragment(0, 1, 0, 2, &[7; 60]), fragment(0, 1, 1, 2, b"end")];
    put("two-in-order", &[a.clone(), b.clone()]);
    put(
        "two-backwards-and-twice",
        &[b.clone(), b.clone(), a.clone(), a.clone()],
    );
    put("too-late", &[a.clone(), fragment(125, 1, 1, 2, b"end")]);
    put(
        "another-count",
        &[a.clone(), fragment(0, 1, 1, 3, b"end"), b.clone()],
    );
    put("place-8-of-8", &[fragment(0, 1, 8, 8, b"x"), a, b]);
    let eight = |id| (0..8).map(move |n| fragment(0, id, n, 8, &[n; 9]));
    put(
        "two-of-eight-mixed",
        &eight(1)
            .zip(eight(2))
            .flat_map(<[_; 2]>::from)
            .collect::<Vec<_>>(),
    );
    put(
        "seventy-unfinished",
        &(0..70)
            .map(|id| fragment(0, id, 0, 2, b"x"))
            .collect::<Vec<_>>(),
    );
    let long = |id| fragment(0, id, 0, 2, &[0; 9000]);
    put(
        "longer-than-a-packet",
        &[long(1), fragment(0, 1, 1, 2, &[0; 300])],
    );
}
