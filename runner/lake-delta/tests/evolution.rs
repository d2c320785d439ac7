//! A table's schema grows; tables of other writers are met.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use ingest_core::ErrorKind;
use ingest_core::lake::{Commit, Removal};
use ingest_lake_delta::DeltaFormat;
use ingest_testkit::python;
use object_store::path::Path;
use serde_json::{Value, json};

use crate::support::*;

fn nullable(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

fn wide() -> RecordBatch {
    let inner: ArrayRef = Arc::new(Int32Array::from(vec![Some(5), None]));
    let fields = Fields::from(vec![Field::new("x", DataType::Int32, true)]);
    nullable(vec![
        ("id", Arc::new(Int64Array::from(vec![10, 11]))),
        ("name", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("point", Arc::new(StructArray::new(fields, vec![inner], None))),
    ])
}

#[tokio::test]
async fn new_columns_rows_and_number_come_in_one_commit_and_old_rows_read_as_null() {
    let format = in_memory();
    let mut table = table(&format).await;
    append(&mut table, rows(0..3), Some(1)).await.unwrap();
    let add = write(table.as_ref(), vec![wide()]).await;
    let commit = Commit { add, transactions: numbered(2), schema: Some(wide().schema()), ..Commit::default() };
    assert_eq!(table.commit(commit).await.unwrap(), 2);
    assert_eq!(table.schema(), wide().schema());
    let reader = open(&format).await;
    assert_eq!(reader.schema(), wide().schema());
    assert_eq!(ids(reader.as_ref()).await, [0, 1, 2, 10, 11]);
    let batches = reader.read(10).await.unwrap();
    assert_eq!(batches.iter().map(|b| b.column(2).null_count()).sum::<usize>(), 3);

    // A column inside a struct, and rows that lack a column.
    let fields = Fields::from(vec![Field::new("x", DataType::Int32, true), Field::new("y", DataType::Utf8, true)]);
    let wider = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("point", DataType::Struct(fields), true),
    ]));
    table.commit(Commit { schema: Some(wider.clone()), ..Commit::default() }).await.unwrap();
    append(&mut table, rows([20]), None).await.unwrap();
    let reader = open(&format).await;
    assert_eq!(reader.schema(), wider);
    let batches = reader.read(10).await.unwrap();
    assert!(batches.iter().all(|b| b.schema_ref().fields() == wider.fields()));
    let point: i32 = batches
        .iter()
        .flat_map(|b| {
            b.column(2).as_struct().column(0).as_primitive::<Int32Type>().iter().flatten().collect::<Vec<_>>()
        })
        .sum();
    assert_eq!(point, 5);
}

#[tokio::test]
async fn the_same_schema_again_changes_no_metadata() {
    let format = in_memory();
    let mut ours = table(&format).await;
    let mut other = open(&format).await;
    other.commit(Commit { schema: Some(schema()), ..Commit::default() }).await.unwrap();
    append(&mut ours, rows([1]), None).await.unwrap();
}

#[tokio::test]
async fn a_changed_type_is_refused_with_its_column() {
    let format = in_memory();
    let mut table = table(&format).await;
    for (data_type, name) in [(DataType::Int32, "id"), (DataType::Utf8, "id"), (DataType::Binary, "name")] {
        let fields = schema()
            .fields()
            .iter()
            .map(|f| {
                if f.name() == name { f.as_ref().clone().with_data_type(data_type.clone()) } else { f.as_ref().clone() }
            })
            .collect::<Vec<_>>();
        let changed: SchemaRef = Arc::new(Schema::new(fields));
        let error = table.writers().writer(changed.clone(), &options()).err().expect("an error");
        assert_eq!(error.kind(), ErrorKind::SchemaChanged);
        assert!(error.to_string().contains(&format!("column {name}")), "{error}");
        let error = table.commit(Commit { schema: Some(changed), ..Commit::default() }).await.unwrap_err();
        assert_eq!(error.into_error().kind(), ErrorKind::SchemaChanged);
    }
    let case = Arc::new(Schema::new(vec![Field::new("ID", DataType::Int64, true)]));
    let error = table.commit(Commit { schema: Some(case), ..Commit::default() }).await.unwrap_err().into_error();
    assert_eq!(error.kind(), ErrorKind::SchemaChanged);
    assert_eq!(table.version(), 0);
}

