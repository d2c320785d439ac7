//! A lake in memory, sessions over it, and what its tables hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use ingest_core::{CancellationToken, Json};
use ingest_lake_delta::DeltaFormat;
use ingest_runner::config::{Config, LakeConfig, SourceConfig, StreamOptions};
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
}

impl World {
    pub fn new(model: Model) -> Self {
        Self::over(model, Arc::new(InMemory::new()))
    }

    pub fn over(model: Model, store: Arc<dyn ObjectStore>) -> Self {
        Self { model, store, streams: Vec::new(), memory: 64 << 20 }
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
            config: LakeConfig::default(),
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
        };
        let config = Config {
            lake: LakeConfig::default(),
            memory: ingest_core::config::ByteSize(self.memory),
            sources: BTreeMap::from([("shop".to_owned(), source)]),
            file: None,
        };
        let registry = Registry::empty().with::<ModelConnector>();
        Session::open_in(self.lake(), &config, &registry, "shop", Some(run.into()), CancellationToken::new())
            .await
            .expect("the model opens")
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
            ids.extend(arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(column).values());
        }
        ids.sort_unstable();
        ids
    }

    /// The ids that the model holds, in order.
    pub fn truth(&self, stream: u32) -> Vec<i64> {
        let mut ids: Vec<i64> =
            self.model.truth(stream).iter().filter_map(|row| row.get("id").and_then(Json::as_i64)).collect();
        ids.sort_unstable();
        ids
    }
}
