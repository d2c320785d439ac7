//! Every Arrow type: what it is stored as, and that it comes back.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{ArrowDictionaryKeyType, Int8Type, Int32Type, IntervalDayTime, IntervalMonthDayNano, i256};
use arrow_array::builder::{
    FixedSizeListBuilder, Int32Builder, LargeListBuilder, ListBuilder, MapBuilder, StringBuilder,
};
use arrow_array::*;
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use ingest_core::ErrorKind;
use ingest_core::lake::{Commit, TableFormat};
use ingest_lake_delta::CUT;

use crate::support::*;

/// Columns of three rows with what they are stored as; the last row is null.
pub fn columns() -> Vec<(&'static str, ArrayRef, ArrayRef)> {
    let mut all = integers();
    all.extend(numbers());
    all.extend(times());
    all.extend(texts());
    all.extend(nested());
    all
}

fn same(name: &'static str, array: ArrayRef) -> (&'static str, ArrayRef, ArrayRef) {
    (name, array.clone(), array)
}

fn integers() -> Vec<(&'static str, ArrayRef, ArrayRef)> {
    vec![
        same("boolean", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        same("int8", Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(i8::MAX), None]))),
        same("int16", Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(i16::MAX), None]))),
        same("int32", Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(i32::MAX), None]))),
        same("int64", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None]))),
        (
            "uint8",
            Arc::new(UInt8Array::from(vec![Some(0), Some(u8::MAX), None])),
            Arc::new(Int16Array::from(vec![Some(0), Some(255), None])),
        ),
        (
            "uint16",
            Arc::new(UInt16Array::from(vec![Some(0), Some(u16::MAX), None])),
            Arc::new(Int32Array::from(vec![Some(0), Some(65_535), None])),
        ),
        (
            "uint32",
            Arc::new(UInt32Array::from(vec![Some(0), Some(u32::MAX), None])),
            Arc::new(Int64Array::from(vec![Some(0), Some(4_294_967_295), None])),
        ),
        (
            "uint64",
            Arc::new(UInt64Array::from(vec![Some(0), Some(u64::MAX), None])),
            decimal([Some(0), Some(u64::MAX.into()), None], 20, 0),
        ),
    ]
}

fn decimal(values: [Option<i128>; 3], precision: u8, scale: i8) -> ArrayRef {
    Arc::new(Decimal128Array::from(values.to_vec()).with_precision_and_scale(precision, scale).unwrap())
}

fn numbers() -> Vec<(&'static str, ArrayRef, ArrayRef)> {
    let f16 = cast(&Float32Array::from(vec![Some(1.5), Some(-0.25), None]), &DataType::Float16).unwrap();
    let nines = 10_i128.pow(38) - 1;
    let wide = Decimal256Array::from(vec![Some(i256::from_i128(nines)), Some(i256::from_i128(-1)), None]);
    let text: ArrayRef =
        Arc::new(StringArray::from(vec![Some("9999999999999999999999999999999999999.9"), Some("-0.1"), None]));
    vec![
        ("float16", f16, Arc::new(Float32Array::from(vec![Some(1.5), Some(-0.25), None]))),
        same("float32", Arc::new(Float32Array::from(vec![Some(-1.5), Some(f32::INFINITY), None]))),
        same("float64", Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(f64::MAX), None]))),
        same("double", Arc::new(Float64Array::from(vec![Some(-0.5), Some(1e300), None]))),
        (
            "decimal32",
            Arc::new(Decimal32Array::from(vec![Some(-125), Some(999), None]).with_precision_and_scale(5, 2).unwrap()),
            decimal([Some(-125), Some(999), None], 5, 2),
        ),
        (
            "decimal64",
            Arc::new(Decimal64Array::from(vec![Some(-1), Some(1), None]).with_precision_and_scale(18, 18).unwrap()),
            decimal([Some(-1), Some(1), None], 18, 18),
        ),
        same("decimal128", decimal([Some(-nines), Some(nines), None], 38, 10)),
        same("decimal9", decimal([Some(-999_999_999), Some(999_999_999), None], 9, 4)),
        same("decimal18", decimal([Some(-1), Some(999_999_999_999_999_999), None], 18, 0)),
        (
            "decimal_rounded",
            Arc::new(Decimal128Array::from(vec![Some(12), Some(-3), None]).with_precision_and_scale(5, -2).unwrap()),
            decimal([Some(1200), Some(-300), None], 7, 0),
        ),
        (
            "decimal256_small",
            Arc::new(wide.clone().with_precision_and_scale(38, 1).unwrap()),
            decimal([Some(nines), Some(-1), None], 38, 1),
        ),
        ("decimal256", Arc::new(wide.with_precision_and_scale(60, 1).unwrap()), text),
    ]
}

