//! What becomes of Arrow types in a Delta table, and the cast of a batch to them.
//!
//! | Arrow | stored as | Delta |
//! | --- | --- | --- |
//! | Int8, Int16, Int32, Int64 | the same | byte, short, integer, long |
//! | UInt8, UInt16, UInt32 | Int16, Int32, Int64 | short, integer, long |
//! | UInt64 | Decimal128(20, 0) | decimal(20,0) |
//! | Float16, Float32; Float64 | Float32; Float64 | float; double |
//! | Decimal of up to 38 digits | Decimal128 | decimal |
//! | Decimal of more digits | Utf8, exact | string |
//! | Date32, Date64 | Date32 | date |
//! | Time, Duration | Int64, microseconds | long |
//! | Timestamp with a zone | microseconds UTC | timestamp |
//! | Timestamp without a zone | microseconds | timestamp_ntz |
//! | Interval | Utf8, ISO 8601 | string |
//! | Utf8 in all forms, Null | Utf8 | string |
//! | Binary in all forms | Binary | binary |
//! | List in all forms, Map, Struct | List, Map, Struct of stored types | array, map, struct |
//! | Dictionary, run-end encoded | what their values become | |
//!
//! Nanoseconds are cut to microseconds; the column's metadata says so under [`CUT`]. Every column is nullable in the
//! table: a source that drops a NOT NULL must not stop its stream.

use std::fmt::Write;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Int64Type,
    IntervalDayTimeType, IntervalMonthDayNanoType, IntervalYearMonthType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, ListArray, MapArray, PrimitiveArray, RecordBatch, RecordBatchOptions,
    StructArray, new_null_array,
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, FieldRef, Fields, IntervalUnit, Schema, SchemaRef, TimeUnit};
use ingest_core::{Error, ErrorKind, Result};

use crate::schema::{element_field, map_type};

/// Key of the field metadata that names what was cut from a column's values: `nanoseconds`.
pub const CUT: &str = "ingest.cut";

const MICROS: TimeUnit = TimeUnit::Microsecond;
const FORBIDDEN: &str = " ,;{}()\n\t=";

/// The stored form of a schema.
pub(crate) fn storage_schema(schema: &Schema) -> Result<SchemaRef> {
    let mut seen = std::collections::HashMap::new();
    for field in schema.fields() {
        if let Some(other) = seen.insert(field.name().to_lowercase(), field.name()) {
            return Err(Error::config("two columns have the same name in any case")
                .with("column", field.name())
                .with("other", other)
                .hint("rename one at the source, or leave it out with `columns`"));
        }
    }
    let fields = schema.fields().iter().map(|f| storage_field(f, f.name())).collect::<Result<Fields>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

fn storage_field(field: &Field, column: &str) -> Result<FieldRef> {
    if field.name().is_empty() || field.name().contains(|c| FORBIDDEN.contains(c)) {
        return Err(Error::config("Delta forbids this column name")
            .with("column", format!("{column:?}"))
            .hint("a name is not empty and holds no blank, comma, semicolon, bracket, tab, line break or `=`"));
    }
    let data_type = storage_type(field.data_type(), column)?;
    let mut metadata = field.metadata().clone();
    metadata.retain(|key, _| !key.starts_with("ARROW:") && !key.starts_with("PARQUET:"));
    if is_cut(field.data_type()) {
        metadata.insert(CUT.to_string(), "nanoseconds".to_string());
    }
    Ok(Arc::new(Field::new(field.name(), data_type, true).with_metadata(metadata)))
}

fn is_cut(data_type: &DataType) -> bool {
    use DataType::{
        Dictionary, Duration, FixedSizeList, LargeList, LargeListView, List, ListView, RunEndEncoded, Time64, Timestamp,
    };
    match data_type {
        Timestamp(TimeUnit::Nanosecond, _) | Time64(TimeUnit::Nanosecond) | Duration(TimeUnit::Nanosecond) => true,
        Dictionary(_, values) => is_cut(values),
        RunEndEncoded(_, values) => is_cut(values.data_type()),
        List(e) | LargeList(e) | FixedSizeList(e, _) | ListView(e) | LargeListView(e) => is_cut(e.data_type()),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) => pair.iter().any(|f| is_cut(f.data_type())),
            _ => false,
        },
        _ => false,
    }
}

