//! What is fed with hostile bytes, and what must hold when it accepts them.

use data_encoding::BASE64URL_NOPAD;
use kanpachi_common::{
    Hash, MacAddr, Signed, TunnelKey,
    addr::ipv6_of,
    cbor,
    invite::{Invite, SCHEME},
    org::{Directory, Manifest},
    record::{OuterRecord, PeerRecord},
    roster::{Delta, Head, Page, Proof, PublicRoster, Roster, Suspend, VerifiedRoster},
    signed::SignedObject,
    wire::{
        code::{self, CodeReply, CodeRequest},
        control::{ClientMessage, ServerMessage},
        frame::{Frame, FrameReader, MAX_REPLY, MAX_REQUEST},
        member::{MAX_ASK, MemberMessage},
        mirror::{self, MirrorReply, MirrorRequest},
        relay::{self, RelayMessage},
    },
};

use crate::fixture::*;

/// Reads bytes and says whether they were accepted; panics when they should not have been.
pub(crate) type Decoder = fn(&[u8]) -> bool;

/// All decoders, by the name of their folder.
pub(crate) const ALL: [(&str, Decoder); 21] = [
    ("invite", invite_link),
    ("invite-body", invite_body),
    ("client", client),
    ("server", server),
    ("member", member),
    ("mirror-request", mirror_request),
    ("mirror-reply", mirror_reply),
    ("relay", relay_message),
    ("code-request", code_request),
    ("code-reply", code_reply),
    ("manifest", signed_manifest),
    ("directory", signed_directory),
    ("head", signed_head),
    ("suspend", signed_suspend),
    ("peer-record", signed_peer_record),
    ("outer-record", signed_outer_record),
    ("proof", proof_of_node_2),
    ("roster", whole_roster),
    ("page", one_page),
    ("delta", delta_from_5),
    ("public-roster", public_halves),
];

/// Longest input of any decoder here, in bytes.
const MAX: usize = 1 << 20;

fn same_invite(got: &Invite) {
    // The path of the link is for the eye only and under no checksum.
    let name = got.name.clone();
    assert_eq!(*got, Invite { name, ..invite() }, "a changed invite");
}

fn invite_link(bytes: &[u8]) -> bool {
    let parsed = Invite::parse(&String::from_utf8_lossy(bytes));
    parsed.inspect(same_invite).is_ok()
}

/// The CBOR of an invite in a link whose checksum is right: anybody can make one.
fn invite_body(bytes: &[u8]) -> bool {
    let body = [&[1], bytes].concat();
    let sum = Hash::of(&[&body]);
    let text = BASE64URL_NOPAD.encode(&[&body, &sum.0[..4]].concat());
    let Ok(invite) = Invite::parse(&format!("{SCHEME}x#{text}")) else {
        return false;
    };
    assert!(invite.addresses.len() <= 8);
    assert!(invite.addresses.iter().all(|a| a.check().is_ok()));
    true
}

/// Takes frames from a stream cut at odd places; `read` sees each.
fn frames(bytes: &[u8], max: usize, mut read: impl FnMut(&Frame) -> bool) -> bool {
    let mut reader = FrameReader::new(max);
    let mut accepted = false;
    for part in bytes.chunks(97) {
        reader.extend(part);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.body.len() <= max);
                    accepted |= read(&frame);
                }
                Ok(None) => break,
                Err(_) => return accepted,
            }
        }
    }
    accepted
}

fn client(bytes: &[u8]) -> bool {
    frames(bytes, MAX_REQUEST, |frame| {
        let Ok(message) = ClientMessage::from_frame(frame) else {
            return false;
        };
        let again = message.frame(frame.id);
        let back = ClientMessage::from_frame(&again).expect("what was read can be read again");
        assert_eq!(back.frame(frame.id), again);
        true
    })
}

fn server(bytes: &[u8]) -> bool {
    frames(bytes, MAX_REPLY, |frame| {
        let Ok(message) = ServerMessage::from_frame(frame) else {
            return false;
        };
        let again = message.frame(frame.id);
        let back = ServerMessage::from_frame(&again).expect("what was read can be read again");
        assert_eq!(back.frame(frame.id), again);
        true
    })
}

