//! Nothing is lost, whatever comes: a value is in its column, exactly, or in `_ingest_rescued`.
//!
//! The oracle does not use this module's own texts: what is in the column is spelled by Arrow's formatter and compared with
//! the value that went in.

use std::sync::Arc;

use arrow_array::*;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, Field, Fields, Schema};
use proptest::prelude::*;

use super::{MICROS, Setting, batch, column, rescued, table_of};
use crate::config::SchemaPolicy::{Evolve, Rescue};

/// A column of one of these types with any values in it.
fn any_column() -> impl Strategy<Value = ArrayRef> {
    fn of<T: std::fmt::Debug + 'static>(
        values: impl Strategy<Value = T> + 'static,
        array: fn(Vec<Option<T>>) -> ArrayRef,
    ) -> BoxedStrategy<ArrayRef> {
        prop::collection::vec(prop::option::weighted(0.8, values), 0..12).prop_map(array).boxed()
    }
    let near = |values: &'static [i64]| prop_oneof![any::<i64>(), -1_000_i64..1_000, prop::sample::select(values)];
    let instants =
        near(&[-62_135_596_800_000_001, -62_135_596_800_000_000, 253_402_300_799_999_999, 253_402_300_800_000_000]);
    let integers = near(&[1 << 53, (1 << 53) + 1, i64::MAX, i64::MIN, i32::MAX as i64, i16::MIN as i64]);
    let floats = prop_oneof![
        any::<f64>(),
        (-1_000_000_i32..1_000_000).prop_map(|n| f64::from(n) / 100.0),
        (-1_000_i32..1_000).prop_map(f64::from),
        prop::sample::select(vec![f64::NAN, f64::INFINITY, -0.0, 1e19, 0.1 + 0.2]),
    ];
    let decimals = prop_oneof![any::<i128>(), -100_000_i128..100_000, Just(10_i128.pow(20)), Just(10_i128.pow(20) - 1)];
    let texts = prop_oneof![
        "[-+0-9.]{0,8}",
        "\\PC{0,8}",
        "[12][0-9]{3}-[01][0-9]-[0-3][0-9]( 00:00:00|T0[0-9]:00:00(\\.[0-9]{1,9})?(Z|[+]02:00)?)?",
        prop::sample::select(vec!["true".to_owned(), "false".to_owned(), "NaN".to_owned(), "1e3".to_owned()]),
    ];
    prop_oneof![
        of(any::<i8>(), |v| Arc::new(Int8Array::from(v))),
        of(any::<i32>(), |v| Arc::new(Int32Array::from(v))),
        of(integers, |v| Arc::new(Int64Array::from(v))),
        of(any::<u64>(), |v| Arc::new(UInt64Array::from(v))),
        of(any::<f32>(), |v| Arc::new(Float32Array::from(v))),
        of(floats, |v| Arc::new(Float64Array::from(v))),
        of(any::<bool>(), |v| Arc::new(BooleanArray::from(v))),
        of(any::<i32>(), |v| Arc::new(Date32Array::from(v))),
        of(instants.clone(), |v| Arc::new(TimestampMicrosecondArray::from(v))),
        of(instants.clone(), |v| Arc::new(TimestampMicrosecondArray::from(v).with_timezone("UTC"))),
        of(instants, |v| Arc::new(TimestampSecondArray::from(v))),
        of(decimals, |v| { Arc::new(Decimal128Array::from(v).with_precision_and_scale(20, 4).expect("a decimal")) }),
        of(texts, |v| Arc::new(StringArray::from(v))),
        of(any::<Vec<u8>>(), |v| Arc::new(v.into_iter().collect::<BinaryArray>())),
    ]
}

/// Wraps a column into a list of one element, or a struct, or leaves it.
fn any_nesting() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0_u8), 1 => Just(1), 1 => Just(2)]
}

fn nest_type(data_type: DataType, nesting: u8) -> DataType {
    match nesting {
        1 => DataType::List(Arc::new(Field::new("item", data_type, true))),
        2 => DataType::Struct(Fields::from(vec![Field::new("f", data_type, true)])),
        _ => data_type,
    }
}

