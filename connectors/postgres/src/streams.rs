//! The connector: what each call of the contract does.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_schema::Schema;
use ingest_core::{
    Capabilities, Connector, Context, CursorColumn, Deletes, Done, Error, ErrorKind, Estimate, Intent, Mode, Out, Plan,
    PlanRequest, Problem, RESYNC, Replay, Result, Safety, Selection, SetUp, Shape, Slice, SliceId, SourceSums, Spec,
    Stream, StreamName, async_trait,
};

use crate::catalog::{self, Column, Sort, Table};
use crate::config::PostgresConfig;
use crate::moment::Moment;
use crate::plan::Planner;
use crate::server::Server;
use crate::types::Kind;
use crate::wire::Connection;
use crate::work::{Log, Part, Position, Work};
use crate::{cdc, check, extract, incremental, select, sums};

/// Streams that are planned together, so that one snapshot holds for all of them.
const GROUP: &str = "snapshot";

/// A PostgreSQL database as a source.
pub struct Postgres {
    server: Arc<Server>,
    /// Where large transactions wait until they are committed.
    temp_dir: PathBuf,
    /// As they were described; slices of this process are read as such.
    tables: Mutex<HashMap<StreamName, Arc<Table>>>,
    held: Mutex<Held>,
    /// The same of the plan of change capture, which is made apart.
    captured: Mutex<Held>,
    /// What is durable of the log in the lake; while `streaming`, the stream says so to the server.
    confirmed: AtomicU64,
    streaming: AtomicBool,
}

/// What a plan holds at the server, in this process.
#[derive(Default)]
pub(crate) struct Held {
    /// Idle in the transaction whose snapshot the slices share, until the next plan or the end of the run.
    pub(crate) exporter: Option<Connection>,
    /// Why a stream could not be planned. The others of its group are; its only slice ends with this.
    pub(crate) refused: HashMap<SliceId, Error>,
}

#[async_trait]
impl Connector for Postgres {
    type Config = PostgresConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "postgres".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "PostgreSQL".into(),
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
        Ok(Self {
            server,
            temp_dir: context.temp_dir,
            tables: Mutex::default(),
            held: Mutex::default(),
            captured: Mutex::default(),
            confirmed: AtomicU64::new(0),
            streaming: AtomicBool::new(false),
        })
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        check::check(&self.server, selection).await
    }

    async fn check_changes(&self, streams: &[StreamName]) -> Result<Vec<Problem>> {
        cdc::check::check(&self.server, &self.tables_in_order(streams).await?).await
    }

    async fn set_up(&self, streams: &[StreamName], set_up: SetUp, dry_run: bool) -> Result<Vec<String>> {
        cdc::setup::set_up(&self.server, &self.tables_in_order(streams).await?, set_up, dry_run).await
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let tables = self.load(selection).await?;
        Ok(tables.iter().map(|table| stream(table)).collect())
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        if request.interval.is_none() && request.streams.iter().any(|selected| selected.mode == Mode::Cdc) {
            return self.capture(request).await;
        }
        // The former plan is complete or abandoned.
        let former = std::mem::take(&mut *self.held());
        if let Some(exporter) = former.exporter {
            exporter.close().await;
        }
        let names: Vec<&StreamName> = request.streams.iter().map(|selected| &selected.stream.name).collect();
        let tables = self.tables_named(&names).await?;
        let mut moment = Moment::now(&self.server, request.intent == Intent::Here).await?;
        let planner = Planner::new(request, self.server.config().read, &moment);
        let (mut plan, mut held) = (Plan::default(), Held::default());
        // A savepoint, because an error ends the transaction, and with it the snapshot.
        moment.connection.query("SAVEPOINT stream").await?;
        for selected in &request.streams {
            let name = &selected.stream.name;
            let planned = match tables.get(name) {
                Some(table) => planner.stream(&mut moment.connection, table, selected, &mut plan).await,
                None => Err(missing()),
            };
            // Also after success: it lets the locks on the table go, which would hold changes up until the run ends.
            let freed = moment.connection.query("ROLLBACK TO SAVEPOINT stream").await;
            let Err(error) = planned else {
                freed?;
                continue;
            };
            let error = error.with("stream", name);
            if error.is_retryable() || request.streams.len() == 1 || request.intent != Intent::Here {
                return Err(error);
            }
            freed?;
            let slice = refused(name);
            held.refused.insert(slice.id.clone(), error);
            plan.slices.push(slice);
        }
        if plan.slices.iter().any(|slice| slice.work.snapshot.is_some()) {
            held.exporter = Some(moment.connection);
        } else {
            moment.connection.close().await;
        }
        *self.held() = held;
        Ok(plan)
    }

    async fn extract(&self, slice: &Slice<Work>, from: Option<&Position>, out: &mut Out<'_, Position>) -> Result<Done> {
        let refused = self.held().refused.remove(&slice.id);
        if let Some(error) = refused.or_else(|| self.captured().refused.remove(&slice.id)) {
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
            let rows = lent.connection.query(&sql).await?;
            lent.give_back(&self.server);
            let counted = rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok());
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
            let rows = lent.connection.query(&adding.sql).await?;
            lent.give_back(&self.server);
            let row = rows.first().map_or(&[][..], |row| row.as_slice());
            adding.sums(row.iter().map(Option::as_deref)).map(Some)
        };
        sums.await.map_err(|error: Error| error.with("stream", &stream.name))
    }

    async fn checkpoint(&self, slice: &Slice<Work>, committed: &Position) -> Result<()> {
        let (Some(_), Position::Log(at)) = (&slice.work.log, committed) else { return Ok(()) };
        self.confirmed.fetch_max(at.lsn, Ordering::AcqRel);
        if self.streaming.load(Ordering::Acquire) {
            return Ok(());
        }
        cdc::slot::advance(&self.server, at.lsn).await
    }
}