fn storage_type(data_type: &DataType, column: &str) -> Result<DataType> {
    use DataType as D;
    Ok(match data_type {
        D::Boolean | D::Int8 | D::Int16 | D::Int32 | D::Int64 | D::Float32 | D::Float64 => data_type.clone(),
        D::UInt8 => D::Int16,
        D::UInt16 => D::Int32,
        D::UInt32 => D::Int64,
        D::UInt64 => D::Decimal128(20, 0),
        D::Float16 => D::Float32,
        D::Utf8 | D::LargeUtf8 | D::Utf8View | D::Null | D::Interval(_) => D::Utf8,
        D::Binary | D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => D::Binary,
        D::Date32 | D::Date64 => D::Date32,
        D::Time32(_) | D::Time64(_) | D::Duration(_) => D::Int64,
        D::Timestamp(_, None) => D::Timestamp(MICROS, None),
        D::Timestamp(_, Some(_)) => D::Timestamp(MICROS, Some("UTC".into())),
        D::Decimal32(p, s) | D::Decimal64(p, s) | D::Decimal128(p, s) | D::Decimal256(p, s) => decimal_type(*p, *s),
        D::List(e) | D::LargeList(e) | D::FixedSizeList(e, _) | D::ListView(e) | D::LargeListView(e) => {
            D::List(element_field(storage_type(e.data_type(), column)?, true))
        }
        D::Map(entries, _) => {
            let (key, value) = pair(entries, column)?;
            map_type(
                Field::new("key", storage_type(key.data_type(), column)?, false),
                Field::new("value", storage_type(value.data_type(), column)?, true),
            )
        }
        D::Struct(fields) if fields.is_empty() => {
            return Err(Error::new(ErrorKind::Unsupported, "a struct without fields cannot be stored")
                .with("column", column)
                .hint("leave the column out with `columns`, or store it as text"));
        }
        D::Struct(fields) => D::Struct(
            fields.iter().map(|f| storage_field(f, &format!("{column}.{}", f.name()))).collect::<Result<Fields>>()?,
        ),
        D::Dictionary(_, values) => storage_type(values, column)?,
        D::RunEndEncoded(_, values) => storage_type(values.data_type(), column)?,
        D::Union(..) => {
            return Err(Error::new(ErrorKind::Unsupported, "a union cannot be stored in a Delta table")
                .with("column", column)
                .hint("leave the column out with `columns`, or store it as text"));
        }
    })
}

/// Delta knows no negative scale and no scale above the precision.
fn decimal_type(precision: u8, scale: i8) -> DataType {
    let digits = i16::from(precision) + i16::from(scale.min(0)).abs();
    let digits = digits.max(i16::from(scale));
    match u8::try_from(digits) {
        Ok(digits) if digits <= 38 => DataType::Decimal128(digits, scale.max(0)),
        _ => DataType::Utf8,
    }
}

fn pair<'a>(entries: &'a Field, column: &str) -> Result<(&'a FieldRef, &'a FieldRef)> {
    if let DataType::Struct(fields) = entries.data_type()
        && let [key, value] = fields.as_ref()
    {
        return Ok((key, value));
    }
    Err(Error::new(ErrorKind::DataInvalid, "a map has no key and value").with("column", column))
}

/// Casts a batch to the stored form of its schema, column by column in the order of the batch.
pub(crate) fn to_storage(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.num_columns() != schema.fields().len() {
        return Err(Error::unexpected("a batch and its storage schema differ in columns")
            .with("batch", batch.num_columns())
            .with("schema", schema.fields().len()));
    }
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(array, field)| convert(array, field.data_type(), field.name()))
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(|e| Error::new(ErrorKind::DataInvalid, "a batch does not fit its storage schema").caused_by(e))
}

