//! Rows in columns, as people read them.

use std::array;

/// Where the text of a column begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Texts begin at the left.
    Left,
    /// Numbers end at the right.
    Right,
}

/// A line of heads, then one of each row: columns as wide as their widest text, two spaces between them, and none at the
/// end of a line.
pub fn table<const COLUMNS: usize>(
    columns: [(&str, Align); COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> Vec<String> {
    let mut lines = vec![columns.map(|(head, _)| head.to_owned())];
    lines.extend(rows);
    let widest = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = array::from_fn(widest);
    let cell = |(column, text): (usize, &String)| {
        let width = widths[column];
        match columns[column].1 {
            Align::Left => format!("{text:<width$}"),
            Align::Right => format!("{text:>width$}"),
        }
    };
    let line = |line: &[String; COLUMNS]| line.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ");
    lines.iter().map(|texts| line(texts).trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_text() {
        let rows = [["a", "12"], ["été", "1"]].map(|row| row.map(str::to_owned));
        let numbers_last = table([("name", Align::Left), ("n", Align::Right)], rows.clone());
        assert_eq!(numbers_last, ["name   n", "a     12", "été    1"]);
        let texts_last = table([("name", Align::Right), ("n", Align::Left)], rows);
        assert_eq!(texts_last, ["name  n", "   a  12", " été  1"]);
    }
}
