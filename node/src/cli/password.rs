//! Passwords on their way in: from a file, from standard input, from a terminal without echo. Never from the command
//! line, which everybody on the machine can read.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::Path,
};

use kanpachi_common::{Password, password::MAX_PASSWORD};
use nix::sys::termios::{self, LocalFlags, SetArg, SpecialCharacterIndices as Special, Termios};
use zeroize::Zeroizing;

use super::console::Console;
use crate::ipc::{
    api::Secret,
    error::{ApiError, code},
};

/// Bytes of a password file that are read: a password, and what may stand behind it.
const MAX_FILE: u64 = MAX_PASSWORD as u64 + 2;
/// What Ctrl-C sends.
const CTRL_C: u8 = 3;

/// Somebody who can be asked, or not.
pub(super) trait Asker {
    /// Is there anybody?
    fn can_ask(&self) -> bool;

    /// One line, without its end.
    fn ask(&self, question: &str) -> Result<Zeroizing<String>, ApiError>;
}

/// A new password, typed twice; `None` when the first answer is empty.
pub(super) fn twice(question: &str, asker: &dyn Asker) -> Result<Option<Secret>, ApiError> {
    let first = asker.ask(question)?;
    if first.is_empty() {
        return Ok(None);
    }
    let first = checked(&first)?;
    // Composed both times, so that only what was typed counts.
    match checked(&asker.ask("The same once more: ")?) {
        Ok(second) if second == first => Ok(Some(first)),
        _ => {
            Err(ApiError::usage("the two passwords differ").hint("nothing was changed; try again"))
        }
    }
}

/// A text as a password, in its one form.
pub(super) fn checked(text: &str) -> Result<Secret, ApiError> {
    let password = Password::new(text).map_err(ApiError::usage)?;
    Ok(Zeroizing::<String>::from(password).into())
}

/// The password in a file; `-` is standard input.
///
/// # Errors
/// `usage`, exit code 2, in one sentence.
pub(super) fn from_file(path: &Path) -> Result<Secret, ApiError> {
    if path.as_os_str() == "-" {
        return read(io::stdin().lock(), "standard input");
    }
    let name = format!("the password file {}", path.display());
    let file = File::open(path)
        .map_err(|error| ApiError::usage(format_args!("{name} cannot be opened: {error}")))?;
    read(file, &name)
}

fn read(input: impl Read, name: &str) -> Result<Secret, ApiError> {
    // All of it at once, so that no half-grown copy stays behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize + 1));
    input
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| ApiError::usage(format_args!("{name} cannot be read: {error}")))?;
    let text = str::from_utf8(&bytes)
        .map_err(|_| ApiError::usage(format_args!("{name} is not text in UTF-8")))?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.len() > MAX_PASSWORD {
        return Err(ApiError::usage(format_args!(
            "{name} has more than {MAX_PASSWORD} bytes: that is no password"
        )));
    }
    if line.is_empty() {
        return Err(ApiError::usage(format_args!("{name} is empty")));
    }
    Password::new(line)
        .map(|password| Zeroizing::<String>::from(password).into())
        .map_err(|error| ApiError::usage(format_args!("{name} has no password: {error}")))
}

/// The person at the terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    console: Console,
    json: bool,
}

impl Terminal {
    /// With `--json` a program listens, which is not asked.
    pub(super) const fn new(console: Console, json: bool) -> Self {
        Self { console, json }
    }
}

impl Asker for Terminal {
    fn can_ask(&self) -> bool {
        !self.json && self.console.out_terminal && io::stdin().is_terminal()
    }

    fn ask(&self, question: &str) -> Result<Zeroizing<String>, ApiError> {
        let cannot = |error: io::Error| {
            ApiError::failed(
                code::FAILED,
                format_args!("the terminal cannot be read: {error}"),
            )
        };
        let line = {
            let _quiet = Quiet::start().map_err(|errno| cannot(errno.into()))?;
            // Quiet first: whoever answers at once is not shown, and not thrown away.
            self.console.print_err(question);
            line(io::stdin().lock()).map_err(cannot)
        };
        // The Enter was not shown either.
        self.console.print_err("\n");
        line?.ok_or_else(|| ApiError::failed(code::FAILED, "nothing was done"))
    }
}

