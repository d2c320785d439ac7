//! Compaction, checkpoints and clean-up of the log, and what vacuum may delete.

use std::collections::HashSet;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ingest_core::lake::{Commit, Maintenance, Removal, TableFormat};
use object_store::path::Path;
use serde_json::{Value, json};

use crate::readers::places;
use crate::removal::maintenance;
use crate::support::*;

fn now_is_old() -> Maintenance {
    Maintenance { retention: Duration::ZERO, ..maintenance() }
}

fn parquet_files(folder: &FilePath) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|n| n != "_delta_log") {
            count += parquet_files(&path);
        } else if path.extension().is_some_and(|e| e == "parquet") {
            count += 1;
        }
    }
    count
}

#[tokio::test]
async fn small_files_become_one_and_a_second_call_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let format = local(&folder);
    let mut table = table(&format).await;
    for i in 0..30 {
        append(&mut table, rows(i * 10..(i + 1) * 10), Some(i)).await.unwrap();
    }
    let dry = table.maintain(&Maintenance { dry_run: true, ..maintenance() }).await.unwrap();
    assert_eq!((dry.files_compacted, dry.files_written, dry.log_checkpoint), (30, 1, Some(30)));
    assert_eq!(open(&format).await.version(), 30, "a dry run changes nothing");

    let done = table.maintain(&maintenance()).await.unwrap();
    assert_eq!((done.files_compacted, done.files_written, done.files_deleted), (30, 1, 0));
    assert_eq!(done.log_checkpoint, Some(31));
    let reader = open(&format).await;
    assert_eq!(reader.files().await.unwrap().len(), 1);
    assert_eq!(ids(reader.as_ref()).await, (0..300).collect::<Vec<_>>());
    assert_eq!(reader.number(APP).await.unwrap(), Some(29));
    let again = table.maintain(&maintenance()).await.unwrap();
    assert_eq!(again, ingest_core::lake::Maintained::default());
    // The handle that was there before goes on.
    append(&mut table, rows([1000]), Some(30)).await.unwrap();
}

#[tokio::test]
async fn partitions_are_compacted_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let format = local(&folder);
    let mut table = format.create(FOLDER, &definition(places().schema(), &["city"])).await.unwrap();
    append(&mut table, places(), None).await.unwrap();
    append(&mut table, places(), None).await.unwrap();
    let done = table.maintain(&maintenance()).await.unwrap();
    let partitions = places().num_rows() as u64;
    assert_eq!((done.files_compacted, done.files_written), (2 * partitions, partitions));
    let reader = open(&format).await;
    assert_eq!(reader.files().await.unwrap().len() as u64, partitions);
    assert_eq!(ids(reader.as_ref()).await.len() as u64, 2 * partitions);
}

#[tokio::test]
async fn vacuum_deletes_what_is_dead_and_keeps_what_is_staged() {
    let folder = tempfile::tempdir().unwrap();
    let format = local(&folder);
    let mut table = table(&format).await;
    append(&mut table, rows(0..5), None).await.unwrap();
    append(&mut table, rows(5..10), None).await.unwrap();
    table.commit(Commit { remove: Removal::All, ..Commit::default() }).await.unwrap();
    append(&mut table, rows(10..15), None).await.unwrap();
    let orphan = write(table.as_ref(), vec![rows(20..25)]).await;
    let staged = write(table.as_ref(), vec![rows(30..35)]).await;
    let root = folder.path().join(FOLDER);
    std::fs::create_dir_all(root.join("_hidden")).unwrap();
    std::fs::write(root.join("_hidden/kept.parquet"), b"x").unwrap();
    std::fs::write(root.join("notes.txt"), b"x").unwrap();
    assert_eq!(parquet_files(&root), 6);

    // Everything is young: removed files for readers, the others for commits under way.
    let kept = table.maintain(&maintenance()).await.unwrap();
    assert_eq!((kept.files_deleted, parquet_files(&root)), (0, 6));
    let names: HashSet<String> = staged.iter().map(|f| f.path.clone()).collect();
    let options = Maintenance { staged: Arc::new(names), ..now_is_old() };
    let dry = table.maintain(&Maintenance { dry_run: true, ..options.clone() }).await.unwrap();
    assert_eq!((dry.files_deleted, parquet_files(&root)), (3, 6));
    let done = table.maintain(&options).await.unwrap();
    assert_eq!(done.files_deleted, 3, "two removed ones and the orphan");
    assert_eq!(done.bytes_deleted, dry.bytes_deleted);
    assert!(!root.join(&orphan[0].path).exists());
    assert!(root.join("_hidden/kept.parquet").exists() && root.join("notes.txt").exists());
    table.commit(Commit { add: staged, ..Commit::default() }).await.unwrap();
    assert_eq!(ids(open(&format).await.as_ref()).await, [10, 11, 12, 13, 14, 30, 31, 32, 33, 34]);
}

