//! What a fault is: places in the source, what stands there instead, and the tests that must notice.

use anyhow::{Context as _, Result, ensure};

/// Names the fault that is there, in the environment of every program of the copy.
pub(crate) const VARIABLE: &str = "KANPACHI_FAULT";

/// Something that somebody might break.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) edits: &'static [Edit],
    /// Each of them must fail.
    pub(crate) finders: &'static [Finder],
}

/// File, the text in it, what stands there instead; the word `FAULT` in that is whether the fault is there.
pub(crate) type Edit = (&'static str, &'static str, &'static str);

/// A test.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finder {
    /// The package's directory.
    pub(crate) package: &'static str,
    /// The test program in it; empty for the tests inside the library.
    pub(crate) program: &'static str,
    pub(crate) test: &'static str,
}

impl Finder {
    /// As it is called in reports.
    pub(crate) fn title(&self) -> String {
        let place = if self.program.is_empty() {
            self.package
        } else {
            self.program
        };
        format!("{place}: {}", self.test)
    }
}

/// A test inside the library of a package.
pub(crate) const fn lib(package: &'static str, test: &'static str) -> Finder {
    Finder {
        package,
        program: "",
        test,
    }
}

/// A test of a program in the lab, or in the simulator.
pub(crate) const fn lab(program: &'static str, test: &'static str) -> Finder {
    Finder {
        package: "tests",
        program,
        test,
    }
}

impl Fault {
    /// Puts one edit into the contents of its file.
    pub(crate) fn put(&self, (file, text, instead): &Edit, contents: Vec<u8>) -> Result<Vec<u8>> {
        let source = String::from_utf8(contents).context("source text")?;
        ensure!(
            source.matches(text).count() == 1,
            "{}: not once in {file}: {text}",
            self.name
        );
        // Looked up once: some places are passed by every packet.
        let there = format!(
            "({{ static THERE: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| \
             std::env::var({VARIABLE:?}).is_ok_and(|fault| fault == {:?})); *THERE }})",
            self.name
        );
        Ok(source
            .replace(text, &instead.replace("FAULT", &there))
            .into_bytes())
    }
}
