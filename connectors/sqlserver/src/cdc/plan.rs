//! Plans of streams whose changes are captured: what is there now, and the place from which changes come.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ingest_core::{
    Cursor, Error, ErrorKind, Estimate, Plan, PlanRequest, Result, Selected, Shape, Slice, SliceId, StreamName,
};

use super::{log, tracking};
use crate::catalog::Table;
use crate::plan::{Planner, expect_columns};
use crate::server::Connection;
use crate::work::{ChangePosition, Log, Member, Position, TrackedMember, TrackedPosition, Tracking, Work};

/// The feed of captured changes, and the name of each table's position in it.
const CAPTURED: &str = "changes";
/// The feed of tracked rows, and the name of each table's position in it.
const TRACKED: &str = "tracking";

/// Plans all streams together: a feed serves those whose changes are captured, another those whose rows are tracked.
///
/// Tables that hold nothing yet are loaded while they change; the feed starts at a place that was taken before, so that no
/// transaction lies between. A row may so come as it was loaded, and again as it was changed: in the order of `_ingest_seq`
/// the last one is what the source holds.
pub(crate) async fn plan(
    connection: &mut Connection,
    request: &PlanRequest<Position>,
    tables: &HashMap<StreamName, Arc<Table>>,
) -> Result<Plan<Work, Position>> {
    let tracked = tracking::tables(connection).await?;
    let (followed, captured): (Vec<_>, Vec<_>) =
        request.streams.iter().partition(|selected| is_followed(selected, &tracked));
    let mut missing = log::missing(connection, &names(&captured)).await?;
    missing.extend(tracking::missing(connection, &names(&followed), &tracked).await?);
    if let Some(fault) = missing.into_iter().find(|fault| fault.kind != ErrorKind::QuotaExhausted) {
        let error = Error::new(fault.kind, format!("cdc: {}", fault.what)).hint(fault.remedy);
        return Err(match fault.stream {
            Some(stream) => error.with("stream", stream),
            None => error,
        });
    }
    let planner = Planner { request, moment: None, clock: None };
    let mut loads = Loads { connection, planner, tables, plan: Plan::default() };
    if !captured.is_empty() {
        let work = Work { log: Some(Log { members: loads.captured(&captured).await? }), ..Work::default() };
        loads.feed(CAPTURED, &captured, work);
    }
    if !followed.is_empty() {
        let work = Work { tracking: Some(Tracking { members: loads.tracked(&followed).await? }), ..Work::default() };
        loads.feed(TRACKED, &followed, work);
    }
    Ok(loads.plan)
}

/// Whether a table's rows are tracked: as its position says; at first, where its changes are not captured as well, which says
/// more.
fn is_followed(selected: &Selected<Position>, tracked: &BTreeMap<StreamName, tracking::Tracked>) -> bool {
    let holds = |feed| selected.positions.contains_key(&SliceId::from(feed));
    holds(TRACKED) || (!holds(CAPTURED) && tracked.get(&selected.stream.name).is_some_and(|table| !table.captured))
}

fn names(streams: &[&Selected<Position>]) -> Vec<StreamName> {
    streams.iter().map(|selected| selected.stream.name.clone()).collect()
}

/// The plan, as it grows.
struct Loads<'a> {
    connection: &'a mut Connection,
    planner: Planner<'a>,
    tables: &'a HashMap<StreamName, Arc<Table>>,
    plan: Plan<Work, Position>,
}

impl Loads<'_> {
    async fn captured(&mut self, streams: &[&Selected<Position>]) -> Result<BTreeMap<StreamName, Member>> {
        let mut members = BTreeMap::new();
        // Before anything is read.
        let lsn = log::head(self.connection).await?;
        let begin = Position::Changes(ChangePosition { database: self.connection.facts.database.clone(), lsn });
        for selected in streams {
            let Position::Changes(at) = self.stream(selected, CAPTURED, &begin).await? else {
                return Err(other(selected));
            };
            let member = Member { columns: selected.columns.clone(), from: at.lsn };
            members.insert(selected.stream.name.clone(), member);
        }
        Ok(members)
    }

    async fn tracked(&mut self, streams: &[&Selected<Position>]) -> Result<BTreeMap<StreamName, TrackedMember>> {
        let mut members = BTreeMap::new();
        let version = tracking::head(self.connection).await?.ok_or_else(|| {
            Error::new(ErrorKind::ConfigInvalid, "cdc: change tracking is off in the database")
                .hint("ALTER DATABASE CURRENT SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 7 DAYS, AUTO_CLEANUP = ON)")
        })?;
        let begin = Position::Tracked(TrackedPosition { database: self.connection.facts.database.clone(), version });
        for selected in streams {
            let Position::Tracked(at) = self.stream(selected, TRACKED, &begin).await? else {
                return Err(other(selected));
            };
            let member = TrackedMember { columns: selected.columns.clone(), from: at.version };
            members.insert(selected.stream.name.clone(), member);
        }
        Ok(members)
    }

    /// Plans the load of a table that holds nothing yet; gives the position that it has, or will have then.
    async fn stream(&mut self, selected: &Selected<Position>, feed: &str, begin: &Position) -> Result<Position> {
        let name = &selected.stream.name;
        let table = self.tables.get(name).ok_or_else(|| crate::streams::missing().with("stream", name))?;
        expect_captured(table, selected).map_err(|error| error.with("stream", name))?;
        expect_columns(table, selected)?;
        if let Some(at) = selected.positions.get(&SliceId::from(feed)) {
            return Ok(at.clone());
        }
        let mut work = Work { columns: selected.columns.clone(), seq: begin.seq(), ..Work::default() };
        if table.key.is_empty() {
            work.warnings.push("the table has no key: a row that is changed while it is loaded cannot be told from its former version; both stay in the lake".to_owned());
        }
        let slices =
            self.planner.all(self.connection, table, work).await.map_err(|error| error.with("stream", name))?;
        self.plan.slices.extend(slices);
        self.plan.then.insert(name.clone(), BTreeMap::from([(SliceId::from(feed), Some(begin.clone()))]));
        Ok(begin.clone())
    }

    fn feed(&mut self, id: &str, streams: &[&Selected<Position>], work: Work) {
        self.plan.slices.push(Slice {
            id: SliceId::from(id),
            streams: names(streams),
            shape: Shape::Feed,
            work,
            estimate: Estimate::default(),
        });
    }
}

fn other(selected: &Selected<Position>) -> Error {
    Error::unexpected("a feed has a position of another kind").with("stream", &selected.stream.name)
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
