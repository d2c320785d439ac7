//! Arrow rows as JSON: what `show` and `preview` print, and the records of a quarantine.
//!
//! | Arrow | JSON |
//! | --- | --- |
//! | integers | a number; beyond 2^53, where readers lose digits, a string |
//! | decimals | a string with all digits |
//! | floats | a number; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | binary | base64 |
//! | date, timestamp | RFC 3339; a timestamp without a zone has no offset |
//! | time, duration, interval | text |
//! | list, map, struct | array, array of `{key, value}`, object |

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, TimeUnit};
use base64::Engine;
use chrono::SecondsFormat;
use ingest_core::{Json, Result, columns};
use serde::{Serialize, Serializer};
use serde_json::Map;

/// The largest integer that a reader with 64-bit floats keeps exactly.
const EXACT: i64 = 1 << 53;

/// The columns of a schema in the order in which people want them: ours last.
pub fn column_order(schema: &arrow_schema::Schema) -> Vec<usize> {
    let ours = |i: &usize| columns::is_reserved(schema.field(*i).name());
    let all = 0..schema.fields().len();
    all.clone().filter(|i| !ours(i)).chain(all.filter(ours)).collect()
}

/// A row as a JSON object whose members stand in the order of columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Row(Vec<(String, Json)>);

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// The rows of batches as JSON objects.
///
/// # Errors
/// `DataInvalid` for a value that cannot be printed.
pub fn rows(batches: &[RecordBatch]) -> Result<Vec<Row>> {
    let mut all = Vec::new();
    for batch in batches {
        all.extend(rows_of(batch)?);
    }
    Ok(all)
}

fn rows_of(batch: &RecordBatch) -> Result<Vec<Row>> {
    let schema = batch.schema();
    let order = column_order(&schema);
    (0..batch.num_rows())
        .map(|row| {
            let cell = |column: &usize| {
                let value = value(batch.column(*column).as_ref(), row)?;
                Ok((schema.field(*column).name().clone(), value))
            };
            order.iter().map(cell).collect::<Result<_>>().map(Row)
        })
        .collect()
}

/// A value as JSON.
///
/// # Errors
/// `DataInvalid` for a value that cannot be printed.
pub fn value(array: &dyn Array, row: usize) -> Result<Json> {
    if array.is_null(row) {
        return Ok(Json::Null);
    }
    macro_rules! integer {
        ($type:ty) => {
            signed(i64::from(array.as_primitive::<$type>().value(row)))
        };
    }
    Ok(match array.data_type() {
        DataType::Null => Json::Null,
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int8 => integer!(Int8Type),
        DataType::Int16 => integer!(Int16Type),
        DataType::Int32 => integer!(Int32Type),
        DataType::Int64 => integer!(Int64Type),
        DataType::UInt8 => integer!(UInt8Type),
        DataType::UInt16 => integer!(UInt16Type),
        DataType::UInt32 => integer!(UInt32Type),
        DataType::UInt64 => {
            let number = array.as_primitive::<UInt64Type>().value(row);
            i64::try_from(number).map_or_else(|_| number.to_string().into(), signed)
        }
        DataType::Float16 => float(array.as_primitive::<Float16Type>().value(row).to_string()),
        // By way of the shortest text, so that 0.1 stays 0.1.
        DataType::Float32 => float(array.as_primitive::<Float32Type>().value(row).to_string()),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row).to_string()),
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::Binary => base64(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => base64(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => base64(array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => base64(array.as_fixed_size_binary().value(row)),
        DataType::List(_) => list(array.as_list::<i32>().value(row).as_ref())?,
        DataType::LargeList(_) => list(array.as_list::<i64>().value(row).as_ref())?,
        DataType::FixedSizeList(_, _) => list(array.as_fixed_size_list().value(row).as_ref())?,
        DataType::Map(_, _) => map(&array.as_map().value(row))?,
        DataType::Struct(_) => fields(array.as_struct(), row)?,
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let key = dictionary.normalized_keys().get(row).copied().unwrap_or(0);
            value(dictionary.values().as_ref(), key)?
        }
        DataType::Date32 => text(array, row, array.as_primitive::<Date32Type>().value_as_date(row).map(date))?,
        DataType::Date64 => text(array, row, array.as_primitive::<Date64Type>().value_as_date(row).map(date))?,
        DataType::Timestamp(unit, zone) => text(array, row, timestamp(array, row, *unit, zone.is_some()))?,
        _ => text(array, row, None)?,
    })
}

/// A timestamp with a zone is an instant, shown in UTC; one without is not.
fn timestamp(array: &dyn Array, row: usize, unit: TimeUnit, instant: bool) -> Option<String> {
    let time = match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().value_as_datetime(row),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().value_as_datetime(row),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().value_as_datetime(row),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().value_as_datetime(row),
    }?;
    let mut text = time.and_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true);
    if !instant {
        text.pop();
    }
    Some(text)
}

fn signed(number: i64) -> Json {
    if (-EXACT..=EXACT).contains(&number) { number.into() } else { number.to_string().into() }
}

fn float(text: String) -> Json {
    match text.parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
        Some(number) => Json::Number(number),
        None => match text.as_str() {
            "inf" => "Infinity".into(),
            "-inf" => "-Infinity".into(),
            _ => "NaN".into(),
        },
    }
}