#[tokio::test]
async fn vacuum_keeps_files_of_odd_partitions() {
    let folder = tempfile::tempdir().unwrap();
    let format = local(&folder);
    let mut table = format.create(FOLDER, &definition(places().schema(), &["city"])).await.unwrap();
    append(&mut table, places(), None).await.unwrap();
    let done = table.maintain(&now_is_old()).await.unwrap();
    assert_eq!(done.files_deleted, 0);
    assert_eq!(ids(open(&format).await.as_ref()).await.len(), places().num_rows());
}

/// Sets properties of the table, as another tool would.
async fn set_properties(format: &ingest_lake_delta::DeltaFormat, folder: &tempfile::TempDir, properties: Value) {
    let log = folder.path().join(FOLDER).join("_delta_log");
    let created = std::fs::read_to_string(log.join(format!("{:020}.json", 0))).unwrap();
    let line = created.lines().find(|l| l.contains("metaData")).unwrap();
    let mut line: Value = serde_json::from_str(line).unwrap();
    line["metaData"]["configuration"] = properties;
    let version = open(format).await.version() + 1;
    let path = Path::from(format!("{FOLDER}/_delta_log/{version:020}.json"));
    assert!(format.put_new(&path, Bytes::from(line.to_string())).await.unwrap());
}

#[tokio::test]
async fn the_log_is_cleaned_below_an_old_checkpoint_and_only_there() {
    let folder = tempfile::tempdir().unwrap();
    let format = local(&folder);
    table(&format).await;
    set_properties(&format, &folder, json!({"delta.checkpointInterval": "5"})).await;
    let mut table = open(&format).await;
    for i in 0..12 {
        append(&mut table, rows([i]), Some(i)).await.unwrap();
    }
    let log = folder.path().join(FOLDER).join("_delta_log");
    let commits = || {
        std::fs::read_dir(&log)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "json"))
            .count()
    };
    assert_eq!(commits(), 14);
    table.maintain(&maintenance()).await.unwrap();
    assert_eq!(commits(), 15, "thirty days are kept by default; the compaction is a commit");

    set_properties(
        &format,
        &folder,
        json!({"delta.logRetentionDuration": "interval 0 seconds", "delta.checkpointInterval": "5"}),
    )
    .await;
    let mut table = open(&format).await;
    table.maintain(&maintenance()).await.unwrap();
    assert!(log.join(format!("{:020}.checkpoint.parquet", 10)).exists());
    assert_eq!(commits(), 6, "versions 10 to 15 stay");
    let reader = open(&format).await;
    assert_eq!(ids(reader.as_ref()).await, (0..12).collect::<Vec<_>>());
    assert_eq!(reader.number(APP).await.unwrap(), Some(11));
    append(&mut table.reopen().await.unwrap(), rows([12]), Some(12)).await.unwrap();
}

#[tokio::test]
async fn tombstones_outlive_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let format = local(&folder);
    table(&format).await;
    set_properties(&format, &folder, json!({"delta.checkpointInterval": "3"})).await;
    let mut table = open(&format).await;
    append(&mut table, rows(0..5), None).await.unwrap();
    table.commit(Commit { remove: Removal::All, ..Commit::default() }).await.unwrap();
    let log = folder.path().join(FOLDER).join("_delta_log");
    assert!(log.join(format!("{:020}.checkpoint.parquet", 3)).exists());
    for version in 0..3 {
        std::fs::remove_file(log.join(format!("{version:020}.json"))).unwrap();
    }
    let root = folder.path().join(FOLDER);
    table.maintain(&maintenance()).await.unwrap();
    assert_eq!(parquet_files(&root), 1, "the file was removed a moment ago");
    let done = table.maintain(&now_is_old()).await.unwrap();
    assert_eq!((done.files_deleted, parquet_files(&root)), (1, 0));
}
