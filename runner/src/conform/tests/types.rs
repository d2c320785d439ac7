//! Every Arrow type with null, smallest and largest value, into a table of its own and into tables of other types.

use std::sync::Arc;

use arrow_array::builder::{FixedSizeListBuilder, Int32Builder, ListBuilder, MapBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::*;
use arrow_buffer::{IntervalDayTime, IntervalMonthDayNano, NullBuffer, i256};
use arrow_schema::{DataType, Field, Fields, IntervalUnit, TimeUnit};
use ingest_core::ErrorKind;
use serde_json::json;

use super::super::{Conformed, SchemaChange};
use super::{MICROS, Setting, batch, column, load, rescued, rescued_text, schema, table_of};
use crate::config::SchemaPolicy::Rescue;

type F16 = <Float16Type as ArrowPrimitiveType>::Native;

const DAY: i64 = 86_400_000_000;
/// 0001-01-01 and the last microsecond of 9999.
const FIRST: i64 = -719_162 * DAY;
const LAST: i64 = 2_932_897 * DAY - 1;

fn array<T: Array + 'static>(array: T) -> ArrayRef {
    Arc::new(array)
}

fn int64s(conformed: &Conformed) -> Vec<Option<i64>> {
    column(conformed, "c").as_primitive::<Int64Type>().iter().collect()
}

/// Arrays of every type: null, smallest and largest value that a table can hold.
fn all_types() -> Vec<ArrayRef> {
    let texts = vec![None, Some(""), Some("\u{10ffff}\u{0}é\"\\")];
    let bytes = vec![None, Some(&b""[..]), Some(&b"\xff\x00"[..])];
    let utc: Arc<str> = "UTC".into();
    let decimal = |p, s| {
        let most = 10_i128.pow(u32::from(p)) - 1;
        Decimal128Array::from(vec![None, Some(-most), Some(most)]).with_precision_and_scale(p, s).expect("a decimal")
    };
    let time = |s: [i64; 2]| vec![None, Some(s[0]), Some(s[1])];
    let run_values = Int32Array::from(vec![None, Some(i32::MIN), Some(i32::MAX)]);
    vec![
        array(NullArray::new(3)),
        array(BooleanArray::from(vec![None, Some(false), Some(true)])),
        array(Int8Array::from(vec![None, Some(i8::MIN), Some(i8::MAX)])),
        array(Int16Array::from(vec![None, Some(i16::MIN), Some(i16::MAX)])),
        array(Int32Array::from(vec![None, Some(i32::MIN), Some(i32::MAX)])),
        array(Int64Array::from(vec![None, Some(i64::MIN), Some(i64::MAX)])),
        array(UInt8Array::from(vec![None, Some(0), Some(u8::MAX)])),
        array(UInt16Array::from(vec![None, Some(0), Some(u16::MAX)])),
        array(UInt32Array::from(vec![None, Some(0), Some(u32::MAX)])),
        array(UInt64Array::from(vec![None, Some(0), Some(u64::MAX)])),
        array(Float16Array::from(vec![None, Some(F16::MIN), Some(F16::MAX)])),
        array(Float32Array::from(vec![None, Some(f32::NAN), Some(f32::NEG_INFINITY)])),
        array(Float64Array::from(vec![None, Some(f64::MIN_POSITIVE), Some(-0.0)])),
        array(decimal(38, 0)),
        array(decimal(38, 38)),
        array(decimal(5, 2)),
        array(
            Decimal32Array::from(vec![None, Some(-99_999), Some(99_999)]).with_precision_and_scale(5, 2).expect("ok"),
        ),
        array(Decimal64Array::from(vec![None, Some(-1), Some(1)]).with_precision_and_scale(18, 9).expect("ok")),
        array(Decimal128Array::from(vec![None, Some(-99), Some(99)]).with_precision_and_scale(2, -3).expect("ok")),
        array(
            Decimal256Array::from(vec![None, Some(i256::from_i128(-1)), Some(i256::from_i128(1))])
                .with_precision_and_scale(76, 10)
                .expect("a decimal"),
        ),
        array(StringArray::from(texts.clone())),
        array(LargeStringArray::from(texts.clone())),
        array(StringViewArray::from(texts.clone())),
        array(BinaryArray::from(bytes.clone())),
        array(LargeBinaryArray::from(bytes.clone())),
        array(BinaryViewArray::from(bytes)),
        array(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                [None, Some([0_u8; 16]), Some([255; 16])].into_iter(),
                16,
            )
            .expect("sixteen bytes"),
        ),
        array(Date32Array::from(vec![None, Some(-719_162), Some(2_932_896)])),
        array(Date64Array::from(time([FIRST / 1000, 2_932_896 * DAY / 1000]))),
        array(Time32SecondArray::from(vec![None, Some(0), Some(86_400)])),
        array(Time32MillisecondArray::from(vec![None, Some(0), Some(86_399_999)])),
        array(Time64MicrosecondArray::from(time([0, DAY - 1]))),
        array(TimestampSecondArray::from(time([FIRST / 1_000_000, LAST.div_euclid(1_000_000)]))),
        array(TimestampMillisecondArray::from(time([FIRST / 1000, LAST.div_euclid(1000)])).with_timezone("+02:00")),
        array(TimestampMicrosecondArray::from(time([FIRST, LAST]))),
        array(TimestampMicrosecondArray::from(time([FIRST, LAST])).with_timezone(utc)),
        array(DurationSecondArray::from(time([-1, i64::MAX / 1_000_000]))),
        array(DurationMicrosecondArray::from(time([i64::MIN, i64::MAX]))),
        array(IntervalYearMonthArray::from(vec![None, Some(-14), Some(i32::MAX)])),
        array(IntervalDayTimeArray::from(vec![None, Some(IntervalDayTime::new(-1, 1)), Some(IntervalDayTime::MAX)])),
        array(IntervalMonthDayNanoArray::from(vec![
            None,
            Some(IntervalMonthDayNano::new(1, -2, 3)),
            Some(IntervalMonthDayNano::MIN),
        ])),
        array([None, Some("a"), Some("b")].into_iter().collect::<DictionaryArray<Int8Type>>()),
        array(RunArray::<Int32Type>::try_new(&Int32Array::from(vec![1, 2, 3]), &run_values).expect("runs")),
        lists(),
        list_views(),
        fixed_lists(),
        maps(),
        structs(),
    ]
}