/// Casts an array to a stored type; also from another stored type, as files of other writers have them. Struct fields
/// are matched by name, missing ones become null.
pub(crate) fn convert(array: &ArrayRef, to: &DataType, column: &str) -> Result<ArrayRef> {
    use DataType as D;
    if array.data_type() == to {
        return Ok(array.clone());
    }
    Ok(match (array.data_type(), to) {
        (D::Null, _) => new_null_array(to, array.len()),
        (D::Dictionary(_, values), _) => {
            let values = values.as_ref().clone();
            convert(&plain_cast(array, &values, column)?, to, column)?
        }
        (D::RunEndEncoded(_, values), _) => {
            let values = values.data_type().clone();
            convert(&plain_cast(array, &values, column)?, to, column)?
        }
        (D::Timestamp(..), D::Timestamp(_, zone)) => {
            let micros = timestamp_micros(array, column)?;
            Arc::new(micros.with_timezone_opt(zone.clone()))
        }
        (D::Duration(_), D::Int64) => Arc::new(duration_micros(array, column)?),
        (D::Time64(TimeUnit::Nanosecond | TimeUnit::Microsecond) | D::Time32(_), D::Int64) => {
            let micros = plain_cast(array, &D::Time64(MICROS), column)?;
            plain_cast(&micros, &D::Int64, column)?
        }
        (D::Interval(unit), D::Utf8) => interval_text(array, *unit),
        (D::List(_) | D::LargeList(_) | D::FixedSizeList(..) | D::ListView(_) | D::LargeListView(_), D::List(to)) => {
            convert_list(array, to, column)?
        }
        (D::Map(..), D::Map(to, _)) => convert_map(array, to, column)?,
        (D::Struct(_), D::Struct(to)) => Arc::new(convert_struct(array.as_struct(), to, column)?),
        _ => plain_cast(array, to, column)?,
    })
}

fn plain_cast(array: &ArrayRef, to: &DataType, column: &str) -> Result<ArrayRef> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &options).map_err(|e| {
        // The text of the error may hold a value of the row: it is not passed on.
        drop(e);
        Error::new(ErrorKind::DataInvalid, "a value does not fit the type in which its column is stored")
            .with("column", column)
            .with("from", array.data_type())
            .with("to", to)
    })
}

fn overflow(column: &str) -> Error {
    Error::new(ErrorKind::DataInvalid, "a time is too far away to be stored in microseconds").with("column", column)
}

/// Cuts towards the past, so that the digits that stay are those of the source's text.
fn to_micros<F: ArrowPrimitiveType<Native = i64>, T: ArrowPrimitiveType<Native = i64>>(
    array: &ArrayRef,
    unit: TimeUnit,
    column: &str,
) -> Result<PrimitiveArray<T>> {
    let array = array.as_primitive::<F>();
    let factor = match unit {
        TimeUnit::Nanosecond => return Ok(array.unary(|v| v.div_euclid(1000))),
        TimeUnit::Microsecond => 1,
        TimeUnit::Millisecond => 1000,
        TimeUnit::Second => 1_000_000,
    };
    array.try_unary(|v: i64| v.checked_mul(factor).ok_or_else(|| overflow(column)))
}

fn timestamp_micros(array: &ArrayRef, column: &str) -> Result<PrimitiveArray<TimestampMicrosecondType>> {
    match array.data_type() {
        DataType::Timestamp(unit @ TimeUnit::Second, _) => to_micros::<TimestampSecondType, _>(array, *unit, column),
        DataType::Timestamp(unit @ TimeUnit::Millisecond, _) => {
            to_micros::<TimestampMillisecondType, _>(array, *unit, column)
        }
        DataType::Timestamp(unit @ TimeUnit::Nanosecond, _) => {
            to_micros::<TimestampNanosecondType, _>(array, *unit, column)
        }
        _ => Ok(array.as_primitive::<TimestampMicrosecondType>().clone()),
    }
}

fn duration_micros(array: &ArrayRef, column: &str) -> Result<PrimitiveArray<Int64Type>> {
    match array.data_type() {
        DataType::Duration(unit @ TimeUnit::Second) => to_micros::<DurationSecondType, _>(array, *unit, column),
        DataType::Duration(unit @ TimeUnit::Millisecond) => {
            to_micros::<DurationMillisecondType, _>(array, *unit, column)
        }
        DataType::Duration(unit @ TimeUnit::Nanosecond) => to_micros::<DurationNanosecondType, _>(array, *unit, column),
        _ => to_micros::<DurationMicrosecondType, _>(array, MICROS, column),
    }
}

