//! Tables of text for people.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::output::safe;

/// Wider cells are cut.
const MAX_WIDTH: usize = 60;

/// A table of text: a header, a rule, rows.
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with these columns.
    pub fn new<'a>(header: impl IntoIterator<Item = &'a str>) -> Self {
        let header: Vec<String> = header.into_iter().map(cell).collect();
        Self { right: vec![false; header.len()], header, rows: Vec::new() }
    }

    /// Puts the values of a column to its right edge.
    pub fn align_right(&mut self, column: usize) {
        if let Some(right) = self.right.get_mut(column) {
            *right = true;
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|text| cell(&text)).collect());
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, without blanks at the ends of lines.
    pub fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.header.len())
            .map(|i| {
                self.rows
                    .iter()
                    .chain([&self.header])
                    .filter_map(|row| row.get(i))
                    .map(|c| c.width())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        self.line(&mut out, &self.header, &widths, " | ", false);
        let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        self.line(&mut out, &rules, &widths, "-+-", false);
        for row in &self.rows {
            self.line(&mut out, row, &widths, " | ", true);
        }
        out
    }

    fn line(&self, out: &mut String, cells: &[String], widths: &[usize], between: &str, align: bool) {
        let start = out.len();
        for (i, cell) in cells.iter().enumerate() {
            if i > 0 {
                out.push_str(between);
            }
            let pad = " ".repeat(widths.get(i).copied().unwrap_or(0).saturating_sub(cell.width()));
            if align && self.right.get(i).copied().unwrap_or(false) {
                out.push_str(&pad);
                out.push_str(cell);
            } else {
                out.push_str(cell);
                out.push_str(&pad);
            }
        }
        out.truncate(out.trim_end_matches(' ').len().max(start));
        out.push('\n');
    }
}

/// A text as a cell: safe, on one line, not wider than it may be.
fn cell(text: &str) -> String {
    let text = safe(text);
    if text.width() <= MAX_WIDTH {
        return text.into_owned();
    }
    let mut out = String::new();
    let mut width = 0;
    for c in text.chars() {
        width += c.width().unwrap_or(0);
        if width >= MAX_WIDTH {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// A count with separators, as people read it: `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of bytes, rounded, as people read it: `1.4 GiB`.
pub fn bytes(number: u64) -> String {
    let mut value = number as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{number} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A count that may be unknown.
pub fn maybe(number: Option<u64>, text: impl Fn(u64) -> String) -> String {
    number.map_or_else(|| "?".to_owned(), text)
}

/// A time span in milliseconds, as people read it: `0.4 s`, `12 min 3 s`.
pub fn duration(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", millis / 60_000, millis / 1000 % 60),
        _ => format!("{} h {} min", millis / 3_600_000, millis / 60_000 % 60),
    }
}

/// A time in microseconds UTC as RFC 3339.
pub fn time(micros: i64) -> String {
    chrono::DateTime::from_timestamp_micros(micros)
        .map_or_else(|| micros.to_string(), |time| time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_for_people() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(12), "12");
        assert_eq!(bytes(1_500_000), "1.4 MiB");
        assert_eq!(bytes(5), "5 B");
        assert_eq!(duration(450), "450 ms");
        assert_eq!(duration(1_450), "1.4 s");
        assert_eq!(duration(723_000), "12 min 3 s");
        assert_eq!(time(0), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn wide_cells_are_cut_by_width_not_by_bytes() {
        let mut table = Table::new(["x"]);
        table.row(["漢".repeat(100)]);
        assert!(table.render().lines().all(|line| line.width() <= MAX_WIDTH));
    }
}
