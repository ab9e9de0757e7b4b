//! What people see: pure functions from the JSON types to text. Nothing here prints, and nothing reads a clock.

mod age;
mod changed;
mod drill;
mod hosts;
mod invite;
mod list;
mod netcheck;
mod peer;
mod ping;
mod started;
mod status;
mod table;
pub mod units;

use jiff::Timestamp;

pub use changed::{changed, created, entered, session};
pub use drill::drill;
pub(crate) use hosts::{host_at, hosts};
pub use invite::invite;
pub use list::list;
pub use netcheck::netcheck;
pub use peer::peer;
pub use ping::{PingSummary, pong};
pub use started::{host_ready, joined, new_code, recovery_phrase, renamed, step, up_ready};
pub use status::status;

use crate::ipc::{
    api::{Member, Path},
    error::ApiError,
};

/// What the terminal can show, and what time it is.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// ANSI colours.
    pub color: bool,
    /// More than ASCII.
    pub unicode: bool,
    /// For "3 min ago".
    pub now: Timestamp,
}

/// Colours by meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Not as it should be.
    Bad,
    /// In the background.
    Dim,
    /// In the foreground.
    Strong,
}

/// Signs with a fallback in ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// There.
    On,
    /// Not there.
    Off,
    /// On its way.
    Half,
    /// Done.
    Tick,
    /// Not done.
    Cross,
    /// To see to.
    Attention,
    /// To be decided.
    Question,
    /// Between things.
    Dot,
    /// Goes on.
    Ellipsis,
    /// Received.
    Down,
    /// Sent.
    Up,
}

impl Look {
    /// Paints a text.
    #[must_use]
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.color || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
            Tone::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A sign.
    #[must_use]
    pub const fn sign(&self, sign: Sign) -> &'static str {
        let (unicode, ascii) = match sign {
            Sign::On => ("●", "*"),
            Sign::Off => ("○", "-"),
            Sign::Half => ("◐", "~"),
            Sign::Tick => ("✔", "ok"),
            Sign::Cross => ("✘", "--"),
            Sign::Attention => ("▲", "!!"),
            Sign::Question => ("?", "?"),
            Sign::Dot => ("·", "-"),
            Sign::Ellipsis => ("…", "..."),
            Sign::Down => ("↓", "rx"),
            Sign::Up => ("↑", "tx"),
        };
        if self.unicode { unicode } else { ascii }
    }

    /// The dot in front of a member.
    fn dot(&self, member: &Member) -> String {
        if member.waiting {
            return self.paint(Tone::Warn, self.sign(Sign::Question));
        }
        let (sign, tone) = match (member.online, member.path) {
            (_, Some(Path::Lan | Path::Direct)) => (Sign::On, Tone::Good),
            (_, Some(Path::Relay)) => (Sign::On, Tone::Warn),
            (_, Some(Path::Connecting)) => (Sign::Half, Tone::Warn),
            (true, None) => (Sign::On, Tone::Dim),
            (false, None) => (Sign::Off, Tone::Dim),
        };
        self.paint(tone, self.sign(sign))
    }

    /// How long ago, in words.
    fn ago(&self, time: Timestamp) -> String {
        match units::since(time, self.now) {
            Some(age) if age.as_secs() >= 1 => format!("{} ago", units::duration(age)),
            _ => "just now".to_owned(),
        }
    }

    /// How long already, in words.
    fn lasting(&self, time: Timestamp) -> String {
        match units::since(time, self.now) {
            Some(age) if age.as_secs() >= 1 => format!("for {}", units::duration(age)),
            _ => "just now".to_owned(),
        }
    }
}

/// The word for how a member is reached.
fn path_word(member: &Member) -> String {
    if member.waiting {
        return "waiting for approval".to_owned();
    }
    match (member.path, &member.via) {
        (Some(Path::Relay), Some(via)) => format!("relay via {}", clean(via)),
        (Some(path), _) => path.as_str().to_owned(),
        (None, _) if member.online => "online".to_owned(),
        (None, _) => "offline".to_owned(),
    }
}

/// How a member is reached, and for how long already.
fn path(member: &Member, look: &Look) -> String {
    let word = path_word(member);
    match member.path_since.filter(|_| member.path.is_some()) {
        Some(since) => format!("{word} {}", look.lasting(since)),
        None => word,
    }
}

/// Text from elsewhere, without anything that moves a cursor, rings a bell or turns the line around.
#[must_use]
pub fn clean(text: &str) -> String {
    let tricky = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars()
        .map(|c| if tricky(c) { '\u{fffd}' } else { c })
        .collect()
}

/// An error on standard error: one sentence, and a hint when there is one.
#[must_use]
pub fn error(error: &ApiError, look: &Look) -> String {
    let mut text = format!(
        "{} {}\n",
        look.paint(Tone::Bad, "error:"),
        clean(&error.message)
    );
    if let Some(hint) = &error.hint {
        text += &format!("{}  {}\n", look.paint(Tone::Good, "hint:"), clean(hint));
    }
    text
}

#[cfg(test)]
pub(crate) mod looks {
    //! Looks for tests, all at nine o'clock on the day of the sample.

    use super::Look;

    fn at_nine(color: bool, unicode: bool) -> Look {
        Look {
            color,
            unicode,
            now: "2026-11-23T09:00:00Z".parse().unwrap(),
        }
    }

    pub(crate) fn plain() -> Look {
        at_nine(false, true)
    }

    pub(crate) fn ascii() -> Look {
        at_nine(false, false)
    }

    pub(crate) fn colored() -> Look {
        at_nine(true, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_sentence_and_a_hint_whatever_came_from_outside() {
        let nasty = ApiError::usage("no \x1b[2Jmember\ncalled \u{202e}x").hint("look\rhere");
        assert_eq!(
            error(&nasty, &looks::plain()),
            "error: no \u{fffd}[2Jmember\u{fffd}called \u{fffd}x\nhint:  look\u{fffd}here\n"
        );
        assert_eq!(
            error(&ApiError::usage("no"), &looks::colored()),
            "\x1b[31merror:\x1b[0m no\n"
        );
    }

    #[test]
    fn without_unicode_every_sign_is_ascii() {
        use Sign::*;
        for sign in [
            On, Off, Half, Tick, Cross, Attention, Dot, Ellipsis, Down, Up,
        ] {
            assert!(looks::ascii().sign(sign).is_ascii());
            assert!(!looks::plain().sign(sign).is_ascii());
        }
    }
}
