//! Columns that line up whatever script is in them.

use unicode_width::UnicodeWidthStr as _;

use super::{Look, Tone};

/// One cell: its text, how wide that is on a screen, and how it is painted.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            tone: None,
        }
    }

    pub(super) fn toned(tone: Tone, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            tone: Some(tone),
        }
    }
}

/// Two spaces between columns, each as wide as its widest cell, nothing behind the last one. A column without any text
/// takes no room. `lead` stands in front of each row and is not measured.
pub(super) fn table(rows: &[(String, Vec<Cell>)], look: &Look) -> String {
    let columns = rows.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|(_, cells)| cells.get(column))
            .map(|cell| cell.text.width())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for (lead, cells) in rows {
        out += lead;
        let mut owed = 0;
        for (cell, width) in cells.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            if !cell.text.is_empty() {
                out.extend(std::iter::repeat_n(' ', owed));
                out += &cell
                    .tone
                    .map_or_else(|| cell.text.clone(), |tone| look.paint(tone, &cell.text));
                owed = 0;
            }
            owed += width - cell.text.width() + 2;
        }
        out.push('\n');
    }
    out
}

/// `name  value` lines with the values in one column.
pub(super) fn pairs(indent: &str, pairs: &[(&str, String)], look: &Look) -> String {
    let row = |(name, value): &(&str, String)| {
        let mut lines = value.lines();
        let first = Cell::new(lines.next().unwrap_or_default());
        let mut rows = vec![(
            indent.to_owned(),
            vec![Cell::toned(Tone::Dim, *name), first],
        )];
        rows.extend(lines.map(|line| (indent.to_owned(), vec![Cell::default(), Cell::new(line)])));
        rows
    };
    let rows: Vec<_> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .flat_map(row)
        .collect();
    table(&rows, look)
}

#[cfg(test)]
mod tests {
    use super::{super::looks, *};

    #[test]
    fn wide_and_combining_characters_keep_the_columns_straight() {
        let row = |a: &str, b: &str, c: &str| {
            (
                "> ".to_owned(),
                vec![Cell::new(a), Cell::new(""), Cell::new(b), Cell::new(c)],
            )
        };
        let text = table(
            &[
                row("サーバー", "x", "1"),
                row("lamp", "", "2"),
                row("e\u{301}", "yy", ""),
            ],
            &looks::plain(),
        );
        assert_eq!(
            text,
            "> サーバー  x   1\n> lamp          2\n> e\u{301}         yy\n"
        );
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let rows = [
            (
                String::new(),
                vec![Cell::toned(Tone::Good, "a"), Cell::new("b")],
            ),
            (String::new(), vec![Cell::new("ccc"), Cell::new("d")]),
        ];
        assert_eq!(
            table(&rows, &looks::colored()),
            "\x1b[32ma\x1b[0m    b\nccc  d\n"
        );
    }

    #[test]
    fn a_value_of_two_lines_stays_in_its_column_and_an_empty_one_is_left_out() {
        let text = pairs(
            "  ",
            &[
                ("one", "1\n2".to_owned()),
                ("none", String::new()),
                ("three", "3".to_owned()),
            ],
            &looks::plain(),
        );
        assert_eq!(text, "  one    1\n         2\n  three  3\n");
    }
}
