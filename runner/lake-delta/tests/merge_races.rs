//! Merges in large, beside other writers, and together with removals.
//!
//! | between our read and our commit | merge |
//! | --- | --- |
//! | append of other keys | commits |
//! | append of keys of ours | commits, worked out again, ours wins |
//! | compaction of the same files | commits, worked out again |
//! | another merge of the same keys | commits, worked out again; refused where it carries the same application |
//!
//! | a compaction, and in between a merge | refused, the merge stays |

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use ingest_core::Region;
use ingest_core::lake::{Commit, Meeting, Merge, Removal, Sweep, Table};
use ingest_testkit::store::{FaultStore, Operation};
use serde_json::json;
use std::sync::Arc;

use crate::merge::merge_of;
use crate::removal::maintenance;
use crate::support::*;

fn upsert() -> Merge {
    Merge { order: None, ..merge_of(&["id".into()], Meeting::Update { soft_delete: false }) }
}

fn named(ids: impl IntoIterator<Item = i64>, name: &str) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let names = arrow_array::StringArray::from(vec![name; ids.len()]);
    RecordBatch::try_new(schema(), vec![Arc::new(arrow_array::Int64Array::from(ids)), Arc::new(names)]).unwrap()
}

/// The name of each id; every one is there once.
async fn names(table: &dyn Table) -> BTreeMap<i64, String> {
    let mut found = BTreeMap::new();
    for batch in table.read(usize::MAX).await.unwrap() {
        let ids = batch.column(0).as_primitive::<arrow_array::types::Int64Type>();
        let texts = batch.column(1).as_string::<i32>();
        for row in 0..batch.num_rows() {
            assert_eq!(found.insert(ids.value(row), texts.value(row).to_owned()), None, "{} twice", ids.value(row));
        }
    }
    found
}

async fn four_files(format: &ingest_lake_delta::DeltaFormat) -> Box<dyn Table> {
    let mut table = table(format).await;
    for file in 0..4 {
        append(&mut table, named(file * 100..(file + 1) * 100, "old"), None).await.unwrap();
    }
    table
}

/// Rows 150 to 250 and 1000 to 1010 come; nothing is committed yet.
async fn prepared(table: &dyn Table) -> Commit {
    let rows = write(table, vec![named((150..250).chain(1000..1010), "new")]).await;
    Commit { merge: Some(Merge { rows, ..upsert() }), ..Commit::default() }
}

fn expected(names: &BTreeMap<i64, String>, appended: std::ops::Range<i64>) {
    assert_eq!(names.len(), 410 + appended.clone().filter(|id| *id >= 1010).count());
    for (id, name) in names {
        let new = (150..250).contains(id) || (1000..1010).contains(id);
        assert_eq!(name == "new", new, "{id}: {name}");
    }
}

#[tokio::test]
async fn only_files_with_a_key_that_came_are_rewritten() {
    let store = FaultStore::in_memory();
    let format = format_over(Arc::new(store.clone()));
    let mut table = four_files(&format).await;
    let commit = prepared(table.as_ref()).await;
    let before = store.count(Operation::Put, "*.parquet");
    table.commit(commit).await.unwrap();
    assert_eq!(store.count(Operation::Put, "*.parquet") - before, 1, "what stays; what came is taken as it is");
    expected(&names(table.as_ref()).await, 0..0);
    let merged = table.merged().unwrap();
    assert_eq!((merged.files_touched, merged.rows_rewritten, merged.rows_changed), (2, 100, 110));
}

#[tokio::test]
async fn append_in_between_is_met_too() {
    for (appended, ours) in [(2000..2010, false), (1000..1010, true)] {
        let format = in_memory();
        let mut table = four_files(&format).await;
        let mut other = open(&format).await;
        let commit = prepared(table.as_ref()).await;
        append(&mut other, named(appended.clone(), "other"), None).await.unwrap();
        table.commit(commit).await.unwrap();
        let found = names(open(&format).await.as_ref()).await;
        match ours {
            true => expected(&found, 0..0),
            false => assert_eq!((found.len(), found[&2000].as_str(), found[&150].as_str()), (420, "other", "new")),
        }
    }
}

#[tokio::test]
async fn compaction_in_between_is_worked_out_again() {
    let format = in_memory();
    let mut table = four_files(&format).await;
    let commit = prepared(table.as_ref()).await;
    let done = open(&format).await.maintain(&maintenance()).await.unwrap();
    assert_eq!(done.files_compacted, 4);
    table.commit(commit).await.unwrap();
    expected(&names(open(&format).await.as_ref()).await, 0..0);
    expected(&names(table.as_ref()).await, 0..0);
}

#[tokio::test]
async fn another_merge_in_between_is_met_or_fences() {
    for same in [false, true] {
        let format = in_memory();
        let mut table = four_files(&format).await;
        let mut other = open(&format).await;
        let ours = Commit { transactions: numbered(2), ..prepared(table.as_ref()).await };
        let rows = write(other.as_ref(), vec![named(140..160, "other")]).await;
        let transactions = if same { numbered(1) } else { vec![("another".into(), 1)] };
        let theirs = Commit { transactions, merge: Some(Merge { rows, ..upsert() }), ..Commit::default() };
        other.commit(theirs).await.unwrap();
        let result = table.commit(ours).await;
        let found = names(open(&format).await.as_ref()).await;
        match same {
            true => {
                assert_eq!(kind(result.unwrap_err()), "conflict");
                assert_eq!((found.len(), found[&150].as_str(), found[&249].as_str()), (400, "other", "old"));
            }
            false => {
                result.unwrap();
                assert_eq!((found.len(), found[&150].as_str(), found[&140].as_str()), (410, "new", "other"));
            }
        }
    }
}

