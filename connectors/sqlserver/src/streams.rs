//! The connector: what each call of the contract does.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::Schema;
use ingest_core::{
    Capabilities, Connector, Context, CursorColumn, Deletes, Done, Error, ErrorKind, Estimate, Mode, Out, Plan,
    PlanRequest, Problem, Replay, Result, Safety, Selected, Selection, Slice, Spec, Stream, StreamName, async_trait,
};

use crate::catalog::{self, Column, Table};
use crate::config::SqlServerConfig;
use crate::moment::{Moment, Sight};
use crate::plan::Planner;
use crate::server::{Server, integer};
use crate::types::Kind;
use crate::work::{Log, Position, Tracking, Work};
use crate::{cdc, check, extract, incremental, select};

/// Streams that are planned together, at one time of the server.
const GROUP: &str = "server";

/// A SQL Server or Azure SQL database as a source.
pub struct SqlServer {
    server: Arc<Server>,
    /// As they were described; slices of this process are read as such.
    tables: Mutex<HashMap<StreamName, Arc<Table>>>,
}

#[async_trait]
impl Connector for SqlServer {
    type Config = SqlServerConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "sqlserver".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "SQL Server and Azure SQL".into(),
            docs: include_str!("../README.md").into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Full, Mode::Incremental, Mode::Cdc],
                deletes: Deletes::Events,
                replay: Replay::Always,
                parallel: 4,
                portable: true,
                projection: true,
                filter: true,
            },
            config: None,
        }
    }

    async fn open(config: Self::Config, context: Context) -> Result<Self> {
        let server = Server::new(config.validated(&context.source)?)?;
        Ok(Self { server, tables: Mutex::default() })
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        check::check(&self.server, selection).await
    }

    async fn check_changes(&self, streams: &[StreamName]) -> Result<Vec<Problem>> {
        cdc::check::check(&self.server, streams).await
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let (tables, sight) = self.load(selection).await?;
        Ok(tables.iter().map(|table| stream(table, sight)).collect())
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        let names: Vec<&StreamName> = request.streams.iter().map(|selected| &selected.stream.name).collect();
        let tables = self.tables_named(&names).await?;
        let mut connection = self.server.connect().await?;
        let capture = |selected: &Selected<Position>| request.interval.is_none() && selected.mode == Mode::Cdc;
        if request.streams.iter().any(capture) {
            if !request.streams.iter().all(capture) {
                return Err(Error::config("cdc: streams that follow their changes are planned apart from others"));
            }
            let plan = cdc::plan::plan(&mut connection, request, &tables).await?;
            connection.close().await;
            return Ok(plan);
        }
        let by_cursor = request.streams.iter().filter(|selected| selected.mode == Mode::Incremental);
        let mut clocks = by_cursor.clone().filter_map(|selected| {
            let column = tables.get(&selected.stream.name)?.column(selected.cursor.as_deref()?)?;
            Some(column.kind.is_clock())
        });
        let moment = match request.interval.is_none() && by_cursor.clone().next().is_some() {
            true => Some(Moment::take(&mut connection, clocks.any(|clock| clock)).await?),
            false => None,
        };
        let planner = Planner { request, moment, clock: self.server.config().clock };
        let mut plan = Plan::default();
        for selected in &request.streams {
            let name = &selected.stream.name;
            let planned = match tables.get(name) {
                Some(table) => planner.stream(&mut connection, table, selected, &mut plan).await,
                None => Err(missing()),
            };
            planned.map_err(|error| error.with("stream", name))?;
        }
        connection.close().await;
        Ok(plan)
    }

    async fn extract(&self, slice: &Slice<Work>, from: Option<&Position>, out: &mut Out<'_, Position>) -> Result<Done> {
        if let Some(log) = &slice.work.log {
            return self.follow(slice, log, from, out).await;
        }
        if let Some(tracking) = &slice.work.tracking {
            return self.track(slice, tracking, from, out).await;
        }
        let name = slice.stream()?;
        let read = async {
            let tables = self.tables_named(&[name]).await?;
            let table = tables.get(name).ok_or_else(missing)?;
            extract::extract(&self.server, table, &slice.work, from, out).await
        };
        read.await.map_err(|error| error.with("stream", name))
    }

    async fn count(&self, stream: &Stream, filter: Option<&str>) -> Result<Option<u64>> {
        let count = async {
            let tables = self.tables_named(&[&stream.name]).await?;
            let table = tables.get(&stream.name).ok_or_else(missing)?;
            let sql = select::count(table, filter)?;
            let mut lent = self.server.lend().await?;
            let counted = lent.connection().rows(&sql, "cannot count the rows of a table").await?;
            lent.give_back();
            let counted = counted.first().and_then(|row| integer(row, 0)).and_then(|count| u64::try_from(count).ok());
            counted.ok_or_else(|| Error::unexpected("the server did not answer with a count")).map(Some)
        };
        count.await.map_err(|error| error.with("stream", &stream.name))
    }
}

impl SqlServer {
    /// Reads captured changes.
    async fn follow(
        &self,
        slice: &Slice<Work>,
        log: &Log,
        from: Option<&Position>,
        out: &mut Out<'_, Position>,
    ) -> Result<Done> {
        let Some(Position::Changes(from)) = from else { return Err(no_begin()) };
        let tables = self.members(slice, &log.members).await?;
        cdc::feed::follow(cdc::feed::Asked { server: &self.server, tables, from }, out).await
    }

