//! Windows of an incremental read.

use ingest_core::{Error, ErrorKind, Result};
use ingest_sql::Dialect;

use crate::catalog::{Cells, Column, Table};
use crate::moment::{Moment, low_half};
use crate::select::{filter, window_conditions};
use crate::text;
use crate::types::Kind;
use crate::wire::Connection;
use crate::work::{Interval, Part, Progress, Window};

const SECOND: i64 = 1_000_000;
/// How far a clock that fills a cursor may be behind the server's.
const SLACK: i64 = 3_600 * SECOND;
/// A column without a zone holds the local time of whoever wrote it: up to 12 hours behind UTC.
const LOCAL: i64 = 12 * 3_600 * SECOND;
const DAY: i64 = 24 * 3_600 * SECOND;
/// Remembered earlier values of a cursor that is no clock.
const TRAIL: usize = 32;
/// Transaction numbers that are further apart cannot be compared in 32 bits.
const COMPARABLE: u64 = 2_000_000_000;

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
    Err(Error::config("the cursor column has a type without a useful order")
        .with("cursor", name)
        .hint("a cursor is a timestamp, a date, an integer, a numeric, a text or a uuid"))
}

/// Whether rows can be read by this column.
pub(crate) fn is_cursor(column: &Column) -> bool {
    column.cast == crate::types::Cast::None
        && (is_clock(&column.kind)
            || matches!(
                column.kind,
                Kind::Int16 | Kind::Int32 | Kind::Int64 | Kind::Decimal { .. } | Kind::Text | Kind::Uuid
            ))
}

fn is_clock(kind: &Kind) -> bool {
    matches!(kind, Kind::Timestamp | Kind::TimestampTz | Kind::Date)
}

/// Plans the window from a position (`None` = the first load) to a moment.
pub(crate) async fn window(
    connection: &mut Connection,
    table: &Table,
    column: &Column,
    row_filter: Option<&str>,
    position: Option<&Progress>,
    moment: &Horizon,
) -> Result<Planned> {
    if let Some(position) = position
        && position.column != column.name
    {
        return Err(Error::new(ErrorKind::CheckpointInvalid, "the cursor of the stream was changed")
            .with("was", &position.column)
            .with("is", &column.name)
            .hint("`ingest state reset` forgets the position, then the table is loaded again"));
    }
    let mut warnings = Vec::new();
    let trusted = position.is_some_and(|position| {
        let doubt = doubt(table, position, moment);
        warnings.extend(doubt.map(|doubt| format!(
            "{doubt}; rows of column \"{}\" above the last position are read, rows that were committed late below it, or whose cursor is null, are left out this time",
            column.name
        )));
        doubt.is_none()
    });
    let versions = table.has_versions();
    warnings.extend(held_back(moment).filter(|_| versions));
    let mut window = Window {
        column: column.name.clone(),
        nulls: !column.not_null && (position.is_none() || trusted),
        after: position.and_then(|position| position.after.clone()),
        low: position.filter(|_| trusted).and_then(|position| position.low.clone()),
        since: position.filter(|_| trusted).map(|position| low_half(position.xid)),
        next_low: next_low(column, position, moment),
        before: (versions && moment.horizon < moment.next).then(|| low_half(moment.horizon)),
        upto: None,
        ordered: table.indexed.contains(&column.name),
        intervals: position.filter(|_| trusted).map(|position| position.intervals.clone()).unwrap_or_default(),
    };
    let (upto, rows) = extent(connection, table, &window, row_filter).await?;
    window.upto.clone_from(&upto);
    // From now on rows can come of transactions that were not there yet: the bound is part of the window.
    window.before = versions.then(|| low_half(moment.horizon));
    let mut low = window.next_low.clone();
    if is_clock(&column.kind)
        && let (Some(bound), Some(upto)) = (&low, &upto)
    {
        low = Some(lower_of(connection, table, column, bound, upto).await?);
        // What this window leaves to the next is what the next one takes, also at the highest value itself.
        window.next_low.clone_from(&low);
    }
    let progress = Progress {
        column: column.name.clone(),
        trail: trail(column, position, moment, upto.as_deref()),
        after: upto,
        low,
        xid: moment.horizon,
        system: moment.system.clone(),
        files: table.files(),
        // The new highest value takes in what intervals have read.
        intervals: Vec::new(),
    };
    Ok(Planned { window, progress, warnings, rows })
}