impl Postgres {
    /// Plans streams that are read by the change log.
    async fn capture(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        if request.streams.iter().any(|selected| selected.mode != Mode::Cdc) {
            return Err(Error::config("cdc: streams that follow the log are planned apart from others"));
        }
        let former = std::mem::take(&mut *self.captured());
        if let Some(exporter) = former.exporter {
            exporter.close().await;
        }
        let names: Vec<&StreamName> = request.streams.iter().map(|selected| &selected.stream.name).collect();
        let tables = self.tables_named(&names).await?;
        let (plan, held) = cdc::plan::plan(&self.server, request, &tables).await?;
        *self.captured() = held;
        Ok(plan)
    }

    /// Reads the change log.
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
                "cdc: the feed has no place in the log to begin with",
            )
            .hint(format!("load the stream again with `{RESYNC}`")));
        };
        let names: Vec<&StreamName> = slice.streams.iter().collect();
        let known = self.tables_named(&names).await?;
        let mut tables = Vec::with_capacity(names.len());
        for name in names {
            let table = known.get(name).ok_or_else(|| missing().with("stream", name))?;
            tables.push(cdc::Wanted {
                table: Arc::clone(table),
                columns: log.columns.get(name).cloned(),
                key: log.keys.get(name).unwrap_or(&table.key).clone(),
            });
        }
        let asked = cdc::feed::Asked {
            server: &self.server,
            tables,
            from,
            temp_dir: &self.temp_dir,
            confirmed: &self.confirmed,
        };
        let _streaming = Streaming::begin(&self.streaming);
        cdc::feed::follow(asked, out).await
    }

    fn captured(&self) -> std::sync::MutexGuard<'_, Held> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn load(&self, selection: &Selection) -> Result<Vec<Arc<Table>>> {
        let mut lent = self.server.lend().await?;
        let tables: Vec<Arc<Table>> =
            catalog::load(&mut lent.connection, selection).await?.into_iter().map(Arc::new).collect();
        lent.give_back(&self.server);
        let mut known = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        for table in &tables {
            known.insert(table.stream.clone(), table.clone());
        }
        Ok(tables)
    }

    async fn tables_in_order(&self, streams: &[StreamName]) -> Result<Vec<Arc<Table>>> {
        let names: Vec<&StreamName> = streams.iter().collect();
        let known = self.tables_named(&names).await?;
        streams.iter().map(|name| known.get(name).cloned().ok_or_else(|| missing().with("stream", name))).collect()
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

impl Drop for Postgres {
    fn drop(&mut self) {
        // Connections hold the server and the server holds connections.
        self.server.disconnect();
    }
}

/// The log is being read while this is there.
struct Streaming<'a>(&'a AtomicBool);

impl<'a> Streaming<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Release);
        Self(flag)
    }
}

impl Drop for Streaming<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

pub(crate) fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "the table is not there")
        .hint("it was dropped or renamed; `ingest discover` lists what is there")
}

/// The only slice of a stream that could not be planned.
pub(crate) fn refused(name: &StreamName) -> Slice<Work> {
    Slice {
        id: SliceId::new(format!("{name}#refused")),
        streams: vec![name.clone()],
        shape: Shape::Window,
        work: Work { part: Part::Refused, ..Work::default() },
        estimate: Estimate::default(),
    }
}

/// What `discover` shows of a table.
fn stream(table: &Table) -> Stream {
    let cursors = cursors(table);
    let by_change = cursors
        .first()
        .is_some_and(|first| first.safety == Safety::Snapshot && table.column(&first.column).is_some_and(says_changed));
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
            rows: table.rows().filter(|_| table.sort != Sort::View),
            bytes: Some(table.bytes()).filter(|bytes| *bytes > 0),
            calls: None,
        },
    }
}

/// Columns by which a table can be read incrementally: first those that say when a row was changed, then other clocks,
/// then a key of one column, then other numbers.
fn cursors(table: &Table) -> Vec<CursorColumn> {
    let safety = if table.has_versions() { Safety::Snapshot } else { Safety::Unsafe };
    let rank = |column: &Column| match column.kind {
        _ if says_changed(column) => 0,
        Kind::Timestamp | Kind::TimestampTz => 1,
        _ if table.key == [column.name.as_str()] => 2,
        Kind::Date => 3,
        Kind::Text | Kind::Uuid => 5,
        _ => 4,
    };
    let mut columns: Vec<&Column> = table
        .columns
        .iter()
        .filter(|column| incremental::is_cursor(column) && (rank(column) < 5 || table.key == [column.name.as_str()]))
        .collect();
    columns.sort_by_key(|column| rank(column));
    columns.into_iter().map(|column| CursorColumn { column: column.name.clone(), safety }).collect()
}

/// Whether a column by its name and type holds the time of a row's last change.
fn says_changed(column: &Column) -> bool {
    matches!(column.kind, Kind::Timestamp | Kind::TimestampTz) && ingest_sql::says_changed(&column.name)
}
