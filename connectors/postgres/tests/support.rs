//! A source over a database of its own, and what tests do with it.

use std::collections::BTreeMap;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_array::RecordBatch;
use ingest_connector_postgres::Postgres as Connector;
use ingest_core::{
    Builtin, Context, Done, Error, Event, Factory, Intent, Json, Mode, Plan, PlanRequest, Result, Selected, Selection,
    Slice, SliceId, Source, Stored, Stream, StreamName,
};
use ingest_testkit::out::Collected;
use ingest_testkit::postgres::{Database, Postgres};
use serde_json::json;

/// A source over a database of its own.
pub struct Shop {
    pub server: &'static Postgres,
    pub database: Database,
    pub config: Json,
    /// Held by tests that must be alone on their server.
    _turn: Option<tokio::sync::MutexGuard<'static, ()>>,
}

impl Shop {
    /// A new database with these tables; `None` where the server is skipped.
    pub async fn new(sql: &str) -> Option<Self> {
        Self::on(Postgres::shared()?, None, sql).await
    }

    /// As [`Shop::new`], on a server where no other test has a transaction: one that ends while a plan looks at it makes the
    /// plan look further back.
    pub async fn alone(sql: &str) -> Option<Self> {
        static SERVER: std::sync::OnceLock<Option<Postgres>> = std::sync::OnceLock::new();
        static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let turn = TURN.lock().await;
        let server =
            SERVER.get_or_init(|| Postgres::private(&ingest_testkit::postgres::Options::default())).as_ref()?;
        Self::on(server, Some(turn), sql).await
    }

    async fn on(
        server: &'static Postgres,
        turn: Option<tokio::sync::MutexGuard<'static, ()>>,
        sql: &str,
    ) -> Option<Self> {
        let database = server.database().await;
        database.client.batch_execute(sql).await.expect("valid SQL");
        let config = json!({"host": "127.0.0.1", "port": server.port(), "database": database.name, "user": "postgres",
            "password": server.password()});
        Some(Self { server, database, config, _turn: turn })
    }

    pub async fn sql(&self, sql: &str) {
        self.database.client.batch_execute(sql).await.expect("valid SQL");
    }

    /// The configuration with a field changed.
    pub fn with(mut self, key: &str, value: impl Into<Json>) -> Self {
        self.config[key] = value.into();
        self
    }

    pub async fn open(&self) -> Box<dyn Source> {
        open(self.config.clone()).await.expect("a valid configuration")
    }

    /// All values of a query as text.
    pub async fn texts(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let rows = self.database.client.simple_query(sql).await.expect("valid SQL");
        rows.iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect()
    }
}

pub async fn open(config: Json) -> Result<Box<dyn Source>> {
    Builtin::<Connector>::new().open(config, Context::standalone("shop")).await
}

/// How a stream shall be read.
#[derive(Clone)]
pub struct How {
    pub mode: Mode,
    pub cursor: Option<String>,
    pub columns: Option<Vec<String>>,
    pub filter: Option<String>,
    pub positions: BTreeMap<SliceId, Stored>,
    pub intent: Intent,
    pub slice_bytes: u64,
    pub min_slices: u32,
    pub interval: Option<(i64, i64)>,
    pub batch_bytes: usize,
}

impl How {
    pub fn full() -> Self {
        Self {
            mode: Mode::Full,
            cursor: None,
            columns: None,
            filter: None,
            positions: BTreeMap::new(),
            intent: Intent::Here,
            slice_bytes: 1 << 30,
            min_slices: 1,
            interval: None,
            batch_bytes: 1 << 20,
        }
    }

    pub fn by(cursor: &str) -> Self {
        Self { mode: Mode::Incremental, cursor: Some(cursor.into()), ..Self::full() }
    }
}

pub async fn streams(source: &dyn Source, select: &[&str]) -> Vec<Stream> {
    let selection = Selection { select: select.iter().map(|s| (*s).to_owned()).collect(), exclude: Vec::new() };
    source.schema(&selection).await.expect("streams")
}

pub async fn plan(source: &dyn Source, streams: &[Stream], how: &How) -> Result<Plan<Json, Stored>> {
    let selected = streams.iter().map(|stream| Selected {
        stream: stream.clone(),
        mode: how.mode,
        cursor: how.cursor.clone(),
        columns: how.columns.clone(),
        filter: how.filter.clone(),
        positions: how.positions.clone(),
    });
    let request = PlanRequest {
        streams: selected.collect(),
        intent: how.intent,
        slice_bytes: how.slice_bytes,
        min_slices: how.min_slices,
        interval: how.interval,
        now: 0,
    };
    source.plan(&request).await
}

pub async fn read(source: &dyn Source, slice: &Slice<Json>, from: Option<&Stored>, how: &How) -> Result<Collected> {
    let mut out = Collected::new().batch_bytes(how.batch_bytes);
    let done = source.extract(slice, 1, from, &mut out).await?;
    assert_eq!(done, Done::Complete);
    Ok(out)
}

/// Plans and reads one stream; moves `how` to the position that then holds.
pub async fn run(source: &dyn Source, stream: &str, how: &mut How) -> Result<Vec<RecordBatch>> {
    let found = streams(source, &[stream]).await;
    let plan = plan(source, &found, how).await?;
    let mut batches = Vec::new();
    for slice in &plan.slices {
        let out = read(source, slice, None, how).await?;
        batches.extend(out.batches(&StreamName::from(stream)).cloned());
    }
    for (id, position) in plan.then.into_values().flatten() {
        match position {
            Some(position) => how.positions.insert(id, position),
            None => how.positions.remove(&id),
        };
    }
    Ok(batches)
}

/// Warnings that a slice gave.
pub fn warnings(out: &Collected) -> Vec<String> {
    out.events
        .iter()
        .filter_map(|e| if let Event::Warning { text, .. } = e { Some(text.clone()) } else { None })
        .collect()
}

/// The values of a column of all batches as text, in order.
pub fn texts(batches: &[RecordBatch], column: &str) -> Vec<Option<String>> {
    let options = FormatOptions::default();
    let mut texts = Vec::new();
    for batch in batches {
        let Some(array) = batch.column_by_name(column) else {
            texts.extend(std::iter::repeat_n(None, batch.num_rows()));
            continue;
        };
        // Named zones cannot be printed without a database of zones.
        let formatter = ArrayFormatter::try_new(array, &options).ok();
        let text = |row| formatter.as_ref().map_or("?".to_owned(), |formatter| formatter.value(row).to_string());
        texts.extend((0..batch.num_rows()).map(|row| (!array.is_null(row)).then(|| text(row))));
    }
    texts
}

/// The values of an integer column, sorted.
pub fn ids(batches: &[RecordBatch], column: &str) -> Vec<i64> {
    let mut ids: Vec<i64> =
        texts(batches, column).into_iter().map(|id| id.expect("not null").parse().expect("a number")).collect();
    ids.sort_unstable();
    ids
}

/// The error of something that must fail.
pub fn fails<T>(result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("it must fail"),
        Err(error) => error,
    }
}

/// Fails unless the ids are exactly `first..=last`; says what is lost and what is double.
pub fn assert_range(batches: &[RecordBatch], column: &str, first: i64, last: i64) {
    let found = ids(batches, column);
    let lost: Vec<i64> = (first..=last).filter(|id| found.binary_search(id).is_err()).take(10).collect();
    let double: Vec<i64> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).take(10).collect();
    assert!(lost.is_empty() && double.is_empty(), "{} rows, lost {lost:?}, double {double:?}", found.len());
    assert_eq!(i64::try_from(found.len()).expect("few"), last - first + 1, "unknown ids");
}
