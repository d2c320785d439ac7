//! A lake for a test, and short words for what tests do with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use ingest_core::lake::{Commit, CommitError, Compression, DataFile, Definition, Table, TableFormat, WriterOptions};
use ingest_lake_delta::DeltaFormat;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use url::Url;

pub const FOLDER: &str = "bronze/shop/orders";
pub const APP: &str = "ingest/shop/orders";

pub fn format_over(store: Arc<dyn ObjectStore>) -> DeltaFormat {
    DeltaFormat::new(store, Url::parse("memory:///").unwrap())
}

pub fn in_memory() -> DeltaFormat {
    format_over(Arc::new(InMemory::new()))
}

pub fn local(folder: &tempfile::TempDir) -> DeltaFormat {
    DeltaFormat::open(folder.path().to_str().unwrap(), &BTreeMap::new()).unwrap()
}

/// `id` long, `name` string.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("name", DataType::Utf8, true)]))
}

pub fn rows(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let names = ids.iter().map(|id| Some(format!("name {id}"))).collect::<StringArray>();
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(ids)), Arc::new(names)];
    RecordBatch::try_new(schema(), columns).unwrap()
}

pub fn definition(schema: SchemaRef, partition_by: &[&str]) -> Definition {
    Definition { schema, partition_by: partition_by.iter().map(ToString::to_string).collect(), description: None }
}

pub async fn table(format: &DeltaFormat) -> Box<dyn Table> {
    format.create(FOLDER, &definition(schema(), &[])).await.unwrap()
}

pub async fn open(format: &DeltaFormat) -> Box<dyn Table> {
    format.open(FOLDER).await.unwrap().expect("a table")
}

pub fn options() -> WriterOptions {
    WriterOptions {
        target_file_bytes: 128 << 20,
        memory_bytes: 64 << 20,
        compression: Compression::Zstd,
        runtime: tokio::runtime::Handle::current(),
    }
}

/// Writes batches to data files on a thread of their own.
pub async fn write(table: &dyn Table, batches: Vec<RecordBatch>) -> Vec<DataFile> {
    write_with(table, batches, options()).await
}

pub async fn write_with(table: &dyn Table, batches: Vec<RecordBatch>, options: WriterOptions) -> Vec<DataFile> {
    let schema = batches.first().map_or_else(|| table.schema(), RecordBatch::schema);
    let mut writer = table.writers().writer(schema, &options).unwrap();
    tokio::task::spawn_blocking(move || {
        for batch in &batches {
            writer.write(batch).unwrap();
        }
        writer.finish().unwrap()
    })
    .await
    .unwrap()
}

pub fn numbered(number: i64) -> Vec<(String, i64)> {
    vec![(APP.to_string(), number)]
}

/// Appends rows in one commit, with a number where one is given.
pub async fn append(table: &mut Box<dyn Table>, batch: RecordBatch, number: Option<i64>) -> Result<u64, CommitError> {
    let add = write(table.as_ref(), vec![batch]).await;
    let transactions = number.map(numbered).unwrap_or_default();
    table.commit(Commit { add, transactions, ..Commit::default() }).await
}

/// The ids of all rows, sorted.
pub async fn ids(table: &dyn Table) -> Vec<i64> {
    let mut ids = Vec::new();
    for batch in table.read(usize::MAX).await.unwrap() {
        let column = batch.column_by_name("id").expect("column id").as_primitive::<Int64Type>().clone();
        assert_eq!(column.null_count(), 0);
        ids.extend_from_slice(column.values());
    }
    ids.sort_unstable();
    ids
}

pub fn kind(error: CommitError) -> &'static str {
    match error {
        CommitError::Conflict(_) => "conflict",
        CommitError::Failed(_) => "failed",
        CommitError::Unknown(_) => "unknown",
    }
}
