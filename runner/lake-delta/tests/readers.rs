//! Other readers of the format see the same rows: DuckDB (delta-kernel), delta-rs.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use ingest_core::lake::{Commit, TableFormat};
use ingest_testkit::oracle::Rows;
use ingest_testkit::python::{self, Reader};

use crate::support::*;
use crate::types;

async fn assert_all_readers_see(folder: &tempfile::TempDir, truth: &[RecordBatch]) {
    let mut expected = Rows::new(&["id"]);
    truth.iter().for_each(|batch| expected.add_batch(batch).unwrap());
    let path = folder.path().join(FOLDER);
    for reader in Reader::ALL {
        if let Some(rows) = python::rows(reader, path.to_str().unwrap(), &[]).await {
            Rows::of(&["id"], rows).assert_equal(&expected);
        }
    }
    let mut ours = Rows::new(&["id"]);
    for batch in open(&local(folder)).await.read(usize::MAX).await.unwrap() {
        ours.add_batch(&batch).unwrap();
    }
    ours.assert_equal(&expected);
}

#[tokio::test]
async fn all_types_read_the_same_in_every_reader() {
    let folder = tempfile::tempdir().unwrap();
    let format = local(&folder);
    let (given, stored) = types::batches();
    let schema = format.storage_schema(&given.schema()).unwrap();
    let mut table = format.create(FOLDER, &definition(schema.clone(), &[])).await.unwrap();
    append(&mut table, format.to_storage(&given, &schema).unwrap(), Some(1)).await.unwrap();
    assert_all_readers_see(&folder, &[stored]).await;
}

#[tokio::test]
async fn a_log_with_checkpoints_reads_the_same_in_every_reader() {
    let folder = tempfile::tempdir().unwrap();
    let format = local(&folder);
    let mut table = table(&format).await;
    for i in 0..103 {
        append(&mut table, rows([i]), Some(i)).await.unwrap();
    }
    let log = folder.path().join(FOLDER).join("_delta_log");
    for version in 0..100 {
        std::fs::remove_file(log.join(format!("{version:020}.json"))).unwrap();
    }
    assert_all_readers_see(&folder, &[rows(0..103)]).await;
    let script = "import sys, deltalake; t = deltalake.DeltaTable(sys.argv[1]); print(t.version(), t.transaction_version(sys.argv[2]))";
    let path = folder.path().join(FOLDER);
    if let Some(printed) = python::run("python", script, &[path.to_str().unwrap(), APP], &[]).await {
        assert_eq!(printed.trim(), "103 102", "version and number as delta-rs sees them");
    }
}

pub fn places() -> RecordBatch {
    let cities = [
        "São Paulo",
        "50%",
        "a/b",
        "12:30",
        "k=v",
        "R&D",
        "plain",
        "#?*|<>\"'\\",
        "..",
        "日本",
        "%2F",
        "a+b",
        "tab\there",
    ];
    let texts: Vec<Option<&str>> = cities.iter().map(|c| Some(*c)).chain([None]).collect();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
    let cities: ArrayRef = Arc::new(StringArray::from(texts));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("city", cities, true)]).unwrap()
}

#[tokio::test]
async fn odd_partition_values_read_the_same_in_every_reader() {
    let folder = tempfile::tempdir().unwrap();
    let format = local(&folder);
    let batch = places();
    let mut table = format.create(FOLDER, &definition(batch.schema(), &["city"])).await.unwrap();
    let add = write(table.as_ref(), vec![batch.clone()]).await;
    assert_eq!(add.len(), batch.num_rows());
    table.commit(Commit { add, ..Commit::default() }).await.unwrap();
    assert_all_readers_see(&folder, &[batch]).await;
}

#[tokio::test]
async fn every_type_partitions_a_table() {
    let (_, stored) = types::batches();
    for column in ["boolean", "int8", "int64", "date32", "timestamp", "timestamp_ntz", "decimal128", "utf8"] {
        let folder = tempfile::tempdir().unwrap();
        let format = local(&folder);
        let batch = match column {
            // An empty text is no partition value.
            "utf8" => stored.slice(0, 1),
            // delta-rs in Python spells negative decimals wrong when it builds its filter.
            "decimal128" => stored.slice(1, 2),
            _ => stored.clone(),
        };
        let batch = batch.project(&[0, batch.schema().index_of(column).unwrap()]).unwrap();
        let mut table = format.create(FOLDER, &definition(batch.schema(), &[column])).await.unwrap();
        append(&mut table, batch.clone(), None).await.unwrap();
        assert_all_readers_see(&folder, &[batch]).await;
    }
}