/// Intervals that are remembered beside a position.
const INTERVALS: usize = 64;

/// Plans an interval of the cursor: the rows that are decided at the moment, and, where the next window would read some of
/// them again, the position that keeps it from that.
pub(crate) async fn interval(
    connection: &mut Connection,
    table: &Table,
    column: &Column,
    row_filter: Option<&str>,
    position: Option<&Progress>,
    moment: &Horizon,
    (start, end): (i64, i64),
) -> Result<(Part, Window, Option<Progress>)> {
    let day = |at: i64| at.div_euclid(DAY) + i64::from(at.rem_euclid(DAY) != 0);
    let (from, to) = match column.kind {
        Kind::TimestampTz => (text::micros(start, true), text::micros(end, true)),
        Kind::Timestamp => (text::micros(start, false), text::micros(end, false)),
        // A date is its midnight.
        Kind::Date => (text::micros(day(start) * DAY, false), text::micros(day(end) * DAY, false)),
        _ => {
            return Err(Error::config("an interval needs a cursor that is a timestamp or a date")
                .with("stream", &table.stream)
                .with("cursor", &column.name));
        }
    };
    let part = Part::Interval { column: column.name.clone(), from: from.clone(), to: to.clone() };
    let mut window = Window { column: column.name.clone(), ..Window::default() };
    if table.has_versions() {
        window.before = Some(low_half(moment.horizon));
    }
    let Some(position) = position else { return Ok((part, window, None)) };
    if doubt(table, position, moment).is_some() {
        // What the next window reads cannot be told by transactions: it is left to it.
        window.upto.clone_from(&position.after);
        return Ok((part, window, None));
    }
    let next = Window {
        after: position.after.clone(),
        low: position.low.clone(),
        since: Some(low_half(position.xid)),
        intervals: position.intervals.clone(),
        ..window.clone()
    };
    let mut conditions = window_conditions(&next, None)?;
    let name = Dialect::Postgres.name(&column.name)?;
    conditions.push(format!(
        "{name} >= {} AND {name} < {}",
        Dialect::Postgres.text(&from)?,
        Dialect::Postgres.text(&to)?
    ));
    conditions.extend(filter(row_filter));
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {} WHERE {})", table.path()?, conditions.join(" AND "));
    if !Cells::new(connection.query(&sql).await?.into_iter().next().unwrap_or_default()).flag()? {
        return Ok((part, window, None));
    }
    let mut progress = position.clone();
    progress.intervals.retain(|read| (&read.from, &read.to) != (&from, &to));
    progress.intervals.push(Interval { from, to, xid: moment.horizon });
    if progress.intervals.len() > INTERVALS {
        return Err(Error::config("too many intervals were run since the last run without one")
            .with("stream", &table.stream)
            .with("most", INTERVALS)
            .hint("run once without --interval-start and --interval-end"));
    }
    Ok((part, window, Some(progress)))
}

/// The parts of a [`Moment`] that windows need.
#[derive(Debug, Clone, Default)]
pub(crate) struct Horizon {
    horizon: u64,
    next: u64,
    oldest: Option<i64>,
    now: i64,
    system: Option<String>,
}

impl From<&Moment> for Horizon {
    fn from(moment: &Moment) -> Self {
        Self {
            horizon: moment.horizon,
            next: moment.next,
            oldest: moment.oldest,
            now: moment.now,
            system: moment.system.clone(),
        }
    }
}

