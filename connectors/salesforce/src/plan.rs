//! Planning: which rows, in how many parts, by pages or by jobs. The rows are counted, which costs a call a stream.

use std::collections::BTreeMap;

use arrow_schema::DataType;
use ingest_core::{
    Error, ErrorKind, Estimate, Intent, Mode, Plan, PlanRequest, Result, Selected, Shape, Slice, SliceId, columns,
};
use serde::Deserialize;

use crate::soql;
use crate::state::{Part, Position, Which, Work, cursor_id, swept_id};
use crate::streams::Object;
use crate::{Salesforce, cdc};

/// Bytes of a query in a URL, encoded: Salesforce takes 16,384 with all headers.
const QUERY_BYTES: usize = 12_000;
/// Bytes of the work of a slice.
const WORK_BYTES: usize = 60 << 10;
/// Parts of one load.
const MOST_PARTS: u64 = 1_000;

/// Makes the plan of a request.
pub(crate) async fn plan(salesforce: &Salesforce, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
    let mut plan = Plan::default();
    for selected in &request.streams {
        let stream = &selected.stream.name;
        let planned = Planner::new(salesforce, request, selected).await;
        let planned = match planned {
            Ok(planner) => planner.stream(&mut plan).await,
            Err(error) => Err(error),
        };
        planned.map_err(|error| error.with("stream", stream))?;
    }
    Ok(plan)
}

pub(crate) struct Planner<'a> {
    pub(crate) salesforce: &'a Salesforce,
    pub(crate) request: &'a PlanRequest<Position>,
    pub(crate) selected: &'a Selected<Position>,
    pub(crate) object: std::sync::Arc<Object>,
    /// What all slices of the stream say.
    pub(crate) work: Work,
}

impl<'a> Planner<'a> {
    async fn new(
        salesforce: &'a Salesforce,
        request: &'a PlanRequest<Position>,
        selected: &'a Selected<Position>,
    ) -> Result<Self> {
        let object = salesforce.object(selected.stream.name.as_str()).await?;
        let cursor = match (&selected.cursor, selected.mode) {
            (Some(cursor), _) => Some(cursor.clone()),
            (None, _) => object.cursors().first().cloned(),
        };
        if let Some(cursor) = cursor.as_ref().filter(|cursor| !object.cursors().contains(cursor)) {
            return Err(Error::config("the object has no such cursor")
                .with("cursor", cursor)
                .hint(format!("its cursors are: {}", object.cursors().join(", "))));
        }
        let work = Work {
            object: object.name.clone(),
            columns: wanted(selected),
            // Who else has null there: an import may set LastModifiedDate.
            undated: cursor.as_ref().is_some_and(|cursor| cursor != "SystemModstamp"),
            cursor,
            from: None,
            to: None,
            part: None,
            filter: selected.filter.clone(),
            which: if object.is_archived { Which::Archived } else { Which::Live },
            bulk: false,
            at: salesforce.api.now(),
            topic: None,
        };
        Ok(Self { salesforce, request, selected, object, work })
    }

    async fn stream(mut self, plan: &mut Plan<Work, Position>) -> Result<()> {
        match (self.selected.mode, self.request.interval) {
            (_, Some(interval)) => self.interval(plan, interval).await,
            (Mode::Full, None) => {
                self.work.from = self.start();
                self.counted(plan).await
            }
            (Mode::Incremental, None) if self.work.cursor.is_some() => self.window(plan).await,
            (Mode::Cdc, None) if self.object.has_changes() => cdc::plan::plan(self, plan).await,
            (Mode::Incremental | Mode::Cdc, None) => {
                let modes: Vec<_> = self.selected.stream.modes.iter().map(ToString::to_string).collect();
                Err(Error::new(ErrorKind::Unsupported, "cannot read the stream in this mode")
                    .with("mode", self.selected.mode)
                    .hint(format!("its modes are: {}", modes.join(", "))))
            }
        }
    }

    /// First loads and full ones begin here.
    pub(crate) fn start(&self) -> Option<i64> {
        self.salesforce
            .config
            .start
            .filter(|_| self.work.cursor.is_some())
            .map(|start| start.0.saturating_mul(1_000_000))
    }