fn lists() -> ArrayRef {
    let mut builder = ListBuilder::new(Int32Builder::new());
    builder.append_null();
    builder.append(true);
    builder.append_value([Some(i32::MIN), None]);
    array(builder.finish())
}

fn list_views() -> ArrayRef {
    let field = Arc::new(Field::new("item", DataType::Int32, true));
    let values = array(Int32Array::from(vec![Some(1), None, Some(3)]));
    let nulls = NullBuffer::from(vec![false, true, true]);
    array(ListViewArray::new(field, vec![0, 1, 0].into(), vec![1, 2, 2].into(), values, Some(nulls)))
}

fn fixed_lists() -> ArrayRef {
    let mut builder = FixedSizeListBuilder::new(Int32Builder::new(), 2);
    for row in [[None, None], [Some(1), None], [Some(2), Some(3)]] {
        for value in row {
            builder.values().append_option(value);
        }
        builder.append(row != [None, None]);
    }
    array(builder.finish())
}

fn maps() -> ArrayRef {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    builder.append(false).expect("a null");
    builder.append(true).expect("an empty map");
    for (key, value) in [("a", Some(1)), ("b", None)] {
        builder.keys().append_value(key);
        builder.values().append_option(value);
    }
    builder.append(true).expect("a map");
    array(builder.finish())
}

fn structs() -> ArrayRef {
    let fields = Fields::from(vec![Field::new("n", DataType::Int32, true), Field::new("a b", DataType::Utf8, false)]);
    let columns =
        vec![array(Int32Array::from(vec![None, None, Some(1)])), array(StringArray::from(vec!["", "x", "y"]))];
    array(StructArray::new(fields, columns, Some(NullBuffer::from(vec![false, true, true]))))
}

#[test]
fn every_type_goes_into_a_table_of_its_own_and_loses_nothing() {
    for came in all_types() {
        let name = came.data_type().to_string();
        let nulls = came.logical_null_count();
        let conformed = load(came, None);
        assert_eq!(conformed.rescued, 0, "{name}");
        assert_eq!(column(&conformed, "c").null_count(), nulls, "{name}");
    }
}

