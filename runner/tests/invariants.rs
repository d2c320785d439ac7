//! The invariants of the commit protocol, by name, over the real commit code and a store that fails on command.
//!
//! Those of feeds (15 to 20) stand in `feeds`; random histories of all of them in `chaos`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use ingest_catalog::{Checkpoint, Documents, checkpoint_path};
use ingest_core::lake::{Commit, Compression, DataFile, Definition, Maintenance, WriterOptions};
use ingest_core::{Clock, ErrorKind, Mode, Result, SliceId, Stored};
use ingest_lake_delta::DeltaFormat;
use ingest_runner::commit::{Author, Change, Committer};
use ingest_runner::config::StreamOptions;
use ingest_runner::run::RunOptions;
use ingest_runner::state;
use ingest_testkit::source::{Call, Model, ModelConfig, Reading, Trouble};
use ingest_testkit::store::{Fault, FaultStore, Operation};
use object_store::ObjectStore;
use serde_json::json;

use crate::lake::World;

/// A clock that the test sets.
#[derive(Clone)]
pub struct Hands(Arc<AtomicI64>);

impl Hands {
    pub fn at(micros: i64) -> Self {
        Self(Arc::new(AtomicI64::new(micros)))
    }

    fn advance(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn now_micros(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

const NOON: i64 = 1_763_668_800_000_000;

/// A client of the lake: its own troubles, its own clock.
struct Client {
    store: FaultStore,
    author: Author,
    clock: Hands,
}

fn client(inner: &Arc<dyn ObjectStore>, run: &str) -> Client {
    client_at(inner, run, NOON)
}

fn client_at(inner: &Arc<dyn ObjectStore>, run: &str, now: i64) -> Client {
    let store = FaultStore::over(Arc::clone(inner));
    let shared: Arc<dyn ObjectStore> = Arc::new(store.clone());
    let clock = Hands::at(now);
    let format = DeltaFormat::new(Arc::clone(&shared), "memory:///lake".parse().expect("a URL"));
    let author = Author {
        documents: Documents::new(shared),
        format: Arc::new(format),
        source: "shop".into(),
        run: run.into(),
        connector: "model 1".into(),
        clock: Arc::new(clock.clone()),
    };
    Client { store, author, clock }
}

fn inner() -> Arc<dyn ObjectStore> {
    Arc::new(object_store::memory::InMemory::new())
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]))
}

fn definition() -> Definition {
    Definition { schema: schema(), partition_by: Vec::new(), description: None }
}

async fn open(client: &Client) -> Committer {
    let mut committer = Committer::open(client.author.clone(), "orders".into()).await.expect("it opens");
    committer.ensure(&definition()).await.expect("the table is there");
    committer
}

/// An uploaded file with these ids.
async fn file(committer: &Committer, ids: &[i64]) -> Vec<DataFile> {
    let writers = committer.table().expect("a table").writers();
    let batch = RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(ids.to_vec()))]).expect("a batch");
    let options = WriterOptions {
        target_file_bytes: 1 << 20,
        memory_bytes: 1 << 20,
        compression: Compression::Zstd,
        runtime: tokio::runtime::Handle::current(),
    };
    tokio::task::spawn_blocking(move || {
        let mut writer = writers.writer(schema(), &options)?;
        writer.write(&batch)?;
        writer.finish()
    })
    .await
    .expect("no panic")
    .expect("written")
}

async fn append(committer: &mut Committer, ids: &[i64]) -> Result<u64> {
    let add = file(committer, ids).await;
    let last = ids.last().copied().unwrap_or(0);
    committer.commit(Change { add, ..Change::default() }, |edit| edit.feed(&"feed".into(), at(last))).await
}

fn at(position: i64) -> Stored {
    Stored { v: 1, seq: None, at: json!(position) }
}

/// The ids that a client without troubles reads.
async fn ids(inner: &Arc<dyn ObjectStore>) -> Vec<i64> {
    let reader = client(inner, "reader");
    let table = reader.author.format.open("bronze/shop/orders").await.expect("it opens").expect("a table");
    let mut ids = Vec::new();
    for batch in table.read(usize::MAX).await.expect("it reads") {
        let column = batch.column_by_name("id").expect("a column id");
        ids.extend(arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(column).values());
    }
    ids.sort_unstable();
    ids
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("it must not succeed").kind()
}

