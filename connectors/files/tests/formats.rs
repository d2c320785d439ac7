//! Documents, Parquet, Avro and every compression.

use std::io::Write;
use std::sync::Arc;

use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{
    ArrayRef, Decimal128Array, DictionaryArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampNanosecondArray,
};
use parquet::arrow::ArrowWriter;
use serde_json::json;

use crate::support::{Folder, load, stream, types};

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).expect("gzip");
    encoder.finish().expect("gzip")
}

pub(crate) fn bzip2(content: &[u8]) -> Vec<u8> {
    let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::fast());
    encoder.write_all(content).expect("bzip2");
    encoder.finish().expect("bzip2")
}

pub(crate) fn zstd(content: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(content, 1).expect("zstd")
}

pub(crate) fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("writer");
    writer.write(batch).expect("write");
    writer.into_inner().expect("close")
}

pub(crate) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).expect("batch")
}

#[tokio::test]
async fn every_compression_is_known_by_its_bytes_also_in_several_parts() {
    type Compress = fn(&[u8]) -> Vec<u8>;
    let ways: [(&str, Compress); 3] = [("gz", gzip), ("zst", zstd), ("bz2", bzip2)];
    for (ending, compress) in ways {
        let folder = Folder::new();
        let parts = [compress(b"id,name\n1,a\n"), compress(b"2,b\n3,"), compress(b"c\n")].concat();
        folder.write(&format!("t.csv.{ending}"), &parts);
        folder.write("lies/a.ndjson", compress(b"{\"id\":4}\n"));
        let source = folder.source(json!({})).await;
        let table = load(source.as_ref(), "t").await;
        assert_eq!(table.column("name"), ["a", "b", "c"], "{ending}");
        assert_eq!(
            load(source.as_ref(), "lies").await.column("id"),
            ["4"],
            "{ending}: the bytes say more than the name"
        );
    }
}

#[tokio::test]
async fn documents_give_their_records_in_every_layout() {
    let folder = Folder::new();
    folder.write("array.json", "[{\"id\": 1}, {\"id\": 2, \"deep\": {\"a\": [1.10]}}, 7]");
    folder.write("one.json", "{\"id\": 3, \"lines\": [{\"x\": 1}]}");
    folder.write("wrapped.json", "{\"count\": 2, \"data\": [{\"id\": 4}, {\"id\": 5}], \"next\": null}");
    folder.write("lines.json", "{\"id\": 6}\n{\"id\": 7}\n");
    folder.write("path.json", "{\"a\": {\"b\": [{\"id\": 8}]}, \"data\": [{\"id\": 9}]}");
    folder.write("none.json", "[]");
    let one = |path: &str| json!({"path": path});
    let source = folder
        .source(json!({
            "array": one("array.json"), "one": one("one.json"), "wrapped": one("wrapped.json"),
            "lines": one("lines.json"), "none": one("none.json"), "path": {"path": "path.json", "records": "$.a.b[*]"}
        }))
        .await;
    let expected: [(&str, &[&str]); 6] = [
        ("array", &["1", "2"]),
        ("one", &["3"]),
        ("wrapped", &["4", "5"]),
        ("lines", &["6", "7"]),
        ("path", &["8"]),
        ("none", &[]),
    ];
    for (name, ids) in expected {
        assert_eq!(load(source.as_ref(), name).await.column("id"), ids, "{name}");
    }
    let array = load(source.as_ref(), "array").await;
    assert_eq!(array.column("deep"), ["null", "{\"a\":[1.10]}"]);
    assert!(array.bad[0].reason.starts_with("array.json record 3 (line 1): "), "{:?}", array.bad);
}

#[tokio::test]
async fn parquet_keeps_its_types_and_conforms_file_by_file() {
    let folder = Folder::new();
    let texts: DictionaryArray<Int32Type> = vec!["x", "y"].into_iter().collect();
    let first = batch(vec![
        ("id", Arc::new(Int32Array::from(vec![1, 2]))),
        ("price", Arc::new(Decimal128Array::from(vec![150, 225]).with_precision_and_scale(10, 2).expect("decimal"))),
        ("kind", Arc::new(texts)),
        ("tags", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1), None]), None]))),
        ("at", Arc::new(TimestampNanosecondArray::from(vec![1_000, 2_000]))),
    ]);
    let second = batch(vec![
        ("price", Arc::new(Decimal128Array::from(vec![1]).with_precision_and_scale(10, 3).expect("decimal"))),
        ("id", Arc::new(Int64Array::from(vec![i64::MAX]))),
        ("more", Arc::new(StringArray::from(vec!["m"]))),
    ]);
    folder.write("in/1.parquet", parquet(&first));
    folder.write("in/2.parquet", parquet(&second));
    let source = folder.source(json!({})).await;
    let types = types(&stream(source.as_ref(), "in").await);
    let of = |name: &str| types.iter().find(|(n, _)| n == name).map(|(_, t)| t.as_str()).expect("column");
    assert_eq!((of("id"), of("price"), of("kind")), ("Int64", "Decimal128(11, 3)", "Utf8"));
    let table = load(source.as_ref(), "in").await;
    assert_eq!(table.column("id"), ["1", "2", "9223372036854775807"]);
    assert_eq!(table.column("price"), ["0.001", "1.500", "2.250"]);
    assert_eq!(table.column("kind"), ["null", "x", "y"]);
    assert_eq!(table.column("tags"), ["[1, ]", "null", "null"]);
    assert_eq!(table.column("more"), ["m", "null", "null"]);
    assert!(table.rows.iter().all(|row| row["_ingest_rescued"].is_null()));
}

#[tokio::test]
async fn values_of_parquet_that_do_not_fit_a_declared_type_are_rescued() {
    let folder = Folder::new();
    let rows = batch(vec![
        ("id", Arc::new(Int64Array::from(vec![1, 3_000_000_000]))),
        ("x", Arc::new(arrow_array::Float64Array::from(vec![2.0, 2.5]))),
    ]);
    folder.write("t.parquet", parquet(&rows));
    let source = folder.source(json!({"t": {"path": "t.parquet", "types": {"id": "int32", "x": "int64"}}})).await;
    let table = load(source.as_ref(), "t").await;
    assert_eq!(table.column("id"), ["1", "null"]);
    assert_eq!(table.column("x"), ["2", "null"]);
    assert_eq!(table.column("_ingest_rescued"), ["null", "{\"id\":\"3000000000\",\"x\":\"2.5\"}"]);
}

#[tokio::test]
async fn avro_is_read_with_its_own_schema() {
    let folder = Folder::new();
    let rows = batch(vec![
        ("id", Arc::new(Int64Array::from(vec![1, 9_007_199_254_740_993]))),
        ("name", Arc::new(StringArray::from(vec![Some("a"), None]))),
    ]);
    let mut writer = arrow_avro::writer::AvroWriter::new(Vec::new(), rows.schema().as_ref().clone()).expect("writer");
    writer.write(&rows).expect("write");
    writer.finish().expect("finish");
    folder.write("t.avro", writer.into_inner());
    let source = folder.source(json!({})).await;
    let table = load(source.as_ref(), "t").await;
    assert_eq!(table.column("id"), ["1", "9007199254740993"]);
    assert_eq!(table.column("name"), ["a", "null"]);
    assert_eq!(table.column("_source_file"), ["t.avro", "t.avro"]);
}