fn nest(column: ArrayRef, nesting: u8) -> ArrayRef {
    match nest_type(column.data_type().clone(), nesting) {
        DataType::List(field) => {
            let offsets = arrow_buffer::OffsetBuffer::from_lengths(std::iter::repeat_n(1, column.len()));
            Arc::new(ListArray::new(field, offsets, column, None))
        }
        DataType::Struct(fields) => Arc::new(StructArray::new(fields, vec![column], None)),
        _ => column,
    }
}

/// The one value inside, for the oracle.
fn inside(array: &ArrayRef, row: usize) -> ArrayRef {
    match array.as_any().downcast_ref::<ListArray>() {
        Some(list) => list.value(row),
        None => match array.as_any().downcast_ref::<StructArray>() {
            Some(parts) => parts.column(0).slice(row, 1),
            None => array.slice(row, 1),
        },
    }
}

fn any_table() -> impl Strategy<Value = DataType> {
    prop::sample::select(vec![
        DataType::Int8,
        DataType::Int32,
        DataType::Int64,
        DataType::Float32,
        DataType::Float64,
        DataType::Boolean,
        DataType::Date32,
        DataType::Timestamp(MICROS, None),
        DataType::Timestamp(MICROS, Some("UTC".into())),
        DataType::Decimal128(9, 2),
        DataType::Decimal128(38, 10),
        DataType::Utf8,
        DataType::Binary,
    ])
}

/// A value as Arrow spells it; numbers without the zeros that say nothing.
fn spelled(array: &ArrayRef) -> String {
    let text = match array.data_type() {
        DataType::Float32 => array.as_any().downcast_ref::<Float32Array>().expect("floats").value(0).to_string(),
        DataType::Float64 => array.as_any().downcast_ref::<Float64Array>().expect("floats").value(0).to_string(),
        // Arrow's formatter drops digits beyond the precision.
        DataType::Decimal128(_, scale) => {
            let value = array.as_any().downcast_ref::<Decimal128Array>().expect("decimals").value(0);
            let unit = 10_u128.pow(u32::try_from(*scale).expect("a scale above zero"));
            let (whole, part) = (value.unsigned_abs() / unit, value.unsigned_abs() % unit);
            let width = usize::try_from(*scale).expect("a scale above zero");
            format!("{}{whole}.{part:0width$}", if value < 0 { "-" } else { "" })
        }
        DataType::Binary => {
            use base64::Engine;
            let bytes = array.as_any().downcast_ref::<BinaryArray>().expect("bytes").value(0);
            // Text into a binary column is kept as its bytes; bytes into a text column as base64.
            return std::str::from_utf8(bytes)
                .map_or_else(|_| base64::engine::general_purpose::STANDARD.encode(bytes), str::to_owned);
        }
        _ => {
            let options = FormatOptions::default();
            // Arrow's formatter knows offsets alone.
            let array = match array.as_any().downcast_ref::<TimestampMicrosecondArray>() {
                Some(times) if times.timezone().is_some() => {
                    &(Arc::new(times.clone().with_timezone("+00:00")) as ArrayRef)
                }
                _ => array,
            };
            // Arrow cannot spell years that chrono does not know.
            let formatter = ArrayFormatter::try_new(array, &options).expect("a formatter");
            formatter.value(0).try_to_string().unwrap_or_else(|_| "far away".to_owned())
        }
    };
    plain(&text)
}

