//! A store that fails at the worst moments. It stands in for an object store.

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use async_trait::async_trait;
use futures::stream::BoxStream;
use ingest_core::ErrorKind;
use ingest_core::lake::{Commit, CommitError};
use ingest_core::lake::{DataFile, Table, TableFormat};
use ingest_lake_delta::DeltaFormat;
use ingest_testkit::store::{Fault, FaultStore, Odds, Operation};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;

use crate::support::*;

const COMMITS: &str = "*_delta_log/*.json";

fn faulty() -> (FaultStore, DeltaFormat) {
    let store = FaultStore::in_memory();
    let format = format_over(Arc::new(store.clone()));
    (store, format)
}

#[tokio::test]
async fn unknown_is_looked_up_and_a_lost_answer_counts_as_committed() {
    for fault in [Fault::LoseAnswer, Fault::Repeat] {
        let (store, format) = faulty();
        let mut table = table(&format).await;
        store.script(Operation::Put, COMMITS, [fault]);
        assert_eq!(append(&mut table, rows([1]), Some(1)).await.unwrap(), 1);
        assert_eq!(append(&mut table, rows([2]), Some(2)).await.unwrap(), 2);
        assert_eq!(ids(open(&format).await.as_ref()).await, [1, 2]);
    }
}

#[tokio::test]
async fn a_lost_request_is_unknown_and_the_same_commit_on_the_same_handle_is_safe() {
    let (store, format) = faulty();
    let mut table = table(&format).await;
    let add = write(table.as_ref(), vec![rows([1])]).await;
    let commit = Commit { add, transactions: numbered(1), ..Commit::default() };
    store.script(Operation::Put, COMMITS, [Fault::Refuse]);
    let error = table.commit(commit.clone()).await.unwrap_err();
    assert!(matches!(error, CommitError::Unknown(_)), "{error:?}");
    // Nobody moved the number, so the same number and files go again on the same handle.
    assert_eq!(table.reopen().await.unwrap().number(APP).await.unwrap(), None);
    table.commit(commit).await.unwrap();
    assert_eq!(ids(open(&format).await.as_ref()).await, [1]);
}

#[tokio::test]
async fn a_first_attempt_that_lands_late_fences_its_own_repetition() {
    let (store, format) = faulty();
    let mut table = table(&format).await;
    let add = write(table.as_ref(), vec![rows([1])]).await;
    let commit = Commit { add, transactions: numbered(1), ..Commit::default() };
    store.script(Operation::Put, COMMITS, [Fault::LandLate]);
    assert_eq!(kind(table.commit(commit.clone()).await.unwrap_err()), "unknown");
    assert_eq!(store.land().await, 1);
    assert_eq!(kind(table.commit(commit).await.unwrap_err()), "conflict");
    let reader = open(&format).await;
    assert_eq!((ids(reader.as_ref()).await, reader.number(APP).await.unwrap()), (vec![1], Some(1)));
}

#[tokio::test]
async fn a_repetition_that_wins_shuts_its_late_first_attempt_out() {
    let (store, format) = faulty();
    let mut table = table(&format).await;
    let add = write(table.as_ref(), vec![rows([1])]).await;
    let commit = Commit { add, transactions: numbered(1), ..Commit::default() };
    store.script(Operation::Put, COMMITS, [Fault::LandLate]);
    assert_eq!(kind(table.commit(commit.clone()).await.unwrap_err()), "unknown");
    table.commit(commit).await.unwrap();
    store.land().await;
    assert_eq!(ids(open(&format).await.as_ref()).await, [1]);
}

#[tokio::test]
async fn a_refused_request_certainly_failed() {
    let (store, format) = faulty();
    let mut table = table(&format).await;
    store.script(Operation::Put, COMMITS, [Fault::Deny]);
    assert_eq!(kind(append(&mut table, rows([1]), Some(1)).await.unwrap_err()), "failed");
    append(&mut table, rows([1]), Some(1)).await.unwrap();
}

#[tokio::test]
async fn creation_survives_a_lost_answer() {
    let (store, format) = faulty();
    store.script(Operation::Put, COMMITS, [Fault::LoseAnswer]);
    assert_eq!(table(&format).await.version(), 0);
}