    /// The rows of an interval as they are now, as far as they were read.
    async fn interval(mut self, plan: &mut Plan<Work, Position>, (start, end): (i64, i64)) -> Result<()> {
        if self.work.cursor.is_none() {
            return Err(Error::config("an interval needs a stream that is read by a cursor")
                .hint("leave the stream out of this run"));
        }
        let to = match self.selected.positions.get(&cursor_id()) {
            Some(Position::Until { to }) => end.min(*to),
            _ => end,
        };
        if start < to {
            (self.work.from, self.work.to, self.work.undated) = (Some(start), Some(to), false);
            self.counted(plan).await?;
        }
        Ok(())
    }

    /// The slices of what is read whole, also where there is nothing: a table may have to be emptied.
    pub(crate) async fn counted(mut self, plan: &mut Plan<Work, Position>) -> Result<()> {
        let rows = self.count().await?;
        self.work.at = self.salesforce.api.now();
        self.slices(plan, rows).await
    }

    /// What was changed since the last plan, up to a time that is over.
    async fn window(mut self, plan: &mut Plan<Work, Position>) -> Result<()> {
        let held = match self.selected.positions.get(&cursor_id()) {
            None => None,
            Some(Position::Until { to }) => Some(*to),
            Some(_) => return Err(crate::extract::foreign(&self.selected.stream.name)),
        };
        let sweeps = self.sweeps(held);
        self.work.from = if sweeps { self.start() } else { held.or(self.start()) };
        self.work.undated &= self.work.from.is_none();
        if held.is_some() && self.object.is_deleted {
            self.work.which = Which::Deleted;
        }
        // The answer tells the time: a clock may be set while a process lives.
        let rows = self.count().await?;
        self.work.at = self.salesforce.api.now();
        let head = self.head();
        if held.is_some_and(|held| held >= head) {
            return Ok(());
        }
        self.work.to = Some(head);
        let mut then = BTreeMap::from([(cursor_id(), Some(Position::Until { to: head }))]);
        if sweeps || held.is_none() {
            then.insert(swept_id(), Some(Position::Until { to: head }));
        }
        let name = self.selected.stream.name.clone();
        if rows != Some(0) {
            self.slices(plan, rows).await?;
        }
        plan.then.insert(name, then);
        Ok(())
    }

    /// The time up to which all rows can be seen.
    fn head(&self) -> i64 {
        let lag = i64::try_from(self.salesforce.config.lag.0.as_micros()).unwrap_or(i64::MAX);
        self.work.at.saturating_sub(lag).div_euclid(1_000_000) * 1_000_000
    }

    /// Whether it is time to read the rows again whose formulas may have changed.
    fn sweeps(&self, held: Option<i64>) -> bool {
        let every = i64::try_from(self.salesforce.config.formula_sweep.0.as_micros()).unwrap_or(i64::MAX);
        let has_formulas = self.work.columns.iter().any(|(name, _)| self.object.formulas.contains(name));
        let last = match self.selected.positions.get(&swept_id()) {
            Some(Position::Until { to }) => *to,
            _ => return held.is_some() && every > 0 && has_formulas,
        };
        held.is_some() && every > 0 && has_formulas && self.head().saturating_sub(last) >= every
    }

    /// The slices of the work, for so many rows.
    async fn slices(self, plan: &mut Plan<Work, Position>, rows: Option<u64>) -> Result<()> {
        let config = &self.salesforce.config;
        let bulk = self.object.is_in_bulk() && rows.is_none_or(|rows| rows > config.bulk_from);
        let bulk = bulk || self.is_too_long_for_a_url()?;
        let parts = self.parts(rows, bulk).await?;
        let each = rows.map(|rows| rows.div_ceil(parts.len() as u64));
        let calls = each.map(|rows| match bulk {
            // It is made, looked at once at least, and its results are read.
            true => 2 + rows.div_ceil(u64::from(config.bulk_page_size)).max(1),
            false => rows.div_ceil(u64::from(config.page_size)).max(1),
        });
        for (nth, part) in parts.into_iter().enumerate() {
            let work = Work { part, bulk, ..self.work.clone() };
            let size = serde_json::to_string(&work).map_or(0, |text| text.len());
            if size > WORK_BYTES {
                return Err(Error::new(ErrorKind::LimitExceeded, "the object has more fields than a slice can name")
                    .with("fields", work.columns.len())
                    .hint("name the columns that are needed in `columns`"));
            }
            let edge = |bound: Option<i64>| bound.map(|bound| bound.to_string()).unwrap_or_default();
            let id = format!("{}:{}-{}#{nth}", work.object, edge(work.from), edge(work.to));
            plan.slices.push(Slice {
                id: SliceId::new(id),
                streams: vec![self.selected.stream.name.clone()],
                shape: Shape::Window,
                work,
                estimate: Estimate { rows: each, bytes: None, calls },
            });
        }
        Ok(())
    }

