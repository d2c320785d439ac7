//! Rows that a server adds up by itself: [`SourceSums`] as SQL.

use std::collections::BTreeMap;

use ingest_core::{Error, Result, SourceSums};

use crate::Dialect;

/// Columns of one statement: servers take some more, and more than that is read.
const MOST: usize = 500;

/// The statement that adds up the rows of a table, and how its answer is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adding {
    /// Answers with one row: the count, the hashes of the keys, then those of each column, all as whole numbers.
    pub sql: String,
    columns: Vec<String>,
}

impl Adding {
    /// Writes the statement. `from` is the table with its condition. `key` and `values` are SQL that gives the text of a value
    /// as [`SourceSums`] says: bytes in MySQL, null where the value is null; `values` by the names of their columns.
    /// `None` for a server that is not asked yet.
    ///
    /// ```
    /// use ingest_sql::{Adding, Dialect};
    /// let adding = Adding::new(Dialect::MySql, "`shop`.`item`", &["id".into()], &[("name".into(), "`name`".into())]);
    /// assert!(adding.is_some_and(|adding| adding.sql.starts_with("SELECT COUNT(*), ")));
    /// ```
    pub fn new(dialect: Dialect, from: &str, key: &[String], values: &[(String, String)]) -> Option<Self> {
        let values = &values[..values.len().min(MOST)];
        let hash = |text: &str| match dialect {
            Dialect::Postgres => format!(
                "pg_catalog.sum(('x' || pg_catalog.substr(pg_catalog.md5(pg_catalog.convert_to({text}, 'UTF8')), 1, {digits}))\
                 ::bit({bits})::bigint)",
                digits = SourceSums::DIGITS,
                bits = SourceSums::DIGITS * 4,
            ),
            _ => format!("SUM(CAST(CONV(LEFT(MD5({text}), {}), 16, 10) AS UNSIGNED))", SourceSums::DIGITS),
        };
        let (count, key): (_, Vec<String>) = match dialect {
            Dialect::Postgres => (
                "pg_catalog.count(*)",
                key.iter().map(|text| format!("pg_catalog.octet_length({text}) || ':' || {text}")).collect(),
            ),
            Dialect::MySql => {
                ("COUNT(*)", key.iter().map(|text| format!("CONCAT(LENGTH({text}), ':', {text})")).collect())
            }
            Dialect::SqlServer => return None,
        };
        let joined = |parts: &[String]| match (dialect, parts) {
            (_, []) => "''".to_owned(),
            (Dialect::Postgres, parts) => parts.join(" || "),
            (_, parts) => format!("CONCAT({})", parts.join(", ")),
        };
        // Texts are worked out once, inside; a row whose key is null counts for nothing but a row.
        let texts = values.iter().enumerate().map(|(i, (_, text))| format!(", {text} AS ingest_v{i}"));
        let inner = format!("SELECT {} AS ingest_k{} FROM {from}", joined(&key), texts.collect::<String>());
        let of_value = |i: usize| {
            let value = match dialect {
                Dialect::Postgres => format!("'v' || ingest_v{i}"),
                _ => format!("CONCAT('v', ingest_v{i})"),
            };
            hash(&joined(&["ingest_k".to_owned(), format!("COALESCE({value}, 'n')")]))
        };
        let sums = (0..values.len()).map(|i| format!(", COALESCE({}, 0)", of_value(i)));
        let keys = if key.is_empty() { "0".to_owned() } else { format!("COALESCE({}, 0)", hash("ingest_k")) };
        let sql = format!("SELECT {count}, {keys}{} FROM ({inner}) AS ingest_rows", sums.collect::<String>());
        Some(Self { sql, columns: values.iter().map(|(name, _)| name.clone()).collect() })
    }

    /// Reads the row that the server has answered with.
    ///
    /// # Errors
    /// `Unexpected` for an answer of another shape.
    pub fn sums<'a>(self, answer: impl IntoIterator<Item = Option<&'a str>>) -> Result<SourceSums> {
        let unexpected = || Error::unexpected("the server did not answer with sums");
        let numbers: Vec<u128> = answer
            .into_iter()
            .map(|cell| cell.and_then(|text| text.parse().ok()).ok_or_else(unexpected))
            .collect::<Result<_>>()?;
        let [rows, keys, columns @ ..] = numbers.as_slice() else { return Err(unexpected()) };
        if columns.len() != self.columns.len() {
            return Err(unexpected());
        }
        let columns: BTreeMap<String, u128> = self.columns.into_iter().zip(columns.iter().copied()).collect();
        Ok(SourceSums { rows: u64::try_from(*rows).map_err(|_| unexpected())?, keys: *keys, columns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_shape_is_refused() {
        let adding = || Adding::new(Dialect::Postgres, "t", &[], &[("a".into(), "a".into())]).expect("a statement");
        let sums = adding().sums(["3", "0", "18446744073709551617"].map(Some)).expect("sums");
        assert_eq!((sums.rows, sums.keys, sums.columns["a"]), (3, 0, 18_446_744_073_709_551_617));
        assert!(adding().sums(["3", "0"].map(Some)).is_err());
        assert!(adding().sums(["3", "0", "x"].map(Some)).is_err());
        assert!(adding().sums([Some("3"), Some("0"), None]).is_err());
        assert!(adding().sums(["-3", "0", "1"].map(Some)).is_err());
    }
}