fn plain(text: &str) -> String {
    let text = text.strip_suffix("T00:00:00").or_else(|| text.strip_suffix(" 00:00:00")).unwrap_or(text);
    let is_number = text.contains('.') && text.bytes().all(|byte| byte.is_ascii_digit() || b"-.".contains(&byte));
    if is_number { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
}

/// Whether what is in the table is what came.
fn is_exact(came: &ArrayRef, stored: &ArrayRef) -> bool {
    use base64::Engine;
    let (came_text, stored_text) = (spelled(came), spelled(stored));
    if came_text == stored_text {
        return true;
    }
    match (came.data_type(), stored.data_type()) {
        (DataType::Binary, DataType::Utf8) => {
            let bytes = came.as_any().downcast_ref::<BinaryArray>().expect("bytes").value(0);
            base64::engine::general_purpose::STANDARD.encode(bytes) == stored_text
        }
        (DataType::Utf8, DataType::Binary) => {
            let text = came.as_any().downcast_ref::<StringArray>().expect("texts").value(0);
            stored.as_any().downcast_ref::<BinaryArray>().expect("bytes").value(0) == text.as_bytes()
        }
        // The column's own text is free in its form where it reads back as the same value.
        (DataType::Float32 | DataType::Float64, DataType::Utf8) => {
            let back: f64 = stored_text.parse().expect("a float");
            came_text
                .parse::<f64>()
                .is_ok_and(|came| came.to_bits() == back.to_bits() || (came.is_nan() && back.is_nan()))
        }
        (DataType::Float32, DataType::Float64) => {
            let wide = stored.as_any().downcast_ref::<Float64Array>().expect("floats").value(0);
            let narrow = came.as_any().downcast_ref::<Float32Array>().expect("floats").value(0);
            f64::from(narrow).to_bits() == wide.to_bits() || (narrow.is_nan() && wide.is_nan())
        }
        (_, DataType::Timestamp(..)) | (DataType::Timestamp(..) | DataType::Date32, _) => same_time(came, stored),
        _ => false,
    }
}

/// Times by their instant: what Arrow spells is read back by chrono, as microseconds.
fn same_time(came: &ArrayRef, stored: &ArrayRef) -> bool {
    let micros = |array: &ArrayRef| -> Option<i128> {
        let scaled = |value: i64, by: i128| Some(i128::from(value) * by);
        let any = array.as_any();
        if let Some(array) = any.downcast_ref::<TimestampMicrosecondArray>() {
            return scaled(array.value(0), 1);
        }
        if let Some(array) = any.downcast_ref::<TimestampSecondArray>() {
            return scaled(array.value(0), 1_000_000);
        }
        if let Some(array) = any.downcast_ref::<Date32Array>() {
            return scaled(i64::from(array.value(0)), 86_400_000_000);
        }
        let text = any.downcast_ref::<StringArray>()?.value(0).replace(' ', "T");
        if let Ok(time) = chrono::DateTime::parse_from_rfc3339(&text) {
            return scaled(time.timestamp_micros(), 1);
        }
        let text = if text.contains('T') { text } else { format!("{text}T00:00:00") };
        let time = chrono::NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f").ok()?;
        scaled(time.and_utc().timestamp_micros(), 1)
    };
    micros(came).is_some_and(|came| Some(came) == micros(stored)) || is_far_text(stored)
}

/// A year that chrono cannot read; the module's own test of texts covers it.
fn is_far_text(stored: &ArrayRef) -> bool {
    stored.as_any().downcast_ref::<StringArray>().is_some_and(|texts| texts.value(0).starts_with(['+', '-']))
}

/// About two seconds in an unoptimised build; 60,000 have passed.
const CASES: u32 = 1_500;

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_value_is_in_its_column_exactly_or_rescued(
        came in any_column(),
        table in prop::option::of(any_table()),
        nesting in any_nesting(),
        evolves in any::<bool>(),
        offset in 0_usize..3,
    ) {
        let came = nest(came, nesting);
        let came = came.slice(offset.min(came.len()), came.len() - offset.min(came.len()));
        let source = Arc::new(Schema::new(vec![Field::new("c", came.data_type().clone(), true)]));
        let table = table.map(|data_type| table_of([("c", nest_type(data_type, nesting))]));
        let mut setting = Setting::new(&source).policy(if evolves { Evolve } else { Rescue });
        setting.table = table.as_ref();
        let conformed = setting.batch(batch([("c", came.clone())])).expect("a batch");
        prop_assert_eq!(conformed.batch.num_rows(), came.len());
        let stored = column(&conformed, "c");
        let mut count = 0;
        for row in 0..came.len() {
            let rescued = rescued(&conformed, row);
            count += usize::from(rescued.is_some());
            let (came, is_kept) = (inside(&came, row), stored.is_valid(row));
            match rescued {
                Some(object) => {
                    prop_assert!(!is_kept, "kept and rescued: {}", object);
                    prop_assert!(object.get("c").is_some());
                    prop_assert!(came.is_valid(0), "a null was rescued");
                }
                None if came.is_null(0) => prop_assert!(!is_kept || inside(stored, row).is_null(0)),
                None => {
                    prop_assert!(is_kept, "lost: {}", spelled(&came));
                    let stored = inside(stored, row);
                    prop_assert!(is_exact(&came, &stored), "bent: {} -> {}", spelled(&came), spelled(&stored));
                }
            }
        }
        prop_assert_eq!(conformed.rescued, count);
    }
}
