//! Statements in the binlog: where transactions begin and end, what else they say about tables.

use super::bytes::Bytes;
use ingest_core::Result;

/// What a statement means to a reader of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Statement {
    /// A transaction of rows begins.
    Begin,
    /// It ends.
    Commit,
    /// It ends, and what came was not kept by engines with transactions.
    Rollback,
    /// A part of it was not kept by them.
    RollbackTo,
    /// `SAVEPOINT`, `XA END`: the transaction goes on.
    Within,
    /// All rows of a table are gone.
    Truncate { database: String, table: String },
    /// Rows were changed, and the log says only by which statement.
    Rows,
    /// A table was dropped or renamed, or anything else that a transaction of its own is made of.
    Other,
}

/// The database and the text of a QUERY_EVENT.
pub(crate) fn parse(body: &[u8]) -> Result<(String, String)> {
    let mut bytes = Bytes(body);
    bytes.take(8)?;
    let database = usize::from(bytes.u8()?);
    bytes.u16()?;
    let status = usize::from(bytes.u16()?);
    bytes.take(status)?;
    let database = String::from_utf8_lossy(bytes.take(database)?).into_owned();
    bytes.u8()?;
    Ok((database, String::from_utf8_lossy(bytes.0).into_owned()))
}

/// Says what a statement means; `database` is the one it ran in.
pub(crate) fn classify(database: &str, text: &str) -> Statement {
    let mut words = Words(text);
    let first = words.word().to_ascii_uppercase();
    let second = Words(words.0).word().to_ascii_uppercase();
    match (first.as_str(), second.as_str()) {
        ("BEGIN", _) | ("START", "TRANSACTION") | ("XA", "START" | "BEGIN") => Statement::Begin,
        ("COMMIT", _) => Statement::Commit,
        ("ROLLBACK", "TO") => Statement::RollbackTo,
        ("ROLLBACK", _) => Statement::Rollback,
        ("SAVEPOINT" | "RELEASE", _) | ("XA", "END") => Statement::Within,
        ("INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD", _) => Statement::Rows,
        ("TRUNCATE", table) => {
            if table == "TABLE" {
                words.word();
            }
            let name = words.name();
            match words.0.trim_start().strip_prefix('.') {
                Some(rest) => Statement::Truncate { database: name, table: Words(rest).name() },
                None => Statement::Truncate { database: database.to_owned(), table: name },
            }
        }
        _ => Statement::Other,
    }
}

/// Whether a statement names a table, roughly: for telling whether it can concern somebody.
pub(crate) fn mentions(text: &str, table: &str) -> bool {
    text.to_lowercase().contains(&table.to_lowercase())
}

/// Reads words from the front of a statement.
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    /// Leaves out blanks and comments; what stands in `/*!…*/` is run by the server, and so is no comment.
    fn skip(&mut self) {
        loop {
            self.0 = self.0.trim_start();
            if let Some(rest) = self.0.strip_prefix("/*!") {
                self.0 = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            } else if self.0.starts_with("/*") {
                self.0 = self.0.split_once("*/").map_or("", |(_, rest)| rest);
            } else if self.0.starts_with('#') || self.0.starts_with("-- ") {
                self.0 = self.0.split_once('\n').map_or("", |(_, rest)| rest);
            } else {
                return;
            }
        }
    }

    fn word(&mut self) -> &'a str {
        self.skip();
        let end = self.0.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    /// A name, in quotes or not.
    fn name(&mut self) -> String {
        self.skip();
        let quote = self.0.chars().next().filter(|c| matches!(c, '`' | '"'));
        let Some(quote) = quote else {
            let end =
                self.0.find(|c: char| c.is_whitespace() || matches!(c, '.' | ';' | ',' | '/')).unwrap_or(self.0.len());
            let (name, rest) = self.0.split_at(end);
            self.0 = rest;
            return name.to_owned();
        };
        let mut name = String::new();
        let mut rest = &self.0[1..];
        while let Some((part, after)) = rest.split_once(quote) {
            name.push_str(part);
            match after.strip_prefix(quote) {
                // A doubled quote stands for one.
                Some(after) => {
                    name.push(quote);
                    rest = after;
                }
                None => {
                    self.0 = after;
                    return name;
                }
            }
        }
        self.0 = "";
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_told_apart() {
        let truncate =
            |database: &str, table: &str| Statement::Truncate { database: database.into(), table: table.into() };
        for (text, statement) in [
            ("BEGIN", Statement::Begin),
            ("COMMIT", Statement::Commit),
            ("ROLLBACK TO `sp`", Statement::RollbackTo),
            ("ROLLBACK", Statement::Rollback),
            ("XA START X'61',X'',1", Statement::Begin),
            ("truncate table t", truncate("shop", "t")),
            ("/* by app */ TRUNCATE `a``b`.`c.d`", truncate("a`b", "c.d")),
            ("TRUNCATE other . t", truncate("other", "t")),
            ("# note\nINSERT INTO t VALUES (1)", Statement::Rows),
            ("ALTER TABLE t ADD c INT", Statement::Other),
            ("", Statement::Other),
            ("/*", Statement::Other),
            ("TRUNCATE `open", truncate("shop", "")),
        ] {
            assert_eq!(classify("shop", text), statement, "{text}");
        }
    }
}
