//! What a bootstrap takes from strangers: requests to its mirror.

use std::cell::LazyCell;

use kanpachi_bootstrap::Mirror;
use kanpachi_common::{
    OrgId, SecretKey,
    org::{Directory, Manifest},
    wire::{
        frame::{Frame, FrameReader},
        mirror::{MAX, MirrorReply, MirrorRequest},
    },
};
use tokio::runtime::{Builder, Runtime};

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