    /// Reads the rows that change tracking names.
    async fn track(
        &self,
        slice: &Slice<Work>,
        tracking: &Tracking,
        from: Option<&Position>,
        out: &mut Out<'_, Position>,
    ) -> Result<Done> {
        let Some(Position::Tracked(from)) = from else { return Err(no_begin()) };
        let tables = self.members(slice, &tracking.members).await?;
        cdc::tracked::follow(cdc::tracked::Asked { server: &self.server, tables, from }, out).await
    }

    /// The tables of a feed, each with what is wanted of it.
    async fn members<'m, M>(
        &self,
        slice: &Slice<Work>,
        members: &'m BTreeMap<StreamName, M>,
    ) -> Result<Vec<(Arc<Table>, &'m M)>> {
        let names: Vec<&StreamName> = slice.streams.iter().collect();
        let known = self.tables_named(&names).await?;
        let table = |name: &StreamName| {
            let table = known.get(name).ok_or_else(|| missing().with("stream", name))?;
            let member = members.get(name).ok_or_else(|| Error::unexpected("a slice does not say what it reads"))?;
            Ok((table.clone(), member))
        };
        slice.streams.iter().map(table).collect()
    }

    async fn load(&self, selection: &Selection) -> Result<(Vec<Arc<Table>>, Sight)> {
        let mut lent = self.server.lend().await?;
        let connection = lent.connection();
        let sight = Sight::of(connection).await?;
        let tables: Vec<Arc<Table>> = catalog::load(connection, selection).await?.into_iter().map(Arc::new).collect();
        lent.give_back();
        let mut known = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        for table in &tables {
            known.insert(table.stream.clone(), table.clone());
        }
        Ok((tables, sight))
    }

    /// Tables as they were described in this process; what was not is looked up.
    async fn tables_named(&self, names: &[&StreamName]) -> Result<HashMap<StreamName, Arc<Table>>> {
        let find = || {
            let known = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
            let found = names.iter().filter_map(|name| Some(((*name).clone(), known.get(*name)?.clone())));
            found.collect::<HashMap<_, _>>()
        };
        let found = find();
        let missing: Vec<String> =
            names.iter().filter(|name| !found.contains_key(**name)).map(|name| name.to_string()).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        // Names may hold characters that mean something in a glob; what else matches does no harm.
        self.load(&Selection { select: missing, exclude: Vec::new() }).await?;
        Ok(find())
    }
}

fn no_begin() -> Error {
    Error::new(ErrorKind::CheckpointInvalid, "cdc: the feed has no place to begin with")
        .hint("`ingest run --resync STREAM` loads a stream again")
}

pub(crate) fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "the table is not there")
        .hint("it was dropped or renamed, or the account may not see it; `ingest discover` lists what is there")
}

/// What `discover` shows of a table.
fn stream(table: &Table, sight: Sight) -> Stream {
    let cursors = cursors(table, sight);
    let by_change = cursors.first().is_some_and(|first| {
        first.safety == Safety::Snapshot && table.column(&first.column).is_some_and(holds_last_change)
    });
    let mut modes = match (cursors.is_empty(), by_change) {
        (true, _) => vec![Mode::Full],
        (_, true) => vec![Mode::Incremental, Mode::Full],
        (_, false) => vec![Mode::Full, Mode::Incremental],
    };
    if !table.view {
        modes.push(Mode::Cdc);
    }
    let fields: Vec<_> = table.columns.iter().map(|column| column.field.clone()).collect();
    Stream {
        name: table.stream.clone(),
        schema: Arc::new(Schema::new(fields)),
        key: table.key.clone(),
        modes,
        cursors,
        group: Some(GROUP.to_owned()),
        estimate: Estimate {
            rows: table.rows.filter(|_| !table.view),
            bytes: Some(table.bytes).filter(|bytes| *bytes > 0),
            calls: None,
        },
    }
}

/// Columns by which a table can be read incrementally: first the change number, which misses nothing; then those that say
/// when a row was changed; then other clocks.
fn cursors(table: &Table, sight: Sight) -> Vec<CursorColumn> {
    let rank = |column: &Column| match column.kind {
        Kind::RowVersion => 0,
        _ if holds_last_change(column) => 1,
        Kind::Date => 3,
        _ => 2,
    };
    let safety = |column: &Column| match (column.kind, sight) {
        // The database itself says which numbers may still come.
        (Kind::RowVersion, Sight::All | Sight::Own) => Safety::Snapshot,
        _ => sight.safety(),
    };
    let mut columns: Vec<&Column> = table.columns.iter().filter(|column| incremental::is_cursor(column)).collect();
    columns.sort_by_key(|column| rank(column));
    columns.into_iter().map(|column| CursorColumn { column: column.name.clone(), safety: safety(column) }).collect()
}

/// Whether a column by its name and type holds the last change of a row.
fn holds_last_change(column: &Column) -> bool {
    let clock = column.kind.is_clock() && column.kind != Kind::Date;
    column.kind == Kind::RowVersion || (clock && ingest_sql::says_changed(&column.name))
}
