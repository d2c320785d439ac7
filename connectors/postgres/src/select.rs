//! A slice as SQL.

use ingest_core::{Error, ErrorKind, Result};
use ingest_sql::Dialect;

use crate::catalog::{Column, Table};
use crate::moment::low_half;
use crate::work::{Part, Position, Window, Work};

const SQL: Dialect = Dialect::Postgres;

/// The statement of a slice, and what its columns are.
pub(crate) struct Select<'a> {
    pub(crate) sql: String,
    pub(crate) columns: Vec<&'a Column>,
    /// The column by which the slice is ordered and marked.
    pub(crate) order: Option<usize>,
    /// The order's column is read for the marks alone.
    pub(crate) hidden: bool,
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
        columns.iter().map(|c| Ok(format!("{}{}", SQL.name(&c.name)?, c.cast.sql()))).collect::<Result<_>>()?;
    let mut sql = format!("SELECT {} FROM {}", list.join(", "), source(table, &work.part)?);
    let conditions = conditions(work, from)?;
    if !conditions.is_empty() {
        sql.push_str(" WHERE ");
        sql.push_str(&conditions.join(" AND "));
    }
    if let Some(order) = order {
        sql.push_str(&format!(" ORDER BY {}", SQL.name(&columns[order].name)?));
    }
    Ok(Select { sql, columns, order, hidden })
}

/// Writes the statement that counts the rows of a table.
pub(crate) fn count(table: &Table, rows: Option<&str>) -> Result<String> {
    Ok(format!("SELECT pg_catalog.count(*) FROM {}", counted(table, rows)?))
}

/// The rows that are counted: the table, and the condition behind it.
pub(crate) fn counted(table: &Table, rows: Option<&str>) -> Result<String> {
    let condition = filter(rows).map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
    Ok(format!("{}{condition}", source(table, &Part::Whole)?))
}

fn chosen<'a>(table: &'a Table, names: Option<&[String]>) -> Result<Vec<&'a Column>> {
    match names {
        None => Ok(table.columns.iter().collect()),
        Some(names) => names.iter().map(|name| known(table, name)).collect(),
    }
}

fn known<'a>(table: &'a Table, name: &str) -> Result<&'a Column> {
    table.column(name).ok_or_else(|| {
        Error::new(ErrorKind::SchemaChanged, "a column is not there any more")
            .with("column", name)
            .hint("`ingest discover` lists the columns of the table")
    })
}

fn source(table: &Table, part: &Part) -> Result<String> {
    match part {
        // By the name of the whole, so that a filter may name the table.
        Part::Blocks { schema, table: child, .. } => {
            Ok(format!("ONLY {} AS {}", SQL.path(&[schema, child])?, SQL.name(&table.name)?))
        }
        _ => table.path(),
    }
}

fn conditions(work: &Work, from: Option<&Position>) -> Result<Vec<String>> {
    let mut conditions = Vec::new();
    match &work.part {
        Part::Whole => {}
        Part::Refused => {
            return Err(
                Error::new(ErrorKind::SliceExpired, "the stream could not be planned").hint("the plan is made again")
            );
        }
        Part::Blocks { from, to, .. } => {
            if *from > 0 {
                conditions.push(format!("ctid >= '({from},0)'"));
            }
            if let Some(to) = to {
                conditions.push(format!("ctid < '({to},0)'"));
            }
        }
        Part::Keys { column, range } => {
            let mut range = range.clone();
            if let Some(Position::Upto(key)) = from {
                range.after = Some(key.clone());
            }
            conditions.extend(range.conditions(&SQL.name(column)?, |value| SQL.text(value))?);
        }
        Part::Interval { column, from, to } => {
            let column = SQL.name(column)?;
            conditions.push(format!("{column} >= {} AND {column} < {}", SQL.text(from)?, SQL.text(to)?));
        }
    }
    if let Some(window) = &work.window {
        conditions.extend(window_conditions(window, from)?);
    }
    conditions.extend(filter(work.filter.as_deref()));
    Ok(conditions)
}

/// `where` of a stream, on lines of its own: a comment at its end hides nothing of ours.
pub(crate) fn filter(filter: Option<&str>) -> Option<String> {
    filter.map(|filter| format!("(\n{filter}\n)"))
}

/// The rows that a transaction from `xid` on wrote. `age` counts transactions back from now in 32 bits with sign, so
/// rows from more than 2^31 transactions ago have a negative one and are old; rows from exactly 2^32 ago cannot be told.
fn written_since(xid: u32) -> String {
    format!("pg_catalog.age(xmin) BETWEEN 0 AND pg_catalog.age('{xid}'::pg_catalog.xid)")
}

/// The conditions of a window; see "Incremental" in the README.
pub(crate) fn window_conditions(window: &Window, from: Option<&Position>) -> Result<Vec<String>> {
    let column = SQL.name(&window.column)?;
    let or_null = if window.nulls { format!(" OR {column} IS NULL") } else { String::new() };
    let mut conditions = Vec::new();
    let resumed = match from {
        Some(Position::Upto(value)) => Some(value),
        _ => None,
    };
    // What was read in order ends after its last value; a bound of late rows is one that they may still have.
    let from = resumed.map(|value| (">", value)).or(window.low.as_ref().map(|low| (">=", low)));
    if let Some((above, low)) = from {
        conditions.push(format!("({column} {above} {}{or_null})", SQL.text(low)?));
    }
    match (&window.after, window.since) {
        (Some(after), Some(xid)) => {
            conditions.push(format!("({column} > {} OR {})", SQL.text(after)?, written_since(xid)));
        }
        (Some(after), None) => conditions.push(format!("{column} > {}", SQL.text(after)?)),
        (None, Some(xid)) => conditions.push(written_since(xid)),
        (None, None) => {}
    }
    if let Some(upto) = &window.upto {
        conditions.push(format!("({column} <= {}{or_null})", SQL.text(upto)?));
    }
    if let Some(xid) = window.before {
        let later = written_since(xid);
        conditions.push(match &window.next_low {
            Some(low) => format!("NOT (({column} >= {}{or_null}) AND {later})", SQL.text(low)?),
            None => format!("NOT ({later})"),
        });
    }
    for read in &window.intervals {
        let (from, to, later) = (SQL.text(&read.from)?, SQL.text(&read.to)?, written_since(low_half(read.xid)));
        conditions.push(format!("({column} >= {from} AND {column} < {to} AND NOT ({later})) IS NOT TRUE"));
    }
    Ok(conditions)
}