#[tokio::test]
async fn merges_and_compactions_at_once_lose_and_double_nothing() {
    let format = Arc::new(in_memory());
    let mut table = four_files(&format).await;
    let keeper = {
        let format = Arc::clone(&format);
        tokio::spawn(async move {
            for _ in 0..30 {
                open(&format).await.maintain(&maintenance()).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    for step in 0..30_i64 {
        let rows = write(table.as_ref(), vec![named(step * 10..step * 10 + 60, &format!("step {step}"))]).await;
        table.commit(Commit { merge: Some(Merge { rows, ..upsert() }), ..Commit::default() }).await.unwrap();
    }
    keeper.await.unwrap();
    let found = names(open(&format).await.as_ref()).await;
    assert_eq!(found.len(), 400);
    for (id, name) in found {
        let last = (id / 10).min(29);
        let wanted = if last * 10 + 60 > id { format!("step {last}") } else { "old".into() };
        assert_eq!(name, wanted, "{id}");
    }
}

#[tokio::test]
async fn more_keys_than_memory_are_merged_in_several_passes() {
    let format = in_memory();
    let mut table = table(&format).await;
    append(&mut table, named(0..50_000, "old"), None).await.unwrap();
    // A mebibyte holds 16,384 keys: these take four passes.
    let rows = write(table.as_ref(), vec![named(10_000..40_000, "first"), named(20_000..60_000, "second")]).await;
    let merge = Merge { rows, memory_bytes: 1 << 20, sweep: Sweep::Rows, ..upsert() };
    table.commit(Commit { merge: Some(merge), ..Commit::default() }).await.unwrap();
    let found = names(table.as_ref()).await;
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), (10_000..60_000).collect::<Vec<_>>());
    assert!(found.iter().all(|(id, name)| name == if *id < 20_000 { "first" } else { "second" }));
}

#[tokio::test]
async fn a_region_goes_before_rows_are_merged() {
    let format = in_memory();
    let mut table = four_files(&format).await;
    let rows = write(table.as_ref(), vec![named([120, 250], "new")]).await;
    let region = Region::Range { column: "id".into(), from: json!(50), to: json!(200), also: BTreeMap::new() };
    let merge = Some(Merge { rows, ..upsert() });
    table.commit(Commit { merge, remove: Removal::Regions(vec![region]), ..Commit::default() }).await.unwrap();
    let found = names(table.as_ref()).await;
    let ids: Vec<i64> = (0..50).chain([120]).chain(200..400).collect();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), ids);
    assert_eq!((found[&120].as_str(), found[&250].as_str(), found[&251].as_str()), ("new", "new", "old"));
    let rows = write(table.as_ref(), vec![named([7, 8, 7], "only")]).await;
    let merge = Some(Merge { rows, ..upsert() });
    table.commit(Commit { merge, remove: Removal::All, ..Commit::default() }).await.unwrap();
    assert_eq!(
        names(table.as_ref()).await.keys().copied().collect::<Vec<_>>(),
        [7, 8],
        "a replacement has each key once"
    );
}

#[tokio::test]
async fn a_merge_that_fails_leaves_the_table_and_nothing_beside_it() {
    let store = FaultStore::in_memory();
    let format = format_over(Arc::new(store.clone()));
    let mut table = four_files(&format).await;
    let commit = prepared(table.as_ref()).await;
    let kept = commit.merge.as_ref().unwrap().rows.clone();
    store.always(Operation::Put, "*_delta_log/*", ingest_testkit::store::Fault::Refuse);
    table.commit(commit.clone()).await.unwrap_err();
    store.heal();
    let found = names(open(&format).await.as_ref()).await;
    assert!(found.len() == 400 && found.values().all(|name| name == "old"));
    // The rows that came are there for another attempt.
    let mut again = open(&format).await;
    again.commit(commit).await.unwrap();
    expected(&names(again.as_ref()).await, 0..0);
    again.discard(&kept).await.unwrap();
    expected(&names(open(&format).await.as_ref()).await, 0..0);
}

#[tokio::test]
async fn a_wider_schema_comes_with_the_rows() {
    let format = in_memory();
    let mut table = four_files(&format).await;
    let mut fields: Vec<_> = schema().fields().iter().cloned().collect();
    fields.push(Arc::new(arrow_schema::Field::new("extra", arrow_schema::DataType::Int64, true)));
    let wider = Arc::new(arrow_schema::Schema::new(fields));
    let mut columns = named([5, 500], "new").columns().to_vec();
    columns.push(Arc::new(arrow_array::Int64Array::from(vec![1, 2])));
    let rows = write(table.as_ref(), vec![RecordBatch::try_new(wider.clone(), columns).unwrap()]).await;
    let commit = Commit { merge: Some(Merge { rows, ..upsert() }), schema: Some(wider), ..Commit::default() };
    table.commit(commit).await.unwrap();
    let found = names(table.as_ref()).await;
    assert_eq!((found.len(), found[&5].as_str(), found[&6].as_str()), (401, "new", "old"));
    assert!(table.schema().column_with_name("extra").is_some());
}

#[tokio::test]
async fn a_key_that_the_table_does_not_have_is_refused() {
    let format = in_memory();
    let mut table = four_files(&format).await;
    let rows = write(table.as_ref(), vec![named([1], "new")]).await;
    let merge = Merge { rows, key: vec!["gone".into()], ..upsert() };
    let error = table.commit(Commit { merge: Some(merge), ..Commit::default() }).await.unwrap_err();
    assert_eq!(kind(error), "failed");
    assert_eq!(names(open(&format).await.as_ref()).await.len(), 400);
}