#[tokio::test]
async fn a_naive_timestamp_added_later_brings_its_feature() {
    let folder = tempfile::tempdir().unwrap();
    let format = local(&folder);
    let mut table = table(&format).await;
    let mut fields: Vec<Field> = schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true));
    table.commit(Commit { schema: Some(Arc::new(Schema::new(fields))), ..Commit::default() }).await.unwrap();
    let body = std::fs::read_to_string(folder.path().join(FOLDER).join(format!("_delta_log/{:020}.json", 1))).unwrap();
    let protocol: Value =
        body.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).find(|v| v["protocol"].is_object()).unwrap();
    assert_eq!(
        protocol["protocol"],
        json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["timestampNtz"],
            "writerFeatures": ["appendOnly", "invariants", "timestampNtz"]})
    );
    append(&mut table, rows([1]), None).await.unwrap();
    assert_eq!(ids(open(&format).await.as_ref()).await, [1]);
}

/// A table as another writer would make it.
async fn foreign(protocol: Value, configuration: Value, field_metadata: Value) -> DeltaFormat {
    let format = in_memory();
    let schema = json!({"type": "struct", "fields": [
        {"name": "id", "type": "long", "nullable": true, "metadata": field_metadata},
        {"name": "name", "type": "string", "nullable": true, "metadata": {}},
    ]});
    let metadata = json!({"id": "5fba94ed", "format": {"provider": "parquet", "options": {}},
        "schemaString": schema.to_string(), "partitionColumns": [], "configuration": configuration});
    let body = format!("{}\n{}\n", json!({"protocol": protocol}), json!({"metaData": metadata}));
    let path = Path::from(format!("{FOLDER}/_delta_log/{:020}.json", 0));
    assert!(format.put_new(&path, Bytes::from(body)).await.unwrap());
    format
}

fn features(writer: &[&str]) -> Value {
    json!({"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": writer})
}

#[tokio::test]
async fn features_that_cannot_be_kept_are_refused_by_name() {
    let cases = [
        (features(&["domainMetadata"]), json!({}), json!({}), "domainMetadata"),
        (features(&["rowTracking"]), json!({}), json!({}), "rowTracking"),
        (features(&["inCommitTimestamp"]), json!({}), json!({}), "inCommitTimestamp"),
        (features(&["somethingNew"]), json!({}), json!({}), "somethingNew"),
        (json!({"minReaderVersion": 1, "minWriterVersion": 9}), json!({}), json!({}), "writer version 9"),
        (
            json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["typeWidening"], "writerFeatures": ["typeWidening"]}),
            json!({}),
            json!({}),
            "typeWidening",
        ),
        (
            json!({"minReaderVersion": 2, "minWriterVersion": 5}),
            json!({"delta.columnMapping.mode": "name"}),
            json!({}),
            "columnMapping",
        ),
        (
            json!({"minReaderVersion": 1, "minWriterVersion": 3}),
            json!({"delta.constraints.positive": "id > 0"}),
            json!({}),
            "checkConstraints",
        ),
        (
            json!({"minReaderVersion": 1, "minWriterVersion": 2}),
            json!({}),
            json!({"delta.invariants": "{}"}),
            "invariants",
        ),
        (
            json!({"minReaderVersion": 1, "minWriterVersion": 4}),
            json!({}),
            json!({"delta.generationExpression": "1"}),
            "generatedColumns",
        ),
        (
            json!({"minReaderVersion": 1, "minWriterVersion": 6}),
            json!({}),
            json!({"delta.identity.start": 1}),
            "identityColumns",
        ),
    ];
    for (protocol, configuration, field, feature) in cases {
        let format = foreign(protocol, configuration, field).await;
        let mut table = open(&format).await;
        let error = table.commit(Commit::default()).await.unwrap_err().into_error();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{feature}");
        assert!(error.to_string().contains(feature), "{error}");
        assert!(error.hint_text().is_some());
        assert!(table.writers().writer(schema(), &options()).is_err());
    }
}

#[tokio::test]
async fn features_that_are_there_and_not_used_do_no_harm() {
    let old = json!({"minReaderVersion": 2, "minWriterVersion": 6});
    let all = json!({"minReaderVersion": 3, "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors", "v2Checkpoint", "columnMapping", "timestampNtz"],
        "writerFeatures": ["appendOnly", "invariants", "checkConstraints", "changeDataFeed", "generatedColumns",
            "columnMapping", "identityColumns", "deletionVectors", "v2Checkpoint", "timestampNtz", "vacuumProtocolCheck"]});
    for protocol in [old, all] {
        let format =
            foreign(protocol, json!({"delta.columnMapping.mode": "none"}), json!({"comment": "the key"})).await;
        let mut table = open(&format).await;
        append(&mut table, rows(0..3), Some(1)).await.unwrap();
        table.commit(Commit { remove: Removal::All, ..Commit::default() }).await.unwrap();
        assert!(ids(open(&format).await.as_ref()).await.is_empty());
        // What others wrote into the schema stays when it grows.
        let mut fields: Vec<Field> = schema().fields().iter().map(|f| f.as_ref().clone()).collect();
        fields.push(Field::new("more", DataType::Int32, true));
        table.commit(Commit { schema: Some(Arc::new(Schema::new(fields))), ..Commit::default() }).await.unwrap();
        assert_eq!(open(&format).await.schema().field(0).metadata()["comment"], "the key");
    }
}