fn micros(values: [Option<i64>; 3], zone: Option<&str>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values.to_vec()).with_timezone_opt(zone))
}

fn times() -> Vec<(&'static str, ArrayRef, ArrayRef)> {
    let first = -62_135_596_800_000_000; // 0001-01-01
    let last = 253_402_300_799_999_999; // 9999-12-31
    let long = |values: [Option<i64>; 3]| -> ArrayRef { Arc::new(Int64Array::from(values.to_vec())) };
    let text = |values: [Option<&str>; 3]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
    vec![
        same("date32", Arc::new(Date32Array::from(vec![Some(-719_162), Some(2_932_896), None]))),
        (
            "date64",
            Arc::new(Date64Array::from(vec![Some(-86_400_000), Some(86_400_000), None])),
            Arc::new(Date32Array::from(vec![Some(-1), Some(1), None])),
        ),
        (
            "time32_s",
            Arc::new(Time32SecondArray::from(vec![Some(0), Some(86_399), None])),
            long([Some(0), Some(86_399_000_000), None]),
        ),
        (
            "time32_ms",
            Arc::new(Time32MillisecondArray::from(vec![Some(1), Some(86_399_999), None])),
            long([Some(1000), Some(86_399_999_000), None]),
        ),
        (
            "time64_us",
            Arc::new(Time64MicrosecondArray::from(vec![Some(1), Some(86_400_000_000), None])),
            long([Some(1), Some(86_400_000_000), None]),
        ),
        (
            "time64_ns",
            Arc::new(Time64NanosecondArray::from(vec![Some(1999), Some(86_399_999_999_999), None])),
            long([Some(1), Some(86_399_999_999), None]),
        ),
        (
            "duration_s",
            Arc::new(DurationSecondArray::from(vec![Some(-1), Some(1), None])),
            long([Some(-1_000_000), Some(1_000_000), None]),
        ),
        (
            "duration_ms",
            Arc::new(DurationMillisecondArray::from(vec![Some(-1), Some(1), None])),
            long([Some(-1000), Some(1000), None]),
        ),
        (
            "duration_us",
            Arc::new(DurationMicrosecondArray::from(vec![Some(-1), Some(1), None])),
            long([Some(-1), Some(1), None]),
        ),
        (
            "duration_ns",
            Arc::new(DurationNanosecondArray::from(vec![Some(-1), Some(1001), None])),
            long([Some(-1), Some(1), None]),
        ),
        same("timestamp", micros([Some(first), Some(last), None], Some("UTC"))),
        same("timestamp_ntz", micros([Some(first), Some(last), None], None)),
        (
            "timestamp_zone",
            micros([Some(-1), Some(1), None], Some("+02:00")),
            micros([Some(-1), Some(1), None], Some("UTC")),
        ),
        (
            "timestamp_s",
            Arc::new(TimestampSecondArray::from(vec![Some(-1), Some(1), None])),
            micros([Some(-1_000_000), Some(1_000_000), None], None),
        ),
        (
            "timestamp_ms",
            Arc::new(TimestampMillisecondArray::from(vec![Some(-1), Some(1), None]).with_timezone("Europe/Paris")),
            micros([Some(-1000), Some(1000), None], Some("UTC")),
        ),
        (
            "timestamp_ns",
            Arc::new(TimestampNanosecondArray::from(vec![Some(-1), Some(1999), None]).with_timezone("UTC")),
            micros([Some(-1), Some(1), None], Some("UTC")),
        ),
        (
            "interval_ym",
            Arc::new(IntervalYearMonthArray::from(vec![Some(14), Some(-1), None])),
            text([Some("P1Y2M"), Some("P-1M"), None]),
        ),
        (
            "interval_dt",
            Arc::new(IntervalDayTimeArray::from(vec![
                Some(IntervalDayTime::new(1, 1500)),
                Some(IntervalDayTime::new(0, -1)),
                None,
            ])),
            text([Some("P1DT1.5S"), Some("PT-0.001S"), None]),
        ),
        (
            "interval_mdn",
            Arc::new(IntervalMonthDayNanoArray::from(vec![
                Some(IntervalMonthDayNano::new(13, -2, 3_661_000_000_001)),
                Some(IntervalMonthDayNano::new(0, 0, 0)),
                None,
            ])),
            text([Some("P1Y1M-2DT1H1M1.000000001S"), Some("PT0S"), None]),
        ),
    ]
}

