//! The root key opens with its phrase and with nothing else.

use kanpachi_common::{OrgId, Pool, UnixTime};

use super::*;

fn open(database: &mut Database) -> Organisation {
    Organisation::open(database, None, UnixTime(1_000)).unwrap()
}

#[test]
fn the_phrase_of_the_first_start_opens_the_root_key() {
    let mut database = Database::in_memory().unwrap();
    let first = open(&mut database);
    let phrase = first.phrase.as_ref().unwrap();
    assert_eq!(phrase.expose().split(' ').count(), 12);
    let typed = format!("  {}\n", phrase.expose().to_uppercase().replace(' ', "  "));
    let typed = RecoveryPhrase::parse(&typed).unwrap();
    let root = first.sealed_root.open(&typed, &first.org()).unwrap();
    assert_eq!(OrgId::of_root(&root.public_key()), first.org());
    assert!(!format!("{first:?}").contains(phrase.expose()));
}

#[test]
fn another_phrase_or_another_organisation_does_not() {
    let mut database = Database::in_memory().unwrap();
    let first = open(&mut database);
    let other = RecoveryPhrase::from_entropy(&[7; 16]).unwrap();
    assert_eq!(
        first.sealed_root.open(&other, &first.org()).unwrap_err(),
        SealError::WrongPhrase
    );
    let phrase = first.phrase.as_ref().unwrap();
    let foreign = OrgId([1; 32]);
    assert_eq!(
        first.sealed_root.open(phrase, &foreign).unwrap_err(),
        SealError::WrongPhrase
    );
    for typo in ["", "abandon", "abandon abandon", &"zoo ".repeat(12)] {
        assert_eq!(RecoveryPhrase::parse(typo).unwrap_err(), SealError::Phrase);
    }
}

#[test]
fn a_second_start_finds_the_same_organisation_and_shows_no_phrase() {
    let mut database = Database::in_memory().unwrap();
    let first = open(&mut database);
    let second = open(&mut database);
    assert!(second.phrase.is_none());
    assert_eq!(first.org(), second.org());
    assert_eq!(first.identity.node_id(), second.identity.node_id());
    assert_ne!(
        first.identity.public_key(),
        first.signer.manifest().signing_keys[0]
    );
}

#[test]
fn the_pool_stays_what_it_was() {
    let mut database = Database::in_memory().unwrap();
    open(&mut database);
    let asked: Pool = "10.9.0.0/16".parse().unwrap();
    let refused = Organisation::open(&mut database, Some(asked), UnixTime(1)).unwrap_err();
    assert!(refused.to_string().contains("198.19.0.0/16"));
    Organisation::open(&mut database, Some(Pool::default()), UnixTime(1)).unwrap();
}

#[test]
fn a_phrase_that_cannot_be_shown_makes_no_organisation() {
    let mut database = Database::in_memory().unwrap();
    let closed = |_: &RecoveryPhrase| Err(std::io::ErrorKind::BrokenPipe.into());
    let error = Organisation::open_showing(&mut database, None, UnixTime(1), closed).unwrap_err();
    assert!(matches!(error, OrgError::Show(_)));
    assert!(database.organisation().unwrap().is_none());
    let mut shown = None;
    let show = |phrase: &RecoveryPhrase| {
        shown = Some(phrase.expose().to_owned());
        Ok(())
    };
    let made = Organisation::open_showing(&mut database, None, UnixTime(1), show).unwrap();
    let phrase = RecoveryPhrase::parse(&shown.unwrap()).unwrap();
    made.sealed_root.open(&phrase, &made.org()).unwrap();
}
