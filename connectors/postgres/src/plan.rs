//! The slices of a plan.

use std::collections::BTreeMap;

use ingest_core::{Error, Estimate, Intent, Mode, Plan, PlanRequest, Result, Selected, Shape, Slice, SliceId};
use ingest_sql::{Dialect, cut};

use crate::catalog::{Cells, Column, Part as TablePart, Table};
use crate::config::Read;
use crate::incremental::{self, Horizon, Planned};
use crate::moment::Moment;
use crate::select::filter;
use crate::wire::Connection;
use crate::work::{Part, Position, Progress, Snapshot, Work};

/// `read: auto` takes key ranges above this.
const LARGE: u64 = 4 << 30;
/// TID range scans exist from this version on; before, every range would read the whole table.
const RANGE_SCANS: u32 = 140_000;
/// Ranges of blocks of one stream; the runner's limit is 100,000 slices a plan.
const MOST_RANGES: u64 = 10_000;
/// Id under which an incremental stream keeps its position.
pub(crate) const CURSOR: &str = "cursor";

/// What planning a stream gives.
pub(crate) struct Planner<'a> {
    pub(crate) request: &'a PlanRequest<Position>,
    pub(crate) read: Read,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) horizon: Horizon,
    pub(crate) undecided: bool,
}

impl<'a> Planner<'a> {
    pub(crate) fn new(request: &'a PlanRequest<Position>, read: Read, moment: &Moment) -> Self {
        Self {
            request,
            read,
            snapshot: moment.snapshot.clone(),
            horizon: Horizon::from(moment),
            undecided: moment.horizon < moment.next,
        }
    }

    /// For full loads under a snapshot that hands over to the change log.
    pub(crate) fn under(request: &'a PlanRequest<Position>, read: Read, snapshot: Option<Snapshot>) -> Self {
        Self { request, read, snapshot, horizon: Horizon::default(), undecided: false }
    }

    /// Adds the slices of a stream to the plan.
    pub(crate) async fn stream(
        &self,
        connection: &mut Connection,
        table: &Table,
        selected: &Selected<Position>,
        plan: &mut Plan<Work, Position>,
    ) -> Result<()> {
        let work = Work { columns: selected.columns.clone(), filter: selected.filter.clone(), ..Work::default() };
        self.expect_columns(table, selected)?;
        match (selected.mode, self.request.interval) {
            (Mode::Full, None) => {
                let slices = self.all(connection, table, work).await?;
                plan.slices.extend(slices);
                Ok(())
            }
            (_, Some(interval)) => self.interval(connection, table, selected, work, interval, plan).await,
            (Mode::Incremental, None) => self.incremental(connection, table, selected, work, plan).await,
            (Mode::Cdc, None) => Err(Error::unexpected("changes are planned apart from other reads")),
        }
    }

    pub(crate) fn expect_columns(&self, table: &Table, selected: &Selected<Position>) -> Result<()> {
        for name in selected.columns.iter().flatten() {
            if table.column(name).is_none() {
                let near = ingest_core::nearest(name, table.columns.iter().map(|c| c.name.as_str()));
                return Err(Error::config("a selected column is no column of the table").with("column", name).hint(
                    near.map_or("`ingest discover` lists the columns".to_owned(), |near| {
                        format!("did you mean `{near}`?")
                    }),
                ));
            }
        }
        Ok(())
    }

    async fn incremental(
        &self,
        connection: &mut Connection,
        table: &Table,
        selected: &Selected<Position>,
        mut work: Work,
        plan: &mut Plan<Work, Position>,
    ) -> Result<()> {
        let column = incremental::cursor(table, selected.cursor.as_deref())?;
        let position = progress(selected);
        let planned =
            incremental::window(connection, table, column, selected.filter.as_deref(), position, &self.horizon).await?;
        if !planned.rows && position.is_some() {
            // Nothing new: the old position says the same, and nothing needs to be committed.
            return Ok(());
        }
        let Planned { window, progress, warnings, .. } = planned;
        work.warnings = warnings;
        work.window = Some(window);
        let slices = if position.is_some() {
            vec![self.slice(table, 0, work, Shape::Window, Estimate::default())]
        } else {
            self.all(connection, table, work).await?
        };
        plan.slices.extend(slices);
        let position = Some(Position::Read(Box::new(progress)));
        plan.then.insert(table.stream.clone(), BTreeMap::from([(SliceId::from(CURSOR), position)]));
        Ok(())
    }

