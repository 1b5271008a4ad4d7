// SPDX-License-Identifier: Apache-2.0
//! Answers as text: tables for people, JSON and YAML for programs.

use anyhow::Context as _;
use serde::Serialize;

use crate::{arguments::Format, say};

/// Between two columns.
const GAP: usize = 2;
/// No table is wider, unless its last column is.
const WIDTH: usize = 120;
/// What was cut off ends so.
const CUT: char = '…';

/// Prints a value as JSON or YAML, or what `table` makes of it.
pub(crate) fn show<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => table(value),
        Format::Json => serde_json::to_string_pretty(value).context("cannot write JSON")? + "\n",
        Format::Yaml => serde_saphyr::to_string(value).context("cannot write YAML")?,
    };
    say::print(&text);
    Ok(())
}

/// Rows under headings. Columns are as wide as what is in them, the widest are cut where the table would not fit.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let cell = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// The table, with a line that says that it is empty if it is.
    pub(crate) fn text(&self, empty: &str) -> String {
        if self.rows.len() == 1 {
            return format!("{empty}\n");
        }
        let widths = self.widths();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let cell = cut(cell, *width);
                line.push_str(&cell);
                line.extend(std::iter::repeat_n(' ', width + GAP - cell.chars().count()));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let mut widths = vec![0; columns];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let gaps = GAP * columns.saturating_sub(1);
        // One by one from the widest; a heading always fits.
        while widths.iter().sum::<usize>() + gaps > WIDTH {
            let Some(widest) = widths.iter_mut().max().filter(|width| **width > 12) else { break };
            *widest -= 1;
        }
        widths
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain([CUT]).collect()
}

/// `one pod`, `3 pods`.
pub(crate) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// The first few names of many.
pub(crate) fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let first = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{first} and {more} more"),
        Some(_) | None => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_it_needs_to_be_and_no_wider_than_a_terminal() {
        let mut table = Table::new(&["NAME", "WHY"]);
        assert_eq!(table.text("nothing"), "nothing\n");
        table.row(["web".to_owned(), String::new()]);
        assert_eq!(table.text("nothing"), "NAME  WHY\nweb   -\n");
        table.row(["ä".repeat(100), "x".repeat(100)]);
        let text = table.text("nothing");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.contains('…'));
    }

    #[test]
    fn many_names_are_counted() {
        let names: Vec<String> = (0..7).map(|number| format!("n{number}")).collect();
        assert_eq!(some(&names), "n0, n1, n2, n3, n4 and 2 more");
        assert_eq!(some(&names[..5]), "n0, n1, n2, n3, n4");
        assert_eq!((count(1, "pod"), count(0, "pod")), ("1 pod".to_owned(), "0 pods".to_owned()));
    }
}
