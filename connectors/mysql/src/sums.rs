//! Texts of values as `ingest verify` has the server hash them; see [`ingest_core::SourceSums`].

use ingest_core::Result;
use ingest_sql::{Adding, Dialect};

use crate::catalog::{Column, Table};
use crate::select::counted;
use crate::types::Kind;

const SQL: Dialect = Dialect::MySql;

/// Writes the statement that adds up the rows of a table; `None` where a column of the key has no text.
pub(crate) fn sums(table: &Table, key: &[String], columns: &[String], rows: Option<&str>) -> Result<Option<Adding>> {
    let text = |name: &String| table.column(name).map(text).transpose().map(Option::flatten);
    let Some(key) = key.iter().map(text).collect::<Result<Option<Vec<String>>>>()? else { return Ok(None) };
    let mut values = Vec::new();
    for name in columns {
        values.extend(text(name)?.map(|text| (name.clone(), text)));
    }
    Ok(Adding::new(SQL, &counted(table, rows)?, &key, &values))
}

/// The text of a column's value as bytes, so that no two collations meet; `None` for a type of which texts are not known to
/// be equal. A float's text has not all its digits.
fn text(column: &Column) -> Result<Option<String>> {
    let name = SQL.name(&column.name)?;
    let bytes = |text: String| Some(format!("CAST(CONVERT({text} USING utf8mb4) AS BINARY)"));
    Ok(match (column.kind, column.declared.as_str()) {
        // What is added to is not filled up with zeros.
        (kind, _) if kind.is_integer() => bytes(format!("{name} + 0")),
        (Kind::Decimal { .. }, _) => bytes(format!("{name} + 0")),
        (Kind::Flag, _) => bytes(format!("CASE {name} + 0 WHEN 0 THEN 'false' WHEN 1 THEN 'true' END")),
        (Kind::Date, _) => bytes(format!("DATE_FORMAT({name}, '%Y-%m-%d AD')")),
        (Kind::DateTime | Kind::Timestamp, _) => bytes(format!("DATE_FORMAT({name}, '%Y-%m-%d %H:%i:%s.%f AD')")),
        (Kind::Binary, "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob") => {
            bytes(format!("LOWER(HEX({name}))"))
        }
        (
            Kind::Text,
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" | "set" | "json",
        ) => bytes(name),
        _ => None,
    })
}
