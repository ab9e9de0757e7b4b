//! `kanpachi invite`: the link, the same as a picture for a phone, and the exact command for the next machine.

use std::time::Duration;

use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};

use super::{Look, Tone, clean};
use crate::ipc::api::InviteReply;

/// The link first, alone on its line, so that `head -1` gets it. The picture only where somebody can scan it.
#[must_use]
pub fn invite(reply: &InviteReply, qr: bool, look: &Look) -> String {
    let link = clean(reply.invite.expose());
    let mut text = format!("{}\n", look.paint(Tone::Strong, &link));
    if let Some(picture) = qr.then(|| picture(&link, look)).flatten() {
        text += &format!("\n{picture}\n");
    }
    text += &format!(
        "\nOn the next machine:\n\n  {}\n\n{}\n",
        command(&link),
        terms(reply, look)
    );
    text
}

/// The exact command. Quoted, since some shells have a meaning for `#`.
pub(super) fn command(link: &str) -> String {
    format!("sudo kanpachi join '{link}'")
}

fn terms(reply: &InviteReply, look: &Look) -> String {
    let uses = match reply.uses {
        1 => "one machine".to_owned(),
        n => format!("{n} machines"),
    };
    let until = reply.expires_at.map(|end| {
        let left = end.as_second().saturating_sub(look.now.as_second());
        // A coordinator counts from its own clock; a second less than seven days is meant to be seven days.
        let left = Duration::from_secs(u64::try_from(left).unwrap_or(0).div_ceil(60) * 60);
        format!(", for {}", super::units::duration(left))
    });
    format!(
        "It lets {uses} into {}{}. Whoever has it can join: pass it on like a password.",
        clean(&reply.network),
        until.unwrap_or_default()
    )
}

/// Light on dark, as most terminals are; phones read both. `None` when it is too long for any QR code.
fn picture(link: &str, look: &Look) -> Option<String> {
    let code = QrCode::with_error_correction_level(link.as_bytes(), EcLevel::L).ok()?;
    Some(if look.unicode {
        code.render::<Dense1x2>()
            .dark_color(Dense1x2::Light)
            .light_color(Dense1x2::Dark)
            .build()
    } else {
        code.render::<char>()
            .dark_color(' ')
            .light_color('#')
            .module_dimensions(2, 1)
            .build()
    })
}

#[cfg(test)]
mod tests {
    use super::{super::looks, *};
    use crate::ipc::api::Secret;

    fn reply(uses: u32) -> InviteReply {
        InviteReply {
            invite: Secret::new("kanpachi://join/lan#AbCd".to_owned()),
            network: "lan".to_owned(),
            uses,
            expires_at: Some("2026-11-30T08:59:58Z".parse().unwrap()),
        }
    }

    #[test]
    fn the_link_comes_first_and_the_command_is_exact() {
        let expected = "\
kanpachi://join/lan#AbCd

On the next machine:

  sudo kanpachi join 'kanpachi://join/lan#AbCd'

It lets one machine into lan, for 7 d. Whoever has it can join: pass it on like a password.
";
        assert_eq!(invite(&reply(1), false, &looks::plain()), expected);
        let ever = InviteReply {
            expires_at: None,
            ..reply(20)
        };
        assert!(invite(&ever, false, &looks::plain()).contains("It lets 20 machines into lan. "));
    }

    #[test]
    fn the_picture_is_square_and_ascii_where_it_must_be() {
        let unicode = picture("kanpachi://join/lan#AbCd", &looks::plain()).unwrap();
        let widths: Vec<usize> = unicode.lines().map(|l| l.chars().count()).collect();
        assert!(
            widths.iter().all(|w| *w == widths[0]) && widths[0].div_ceil(2) == widths.len(),
            "{widths:?}"
        );
        let ascii = picture("kanpachi://join/lan#AbCd", &looks::ascii()).unwrap();
        assert!(ascii.is_ascii());
        assert_eq!(
            ascii.lines().count() * 2,
            ascii.lines().next().unwrap().len()
        );
        assert!(picture(&"x".repeat(5000), &looks::plain()).is_none());
    }
}
