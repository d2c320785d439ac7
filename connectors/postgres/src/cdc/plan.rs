//! Planning of change capture: tables that are new in the snapshot of a slot, and one feed for all.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ingest_core::{
    Error, ErrorKind, Estimate, Intent, Plan, PlanRequest, Result, Selected, Shape, Slice, SliceId, StreamName,
};

use super::past::Past;
use super::state::{self, Facts, State};
use super::{feed_id, lost, slot};
use crate::catalog::{Sort, Table};
use crate::plan::Planner;
use crate::server::Server;
use crate::streams::{Held, missing, refused};
use crate::wire::{Connection, Role};
use crate::work::{Log, LogPosition, Position, Work};

/// Plans streams that follow the log; gives what the plan holds at the server.
pub(crate) async fn plan(
    server: &Arc<Server>,
    request: &PlanRequest<Position>,
    tables: &HashMap<StreamName, Arc<Table>>,
) -> Result<(Plan<Work, Position>, Held)> {
    let mut connection = server.connect().await?;
    let mut state = ready(&mut connection, server).await?;
    let asked: Vec<&Table> =
        request.streams.iter().filter_map(|selected| tables.get(&selected.stream.name)).map(Arc::as_ref).collect();
    let facts = published(&mut connection, server, request, &mut state, &asked).await?;
    let past = past(server, request).await?;
    let mut planning = Planning {
        server,
        tables,
        request,
        state,
        past,
        plan: Plan::default(),
        held: Held::default(),
        fresh: Vec::new(),
    };
    let mut followed = Vec::new();
    for selected in &request.streams {
        let table = tables.get(&selected.stream.name);
        let judged = table.ok_or_else(missing).and_then(|table| {
            let none = Facts::default();
            planning.judge(selected, table, facts.get(&table.oid).unwrap_or(&none)).map(|goes_on| (table, goes_on))
        });
        match judged {
            Ok((table, goes_on)) => {
                if !goes_on {
                    let generated = facts.get(&table.oid).map_or(&[][..], |facts| &facts.is_generated);
                    let columns = carried(selected, table, generated);
                    planning.fresh.push(Fresh { selected, table, columns });
                }
                followed.push(selected);
            }
            Err(error) => planning.refuse(&selected.stream.name, error)?,
        }
    }
    let refused = planning.load(connection).await?;
    followed.retain(|selected| !refused.contains(&selected.stream.name));
    planning.follow(&followed);
    Ok((planning.plan, planning.held))
}

/// Where the server comes from, if any stream goes on from a place in its log.
async fn past(server: &Arc<Server>, request: &PlanRequest<Position>) -> Result<Option<Past>> {
    let feed = feed_id(server.config());
    if !request.streams.iter().any(|selected| matches!(selected.positions.get(&feed), Some(Position::Log(_)))) {
        return Ok(None);
    }
    let mut connection = server.connect_as(Role::Replication).await?;
    let past = Past::read(&mut connection).await?;
    connection.close().await;
    Ok(Some(past))
}

/// Fails where the server cannot capture changes at all, which is no matter of single streams.
pub(crate) async fn ready(connection: &mut Connection, server: &Arc<Server>) -> Result<State> {
    if connection.version() < state::LEAST_VERSION {
        return Err(Error::new(ErrorKind::Unsupported, "cdc: the server is too old for change capture")
            .with("version", connection.version() / 10_000)
            .hint("it needs PostgreSQL 14 or newer; read with `mode: incremental` or `mode: full`")
            .exhausted());
    }
    let state = state::read(connection, server.config()).await?;
    if state.wal_level != "logical" {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "cdc: the server's log does not hold what changes are read from",
        )
        .with("wal_level", &state.wal_level)
        .hint("ALTER SYSTEM SET wal_level = logical, then restart the server")
        .exhausted());
    }
    if state.is_replica && connection.version() < state::REPLICA_VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "cdc: a replica of this version cannot be read from by its log",
        )
        .hint("read from the primary, or from a replica of version 16 or newer")
        .exhausted());
    }
    if let Some(slot) = &state.slot
        && !(slot.is_logical && slot.plugin == "pgoutput" && slot.is_here)
    {
        return Err(Error::config("cdc: the slot is not one for changes of this database by pgoutput")
            .with("slot", &server.config().slot)
            .with("database", &slot.database)
            .with("plugin", &slot.plugin)
            .hint("name another `slot`: it is made by the first run")
            .exhausted());
    }
    Ok(state)
}