/// Why the transaction numbers of a position say nothing about the table as it is now.
fn doubt(table: &Table, position: &Progress, moment: &Horizon) -> Option<&'static str> {
    if !table.has_versions() {
        return Some("rows of views and foreign tables do not say which transaction wrote them");
    }
    if position.system.is_some() && moment.system.is_some() && position.system != moment.system {
        return Some("this is another server than the one that was read last");
    }
    if position.xid > moment.next {
        return Some("the server was restored to an earlier time");
    }
    if moment.next - position.xid > COMPARABLE {
        return Some("the last position is more than 2,000,000,000 transactions old");
    }
    (position.files != table.files())
        .then_some("the table was rewritten since the last run, or partitions were attached or detached")
}

/// What is said when rows wait for a transaction that has been open for long. A short one is the rule on a busy server.
fn held_back(moment: &Horizon) -> Option<String> {
    let began = moment.oldest.filter(|began| moment.horizon < moment.next && moment.now - began > 60 * SECOND)?;
    Some(format!(
        "transactions are open that have written, the oldest open one since {}: what was committed after they began to write waits for the next run",
        text::micros(began, true)
    ))
}

/// Above which value rows of open transactions may still come. `None` = any.
fn next_low(column: &Column, position: Option<&Progress>, moment: &Horizon) -> Option<String> {
    let began = moment.oldest? - SLACK;
    match column.kind {
        Kind::TimestampTz => Some(text::micros(began, true)),
        Kind::Timestamp => Some(text::micros(began - LOCAL, false)),
        Kind::Date => Some(text::micros(began - LOCAL - DAY, false)),
        _ => {
            // A sequence gave higher numbers to whoever began later.
            let trail = position.map(|position| position.trail.as_slice()).unwrap_or_default();
            trail.iter().rev().find(|(at, _)| *at < began).map(|(_, value)| value.clone())
        }
    }
}

/// What is remembered of earlier values: the newest that is old enough to bound what is open, and all after it.
fn trail(column: &Column, position: Option<&Progress>, moment: &Horizon, upto: Option<&str>) -> Vec<(i64, String)> {
    if is_clock(&column.kind) {
        return Vec::new();
    }
    let mut trail = position.map(|position| position.trail.clone()).unwrap_or_default();
    if let Some(began) = moment.oldest.map(|oldest| oldest - SLACK)
        && let Some(used) = trail.iter().rposition(|(at, _)| *at < began)
    {
        trail.drain(..used);
    }
    trail.extend(upto.map(|upto| (moment.now, upto.to_owned())));
    if trail.len() > TRAIL {
        // Every second one goes; an older value is a lower and so a safe bound.
        let mut keep = false;
        trail.retain(|_| {
            keep = !keep;
            keep
        });
    }
    trail
}