fn convert_list(array: &ArrayRef, to: &FieldRef, column: &str) -> Result<ArrayRef> {
    // First to the plain list of the same elements, then its elements.
    let element = match array.data_type() {
        DataType::List(e)
        | DataType::LargeList(e)
        | DataType::FixedSizeList(e, _)
        | DataType::ListView(e)
        | DataType::LargeListView(e) => e.clone(),
        other => return Err(Error::unexpected("not a list").with("column", column).with("type", other)),
    };
    let list = plain_cast(array, &DataType::List(element), column)?;
    let (_, offsets, values, nulls) = list.as_list::<i32>().clone().into_parts();
    let values = convert(&values, to.data_type(), column)?;
    let list = ListArray::try_new(to.clone(), offsets, values, nulls)?;
    Ok(Arc::new(list))
}

fn convert_map(array: &ArrayRef, to: &FieldRef, column: &str) -> Result<ArrayRef> {
    let (_, offsets, entries, nulls, sorted) = array.as_map().clone().into_parts();
    let DataType::Struct(fields) = to.data_type() else {
        return Err(Error::unexpected("a map without key and value").with("column", column));
    };
    let [key, value] = fields.as_ref() else {
        return Err(Error::unexpected("a map without key and value").with("column", column));
    };
    // By place: other writers call the two differently.
    let columns = vec![
        convert(entries.column(0), key.data_type(), column)?,
        convert(entries.column(1), value.data_type(), column)?,
    ];
    let entries = StructArray::try_new(fields.clone(), columns, entries.nulls().cloned())?;
    Ok(Arc::new(MapArray::try_new(to.clone(), offsets, entries, nulls, sorted)?))
}

fn convert_struct(array: &StructArray, to: &Fields, column: &str) -> Result<StructArray> {
    let columns = to
        .iter()
        .map(|field| match array.column_by_name(field.name()) {
            Some(child) => convert(child, field.data_type(), &format!("{column}.{}", field.name())),
            None => Ok(new_null_array(field.data_type(), array.len())),
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(StructArray::try_new_with_length(to.clone(), columns, array.nulls().cloned(), array.len())?)
}

/// Fits a batch read from a data file to the table's schema: columns by name, missing ones null.
pub(crate) fn fit(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(array) => convert(array, field.data_type(), field.name()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

fn interval_text(array: &ArrayRef, unit: IntervalUnit) -> ArrayRef {
    let mut texts = StringBuilder::with_capacity(array.len(), array.len() * 16);
    let mut text = String::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            texts.append_null();
            continue;
        }
        let (months, days, nanos) = match unit {
            IntervalUnit::YearMonth => (array.as_primitive::<IntervalYearMonthType>().value(row), 0, 0),
            IntervalUnit::DayTime => {
                let value = array.as_primitive::<IntervalDayTimeType>().value(row);
                (0, value.days, i64::from(value.milliseconds) * 1_000_000)
            }
            IntervalUnit::MonthDayNano => {
                let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
                (value.months, value.days, value.nanoseconds)
            }
        };
        text.clear();
        write_interval(&mut text, months, days, nanos);
        texts.append_value(&text);
    }
    Arc::new(texts.finish())
}

/// ISO 8601 with a sign on every part, since months, days and time carry their own: `P1Y-2M3DT-4H0.5S`.
fn write_interval(text: &mut String, months: i32, days: i32, nanos: i64) {
    text.push('P');
    let mut part = |value: i64, unit: &str| {
        if value != 0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "{value}{unit}");
        }
    };
    part(i64::from(months / 12), "Y");
    part(i64::from(months % 12), "M");
    part(i64::from(days), "D");
    if nanos != 0 {
        text.push('T');
        let mut part = |value: i64, unit: &str| {
            if value != 0 {
                let _ = write!(text, "{value}{unit}");
            }
        };
        part(nanos / 3_600_000_000_000, "H");
        part(nanos / 60_000_000_000 % 60, "M");
        let (seconds, fraction) = (nanos / 1_000_000_000 % 60, nanos % 1_000_000_000);
        if fraction == 0 {
            part(seconds, "S");
        } else {
            let sign = if nanos < 0 { "-" } else { "" };
            let digits = format!("{:09}", fraction.unsigned_abs());
            let _ = write!(text, "{sign}{}.{}S", seconds.unsigned_abs(), digits.trim_end_matches('0'));
        }
    }
    if text.len() == 1 {
        text.push_str("T0S");
    }
}
