//! Removal of rows, and what another writer may do between our read and our commit.
//!
//! | in between | removal of a region | of named files |
//! | --- | --- | --- |
//! | append, other keys | commits, nothing rewritten twice | commits |
//! | append of keys that we remove | commits, the new file is rewritten too | - |
//! | compaction of the same files | all redone | conflict |
//! | another removal in the same file | all redone | conflict |
//!
//! | a compaction, and in between | |
//! | --- | --- |
//! | append | commits |
//! | removal in the same files | refused, the removal stays |
//! | another compaction of the same files | refused, no row twice |
//! | replacement of everything | refused, only the new rows |

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Date32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema};
use ingest_core::lake::{Commit, Compression, Maintained, Maintenance, Removal, Table, TableFormat};
use ingest_core::{Json, Region};
use ingest_lake_delta::DeltaFormat;
use ingest_testkit::store::{Fault, FaultStore, Operation};
use serde_json::json;

use crate::support::*;

const COMMITS: &str = "*_delta_log/*.json";
const DATA: &str = "*.parquet";

pub fn maintenance() -> Maintenance {
    Maintenance {
        target_file_bytes: 128 << 20,
        retention: Duration::from_secs(7 * 24 * 60 * 60),
        staged: Arc::new(HashSet::new()),
        memory_bytes: 64 << 20,
        compression: Compression::Zstd,
        expire: Vec::new(),
        cluster_by: Vec::new(),
        dry_run: false,
    }
}

fn range(from: i64, to: i64) -> Region {
    Region::Range { column: "id".into(), from: json!(from), to: json!(to), also: BTreeMap::new() }
}

fn equals(column: &str, value: Json) -> Region {
    Region::Equals(BTreeMap::from([(column.to_string(), value)]))
}

/// 400 rows in 4 files of 100.
async fn four_files(format: &DeltaFormat) -> Box<dyn Table> {
    let mut table = table(format).await;
    for file in 0..4 {
        append(&mut table, rows(file * 100..(file + 1) * 100), None).await.unwrap();
    }
    table
}

/// Takes 100..250 away, which is all of a file and half of another, and puts 1000..1010 in.
async fn upsert(table: &mut Box<dyn Table>) -> Commit {
    let add = write(table.as_ref(), vec![rows(1000..1010)]).await;
    Commit { add, remove: Removal::Regions(vec![range(100, 250)]), ..Commit::default() }
}

fn upserted() -> Vec<i64> {
    (0..100).chain(250..400).chain(1000..1010).collect()
}

