//! A slice as SQL.

use ingest_core::{Error, ErrorKind, Result};
use ingest_sql::Dialect;

use crate::catalog::{Column, Table};
use crate::types::Kind;
use crate::work::{Part, Position, Window, Work};

const SQL: Dialect = Dialect::SqlServer;

/// The statement of a slice, and what its columns are.
pub(crate) struct Select<'a> {
    pub(crate) sql: String,
    pub(crate) columns: Vec<&'a Column>,
    /// The column by which the slice is ordered and marked.
    pub(crate) order: Option<usize>,
    /// The order's column is read for the marks alone.
    pub(crate) hidden: bool,
    /// No two rows have the same value of it.
    pub(crate) distinct: bool,
}

/// Writes the statement of a slice, from a position on.
pub(crate) fn select<'a>(table: &'a Table, work: &Work, from: Option<&Position>) -> Result<Select<'a>> {
    let mut columns = chosen(table, work.columns.as_deref())?;
    let order_by = match (&work.part, &work.window) {
        (Part::Keys { column, .. }, _) => Some(column),
        (Part::Whole, Some(Window { ordered: true, column, .. })) => Some(column),
        _ => None,
    };
    let order = order_by.map(|name| known(table, name)).transpose()?;
    let mut hidden = false;
    if let Some(order) = order
        && !columns.iter().any(|column| column.name == order.name)
    {
        columns.push(order);
        hidden = true;
    }
    let order = order.and_then(|order| columns.iter().position(|column| column.name == order.name));
    let list: Vec<String> =
        columns.iter().map(|column| column.asked.expression(&column.name)).collect::<Result<_>>()?;
    let mut sql = format!("SELECT {} FROM {}", list.join(", "), table.path()?);
    let conditions = conditions(table, work, from)?;
    if !conditions.is_empty() {
        sql.push_str(" WHERE ");
        sql.push_str(&conditions.join(" AND "));
    }
    if let Some(order) = order {
        sql.push_str(&format!(" ORDER BY {}", SQL.name(&columns[order].name)?));
    }
    let distinct = matches!(&work.part, Part::Keys { column, .. } if table.key == [column.as_str()]);
    Ok(Select { sql, columns, order, hidden, distinct })
}

/// Writes the statement that counts the rows of a table.
pub(crate) fn count(table: &Table, rows: Option<&str>) -> Result<String> {
    let condition = filter(rows).map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
    Ok(format!("SELECT COUNT_BIG(*) FROM {}{condition}", table.path()?))
}

fn chosen<'a>(table: &'a Table, names: Option<&[String]>) -> Result<Vec<&'a Column>> {
    match names {
        None => Ok(table.columns.iter().collect()),
        Some(names) => names.iter().map(|name| known(table, name)).collect(),
    }
}

/// A column that was there when the slice was planned.
pub(crate) fn known<'a>(table: &'a Table, name: &str) -> Result<&'a Column> {
    table.column(name).ok_or_else(|| {
        Error::new(ErrorKind::SchemaChanged, "a column is not there any more")
            .with("column", name)
            .hint("`ingest discover` lists the columns of the table")
    })
}

/// A value of a column as SQL. A text is converted to what the column is, which has precedence over it; what is not of the
/// form of a value is refused.
pub(crate) fn literal(kind: Kind, value: &str) -> Result<String> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let numeric = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let hexadecimal = value.len().is_multiple_of(2) && value.bytes().all(|b| b.is_ascii_hexdigit());
    match kind {
        Kind::Decimal { .. } if numeric => Ok(value.to_owned()),
        kind if kind.is_integer() && numeric => Ok(value.to_owned()),
        Kind::Binary | Kind::RowVersion if hexadecimal => Ok(format!("0x{value}")),
        Kind::Text | Kind::Uuid => SQL.text(value),
        kind if kind.is_clock() => SQL.text(value),
        _ => Err(Error::new(ErrorKind::CheckpointInvalid, "a stored value is not of the type of its column")
            .hint("`ingest state reset` forgets the position, then the table is loaded again")),
    }
}

fn conditions(table: &Table, work: &Work, from: Option<&Position>) -> Result<Vec<String>> {
    let resumed = match from {
        Some(Position::Upto(value)) => Some(value),
        _ => None,
    };
    let mut conditions = Vec::new();
    match &work.part {
        Part::Whole => {}
        Part::Keys { column, range } => {
            let mut range = range.clone();
            if let Some(key) = resumed {
                range.after = Some(key.clone());
            }
            let kind = known(table, column)?.kind;
            conditions.extend(range.conditions(&SQL.name(column)?, |value| literal(kind, value))?);
        }
        Part::Interval { column, from, to } => {
            let kind = known(table, column)?.kind;
            let column = SQL.name(column)?;
            conditions.push(format!("{column} >= {} AND {column} < {}", literal(kind, from)?, literal(kind, to)?));
        }
    }
    if let Some(window) = &work.window {
        // Resumed by its own column, where it is not the key's range that is.
        let resumed = resumed.filter(|_| work.part == Part::Whole);
        conditions.extend(window_conditions(table, window, resumed)?);
    }
    conditions.extend(filter(work.filter.as_deref()));
    Ok(conditions)
}

/// The conditions of a window, from a value on where it is resumed. Nulls come first in the order, so a window that is
/// resumed has given them.
fn window_conditions(table: &Table, window: &Window, resumed: Option<&String>) -> Result<Vec<String>> {
    let kind = known(table, &window.column)?.kind;
    let column = SQL.name(&window.column)?;
    let nulls = window.nulls && resumed.is_none();
    let or_null = |condition: String| if nulls { format!("({condition} OR {column} IS NULL)") } else { condition };
    let mut conditions = Vec::new();
    if let Some(from) = resumed.or(window.from.as_ref()) {
        conditions.push(or_null(format!("{column} > {}", literal(kind, from)?)));
    }
    match &window.upto {
        Some(upto) => conditions.push(or_null(format!("{column} <= {}", literal(kind, upto)?))),
        None if nulls => conditions.push(format!("{column} IS NULL")),
        None => conditions.push("1 = 0".to_owned()),
    }
    Ok(conditions)
}

/// `where` of a stream, on lines of its own: a comment at its end hides nothing of ours.
pub(crate) fn filter(filter: Option<&str>) -> Option<String> {
    filter.map(|filter| format!("(\n{filter}\n)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_hold_nothing_but_the_value() {
        assert_eq!(literal(Kind::Int64, "-5").expect("a number"), "-5");
        assert_eq!(literal(Kind::RowVersion, "00ff").expect("bytes"), "0x00ff");
        assert_eq!(literal(Kind::Text, "a'").expect("a text"), "N'a'''");
        assert_eq!(literal(Kind::Date, "2024-01-01'").expect("a text"), "N'2024-01-01'''");
        for (kind, value) in [(Kind::Int64, "1 OR 1"), (Kind::Int64, "-"), (Kind::Binary, "0'"), (Kind::Float64, "1")] {
            assert_eq!(literal(kind, value).expect_err("no value").kind(), ErrorKind::CheckpointInvalid);
        }
    }
}
