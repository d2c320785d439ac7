//! What the connectors of SQL databases share: names and values as SQL text, and slices of a key range.
//!
//! Everything that reaches a statement from outside (a table's name, a column's name, a key value of a stored position)
//! passes through [`Dialect::name`] or [`Dialect::text`]. There is one function of each kind per dialect, and no other
//! place where a quote is doubled.

#![deny(missing_docs)]

mod behind;
mod check;
mod login;
mod marks;
mod ranges;
mod sums;

pub use behind::Behind;
pub use check::{few, plaintext, unknown_streams};
pub use login::{Fault, Login, refuse};
pub use marks::{Ordered, Step};
pub use ranges::{KeyRange, cut, cut_integers};
pub use sums::Adding;

use ingest_core::{Error, Result};

/// How a server writes names and texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL and what speaks like it: `"name"`, `'text'`.
    Postgres,
    /// MySQL and MariaDB with any `sql_mode`: `` `name` ``, texts as hexadecimal literals of UTF-8.
    MySql,
    /// SQL Server with `QUOTED_IDENTIFIER` in any setting: `[name]`, `N'text'`.
    SqlServer,
}

impl Dialect {
    /// Writes a name so that the server takes it literally, whatever it contains.
    ///
    /// ```
    /// use ingest_sql::Dialect;
    /// assert_eq!(Dialect::Postgres.name(r#"a"; drop table x; --"#)?, r#""a""; drop table x; --""#);
    /// assert_eq!(Dialect::MySql.name("a`b")?, "`a``b`");
    /// assert_eq!(Dialect::SqlServer.name("a]b")?, "[a]]b]");
    /// # Ok::<(), ingest_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `ConfigInvalid` for an empty name or one with a zero byte: no server can have it.
    pub fn name(self, name: &str) -> Result<String> {
        if name.is_empty() || name.contains('\0') {
            return Err(Error::config("a name in SQL is empty or contains a zero byte"));
        }
        let (open, close) = match self {
            Self::Postgres => ('"', '"'),
            Self::MySql => ('`', '`'),
            Self::SqlServer => ('[', ']'),
        };
        let mut quoted = String::with_capacity(name.len() + 2);
        quoted.push(open);
        for c in name.chars() {
            if c == close {
                quoted.push(close);
            }
            quoted.push(c);
        }
        quoted.push(close);
        Ok(quoted)
    }

    /// Writes names joined by dots: `"schema"."table"`.
    ///
    /// # Errors
    /// As [`Dialect::name`].
    pub fn path(self, names: &[&str]) -> Result<String> {
        let quoted: Vec<String> = names.iter().map(|name| self.name(name)).collect::<Result<_>>()?;
        Ok(quoted.join("."))
    }

    /// Writes a text as a literal.
    ///
    /// A PostgreSQL literal with a backslash is written with `E`, so that it means the same whatever
    /// `standard_conforming_strings` says. A MySQL literal is hexadecimal, because `NO_BACKSLASH_ESCAPES` changes what
    /// a backslash means.
    ///
    /// ```
    /// use ingest_sql::Dialect;
    /// assert_eq!(Dialect::Postgres.text("it's")?, "'it''s'");
    /// assert_eq!(Dialect::Postgres.text(r"a\'b")?, r" E'a\\''b'");
    /// assert_eq!(Dialect::MySql.text("a'")?, "_utf8mb4 X'6127'");
    /// assert_eq!(Dialect::SqlServer.text("ü'")?, "N'ü'''");
    /// # Ok::<(), ingest_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `ConfigInvalid` for a text with a zero byte in PostgreSQL, which cannot hold one.
    pub fn text(self, value: &str) -> Result<String> {
        use std::fmt::Write;
        if self == Self::MySql {
            let mut literal = String::with_capacity(value.len() * 2 + 12);
            literal.push_str("_utf8mb4 X'");
            for byte in value.bytes() {
                // Writing into a String cannot fail.
                let _ = write!(literal, "{byte:02x}");
            }
            literal.push('\'');
            return Ok(literal);
        }
        if self == Self::Postgres && value.contains('\0') {
            return Err(Error::config("a text for PostgreSQL contains a zero byte"));
        }
        let escaped = self == Self::Postgres && value.contains('\\');
        let mut literal = String::with_capacity(value.len() + 4);
        literal.push_str(match self {
            Self::SqlServer => "N'",
            _ if escaped => " E'",
            _ => "'",
        });
        for c in value.chars() {
            if c == '\'' || (escaped && c == '\\') {
                literal.push(c);
            }
            literal.push(c);
        }
        literal.push('\'');
        Ok(literal)
    }
}

/// Whether a column, by its name, holds the time of a row's last change: what is new and what is changed are both seen by it.
///
/// ```
/// assert!(ingest_sql::says_changed("Updated_At"));
/// assert!(!ingest_sql::says_changed("created_at"));
/// ```
pub fn says_changed(column: &str) -> bool {
    let name = column.to_lowercase();
    ["updat", "modif", "chang", "write_date", "mtime"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_zero_byte_is_refused() {
        for dialect in [Dialect::Postgres, Dialect::MySql, Dialect::SqlServer] {
            assert!(dialect.name("a\0b").is_err());
            assert!(dialect.name("").is_err());
        }
        assert!(Dialect::Postgres.text("a\0b").is_err());
    }

    #[test]
    fn quoted_names_hold_every_quote_doubled() {
        let name = "\"\"a\"'`]\n.é";
        let quoted = Dialect::Postgres.name(name).expect("a name");
        let inner = &quoted[1..quoted.len() - 1];
        assert_eq!(inner.replace("\"\"", "\""), name);
        assert_eq!(Dialect::Postgres.path(&["s.x", "t"]).expect("a path"), "\"s.x\".\"t\"");
    }
}
