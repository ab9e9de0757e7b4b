//! The terminal: what it can show, and the one unfinished line that steps and log lines share.

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use super::render::Look;

/// What an unfinished line looks like is known to whoever wrote it; everybody else only has to wipe it first.
static UNFINISHED: Mutex<bool> = Mutex::new(false);

/// Erases the line that the cursor is in.
const WIPE: &str = "\r\x1b[2K";

/// Standard output and standard error, and what they can show.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    /// Standard output is a terminal.
    pub out_terminal: bool,
    /// Standard error is a terminal.
    pub err_terminal: bool,
    /// The user wants no colour anywhere.
    no_color: bool,
    /// The locale has more than ASCII.
    unicode: bool,
    /// The terminal is too simple to go back in a line.
    dumb: bool,
}

impl Console {
    /// Looks at the environment of this process.
    #[must_use]
    pub fn new() -> Self {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let dumb = variable("TERM").is_none_or(|term| term == "dumb");
        Self {
            out_terminal: io::stdout().is_terminal(),
            err_terminal: io::stderr().is_terminal(),
            // https://no-color.org: any value but the empty one.
            no_color: dumb || variable("NO_COLOR").is_some(),
            unicode: is_unicode(variable),
            dumb,
        }
    }

    /// How to render for standard output.
    #[must_use]
    pub fn out(&self) -> Look {
        Look {
            color: self.out_terminal && !self.no_color,
            unicode: self.unicode,
            now: Timestamp::now(),
        }
    }

    /// How to render for standard error.
    #[must_use]
    pub fn err(&self) -> Look {
        Look {
            color: self.err_terminal && !self.no_color,
            unicode: self.unicode,
            now: Timestamp::now(),
        }
    }

    /// Prints whole lines to standard output.
    ///
    /// Whoever closed it (`kanpachi list | head`) has seen enough: that is no error.
    pub fn print(&self, text: &str) {
        let mut unfinished = self.wiped();
        *unfinished = false;
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Prints whole lines to standard error.
    pub fn print_err(&self, text: &str) {
        let mut unfinished = self.wiped();
        *unfinished = false;
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// Shows a line that the next print replaces; nothing where that is impossible.
    pub fn print_unfinished(&self, text: &str) {
        if !self.out_terminal || self.dumb {
            return;
        }
        let mut unfinished = self.wiped();
        *unfinished = true;
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// The lock of the line, with the line wiped.
    fn wiped(&self) -> MutexGuard<'static, bool> {
        let unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
        if *unfinished {
            let mut out = io::stdout().lock();
            let _ = out.write_all(WIPE.as_bytes()).and_then(|()| out.flush());
        }
        unfinished
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}

/// POSIX: the first of these that is set and not empty decides the character set.
fn is_unicode(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(variable)
        .unwrap_or_default();
    let locale = locale.to_string_lossy().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Where log lines go: standard error, each as one write, after an unfinished line was wiped.
#[derive(Clone, Copy, Debug)]
pub struct LogWriter(pub Console);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut unfinished = self.0.wiped();
        *unfinished = false;
        io::stderr().lock().write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_locale_variable_that_is_set_decides() {
        let with = |set: &'static [(&str, &str)]| {
            is_unicode(move |name| {
                set.iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, value)| OsString::from(value))
            })
        };
        assert!(with(&[("LANG", "de_DE.UTF-8")]));
        assert!(with(&[("LC_ALL", "C.utf8"), ("LANG", "C")]));
        assert!(!with(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]));
        assert!(!with(&[("LANG", "POSIX")]));
        assert!(!with(&[]));
    }
}