fn dictionary<K: ArrowDictionaryKeyType>(values: [Option<&str>; 3]) -> ArrayRef {
    Arc::new(values.into_iter().collect::<DictionaryArray<K>>())
}

fn texts() -> Vec<(&'static str, ArrayRef, ArrayRef)> {
    let values = [Some("Zoë \"quoted\"\n\u{1F600}"), Some(""), None];
    let bytes: [Option<&[u8]>; 3] = [Some(b"\x00\xff\xfe"), Some(b""), None];
    let text: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
    let binary: ArrayRef = Arc::new(BinaryArray::from(bytes.to_vec()));
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(
        [Some(b"\x00\x01\xff"), Some(b"abc"), None].into_iter(),
        3,
    );
    let fixed_bytes: [Option<&[u8]>; 3] = [Some(b"\x00\x01\xff"), Some(b"abc"), None];
    let runs = RunArray::<Int32Type>::try_new(&Int32Array::from(vec![2, 3]), &StringArray::from(vec![Some("a"), None]));
    vec![
        same("utf8", text.clone()),
        ("large_utf8", Arc::new(LargeStringArray::from(values.to_vec())), text.clone()),
        ("utf8_view", Arc::new(StringViewArray::from(values.to_vec())), text.clone()),
        ("dictionary", dictionary::<Int8Type>(values), text),
        ("runs", Arc::new(runs.unwrap()), Arc::new(StringArray::from(vec![Some("a"), Some("a"), None]))),
        same("binary", binary.clone()),
        ("large_binary", Arc::new(LargeBinaryArray::from(bytes.to_vec())), binary.clone()),
        ("binary_view", Arc::new(BinaryViewArray::from(bytes.to_vec())), binary),
        ("fixed_binary", Arc::new(fixed.unwrap()), Arc::new(BinaryArray::from(fixed_bytes.to_vec()))),
        ("nothing", Arc::new(NullArray::new(3)), Arc::new(StringArray::from(vec![None::<&str>; 3]))),
    ]
}

fn element(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("element", data_type, true))
}

fn nested() -> Vec<(&'static str, ArrayRef, ArrayRef)> {
    let mut plain = ListBuilder::new(Int32Builder::new()).with_field(element(DataType::Int32));
    let mut other = ListBuilder::new(Int32Builder::new());
    let mut large = LargeListBuilder::new(Int32Builder::new());
    for values in [vec![Some(1), None], vec![]] {
        plain.append_value(values.clone());
        other.append_value(values.clone());
        large.append_value(values);
    }
    plain.append_null();
    other.append_null();
    large.append_null();
    let plain: ArrayRef = Arc::new(plain.finish());

    let mut pairs = FixedSizeListBuilder::new(Int32Builder::new(), 2);
    let mut pairs_stored = ListBuilder::new(Int32Builder::new()).with_field(element(DataType::Int32));
    for pair in [[1, 2], [3, 4]] {
        pairs.values().append_slice(&pair);
        pairs.append(true);
        pairs_stored.append_value(pair.map(Some));
    }
    pairs.values().append_nulls(2);
    pairs.append(false);
    pairs_stored.append_null();

    let struct_of = |n: ArrayRef, at: ArrayRef, metadata: HashMap<String, String>| -> ArrayRef {
        let fields = Fields::from(vec![
            Field::new("n", n.data_type().clone(), true),
            Field::new("at", at.data_type().clone(), true).with_metadata(metadata),
        ]);
        Arc::new(StructArray::new(fields, vec![n, at], Some(vec![true, true, false].into())))
    };
    let structure = struct_of(
        Arc::new(UInt8Array::from(vec![Some(1), None, None])),
        Arc::new(TimestampNanosecondArray::from(vec![Some(1001), None, None]).with_timezone("UTC")),
        HashMap::new(),
    );
    let structure_stored = struct_of(
        Arc::new(Int16Array::from(vec![Some(1), None, None])),
        micros([Some(1), None, None], Some("UTC")),
        HashMap::from([(CUT.to_string(), "nanoseconds".to_string())]),
    );

    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("a");
    map.values().append_value(1);
    map.keys().append_value("b");
    map.values().append_null();
    map.append(true).unwrap();
    map.append(true).unwrap();
    map.append(false).unwrap();
    let map = map.finish();
    let (_, offsets, entries, nulls, _) = map.clone().into_parts();
    let fields =
        Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int32, true)]);
    let entries = StructArray::new(fields.clone(), entries.columns().to_vec(), None);
    let field = Arc::new(Field::new("key_value", DataType::Struct(fields), false));
    let map_stored = MapArray::new(field, offsets, entries, nulls, false);
    vec![
        same("list", plain.clone()),
        ("list_item", Arc::new(other.finish()), plain.clone()),
        ("large_list", Arc::new(large.finish()), plain),
        ("fixed_list", Arc::new(pairs.finish()), Arc::new(pairs_stored.finish())),
        ("struct", structure, structure_stored),
        ("map", Arc::new(map), Arc::new(map_stored)),
    ]
}

