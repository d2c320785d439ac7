//! How fast rows come out of a plug-in, beside the same connector linked in.
//!
//! `cargo bench -p ingest-runner --bench plugin`. The source costs nothing: it gives the same batch again and again, so that
//! all that differs is the pipe. Two figures: rows into a table, as a run reads them, and rows into nothing. Linked in and
//! plug-in in turns; the ratio of the medians is what counts, the figures themselves are the machine's.
//!
//! The plug-in is this program under another name.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{
    ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use ingest_core::{
    Builtin, CancellationToken, Capabilities, Connector, Context, Cursor, Deletes, Done, Estimate, Event, Factory,
    JsonSchema, Mode, Out, Plan, PlanRequest, Problem, RawOut, Replay, Result, Selection, Shape, Slice, Spec, Stream,
    async_trait,
};
use ingest_runner::config::{Config, LakeConfig, SourceConfig};
use ingest_runner::events::Silent;
use ingest_runner::plugin::Executable;
use ingest_runner::registry::Registry;
use ingest_runner::run::{RunOptions, run};
use ingest_runner::session::Session;
use serde::{Deserialize, Serialize};

/// Under this name the program is a plug-in.
const PLUGIN: &str = "ingest-connector-same";
const ROWS: i64 = 16_384;
const TURNS: usize = 7;

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct SameConfig {
    /// How many batches.
    batches: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct At(i64);

impl Cursor for At {}

/// Gives one batch many times.
struct Same {
    batches: i64,
    batch: RecordBatch,
}

fn batch() -> Result<RecordBatch> {
    let each = 0..ROWS;
    let totals = Decimal128Array::from_iter_values(each.clone().map(|id| i128::from(id * 37 % 100_000)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(each.clone()))),
        ("customer", Arc::new(StringArray::from_iter_values(each.clone().map(|id| format!("customer {}", id * 7919))))),
        ("status", Arc::new(StringArray::from_iter_values(each.clone().map(|id| ["open", "paid"][id as usize % 2])))),
        ("total", Arc::new(totals.with_precision_and_scale(12, 2)?)),
        ("weight", Arc::new(Float64Array::from_iter_values(each.clone().map(|id| id as f64 / 8.0)))),
        ("at", Arc::new(TimestampMicrosecondArray::from_iter_values(each.map(|id| 1_700_000_000_000_000 + id)))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

#[async_trait]
impl Connector for Same {
    type Config = SameConfig;
    type Work = ();
    type Position = At;

    fn spec() -> Spec {
        Spec {
            name: "same".into(),
            version: "1.0.0".into(),
            title: "Same".into(),
            docs: String::new(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Full],
                deletes: Deletes::Unseen,
                replay: Replay::Always,
                parallel: 1,
                portable: true,
                projection: false,
                filter: false,
            },
            config: None,
        }
    }

    async fn open(config: SameConfig, _: Context) -> Result<Self> {
        Ok(Self { batches: config.batches, batch: batch()? })
    }

    async fn check(&self, _: &Selection) -> Result<Vec<Problem>> {
        Ok(Vec::new())
    }

    async fn schema(&self, _: &Selection) -> Result<Vec<Stream>> {
        Ok(vec![Stream {
            name: "rows".into(),
            schema: self.batch.schema(),
            key: Vec::new(),
            modes: vec![Mode::Full],
            cursors: Vec::new(),
            group: None,
            estimate: Estimate::default(),
        }])
    }

    async fn plan(&self, _: &PlanRequest<At>) -> Result<Plan<(), At>> {
        let slice = Slice {
            id: "all".into(),
            streams: vec!["rows".into()],
            shape: Shape::Window,
            work: (),
            estimate: Estimate::default(),
        };
        Ok(Plan { slices: vec![slice], ..Plan::default() })
    }

    async fn extract(&self, slice: &Slice<()>, from: Option<&At>, out: &mut Out<'_, At>) -> Result<Done> {
        for number in from.map_or(0, |at| at.0)..self.batches {
            out.rows(&slice.streams[0], self.batch.clone()).await?;
            out.mark(&At(number + 1)).await?;
        }
        Ok(Done::Complete)
    }
}

/// Takes rows and forgets them.
struct Nothing {
    rows: usize,
}

#[async_trait]
impl RawOut for Nothing {
    async fn put(&mut self, event: Event) -> Result<()> {
        if let Event::Rows(_, batch) = event {
            self.rows += batch.num_rows();
        }
        Ok(())
    }

    fn batch_bytes(&self) -> usize {
        2 << 20
    }

    fn follow(&self) -> bool {
        false
    }
}

async fn into_nothing(factory: &Arc<dyn Factory>, batches: i64) -> Result<Duration> {
    let config = serde_json::json!({ "batches": batches });
    let source = factory.open(config, Context::standalone("bench")).await?;
    source.schema(&Selection::default()).await?;
    let slice = Slice {
        id: "all".into(),
        streams: vec!["rows".into()],
        shape: Shape::Window,
        work: ingest_core::Json::Null,
        estimate: Estimate::default(),
    };
    let mut out = Nothing { rows: 0 };
    let start = Instant::now();
    source.extract(&slice, 1, None, &mut out).await?;
    assert_eq!(out.rows as i64, batches * ROWS, "rows are missing");
    Ok(start.elapsed())
}

async fn into_a_table(factory: &Arc<dyn Factory>, batches: i64) -> Result<Duration, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let url = folder.path().to_str().ok_or("a folder that is not UTF-8")?.to_owned();
    let source = SourceConfig {
        connector: "same".into(),
        fields: serde_json::json!({ "batches": batches }),
        ..SourceConfig::named("bench")
    };
    let config = Config {
        lake: LakeConfig { url, ..LakeConfig::default() },
        memory: ingest_runner::config::DEFAULT_MEMORY,
        sources: BTreeMap::from([("bench".to_owned(), source)]),
        file: None,
        common: Default::default(),
    };
    let registry = Registry::empty().with_factory("same", Arc::clone(factory));
    let start = Instant::now();
    let session = Session::open(&config, &registry, "bench", None, CancellationToken::new()).await?;
    let report = run(&session, &RunOptions::default(), Arc::new(Silent)).await;
    assert_eq!(report.rows_written as i64, batches * ROWS, "{report:?}");
    Ok(start.elapsed())
}

fn median(mut turns: Vec<Duration>) -> f64 {
    turns.sort_unstable();
    turns[turns.len() / 2].as_secs_f64()
}

fn print(what: &str, batches: i64, linked: Vec<Duration>, plugin: Vec<Duration>) -> Result<()> {
    let bytes = batches as f64 * ingest_core::memory_of(&batch()?) as f64 / f64::from(1 << 20);
    let (linked, plugin) = (median(linked), median(plugin));
    println!(
        "{what}: linked in {:.0} MiB/s, plug-in {:.0} MiB/s, ratio {:.2}",
        bytes / linked,
        bytes / plugin,
        linked / plugin
    );
    Ok(())
}

fn main() -> std::process::ExitCode {
    if std::env::args().next().is_some_and(|name| name.ends_with(PLUGIN)) {
        return ingest_core::serve::<Same>();
    }
    match measure() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join(PLUGIN);
    std::os::unix::fs::symlink(std::env::current_exe()?, &path)?;
    let ways: [Arc<dyn Factory>; 2] = [Arc::new(Builtin::<Same>::new()), Arc::new(Executable::at(&path)?)];
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tables = [Vec::new(), Vec::new()];
        let mut nothing = [Vec::new(), Vec::new()];
        for _ in 0..TURNS {
            for (way, factory) in ways.iter().enumerate() {
                tables[way].push(into_a_table(factory, 300).await?);
                nothing[way].push(into_nothing(factory, 1_000).await?);
            }
        }
        let ([linked, plugin], [bare, piped]) = (tables, nothing);
        print("into a table", 300, linked, plugin)?;
        print("into nothing (the pipe alone)", 1_000, bare, piped)?;
        Ok(())
    })
}
