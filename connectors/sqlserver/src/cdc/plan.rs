//! Plans of streams whose changes are captured: what is there now, and the place from which changes come.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ingest_core::{Error, ErrorKind, Estimate, Plan, PlanRequest, Result, Selected, Shape, Slice, SliceId, StreamName};

use super::log;
use crate::catalog::Table;
use crate::plan::{Planner, expect_columns};
use crate::server::Connection;
use crate::work::{ChangePosition, Log, Member, Position, Work};

/// The feed, and the name of each table's position in it.
const FEED: &str = "changes";

/// Plans all streams together: one feed serves them.
///
/// Tables that hold nothing yet are loaded while they change; the feed starts at a place that was taken before, so that no
/// transaction lies between. A row may so come as it was loaded, and again as it was changed: in the order of `_ingest_seq`
/// the last one is what the source holds.
pub(crate) async fn plan(
    connection: &mut Connection,
    request: &PlanRequest<Position>,
    tables: &HashMap<StreamName, Arc<Table>>,
) -> Result<Plan<Work, Position>> {
    let names: Vec<StreamName> = request.streams.iter().map(|selected| selected.stream.name.clone()).collect();
    let missing = log::missing(connection, &names).await?;
    if let Some(fault) = missing.into_iter().find(|fault| fault.kind != ErrorKind::QuotaExhausted) {
        let error = Error::new(fault.kind, format!("cdc: {}", fault.what)).hint(fault.remedy);
        return Err(match fault.stream {
            Some(stream) => error.with("stream", stream),
            None => error,
        });
    }
    let (planner, mut plan) = (Planner { request, moment: None, clock: None }, Plan::default());
    let (mut members, mut streams) = (BTreeMap::new(), Vec::new());
    // Before anything is read.
    let begin = ChangePosition { database: connection.facts.database.clone(), lsn: log::head(connection).await? };
    for selected in &request.streams {
        let name = &selected.stream.name;
        let table = tables.get(name).ok_or_else(|| crate::streams::missing().with("stream", name))?;
        expect_captured(table, selected).map_err(|error| error.with("stream", name))?;
        expect_columns(table, selected)?;
        streams.push(name.clone());
        let at = match selected.positions.get(&SliceId::from(FEED)) {
            Some(Position::Changes(at)) => at.clone(),
            Some(_) => return Err(Error::unexpected("a feed has a position of another kind").with("stream", name)),
            None => {
                let mut work = Work { columns: selected.columns.clone(), seq: Some(begin.seq()), ..Work::default() };
                if table.key.is_empty() {
                    work.warnings.push("the table has no key: a row that is changed while it is loaded cannot be told from its former version; both stay in the lake".to_owned());
                }
                let slices = planner.all(connection, table, work).await.map_err(|error| error.with("stream", name))?;
                plan.slices.extend(slices);
                let position = Some(Position::Changes(begin.clone()));
                plan.then.insert(name.clone(), BTreeMap::from([(SliceId::from(FEED), position)]));
                begin.clone()
            }
        };
        members.insert(name.clone(), Member { columns: selected.columns.clone(), from: at.lsn });
    }
    plan.slices.push(Slice {
        id: SliceId::from(FEED),
        streams,
        shape: Shape::Feed,
        work: Work { log: Some(Log { members }), ..Work::default() },
        estimate: Estimate::default(),
    });
    Ok(plan)
}

fn expect_captured(table: &Table, selected: &Selected<Position>) -> Result<()> {
    if table.view {
        return Err(Error::config("cdc: a view has no changes of its own")
            .hint("capture the tables that it reads, or use `mode: full`"));
    }
    if selected.filter.is_some() {
        return Err(Error::new(ErrorKind::Unsupported, "cdc: `where` cannot be applied to changes")
            .hint("leave `where` out, and filter where the table is read"));
    }
    Ok(())
}
