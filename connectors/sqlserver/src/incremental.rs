//! Windows of an incremental read.

use ingest_core::{Error, ErrorKind, Result, Selected, SliceId};
use ingest_sql::Dialect;

use crate::catalog::{Column, Table};
use crate::cells::{self, DAY, print_days, print_micros};
use crate::config::Clock;
use crate::moment::Moment;
use crate::select::{filter, literal};
use crate::server::{Connection, integer};
use crate::types::Kind;
use crate::work::{Edge, Part, Position, Progress, Window};

/// Id under which an incremental stream keeps its position.
pub(crate) const CURSOR: &str = "cursor";

/// A window to read, and what holds afterwards.
pub(crate) struct Planned {
    pub(crate) window: Window,
    pub(crate) progress: Progress,
    pub(crate) warnings: Vec<String>,
    /// Whether there is anything in the window.
    pub(crate) rows: bool,
}

/// The cursor column of a stream.
pub(crate) fn cursor<'a>(table: &'a Table, name: Option<&str>) -> Result<&'a Column> {
    let name = name.ok_or_else(|| {
        Error::config("an incremental read needs a cursor")
            .hint("set `cursor` of the stream to a column that grows with every change, or `mode: full`")
    })?;
    let column = table.column(name).ok_or_else(|| {
        let near = ingest_core::nearest(name, table.columns.iter().map(|c| c.name.as_str()));
        Error::config("the cursor is no column of the table").with("cursor", name).hint(
            near.map_or("`ingest discover` lists the columns".to_owned(), |near| format!("did you mean `{near}`?")),
        )
    })?;
    if is_cursor(column) {
        return Ok(column);
    }
    Err(Error::config("the column cannot be a cursor: a late commit could not be seen by it")
        .with("cursor", name)
        .hint("a cursor is a rowversion, or a date or time; ALTER TABLE … ADD changed rowversion gives a table one"))
}

/// Whether rows can be read by this column.
pub(crate) fn is_cursor(column: &Column) -> bool {
    column.kind.is_clock() || column.kind == Kind::RowVersion
}

/// The position of an incremental stream.
pub(crate) fn progress(selected: &Selected<Position>) -> Option<&Progress> {
    match selected.positions.get(&SliceId::from(CURSOR)) {
        Some(Position::Read(progress)) => Some(progress),
        _ => None,
    }
}

/// Plans the window from the position (none = the first load) to a moment.
pub(crate) async fn window(
    connection: &mut Connection,
    table: &Table,
    selected: &Selected<Position>,
    moment: &Moment,
    clock: Option<Clock>,
) -> Result<Planned> {
    let column = cursor(table, selected.cursor.as_deref())?;
    let (position, row_filter) = (progress(selected), selected.filter.as_deref());
    if let Some(position) = position
        && position.column != column.name
    {
        return Err(Error::new(ErrorKind::CheckpointInvalid, "the cursor of the stream was changed")
            .with("was", &position.column)
            .with("is", &column.name)
            .hint("`ingest state reset` forgets the position, then the table is loaded again"));
    }
    let after = position.and_then(|position| position.after.clone());
    let mut extent = Extent { connection, table, column, row_filter, after: after.as_ref() };
    let highest = extent.highest(None).await?;
    let upto = extent.highest(Some(bound(column.kind, moment, clock))).await?.or_else(|| after.clone());
    let window = Window {
        column: column.name.clone(),
        nulls: !column.not_null && position.is_none(),
        from: after.clone(),
        upto: upto.clone(),
        ordered: column.kind.is_exact() && table.indexed.contains(&column.name),
    };
    let rows = upto != after || (window.nulls && extent.nulls().await?);
    let warnings = waiting(column, moment, highest.is_some() && highest != upto);
    let progress = Progress { column: column.name.clone(), after: upto };
    Ok(Planned { window, progress, warnings, rows })
}

/// Looks at the values of the cursor behind a position.
struct Extent<'a> {
    connection: &'a mut Connection,
    table: &'a Table,
    column: &'a Column,
    row_filter: Option<&'a str>,
    after: Option<&'a Edge>,
}