/// How tables take part. Makes the publication where there is none.
async fn published(
    connection: &mut Connection,
    server: &Arc<Server>,
    request: &PlanRequest<Position>,
    state: &mut State,
    asked: &[&Table],
) -> Result<HashMap<u32, Facts>> {
    let config = server.config();
    let mut facts = state::facts(connection, &config.publication, asked.iter().copied()).await?;
    if state.publication.is_some() {
        return Ok(facts);
    }
    // An UPDATE of a table that names no rows would fail at the source once it is published.
    let fit = |facts: &Facts| facts.is_logged && facts.names_rows();
    let whole: Vec<&Table> = asked.iter().copied().filter(|table| facts.get(&table.oid).is_some_and(fit)).collect();
    if request.intent == Intent::Explain || whole.is_empty() {
        facts.values_mut().for_each(|fact| fact.is_published = fit(fact));
        return Ok(facts);
    }
    slot::write(connection, &slot::create_publication(config, &whole)?).await?;
    tracing::info!(publication = config.publication, tables = whole.len(), "made the publication");
    state.publication = Some(state::Publication { left_out: Vec::new() });
    state::facts(connection, &config.publication, asked.iter().copied()).await
}

struct Planning<'a> {
    server: &'a Arc<Server>,
    tables: &'a HashMap<StreamName, Arc<Table>>,
    request: &'a PlanRequest<Position>,
    state: State,
    past: Option<Past>,
    plan: Plan<Work, Position>,
    held: Held,
    /// Tables that have no place in the log yet.
    fresh: Vec<Fresh<'a>>,
}

/// A table that has no place in the log yet.
struct Fresh<'a> {
    selected: &'a Selected<Position>,
    table: &'a Arc<Table>,
    /// The columns to load; `None` = all.
    columns: Option<Vec<String>>,
}

/// The columns to load: without those that changes do not carry, which would be right until the first change alone. `None` =
/// all.
fn carried(selected: &Selected<Position>, table: &Table, generated: &[String]) -> Option<Vec<String>> {
    let is_carried = |name: &&String| !generated.contains(name);
    match &selected.columns {
        None if generated.is_empty() => None,
        None => Some(table.columns.iter().map(|column| &column.name).filter(is_carried).cloned().collect()),
        Some(columns) => Some(columns.iter().filter(is_carried).cloned().collect()),
    }
}

impl<'a> Planning<'a> {
    /// Whether a stream goes on from its position (else it begins with a full load), or why it cannot be followed.
    fn judge(&self, selected: &Selected<Position>, table: &Table, facts: &Facts) -> Result<bool> {
        capturable(self.server, selected, table, facts, &self.state)?;
        let Some(Position::Log(at)) = selected.positions.get(&feed_id(self.server.config())) else { return Ok(false) };
        if let Some(past) = &self.past {
            past.holds(at)?;
        }
        reachable(at, &self.state)?;
        Ok(true)
    }

    fn refuse(&mut self, name: &StreamName, error: Error) -> Result<()> {
        let error = error.with("stream", name);
        if error.is_retryable() || self.request.streams.len() == 1 || self.request.intent != Intent::Here {
            return Err(error);
        }
        let slice = refused(name);
        self.held.refused.insert(slice.id.clone(), error);
        self.plan.slices.push(slice);
        Ok(())
    }

    /// Adds the full loads; gives the streams that cannot be loaded.
    async fn load(&mut self, mut connection: Connection) -> Result<Vec<StreamName>> {
        let fresh = std::mem::take(&mut self.fresh);
        if fresh.is_empty() {
            connection.close().await;
            return Ok(Vec::new());
        }
        let ((from, timeline), snapshot) = match self.request.intent {
            Intent::Explain => ((self.state.durable, None), None),
            Intent::Portable => (self.slot(&mut connection).await?, None),
            Intent::Here => {
                // What is lost is of no use to anybody.
                if self.state.slot.as_ref().is_some_and(|slot| slot.is_lost) {
                    slot::write(&mut connection, &slot::drop_slot(self.server.config())?).await?;
                    self.state.slot = None;
                }
                let made = slot::make(self.server, self.state.slot.is_some()).await?;
                let snapshot = slot::join(&mut connection, &made.snapshot).await?;
                self.held.exporter = Some(made.exporter);
                ((made.from, Some(made.timeline)), Some(snapshot))
            }
        };
        if self.request.intent != Intent::Here {
            connection.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        }
        let planner = Planner::under(self.request, self.server.config().read, snapshot);
        let at = LogPosition { lsn: from, system: self.state.system.clone(), timeline };
        let mut refused = Vec::new();
        // A savepoint, because an error ends the transaction.
        connection.query("SAVEPOINT stream").await?;
        for Fresh { selected, table, columns } in fresh {
            let work = Work { columns, seq: Some(at.seq()), ..Work::default() };
            let slices = match planner.expect_columns(table, selected) {
                Ok(()) => planner.all(&mut connection, table, work).await,
                Err(error) => Err(error),
            };
            connection.query("ROLLBACK TO SAVEPOINT stream").await?;
            match slices {
                Ok(slices) => self.hand_over(selected, slices, &at),
                Err(error) => {
                    self.refuse(&selected.stream.name, error)?;
                    refused.push(selected.stream.name.clone());
                }
            }
        }
        connection.close().await;
        Ok(refused)
    }