/// All columns as they come, and as they are stored, with a key `id` in front.
pub fn batches() -> (RecordBatch, RecordBatch) {
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let all = columns();
    let given = std::iter::once(("id", ids.clone())).chain(all.iter().map(|(n, a, _)| (*n, a.clone())));
    let stored = std::iter::once(("id", ids.clone())).chain(all.iter().map(|(n, _, a)| (*n, a.clone())));
    let nullable = |columns: Vec<(&str, ArrayRef)>| {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
    };
    (nullable(given.collect()), nullable(stored.collect()))
}

fn types(schema: &SchemaRef) -> Vec<(String, DataType)> {
    schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect()
}

#[tokio::test]
async fn every_arrow_type_is_stored_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    for format in [in_memory(), local(&folder)] {
        let (given, stored) = batches();
        let schema = format.storage_schema(&given.schema()).unwrap();
        assert_eq!(types(&schema), types(&stored.schema()));
        let batch = format.to_storage(&given, &schema).unwrap();
        assert_eq!(batch.columns(), stored.columns());

        let mut table = format.create(FOLDER, &definition(schema.clone(), &[])).await.unwrap();
        assert_eq!(table.schema(), schema, "the log keeps the storage schema as it is");
        append(&mut table, batch, None).await.unwrap();
        append(&mut table, format.to_storage(&given.slice(0, 0), &schema).unwrap(), None).await.unwrap();
        let read = open(&format).await.read(10).await.unwrap();
        assert_eq!(read.len(), 1);
        for (field, (found, expected)) in schema.fields().iter().zip(read[0].columns().iter().zip(stored.columns())) {
            // NaN is not equal to itself; its bits are.
            assert_eq!(format!("{found:?}"), format!("{expected:?}"), "column {}", field.name());
        }
    }
}

#[tokio::test]
async fn storing_what_is_stored_changes_nothing() {
    let format = in_memory();
    let (_, stored) = batches();
    let schema = format.storage_schema(&stored.schema()).unwrap();
    assert_eq!(format.storage_schema(&schema).unwrap(), schema);
    let again = format.to_storage(&stored, &schema).unwrap();
    for (a, b) in again.columns().iter().zip(stored.columns()) {
        assert!(Arc::ptr_eq(a, b), "a stored column is not copied");
    }
}

#[tokio::test]
async fn a_table_needs_the_feature_of_naive_timestamps_only_where_it_has_them() {
    let protocol = async |schema: SchemaRef| {
        let folder = tempfile::tempdir().unwrap();
        local(&folder).create("t", &definition(schema, &[])).await.unwrap();
        let body = std::fs::read_to_string(folder.path().join(format!("t/_delta_log/{:020}.json", 0))).unwrap();
        let line = body.lines().find(|l| l.contains("\"protocol\"")).unwrap().to_string();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["protocol"].clone()
    };
    let plain = protocol(schema()).await;
    assert_eq!((plain["minReaderVersion"].as_i64(), plain["minWriterVersion"].as_i64()), (Some(1), Some(2)));
    let naive = Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true);
    let nested = DataType::Struct(vec![naive].into());
    let with = protocol(Arc::new(Schema::new(vec![Field::new("s", nested, true)]))).await;
    assert_eq!((with["minReaderVersion"].as_i64(), with["minWriterVersion"].as_i64()), (Some(3), Some(7)));
    assert_eq!(with["readerFeatures"], serde_json::json!(["timestampNtz"]));
}

