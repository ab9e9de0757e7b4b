//! The test vectors that `docs/protocol.md` prints, and their comparison with what the code makes.
//!
//! A block of vectors is fenced with three backticks and `vectors NAME`. In it stands one `name = value` per vector;
//! lines that begin with a blank continue the value. Bytes are in hexadecimal, text is as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

const PAGE: &str = include_str!("../../../docs/protocol.md");
/// Characters of a value on one line of the page.
const WIDTH: usize = 96;

/// Vectors as the code makes them, in the order of the page.
#[derive(Debug, Default)]
pub(crate) struct Vectors(Vec<(String, String)>);

impl Vectors {
    /// Adds bytes.
    pub(crate) fn bytes(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.text(name, hex(value.as_ref()));
    }

    /// Adds a text without blanks.
    pub(crate) fn text(&mut self, name: &str, value: impl ToString) {
        self.0.push((name.to_owned(), value.to_string()));
    }

    /// The block as it should stand on the page.
    fn render(&self, block: &str) -> String {
        let mut out = format!("```vectors {block}\n");
        for (name, value) in &self.0 {
            if name.len() + 3 + value.len() <= WIDTH {
                let _ = writeln!(out, "{name} = {value}");
                continue;
            }
            let _ = writeln!(out, "{name} =");
            let chars: Vec<char> = value.chars().collect();
            for line in chars.chunks(WIDTH) {
                let _ = writeln!(out, "  {}", line.iter().collect::<String>());
            }
        }
        out + "```"
    }

    /// Fails unless the page has exactly these vectors under this name.
    pub(crate) fn assert_on_page(&self, block: &str) {
        let page = read(block);
        let code: BTreeMap<String, String> = self.0.iter().cloned().collect();
        assert_eq!(code.len(), self.0.len(), "two vectors have one name");
        let differ: BTreeSet<&String> = code
            .keys()
            .chain(page.keys())
            .filter(|name| code.get(*name) != page.get(*name))
            .collect();
        assert!(
            differ.is_empty(),
            "docs/protocol.md and the code differ in {differ:?}.\n\
             If the format was meant to change, this is the block for the page:\n\n{}\n",
            self.render(block)
        );
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn read(block: &str) -> BTreeMap<String, String> {
    let fence = format!("```vectors {block}");
    let mut out = BTreeMap::new();
    let mut last: Option<String> = None;
    let lines = PAGE.lines().skip_while(|line| *line != fence).skip(1);
    for line in lines.take_while(|line| !line.starts_with("```")) {
        if let Some(more) = line.strip_prefix(' ') {
            let name = last.as_ref().expect("a value before its name");
            out.entry(name.clone())
                .and_modify(|v: &mut String| v.push_str(more.trim()));
        } else if let Some((name, value)) = line.split_once('=') {
            let name = name.trim().to_owned();
            let before = out.insert(name.clone(), value.trim().to_owned());
            assert!(before.is_none(), "{name} stands on the page twice");
            last = Some(name);
        }
    }
    out
}
