//! Creation, appends, and two writers on one table.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use ingest_core::ErrorKind;
use ingest_core::lake::{Commit, Removal, TableFormat};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::{Value, json};

use crate::support::*;

#[tokio::test]
async fn a_folder_without_a_log_is_no_table() {
    assert!(in_memory().open(FOLDER).await.unwrap().is_none());
    let folder = tempfile::tempdir().unwrap();
    assert!(local(&folder).open(FOLDER).await.unwrap().is_none());
}

#[tokio::test]
async fn a_table_is_created_once_and_keeps_its_id() {
    let format = in_memory();
    let first = table(&format).await;
    let second = table(&format).await;
    assert_eq!(first.id(), second.id());
    assert_eq!((first.version(), second.version()), (0, 0));
    assert_eq!(first.schema(), schema());
    assert_eq!(first.number(APP).await.unwrap(), None);
    assert!(first.files().await.unwrap().is_empty());
}

#[tokio::test]
async fn rows_and_number_become_visible_in_one_commit() {
    let folder = tempfile::tempdir().unwrap();
    for format in [in_memory(), local(&folder)] {
        let mut writer = table(&format).await;
        assert_eq!(append(&mut writer, rows(0..10), Some(7)).await.unwrap(), 1);
        assert_eq!(append(&mut writer, rows(10..20), Some(8)).await.unwrap(), 2);
        assert_eq!(writer.number(APP).await.unwrap(), Some(8));
        let reader = open(&format).await;
        assert_eq!((reader.version(), reader.number(APP).await.unwrap()), (2, Some(8)));
        assert_eq!(ids(reader.as_ref()).await, (0..20).collect::<Vec<_>>());
        let files = reader.files().await.unwrap();
        assert_eq!(files.iter().map(|f| f.rows).sum::<u64>(), 20);
    }
}

#[tokio::test]
async fn a_commit_without_files_moves_the_number() {
    let format = in_memory();
    let mut table = table(&format).await;
    table.commit(Commit { transactions: numbered(3), ..Commit::default() }).await.unwrap();
    assert_eq!(table.reopen().await.unwrap().number(APP).await.unwrap(), Some(3));
}

#[tokio::test]
async fn uncommitted_files_are_invisible() {
    let format = in_memory();
    let table = table(&format).await;
    assert_eq!(write(table.as_ref(), vec![rows(0..5)]).await.len(), 1);
    assert!(ids(table.reopen().await.unwrap().as_ref()).await.is_empty());
}

#[tokio::test]
async fn an_empty_batch_makes_no_file() {
    let format = in_memory();
    let table = table(&format).await;
    assert!(write(table.as_ref(), vec![rows([]), rows([])]).await.is_empty());
}

#[tokio::test]
async fn a_second_writer_of_the_same_application_conflicts_and_nothing_of_it_is_visible() {
    let format = in_memory();
    let mut first = table(&format).await;
    let mut zombie = open(&format).await;
    append(&mut first, rows(0..5), Some(1)).await.unwrap();
    assert_eq!(kind(append(&mut zombie, rows(5..10), Some(2)).await.unwrap_err()), "conflict");
    // Again on the same handle: still fenced.
    assert_eq!(kind(append(&mut zombie, rows(5..10), Some(3)).await.unwrap_err()), "conflict");
    let reader = open(&format).await;
    assert_eq!(ids(reader.as_ref()).await, [0, 1, 2, 3, 4]);
    assert_eq!(reader.number(APP).await.unwrap(), Some(1));
}

#[tokio::test]
async fn appends_of_other_applications_are_passed_over() {
    let format = in_memory();
    let mut ours = table(&format).await;
    let mut other = open(&format).await;
    for i in 0..5 {
        append(&mut other, rows([i]), None).await.unwrap();
    }
    assert_eq!(append(&mut ours, rows([100]), Some(1)).await.unwrap(), 6);
    assert_eq!(ids(ours.as_ref()).await, [0, 1, 2, 3, 4, 100]);
}

