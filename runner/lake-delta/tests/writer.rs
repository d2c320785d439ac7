//! Data files: their sizes, statistics, partitions, and what becomes of them when something fails.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, Fields};
use futures::TryStreamExt;
use ingest_core::ErrorKind;
use ingest_core::lake::{Commit, Compression, DataFile, DataWriter, Table, TableFormat, WriterOptions};
use ingest_testkit::store::{Fault, FaultStore, Operation};
use object_store::ObjectStore;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::support::*;

fn nullable(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

/// Does something with a writer on a thread where it may block.
async fn blocking<T: Send + 'static>(
    table: &dyn Table,
    batch: &RecordBatch,
    options: WriterOptions,
    work: impl FnOnce(Box<dyn DataWriter>) -> T + Send + 'static,
) -> T {
    let writer = table.writers().writer(batch.schema(), &options).unwrap();
    tokio::task::spawn_blocking(move || work(writer)).await.unwrap()
}

/// Rows that do not compress.
fn noise(rows: usize, seed: u64) -> RecordBatch {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let ids: Vec<i64> = (0..rows).map(|_| next().cast_signed()).collect();
    let names = ids.iter().map(|_| Some(format!("{:016x}{:016x}", next(), next()))).collect::<StringArray>();
    nullable(vec![("id", Arc::new(Int64Array::from(ids))), ("name", Arc::new(names))])
}

async fn objects(store: &dyn ObjectStore) -> Vec<String> {
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    listed.into_iter().map(|o| o.location.to_string()).filter(|p| p.ends_with(".parquet")).collect()
}

#[tokio::test]
async fn files_are_closed_near_their_target_size_and_uploaded_in_parts() {
    let store = FaultStore::in_memory();
    let folder = tempfile::tempdir().unwrap();
    for format in [format_over(Arc::new(store.clone())), local(&folder)] {
        let mut table = table(&format).await;
        let batches: Vec<RecordBatch> = (1..=40).map(|i| noise(20_000, i)).collect();
        let expected: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let target = WriterOptions { target_file_bytes: 12 << 20, memory_bytes: 4 << 20, ..options() };
        let files = write_with(table.as_ref(), batches, target).await;
        assert!(files.len() > 1);
        assert_eq!(files.iter().map(|f| f.rows).sum::<u64>(), expected as u64);
        let (last, full) = files.split_last().unwrap();
        assert!(full.iter().all(|f| (10 << 20..16 << 20).contains(&f.bytes)), "{full:?}");
        assert!(last.bytes < 16 << 20);
        table.commit(Commit { add: files, ..Commit::default() }).await.unwrap();
        assert_eq!(ids(open(&format).await.as_ref()).await.len(), expected);
    }
    assert!(store.count(Operation::Part, "*.parquet") > 1, "files above a part's size go up in parts");
}

#[tokio::test]
async fn memory_stays_near_what_was_asked_for() {
    let format = in_memory();
    let table = table(&format).await;
    let small = WriterOptions { memory_bytes: 2 << 20, ..options() };
    let largest = blocking(table.as_ref(), &noise(1, 1), small, move |mut writer| {
        let mut largest = 0;
        for i in 1..=50 {
            writer.write(&noise(10_000, i)).unwrap();
            largest = largest.max(writer.memory());
        }
        assert!(writer.bytes() > 10 << 20);
        writer.finish().unwrap();
        largest
    })
    .await;
    // The encoder's share, and what is on its way to the store: 4 chunks of 1 MiB and 3 parts of 8 MiB.
    assert!(largest < (2 << 20) + (2 << 20) + (29 << 20), "{largest} bytes");
}