    async fn interval(
        &self,
        connection: &mut Connection,
        table: &Table,
        selected: &Selected<Position>,
        mut work: Work,
        interval: (i64, i64),
        plan: &mut Plan<Work, Position>,
    ) -> Result<()> {
        let column = incremental::cursor(table, selected.cursor.as_deref())?;
        let (filter, position) = (selected.filter.as_deref(), progress(selected));
        let (part, window, position) =
            incremental::interval(connection, table, column, filter, position, &self.horizon, interval).await?;
        work.part = part;
        work.window = Some(window);
        plan.slices.push(self.slice(table, 0, work, Shape::Window, Estimate::default()));
        if let Some(progress) = position {
            let position = Some(Position::Read(Box::new(progress)));
            plan.then.insert(table.stream.clone(), BTreeMap::from([(SliceId::from(CURSOR), position)]));
        }
        Ok(())
    }

    /// Slices that together hold all rows.
    pub(crate) async fn all(&self, connection: &mut Connection, table: &Table, work: Work) -> Result<Vec<Slice<Work>>> {
        let estimate = Estimate { rows: table.rows(), bytes: Some(table.bytes()), calls: None };
        let by_key = match self.read {
            Read::Key => true,
            Read::Ctid => false,
            Read::Auto => table.bytes() > LARGE || self.request.intent == Intent::Portable,
        };
        if let (true, Some(key)) = (by_key, table.range_key()) {
            return self.by_key(connection, table, key, work).await;
        }
        // Explain shows the slices that a run would have.
        let shares = self.request.intent == Intent::Explain || self.snapshot.is_some();
        if !shares || self.request.intent == Intent::Portable {
            return Ok(vec![self.slice(table, 0, work, Shape::Window, estimate)]);
        }
        let work = Work { snapshot: self.snapshot.clone(), ..self.under_snapshot(work) };
        let ranges = if connection.version() >= RANGE_SCANS { self.blocks(table) } else { Vec::new() };
        if ranges.is_empty() {
            return Ok(vec![self.slice(table, 0, work, Shape::Snapshot, estimate)]);
        }
        let count = u64::try_from(ranges.len()).unwrap_or(1);
        let share = Estimate {
            rows: estimate.rows.map(|rows| rows / count),
            bytes: estimate.bytes.map(|bytes| bytes / count),
            calls: None,
        };
        let slices = ranges
            .into_iter()
            .enumerate()
            .map(|(i, part)| self.slice(table, i, Work { part, ..work.clone() }, Shape::Snapshot, share));
        Ok(slices.collect())
    }

    /// In the plan's own snapshot nothing of a later transaction is visible: where nothing was open, there is nothing to
    /// leave out.
    fn under_snapshot(&self, mut work: Work) -> Work {
        if let Some(window) = &mut work.window
            && !self.undecided
        {
            window.before = None;
        }
        work
    }

    fn target(&self, bytes: u64) -> u64 {
        let slices = u64::from(self.request.min_slices.max(1));
        self.request.slice_bytes.min(bytes.div_ceil(slices)).max(bytes / MOST_RANGES).max(1)
    }

    /// Ranges of blocks of all parts of a table; empty where it is small or must be read as a whole.
    fn blocks(&self, table: &Table) -> Vec<Part> {
        let target = self.target(table.bytes());
        let divisible = table.parts.iter().all(|part| part.scannable) && !table.hides_rows;
        if !divisible || table.bytes() <= target || table.blocks() < 2 {
            return Vec::new();
        }
        table.parts.iter().flat_map(|part| ranges(part, target)).collect()
    }

