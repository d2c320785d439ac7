//! The text of a value: what goes into `_ingest_rescued`, or into a text column that meets another type.
//!
//! Exact for every value of every type: numbers keep all digits, times keep their unit's digits and may lie in any year,
//! bytes become base64. Nested values become JSON; a map without text keys becomes an array of pairs.

use std::fmt::Write;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float16Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType,
    IntervalYearMonthType, Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RunArray, downcast_dictionary_array};
use arrow_schema::{ArrowError, DataType, Field, IntervalUnit, TimeUnit, UnionMode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ingest_core::{Error, ErrorKind, Result};
use serde_json::value::RawValue;

/// Key and value of the field metadata that mark a text column as JSON.
const EXTENSION: &str = "ARROW:extension:name";
const JSON: &str = "arrow.json";

/// Whether the texts of a column are JSON.
pub(super) fn is_json(field: &Field) -> bool {
    field.metadata().get(EXTENSION).is_some_and(|name| name == JSON)
}

/// Appends a value as it stands in `_ingest_rescued`: raw JSON where the source gave JSON or a nested value, else the
/// text of the value as a JSON string.
pub(super) fn write_rescued(out: &mut String, array: &dyn Array, row: usize, json: bool) -> Result<()> {
    if array.is_null(row) || is_nested(array.data_type()) {
        return write_json(out, array, row);
    }
    let mut text = String::new();
    write_text(&mut text, array, row)?;
    if json && serde_json::from_str::<&RawValue>(&text).is_ok() {
        out.push_str(&text);
    } else {
        write_quoted(out, &text);
    }
    Ok(())
}

/// Appends a text as a JSON string.
pub(super) fn write_quoted(out: &mut String, text: &str) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn is_nested(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_nested(values),
        DataType::RunEndEncoded(_, values) => is_nested(values.data_type()),
        DataType::Union(..) => true,
        other => other.is_nested(),
    }
}

/// Appends a value as JSON: numbers as numbers with all their digits, everything that JSON has no type for as text.
fn write_json(out: &mut String, array: &dyn Array, row: usize) -> Result<()> {
    use DataType as D;
    if array.is_null(row) {
        out.push_str("null");
        return Ok(());
    }
    match array.data_type() {
        D::Null => out.push_str("null"),
        D::Boolean
        | D::Int8
        | D::Int16
        | D::Int32
        | D::Int64
        | D::UInt8
        | D::UInt16
        | D::UInt32
        | D::UInt64
        | D::Decimal32(..)
        | D::Decimal64(..)
        | D::Decimal128(..)
        | D::Decimal256(..) => write_text(out, array, row)?,
        D::Float16 | D::Float32 | D::Float64 => {
            let mut text = String::new();
            write_text(&mut text, array, row)?;
            // NaN and infinities are no JSON numbers.
            if text.ends_with(|c: char| c.is_ascii_digit()) { out.push_str(&text) } else { write_quoted(out, &text) }
        }
        D::List(_) => write_list(out, &array.as_list::<i32>().value(row))?,
        D::LargeList(_) => write_list(out, &array.as_list::<i64>().value(row))?,
        D::FixedSizeList(..) => write_list(out, &array.as_fixed_size_list().value(row))?,
        D::ListView(_) => write_list(out, &array.as_list_view::<i32>().value(row))?,
        D::LargeListView(_) => write_list(out, &array.as_list_view::<i64>().value(row))?,
        D::Struct(fields) => {
            let columns = array.as_struct().columns();
            out.push('{');
            for (i, (field, column)) in fields.iter().zip(columns).enumerate() {
                separate(out, i);
                write_quoted(out, field.name());
                out.push(':');
                write_json(out, column, row)?;
            }
            out.push('}');
        }
        D::Map(..) => write_map(out, &array.as_map().value(row))?,
        D::Dictionary(..) | D::RunEndEncoded(..) => inner(array, row, |values, at| write_json(out, values, at))?,
        D::Union(_, mode) => {
            let union = array.as_union();
            let at = if *mode == UnionMode::Dense { union.value_offset(row) } else { row };
            write_json(out, union.child(union.type_id(row)), at)?;
        }
        _ => {
            let mut text = String::new();
            write_text(&mut text, array, row)?;
            write_quoted(out, &text);
        }
    }
    Ok(())
}