#[tokio::test]
async fn a_checkpoint_of_the_log_that_fails_does_not_undo_its_commit() {
    let (store, format) = faulty();
    let mut table = table(&format).await;
    store.always(Operation::Put, "*.checkpoint.parquet", Fault::Deny);
    for i in 0..101 {
        append(&mut table, rows([i]), Some(i)).await.unwrap();
    }
    store.heal();
    let reader = open(&format).await;
    assert_eq!((reader.version(), reader.number(APP).await.unwrap()), (101, Some(100)));
}

#[tokio::test]
async fn the_probe_finds_a_store_that_ignores_create_if_absent() {
    let (_, format) = faulty();
    format.probe().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    local(&folder).probe().await.unwrap();

    let format = format_over(Arc::new(Overwriting(Arc::new(InMemory::new()))));
    let error = format.probe().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint_text().is_some());
}

/// Stands in for a server that knows no conditional puts.
#[derive(Debug)]
struct Overwriting(Arc<InMemory>);

impl fmt::Display for Overwriting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("overwriting store")
    }
}

#[async_trait]
impl ObjectStore for Overwriting {
    async fn put_opts(&self, path: &Path, payload: PutPayload, _: PutOptions) -> Result<PutResult> {
        self.0.put_opts(path, payload, PutOptions::default()).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

/// Two runs of one stream over a store with random faults, each step as the commit protocol has it: every committed
/// number's rows are there once, and the numbers form one line.
#[tokio::test]
async fn random_faults_lose_and_double_nothing() {
    for seed in 0..150 {
        let store = FaultStore::in_memory();
        table(&format_over(Arc::new(store.clone()))).await;
        let odds = Odds { refuse: 0.1, lose: 0.1, late: 0.1, repeat: 0.1, paths: COMMITS.into(), ..Odds::default() };
        store.random(seed, odds);
        let runs: Vec<_> = (0..2)
            .map(|run| {
                let format = format_over(Arc::new(store.clone()));
                tokio::spawn(async move { protocol_run(format, run).await })
            })
            .collect();
        let mut committed = Vec::new();
        for run in runs {
            committed.extend(run.await.unwrap());
        }
        store.heal();
        store.land().await;
        let reader = open(&format_over(store.inner())).await;
        let found = ids(reader.as_ref()).await;
        let mut once = found.clone();
        once.dedup();
        assert_eq!(once, found, "rows twice with seed {seed}");
        assert!(committed.iter().all(|id| found.contains(id)), "rows lost with seed {seed}");
    }
}

/// Commits until it meets another run; gives the ids that it knows to be in.
async fn protocol_run(format: DeltaFormat, run: i64) -> Vec<i64> {
    let mut known = Vec::new();
    let Ok(Some(mut table)) = format.open(FOLDER).await else { return known };
    for step in 0..6 {
        let Ok(before) = table.number(APP).await else { return known };
        let number = before.unwrap_or(0) + 1 + run;
        let id = run * 1000 + step;
        let Some(add) = try_write(table.as_ref(), rows([id])).await else { return known };
        let commit = Commit { add, transactions: numbered(number), ..Commit::default() };
        let mut done = false;
        for _ in 0..3 {
            match table.commit(commit.clone()).await {
                Ok(_) => done = true,
                Err(CommitError::Failed(_)) => return known,
                Err(CommitError::Conflict(_) | CommitError::Unknown(_)) => {
                    let Ok(fresh) = table.reopen().await else { return known };
                    match fresh.number(APP).await {
                        // Two runs may choose the same number: the document of the number would tell; here the row does.
                        Ok(Some(n)) if n == number && try_ids(fresh.as_ref()).await.contains(&id) => {
                            table = fresh;
                            done = true;
                        }
                        Ok(n) if n == before => continue,
                        _ => return known,
                    }
                }
            }
            break;
        }
        if !done {
            return known;
        }
        known.push(id);
    }
    known
}

/// As [`ids`], nothing where the store fails.
async fn try_ids(table: &dyn Table) -> Vec<i64> {
    let batches = table.read(usize::MAX).await.unwrap_or_default();
    batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

async fn try_write(table: &dyn Table, batch: RecordBatch) -> Option<Vec<DataFile>> {
    let mut writer = table.writers().writer(batch.schema(), &options()).ok()?;
    tokio::task::spawn_blocking(move || {
        writer.write(&batch).ok()?;
        writer.finish().ok()
    })
    .await
    .ok()?
}