fn with(mut ids: Vec<i64>, more: impl IntoIterator<Item = i64>) -> Vec<i64> {
    ids.extend(more);
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_region_takes_whole_files_and_parts_of_others() {
    let store = FaultStore::in_memory();
    let format = format_over(Arc::new(store.clone()));
    let mut table = four_files(&format).await;
    let commit = upsert(&mut table).await;
    let before = store.count(Operation::Put, DATA);
    table.commit(commit).await.unwrap();
    assert_eq!(store.count(Operation::Put, DATA) - before, 1, "one file is rewritten");
    assert_eq!(ids(table.as_ref()).await, upserted());
    assert_eq!(ids(open(&format).await.as_ref()).await, upserted());
    assert_eq!(table.files().await.unwrap().iter().map(|f| f.rows).sum::<u64>(), 260);
}

#[tokio::test]
async fn append_of_other_keys_in_between_rewrites_nothing_again() {
    let store = FaultStore::in_memory();
    let format = format_over(Arc::new(store.clone()));
    let mut ours = four_files(&format).await;
    let mut other = open(&format).await;
    let commit = upsert(&mut ours).await;
    append(&mut other, rows(500..510), None).await.unwrap();
    let before = store.count(Operation::Put, DATA);
    ours.commit(commit).await.unwrap();
    assert_eq!(store.count(Operation::Put, DATA) - before, 1);
    assert_eq!(ids(open(&format).await.as_ref()).await, with(upserted(), 500..510));
}

#[tokio::test]
async fn append_of_keys_of_ours_in_between_is_rewritten_too_and_ours_wins() {
    let format = in_memory();
    let mut ours = four_files(&format).await;
    let mut other = open(&format).await;
    let commit = upsert(&mut ours).await;
    append(&mut other, rows([100, 240, 777]), None).await.unwrap();
    ours.commit(commit).await.unwrap();
    assert_eq!(ids(open(&format).await.as_ref()).await, with(upserted(), [777]));
}

#[tokio::test]
async fn compaction_of_the_same_files_in_between_redoes_everything() {
    let store = FaultStore::in_memory();
    let format = format_over(Arc::new(store.clone()));
    let mut ours = four_files(&format).await;
    // The first attempt works on the four files, and is held until they are gone.
    let commit = upsert(&mut ours).await;
    store.script(Operation::Put, COMMITS, [Fault::Hold]);
    let task = tokio::spawn(async move { ours.commit(commit).await });
    store.until(|s| s.held() == 1).await;
    let done = open(&format_over(store.inner())).await.maintain(&maintenance()).await.unwrap();
    assert_eq!((done.files_compacted, done.files_written), (4, 1));
    store.release();
    task.await.unwrap().unwrap();
    let reader = open(&format).await;
    assert_eq!(ids(reader.as_ref()).await, upserted());
    // What was written for the four files is gone again.
    let live = reader.files().await.unwrap().len();
    assert_eq!(live, 2, "what stayed of the compacted file, and the new rows");
    let paths = store.count(Operation::Delete, DATA);
    assert_eq!(paths, 1);
}

#[tokio::test]
async fn another_removal_in_the_same_file_in_between_redoes_everything() {
    let format = in_memory();
    let mut ours = four_files(&format).await;
    let mut other = open(&format).await;
    let commit = upsert(&mut ours).await;
    other.commit(Commit { remove: Removal::Regions(vec![range(240, 260)]), ..Commit::default() }).await.unwrap();
    ours.commit(commit).await.unwrap();
    let expected = (0..100).chain(260..400).chain(1000..1010).collect::<Vec<_>>();
    assert_eq!(ids(open(&format).await.as_ref()).await, expected);
}

#[tokio::test]
async fn named_files_pass_over_appends_and_conflict_with_every_other_change_of_theirs() {
    for between in ["append", "compaction", "removal"] {
        let format = in_memory();
        let mut ours = four_files(&format).await;
        let named = ours.files().await.unwrap().into_iter().filter(|f| f.stats.as_deref().unwrap().contains(":200"));
        let commit = Commit { remove: Removal::Files(named.collect()), ..Commit::default() };
        let mut other = open(&format).await;
        match between {
            "append" => drop(append(&mut other, rows([777]), None).await.unwrap()),
            "compaction" => drop(other.maintain(&maintenance()).await.unwrap()),
            _ => {
                let remove = Removal::Regions(vec![range(210, 220)]);
                other.commit(Commit { remove, ..Commit::default() }).await.unwrap();
            }
        }
        let result = ours.commit(commit).await;
        let found = ids(open(&format).await.as_ref()).await;
        match between {
            "append" => {
                result.unwrap();
                assert_eq!(found, (0..200).chain(300..400).chain([777]).collect::<Vec<_>>());
            }
            "compaction" => {
                assert_eq!(kind(result.unwrap_err()), "conflict");
                assert_eq!(found, (0..400).collect::<Vec<_>>());
            }
            _ => {
                assert_eq!(kind(result.unwrap_err()), "conflict");
                assert_eq!(found, (0..210).chain(220..400).collect::<Vec<_>>());
            }
        }
    }
}

/// Runs a compaction up to its commit, then `between`, then lets it go on.
async fn compaction_with(between: impl AsyncFnOnce(&DeltaFormat)) -> (Maintained, Vec<i64>) {
    let store = FaultStore::in_memory();
    let quiet = format_over(store.inner());
    four_files(&quiet).await;
    let slow = format_over(Arc::new(store.clone()));
    store.script(Operation::Put, COMMITS, [Fault::Hold]);
    let task = tokio::spawn(async move { open(&slow).await.maintain(&maintenance()).await });
    store.until(|s| s.held() == 1).await;
    between(&quiet).await;
    store.release();
    let done = task.await.unwrap().unwrap();
    (done, ids(open(&quiet).await.as_ref()).await)
}

#[tokio::test]
async fn a_compaction_passes_over_an_append() {
    let (done, found) = compaction_with(async |format| {
        append(&mut open(format).await, rows([777]), None).await.unwrap();
    })
    .await;
    assert_eq!((done.files_compacted, done.files_written), (4, 1));
    assert_eq!(found, with((0..400).collect(), [777]));
}

#[tokio::test]
async fn a_compaction_is_given_up_where_rows_were_removed_from_its_files() {
    let (done, found) = compaction_with(async |format| {
        let remove = Removal::Regions(vec![range(150, 160)]);
        open(format).await.commit(Commit { remove, ..Commit::default() }).await.unwrap();
    })
    .await;
    assert_eq!((done.files_compacted, done.files_written), (0, 0));
    assert_eq!(found, (0..150).chain(160..400).collect::<Vec<_>>());
}

#[tokio::test]
async fn two_compactions_of_the_same_files_double_no_row() {
    let (done, found) = compaction_with(async |format| {
        let done = open(format).await.maintain(&maintenance()).await.unwrap();
        assert_eq!(done.files_compacted, 4);
    })
    .await;
    assert_eq!((done.files_compacted, done.files_written), (0, 0));
    assert_eq!(found, (0..400).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_compaction_beside_a_replacement_brings_no_old_row_back() {
    let (_, found) = compaction_with(async |format| {
        let mut table = open(format).await;
        let add = write(table.as_ref(), vec![rows(1000..1010)]).await;
        table.commit(Commit { add, remove: Removal::All, ..Commit::default() }).await.unwrap();
    })
    .await;
    assert_eq!(found, (1000..1010).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_replacement_takes_the_files_of_a_compaction_in_between() {
    let format = in_memory();
    let mut ours = four_files(&format).await;
    assert_eq!(ours.files().await.unwrap().len(), 4);
    let add = write(ours.as_ref(), vec![rows(1000..1010)]).await;
    open(&format).await.maintain(&maintenance()).await.unwrap();
    ours.commit(Commit { add, remove: Removal::All, ..Commit::default() }).await.unwrap();
    assert_eq!(ids(open(&format).await.as_ref()).await, (1000..1010).collect::<Vec<_>>());
}

#[tokio::test]
async fn maintenance_does_not_move_the_handle_over_another_runs_number() {
    let format = in_memory();
    let mut ours = four_files(&format).await;
    append(&mut open(&format).await, rows([777]), Some(1)).await.unwrap();
    ours.maintain(&maintenance()).await.unwrap();
    assert_eq!(ours.number(APP).await.unwrap(), None);
    assert_eq!(kind(append(&mut ours, rows([778]), Some(2)).await.unwrap_err()), "conflict");
}

/// Many columns to remove by.
fn varied() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..6))),
        ("file", Arc::new(StringArray::from(vec![Some("a.csv"), Some("a.csv"), Some("b.csv"), Some("ü"), None, None]))),
        ("day", Arc::new(Date32Array::from(vec![Some(0), Some(1), Some(2), Some(3), Some(4), None]))),
        (
            "at",
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(0), Some(999), Some(1000), Some(1_000_000), None, None])
                    .with_timezone("UTC"),
            ),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