#[tokio::test]
async fn sixteen_writers_at_once_lose_and_double_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let format = local(&folder);
    table(&format).await;
    let tasks: Vec<_> = (0..16)
        .map(|writer| {
            let format = format.clone();
            tokio::spawn(async move {
                let mut table = open(&format).await;
                for i in 0..5 {
                    append(&mut table, rows([writer * 5 + i]), None).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let reader = open(&format).await;
    assert_eq!(reader.version(), 80);
    assert_eq!(ids(reader.as_ref()).await, (0..80).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_change_of_metadata_by_another_writer_conflicts() {
    let format = in_memory();
    let mut ours = table(&format).await;
    let mut other = open(&format).await;
    let wider = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("more", DataType::Int32, true),
    ]));
    other.commit(Commit { schema: Some(wider), ..Commit::default() }).await.unwrap();
    assert_eq!(kind(append(&mut ours, rows([1]), None).await.unwrap_err()), "conflict");
}

#[tokio::test]
async fn replace_removes_what_was_appended_meanwhile() {
    let format = in_memory();
    let mut ours = table(&format).await;
    append(&mut ours, rows(0..5), None).await.unwrap();
    let mut other = open(&format).await;
    append(&mut other, rows(5..8), None).await.unwrap();
    let add = write(ours.as_ref(), vec![rows(100..102)]).await;
    ours.commit(Commit { add, remove: Removal::All, ..Commit::default() }).await.unwrap();
    assert_eq!(ids(open(&format).await.as_ref()).await, [100, 101]);
}

#[tokio::test]
async fn named_files_go_and_a_file_that_is_gone_conflicts() {
    let format = in_memory();
    let mut ours = table(&format).await;
    append(&mut ours, rows(0..5), None).await.unwrap();
    append(&mut ours, rows(5..8), None).await.unwrap();
    let all = ours.files().await.unwrap();
    let first = all.iter().filter(|f| f.rows == 5).cloned().collect::<Vec<_>>();
    let mut other = open(&format).await;
    other.commit(Commit { remove: Removal::Files(first.clone()), ..Commit::default() }).await.unwrap();
    assert_eq!(ids(open(&format).await.as_ref()).await, [5, 6, 7]);
    let again = Commit { remove: Removal::Files(first.clone()), ..Commit::default() };
    assert_eq!(kind(ours.commit(again).await.unwrap_err()), "conflict");
    // Files that were removed can be put back.
    other.commit(Commit { add: first, ..Commit::default() }).await.unwrap();
    assert_eq!(ids(open(&format).await.as_ref()).await, (0..8).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_log_says_who_and_what_for_people() {
    let format = in_memory();
    let mut table = table(&format).await;
    let info = json!({"format": 1, "number": 7});
    table.commit(Commit { transactions: numbered(7), info: Some(info.clone()), ..Commit::default() }).await.unwrap();
    let path = Path::from(format!("{FOLDER}/_delta_log/{:020}.json", 1));
    let body = format.store().get(&path).await.unwrap().bytes().await.unwrap();
    let first: Value = serde_json::from_slice(body.split(|b| *b == b'\n').next().unwrap()).unwrap();
    let first = &first["commitInfo"];
    assert_eq!(first["ingest.checkpoint"], info);
    assert!(first["engineInfo"].as_str().unwrap().starts_with("ingest/"));
    assert!(first["timestamp"].is_i64());
    assert!(first["txnId"].is_string());
}

#[tokio::test]
async fn a_table_with_checkpoints_opens_as_one_without() {
    let folder = tempfile::tempdir().unwrap();
    let format = local(&folder);
    let mut table = table(&format).await;
    for i in 0..205 {
        append(&mut table, rows([i]), Some(i)).await.unwrap();
    }
    let log = folder.path().join(FOLDER).join("_delta_log");
    assert!(log.join(format!("{:020}.checkpoint.parquet", 200)).exists());
    // Readers do not need what a checkpoint covers.
    for version in 0..200 {
        std::fs::remove_file(log.join(format!("{version:020}.json"))).unwrap();
    }
    for hint in [true, false] {
        if !hint {
            std::fs::remove_file(log.join("_last_checkpoint")).unwrap();
        }
        let reader = open(&format).await;
        assert_eq!((reader.version(), reader.number(APP).await.unwrap()), (205, Some(204)));
        assert_eq!(reader.id(), table.id());
        assert_eq!(ids(reader.as_ref()).await, (0..205).collect::<Vec<_>>());
        assert_eq!(reader.files().await.unwrap(), table.files().await.unwrap());
    }
}

#[tokio::test]
async fn a_log_with_a_gap_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let format = local(&folder);
    let mut table = table(&format).await;
    for i in 0..4 {
        append(&mut table, rows([i]), None).await.unwrap();
    }
    let log = folder.path().join(FOLDER).join("_delta_log");
    std::fs::remove_file(log.join(format!("{:020}.json", 2))).unwrap();
    let error = format.open(FOLDER).await.err().expect("an error");
    assert_eq!(error.kind(), ErrorKind::DataInvalid);
    assert!(error.to_string().contains("missing 2"), "{error}");
}
