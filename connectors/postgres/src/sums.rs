//! Texts of values as `ingest verify` has the server hash them; see [`ingest_core::SourceSums`].

use ingest_core::Result;
use ingest_sql::{Adding, Dialect};

use crate::catalog::{Column, Table};
use crate::select::counted;
use crate::types::{Cast, Kind};

const SQL: Dialect = Dialect::Postgres;

/// The type of `char(n)`: its text loses the blanks at the end that its value has.
const BPCHAR: u32 = 1042;

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

/// The text of a column's value; `None` for a type of which texts are not known to be equal.
fn text(column: &Column) -> Result<Option<String>> {
    const TIME: &str = "YYYY-MM-DD HH24:MI:SS.US BC";
    let name = SQL.name(&column.name)?;
    // Infinite times have no text of their own, and must not look like null.
    let moment = |moment: &str, pattern: &str| {
        format!(
            "CASE WHEN {name} IS NULL THEN NULL WHEN pg_catalog.isfinite({name}) \
             THEN pg_catalog.to_char({moment}, '{pattern}') ELSE 'infinite' END"
        )
    };
    Ok(match column.kind {
        Kind::Text if column.cast == Cast::None && column.wire_type.0 == BPCHAR => {
            Some(format!("CASE WHEN {name} IS NOT NULL THEN pg_catalog.concat({name}) END"))
        }
        Kind::Bool
        | Kind::Int16
        | Kind::Int32
        | Kind::Int64
        | Kind::Unsigned32
        | Kind::Decimal { .. }
        | Kind::Numeric
        | Kind::Text
        | Kind::Jsonb
        | Kind::Uuid => Some(format!("{name}{}::pg_catalog.text", column.cast.sql())),
        Kind::Bytes => Some(format!("pg_catalog.encode({name}, 'hex')")),
        Kind::Float32 => Some(format!("pg_catalog.encode(pg_catalog.float4send({name}), 'hex')")),
        Kind::Float64 => Some(format!("pg_catalog.encode(pg_catalog.float8send({name}), 'hex')")),
        Kind::Date => Some(moment(&format!("{name}::timestamp"), "YYYY-MM-DD BC")),
        Kind::Timestamp => Some(moment(&name, TIME)),
        Kind::TimestampTz => Some(moment(&format!("{name} AT TIME ZONE 'UTC'"), TIME)),
        _ => None,
    })
}
