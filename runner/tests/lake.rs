//! A lake in memory, sessions over it, and what its tables hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};

use arrow_array::RecordBatch;
use ingest_core::config::Span;
use ingest_core::{CancellationToken, Clock, Json, columns};
use ingest_lake_delta::DeltaFormat;
use ingest_runner::commit::Author;
use ingest_runner::config::{Common, Config, LakeConfig, SourceConfig, StreamOptions};
use ingest_runner::events::{RunReport, Silent};
use ingest_runner::registry::Registry;
use ingest_runner::run::{RunOptions, run};
use ingest_runner::session::{Lake, Session};
use ingest_testkit::source::{Model, ModelConnector};
use object_store::ObjectStore;
use object_store::memory::InMemory;

/// A lake over one store, and a model to read.
pub struct World {
    pub model: Model,
    pub store: Arc<dyn ObjectStore>,
    pub streams: Vec<(String, StreamOptions)>,
    pub memory: u64,
    pub commit_interval: Duration,
    /// Policies, the mask key.
    pub common: Common,
    /// The clock of runs; the system's where there is none.
    pub skew: Option<Arc<dyn Clock>>,
}

impl World {
    pub fn new(model: Model) -> Self {
        Self::over(model, Arc::new(InMemory::new()))
    }

    pub fn over(model: Model, store: Arc<dyn ObjectStore>) -> Self {
        let commit_interval = Duration::from_secs(60);
        Self {
            model,
            store,
            streams: Vec::new(),
            memory: 64 << 20,
            commit_interval,
            common: Common::default(),
            skew: None,
        }
    }

    /// Every stream is read with these options.
    pub fn with(mut self, options: StreamOptions) -> Self {
        self.streams = vec![("*".into(), options)];
        self
    }

    pub fn lake(&self) -> Lake {
        let url = "memory:///lake".parse().expect("a URL");
        let delta = DeltaFormat::new(Arc::clone(&self.store), url);
        Lake {
            format: Arc::new(delta),
            store: Arc::clone(&self.store),
            documents: ingest_catalog::Documents::new(Arc::clone(&self.store)),
            config: LakeConfig { commit_interval: Span(self.commit_interval), ..LakeConfig::default() },
        }
    }

    /// Who looks at checkpoints, beside a session.
    pub fn author(&self, session: &Session) -> Author {
        Author {
            documents: session.lake.documents.clone(),
            format: Arc::clone(&session.lake.format),
            source: "shop".into(),
            run: session.run_id.clone(),
            connector: "model".into(),
            clock: Arc::clone(&session.clock),
        }
    }

    pub async fn session(&self, run: &str) -> Session {
        let source = SourceConfig {
            name: "shop".into(),
            connector: "model".into(),
            fields: self.model.config(),
            streams: self.streams.clone(),
            defaults: StreamOptions::default(),
            schedule: None,
            common: self.common.clone(),
        };
        let config = Config {
            lake: LakeConfig::default(),
            memory: ingest_core::config::ByteSize(self.memory),
            sources: BTreeMap::from([("shop".to_owned(), source)]),
            common: self.common.clone(),
            file: None,
        };
        let registry = Registry::empty().with::<ModelConnector>();
        let cancel = CancellationToken::new();
        let opened = Session::open_in(self.lake(), &config, &registry, "shop", Some(run.into()), cancel).await;
        let mut session = opened.expect("the model opens");
        if let Some(clock) = &self.skew {
            session.clock = Arc::clone(clock);
        }
        session
    }

    pub async fn run(&self, run_id: &str, options: &RunOptions) -> RunReport {
        let session = self.session(run_id).await;
        run(&session, options, Arc::new(Silent)).await
    }

    /// All rows of a stream's table.
    pub async fn batches(&self, stream: u32) -> Vec<RecordBatch> {
        let folder = format!("bronze/shop/shop_stream_{stream}");
        match self.lake().format.open(&folder).await.expect("the table can be opened") {
            Some(table) => table.read(usize::MAX).await.expect("the table can be read"),
            None => Vec::new(),
        }
    }

    /// The ids of a stream's table, in order.
    pub async fn ids(&self, stream: u32) -> Vec<i64> {
        let mut ids: Vec<i64> = Vec::new();
        for batch in self.batches(stream).await {
            let column = batch.column_by_name("id").expect("a column id");
            ids.extend(column.as_primitive::<Int64Type>().values());
        }
        ids.sort_unstable();
        ids
    }

