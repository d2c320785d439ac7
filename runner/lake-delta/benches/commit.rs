//! What a commit costs as a table grows old, and what a small table costs in all.
//!
//! Disks are waited for: run it once more with `TMPDIR` on a file system in memory to see what the program itself costs.
//!
//! `cargo bench -p ingest-lake-delta --bench commit [-- COMMITS]`
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use ingest_core::lake::{Commit, Compression, DataFile, Definition, Table, TableFormat, WriterOptions};
use ingest_lake_delta::DeltaFormat;
use serde_json::json;

const WINDOW: usize = 100;
const TABLES: usize = 300;

fn rows() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..1000))),
        ("name", Arc::new((0..1000).map(|i| Some(format!("name {i}"))).collect::<StringArray>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

fn cpu() -> f64 {
    let mut total = 0.0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        total += text.split_whitespace().next().and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0);
    }
    total / 1e9
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn write(table: &dyn Table) -> Vec<DataFile> {
    let options = WriterOptions {
        target_file_bytes: 128 << 20,
        memory_bytes: 64 << 20,
        compression: Compression::Zstd,
        runtime: tokio::runtime::Handle::current(),
    };
    let mut writer = table.writers().writer(table.schema(), &options).unwrap();
    tokio::task::spawn_blocking(move || {
        writer.write(&rows()).unwrap();
        writer.finish().unwrap()
    })
    .await
    .unwrap()
}

fn commit(add: Vec<DataFile>, number: i64) -> Commit {
    let info = json!({"format": 1, "number": number, "positions": {"slot": {"v": 1, "at": {"lsn": number}}}});
    Commit { add, transactions: vec![("ingest/bench/t".into(), number)], info: Some(info), ..Commit::default() }
}

async fn age(commits: usize) {
    let folder = tempfile::tempdir().unwrap();
    let format = DeltaFormat::open(folder.path().to_str().unwrap(), &Default::default()).unwrap();
    let definition = Definition { schema: rows().schema(), partition_by: vec![], description: None };
    let mut table = format.create("t", &definition).await.unwrap();
    let file = write(table.as_ref()).await.remove(0);
    let mut wall = Vec::new();
    let mut before_last = cpu();
    for i in 0..commits {
        // A live file more with every commit; its bytes do not matter to the log.
        let add = DataFile { path: format!("{i}.parquet"), ..file.clone() };
        // Asking for the CPU costs more than a commit: once for the whole window.
        if i == commits - WINDOW {
            before_last = cpu();
        }
        let t = Instant::now();
        table.commit(commit(vec![add], i as i64)).await.unwrap();
        wall.push(t.elapsed().as_secs_f64() * 1e3);
    }
    let (first, last) = (&wall[..WINDOW], &wall[commits - WINDOW..]);
    println!(
        "commit {WINDOW}: median {:.2} ms; commit {commits}: median {:.2} ms; ratio {:.2}",
        median(first),
        median(last),
        median(last) / median(first)
    );
    let slowest = last.iter().copied().fold(0.0, f64::max);
    println!("with the checkpoint of the log, the slowest of the last {WINDOW} takes {slowest:.0} ms");
    let used = (cpu() - before_last) * 1e3 / WINDOW as f64;
    println!("CPU: mean of the last {WINDOW} {used:.2} ms, the checkpoint included");
    let t = Instant::now();
    let reopened = format.open("t").await.unwrap().unwrap();
    println!("open at version {}: {:.1} ms", reopened.version(), t.elapsed().as_secs_f64() * 1e3);
    let t = Instant::now();
    println!("list of {} live files: {:.1} ms", reopened.files().await.unwrap().len(), t.elapsed().as_secs_f64() * 1e3);
}

async fn small_tables() {
    let folder = tempfile::tempdir().unwrap();
    let format = DeltaFormat::open(folder.path().to_str().unwrap(), &Default::default()).unwrap();
    let definition = Definition { schema: rows().schema(), partition_by: vec![], description: None };
    let (c, t) = (cpu(), Instant::now());
    for i in 0..TABLES {
        let name = format!("bronze/shop/t{i}");
        assert!(format.open(&name).await.unwrap().is_none());
        let mut table = format.create(&name, &definition).await.unwrap();
        table.commit(commit(vec![], 1)).await.unwrap();
        let add = write(table.as_ref()).await;
        table.commit(commit(add, 2)).await.unwrap();
        table.commit(commit(vec![], 3)).await.unwrap();
    }
    let (used, wall) = ((cpu() - c) * 1e3 / TABLES as f64, t.elapsed().as_secs_f64() * 1e3 / TABLES as f64);
    println!(
        "a table of 1,000 rows (create, write, three commits): {used:.2} ms CPU, {wall:.2} ms wall, mean of {TABLES}"
    );
}

fn main() {
    let commits = std::env::args().filter_map(|a| a.parse::<usize>().ok()).next().unwrap_or(10_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(small_tables());
    runtime.block_on(age(commits.max(2 * WINDOW)));
}
