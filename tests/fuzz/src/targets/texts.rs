//! What people type or paste: invites, passwords, names, client ids.

use kanpachi_common::{
    client_id::ClientId,
    invite::{Invite, MAX_INVITE_ADDRESSES},
    name,
    password::{MAX_PASSWORD, Password},
};
use kanpachi_node::ipc::query::check_invite;

/// A link: what is accepted is bounded and reads back from what it writes.
///
/// # Panics
/// When that does not hold.
pub fn invite(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = Invite::parse(&text);
    assert_eq!(parsed.is_ok(), check_invite(&text).is_ok());
    let Ok(invite) = parsed else { return };
    assert!(invite.addresses.len() <= MAX_INVITE_ADDRESSES);
    assert!(invite.addresses.iter().all(|a| a.check().is_ok()));
    let again = Invite::parse(&invite.to_link()).expect("what was read can be written and read");
    assert_eq!(
        (again.org, again.network, &again.secret),
        (invite.org, invite.network, &invite.secret)
    );
}

/// A name, a password and a client id.
///
/// # Panics
/// When something is accepted in one form and refused in the form that it was brought to.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(checked) = name::check(&text) {
        assert_eq!(name::check(&checked).as_deref(), Ok(&*checked));
        assert!((1..=name::MAX_CHARS).contains(&checked.chars().count()));
        assert!(!checked.chars().any(char::is_control));
        let variant = name::variant(&checked, u32::MAX);
        assert_eq!(name::check(&variant).as_deref(), Ok(&*variant));
        let folded = name::fold(&checked);
        assert_eq!(
            name::fold(&folded),
            folded,
            "folding is not done after one time"
        );
    }
    let coerced = name::coerce(&text);
    assert_eq!(name::check(&coerced).as_deref(), Ok(&*coerced));
    if let Ok(password) = Password::new(&text) {
        assert!((1..=MAX_PASSWORD).contains(&password.expose().len()));
        assert_eq!(password.check(), Ok(()));
        let again = Password::new(password.expose()).expect("a password is a password");
        assert_eq!(again.expose(), password.expose());
        assert!(
            !format!("{password:?}").contains(password.expose()) || password.expose().len() < 16
        );
    }
    if let Ok(id) = text.parse::<ClientId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(ClientId::new(id.get()), Some(id));
    }
}