fn base64(bytes: &[u8]) -> Json {
    base64::engine::general_purpose::STANDARD.encode(bytes).into()
}

fn date(date: chrono::NaiveDate) -> String {
    date.format("%Y-%m-%d").to_string()
}

fn list(items: &dyn Array) -> Result<Json> {
    (0..items.len()).map(|i| value(items, i)).collect::<Result<Vec<_>>>().map(Json::Array)
}

fn fields(array: &arrow_array::StructArray, row: usize) -> Result<Json> {
    let mut object = Map::new();
    for (field, column) in array.fields().iter().zip(array.columns()) {
        object.insert(field.name().clone(), value(column.as_ref(), row)?);
    }
    Ok(Json::Object(object))
}

/// Keys need not be texts, so a map is a list of pairs.
fn map(entries: &arrow_array::StructArray) -> Result<Json> {
    let pair = |i| {
        let (key, value_) = (value(entries.column(0).as_ref(), i)?, value(entries.column(1).as_ref(), i)?);
        Ok(serde_json::json!({ "key": key, "value": value_ }))
    };
    (0..entries.len()).map(pair).collect::<Result<Vec<_>>>().map(Json::Array)
}

/// The text of a type that has no JSON of its own: as Arrow prints it, which is RFC 3339 for timestamps.
fn text(array: &dyn Array, row: usize, known: Option<String>) -> Result<Json> {
    if let Some(known) = known {
        return Ok(known.into());
    }
    let options = FormatOptions::default().with_display_error(false);
    let formatter = ArrayFormatter::try_new(array, &options)?;
    Ok(formatter.value(row).try_to_string()?.into())
}

/// A row as a JSON object, in the order of columns.
///
/// # Errors
/// `DataInvalid` for a value that cannot be printed.
pub fn object(batch: &RecordBatch, row: usize) -> Result<Json> {
    let schema = batch.schema_ref();
    let cells = schema.fields().iter().zip(batch.columns());
    let cells = cells.map(|(field, column)| Ok((field.name().clone(), value(column.as_ref(), row)?)));
    cells.collect::<Result<Map<String, Json>>>().map(Json::Object)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::{Int32Builder, ListBuilder, MapBuilder, StringBuilder};
    use arrow_array::types::Int8Type;
    use arrow_array::{
        ArrayRef, BinaryArray, Date32Array, Decimal128Array, DictionaryArray, Float32Array, Float64Array, Int64Array,
        StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt64Array,
    };
    use arrow_schema::Field;
    use serde_json::json;

    use super::*;

    fn first(array: impl Array) -> Json {
        value(&array, 0).expect("printable")
    }

    #[test]
    fn numbers_lose_no_digit() {
        assert_eq!(first(Int64Array::from(vec![9_007_199_254_740_992])), json!(9_007_199_254_740_992_i64));
        assert_eq!(first(Int64Array::from(vec![9_007_199_254_740_993])), json!("9007199254740993"));
        assert_eq!(first(Int64Array::from(vec![i64::MIN])), json!("-9223372036854775808"));
        assert_eq!(first(UInt64Array::from(vec![u64::MAX])), json!("18446744073709551615"));
        let decimal = Decimal128Array::from(vec![-1_234_500]).with_precision_and_scale(38, 4).expect("fits");
        assert_eq!(first(decimal), json!("-123.4500"));
        assert_eq!(first(Float32Array::from(vec![0.1])), json!(0.1));
        assert_eq!(first(Float64Array::from(vec![f64::NEG_INFINITY])), json!("-Infinity"));
        assert_eq!(first(Float64Array::from(vec![f64::NAN])), json!("NaN"));
    }

    #[test]
    fn times_are_rfc_3339() {
        let stamp = TimestampMicrosecondArray::from(vec![1_700_000_000_123_456]);
        assert_eq!(first(stamp.clone().with_timezone("UTC")), json!("2023-11-14T22:13:20.123456Z"));
        assert_eq!(first(stamp), json!("2023-11-14T22:13:20.123456"));
        assert_eq!(first(Date32Array::from(vec![0])), json!("1970-01-01"));
        assert_eq!(first(Time64MicrosecondArray::from(vec![3_600_000_000])), json!("01:00:00"));
    }

    #[test]
    fn nested_values_keep_their_shape() {
        let mut list = ListBuilder::new(Int32Builder::new());
        list.append_value([Some(1), None]);
        assert_eq!(first(list.finish()), json!([1, null]));
        let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
        map.keys().append_value("a");
        map.values().append_value(1);
        map.append(true).expect("whole");
        assert_eq!(first(map.finish()), json!([{"key": "a", "value": 1}]));
        let field = Arc::new(Field::new("x", DataType::Utf8, true));
        let column: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
        assert_eq!(first(StructArray::from(vec![(field, column)])), json!({"x": null}));
        let dictionary: DictionaryArray<Int8Type> = vec![Some("b")].into_iter().collect();
        assert_eq!(first(dictionary), json!("b"));
        assert_eq!(first(BinaryArray::from(vec![&b"\xff\x00"[..]])), json!("/wA="));
    }

    #[test]
    fn our_columns_come_last() {
        let field = |name| Field::new(name, DataType::Utf8, true);
        let schema =
            arrow_schema::Schema::new(vec![field("_ingest_op"), field("id"), field("_ingested_at"), field("z")]);
        assert_eq!(column_order(&schema), [1, 3, 0, 2]);
    }
}