#[tokio::test]
async fn only_columns_whose_values_repeat_have_a_dictionary() {
    let folder = tempfile::tempdir().unwrap();
    let table_format = local(&folder);
    let mut few: Vec<Option<i64>> = (0..10_000).map(|n| Some(n * 7919 % 1_000)).collect();
    few[1] = None;
    let ids = noise(10_000, 7);
    let batch = nullable(vec![
        ("id", Arc::clone(ids.column(0))),
        ("few", Arc::new(Int64Array::from(few))),
        ("a.name", Arc::clone(ids.column(1))),
        ("nothing", Arc::new(StringArray::from(vec![None::<&str>; 10_000]))),
        ("state", Arc::new((0..10_000).map(|n| Some(["open", "paid"][n % 2])).collect::<StringArray>())),
    ]);
    let table = table_format.create(FOLDER, &definition(batch.schema(), &[])).await.unwrap();
    let files = write(table.as_ref(), vec![batch.clone(), batch]).await;
    let with_dictionary = |file: &DataFile| -> Vec<String> {
        let file = std::fs::File::open(folder.path().join(FOLDER).join(&file.path)).unwrap();
        let footer = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let columns = footer.metadata().row_group(0).columns().iter();
        columns.filter(|c| c.dictionary_page_offset().is_some()).map(|c| c.column_path().string()).collect()
    };
    assert_eq!(with_dictionary(&files[0]), ["few", "nothing", "state"]);
    // A few rows foretell nothing.
    let files = write(table.as_ref(), vec![noise(100, 1)]).await;
    assert_eq!(with_dictionary(&files[0]), ["id", "name"]);
}

#[tokio::test]
async fn statistics_bound_every_value() {
    let format = in_memory();
    let long = "\u{10ffff}".repeat(40);
    let fields = Fields::from(vec![Field::new("x", DataType::Int64, true)]);
    let x: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(-1), None]));
    let batch = nullable(vec![
        ("id", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None]))),
        ("text", Arc::new(StringArray::from(vec![Some("z\"ü".repeat(60)), Some("a".repeat(100)), None]))),
        ("far", Arc::new(StringArray::from(vec![Some(long.as_str()), Some(""), None]))),
        ("nan", Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(1.0), None]))),
        ("inf", Arc::new(Float64Array::from(vec![Some(f64::INFINITY), Some(-0.5), None]))),
        ("day", Arc::new(Date32Array::from(vec![Some(-719_162), Some(2_932_896), None]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), Some(1), None]).with_timezone("UTC"))),
        ("naive", Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), Some(1), None]))),
        (
            "price",
            Arc::new(
                Decimal128Array::from(vec![Some(-10_i128.pow(38) + 1), Some(5), None])
                    .with_precision_and_scale(38, 10)
                    .unwrap(),
            ),
        ),
        ("nothing", Arc::new(StringArray::from(vec![None::<&str>; 3]))),
        ("inner", Arc::new(StructArray::new(fields, vec![x], Some(vec![true, true, false].into())))),
    ]);
    let table = format.create(FOLDER, &definition(batch.schema(), &[])).await.unwrap();
    let files = write(table.as_ref(), vec![batch]).await;
    let text = files[0].stats.clone().unwrap();
    assert!(text.contains("\"price\":-9999999999999999999999999999.9999999999"), "all digits: {text}");
    let stats: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stats["numRecords"], 3);
    let (min, max, nulls) = (&stats["minValues"], &stats["maxValues"], &stats["nullCount"]);
    assert_eq!((&min["id"], &max["id"], &nulls["id"]), (&json!(i64::MIN), &json!(i64::MAX), &json!(1)));
    let (low, high) = (min["text"].as_str().unwrap(), max["text"].as_str().unwrap());
    assert!(low.len() <= 64 && low <= "a".repeat(100).as_str());
    assert!(high.len() <= 64 && high >= "z\"ü".repeat(60).as_str(), "{high}");
    assert!(max["far"].as_str().is_none_or(|high| high >= long.as_str()), "no bound is better than a wrong one");
    assert!(min["nan"].is_null() && max["nan"].is_null());
    assert_eq!((&min["inf"], &max["inf"]), (&json!(-0.5), &Value::Null));
    assert_eq!((&min["day"], &max["day"]), (&json!("0001-01-01"), &json!("9999-12-31")));
    assert_eq!(
        (&min["at"], &max["at"]),
        (&json!("1969-12-31T23:59:59.999999Z"), &json!("1970-01-01T00:00:00.000001Z"))
    );
    assert_eq!(max["naive"], "1970-01-01T00:00:00.000001");
    assert_eq!((&min["nothing"], &nulls["nothing"]), (&Value::Null, &json!(3)));
    assert_eq!((&min["inner"], &nulls["inner"]), (&json!({"x": -1}), &json!({"x": 1})));
}