    /// How many rows there are; `None` where Salesforce cannot say so in time, which only happens where there are many.
    async fn count(&self) -> Result<Option<u64>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Count {
            total_size: u64,
        }
        let query = self.salesforce.api.query(&soql::count(&self.work)?, soql::asks_all(&self.work));
        match self.salesforce.api.sent(query).await {
            Ok(reply) => Ok(Some(reply.json::<Count>()?.total_size)),
            Err(error) if crate::client::code_of(&error) == Some("QUERY_TIMEOUT") => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is_too_long_for_a_url(&self) -> Result<bool> {
        let text = soql::paged(&self.work, Some("000000000000000000"))?;
        let plain = text.bytes().filter(u8::is_ascii_alphanumeric).count();
        let is_long = plain + 3 * (text.len() - plain) > QUERY_BYTES;
        if is_long && !self.object.is_in_bulk() {
            return Err(Error::new(ErrorKind::LimitExceeded, "the object has more fields than a query can name")
                .with("fields", self.work.columns.len())
                .hint("name the columns that are needed in `columns`"));
        }
        Ok(is_long)
    }

    /// Parts by the time of the rows' making, which does not change: a row that is updated while others are read stays in
    /// its part.
    async fn parts(&self, rows: Option<u64>, bulk: bool) -> Result<Vec<Option<Part>>> {
        let asked = if self.request.intent == Intent::Portable { u64::from(self.request.min_slices) } else { 1 };
        let large = if bulk { rows.map_or(1, |rows| rows.div_ceil(self.salesforce.config.bulk_rows)) } else { 1 };
        let count = asked.max(large).min(rows.unwrap_or(MOST_PARTS)).clamp(1, MOST_PARTS);
        if count == 1 || !self.object.has_created {
            return Ok(vec![None]);
        }
        let Some(oldest) = self.oldest().await? else { return Ok(vec![None]) };
        let length = self.work.at.saturating_sub(oldest).max(1);
        let count = i64::try_from(count).unwrap_or(1);
        let edge = |i: i64| oldest + i64::try_from(i128::from(length) * i128::from(i) / i128::from(count)).unwrap_or(0);
        let part = |i: i64| Part { from: (i > 0).then(|| edge(i)), to: (i + 1 < count).then(|| edge(i + 1)) };
        Ok((0..count).map(|i| Some(part(i))).collect())
    }

    /// When the first row was made.
    async fn oldest(&self) -> Result<Option<i64>> {
        #[derive(Deserialize)]
        struct Answer {
            records: Vec<Oldest>,
        }
        #[derive(Deserialize)]
        struct Oldest {
            oldest: Option<String>,
        }
        let text = format!("SELECT MIN(CreatedDate) oldest FROM {}", self.work.object);
        let query = self.salesforce.api.query(&text, soql::asks_all(&self.work));
        let answer: Answer = self.salesforce.api.sent(query).await?.json()?;
        let text = answer.records.into_iter().next().and_then(|record| record.oldest);
        let time =
            text.map(|text| chrono::DateTime::parse_from_str(&text.replace('Z', "+0000"), "%Y-%m-%dT%H:%M:%S%.f%z"));
        time.transpose()
            .map(|time| time.map(|time| time.timestamp_micros()))
            .map_err(|_| Error::new(ErrorKind::DataInvalid, "an answer holds a time that is none"))
    }
}

/// The columns that are given.
fn wanted(selected: &Selected<Position>) -> Vec<(String, DataType)> {
    let wanted = |name: &String| selected.columns.as_ref().is_none_or(|columns| columns.contains(name));
    let fields = selected.stream.schema.fields().iter();
    fields
        .filter(|field| !columns::is_reserved(field.name()) && wanted(field.name()))
        .map(|field| (field.name().clone(), field.data_type().clone()))
        .collect()
}
