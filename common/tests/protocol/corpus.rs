//! Every decoder against a committed corpus and deterministic damage to it: no panic, no memory because a header asked
//! for it, and nothing accepted that was not signed.
//!
//! `tests/corpus/DECODER/FILE` are inputs that are accepted as they are; `tests/corpus/any/FILE` are inputs that are
//! never accepted and go to all decoders. After a change of format write the files anew:
//! `cargo test -p kanpachi-common --test protocol -- --ignored`.

use std::{fs, path::PathBuf};

use kanpachi_common::cbor;

use crate::{
    decoders::{self, Decoder},
    fixture::*,
    memory, messages,
    mutate::Damage,
    relays,
};

/// Damaged copies of each file.
const ROUNDS: usize = if cfg!(debug_assertions) { 60 } else { 500 };
/// Most memory that one list may reserve before its elements have arrived, in bytes (serde's bound), with room for what
/// the inputs themselves need.
const MAX_ALLOCATION: usize = 2 << 20;

fn corpus(folder: &str) -> Vec<(String, Vec<u8>)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let mut files: Vec<_> = fs::read_dir(&path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} is empty");
    files
}

fn replay(folder: &str, decode: Decoder) {
    let (good, hostile) = (corpus(folder), corpus("any"));
    for (name, bytes) in &good {
        assert!(decode(bytes), "{folder}/{name} is not accepted");
        let mut damage = Damage::of(&format!("{folder}/{name}"));
        for round in 0..ROUNDS {
            let (_, lender) = &hostile[round % hostile.len()];
            decode(&damage.apply(bytes, lender));
        }
        for end in 0..bytes.len() {
            // A stream that is cut may have had whole frames; there is one in each of these files.
            assert!(
                !decode(&bytes[..end]),
                "{folder}/{name} cut at {end} is accepted"
            );
        }
    }
    for (name, bytes) in &hostile {
        assert!(!decode(bytes), "any/{name} is accepted as {folder}");
    }
    let largest = memory::largest();
    assert!(
        largest <= MAX_ALLOCATION,
        "{largest} bytes at once in {folder}"
    );
}

macro_rules! replays {
    ($($test:ident: $($folder:literal)*;)*) => {
        $(#[test]
        fn $test() {
            for folder in [$($folder),*] {
                let (_, decode) = decoders::ALL.iter().find(|(name, _)| *name == folder).unwrap();
                replay(folder, *decode);
            }
        })*

        #[test]
        fn every_decoder_is_replayed() {
            let replayed = [$($($folder),*),*];
            assert!(decoders::ALL.iter().all(|(name, _)| replayed.contains(name)));
        }
    };
}

replays! {
    invites: "invite" "invite-body";
    messages_of_nodes: "client";
    messages_of_coordinators: "server";
    mirror_messages: "mirror-request" "mirror-reply";
    messages_of_members: "member";
    relay_messages: "relay";
    code_messages: "code-request" "code-reply";
    organisation: "manifest" "directory";
    heads_and_suspensions: "head" "suspend";
    records: "peer-record" "outer-record";
    proofs: "proof";
    rosters: "roster" "page";
    deltas: "delta";
    public_rosters: "public-roster";
}

#[test]
fn payloads_of_whoever_holds_a_key() {
    let hostile = corpus("any");
    for (name, bytes) in payloads() {
        let mut damage = Damage::of(name);
        decoders::signed_by_a_trusted_key(&bytes);
        for round in 0..ROUNDS {
            let (_, lender) = &hostile[round % hostile.len()];
            decoders::signed_by_a_trusted_key(&damage.apply(&bytes, lender));
        }
    }
    for (_, bytes) in &hostile {
        decoders::signed_by_a_trusted_key(bytes);
    }
}

fn payloads() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("manifest", manifest().payload),
        ("directory", directory().payload),
        ("head", head5().payload),
        ("suspend", suspend().payload),
        ("peer-record", peer_record().payload),
        ("outer-record", outer_record().payload),
        ("tunnel-key", cbor::encode(&tunnel_key(2))),
    ]
}