#[tokio::test]
async fn rows_of_append_only_and_change_feed_tables_are_not_removed() {
    let plain = json!({"minReaderVersion": 1, "minWriterVersion": 4});
    for property in ["delta.appendOnly", "delta.enableChangeDataFeed"] {
        let format = foreign(plain.clone(), json!({property: "true"}), json!({})).await;
        let mut table = open(&format).await;
        append(&mut table, rows(0..3), None).await.unwrap();
        let error = table.commit(Commit { remove: Removal::All, ..Commit::default() }).await.unwrap_err().into_error();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

/// Step 0 creates a partitioned table and appends to it, step 1 appends and makes a checkpoint.
const DELTA_RS: &str = r#"
import sys, pyarrow as pa
from deltalake import DeltaTable, write_deltalake
path, step = sys.argv[1], int(sys.argv[2])
schema = pa.schema([("id", pa.int64()), ("name", pa.string())])
if step == 0:
    DeltaTable.create(path, schema, partition_by=["name"])
ids = {0: [0, 1, 2], 1: [5]}[step]
rows = pa.table([ids, [f"name {i}" for i in ids]], schema)
write_deltalake(path, rows, mode="append", partition_by=["name"])
if step == 1:
    DeltaTable(path).create_checkpoint()
"#;

#[tokio::test]
async fn a_table_of_delta_rs_is_opened_read_and_written_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FOLDER);
    std::fs::create_dir_all(&path).unwrap();
    let arguments = |step| [path.to_str().unwrap(), step];
    if python::run("python", DELTA_RS, &arguments("0"), &[]).await.is_none() {
        return;
    }
    let format = local(&folder);
    let mut ours = open(&format).await;
    assert_eq!(ids(ours.as_ref()).await, [0, 1, 2]);
    append(&mut ours, rows(3..5), Some(1)).await.unwrap();
    assert_eq!(ids(open(&format).await.as_ref()).await, [0, 1, 2, 3, 4]);
    // And on by the other again; its checkpoint is all that is left of the log.
    python::run("python", DELTA_RS, &arguments("1"), &[]).await;
    let version = open(&format).await.version();
    for version in 0..version {
        std::fs::remove_file(path.join(format!("_delta_log/{version:020}.json"))).unwrap();
    }
    let mut reader = open(&format).await;
    assert_eq!(ids(reader.as_ref()).await, [0, 1, 2, 3, 4, 5]);
    assert_eq!(reader.number(APP).await.unwrap(), Some(1));
    append(&mut reader, rows([6]), Some(2)).await.unwrap();
}

#[tokio::test]
async fn a_file_with_a_deletion_vector_is_neither_read_nor_rewritten() {
    let protocol = json!({"minReaderVersion": 3, "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]});
    let format = foreign(protocol, json!({}), json!({})).await;
    let table = open(&format).await;
    let mut file = write(table.as_ref(), vec![rows(0..3)]).await.remove(0);
    let vector = json!({"storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^", "offset": 4, "sizeInBytes": 40, "cardinality": 1});
    let add = json!({"add": {"path": file.path, "partitionValues": {}, "size": file.bytes, "modificationTime": 0,
        "dataChange": true, "stats": file.stats, "deletionVector": vector}});
    let path = Path::from(format!("{FOLDER}/_delta_log/{:020}.json", 1));
    assert!(format.put_new(&path, Bytes::from(add.to_string())).await.unwrap());
    let mut table = table.reopen().await.unwrap();
    file.rows = 2;
    file.modified = 0;
    assert_eq!(table.files().await.unwrap(), [file.clone()]);
    assert_eq!(table.read(1).await.unwrap_err().kind(), ErrorKind::Unsupported);
    let error = table.commit(Commit { remove: Removal::Files(vec![file]), ..Commit::default() }).await.unwrap_err();
    assert_eq!(error.into_error().kind(), ErrorKind::Unsupported);
    // It can be removed as a whole, with its vector in the tombstone.
    table.commit(Commit { remove: Removal::All, ..Commit::default() }).await.unwrap();
    assert!(open(&format).await.files().await.unwrap().is_empty());
}