    /// Ranges of a key, at values that cut a sample of the rows into equal shares.
    async fn by_key(
        &self,
        connection: &mut Connection,
        table: &Table,
        key: &Column,
        work: Work,
    ) -> Result<Vec<Slice<Work>>> {
        let count = table.bytes().div_ceil(self.target(table.bytes())).clamp(1, MOST_RANGES);
        let bounds =
            if count > 1 { bounds(connection, table, key, count, work.filter.as_deref()).await? } else { Vec::new() };
        let ranges = cut(bounds);
        let count = u64::try_from(ranges.len()).unwrap_or(1);
        let share =
            Estimate { rows: table.rows().map(|rows| rows / count), bytes: Some(table.bytes() / count), calls: None };
        let slices = ranges.into_iter().enumerate().map(|(i, range)| {
            let part = Part::Keys { column: key.name.clone(), range };
            self.slice(table, i, Work { part, ..work.clone() }, Shape::Window, share)
        });
        Ok(slices.collect())
    }

    fn slice(&self, table: &Table, number: usize, work: Work, shape: Shape, estimate: Estimate) -> Slice<Work> {
        Slice {
            id: SliceId::new(format!("{}#{number}", table.stream)),
            streams: vec![table.stream.clone()],
            shape,
            work,
            estimate,
        }
    }
}

/// The position of an incremental stream.
pub(crate) fn progress(selected: &Selected<Position>) -> Option<&Progress> {
    match selected.positions.get(&SliceId::from(CURSOR)) {
        Some(Position::Read(progress)) => Some(progress),
        _ => None,
    }
}

fn ranges(part: &TablePart, target: u64) -> Vec<Part> {
    let count = part.bytes.div_ceil(target).clamp(1, part.blocks.max(1));
    (0..count)
        .map(|i| Part::Blocks {
            schema: part.schema.clone(),
            table: part.name.clone(),
            from: part.blocks * i / count,
            // Rows may lie in blocks that were added since the size was asked.
            to: (i + 1 < count).then(|| part.blocks * (i + 1) / count),
        })
        .collect()
}

async fn bounds(
    connection: &mut Connection,
    table: &Table,
    key: &Column,
    count: u64,
    row_filter: Option<&str>,
) -> Result<Vec<String>> {
    let (path, name) = (table.path()?, Dialect::Postgres.name(&key.name)?);
    // About thirty blocks a slice give shares that are even within a few per cent.
    let percent = (100.0 * 30.0 * count as f64 / table.blocks().max(1) as f64).clamp(0.000_1, 100.0);
    let fractions: Vec<String> = (1..count).map(|i| format!("{:.6}", i as f64 / count as f64)).collect();
    let condition = filter(row_filter).map_or(String::new(), |filter| format!(" WHERE {filter}"));
    let sql = format!(
        "SELECT pg_catalog.unnest(pg_catalog.percentile_disc(ARRAY[{}]::pg_catalog.float8[]) WITHIN GROUP (ORDER BY {name}))::pg_catalog.text \
         FROM {path} TABLESAMPLE SYSTEM ({percent:.4}){condition}",
        fractions.join(",")
    );
    let mut bounds = Vec::new();
    for row in connection.query(&sql).await? {
        // An empty sample gives nulls.
        bounds.extend(Cells::new(row).optional()?);
    }
    Ok(bounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_ranges_cover_every_block_once() {
        let part = TablePart {
            schema: "s".into(),
            name: "t".into(),
            scannable: true,
            bytes: 100 * 8192,
            blocks: 100,
            rows: None,
            file: 1,
        };
        for target in [1, 8192, 10_000, 100_000, 1 << 30] {
            let mut next = 0;
            let found = ranges(&part, target);
            for (i, range) in found.iter().enumerate() {
                let Part::Blocks { from, to, .. } = range else { panic!("blocks") };
                assert_eq!(*from, next);
                assert_eq!(to.is_none(), i + 1 == found.len());
                next = to.unwrap_or(100);
            }
        }
    }
}