    /// The place of the slot for a plan of several processes, and its timeline where that is known; made where it is not there.
    async fn slot(&self, connection: &mut Connection) -> Result<(u64, Option<u32>)> {
        if let Some(slot) = self.state.slot.as_ref().filter(|slot| !slot.is_lost) {
            return Ok((slot.confirmed, self.past.as_ref().map(|past| past.timeline)));
        }
        if self.state.slot.is_some() {
            slot::write(connection, &slot::drop_slot(self.server.config())?).await?;
        }
        let made = slot::make(self.server, false).await?;
        made.exporter.close().await;
        Ok((made.from, Some(made.timeline)))
    }

    fn hand_over(&mut self, selected: &Selected<Position>, slices: Vec<Slice<Work>>, at: &LogPosition) {
        self.plan.slices.extend(slices);
        // Of an earlier mode, or an earlier slot.
        let mut then: BTreeMap<SliceId, Option<Position>> =
            selected.positions.keys().map(|former| (former.clone(), None)).collect();
        then.insert(feed_id(self.server.config()), Some(Position::Log(at.clone())));
        self.plan.then.insert(selected.stream.name.clone(), then);
    }

    fn follow(&mut self, followed: &[&Selected<Position>]) {
        if followed.is_empty() {
            return;
        }
        let columns = followed
            .iter()
            .filter_map(|selected| Some((selected.stream.name.clone(), selected.columns.clone()?)))
            .collect();
        let keys = followed
            .iter()
            .filter(|selected| {
                self.tables.get(&selected.stream.name).is_none_or(|table| table.key != selected.stream.key)
            })
            .map(|selected| (selected.stream.name.clone(), selected.stream.key.clone()))
            .collect();
        self.plan.slices.push(Slice {
            id: feed_id(self.server.config()),
            streams: followed.iter().map(|selected| selected.stream.name.clone()).collect(),
            shape: Shape::Feed,
            work: Work { log: Some(Log { columns, keys }), ..Work::default() },
            estimate: Estimate::default(),
        });
    }
}

/// Why changes of a stream cannot be captured.
pub(crate) fn capturable(
    server: &Server,
    selected: &Selected<Position>,
    table: &Table,
    facts: &Facts,
    state: &State,
) -> Result<()> {
    if selected.filter.is_some() {
        return Err(Error::config("cdc: `where` cannot filter changes")
            .hint("filter rows in the publication (`ALTER PUBLICATION … SET TABLE … WHERE`, version 15 and newer)"));
    }
    table_capturable(server, table, &selected.stream.key, facts, state)
}

/// Why changes of a table cannot be captured.
pub(crate) fn table_capturable(
    server: &Server,
    table: &Table,
    key: &[String],
    facts: &Facts,
    state: &State,
) -> Result<()> {
    if table.sort != Sort::Table || !facts.is_logged {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "cdc: changes of views, foreign and unlogged tables are in no log",
        )
        .hint("read the stream with `mode: full`"));
    }
    let path = table.path()?;
    let left_out = state.publication.as_ref().map(|publication| publication.left_out.as_slice()).unwrap_or_default();
    let inserts_alone = left_out.contains(&"update") && left_out.contains(&"delete");
    if !facts.names_rows() && !inserts_alone {
        return Err(Error::config(
            "cdc: the table has no replica identity, so its changes do not say which row they mean",
        )
        .hint(format!("give the table a primary key, or ALTER TABLE {path} REPLICA IDENTITY FULL")));
    }
    if !facts.carries(key) && !inserts_alone {
        return Err(Error::config("cdc: the replica identity of the table does not hold its key")
            .with("identity", facts.identity)
            .hint(format!("ALTER TABLE {path} REPLICA IDENTITY DEFAULT (or FULL)")));
    }
    if !facts.is_published {
        return Err(Error::config("cdc: the publication does not publish the table")
            .with("publication", &server.config().publication)
            .hint(slot::add_tables(server.config(), &[table])?));
    }
    Ok(())
}

/// Whether the server can still give all changes from a place on.
pub(crate) fn reachable(at: &LogPosition, state: &State) -> Result<()> {
    if at.system.is_some() && state.system.is_some() && at.system != state.system {
        return Err(lost("this is another server than the one that was read last"));
    }
    let Some(slot) = &state.slot else { return Err(lost("the replication slot is gone")) };
    if slot.is_lost {
        return Err(lost("the server has thrown away the log that the slot needs")
            .hint("raise max_slot_wal_keep_size at the server"));
    }
    if slot.confirmed > at.lsn {
        return Err(lost(
            "the replication slot stands behind the last position: somebody else reads from it, or it was made again",
        )
        .with("confirmed", state::lsn(slot.confirmed))
        .with("position", state::lsn(at.lsn)));
    }
    if state.head < at.lsn {
        return Err(lost("the server was restored to an earlier time"));
    }
    Ok(())
}
