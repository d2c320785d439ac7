//! Plans of streams that follow the binlog: what is there now, and the place from which changes come.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ingest_core::{
    Error, ErrorKind, Estimate, Intent, Plan, PlanRequest, Result, Selected, Shape, Slice, SliceId, StreamName,
};

use super::log;
use crate::catalog::{Sort, Table};
use crate::plan::{Planner, expect_columns};
use crate::server::Connection;
use crate::work::{Log, LogPosition, Part, Position, Work};

/// The feed, and the name of each table's position in it.
pub(crate) const FEED: &str = "binlog";

/// Plans all streams together: one feed serves them.
///
/// Tables that hold nothing yet are loaded by ranges of their key while they change; the feed starts before. A row may so come
/// as it was loaded, and again as it was changed: in the order of `_ingest_seq` the last one is what the source holds.
pub(crate) async fn plan(
    connection: &mut Connection,
    request: &PlanRequest<Position>,
    tables: &HashMap<StreamName, Arc<Table>>,
) -> Result<(Plan<Work, Position>, HashMap<SliceId, Error>)> {
    log::refuse(&log::faults(connection).await?)?;
    let (planner, mut plan) = (Planner { request, moment: None, highest: HashMap::new() }, Plan::default());
    let (mut columns, mut streams) = (BTreeMap::new(), Vec::new());
    // One place for all: it lies before whatever is read after it.
    let begin = match request.streams.iter().any(|selected| position(selected).is_none()) {
        true => Some(log::begin(connection).await?),
        false => None,
    };
    let (mut reach, mut refused) = (Reach::default(), HashMap::new());
    for selected in &request.streams {
        let name = &selected.stream.name;
        let table = tables.get(name).ok_or_else(|| crate::streams::missing().with("stream", name))?;
        expect_captured(table, selected).map_err(|error| error.with("stream", name))?;
        expect_columns(table, selected)?;
        if let Some(at) = position(selected)
            && let Err(error) = reach.expect(connection, at).await
        {
            let error = error.with("stream", name);
            if error.is_retryable() || request.streams.len() == 1 || request.intent != Intent::Here {
                return Err(error);
            }
            // The others go on.
            let slice = refusal(name);
            refused.insert(slice.id.clone(), error);
            plan.slices.push(slice);
            continue;
        }
        if let Some(wanted) = &selected.columns {
            columns.insert(name.clone(), wanted.clone());
        }
        streams.push(name.clone());
        if position(selected).is_some() {
            continue;
        }
        let begin = begin.as_ref().ok_or_else(|| Error::unexpected("a place was taken for tables without one"))?;
        let mut work = Work { columns: selected.columns.clone(), seq: Some(begin.seq()), ..Work::default() };
        if table.key.is_empty() {
            work.warnings.push("the table has no key: a row that is changed while it is loaded cannot be told from its former version; both stay in the lake".to_owned());
        }
        let slices = planner.all(connection, table, work).await.map_err(|error| error.with("stream", name))?;
        plan.slices.extend(slices);
        let position = Some(Position::Log(begin.clone()));
        plan.then.insert(name.clone(), BTreeMap::from([(SliceId::from(FEED), position)]));
    }
    if !streams.is_empty() {
        plan.slices.push(Slice {
            id: SliceId::from(FEED),
            streams,
            shape: Shape::Feed,
            work: Work { log: Some(Log { columns }), ..Work::default() },
            estimate: Estimate::default(),
        });
    }
    Ok((plan, refused))
}

/// What is known of the log while tables are planned, many of which stand at the same place.
#[derive(Default)]
struct Reach {
    log: Option<log::Log>,
    good: Vec<LogPosition>,
}

impl Reach {
    /// Fails unless a table can go on from where it stands.
    async fn expect(&mut self, connection: &mut Connection, at: &Position) -> Result<()> {
        let Position::Log(at) = at else { return Ok(()) };
        if self.good.contains(at) {
            return Ok(());
        }
        let log = match &mut self.log {
            Some(log) => log,
            none => none.insert(log::Log::read(connection).await?),
        };
        log.expect(connection, at).await?;
        self.good.push(at.clone());
        Ok(())
    }
}

/// The only slice of a stream that could not be planned.
fn refusal(name: &StreamName) -> Slice<Work> {
    Slice {
        id: SliceId::new(format!("{name}#refused")),
        streams: vec![name.clone()],
        shape: Shape::Window,
        work: Work { part: Part::Refused, ..Work::default() },
        estimate: Estimate::default(),
    }
}

/// Where a table stands in the feed.
fn position(selected: &Selected<Position>) -> Option<&Position> {
    selected.positions.get(&SliceId::from(FEED))
}

fn expect_captured(table: &Table, selected: &Selected<Position>) -> Result<()> {
    if table.sort == Sort::View {
        return Err(Error::config("cdc: a view has no changes of its own")
            .hint("capture the tables that it reads, or use `mode: full`"));
    }
    if selected.filter.is_some() {
        return Err(Error::new(ErrorKind::Unsupported, "cdc: `where` cannot be applied to the binlog")
            .hint("leave `where` out, and filter where the table is read"));
    }
    Ok(())
}
