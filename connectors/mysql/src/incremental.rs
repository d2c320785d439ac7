//! Windows of an incremental read.

use ingest_core::{Error, ErrorKind, Result, Selected, SliceId};
use ingest_sql::Dialect;

use crate::catalog::{Column, Sort, Table};
use crate::cells::{DAY, SECOND, print_days, print_micros};
use crate::moment::{Moment, SLACK};
use crate::select::{filter, literal};
use crate::server::Connection;
use crate::types::Kind;
use crate::work::{Edge, Part, Position, Progress, Window};

/// Id under which an incremental stream keeps its position.
pub(crate) const CURSOR: &str = "cursor";
/// Remembered earlier values of a cursor that is no clock.
const TRAIL: usize = 32;

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
        .hint("a cursor is a timestamp, a datetime, a date, an integer or a decimal"))
}

/// Whether rows can be read by this column.
pub(crate) fn is_cursor(column: &Column) -> bool {
    column.kind.is_clock() || column.kind.is_integer() || matches!(column.kind, Kind::Decimal { .. })
}

/// The highest value of the cursor behind the position. To be read before [`Moment::settle`]: whoever has written a lower
/// one that cannot be seen yet is then among what is open, or has ended.
pub(crate) async fn highest(
    connection: &mut Connection,
    table: &Table,
    selected: &Selected<Position>,
) -> Result<Option<Edge>> {
    let column = cursor(table, selected.cursor.as_deref())?;
    let after = progress(selected).and_then(|position| position.after.as_ref());
    let row_filter = selected.filter.as_deref();
    Extent { connection, table, column, row_filter, after }.highest(None).await
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
    highest: Option<Edge>,
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
    let oldest = moment.oldest.filter(|_| table.sort != Sort::Foreign);
    let mut trail = position.map(|position| position.trail.clone()).unwrap_or_default();
    let upto = match column.kind.is_clock() {
        true => extent.highest(Some(bound(column.kind, moment, oldest))).await?,
        false => match oldest {
            None => highest.clone(),
            Some(began) => known_before(&trail, began),
        },
    };
    let upto = upto.or_else(|| after.clone());
    if !column.kind.is_clock() {
        remember(&mut trail, moment.now, oldest, highest.clone());
    }
    let window = Window {
        column: column.name.clone(),
        nulls: !column.not_null && position.is_none(),
        from: after.clone(),
        upto: upto.clone(),
        ordered: table.indexed.contains(&column.name),
    };
    let rows = upto != after || (window.nulls && extent.nulls().await?);
    let warnings = waiting(column, oldest, highest.as_ref() != upto.as_ref() && highest.is_some());
    let progress = Progress { column: column.name.clone(), after: upto, trail };
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
    /// The highest value behind the position and below a bound, as the server prints it.
    async fn highest(&mut self, below: Option<Edge>) -> Result<Option<Edge>> {
        let name = Dialect::MySql.name(&self.column.name)?;
        let mut conditions = Vec::new();
        if let Some(after) = self.after {
            conditions.push(format!("{name} > {}", literal(self.column.kind, after)?));
        }
        if let Some(below) = below {
            conditions.push(format!("{name} < {}", literal(self.column.kind, &below)?));
        }
        let sql = self.select(&format!("CAST(MAX({name}) AS CHAR)"), conditions)?;
        let rows: Vec<(Option<Edge>,)> =
            self.connection.rows(&sql, "cannot read the highest value of the cursor").await?;
        Ok(rows.into_iter().next().and_then(|(highest,)| highest))
    }

    /// Whether there are rows without a value.
    async fn nulls(&mut self) -> Result<bool> {
        let name = Dialect::MySql.name(&self.column.name)?;
        let sql = self.select("1", vec![format!("{name} IS NULL")])? + " LIMIT 1";
        let rows: Vec<(i64,)> = self.connection.rows(&sql, "cannot look for rows without a cursor").await?;
        Ok(!rows.is_empty())
    }

    fn select(&self, what: &str, mut conditions: Vec<String>) -> Result<String> {
        conditions.extend(filter(self.row_filter));
        let conditions = if conditions.is_empty() { "TRUE".to_owned() } else { conditions.join(" AND ") };
        Ok(format!("SELECT {what} FROM {} WHERE {conditions}", self.table.path()?))
    }
}