#[test]
fn every_type_meets_every_other_and_each_value_is_kept_or_rescued() {
    let tables: Vec<DataType> = all_types()
        .iter()
        .map(|array| table_of([("c", array.data_type().clone())]).field(0).data_type().clone())
        .collect();
    for came in all_types() {
        for table in &tables {
            let what = format!("{} into {table}", came.data_type());
            let conformed = load(came.clone(), Some(table.clone()));
            let nulls = came.logical_nulls();
            for row in 0..3 {
                let was_null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
                let is_kept = column(&conformed, "c").is_valid(row);
                let is_rescued = rescued(&conformed, row).is_some();
                assert_eq!((is_kept, is_rescued), (!was_null && is_kept, !was_null && !is_kept), "{what}, row {row}");
            }
        }
    }
}

#[test]
fn every_type_becomes_text_where_the_table_has_text() {
    for came in all_types().into_iter().filter(|came| came.data_type() != &DataType::Null) {
        let conformed = load(came.clone(), Some(DataType::Utf8));
        assert_eq!(conformed.rescued, 0, "{}", came.data_type());
        assert_eq!(column(&conformed, "c").null_count(), came.logical_null_count(), "{}", came.data_type());
    }
}

/// The text of the last value of an array, as a text column holds it.
fn text(came: ArrayRef) -> String {
    let conformed = load(came, Some(DataType::Utf8));
    let texts = column(&conformed, "c").as_string::<i32>();
    texts.value(texts.len() - 1).to_owned()
}

