//! The slices of a plan.

use std::collections::BTreeMap;

use ingest_core::{Error, Estimate, Mode, Plan, PlanRequest, Result, Selected, Shape, Slice, SliceId};
use ingest_sql::{Dialect, KeyRange, cut_integers};

use crate::catalog::{Column, Table};
use crate::config::Clock;
use crate::incremental::{self, Planned};
use crate::moment::Moment;
use crate::select::filter;
use crate::server::{Connection, integer};
use crate::work::{Part, Position, Window, Work};

/// Ranges of one stream; the runner's limit is 100,000 slices a plan.
const MOST_RANGES: u64 = 10_000;

/// What planning a stream needs.
pub(crate) struct Planner<'a> {
    pub(crate) request: &'a PlanRequest<Position>,
    /// Taken where a stream is read by a cursor.
    pub(crate) moment: Option<Moment>,
    pub(crate) clock: Option<Clock>,
}

impl Planner<'_> {
    /// Adds the slices of a stream to the plan.
    pub(crate) async fn stream(
        &self,
        connection: &mut Connection,
        table: &Table,
        selected: &Selected<Position>,
        plan: &mut Plan<Work, Position>,
    ) -> Result<()> {
        let work = Work { columns: selected.columns.clone(), filter: selected.filter.clone(), ..Work::default() };
        expect_columns(table, selected)?;
        match (selected.mode, self.request.interval) {
            (Mode::Full, None) => {
                let slices = self.all(connection, table, work).await?;
                plan.slices.extend(slices);
                Ok(())
            }
            (_, Some(interval)) => self.interval(table, selected, work, interval, plan),
            (Mode::Incremental, None) => self.incremental(connection, table, selected, work, plan).await,
            (Mode::Cdc, None) => Err(Error::unexpected("changes are planned apart from other reads")),
        }
    }

    async fn incremental(
        &self,
        connection: &mut Connection,
        table: &Table,
        selected: &Selected<Position>,
        mut work: Work,
        plan: &mut Plan<Work, Position>,
    ) -> Result<()> {
        let position = incremental::progress(selected);
        let moment = self.moment.as_ref();
        let moment =
            moment.ok_or_else(|| Error::unexpected("a plan by a cursor was made without the server's time"))?;
        let planned = incremental::window(connection, table, selected, moment, self.clock).await?;
        let Planned { window, progress, warnings, rows } = planned;
        if !rows && warnings.is_empty() && position == Some(&progress) {
            return Ok(());
        }
        work.warnings = warnings;
        work.window = Some(window);
        let slices = match position {
            Some(_) => vec![self.slice(table, 0, work, Estimate::default())],
            None => self.all(connection, table, work).await?,
        };
        plan.slices.extend(slices);
        let position = Some(Position::Read(progress));
        plan.then.insert(table.stream.clone(), BTreeMap::from([(SliceId::from(incremental::CURSOR), position)]));
        Ok(())
    }

    fn interval(
        &self,
        table: &Table,
        selected: &Selected<Position>,
        mut work: Work,
        interval: (i64, i64),
        plan: &mut Plan<Work, Position>,
    ) -> Result<()> {
        let column = incremental::cursor(table, selected.cursor.as_deref())?;
        work.part = incremental::interval(table, column, interval)?;
        // What lies beyond the position is the next window's.
        work.window = incremental::progress(selected).map(|progress| Window {
            column: column.name.clone(),
            upto: progress.after.clone(),
            ..Window::default()
        });
        plan.slices.push(self.slice(table, 0, work, Estimate::default()));
        Ok(())
    }

    /// Slices that together hold all rows: ranges of the key where there is one that can be cut.
    pub(crate) async fn all(&self, connection: &mut Connection, table: &Table, work: Work) -> Result<Vec<Slice<Work>>> {
        let estimate = Estimate { rows: table.rows, bytes: Some(table.bytes).filter(|bytes| *bytes > 0), calls: None };
        let Some(key) = table.range_key() else {
            return Ok(vec![self.slice(table, 0, work, estimate)]);
        };
        let count = table.bytes.div_ceil(self.target(table.bytes)).clamp(1, MOST_RANGES);
        let ranges = match u32::try_from(count) {
            Ok(count @ 2..) if key.kind.is_integer() => {
                ranges(connection, table, key, count, work.filter.as_deref()).await?
            }
            _ => vec![KeyRange::default()],
        };
        let count = u64::try_from(ranges.len()).unwrap_or(1);
        let share = Estimate {
            rows: estimate.rows.map(|rows| rows / count),
            bytes: estimate.bytes.map(|bytes| bytes / count),
            calls: None,
        };
        let slices = ranges.into_iter().enumerate().map(|(i, range)| {
            let part = Part::Keys { column: key.name.clone(), range };
            self.slice(table, i, Work { part, ..work.clone() }, share)
        });
        Ok(slices.collect())
    }

    fn target(&self, bytes: u64) -> u64 {
        let slices = u64::from(self.request.min_slices.max(1));
        self.request.slice_bytes.min(bytes.div_ceil(slices)).max(bytes / MOST_RANGES).max(1)
    }

    fn slice(&self, table: &Table, number: usize, work: Work, estimate: Estimate) -> Slice<Work> {
        Slice {
            id: SliceId::new(format!("{}#{number}", table.stream)),
            streams: vec![table.stream.clone()],
            shape: Shape::Window,
            work,
            estimate,
        }
    }
}

pub(crate) fn expect_columns(table: &Table, selected: &Selected<Position>) -> Result<()> {
    for name in selected.columns.iter().flatten() {
        if table.column(name).is_none() {
            let near = ingest_core::nearest(name, table.columns.iter().map(|c| c.name.as_str()));
            return Err(Error::config("a selected column is no column of the table").with("column", name).hint(
                near.map_or("`ingest discover` lists the columns".to_owned(), |near| format!("did you mean `{near}`?")),
            ));
        }
    }
    Ok(())
}

/// Ranges of equal width between the least and the greatest key, which the server finds in its index.
async fn ranges(
    connection: &mut Connection,
    table: &Table,
    key: &Column,
    count: u32,
    row_filter: Option<&str>,
) -> Result<Vec<KeyRange>> {
    let (path, name) = (table.path()?, Dialect::SqlServer.name(&key.name)?);
    let condition = filter(row_filter).map_or(String::new(), |filter| format!(" WHERE {filter}"));
    let sql = format!("SELECT MIN({name}), MAX({name}) FROM {path}{condition}");
    let rows = connection.rows(&sql, "cannot read the ends of the key").await?;
    let end = |i| rows.first().and_then(|row| integer(row, i));
    Ok(match (end(0), end(1)) {
        (Some(least), Some(greatest)) => cut_integers(least, greatest, count),
        _ => vec![KeyRange::default()],
    })
}
