//! The second readers see the same values as the oracle makes of Arrow batches.

use std::sync::Arc;

use arrow_array::builder::{Int32Builder, ListBuilder};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field};
use ingest_testkit::oracle::Rows;
use ingest_testkit::python::{self, Reader};
use ingest_testkit::s3::S3;

/// Writes the batch that [`batch`] makes, by Python alone.
const WRITE: &str = r#"
import sys, datetime as d, decimal, os, pyarrow as pa
from deltalake import write_deltalake
utc = d.timezone.utc
columns = {
    "id": pa.array([1, 2, None], pa.int64()),
    "flag": pa.array([True, False, None]),
    "real": pa.array([0.1, -0.0, None], pa.float32()),
    "double": pa.array([float("nan"), float("-inf"), None]),
    "price": pa.array([decimal.Decimal("12.50"), decimal.Decimal("-99999999999999999999.99"), None], pa.decimal128(38, 2)),
    "name": pa.array(["Zoë \"quoted\"\n", "", None]),
    "raw": pa.array([b"\x00\xff", b"", None]),
    "day": pa.array([d.date(1, 1, 1), d.date(9999, 12, 31), None]),
    "at": pa.array([d.datetime(2026, 1, 31, 23, 59, 59, 1, utc), d.datetime(1, 1, 1, tzinfo=utc), None], pa.timestamp("us", "UTC")),
    "tags": pa.array([[1, None], [], None], pa.list_(pa.int32())),
    "point": pa.array([{"x": 1}, {"x": None}, None], pa.struct([("x", pa.int64())])),
}
options = {k.lower(): v for k, v in os.environ.items() if k.startswith("AWS_")}
write_deltalake(sys.argv[1], pa.table(columns), storage_options=options or None)
"#;

fn batch() -> RecordBatch {
    let mut tags = ListBuilder::new(Int32Builder::new());
    tags.append_value([Some(1), None]);
    tags.append_value([None; 0]);
    tags.append_null();
    let x: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, None]));
    let point = StructArray::try_new(
        vec![Field::new("x", DataType::Int64, true)].into(),
        vec![x],
        Some(vec![true, true, false].into()),
    );
    let price = vec![Some(1250), Some(-9_999_999_999_999_999_999_999), None];
    let at = vec![Some(1_769_903_999_000_001), Some(-62_135_596_800_000_000), None];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![Some(1), Some(2), None]))),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        ("real", Arc::new(Float32Array::from(vec![Some(0.1), Some(-0.0), None]))),
        ("double", Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(f64::NEG_INFINITY), None]))),
        ("price", Arc::new(Decimal128Array::from(price).with_precision_and_scale(38, 2).unwrap())),
        ("name", Arc::new(StringArray::from(vec![Some("Zoë \"quoted\"\n"), Some(""), None]))),
        ("raw", Arc::new(BinaryArray::from(vec![Some(b"\x00\xff".as_ref()), Some(b"".as_ref()), None]))),
        ("day", Arc::new(Date32Array::from(vec![Some(-719_162), Some(2_932_896), None]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(at).with_timezone("UTC"))),
        ("tags", Arc::new(tags.finish())),
        ("point", Arc::new(point.unwrap())),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

async fn both_readers_agree(table: &str, env: &[(String, String)]) {
    let Some(_) = python::run("python", WRITE, &[table], env).await else { return };
    let mut truth = Rows::new(&["id"]);
    truth.add_batch(&batch()).unwrap();
    for reader in Reader::ALL {
        let rows = python::rows(reader, table, env).await.unwrap();
        if let Err(difference) = Rows::of(&["id"], rows.clone()).compare(&truth) {
            panic!("{reader:?}: {difference}\n{rows:?}\n{:?}", ingest_testkit::oracle::canonical_rows(&batch()));
        }
    }
}

#[tokio::test]
async fn every_type_reads_the_same_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    both_readers_agree(folder.path().to_str().unwrap(), &[]).await;
}

#[tokio::test]
async fn every_type_reads_the_same_from_s3_moto() {
    let Some(s3) = S3::shared().await else { return };
    let bucket = s3.bucket().await;
    both_readers_agree(&format!("{}/table", bucket.url()), &bucket.env()).await;
}

#[tokio::test]
#[should_panic(expected = "a Python script for python failed")]
async fn a_reader_that_cannot_read_fails_the_test() {
    if python::rows(Reader::DuckDb, "/no/such/table", &[]).await.is_none() {
        panic!("a Python script for python failed, because it was skipped");
    }
}
