//! What a bootstrap takes from strangers: records of the DHT, and requests to its mirror.

use std::cell::LazyCell;

use kanpachi_bootstrap::{
    Mirror, RecordPolicy as _, SignedRecords,
    policy::{MAX_VALUE, Offer},
};
use kanpachi_common::{
    Hash, OrgId, SecretKey, Signed, cbor,
    org::{Directory, Manifest},
    record::{MAX_TTL, OuterRecord},
    wire::{
        frame::{Frame, FrameReader},
        mirror::{MAX, MirrorReply, MirrorRequest},
    },
};
use libp2p::PeerId;
use tokio::runtime::{Builder, Runtime};

/// A record that somebody wants kept, under its own key and under another, over nothing and over itself.
///
/// # Panics
/// When it is kept without a good signature, too long, or twice.
pub fn record_policy(data: &[u8]) {
    let signed = cbor::decode::<Signed<OuterRecord>>(data, MAX_VALUE);
    let own = signed.as_ref().map(|s| OuterRecord::dht_key(&s.key).0);
    let own = own.unwrap_or([7; 32]);
    let source = PeerId::from_bytes(&[0, 1, 7]).expect("a short identity multihash");
    let judge = |key: &[u8], held| {
        SignedRecords.judge(&Offer {
            source,
            key,
            value: data,
            held,
        })
    };
    assert!(judge(&Hash::of(&[data]).0, None).is_err());
    let _ = judge(&data[..data.len().min(32)], None);
    if let Ok(life) = judge(&own, None) {
        let signed = signed.expect("what is kept is a record");
        let record = signed.verify(&[signed.key]).expect("properly signed");
        assert_eq!(life.as_secs(), u64::from(record.ttl));
        assert!((1..=u64::from(MAX_TTL)).contains(&life.as_secs()));
        assert!(data.len() <= MAX_VALUE);
        assert!(judge(&own, Some(data)).is_err(), "kept twice");
    }
    // What is held was checked once; if it is damaged on the way from the store, that is no reason to fall over.
    let _ = judge(&own, Some(&data[data.len() / 2..]));
}

/// The organisation of the corpus.
fn org() -> OrgId {
    OrgId::of_root(&SecretKey::from_seed(&[1; 32]).public_key())
}

thread_local! {
    static RUNTIME: LazyCell<Runtime> = LazyCell::new(|| {
        Builder::new_current_thread().build().expect("the system gives a runtime")
    });
}

/// A stream of requests to one mirror.
///
/// # Panics
/// When something is kept that the organisation did not sign, or a reply is longer than it may be.
pub fn mirror(data: &[u8]) {
    RUNTIME.with(|runtime| runtime.block_on(converse(data)));
}

async fn converse(data: &[u8]) {
    let mirror = Mirror::in_memory(org());
    let mut reader = FrameReader::new(MAX);
    reader.extend(data);
    while let Ok(Some(frame)) = reader.next_frame() {
        let Ok(request) = MirrorRequest::from_frame(&frame) else {
            return;
        };
        let put = match &request {
            MirrorRequest::Put(item) => Some(item.clone()),
            _ => None,
        };
        let reply = mirror.answer(request).await;
        let bytes = reply.frame().to_bytes();
        assert!(bytes.len() <= MAX + 4);
        readable(&bytes);
        if let (Some(item), MirrorReply::Kept) = (put, reply) {
            let manifest = Manifest::verify(&item.manifest, &org()).expect("properly signed");
            assert!(Directory::verify(&item.directory, &manifest).is_ok());
            assert!(mirror.directory().is_some());
        }
    }
}

fn readable(bytes: &[u8]) {
    let mut reader = FrameReader::new(MAX);
    reader.extend(bytes);
    let frame: Frame = reader
        .next_frame()
        .expect("a frame")
        .expect("a whole frame");
    assert!(MirrorReply::from_frame(&frame).is_ok());
}