impl Extent<'_> {
    /// The highest value behind the position and below a bound, with all its digits.
    async fn highest(&mut self, below: Option<Edge>) -> Result<Option<Edge>> {
        let name = Dialect::SqlServer.name(&self.column.name)?;
        let mut conditions = Vec::new();
        if let Some(after) = self.after {
            conditions.push(format!("{name} > {}", literal(self.column.kind, after)?));
        }
        if let Some(below) = below {
            conditions.push(format!("{name} < {}", literal(self.column.kind, &below)?));
        }
        // Of a rowversion there is no MAX.
        let sql = self.select(&format!("TOP (1) {name}"), conditions)? + &format!(" ORDER BY {name} DESC");
        let rows = self.connection.rows(&sql, "cannot read the highest value of the cursor").await?;
        Ok(rows.first().and_then(|row| cells::print(row.get_column_data(0).ok()?)))
    }

    /// Whether there are rows without a value.
    async fn nulls(&mut self) -> Result<bool> {
        let name = Dialect::SqlServer.name(&self.column.name)?;
        let sql = self.select("COUNT_BIG(*)", vec![format!("{name} IS NULL")])?;
        let rows = self.connection.rows(&sql, "cannot look for rows without a cursor").await?;
        Ok(rows.first().and_then(|row| integer(row, 0)).is_some_and(|count| count > 0))
    }

    fn select(&self, what: &str, mut conditions: Vec<String>) -> Result<String> {
        conditions.extend(filter(self.row_filter));
        let path = self.table.path()?;
        Ok(match conditions.is_empty() {
            true => format!("SELECT {what} FROM {path}"),
            false => format!("SELECT {what} FROM {path} WHERE {}", conditions.join(" AND ")),
        })
    }
}

/// The first value that an open transaction may still bring, or that may be written from now on.
fn bound(kind: Kind, moment: &Moment, clock: Option<Clock>) -> Edge {
    const MINUTE: i64 = 60 * cells::SECOND;
    let local = moment.bound_without_zone(clock);
    match kind {
        Kind::RowVersion => moment.row_version.clone(),
        Kind::Instant { .. } => format!("{}+00:00", print_micros(moment.bound(), 0)),
        // A date is over when its day is.
        Kind::Date => print_days(local.div_euclid(DAY)),
        Kind::Minute => print_micros(local.div_euclid(MINUTE) * MINUTE, 0),
        _ => print_micros(local, 0),
    }
}

/// What is said when rows wait for a later run.
fn waiting(column: &Column, moment: &Moment, left: bool) -> Vec<String> {
    let why = match moment.oldest {
        _ if !left => return Vec::new(),
        _ if column.kind == Kind::RowVersion => "a transaction that is open could still bring lower ones".to_owned(),
        Some(began) => format!("what is open since {} could still bring lower ones", print_micros(began, 0)),
        None => "their time has not come yet at the server".to_owned(),
    };
    vec![format!("the highest values of column \"{}\" wait for a later run: {why}", column.name)]
}

/// An interval of the cursor, as a part of the table. Times without a zone are compared as they are in the lake: as UTC.
pub(crate) fn interval(table: &Table, column: &Column, (start, end): (i64, i64)) -> Result<Part> {
    // A date is its midnight.
    let day = |at: i64| print_days(at.div_euclid(DAY) + i64::from(at.rem_euclid(DAY) != 0));
    let print = |at: i64| match column.kind {
        Kind::Instant { .. } => Some(format!("{}+00:00", print_micros(at, 6))),
        Kind::DateTime2 { .. } => Some(print_micros(at, 6)),
        Kind::DateTime | Kind::Minute => Some(print_micros(at, 3)),
        Kind::Date => Some(day(at)),
        _ => None,
    };
    match (print(start), print(end)) {
        (Some(from), Some(to)) => Ok(Part::Interval { column: column.name.clone(), from, to }),
        _ => Err(Error::config("an interval needs a cursor that is a date or a time")
            .with("stream", &table.stream)
            .with("cursor", &column.name)),
    }
}