fn separate(out: &mut String, index: usize) {
    if index > 0 {
        out.push(',');
    }
}

fn write_list(out: &mut String, values: &ArrayRef) -> Result<()> {
    out.push('[');
    for i in 0..values.len() {
        separate(out, i);
        write_json(out, values, i)?;
    }
    out.push(']');
    Ok(())
}

fn write_map(out: &mut String, entries: &arrow_array::StructArray) -> Result<()> {
    let (keys, values) = (entries.column(0), entries.column(1));
    let text_keys = matches!(keys.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    out.push(if text_keys { '{' } else { '[' });
    for i in 0..entries.len() {
        separate(out, i);
        if !text_keys {
            out.push('[');
        }
        write_json(out, keys, i)?;
        out.push(if text_keys { ':' } else { ',' });
        write_json(out, values, i)?;
        if !text_keys {
            out.push(']');
        }
    }
    out.push(if text_keys { '}' } else { ']' });
    Ok(())
}

/// Calls `write` with the values of a dictionary or run-end encoded array, and the index of a row's value there.
fn inner(array: &dyn Array, row: usize, write: impl FnOnce(&dyn Array, usize) -> Result<()>) -> Result<()> {
    downcast_dictionary_array! {
        array => match array.key(row) {
            Some(key) => write(array.values(), key),
            None => Err(Error::unexpected("a null was taken for a value of a dictionary")),
        },
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => runs::<Int16Type>(array, row, write),
            DataType::Int32 => runs::<Int32Type>(array, row, write),
            _ => runs::<Int64Type>(array, row, write),
        },
        other => Err(Error::unexpected("neither a dictionary nor run-end encoded").with("type", other)),
    }
}

fn runs<R: arrow_array::types::RunEndIndexType>(
    array: &dyn Array,
    row: usize,
    write: impl FnOnce(&dyn Array, usize) -> Result<()>,
) -> Result<()> {
    let array: &RunArray<R> = array.as_any().downcast_ref().ok_or_else(|| {
        Error::unexpected("an array is not of the type that it names").with("type", array.data_type())
    })?;
    let at = array.get_physical_index(row);
    if array.values().is_null(at) {
        return Err(Error::unexpected("a null was taken for a run-end encoded value"));
    }
    write(array.values(), at)
}

/// Appends the text of a value that is not null.
pub(super) fn write_text(out: &mut String, array: &dyn Array, row: usize) -> Result<()> {
    use DataType as D;
    macro_rules! number {
        ($type:ty, $format:literal) => {
            push(out, format_args!($format, array.as_primitive::<$type>().value(row)))
        };
    }
    match array.data_type() {
        D::Boolean => push(out, format_args!("{}", array.as_boolean().value(row))),
        D::Int8 => number!(Int8Type, "{}"),
        D::Int16 => number!(Int16Type, "{}"),
        D::Int32 => number!(Int32Type, "{}"),
        D::Int64 => number!(Int64Type, "{}"),
        D::UInt8 => number!(UInt8Type, "{}"),
        D::UInt16 => number!(UInt16Type, "{}"),
        D::UInt32 => number!(UInt32Type, "{}"),
        D::UInt64 => number!(UInt64Type, "{}"),
        D::Float16 => write_float(out, f64::from(array.as_primitive::<Float16Type>().value(row))),
        D::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            // The shortest text that reads back as this f32; as f64 it would have digits that nobody wrote.
            if value.is_finite() { push(out, format_args!("{value:?}")) } else { write_float(out, f64::from(value)) }
        }
        D::Float64 => write_float(out, array.as_primitive::<Float64Type>().value(row)),
        D::Decimal32(_, s) => write_decimal::<Decimal32Type>(out, array, row, *s),
        D::Decimal64(_, s) => write_decimal::<Decimal64Type>(out, array, row, *s),
        D::Decimal128(_, s) => write_decimal::<Decimal128Type>(out, array, row, *s),
        D::Decimal256(_, s) => write_decimal::<Decimal256Type>(out, array, row, *s),
        D::Utf8 => out.push_str(array.as_string::<i32>().value(row)),
        D::LargeUtf8 => out.push_str(array.as_string::<i64>().value(row)),
        D::Utf8View => out.push_str(array.as_string_view().value(row)),
        D::Binary => STANDARD.encode_string(array.as_binary::<i32>().value(row), out),
        D::LargeBinary => STANDARD.encode_string(array.as_binary::<i64>().value(row), out),
        D::BinaryView => STANDARD.encode_string(array.as_binary_view().value(row), out),
        D::FixedSizeBinary(_) => STANDARD.encode_string(array.as_fixed_size_binary().value(row), out),
        D::Dictionary(..) | D::RunEndEncoded(..) => inner(array, row, |values, at| write_text(out, values, at))?,
        temporal if temporal.is_temporal() => write_temporal(out, array, row)?,
        _ => write_json(out, array, row)?,
    }
    Ok(())
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
}

