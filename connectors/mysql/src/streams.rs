//! The connector: what each call of the contract does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::Schema;
use ingest_core::{
    Capabilities, Connector, Context, CursorColumn, Deletes, Done, Error, ErrorKind, Estimate, Mode, Out, Plan,
    PlanRequest, Problem, Replay, Result, Safety, Selected, Selection, Slice, SliceId, SourceSums, Spec, Stream,
    StreamName, async_trait,
};
use mysql_async::{Row, from_value_opt};

use crate::catalog::{self, Column, Sort, Table};
use crate::config::MysqlConfig;
use crate::moment::{Moment, Sight};
use crate::plan::Planner;
use crate::server::{Connection, Server};
use crate::types::Kind;
use crate::work::{Log, Position, Work};
use crate::{cdc, check, extract, incremental, select, sums};

/// Streams that are planned together, at one time of the server.
const GROUP: &str = "server";

/// A MySQL or MariaDB server as a source.
pub struct Mysql {
    server: Arc<Server>,
    /// As they were described; slices of this process are read as such.
    tables: Mutex<HashMap<StreamName, Arc<Table>>>,
    /// Why a stream could not be planned. The others of its group are; its only slice ends with this.
    refused: Mutex<HashMap<SliceId, Error>>,
}

#[async_trait]
impl Connector for Mysql {
    type Config = MysqlConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "mysql".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "MySQL and MariaDB".into(),
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
        Ok(Self { server, tables: Mutex::default(), refused: Mutex::default() })
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        check::check(&self.server, selection).await
    }

    async fn check_changes(&self, _: &[StreamName]) -> Result<Vec<Problem>> {
        cdc::check::check(&self.server).await
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
                return Err(Error::config("cdc: streams that follow the binlog are planned apart from others"));
            }
            let (plan, refused) = cdc::plan::plan(&mut connection, request, &tables).await?;
            connection.close().await;
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
            return Ok(plan);
        }
        let planner = self.planner(request, &tables, &mut connection).await?;
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
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).remove(&slice.id);
        if let Some(error) = refused {
            return Err(error);
        }
        if let Some(log) = &slice.work.log {
            return self.follow(slice, log, from, out).await;
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
            let counted: Vec<u64> = lent.connection().rows(&sql, "count the rows of a table").await?;
            lent.give_back();
            let counted = counted.first().copied();
            counted.ok_or_else(|| Error::unexpected("the server did not answer with a count")).map(Some)
        };
        count.await.map_err(|error| error.with("stream", &stream.name))
    }

    async fn sums(&self, stream: &Stream, filter: Option<&str>, columns: &[String]) -> Result<Option<SourceSums>> {
        let sums = async {
            let tables = self.tables_named(&[&stream.name]).await?;
            let table = tables.get(&stream.name).ok_or_else(missing)?;
            let Some(adding) = sums::sums(table, &stream.key, columns, filter)? else { return Ok(None) };
            let mut lent = self.server.lend().await?;
            let rows: Vec<Row> = lent.connection().rows(&adding.sql, "add up the rows of a table").await?;
            lent.give_back();
            let row = rows.into_iter().next().map(Row::unwrap_raw).unwrap_or_default();
            let texts: Vec<Option<String>> = row.into_iter().map(|cell| from_value_opt(cell?).ok()).collect();
            adding.sums(texts.iter().map(Option::as_deref)).map(Some)
        };
        sums.await.map_err(|error: Error| error.with("stream", &stream.name))
    }
}

impl Mysql {
    /// Reads the binlog.
    async fn follow(
        &self,
        slice: &Slice<Work>,
        log: &Log,
        from: Option<&Position>,
        out: &mut Out<'_, Position>,
    ) -> Result<Done> {
        let Some(Position::Log(from)) = from else {
            return Err(Error::new(
                ErrorKind::CheckpointInvalid,
                "cdc: the feed has no place in the binlog to begin with",
            )
            .hint(cdc::log::again()));
        };
        let names: Vec<&StreamName> = slice.streams.iter().collect();
        let known = self.tables_named(&names).await?;
        let table = |name: &StreamName| {
            let table = known.get(name).ok_or_else(|| missing().with("stream", name))?;
            Ok((table.clone(), log.columns.get(name).cloned()))
        };
        let tables = slice.streams.iter().map(table).collect::<Result<_>>()?;
        cdc::feed::follow(cdc::feed::Asked { server: &self.server, tables, from }, out).await
    }

    /// Takes the server's time, where any stream is read by a cursor.
    async fn planner<'a>(
        &self,
        request: &'a PlanRequest<Position>,
        tables: &HashMap<StreamName, Arc<Table>>,
        connection: &mut Connection,
    ) -> Result<Planner<'a>> {
        let mut planner = Planner { request, moment: None, highest: HashMap::new() };
        let by_cursor = |selected: &&Selected<Position>| selected.mode == Mode::Incremental;
        if request.interval.is_some() || !request.streams.iter().any(|selected| by_cursor(&selected)) {
            return Ok(planner);
        }
        let mut moment = Moment::next_second(connection).await?;
        for selected in request.streams.iter().filter(by_cursor) {
            let name = &selected.stream.name;
            let Some(table) = tables.get(name) else { continue };
            let highest = incremental::highest(connection, table, selected).await;
            planner.highest.insert(name.clone(), highest.map_err(|error| error.with("stream", name))?);
        }
        moment.settle(connection).await?;
        planner.moment = Some(moment);
        Ok(planner)
    }

    async fn load(&self, selection: &Selection) -> Result<(Vec<Arc<Table>>, Sight)> {
        let mut lent = self.server.lend().await?;
        let connection = lent.connection();
        let sight = Sight::of(connection).await?;
        let tables: Vec<Arc<Table>> = catalog::load(connection, &self.server.config().database, selection)
            .await?
            .into_iter()
            .map(Arc::new)
            .collect();
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
    if table.sort == Sort::Table {
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
            rows: table.rows.filter(|_| table.sort != Sort::View),
            bytes: Some(table.bytes).filter(|bytes| *bytes > 0),
            calls: None,
        },
    }
}

/// Columns by which a table can be read incrementally: first those that say when a row was changed, then other clocks,
/// then a key of one column, then other numbers.
fn cursors(table: &Table, sight: Sight) -> Vec<CursorColumn> {
    let safety = if table.sort == Sort::Foreign { Safety::Unsafe } else { sight.safety() };
    let rank = |column: &Column| match column.kind {
        _ if holds_last_change(column) => 0,
        Kind::DateTime | Kind::Timestamp => 1,
        _ if table.key == [column.name.as_str()] => 2,
        Kind::Date => 3,
        _ => 4,
    };
    let mut columns: Vec<&Column> = table.columns.iter().filter(|column| incremental::is_cursor(column)).collect();
    columns.sort_by_key(|column| rank(column));
    columns.into_iter().map(|column| CursorColumn { column: column.name.clone(), safety }).collect()
}

/// Whether a column by its name and type holds the time of a row's last change.
fn holds_last_change(column: &Column) -> bool {
    matches!(column.kind, Kind::DateTime | Kind::Timestamp) && ingest_sql::says_changed(&column.name)
}