fn member(bytes: &[u8]) -> bool {
    frames(bytes, MAX_ASK, |frame| {
        let Ok(message) = MemberMessage::from_frame(frame) else {
            return false;
        };
        let again = message.frame(frame.id);
        let back = MemberMessage::from_frame(&again).expect("what was read can be read again");
        assert_eq!(back.frame(frame.id), again);
        true
    })
}

fn mirror_request(bytes: &[u8]) -> bool {
    frames(bytes, mirror::MAX, |frame| {
        MirrorRequest::from_frame(frame)
            .is_ok_and(|m| MirrorRequest::from_frame(&m.frame()) == Ok(m))
    })
}

fn mirror_reply(bytes: &[u8]) -> bool {
    frames(bytes, mirror::MAX, |frame| {
        MirrorReply::from_frame(frame).is_ok_and(|m| MirrorReply::from_frame(&m.frame()) == Ok(m))
    })
}

fn relay_message(bytes: &[u8]) -> bool {
    frames(bytes, relay::MAX, |frame| {
        if relay::data_channel(frame).is_some() {
            return true;
        }
        let Ok(message) = RelayMessage::from_frame(frame) else {
            return false;
        };
        let again = message.frame(frame.id);
        let back = RelayMessage::from_frame(&again).expect("what was read can be read again");
        assert_eq!(back.frame(frame.id), again);
        true
    })
}

fn code_request(bytes: &[u8]) -> bool {
    frames(bytes, code::MAX, |frame| {
        CodeRequest::from_frame(frame).is_ok_and(|m| CodeRequest::from_frame(&m.frame()) == Ok(m))
    })
}

fn code_reply(bytes: &[u8]) -> bool {
    frames(bytes, code::MAX, |frame| {
        CodeReply::from_frame(frame).is_ok_and(|m| CodeReply::from_frame(&m.frame()) == Ok(m))
    })
}

/// Reads a signed object and lets `verify` judge it. What passes must be, byte for byte, what was signed.
fn signed<T: SignedObject>(bytes: &[u8], good: &Signed<T>, verify: fn(&Signed<T>) -> bool) -> bool {
    let Ok(object) = cbor::decode::<Signed<T>>(bytes, MAX) else {
        return false;
    };
    let accepted = verify(&object);
    assert!(!accepted || object == *good, "a forged {}", T::DOMAIN);
    accepted
}

fn signed_manifest(bytes: &[u8]) -> bool {
    signed(bytes, &manifest(), |m| Manifest::verify(m, &org()).is_ok())
}

fn signed_directory(bytes: &[u8]) -> bool {
    signed(bytes, &directory(), |d| {
        Directory::verify(d, &verified_manifest()).is_ok()
    })
}

fn signed_head(bytes: &[u8]) -> bool {
    signed(bytes, &head5(), |h| {
        Head::verify(h, &verified_manifest()).is_ok()
    })
}

fn signed_suspend(bytes: &[u8]) -> bool {
    signed::<Suspend>(bytes, &suspend(), |s| {
        s.verify(&[node(1).public_key()]).is_ok()
    })
}

fn signed_peer_record(bytes: &[u8]) -> bool {
    signed::<PeerRecord>(bytes, &peer_record(), |r| {
        r.verify(&[node(2).public_key()]).is_ok()
    })
}

fn signed_outer_record(bytes: &[u8]) -> bool {
    let key = secret().record_key(&node(2).node_id(), DAY).public_key();
    let Ok(object) = cbor::decode::<Signed<OuterRecord>>(bytes, MAX) else {
        return false;
    };
    let accepted = object.verify(&[key]).is_ok();
    assert!(
        !accepted || object == outer_record(),
        "a forged outer record"
    );
    accepted
}

fn proof_of_node_2(bytes: &[u8]) -> bool {
    let Ok(proof) = cbor::decode::<Proof>(bytes, Proof::MAX_LEN) else {
        return false;
    };
    let Ok(proved) = proof.verify(&verified_manifest(), &node(2).node_id()) else {
        return false;
    };
    assert_eq!(*proved.head.signed(), head5());
    assert_eq!(proved.public, halves(2).0);
    assert!(proved.member.is_none_or(|m| m.tunnel == tunnel_key(2)));
    true
}