    /// The ids that are alive by the newest change of each, in order.
    pub async fn newest(&self, stream: u32) -> Vec<i64> {
        let mut newest: BTreeMap<i64, (Option<String>, String)> = BTreeMap::new();
        for (id, op, seq) in self.events(stream).await {
            let entry = newest.entry(id).or_insert_with(|| (seq.clone(), op.clone()));
            if seq >= entry.0 {
                *entry = (seq, op);
            }
        }
        newest.into_iter().filter(|(_, (_, op))| op != "D").map(|(id, _)| id).collect()
    }

    /// No change of the log stands in the table twice.
    pub async fn nothing_doubled(&self, stream: u32, context: &str) {
        let mut events = self.events(stream).await;
        let before = events.len();
        events.sort();
        events.dedup();
        assert_eq!(before, events.len(), "{context}: a row is there twice");
    }

    /// Id and version of every row that holds: of all rows, or of current ones where the table keeps versions, without those
    /// that are marked as deleted.
    pub async fn versions(&self, stream: u32) -> Vec<(i64, i64)> {
        let mut versions = Vec::new();
        for batch in self.batches(stream).await {
            let column = |name: &str| batch.column_by_name(name);
            let ids = column("id").expect("a column id").as_primitive::<Int64Type>();
            let numbers = column("version").expect("a column version").as_primitive::<Int32Type>();
            for row in 0..batch.num_rows() {
                let current = column(columns::CURRENT).is_none_or(|current| current.as_boolean().value(row));
                let deleted = column(columns::DELETED_AT).is_some_and(|deleted| deleted.is_valid(row));
                if current && !deleted {
                    versions.push((ids.value(row), i64::from(numbers.value(row))));
                }
            }
        }
        versions.sort_unstable();
        versions
    }

    /// Id and version of every row of the model.
    pub fn true_versions(&self, stream: u32) -> Vec<(i64, i64)> {
        let number =
            |row: &serde_json::Map<String, Json>, name: &str| row.get(name).and_then(Json::as_i64).expect("a number");
        let rows = self.model.truth(stream);
        let mut versions: Vec<_> = rows.iter().map(|row| (number(row, "id"), number(row, "version"))).collect();
        versions.sort_unstable();
        versions
    }

    /// The spans of the versions of each key, in order of time: from, inclusive, to, exclusive.
    pub async fn spans(&self, stream: u32) -> BTreeMap<i64, Vec<(i64, Option<i64>)>> {
        let mut spans: BTreeMap<i64, Vec<(i64, Option<i64>)>> = BTreeMap::new();
        for batch in self.batches(stream).await {
            let column = |name: &str| batch.column_by_name(name).expect("a column");
            let ids = column("id").as_primitive::<Int64Type>();
            let from = column(columns::EFFECTIVE).as_primitive::<TimestampMicrosecondType>();
            let to = column(columns::EXPIRY).as_primitive::<TimestampMicrosecondType>();
            let current = column(columns::CURRENT).as_boolean();
            for row in 0..batch.num_rows() {
                assert_eq!(current.value(row), to.is_null(row), "a row is current as long as it has no end");
                let end = to.is_valid(row).then(|| to.value(row));
                spans.entry(ids.value(row)).or_default().push((from.value(row), end));
            }
        }
        spans.values_mut().for_each(|spans| spans.sort_unstable());
        spans
    }

    /// Id, operation and order of every row.
    async fn events(&self, stream: u32) -> Vec<(i64, String, Option<String>)> {
        let mut events = Vec::new();
        for batch in self.batches(stream).await {
            let ids = batch.column_by_name("id").expect("a column id").as_primitive::<Int64Type>();
            let ops = batch.column_by_name("_ingest_op").expect("a column _ingest_op").as_string::<i32>();
            let seqs = batch.column_by_name("_ingest_seq").map(|column| column.as_string::<i32>());
            for row in 0..batch.num_rows() {
                let seq = seqs.filter(|seqs| seqs.is_valid(row)).map(|seqs| seqs.value(row).to_owned());
                events.push((ids.value(row), ops.value(row).to_owned(), seq));
            }
        }
        events
    }

    /// The ids that the model holds, in order.
    pub fn truth(&self, stream: u32) -> Vec<i64> {
        let mut ids: Vec<i64> =
            self.model.truth(stream).iter().filter_map(|row| row.get("id").and_then(Json::as_i64)).collect();
        ids.sort_unstable();
        ids
    }
}
