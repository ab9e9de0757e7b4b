//! The test vectors of `docs/protocol.md`: one handshake and a packet, from fixed keys. A change here is a change of the
//! wire format.

use blake2::{Blake2s256, Digest as _};
use kanpachi_common::{NetworkId, NodeId, OrgId};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use zeroize::Zeroizing;

use crate::tunnel::{
    Engine, HandshakeCounter, Kind,
    mac::PublicMacs,
    noise::{Initiator, Responder, prologue},
    payload::{INIT_PAYLOAD_LEN, Payload, RESPONSE_PAYLOAD_LEN},
    wire::{self, MAC1_AT, MAC2_AT, TransportHeader},
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn digest(bytes: &[u8]) -> String {
    hex(&Blake2s256::digest(bytes))
}

/// The ephemeral secret that a handshake with this seed makes.
fn ephemeral(seed: u8) -> [u8; 32] {
    let mut out = [0; 32];
    ChaCha20Rng::from_seed([seed; 32]).fill_bytes(&mut out);
    out
}

fn payload(node: NodeId, index: u32) -> Payload {
    Payload {
        node,
        counter: HandshakeCounter {
            major: 1_800_000_000,
            minor: 1,
        },
        index,
        generation: 1,
        epochs: vec![(NetworkId([0xc0; 32]), 7)],
        min_version: 1,
        max_version: 1,
        capabilities: 0,
    }
}

#[test]
fn the_wire_format_is_the_documented_one() {
    let (initiator, responder) = (NodeId([0xa1; 32]), NodeId([0xb2; 32]));
    let (secret_i, secret_r) = ([0x11; 32], [0x22; 32]);
    let public = |s| x25519_dalek::x25519(s, x25519_dalek::X25519_BASEPOINT_BYTES);
    let prologue = prologue(&OrgId([0xee; 32]), &responder);
    let mut out = vec![("prologue", hex(&prologue))];
    out.push(("ephemeral secret, initiator", hex(&ephemeral(3))));
    out.push(("ephemeral secret, responder", hex(&ephemeral(4))));

    let first = payload(initiator, 0x0102_0304)
        .encode(INIT_PAYLOAD_LEN)
        .unwrap();
    out.push(("payload 1, start", hex(&first[..120])));
    let mut init = wire::init_frame(0x0102_0304);
    let seed = Zeroizing::new([3; 32]);
    let mut noise_i = Initiator::start(
        &secret_i,
        &public(secret_r),
        &prologue,
        seed,
        &first,
        &mut init[8..MAC1_AT],
    )
    .unwrap();
    PublicMacs::of(&public(secret_r)).sign_mac1(&mut init);
    out.push(("init, start", hex(&init[..40])));
    out.push(("init, mac1", hex(&init[MAC1_AT..MAC2_AT])));
    out.push(("init, BLAKE2s-256", digest(&init[..])));

    let seed = Zeroizing::new([4; 32]);
    let noise_r = Responder::read(&secret_r, &prologue, seed, &init[8..MAC1_AT]).unwrap();
    let second = payload(responder, 0x0506_0708)
        .encode(RESPONSE_PAYLOAD_LEN)
        .unwrap();
    let mut response = wire::response_frame(0x0506_0708, 0x0102_0304);
    let keys_r = noise_r.answer(&second, &mut response[12..MAC1_AT]).unwrap();
    PublicMacs::of(&public(secret_i)).sign_mac1(&mut response);
    out.push(("response, start", hex(&response[..44])));
    out.push(("response, mac1", hex(&response[MAC1_AT..MAC2_AT])));
    out.push(("response, BLAKE2s-256", digest(&response[..])));

    let (keys_i, _) = noise_i.finish(&response[12..MAC1_AT]).unwrap();
    assert_eq!(*keys_i.open, *keys_r.seal);
    out.push(("key, initiator to responder", hex(&*keys_i.seal)));
    out.push(("key, responder to initiator", hex(&*keys_i.open)));
    let header = TransportHeader {
        kind: Kind::Ip,
        receiver: 0x0506_0708,
        counter: 9,
    }
    .encode();
    let mut packet = b"hello".to_vec();
    let tag = Engine::Portable
        .cipher(keys_i.seal)
        .seal(9, &header, &mut packet)
        .unwrap();
    out.push((
        "packet 9, initiator to responder",
        hex(&[&header[..], &packet, &tag].concat()),
    ));

    assert_eq!(out, VECTORS.map(|(name, value)| (name, value.to_owned())));
}

const VECTORS: [(&str, &str); 13] = [
    (
        "prologue",
        "6b616e70616368692f74756e6e656c0001eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeb2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2",
    ),
    (
        "ephemeral secret, initiator",
        "385553aa23a24b14d8bbc2dff606277f444e049797ae7e0404e3a9ba0ecef2fb",
    ),
    (
        "ephemeral secret, responder",
        "78774a186003cdaf73dfefce516edeaccb6e387de1e6234aa45f4df00a8b62ad",
    ),
    (
        "payload 1, start",
        "7400a8616e5820a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a16163a2656d616a6f721a6b49d200656d696e6f720161691a01020304616701616581825820c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c007616c016168016162000000",
    ),
    (
        "init, start",
        "0101000004030201403e5376b7e466f103572da5ac47cab01c7226109925ffb2b20e12c3f3476a56",
    ),
    ("init, mac1", "e08513d4c74b7a0a2657b96da90f579b"),
    (
        "init, BLAKE2s-256",
        "ba67ebb4c2cfbbe7a99d0a2f02bf88cd46180491e40f3f73189b5351cb058ddc",
    ),
    (
        "response, start",
        "020100000807060504030201325420fcc13cc3a0f84d673c85f59c6c2764afa49e256068c04025fb1855ef17",
    ),
    ("response, mac1", "f427c5850b1fd987690f855499014077"),
    (
        "response, BLAKE2s-256",
        "24737b44d29d9432bd212695c59d7173df276930e7e76e7a91ebabac78c562b4",
    ),
    (
        "key, initiator to responder",
        "31b115d49f5896741efc35e7e81aacb3cb9a032ff5ac54d7a5fc35b2874f3439",
    ),
    (
        "key, responder to initiator",
        "8fc9d0dc92c997199130087a42effbd16988a758628270008eddfc7e5773deb7",
    ),
    (
        "packet 9, initiator to responder",
        "04010100080706050900000000000000b5a4764063ef646f885493c6b084e71af5424666fe",
    ),
];