/// One line without its end, or as much of it as is longer than any password; `None` after Ctrl-C.
fn line(input: impl io::BufRead) -> io::Result<Option<Zeroizing<String>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize + 1));
    for byte in input.take(MAX_FILE).bytes() {
        match byte? {
            CTRL_C => return Ok(None),
            b'\n' => break,
            byte => bytes.push(byte),
        }
    }
    let text = str::from_utf8(&bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Some(Zeroizing::new(text.to_owned())))
}

/// A terminal that shows nothing of what is typed, until this is dropped. Ctrl-C ends the line instead of the process,
/// which would leave the terminal quiet.
struct Quiet(Termios);

impl Quiet {
    fn start() -> nix::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet
            .local_flags
            .remove(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ISIG);
        quiet.local_flags.insert(LocalFlags::ICANON);
        quiet.control_chars[Special::VEOL as usize] = CTRL_C;
        // What was typed before the question was not meant for it.
        termios::tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::ipc::ExitCode;

    #[test]
    fn a_file_has_one_password_and_at_most_one_line_break_behind_it() {
        for (bytes, password) in [
            (&b"geheim"[..], "geheim"),
            (b"geheim\n", "geheim"),
            (b"geheim\r\n", "geheim"),
            (b" two words \n", " two words "),
            ("cafe\u{301}\n".as_bytes(), "caf\u{e9}"),
        ] {
            assert_eq!(read(bytes, "it").unwrap().expose(), password);
        }
        let (long, endless) = (vec![b'x'; 257], vec![b'x'; 1 << 20]);
        for (bytes, sentence) in [
            (&b""[..], "it is empty"),
            (b"\n", "it is empty"),
            (
                b"two\n\n",
                "it has no password: a password has no control characters",
            ),
            (b"\xff\xfe", "it is not text in UTF-8"),
            (&long, "it has more than 256 bytes: that is no password"),
            (&endless, "it has more than 256 bytes: that is no password"),
        ] {
            let error = read(bytes, "it").unwrap_err();
            assert_eq!(
                (error.exit, error.to_string().as_str()),
                (ExitCode::Usage, sentence)
            );
        }
        assert_eq!(
            read(&vec![b'x'; 256][..], "it").unwrap().expose().len(),
            256
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let missing = from_file(&dir.path().join("missing")).unwrap_err();
        assert_eq!(missing.exit, ExitCode::Usage);
        assert!(
            missing.message.contains("missing cannot be opened: "),
            "{missing}"
        );
        assert!(
            from_file(dir.path())
                .unwrap_err()
                .message
                .contains("cannot be read: ")
        );
        let path = dir.path().join("there");
        File::create(&path).unwrap().write_all(b"abc\n").unwrap();
        assert_eq!(from_file(&path).unwrap().expose(), "abc");
    }

    #[test]
    fn a_line_ends_with_enter_and_ctrl_c_ends_it_all() {
        let text = |bytes: &[u8]| line(bytes).unwrap().map(|line| line.to_string());
        assert_eq!(text(b"abc\ndef").as_deref(), Some("abc"));
        assert_eq!(text(b"abc").as_deref(), Some("abc"));
        assert_eq!(text(b"").as_deref(), Some(""));
        assert_eq!(text(b"ab\x03"), None);
        assert!(line(&b"\xff\n"[..]).is_err());
        assert_eq!(text(&vec![b'x'; 1 << 20]).unwrap().len(), MAX_FILE as usize);
    }

    /// Answers from a list.
    struct Answers(std::cell::RefCell<Vec<&'static str>>);

    impl Asker for Answers {
        fn can_ask(&self) -> bool {
            true
        }

        fn ask(&self, _: &str) -> Result<Zeroizing<String>, ApiError> {
            Ok(Zeroizing::new(self.0.borrow_mut().remove(0).to_owned()))
        }
    }

    #[test]
    fn a_new_password_is_typed_twice_unless_it_is_none() {
        let typed = |answers: &[&'static str]| twice("?", &Answers(answers.to_vec().into()));
        assert_eq!(typed(&["abc", "abc"]).unwrap().unwrap().expose(), "abc");
        assert!(typed(&[""]).unwrap().is_none());
        let differ = typed(&["abc", "abd"]).unwrap_err();
        assert_eq!(
            (differ.exit, differ.to_string().as_str()),
            (ExitCode::Usage, "the two passwords differ")
        );
    }
}