#[tokio::test(flavor = "multi_thread")]
async fn creation_carries_no_rows() {
    let lake = inner();
    let (a, b) = (client(&lake, "a"), client(&lake, "b"));
    let (mut first, mut second) = (open(&a).await, open(&b).await);
    let table = a.author.format.open("bronze/shop/orders").await.expect("it opens").expect("a table");
    assert_eq!((table.version(), table.files().await.expect("listed").len()), (0, 0));
    append(&mut first, &[1, 2]).await.expect("the first to commit wins");
    assert_eq!(kind(append(&mut second, &[1, 2]).await), ErrorKind::CheckpointConflict);
    assert_eq!(ids(&lake).await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn number_and_document_from_one_snapshot() {
    let lake = inner();
    let a = client(&lake, "a");
    let mut committer = open(&a).await;
    append(&mut committer, &[1]).await.expect("committed");
    let n = committer.number().expect("a number");
    // A run that died before its commit leaves a document with a higher number.
    let mut orphan = committer.checkpoint().clone();
    orphan.number = n + 1_000_000;
    orphan.positions.insert("feed".into(), at(99));
    orphan.create(&a.author.documents, "orders").await.expect("written");
    let reopened = open(&client(&lake, "b")).await;
    assert_eq!(reopened.number(), Some(n));
    assert_eq!(reopened.checkpoint().positions[&SliceId::from("feed")].at, json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn document_is_never_overwritten() {
    let lake = inner();
    let a = client(&lake, "a");
    let mut committer = open(&a).await;
    let mut orphan = Checkpoint::empty("shop", "orders", "ingest/shop/orders", committer.checkpoint().table.as_str());
    orphan.number = NOON;
    orphan.run = "the dead run".into();
    orphan.create(&a.author.documents, "orders").await.expect("written");
    append(&mut committer, &[1]).await.expect("committed under the next number");
    assert_eq!(committer.number(), Some(NOON + 1));
    // An answer that is lost: the document may be there, so its number is passed over.
    a.store.script(Operation::Put, "_ingest/checkpoints/*", [Fault::LoseAnswer]);
    append(&mut committer, &[2]).await.expect("committed under the number after");
    assert_eq!(committer.number(), Some(NOON + 3));
    let kept: Checkpoint = a
        .author
        .documents
        .get(&checkpoint_path("shop", "orders", NOON))
        .await
        .expect("read")
        .expect("it is still there");
    assert_eq!(kept.run, "the dead run");
    assert_eq!(ids(&lake).await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_on_the_handle_that_read() {
    let lake = inner();
    let (a, b) = (client(&lake, "a"), client(&lake, "b"));
    let (mut zombie, mut live) = (open(&a).await, open(&b).await);
    append(&mut live, &[1, 2, 3]).await.expect("committed");
    assert_eq!(kind(append(&mut zombie, &[1, 2, 3]).await), ErrorKind::CheckpointConflict);
    append(&mut live, &[4]).await.expect("the live one goes on");
    assert_eq!(kind(append(&mut zombie, &[4]).await), ErrorKind::CheckpointConflict);
    assert_eq!(ids(&lake).await, [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_is_looked_up() {
    for fault in [Fault::LoseAnswer, Fault::Refuse, Fault::Repeat, Fault::LandLate] {
        let lake = inner();
        let a = client(&lake, "a");
        let mut committer = open(&a).await;
        a.store.script(Operation::Put, "*_delta_log/*.json", [fault]);
        append(&mut committer, &[1, 2]).await.unwrap_or_else(|e| panic!("{fault:?}: {e:?}"));
        // A first attempt that lands late conflicts with the second.
        a.store.land().await;
        assert_eq!(ids(&lake).await, [1, 2], "{fault:?}");
        append(&mut committer, &[3]).await.expect("it goes on");
        assert_eq!(ids(&lake).await, [1, 2, 3], "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_is_looked_up_and_a_third_number_makes_a_zombie() {
    let lake = inner();
    let (a, b) = (client(&lake, "a"), client(&lake, "b"));
    let mut zombie = open(&a).await;
    // Its commit hangs and its answer is lost; meanwhile another run takes over from what it finds.
    a.store.script(Operation::Put, "*_delta_log/*.json", [Fault::LoseAnswer]);
    a.store.script(Operation::Get, "*_delta_log/*", [Fault::Hold]);
    let task = tokio::spawn(async move { (append(&mut zombie, &[1]).await, zombie) });
    a.store.until(|store| store.held() > 0).await;
    let mut live = open(&b).await;
    assert_eq!(live.checkpoint().positions[&SliceId::from("feed")].at, json!(1), "the commit is in");
    append(&mut live, &[2]).await.expect("committed");
    a.store.heal();
    let (result, mut zombie) = task.await.expect("no panic");
    if result.is_ok() {
        // It may have found its own commit before the other's; then the next one tells it.
        assert_eq!(kind(append(&mut zombie, &[2]).await), ErrorKind::CheckpointConflict);
    }
    assert_eq!(ids(&lake).await, [1, 2]);
}

fn full() -> StreamOptions {
    StreamOptions { mode: Some(Mode::Full), ..StreamOptions::default() }
}

fn appending() -> StreamOptions {
    StreamOptions { write: Some(ingest_core::WriteMode::Append), ..full() }
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_is_adopted_before_its_rows() {
    let model = Model::new(ModelConfig { rows: 2_000, ..ModelConfig::default() });
    let mut world = World::new(model).with(appending());
    world.commit_interval = std::time::Duration::ZERO;
    world.model.script(Call::Extract, "*/3", [Trouble::FailAfter(150, ErrorKind::DataInvalid)]);
    let report = world.run("one", &RunOptions::default()).await;
    assert_eq!(report.exit_code, 1, "{report:#?}");
    let session = world.session("look").await;
    let author = world.author(&session);
    let log = state::log(&author, &"shop.stream_0".into(), usize::MAX).await.expect("read");
    assert!(log.len() > 3, "rows were committed mark by mark");
    assert!(log.iter().all(|checkpoint| checkpoint.plan.is_some()));
    assert_eq!(log.last().map(|first| first.rows), Some(0), "the adoption carries no rows");
    let report = world.run("two", &RunOptions::default()).await;
    assert_eq!(report.exit_code, 0, "{report:#?}");
    assert_eq!(world.ids(0).await, world.truth(0), "the adopted plan was continued, not made again");
}

#[tokio::test(flavor = "multi_thread")]
async fn adoption_is_per_table() {
    let model = Model::new(ModelConfig { rows: 1_000, streams: 2, slices: 1, ..ModelConfig::default() });
    let mut world = World::new(model).with(appending());
    world.commit_interval = std::time::Duration::ZERO;
    // The plan of both streams is adopted by the first alone: the second fails before anything of it is committed.
    world.model.script(Call::Extract, "shop.stream_0/0", [Trouble::FailAfter(250, ErrorKind::DataInvalid)]);
    world.model.script(Call::Extract, "shop.stream_1/0", [Trouble::Fail(ErrorKind::DataInvalid)]);
    let report = world.run("one", &RunOptions::default()).await;
    assert_eq!(report.exit_code, 1, "{report:#?}");
    let plans = world.model.calls(Call::Plan);
    let report = world.run("two", &RunOptions::default()).await;
    assert_eq!(report.exit_code, 0, "{report:#?}");
    assert_eq!(world.model.calls(Call::Plan), plans, "the second stream took the plan that the first had adopted");
    for stream in 0..2 {
        assert_eq!(world.ids(stream).await, world.truth(stream));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_is_staged() {
    let config = ModelConfig { rows: 2_000, reading: Reading::Snapshot, ..ModelConfig::default() };
    let mut world = World::new(Model::new(config)).with(appending());
    world.commit_interval = std::time::Duration::ZERO;
    world.model.script(Call::Extract, "*/3", [Trouble::FailAfter(150, ErrorKind::DataInvalid)]);
    let report = world.run("one", &RunOptions::default()).await;
    assert_eq!((report.exit_code, report.rows_written), (1, 0), "{report:#?}");
    assert_eq!(world.ids(0).await, [0_i64; 0], "nothing of an unfinished snapshot is visible");
    // The snapshot died with the process that made it: the plan is given up and made again.
    let report = world.run("two", &RunOptions::default()).await;
    assert_eq!((report.exit_code, report.rows_written), (0, 2_000), "{report:#?}");
    assert_eq!(world.ids(0).await, world.truth(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn number_grows_without_a_clock() {
    let lake = inner();
    let mut ahead = open(&client_at(&lake, "a", NOON + 3_600_000_000)).await;
    append(&mut ahead, &[1]).await.expect("committed");
    let n = ahead.number().expect("a number");
    let mut behind = open(&client_at(&lake, "b", NOON - 3_600_000_000)).await;
    append(&mut behind, &[2]).await.expect("committed");
    assert_eq!(behind.number(), Some(n + 1));
    assert_eq!(kind(append(&mut ahead, &[2]).await), ErrorKind::CheckpointConflict);
    assert_eq!(ids(&lake).await, [1, 2]);
}

fn maintenance() -> Maintenance {
    Maintenance {
        target_file_bytes: 128 << 20,
        retention: std::time::Duration::from_secs(7 * 86_400),
        staged: Arc::default(),
        memory_bytes: 16 << 20,
        compression: Compression::Zstd,
        expire: Vec::new(),
        cluster_by: Vec::new(),
        dry_run: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_does_not_disturb() {
    let lake = inner();
    let (a, b) = (client(&lake, "a"), client(&lake, "b"));
    let mut committer = open(&a).await;
    for id in 0..5 {
        append(&mut committer, &[id]).await.expect("committed");
    }
    let mut other = b.author.format.open("bronze/shop/orders").await.expect("it opens").expect("a table");
    let done = other.maintain(&maintenance()).await.expect("maintained");
    assert!(done.files_compacted >= 2, "{done:?}");
    append(&mut committer, &[5]).await.expect("an append passes over a compaction");
    assert_eq!(ids(&lake).await, [0, 1, 2, 3, 4, 5]);
    // A replacement that meets a compaction is computed again.
    let add = file(&committer, &[9]).await;
    let mut other = b.author.format.open("bronze/shop/orders").await.expect("it opens").expect("a table");
    other.maintain(&maintenance()).await.expect("maintained");
    let remove = ingest_core::lake::Removal::All;
    committer.commit(Change { add, remove, ..Change::default() }, |_| {}).await.expect("replaced");
    assert_eq!(ids(&lake).await, [9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_handle_expires() {
    let lake = inner();
    let (a, b) = (client(&lake, "a"), client(&lake, "b"));
    let (mut old, mut other) = (open(&a).await, open(&b).await);
    append(&mut old, &[1]).await.expect("committed");
    a.clock.advance(16 * 86_400 * 1_000_000);
    append(&mut old, &[2]).await.expect("nobody has moved: it stands on a new handle");
    assert_eq!(kind(append(&mut other, &[2]).await), ErrorKind::CheckpointConflict);
    let mut newer = open(&client_at(&lake, "c", a.clock.now_micros())).await;
    append(&mut newer, &[3]).await.expect("committed");
    a.clock.advance(16 * 86_400 * 1_000_000);
    assert_eq!(kind(append(&mut old, &[3]).await), ErrorKind::CheckpointConflict);
    assert_eq!(ids(&lake).await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn table_is_named() {
    let lake = inner();
    let a = client(&lake, "a");
    let mut committer = open(&a).await;
    append(&mut committer, &[1]).await.expect("committed");
    let n = committer.number().expect("a number");
    drop(committer);
    // Somebody drops the table and makes another one that claims the same number.
    let listed = a.author.documents.objects("bronze/shop/orders").await.expect("listed");
    for (path, _) in listed {
        object_store::ObjectStoreExt::delete(&lake, &path.as_str().into()).await.expect("deleted");
    }
    let mut forged = a.author.format.create("bronze/shop/orders", &definition()).await.expect("created");
    let transactions = vec![("ingest/shop/orders".to_owned(), n)];
    forged.commit(Commit { transactions, ..Commit::default() }).await.expect("committed");
    let opened = Committer::open(client(&lake, "b").author, "orders".into()).await;
    assert_eq!(opened.err().map(|e| e.kind()), Some(ErrorKind::CheckpointInvalid));
}

#[tokio::test(flavor = "multi_thread")]
async fn rewind_takes_the_rows_back() {
    let lake = inner();
    let a = client(&lake, "a");
    let mut committer = open(&a).await;
    append(&mut committer, &[1, 2]).await.expect("committed");
    let n = committer.number().expect("a number");
    a.clock.advance(1_000_000);
    append(&mut committer, &[3]).await.expect("committed");
    state::rewind(&a.author, &"orders".into(), n).await.expect("rewound");
    assert_eq!(ids(&lake).await, [1, 2]);
    let mut after = open(&a).await;
    assert_eq!(after.checkpoint().positions[&SliceId::from("feed")].at, json!(2));
    append(&mut after, &[3]).await.expect("the rows come again");
    assert_eq!(ids(&lake).await, [1, 2, 3]);
    assert_eq!(kind(state::rewind(&a.author, &"orders".into(), 7).await), ErrorKind::ConfigInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn staged_files_survive_maintenance() {
    let lake = inner();
    let a = client(&lake, "a");
    let mut committer = open(&a).await;
    committer.commit(Change::default(), |edit| edit.adopt("plan-1", 1, false)).await.expect("adopted");
    let staged = file(&committer, &[1, 2, 3]).await;
    let orphan = file(&committer, &[99]).await;
    let files = staged.clone();
    committer.commit(Change::default(), |edit| edit.stage(files)).await.expect("staged");
    let mut options = maintenance();
    options.retention = std::time::Duration::ZERO;
    options.staged = Arc::new(committer.staged().await.expect("listed").into_iter().map(|file| file.path).collect());
    let mut other =
        client(&lake, "b").author.format.open("bronze/shop/orders").await.expect("it opens").expect("a table");
    let done = other.maintain(&options).await.expect("maintained");
    assert_eq!(done.files_deleted, 1, "the orphan {:?} goes, what is staged stays", orphan[0].path);
    let add = committer.staged().await.expect("listed");
    let change = Change { add, ..Change::default() };
    committer.commit(change, |edit| edit.close(&Default::default())).await.expect("closed");
    assert_eq!(ids(&lake).await, [1, 2, 3]);
}