fn write_float(out: &mut String, value: f64) {
    if value.is_finite() {
        push(out, format_args!("{value:?}"));
    } else if value.is_nan() {
        out.push_str("NaN");
    } else {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    }
}

/// All digits, also those beyond the precision of the type, which Arrow's own formatter drops.
fn write_decimal<T: DecimalType>(out: &mut String, array: &dyn Array, row: usize, scale: i8)
where
    T::Native: std::fmt::Display,
{
    let value = array.as_primitive::<T>().value(row).to_string();
    let (sign, digits) = value.strip_prefix('-').map_or(("", value.as_str()), |digits| ("-", digits));
    out.push_str(sign);
    let places = usize::from(scale.unsigned_abs());
    if scale <= 0 {
        out.push_str(digits);
        if digits != "0" {
            out.extend(std::iter::repeat_n('0', places));
        }
    } else {
        let padded = format!("{digits:0>width$}", width = places + 1);
        let (whole, fraction) = padded.split_at(padded.len() - places);
        push(out, format_args!("{whole}.{fraction}"));
    }
}

const SECONDS_PER_DAY: i64 = 86_400;

fn write_temporal(out: &mut String, array: &dyn Array, row: usize) -> Result<()> {
    use DataType as D;
    use TimeUnit as U;
    macro_rules! value {
        ($type:ty) => {
            i64::from(array.as_primitive::<$type>().value(row))
        };
    }
    match array.data_type() {
        D::Date32 => write_date(out, value!(Date32Type)),
        D::Date64 => {
            let millis = value!(Date64Type);
            if millis.rem_euclid(SECONDS_PER_DAY * 1000) == 0 {
                write_date(out, millis.div_euclid(SECONDS_PER_DAY * 1000));
            } else {
                write_timestamp(out, millis, 3);
            }
        }
        D::Timestamp(unit, zone) => {
            let value = match unit {
                U::Second => value!(TimestampSecondType),
                U::Millisecond => value!(TimestampMillisecondType),
                U::Microsecond => value!(TimestampMicrosecondType),
                U::Nanosecond => value!(TimestampNanosecondType),
            };
            write_timestamp(out, value, digits(*unit));
            if zone.is_some() {
                out.push('Z');
            }
        }
        D::Time32(U::Second) => write_time(out, value!(Time32SecondType), 0),
        D::Time32(_) => write_time(out, value!(Time32MillisecondType), 3),
        D::Time64(U::Microsecond) => write_time(out, value!(Time64MicrosecondType), 6),
        D::Time64(_) => write_time(out, value!(Time64NanosecondType), 9),
        D::Duration(unit) => {
            let value = match unit {
                U::Second => value!(DurationSecondType),
                U::Millisecond => value!(DurationMillisecondType),
                U::Microsecond => value!(DurationMicrosecondType),
                U::Nanosecond => value!(DurationNanosecondType),
            };
            write_period(out, 0, 0, value, digits(*unit));
        }
        D::Interval(IntervalUnit::YearMonth) => write_period(out, value!(IntervalYearMonthType), 0, 0, 0),
        D::Interval(IntervalUnit::DayTime) => {
            let value = array.as_primitive::<IntervalDayTimeType>().value(row);
            write_period(out, 0, i64::from(value.days), i64::from(value.milliseconds), 3);
        }
        D::Interval(IntervalUnit::MonthDayNano) => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            write_period(out, i64::from(value.months), i64::from(value.days), value.nanoseconds, 9);
        }
        other => {
            return Err(Error::new(ErrorKind::Unsupported, "a type has no text form").with("type", other));
        }
    }
    Ok(())
}