#[test]
fn what_was_cut_is_said_in_the_column() {
    let field = |t: DataType| Field::new("c", t, true);
    let cut = |t: DataType| {
        let schema = in_memory().storage_schema(&Arc::new(Schema::new(vec![field(t)]))).unwrap();
        schema.field(0).metadata().get(CUT).cloned()
    };
    assert_eq!(cut(DataType::Timestamp(TimeUnit::Nanosecond, None)).as_deref(), Some("nanoseconds"));
    assert_eq!(cut(DataType::new_list(DataType::Duration(TimeUnit::Nanosecond), true)).as_deref(), Some("nanoseconds"));
    assert_eq!(cut(DataType::Timestamp(TimeUnit::Millisecond, None)), None);
}

#[tokio::test]
async fn metadata_of_columns_survives() {
    let format = in_memory();
    let metadata = HashMap::from([("ingest.class".to_string(), "pii".to_string())]);
    let field = Field::new("email", DataType::Utf8, true).with_metadata(metadata.clone());
    let table = format.create(FOLDER, &definition(Arc::new(Schema::new(vec![field])), &[])).await.unwrap();
    assert_eq!(table.reopen().await.unwrap().schema().field(0).metadata(), &metadata);
}

#[test]
fn columns_that_cannot_be_stored_are_named() {
    let format = in_memory();
    let refused = |fields: Vec<Field>| format.storage_schema(&Arc::new(Schema::new(fields))).unwrap_err();
    for name in ["a b", "a,b", "a;b", "a{b", "a(b", "a\tb", "a\nb", "a=b", ""] {
        let error = refused(vec![Field::new(name, DataType::Utf8, true)]);
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{name:?}");
    }
    let error = refused(vec![Field::new("empty", DataType::Struct(Fields::empty()), true)]);
    assert!(error.to_string().contains("empty"), "{error}");
    let union = DataType::Union(
        [(0_i8, Arc::new(Field::new("a", DataType::Int32, true)))].into_iter().collect(),
        arrow_schema::UnionMode::Sparse,
    );
    assert_eq!(refused(vec![Field::new("either", union, true)]).kind(), ErrorKind::Unsupported);
    let twice = vec![Field::new("Id", DataType::Utf8, true), Field::new("id", DataType::Utf8, true)];
    assert_eq!(refused(twice).kind(), ErrorKind::ConfigInvalid);
}

#[test]
fn a_value_that_does_not_fit_is_an_error_without_the_value() {
    let format = in_memory();
    let far: ArrayRef = Arc::new(TimestampSecondArray::from(vec![i64::MAX]));
    let batch = RecordBatch::try_from_iter([("at", far)]).unwrap();
    let schema = format.storage_schema(&batch.schema()).unwrap();
    let error = format.to_storage(&batch, &schema).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataInvalid);
    assert!(!format!("{error:?}").contains(&i64::MAX.to_string()));
}

#[tokio::test]
async fn dates_outside_the_calendar_panic_nowhere() {
    let format = in_memory();
    let days: ArrayRef = Arc::new(Date32Array::from(vec![i32::MIN, 0, i32::MAX]));
    let micros: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![i64::MIN, 0, i64::MAX]).with_timezone("UTC"));
    let batch = RecordBatch::try_from_iter_with_nullable([("day", days, true), ("at", micros, true)]).unwrap();
    let mut table = format.create(FOLDER, &definition(batch.schema(), &[])).await.unwrap();
    let files = write(table.as_ref(), vec![batch.clone()]).await;
    let stats: serde_json::Value = serde_json::from_str(files[0].stats.as_deref().unwrap()).unwrap();
    assert_eq!(stats["minValues"], serde_json::json!({}));
    table.commit(Commit { add: files, ..Commit::default() }).await.unwrap();
    assert_eq!(table.read(5).await.unwrap()[0].columns(), batch.columns());
}