#[test]
fn texts_are_exact() {
    assert_eq!(text(array(UInt64Array::from(vec![u64::MAX]))), "18446744073709551615");
    assert_eq!(text(array(Float32Array::from(vec![0.1]))), "0.1");
    assert_eq!(text(array(Float64Array::from(vec![1e300]))), "1e300");
    assert_eq!(text(array(Float64Array::from(vec![f64::NEG_INFINITY]))), "-Infinity");
    assert_eq!(text(array(Float64Array::from(vec![f64::NAN]))), "NaN");
    assert_eq!(text(array(BinaryArray::from(vec![&b"\xff\x00"[..]]))), "/wA=");
    let decimal = Decimal128Array::from(vec![-5]).with_precision_and_scale(5, 2).expect("a decimal");
    assert_eq!(text(array(decimal)), "-0.05");
    assert_eq!(text(array(Date32Array::from(vec![i32::MAX]))), "+5881580-07-11");
    assert_eq!(text(array(Date32Array::from(vec![i32::MIN]))), "-5877641-06-23");
    assert_eq!(text(array(Date32Array::from(vec![-719_163]))), "0000-12-31");
    assert_eq!(
        text(array(TimestampMicrosecondArray::from(vec![-1]).with_timezone("UTC"))),
        "1969-12-31T23:59:59.999999Z"
    );
    assert_eq!(text(array(TimestampSecondArray::from(vec![i64::MAX]))), "+292277026596-12-04T15:30:07");
    assert_eq!(text(array(TimestampSecondArray::from(vec![i64::MIN]))), "-292277022657-01-27T08:29:52");
    assert_eq!(text(array(TimestampNanosecondArray::from(vec![1]))), "1970-01-01T00:00:00.000000001");
    assert_eq!(text(array(Time64MicrosecondArray::from(vec![DAY]))), "24:00:00");
    assert_eq!(text(array(Time32MillisecondArray::from(vec![1]))), "00:00:00.001");
    assert_eq!(text(array(DurationMillisecondArray::from(vec![-1_500]))), "PT-1.5S");
    assert_eq!(text(array(DurationSecondArray::from(vec![0]))), "PT0S");
    assert_eq!(text(lists()), "[-2147483648,null]");
    assert_eq!(text(maps()), r#"{"a":1,"b":null}"#);
    assert_eq!(text(structs()), r#"{"n":1,"a b":"y"}"#);
}

#[test]
fn dates_outside_the_years_1_to_9999_are_rescued() {
    let conformed = load(
        array(Date32Array::from(vec![Some(-719_163), Some(-719_162), Some(2_932_896), Some(2_932_897), None])),
        None,
    );
    let dates: Vec<_> = column(&conformed, "c").as_primitive::<Date32Type>().iter().collect();
    assert_eq!(dates, [None, Some(-719_162), Some(2_932_896), None, None]);
    assert_eq!(rescued(&conformed, 0), Some(json!({"c": "0000-12-31"})));
    assert_eq!(rescued(&conformed, 3), Some(json!({"c": "+10000-01-01"})));
    assert_eq!(conformed.rescued, 2);

    let half_day = Date64Array::from(vec![0, 43_200_000, i64::MAX]);
    let conformed = load(array(half_day), None);
    assert_eq!(rescued(&conformed, 0), None);
    assert_eq!(rescued(&conformed, 1), Some(json!({"c": "1970-01-01T12:00:00"})));
    assert_eq!(rescued(&conformed, 2), Some(json!({"c": "+292278994-08-17T07:12:55.807"})));
}

#[test]
fn timestamps_outside_the_years_1_to_9999_are_rescued_in_every_unit() {
    let utc: Arc<str> = "UTC".into();
    let per_second = |divisor: i64| {
        vec![FIRST / divisor - 1, FIRST / divisor, LAST.div_euclid(divisor), LAST.div_euclid(divisor) + 1]
    };
    for came in [
        array(TimestampSecondArray::from(per_second(1_000_000))),
        array(TimestampMillisecondArray::from(per_second(1_000)).with_timezone(utc.clone())),
        array(TimestampMicrosecondArray::from(per_second(1))),
        array(TimestampMicrosecondArray::from(per_second(1)).with_timezone(utc)),
    ] {
        let name = came.data_type().to_string();
        let conformed = load(came, None);
        let kept: Vec<bool> = (0..4).map(|row| column(&conformed, "c").is_valid(row)).collect();
        assert_eq!(kept, [false, true, true, false], "{name}");
        assert_eq!(conformed.rescued, 2, "{name}");
        assert!(rescued_text(&conformed, 3).expect("rescued").contains("+10000-01-01T00:00:00"), "{name}");
    }
    let conformed = load(array(TimestampSecondArray::from(vec![i64::MIN, i64::MAX])), None);
    assert_eq!(conformed.rescued, 2);
}

#[test]
fn nanoseconds_are_cut_towards_the_past_and_it_is_said() {
    let source = schema([("c", DataType::Timestamp(TimeUnit::Nanosecond, None))]);
    let setting = Setting::new(&source);
    let conform = setting.reconcile().expect("a schema");
    assert!(
        matches!(conform.changes(), [change @ SchemaChange::Cut { column, .. }] if column == "c" && !change.is_drift())
    );
    let conformed =
        setting.batch(batch([("c", array(TimestampNanosecondArray::from(vec![-1, 1_999])))])).expect("a batch");
    assert_eq!(column(&conformed, "c").as_primitive::<TimestampMicrosecondType>().values(), &[-1, 1]);
}

#[test]
fn durations_beyond_microseconds_are_rescued() {
    let conformed = load(array(DurationSecondArray::from(vec![i64::MAX, 1])), None);
    assert_eq!(int64s(&conformed), [None, Some(1_000_000)]);
    assert_eq!(rescued(&conformed, 0), Some(json!({"c": "PT9223372036854775807S"})));
}

#[test]
fn decimals_with_more_digits_than_their_type_are_rescued() {
    // Arrow does not check what a builder is given.
    let decimal = Decimal128Array::from(vec![99_999, 100_000, -100_000, i128::MAX]).with_precision_and_scale(5, 2);
    let conformed = load(array(decimal.expect("a decimal")), None);
    assert_eq!(conformed.rescued, 3);
    assert_eq!(rescued(&conformed, 1), Some(json!({"c": "1000.00"})));
    let decimal = Decimal128Array::from(vec![10_i128.pow(38), -(10_i128.pow(38)), 1]).with_precision_and_scale(38, 0);
    assert_eq!(load(array(decimal.expect("a decimal")), None).rescued, 2);
}

#[test]
fn decimals_meet_other_decimals_exactly_or_are_rescued() {
    let came = || array(Decimal128Array::from(vec![12_345, 12_300]).with_precision_and_scale(9, 2).expect("a decimal"));
    let values = |conformed: &Conformed| {
        let decimals = column(conformed, "c").as_primitive::<Decimal128Type>();
        decimals.iter().collect::<Vec<_>>()
    };
    assert_eq!(
        values(&load(came(), Some(DataType::Decimal128(38, 10)))),
        [Some(1_234_500_000_000), Some(1_230_000_000_000)]
    );
    // No rounding, and no overflow.
    let conformed = load(came(), Some(DataType::Decimal128(9, 1)));
    assert_eq!(values(&conformed), [None, Some(1_230)]);
    assert_eq!(rescued(&conformed, 0), Some(json!({"c": "123.45"})));
    assert_eq!(values(&load(came(), Some(DataType::Decimal128(4, 2)))), [None, None]);
    // The decimal of 76 digits is text in the table's format; a decimal column takes what fits.
    let wide = Decimal256Array::from(vec![i256::from_i128(12_345)]).with_precision_and_scale(76, 2).expect("a decimal");
    assert_eq!(values(&load(array(wide), Some(DataType::Decimal128(9, 3)))), [Some(123_450)]);
}

#[test]
fn numbers_meet_other_numbers_exactly_or_are_rescued() {
    let conformed = load(array(Float64Array::from(vec![7.0, 7.5, 1e19, f64::NAN, -0.0])), Some(DataType::Int64));
    assert_eq!(int64s(&conformed), [Some(7), None, None, None, None]);
    assert_eq!(rescued(&conformed, 3), Some(json!({"c": "NaN"})));

    let conformed = load(array(Int64Array::from(vec![1 << 53, (1 << 53) + 1])), Some(DataType::Float64));
    let floats: Vec<_> = column(&conformed, "c").as_primitive::<Float64Type>().iter().collect();
    assert_eq!(floats, [Some(9_007_199_254_740_992.0), None]);

    let floats = array(Float64Array::from(vec![0.1, 0.25, f64::INFINITY, 1e-7]));
    let conformed = load(floats.clone(), Some(DataType::Decimal128(10, 2)));
    let decimals: Vec<_> = column(&conformed, "c").as_primitive::<Decimal128Type>().iter().collect();
    assert_eq!(decimals, [Some(10), Some(25), None, None]);
    assert_eq!(rescued(&conformed, 2), Some(json!({"c": "Infinity"})));
    let conformed = load(floats, Some(DataType::Float32));
    assert_eq!(column(&conformed, "c").null_count(), 2);

    let conformed = load(array(UInt64Array::from(vec![u64::MAX, 5])), Some(DataType::Int64));
    assert_eq!(int64s(&conformed), [None, Some(5)]);
}

#[test]
fn texts_meet_other_types_in_plain_spelling_or_are_rescued() {
    let texts = array(StringArray::from(vec!["7", "007", "7.0", "true", "2024-02-29", "2024-02-29T00:00:00Z"]));
    let kept = |table: DataType| {
        let conformed = load(texts.clone(), Some(table));
        (0..6).filter(|row| column(&conformed, "c").is_valid(*row)).collect::<Vec<_>>()
    };
    assert_eq!(kept(DataType::Int64), [0, 2]);
    assert_eq!(kept(DataType::Decimal128(5, 1)), [0, 2]);
    assert_eq!(kept(DataType::Float64), [0, 2]);
    assert_eq!(kept(DataType::Boolean), [3]);
    assert_eq!(kept(DataType::Date32), [4]);
    assert_eq!(kept(DataType::Timestamp(MICROS, Some("UTC".into()))), [5]);
    assert_eq!(kept(DataType::Timestamp(MICROS, None)), [] as [usize; 0]);
    assert_eq!(kept(DataType::Binary), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn zones_are_not_made_up() {
    let naive = || array(TimestampMicrosecondArray::from(vec![0]));
    let zoned = || array(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC"));
    let conformed = load(naive(), Some(DataType::Timestamp(MICROS, Some("UTC".into()))));
    assert_eq!(rescued(&conformed, 0), Some(json!({"c": "1970-01-01T00:00:00"})));
    let conformed = load(zoned(), Some(DataType::Timestamp(MICROS, None)));
    assert_eq!(rescued(&conformed, 0), Some(json!({"c": "1970-01-01T00:00:00Z"})));
    let conformed = load(array(Date32Array::from(vec![1])), Some(DataType::Timestamp(MICROS, None)));
    assert_eq!(column(&conformed, "c").as_primitive::<TimestampMicrosecondType>().values(), &[DAY]);
    let conformed = load(array(TimestampMicrosecondArray::from(vec![DAY, DAY + 1])), Some(DataType::Date32));
    assert_eq!(column(&conformed, "c").as_primitive::<Date32Type>().iter().collect::<Vec<_>>(), [Some(1), None]);
}

#[test]
fn json_texts_are_rescued_as_json() {
    let json_text = Field::new("c", DataType::Utf8, true)
        .with_metadata([("ARROW:extension:name".to_owned(), "arrow.json".to_owned())].into());
    let source = Arc::new(arrow_schema::Schema::new(vec![json_text]));
    let table = table_of([("c", DataType::Int64)]);
    let texts = array(StringArray::from(vec![r#"{"a": 1.10}"#, "{broken"]));
    let conformed = Setting::new(&source).table(&table).batch(batch([("c", texts)])).expect("a batch");
    assert_eq!(rescued_text(&conformed, 0).expect("rescued"), r#"{"c":{"a": 1.10}}"#);
    assert_eq!(rescued(&conformed, 1), Some(json!({"c": "{broken"})));
}

#[test]
fn one_bad_leaf_rescues_the_whole_nested_value() {
    let mut builder = ListBuilder::new(arrow_array::builder::Date32Builder::new());
    builder.append_value([Some(1), None]);
    builder.append_value([Some(2), Some(i32::MAX)]);
    builder.append_null();
    builder.append_value([Some(3)]);
    let lists = builder.finish();
    for came in [array(lists.clone()), array(lists.slice(1, 3))] {
        let skipped = 4 - came.len();
        let conformed = load(came, None);
        let lists = column(&conformed, "c").as_list::<i32>();
        let bad = 1 - skipped;
        assert_eq!((0..4 - skipped).filter(|row| lists.is_null(*row)).collect::<Vec<_>>(), [bad, bad + 1]);
        assert_eq!(rescued(&conformed, bad), Some(json!({"c": ["1970-01-03", "+5881580-07-11"]})));
        assert_eq!(conformed.rescued, 1);
        assert_eq!(lists.value(bad + 2).as_primitive::<Date32Type>().value(0), 3);
    }
}

#[test]
fn nested_values_are_converted_by_their_parts() {
    let narrow = |data_type: DataType| DataType::List(Arc::new(Field::new("item", data_type, true)));
    let mut builder = ListBuilder::new(arrow_array::builder::Int64Builder::new());
    builder.append_value([Some(1), None]);
    builder.append_value([Some(1 << 40)]);
    let conformed = load(array(builder.finish()), Some(narrow(DataType::Int32)));
    let lists = column(&conformed, "c").as_list::<i32>();
    assert_eq!(lists.value(0).as_primitive::<Int32Type>().iter().collect::<Vec<_>>(), [Some(1), None]);
    assert_eq!(rescued(&conformed, 1), Some(json!({"c": [1_099_511_627_776_i64]})));
    // From narrow to wide nothing is lost.
    let mut builder = ListBuilder::new(Int32Builder::new());
    builder.append_value([Some(1)]);
    assert_eq!(load(array(builder.finish()), Some(narrow(DataType::Int64))).rescued, 0);
}

#[test]
fn map_with_a_key_that_does_not_fit_is_rescued_as_a_whole() {
    let mut builder = MapBuilder::new(None, arrow_array::builder::Int64Builder::new(), StringBuilder::new());
    for row in [vec![1], vec![2, 1 << 40], vec![]] {
        for key in row {
            builder.keys().append_value(key);
            builder.values().append_value("v");
        }
        builder.append(true).expect("a map");
    }
    let came = array(builder.finish());
    let table = {
        let mut narrow = MapBuilder::new(None, Int32Builder::new(), StringBuilder::new());
        narrow.append(true).expect("a map");
        narrow.finish().data_type().clone()
    };
    let conformed = load(came, Some(table));
    let maps = column(&conformed, "c").as_map();
    assert!(maps.is_valid(0) && maps.is_null(1) && maps.is_valid(2));
    assert_eq!(maps.value(0).column(0).as_primitive::<Int32Type>().value(0), 1);
    assert_eq!(rescued(&conformed, 1), Some(json!({"c": [[2, "v"], [1_099_511_627_776_i64, "v"]]})));
}

#[test]
fn what_lies_under_a_null_is_no_value() {
    // Out of bounds, out of range and unreadable, but null: nothing is lost, and nothing fails.
    let hidden = PrimitiveArray::<Date32Type>::new(vec![i32::MAX, 1].into(), Some(NullBuffer::from(vec![false, true])));
    let conformed = load(array(hidden), None);
    assert_eq!((conformed.rescued, column(&conformed, "c").null_count()), (0, 1));

    let seconds = array(TimestampSecondArray::from(vec![i64::MAX, 1]));
    let field = Arc::new(Field::new("item", seconds.data_type().clone(), true));
    let offsets = arrow_buffer::OffsetBuffer::new(vec![0, 1, 2].into());
    let lists = ListArray::new(field, offsets, seconds, Some(NullBuffer::from(vec![false, true])));
    let conformed = load(array(lists.clone()), None);
    assert_eq!((conformed.rescued, column(&conformed, "c").null_count()), (0, 1));
    let conformed = load(array(lists.slice(1, 1)), None);
    assert_eq!((conformed.rescued, column(&conformed, "c").null_count()), (0, 0));
}

#[test]
fn names_inside_structs_follow_the_rule_of_columns() {
    let conformed = load(structs(), None);
    assert_eq!(column(&conformed, "c").as_struct().column_names(), ["n", "a_b"]);
    assert_eq!(column(&conformed, "c").as_struct().column(1).as_string::<i32>().value(2), "y");
    let clash = Fields::from(vec![Field::new("x y", DataType::Int32, true), Field::new("X_Y", DataType::Int32, true)]);
    let source = schema([("c", DataType::Struct(clash))]);
    let error = Setting::new(&source).reconcile().err().expect("a clash");
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert!(error.to_string().contains("c.x y"), "{error}");
}

#[test]
fn dictionaries_inside_nested_types_are_unpacked_and_checked() {
    let days = Date32Array::from(vec![1, i32::MAX]);
    let values: ArrayRef = array(DictionaryArray::<Int8Type>::new(Int8Array::from(vec![0, 1]), array(days)));
    let field = Arc::new(Field::new("item", values.data_type().clone(), true));
    let offsets = arrow_buffer::OffsetBuffer::new(vec![0, 1, 2].into());
    let conformed = load(array(ListArray::new(field, offsets, values, None)), None);
    assert_eq!(conformed.rescued, 1);
    assert_eq!(rescued(&conformed, 1), Some(json!({"c": ["+5881580-07-11"]})));
}

#[test]
fn types_that_a_table_cannot_hold_are_a_plan_error_that_names_the_column() {
    let fields = arrow_schema::UnionFields::empty();
    let source = schema([("u", DataType::Union(fields, arrow_schema::UnionMode::Dense))]);
    let error = Setting::new(&source).reconcile().err().expect("no union");
    assert!(error.to_string().contains("column u"), "{error}");
}

#[test]
fn column_of_a_type_that_no_table_can_hold_is_shown_as_json_where_it_is_not_announced() {
    let children =
        [(0, Arc::new(Field::new("i", DataType::Int32, true))), (1, Arc::new(Field::new("s", DataType::Utf8, true)))];
    let union = UnionArray::try_new(
        children.into_iter().collect(),
        vec![0, 1].into(),
        Some(vec![0, 0].into()),
        vec![array(Int32Array::from(vec![5])), array(StringArray::from(vec!["x"]))],
    );
    let source = schema([("id", DataType::Int32)]);
    let came = batch([("id", array(Int32Array::from(vec![1, 2]))), ("u", array(union.expect("a union")))]);
    let conformed = Setting::new(&source).policy(Rescue).batch(came).expect("a batch");
    assert_eq!(rescued(&conformed, 0), Some(json!({"u": 5})));
    assert_eq!(rescued(&conformed, 1), Some(json!({"u": "x"})));
}

#[test]
fn intervals_are_spelled_in_iso_8601() {
    assert_eq!(load(array(IntervalYearMonthArray::from(vec![-14])), None).rescued, 0);
    let interval = DataType::Interval(IntervalUnit::MonthDayNano);
    assert_eq!(table_of([("c", interval)]).field(0).data_type(), &DataType::Utf8);
    let came = array(IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(14, -3, 1_500_000_000)]));
    let conformed = load(came, Some(DataType::Boolean));
    assert_eq!(rescued(&conformed, 0), Some(json!({"c": "P1Y2M-3DT1.5S"})));
}