#[tokio::test]
async fn only_the_first_thirty_two_columns_get_statistics() {
    let format = in_memory();
    let names: Vec<String> = (0..40).map(|i| format!("c{i}")).collect();
    let column = || -> ArrayRef { Arc::new(Int64Array::from(vec![1])) };
    let batch = nullable(names.iter().map(|n| (n.as_str(), column())).collect());
    let table = format.create(FOLDER, &definition(batch.schema(), &[])).await.unwrap();
    let files = write(table.as_ref(), vec![batch]).await;
    let stats: Value = serde_json::from_str(files[0].stats.as_deref().unwrap()).unwrap();
    for object in ["minValues", "maxValues", "nullCount"] {
        assert_eq!(stats[object].as_object().unwrap().len(), 32);
    }
}

#[tokio::test]
async fn a_writer_that_is_given_up_leaves_no_file() {
    let store = FaultStore::in_memory();
    let folder = tempfile::tempdir().unwrap();
    for format in [format_over(Arc::new(store.clone())), local(&folder)] {
        let table = table(&format).await;
        let small = WriterOptions { target_file_bytes: 1 << 20, ..options() };
        let batch = noise(50_000, 3);
        blocking(table.as_ref(), &batch.clone(), small, move |mut writer| {
            writer.write(&batch).unwrap();
            writer.write(&batch.slice(0, 10)).unwrap();
            writer.abort();
        })
        .await;
        assert!(objects(format.store().as_ref()).await.is_empty());
    }
}

#[tokio::test]
async fn an_upload_that_fails_is_the_error_of_the_writer() {
    for (operation, fault) in [
        (Operation::Put, Fault::Refuse),
        (Operation::Put, Fault::Deny),
        (Operation::StartUpload, Fault::Refuse),
        (Operation::Part, Fault::Refuse),
        (Operation::CompleteUpload, Fault::Refuse),
    ] {
        let store = FaultStore::in_memory();
        let format = format_over(Arc::new(store.clone()));
        let table = table(&format).await;
        store.always(operation, "*.parquet", fault);
        let batch = noise(if operation == Operation::Put { 10 } else { 400_000 }, 3);
        let error = blocking(table.as_ref(), &batch.clone(), options(), move |mut writer| {
            writer.write(&batch)?;
            writer.finish()
        })
        .await
        .unwrap_err();
        assert!(error.hint_text().is_some(), "{error:?}");
        let expected = if fault == Fault::Deny { ErrorKind::PermissionDenied } else { ErrorKind::Unavailable };
        assert_eq!(error.kind(), expected, "{operation:?} {fault:?}: {error:?}");
        store.heal();
        assert!(objects(store.inner().as_ref()).await.is_empty());
    }
}

#[tokio::test]
async fn many_partitions_keep_few_files_open() {
    let format = in_memory();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..500));
    let groups: ArrayRef = Arc::new(Int64Array::from_iter_values((0..500).map(|i| i % 100)));
    let batch = nullable(vec![("id", ids), ("group", groups)]);
    let mut table = format.create(FOLDER, &definition(batch.schema(), &["group"])).await.unwrap();
    let files = write(table.as_ref(), vec![batch.clone(), batch.clone()]).await;
    assert!(files.len() >= 100);
    assert!(files.iter().all(|f| f.path.starts_with("group=") && f.partition.len() == 1));
    table.commit(Commit { add: files, ..Commit::default() }).await.unwrap();
    assert_eq!(crate::support::ids(open(&format).await.as_ref()).await.len(), 1000);
}

#[tokio::test]
async fn partitions_that_cannot_be_are_refused() {
    let format = in_memory();
    for columns in [&["gone"][..], &["id", "name"]] {
        let error = format.create(FOLDER, &definition(schema(), columns)).await.err().expect("an error");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    }
    let table = format.create(FOLDER, &definition(schema(), &["name"])).await.unwrap();
    let batch =
        nullable(vec![("id", Arc::new(Int64Array::from(vec![1]))), ("name", Arc::new(StringArray::from(vec![""])))]);
    let error = blocking(table.as_ref(), &batch.clone(), options(), move |mut w| w.write(&batch)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataInvalid);
}

#[tokio::test]
async fn snappy_is_written_on_request() {
    let format = in_memory();
    let mut table = table(&format).await;
    let snappy = WriterOptions { compression: Compression::Snappy, ..options() };
    let add = write_with(table.as_ref(), vec![rows(0..100)], snappy).await;
    table.commit(Commit { add, ..Commit::default() }).await.unwrap();
    assert_eq!(ids(open(&format).await.as_ref()).await.len(), 100);
}