/// The first value of a clock that an open transaction may still bring, or that may be written from now on.
fn bound(kind: Kind, moment: &Moment, oldest: Option<i64>) -> Edge {
    let open = oldest.map_or(moment.now, |began| (began - SLACK).div_euclid(SECOND) * SECOND);
    let utc = moment.now.min(open);
    match kind {
        Kind::Timestamp => print_micros(utc),
        // A date is over when its day is.
        Kind::Date => print_days((utc + moment.zone).div_euclid(DAY)),
        _ => print_micros(utc + moment.zone),
    }
}

/// The highest value that was there before a transaction began: numbers are given out in order, so it brings higher ones.
fn known_before(trail: &[(i64, Edge)], began: i64) -> Option<Edge> {
    trail.iter().rev().find(|(at, _)| *at < began - SLACK).map(|(_, value)| value.clone())
}

/// Notes the highest value at a time, and forgets what is older than what the next window can need.
fn remember(trail: &mut Vec<(i64, Edge)>, now: i64, oldest: Option<i64>, highest: Option<Edge>) {
    let needed = oldest.unwrap_or(now) - SLACK;
    if let Some(used) = trail.iter().rposition(|(at, _)| *at < needed) {
        trail.drain(..used);
    }
    trail.extend(highest.map(|highest| (now, highest)));
    if trail.len() > TRAIL {
        // Every second one goes; an older value is a lower and so a safe bound.
        let mut keep = false;
        trail.retain(|_| {
            keep = !keep;
            keep
        });
    }
}

/// What is said when rows wait for a later run.
fn waiting(column: &Column, oldest: Option<i64>, left: bool) -> Vec<String> {
    let why = match oldest {
        _ if !left => return Vec::new(),
        Some(began) => format!("what is open since {} could still bring lower ones", print_micros(began)),
        None => "their time has not come yet at the server".to_owned(),
    };
    vec![format!("the highest values of column \"{}\" wait for a later run: {why}", column.name)]
}

/// An interval of the cursor, as a part of the table. Times without a zone are compared as they are in the lake: as UTC.
pub(crate) fn interval(table: &Table, column: &Column, (start, end): (i64, i64)) -> Result<Part> {
    // A date is its midnight.
    let day = |at: i64| print_days(at.div_euclid(DAY) + i64::from(at.rem_euclid(DAY) != 0));
    let (from, to) = match column.kind {
        Kind::Timestamp | Kind::DateTime => (print_micros(start), print_micros(end)),
        Kind::Date => (day(start), day(end)),
        _ => {
            return Err(Error::config("an interval needs a cursor that is a timestamp, a datetime or a date")
                .with("stream", &table.stream)
                .with("cursor", &column.name));
        }
    };
    Ok(Part::Interval { column: column.name.clone(), from, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(hours: &[(i64, &str)]) -> Vec<(i64, Edge)> {
        hours.iter().map(|(hour, value)| (hour * 3_600 * SECOND, (*value).to_owned())).collect()
    }

    #[test]
    fn a_number_is_bounded_by_what_was_seen_before_the_oldest_transaction_began() {
        let trail = trail(&[(0, "10"), (1, "20"), (2, "30")]);
        let hour = 3_600 * SECOND;
        assert_eq!(known_before(&trail, 0), None);
        assert_eq!(known_before(&trail, hour + SLACK), Some("10".into()), "its statement may have begun earlier");
        assert_eq!(known_before(&trail, hour + SLACK + 1), Some("20".into()));
        assert_eq!(known_before(&trail, 9 * hour), Some("30".into()));
    }

    #[test]
    fn the_trail_stays_short() {
        let mut trail = Vec::new();
        for minute in 0..10_000 {
            remember(&mut trail, minute * 60 * SECOND, Some(0), Some("1".into()));
        }
        assert!(trail.len() <= TRAIL + 1);
        remember(&mut trail, 10_000 * 60 * SECOND, None, Some("1".into()));
        assert!(trail.len() <= 2, "nothing is open: what came before is not needed");
    }
}