/// Inputs that no decoder accepts, and what they try.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let long = |head: u8| [&[head][..], &[0xff; 8], b"x"].concat();
    let framed = |body: &[u8]| {
        let len = u32::try_from(body.len()).unwrap();
        [&len.to_be_bytes(), body].concat()
    };
    vec![
        ("empty", vec![]),
        ("zeros", vec![0; 64]),
        ("ones", vec![0xff; 64]),
        ("bytes-of-2-64", long(0x5b)),
        ("text-of-2-64", long(0x7b)),
        ("list-of-2-64", long(0x9b)),
        ("map-of-2-64", long(0xbb)),
        ("list-of-2-32", vec![0x9a, 0xff, 0xff, 0xff, 0xff, 0xa0]),
        ("lists-in-lists", vec![0x81; 5000]),
        ("endless-lists", vec![0x9f; 5000]),
        ("tags-on-tags", vec![0xc1; 5000]),
        (
            "endless-bytes",
            [&[0x5f][..], &[0x41, 0x00].repeat(2000)].concat(),
        ),
        ("break", vec![0xff]),
        (
            "reserved-heads",
            vec![0x1c, 0x3d, 0x5e, 0x7c, 0x9d, 0xbe, 0xdc, 0xfc],
        ),
        ("not-a-number", vec![0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0]),
        ("not-utf-8", vec![0x63, 0xff, 0xfe, 0xfd]),
        ("key-twice", b"\xa2\x61k\x01\x61k\x01".to_vec()),
        ("frame-of-4-gib", vec![0xff; 8]),
        ("frame-of-nothing", framed(&[])),
        (
            "frame-critical-unknown",
            framed(b"\xa4\x61k\x19\xff\xff\x61i\x00\x61c\xf5\x61b\x40"),
        ),
        ("frame-in-frame", framed(&framed(&framed(&[0xa0])))),
    ]
}

fn good() -> Vec<(String, Vec<u8>)> {
    let mut files = vec![
        ("invite/link".to_owned(), invite().to_link().into_bytes()),
        (
            "invite-body/two-addresses".to_owned(),
            cbor::encode(&invite()),
        ),
        ("manifest/first".to_owned(), cbor::encode(&manifest())),
        (
            "directory/two-servers".to_owned(),
            cbor::encode(&directory()),
        ),
        ("head/epoch-5".to_owned(), cbor::encode(&head5())),
        ("suspend/member-2".to_owned(), cbor::encode(&suspend())),
        (
            "peer-record/node-2".to_owned(),
            cbor::encode(&peer_record()),
        ),
        (
            "outer-record/node-2".to_owned(),
            cbor::encode(&outer_record()),
        ),
        ("proof/open".to_owned(), cbor::encode(&proof(true))),
        ("proof/hidden".to_owned(), cbor::encode(&proof(false))),
        ("roster/epoch-5".to_owned(), cbor::encode(&roster5())),
        ("page/epoch-5".to_owned(), cbor::encode(&page())),
        ("delta/5-to-6".to_owned(), cbor::encode(&delta())),
        (
            "public-roster/epoch-5".to_owned(),
            cbor::encode(&verified5().public()),
        ),
    ];
    for (folder, frames) in [
        ("client", messages::client()),
        ("server", messages::server()),
        ("member", messages::member()),
        ("relay", relays::frames()),
    ] {
        for (name, frame) in frames {
            files.push((format!("{folder}/{name}"), frame.to_bytes()));
        }
    }
    for (name, frame) in messages::code() {
        let folder = if frame.kind == 48 {
            "code-request"
        } else {
            "code-reply"
        };
        files.push((format!("{folder}/{name}"), frame.to_bytes()));
    }
    for (name, frame) in messages::mirror() {
        let folder = if frame.kind == 32 {
            "mirror-request"
        } else {
            "mirror-reply"
        };
        files.push((format!("{folder}/{name}"), frame.to_bytes()));
    }
    files
}

#[test]
#[ignore = "writes the corpus anew, after a change of format"]
fn write_the_corpus() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let hostile = hostile()
        .into_iter()
        .map(|(name, bytes)| (format!("any/{name}"), bytes));
    for (path, bytes) in good().into_iter().chain(hostile) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
