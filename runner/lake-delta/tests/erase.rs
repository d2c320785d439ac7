//! Rows are erased from every version; rows that were kept long enough go; compaction by key keeps files apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::Schema;
use ingest_core::lake::{Erasure, Maintenance, Meeting, Merge, RowFilter, TableFormat, WriterOptions};
use ingest_core::{Region, Result};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::json;

use crate::merge::{Row, apply, batch_of, merge_of, merge_schema};
use crate::removal::maintenance;
use crate::support::*;

/// Rows with a name, and texts that hold it.
struct Named(&'static str);

impl RowFilter for Named {
    fn columns(&self, schema: &Schema) -> Vec<String> {
        schema.column_with_name("name").map(|_| "name".to_owned()).into_iter().collect()
    }

    fn rows(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let names = batch.column_by_name("name").unwrap().as_string::<i32>();
        Ok(names.iter().map(|name| Some(name == Some(self.0))).collect())
    }

    fn in_text(&self, text: &[u8]) -> bool {
        String::from_utf8_lossy(text).contains(&format!("{}\\\"", self.0))
            || String::from_utf8_lossy(text).contains(&format!("{}\"", self.0))
    }
}

fn erasure(name: &'static str) -> Erasure {
    Erasure { rows: Arc::new(Named(name)), keep_history: false, options: options(), told: |_| {} }
}

#[tokio::test]
async fn erased_rows_are_in_no_file_and_no_line_of_the_log_and_others_stay() {
    let store = Arc::new(InMemory::new());
    let format = format_over(store.clone());
    let mut table = table(&format).await;
    for file in 0..12 {
        // The name is the least of its file in one, the greatest in another, and in the middle of a third.
        append(&mut table, rows((file % 4)..(file % 4) + 3), None).await.unwrap();
    }
    table.maintain(&Maintenance { target_file_bytes: 4096, ..maintenance() }).await.unwrap();
    append(&mut open(&format).await, rows(2..5), None).await.unwrap();
    let orphan = write(table.as_ref(), vec![rows(2..4)]).await;
    // What a killed process leaves behind; nobody can say what is in it.
    let torn = object_store::path::Path::from(format!("{FOLDER}/{}.parquet", uuid::Uuid::now_v7()));
    store.put(&torn, b"PAR1 name 2 and no end".to_vec().into()).await.unwrap();
    let found = table.search(&erasure("name 2").rows).await.unwrap();
    assert_eq!(found.unreadable_files, 1);
    assert!(found.rows > 0 && found.old_files > 1 && found.log_files > 1, "{found:?}");
    let kept = Erasure { keep_history: true, ..erasure("name 2") };
    let before = ids(open(&format).await.as_ref()).await;
    let done = table.erase(&kept).await.unwrap();
    assert_eq!((done.rows, done.files_deleted), (found.rows, 0));
    let done = table.erase(&erasure("name 2")).await.unwrap();
    assert_eq!((done.rows, done.version), (0, None), "the newest version was without already");
    assert!(done.files_deleted > found.old_files && done.log_files_rewritten > 0, "{done:?}");
    assert!(table.search(&erasure("name 2").rows).await.unwrap().is_clean());
    let orphan = object_store::path::Path::from(format!("{FOLDER}/{}", orphan[0].path));
    assert!(store.head(&orphan).await.is_err(), "a file that no commit names is gone too");
    assert!(store.head(&torn).await.is_err(), "and one that was never ended");
    let after = ids(open(&format).await.as_ref()).await;
    assert_eq!(after, before.into_iter().filter(|id| *id != 2).collect::<Vec<_>>());
    let again = table.erase(&erasure("name 2")).await.unwrap();
    assert_eq!(again, ingest_core::lake::Erased::default());
    // The table goes on.
    append(&mut open(&format).await, rows(70..72), None).await.unwrap();
    table.maintain(&Maintenance { retention: std::time::Duration::ZERO, ..maintenance() }).await.unwrap();
    assert!(ids(open(&format).await.as_ref()).await.ends_with(&[70, 71]));
}

#[tokio::test]
async fn a_commit_is_still_taken_after_its_statistics_are_gone() {
    let format = in_memory();
    let mut late = table(&format).await;
    append(&mut open(&format).await, rows(1..4), None).await.unwrap();
    open(&format).await.erase(&erasure("name 2")).await.unwrap();
    // The handle stands on the version before; the number after it must not look free.
    append(&mut late, rows(9..10), None).await.unwrap();
    assert_eq!(late.version(), open(&format).await.version());
    assert_eq!(ids(open(&format).await.as_ref()).await, [1, 3, 9]);
}

#[tokio::test]
async fn rows_that_are_kept_no_longer_are_counted_and_removed_once() {
    let format = in_memory();
    let mut table = table(&format).await;
    append(&mut table, rows(0..100), None).await.unwrap();
    append(&mut table, rows(100..200), None).await.unwrap();
    let expire = vec![Region::Range { column: "id".into(), from: json!(0), to: json!(130), also: BTreeMap::new() }];
    let options = Maintenance { expire, ..maintenance() };
    let version = open(&format).await.version();
    let dry = table.maintain(&Maintenance { dry_run: true, ..options.clone() }).await.unwrap();
    assert_eq!((dry.rows_expired, open(&format).await.version()), (130, version));
    assert_eq!(table.maintain(&options).await.unwrap().rows_expired, 130);
    assert_eq!(ids(open(&format).await.as_ref()).await, (130..200).collect::<Vec<_>>());
    let version = open(&format).await.version();
    assert_eq!(table.maintain(&options).await.unwrap().rows_expired, 0);
    assert_eq!(open(&format).await.version(), version, "nothing to do, no commit");
}

/// Batches of a file are not cut: so many keys make eight files.
const KEYS: i64 = 64_000;

fn change(id: i64, seq: u64) -> Row {
    let name = Some(format!("name {id} {seq}"));
    Row { id, name, amount: Some(id), op: "U", seq: Some(seq), absent: None, at: 1_000_000 }
}

#[tokio::test]
async fn after_compaction_by_key_a_merge_of_near_keys_touches_few_files() {
    for memory_bytes in [64 << 20, 1 << 16] {
        let format = in_memory();
        let mut table = format.create(FOLDER, &definition(merge_schema(), &[])).await.unwrap();
        let mut random = StdRng::seed_from_u64(7);
        let mut all: Vec<i64> = (0..KEYS).collect();
        all.shuffle(&mut random);
        let key: Vec<String> = vec!["id".into()];
        let target_file_bytes = 32 << 10;
        let small = || WriterOptions { target_file_bytes, ..options() };
        let merge = || Merge { options: small(), ..merge_of(&key, Meeting::Update { soft_delete: false }) };
        for (step, keys) in (0_u64..).zip(all.chunks(6_400)) {
            let rows: Vec<Row> = keys.iter().map(|id| change(*id, step + 1)).collect();
            apply(&mut table, vec![batch_of(&rows)], merge()).await;
        }
        let near = |seq: u64| (5_000..5_050).map(|id| change(id, seq)).collect::<Vec<_>>();
        let scattered = apply(&mut table, vec![batch_of(&near(50))], merge()).await;
        assert!(scattered.files_touched >= 9, "{scattered:?}");
        let options = Maintenance { target_file_bytes, memory_bytes, cluster_by: key.clone(), ..maintenance() };
        let done = table.maintain(&options).await.unwrap();
        assert!(done.files_compacted > 4 && done.files_written > 4, "{done:?}");
        let mut table = open(&format).await;
        let ordered = apply(&mut table, vec![batch_of(&near(60))], merge()).await;
        assert!(ordered.files_touched <= 2, "{ordered:?}");
        assert!(ordered.rows_rewritten * 3 < scattered.rows_rewritten, "{ordered:?} {scattered:?}");
        let mut found = ids(table.as_ref()).await;
        found.dedup();
        assert_eq!(found, (0..KEYS).collect::<Vec<_>>());
        let version = open(&format).await.version();
        table.maintain(&options).await.unwrap();
        table.maintain(&options).await.unwrap();
        let settled = open(&format).await.version();
        assert!(settled <= version + 2, "what is in order is not written again and again");
    }
}
