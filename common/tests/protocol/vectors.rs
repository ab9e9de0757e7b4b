//! The test vectors of `docs/protocol.md`, made again from their seeds.

use kanpachi_common::{
    Hash, MacAddr, Pool,
    addr::{ipv6_of, ipv6_prefix},
    cbor,
    identity::x25519_public,
    invite::token_hash,
    record::OuterRecord,
    roster::Settings,
    wire::frame::Frame,
};

use crate::{fixture::*, messages, page::Vectors};

#[test]
fn identities_and_addresses() {
    let mut v = Vectors::default();
    let id = node(2).node_id();
    v.bytes("root.seed", *root().seed());
    v.bytes("root.public", root().public_key());
    v.bytes("org.id", org());
    v.text("org.text", org());
    v.bytes("signer.seed", *signer().seed());
    v.bytes("signer.public", signer().public_key());
    v.bytes("node.seed", *node(2).seed());
    v.bytes("node.id", id);
    v.bytes("node.peer-id", id.to_peer_id_bytes());
    v.text("node.text", id);
    v.bytes("tunnel.secret", tunnel_secret(2));
    v.bytes("tunnel.public", x25519_public(&tunnel_secret(2)));
    v.text("tunnel.serial", tunnel_key(2).serial);
    v.bytes("tunnel.sig", tunnel_key(2).sig);
    v.bytes("tunnel.cbor", cbor::encode(&tunnel_key(2)));
    v.text("ipv6.prefix", ipv6_prefix(&org()));
    v.text("ipv6", ipv6_of(&org(), &id));
    v.text("mac", MacAddr::of(&id));
    for (i, addr) in Pool::default().candidates(&id).take(3).enumerate() {
        v.text(&format!("ipv4.candidate-{}", i + 1), addr);
    }
    let small: Pool = "10.9.0.0/28".parse().unwrap();
    let all: Vec<String> = small.candidates(&id).map(|a| a.to_string()).collect();
    v.text("ipv4.all-of-10.9.0.0/28", all.join(","));
    v.assert_on_page("identity");
}

#[test]
fn signed_objects() {
    let mut v = Vectors::default();
    v.bytes("manifest.payload", manifest().payload);
    v.bytes("manifest.sig", manifest().sig);
    v.bytes("manifest.signed", cbor::encode(&manifest()));
    v.bytes("directory.payload", directory().payload);
    v.bytes("directory.sig", directory().sig);
    v.bytes("head.payload", head5().payload);
    v.bytes("head.sig", head5().sig);
    v.bytes("suspend.payload", suspend().payload);
    v.bytes("suspend.sig", suspend().sig);
    v.bytes("peer-record.payload", peer_record().payload);
    v.bytes("peer-record.sig", peer_record().sig);
    v.bytes("outer-record.payload", outer_record().payload);
    v.bytes("outer-record.sig", outer_record().sig);
    v.assert_on_page("signed");
}

#[test]
fn rosters() {
    let mut v = Vectors::default();
    let roster = roster5();
    v.bytes("settings", &roster.settings);
    v.bytes("settings.leaf", Settings::leaf(&roster.settings));
    for (i, entry) in roster.entries.iter().enumerate() {
        let n = i + 1;
        v.bytes(&format!("member-{n}.public"), &entry.public);
        v.bytes(&format!("member-{n}.salt"), entry.salt);
        v.bytes(&format!("member-{n}.private"), &entry.private);
        v.bytes(&format!("member-{n}.leaf"), entry.leaf());
    }
    v.bytes("root", roster.root());
    v.bytes("proof.hidden", cbor::encode(&proof(false)));
    v.bytes("proof.open", cbor::encode(&proof(true)));
    v.bytes("public-roster", cbor::encode(&verified5().public()));
    v.assert_on_page("roster");

    let manifest = verified_manifest();
    for open in [true, false] {
        let proved = proof(open).verify(&manifest, &node(2).node_id()).unwrap();
        assert_eq!(proved.member.is_some(), open);
    }
    let head6 = kanpachi_common::roster::Head::verify(&delta().head, &manifest).unwrap();
    let after = verified5().apply(delta(), head6).unwrap();
    assert_eq!(after.members().count(), 3);
}

#[test]
fn invites_and_secrets() {
    let mut v = Vectors::default();
    let (invite, secret, publisher) = (invite(), secret(), node(2).node_id());
    v.bytes("invite.secret", invite.secret.0);
    v.bytes("invite.token", invite.secret.token());
    v.bytes("invite.token-hash", token_hash(&invite.secret.token()));
    v.bytes("invite.cbor", cbor::encode(&invite));
    v.text("invite.link", invite.to_link());
    v.bytes("secret.bytes", secret.expose());
    v.bytes("secret.hash", secret.hash());
    let key = secret.record_key(&publisher, DAY);
    v.text("record.day", DAY);
    v.bytes("record.key-seed", *key.seed());
    v.bytes("record.key", key.public_key());
    v.bytes("record.dht-key", OuterRecord::dht_key(&key.public_key()));
    v.bytes("record.cipher-key", secret.record_cipher(&publisher, DAY));
    v.assert_on_page("secrets");
    assert_eq!(DAY, ISSUED_AT.0 / 86_400);
    assert_eq!(Hash::of(&[&root().public_key().0]).0, org().0);
}

fn frames(block: &str, frames: Vec<(&'static str, Frame)>) {
    let mut v = Vectors::default();
    for (name, frame) in frames {
        v.bytes(name, frame.to_bytes());
    }
    v.assert_on_page(block);
}

#[test]
fn frames_of_nodes() {
    frames("client", messages::client());
}

#[test]
fn frames_of_coordinators() {
    frames("server", messages::server());
}

#[test]
fn frames_of_the_mirror() {
    frames("mirror", messages::mirror());
}

#[test]
fn frames_of_members() {
    frames("member", messages::member());
}

#[test]
fn frames_of_codes() {
    frames("code", messages::code());
}