fn digits(unit: TimeUnit) -> u32 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

/// ISO 8601 in the proleptic Gregorian calendar; years outside 0000 to 9999 carry a sign.
fn write_date(out: &mut String, days: i64) {
    let (year, month, day) = civil(days);
    match year {
        0..=9999 => push(out, format_args!("{year:04}-{month:02}-{day:02}")),
        10_000.. => push(out, format_args!("+{year}-{month:02}-{day:02}")),
        _ => push(out, format_args!("-{:04}-{month:02}-{day:02}", year.unsigned_abs())),
    }
}

/// Days since 1970-01-01 as year, month, day: Howard Hinnant's `civil_from_days`, which holds for any year.
fn civil(days: i64) -> (i64, i64, i64) {
    // 719_468 days lie between 0000-03-01 and 1970-01-01; an era has 400 years.
    let era = (i128::from(days) + 719_468).div_euclid(146_097);
    let of_era = (i128::from(days) + 719_468).rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March here, so that the leap day is the last one.
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    (narrow(year), narrow(month), narrow(day))
}

fn narrow(value: i128) -> i64 {
    i64::try_from(value).expect("a year of i64 days fits i64")
}

fn write_timestamp(out: &mut String, value: i64, digits: u32) {
    let unit = 10_i64.pow(digits);
    let seconds = value.div_euclid(unit);
    write_date(out, seconds.div_euclid(SECONDS_PER_DAY));
    out.push('T');
    write_time(out, seconds.rem_euclid(SECONDS_PER_DAY) * unit + value.rem_euclid(unit), digits);
}

/// `HH:MM:SS.f`; 24:00:00 and beyond stay what they are.
fn write_time(out: &mut String, value: i64, digits: u32) {
    let unit = 10_i64.pow(digits);
    if value < 0 {
        out.push('-');
    }
    let (seconds, fraction) = ((value / unit).unsigned_abs(), (value % unit).unsigned_abs());
    push(out, format_args!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60));
    write_fraction(out, fraction, digits);
}

fn write_fraction(out: &mut String, fraction: u64, digits: u32) {
    if fraction > 0 {
        let text = format!("{fraction:0width$}", width = digits as usize);
        out.push('.');
        out.push_str(text.trim_end_matches('0'));
    }
}

/// ISO 8601 with a sign on each part, since months, days and time carry their own.
fn write_period(out: &mut String, months: i64, days: i64, time: i64, digits: u32) {
    if (months, days, time) == (0, 0, 0) {
        return out.push_str("PT0S");
    }
    out.push('P');
    for (value, unit) in [(months / 12, 'Y'), (months % 12, 'M'), (days, 'D')] {
        if value != 0 {
            push(out, format_args!("{value}{unit}"));
        }
    }
    if time != 0 {
        let unit = 10_i64.pow(digits);
        out.push('T');
        if time < 0 {
            out.push('-');
        }
        push(out, format_args!("{}", (time / unit).unsigned_abs()));
        write_fraction(out, (time % unit).unsigned_abs(), digits);
        out.push('S');
    }
}

/// Fails where a text column would outgrow the 2 GiB that its offsets can address.
pub(super) fn room(bytes: usize, column: &str) -> Result<()> {
    if i32::try_from(bytes).is_err() {
        return Err(Error::new(ErrorKind::LimitExceeded, "the texts of a column of one batch exceed 2 GiB")
            .with("column", column)
            .hint("the connector makes batches that are too large; report it to its author"));
    }
    Ok(())
}

/// An Arrow kernel failed on types that were checked before.
pub(super) fn kernel(error: ArrowError, column: &str) -> Error {
    Error::unexpected("cannot conform a column").with("column", column).caused_by(error)
}