#[tokio::test]
async fn regions_of_every_kind_take_the_rows_they_name() {
    let also = BTreeMap::from([("file".to_string(), json!("a.csv"))]);
    let days = |from: Json, to: Json, also| Region::Range { column: "day".into(), from, to, also };
    let cases: Vec<(Vec<Region>, Vec<i64>)> = vec![
        (vec![equals("file", json!("a.csv"))], vec![2, 3, 4, 5]),
        (vec![equals("file", json!("ü"))], vec![0, 1, 2, 4, 5]),
        (vec![equals("file", Json::Null)], vec![0, 1, 2, 3]),
        (vec![equals("file", json!("c.csv"))], vec![0, 1, 2, 3, 4, 5]),
        (vec![equals("id", json!(0)), equals("id", json!(5))], vec![1, 2, 3, 4]),
        (vec![days(json!("1970-01-02"), json!("1970-01-04"), BTreeMap::new())], vec![0, 3, 4, 5]),
        (vec![days(json!(0), json!(9), also)], vec![2, 3, 4, 5]),
        (
            vec![Region::Range {
                column: "at".into(),
                from: json!("1970-01-01T00:00:00.000999Z"),
                to: json!(1_000_000),
                also: BTreeMap::new(),
            }],
            vec![0, 3, 4, 5],
        ),
        (vec![Region::All], vec![]),
        (vec![], vec![0, 1, 2, 3, 4, 5]),
    ];
    for partition_by in [&[][..], &["file"], &["day"]] {
        for (regions, left) in &cases {
            let format = in_memory();
            let mut table = format.create(FOLDER, &definition(varied().schema(), partition_by)).await.unwrap();
            append(&mut table, varied(), None).await.unwrap();
            let remove = Removal::Regions(regions.clone());
            table.commit(Commit { remove, ..Commit::default() }).await.unwrap();
            assert_eq!(&ids(open(&format).await.as_ref()).await, left, "{regions:?} partitioned by {partition_by:?}");
        }
    }
}

#[tokio::test]
async fn a_region_of_a_column_that_the_same_commit_brings_finds_no_old_row() {
    let format = in_memory();
    let mut table = four_files(&format).await;
    let wider = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("file", DataType::Utf8, true),
    ]));
    for (value, left) in [(json!("a.csv"), 400), (Json::Null, 0)] {
        let remove = Removal::Regions(vec![equals("file", value)]);
        table.commit(Commit { remove, schema: Some(wider.clone()), ..Commit::default() }).await.unwrap();
        assert_eq!(ids(open(&format).await.as_ref()).await.len(), left);
    }
}