/// The highest value in a window, and whether it holds any row. What intervals have read counts for the highest value.
async fn extent(
    connection: &mut Connection,
    table: &Table,
    window: &Window,
    row_filter: Option<&str>,
) -> Result<(Option<String>, bool)> {
    let all = |window: &Window| -> Result<String> {
        let mut conditions = window_conditions(window, None)?;
        conditions.extend(filter(row_filter));
        Ok(if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") })
    };
    let (left, conditions) = (all(window)?, all(&Window { intervals: Vec::new(), ..window.clone() })?);
    let (path, column) = (table.path()?, Dialect::Postgres.name(&window.column)?);
    let highest = format!("(SELECT max({column}) FROM {path} WHERE {conditions})");
    let highest = match &window.after {
        Some(after) => format!("GREATEST({highest}, {})", Dialect::Postgres.text(after)?),
        None => highest,
    };
    // uuid has an order, but no max() before version 18.
    let highest = if table.column(&window.column).is_some_and(|column| column.kind == Kind::Uuid) {
        let after = window.after.as_deref().map(|after| Dialect::Postgres.text(after)).transpose()?;
        let top = format!(
            "(SELECT {column} FROM {path} WHERE {conditions} AND {column} IS NOT NULL ORDER BY {column} DESC LIMIT 1)"
        );
        after.map_or(top.clone(), |after| format!("GREATEST({top}, {after})"))
    } else {
        highest
    };
    let sql = format!("SELECT ({highest})::pg_catalog.text, EXISTS (SELECT 1 FROM {path} WHERE {left})");
    let rows = connection.query(&sql).await?;
    let mut row = Cells::new(rows.into_iter().next().unwrap_or_default());
    Ok((row.optional()?, row.flag()?))
}

/// The lower of two values of a column, as the server orders them.
async fn lower_of(connection: &mut Connection, table: &Table, column: &Column, a: &str, b: &str) -> Result<String> {
    let (path, name) = (table.path()?, Dialect::Postgres.name(&column.name)?);
    let (a, b) = (Dialect::Postgres.text(a)?, Dialect::Postgres.text(b)?);
    // The column gives its type to the values; no row is read for it.
    let sql = format!("SELECT LEAST((SELECT {name} FROM {path} WHERE false), {a}, {b})::pg_catalog.text");
    Cells::new(connection.query(&sql).await?.into_iter().next().unwrap_or_default()).text()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::Field;

    use super::*;
    use crate::types::Cast;

    fn column(kind: Kind) -> Column {
        Column {
            name: "c".into(),
            field: Arc::new(Field::new("c", kind.data_type(), true)),
            kind,
            cast: Cast::None,
            wire_type: (0, -1),
            not_null: true,
        }
    }

    fn horizon(oldest: Option<i64>, now: i64) -> Horizon {
        Horizon { horizon: 10, next: 10, oldest, now, system: None }
    }

    #[test]
    fn a_number_is_bounded_by_what_was_seen_before_the_oldest_transaction_began() {
        let id = column(Kind::Int64);
        let mut position = Progress::default();
        for (hour, value) in [(0, "10"), (1, "20"), (2, "30")] {
            position.trail = trail(&id, Some(&position), &horizon(None, hour * SLACK), Some(value));
        }
        assert_eq!(next_low(&id, Some(&position), &horizon(Some(0), 0)), None);
        assert_eq!(next_low(&id, Some(&position), &horizon(Some(SLACK * 2 + 1), 0)).as_deref(), Some("20"));
        assert_eq!(next_low(&id, Some(&position), &horizon(None, 0)), None, "what is open cannot be seen");
    }

    #[test]
    fn only_a_transaction_that_is_open_for_long_is_worth_a_word() {
        let at =
            |horizon, oldest| Horizon { horizon, next: 12, oldest: Some(oldest), now: 1_000 * SECOND, system: None };
        assert!(held_back(&at(10, 900 * SECOND)).is_some());
        assert!(held_back(&at(10, 999 * SECOND)).is_none());
        assert!(held_back(&at(12, 900 * SECOND)).is_none(), "it has not written");
    }

    #[test]
    fn the_trail_stays_short() {
        let id = column(Kind::Int64);
        let mut position = Progress::default();
        for minute in 0..10_000 {
            position.trail = trail(&id, Some(&position), &horizon(Some(0), minute * 60 * SECOND), Some("1"));
        }
        assert!(position.trail.len() <= TRAIL + 1);
    }

    #[test]
    fn a_clock_is_bounded_by_the_oldest_transaction_with_slack() {
        let at = 1_767_225_600 * SECOND;
        let bound = |kind| next_low(&column(kind), None, &horizon(Some(at), at));
        assert_eq!(bound(Kind::TimestampTz).as_deref(), Some("2025-12-31 23:00:00+00"));
        assert_eq!(bound(Kind::Timestamp).as_deref(), Some("2025-12-31 11:00:00"));
    }
}
