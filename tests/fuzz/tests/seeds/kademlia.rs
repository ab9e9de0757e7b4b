//! Answers of a server of the DHT.

use super::put;

pub(super) fn write() {
    let record = b"\x1a\x0c\x0a\x02kk\x12\x04once\x2a\x00";
    let peer = b"\x42\x05\x0a\x03abc";
    let framed = |message: &[&[u8]]| {
        let message = message.concat();
        let mut out = vec![u8::try_from(message.len()).unwrap()];
        out.extend(message);
        out
    };
    let begin = b"\x08\x01\x12\x02kk\x50\x0a";
    put("kademlia", "record", &framed(&[begin, record, peer]));
    put("kademlia", "no-record", &framed(&[begin, peer]));
    put("kademlia", "two-records", &framed(&[record, record]));
    put("kademlia", "cut", &framed(&[begin, record])[..15]);
    put(
        "kademlia",
        "every-kind",
        &framed(&[b"\x09", &[1; 8], b"\x0d", &[1; 4], record]),
    );
    put("kademlia", "groups", &framed(&[b"\x0b\x0c", record]));
    put(
        "kademlia",
        "field-of-2-64",
        &framed(&[b"\x1a", &[0xff; 9], b"\x01"]),
    );
    put(
        "kademlia",
        "length-of-2-64",
        &[&[0xff; 9][..], &[1]].concat(),
    );
}