/// What holds of every roster that was accepted, whoever signed it.
fn sound(roster: &VerifiedRoster) {
    for member in roster.members() {
        assert!(member.tunnel.verify(&member.node, &org()));
        assert_eq!(member.ipv6, ipv6_of(&org(), &member.node));
        assert_eq!(member.mac, MacAddr::of(&member.node));
    }
}

fn whole_roster(bytes: &[u8]) -> bool {
    let Ok(body) = cbor::decode::<Roster>(bytes, MAX) else {
        return false;
    };
    // Under a head that fits it: what a stolen signing key could spread.
    let fitting = Head::verify(&head(&body, 5, Hash([0; 32])), &verified_manifest());
    if let Some(roster) = fitting.ok().and_then(|head| body.clone().verify(head).ok()) {
        sound(&roster);
    }
    let head = Head::verify(&head5(), &verified_manifest()).expect("ours");
    let Ok(roster) = body.verify(head) else {
        return false;
    };
    assert_eq!(*roster.body(), roster5(), "a changed roster");
    true
}

fn one_page(bytes: &[u8]) -> bool {
    let Ok(page) = cbor::decode::<Page>(bytes, MAX_REPLY) else {
        return false;
    };
    let Ok((head, body)) = Page::join(vec![page]) else {
        return false;
    };
    let Ok(head) = Head::verify(&head, &verified_manifest()) else {
        return false;
    };
    let Ok(roster) = body.verify(head) else {
        return false;
    };
    assert_eq!(*roster.body(), roster5(), "a changed roster");
    true
}

fn delta_from_5(bytes: &[u8]) -> bool {
    let Ok(change) = cbor::decode::<Delta>(bytes, MAX_REPLY) else {
        return false;
    };
    let Ok(head) = Head::verify(&change.head, &verified_manifest()) else {
        return false;
    };
    let Ok(after) = verified5().apply(change, head) else {
        return false;
    };
    assert_eq!(*after.body(), roster(&[1, 3, 4]), "a changed roster");
    true
}

fn public_halves(bytes: &[u8]) -> bool {
    let Ok(halves) = cbor::decode::<PublicRoster>(bytes, PublicRoster::MAX_LEN) else {
        return false;
    };
    let head = Head::verify(&head5(), &verified_manifest()).expect("ours");
    let Ok(members) = halves.verify(&head) else {
        return false;
    };
    assert_eq!(members, [1, 2, 3].map(|n| crate::fixture::halves(n).0));
    true
}

/// Any bytes as the payload of any object, properly signed by a key that is trusted: nothing to believe or not,
/// but nothing to fall over either.
pub(crate) fn signed_by_a_trusted_key(payload: &[u8]) {
    fn check<T: SignedObject>(payload: &[u8]) {
        let key = root();
        let object = Signed::<T>::of_bytes(payload, &key);
        if let Ok(value) = object.verify(&[key.public_key()]) {
            assert!(payload.len() <= T::MAX_LEN);
            assert_eq!(value.check(), Ok(()));
        }
    }
    check::<Manifest>(payload);
    check::<Directory>(payload);
    check::<Head>(payload);
    check::<Suspend>(payload);
    check::<PeerRecord>(payload);
    check::<OuterRecord>(payload);
    if let Ok(key) = cbor::decode::<TunnelKey>(payload, MAX) {
        assert!(!key.verify(&node(2).node_id(), &org()) || key == tunnel_key(2));
    }
}

/// Signing bytes that are no object, as only an attacker with a key does.
trait OfBytes: Sized {
    fn of_bytes(payload: &[u8], key: &kanpachi_common::SecretKey) -> Self;
}

impl<T: SignedObject> OfBytes for Signed<T> {
    fn of_bytes(payload: &[u8], key: &kanpachi_common::SecretKey) -> Self {
        #[derive(serde::Serialize)]
        struct Envelope<'a> {
            key: kanpachi_common::PublicKey,
            #[serde(with = "serde_bytes")]
            payload: &'a [u8],
            #[serde(with = "serde_bytes")]
            sig: &'a [u8],
        }
        let envelope = Envelope {
            key: key.public_key(),
            payload,
            sig: &key.sign(T::DOMAIN, &[payload]),
        };
        cbor::decode(&cbor::encode(&envelope), MAX).expect("an envelope")
    }
}
