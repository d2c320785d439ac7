//! What a check asks of single values: compiled for the type of a column, run over a whole array.

use std::collections::HashSet;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Date64Type, Decimal128Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, StringArray};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{DataType, TimeUnit};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use ingest_core::{Json, Result};
use regex::Regex;

use super::numbers::{Units, units};
use super::values::{as_texts, is_text, slot};
use crate::config::{Bound, CheckOptions, Counts, Range};

/// Bytes that a compiled expression may take, and its cache while it runs.
const REGEX_BYTES: usize = 1 << 20;

/// Compiles an expression. It runs in time linear to the text, whatever the expression.
///
/// # Errors
/// What is wrong with it, on one line.
pub fn regex(text: &str) -> std::result::Result<Regex, String> {
    let built = regex::RegexBuilder::new(text).size_limit(REGEX_BYTES).dfa_size_limit(REGEX_BYTES).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the expression is too large: write fewer or smaller repetitions".to_owned(),
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            format!("the expression cannot be read: {last}")
        }
    })
}

/// A question about a value that is not null.
#[derive(Debug, Clone)]
pub(super) enum Test {
    /// Always yes.
    Any,
    /// One of these texts.
    Texts(Vec<String>),
    /// One of these numbers, in units of the column's last digit.
    Numbers(HashSet<i128>),
    /// One of true and false.
    Bools { yes: bool, no: bool },
    /// Between, in units of the column's last digit.
    Between(i128, i128),
    /// Between.
    Floats(f64, f64),
    /// Between, by bytes.
    Words(Option<String>, Option<String>),
    /// Matches.
    Regex(Regex),
    /// So long.
    Length(u64, u64),
}

/// What a check cannot be asked of a type, for a message.
pub(super) struct Unfit(pub String);

impl Test {
    /// The question of a check for a column of a type.
    pub fn of(options: &CheckOptions, data_type: &DataType) -> std::result::Result<Self, Unfit> {
        let unfit = |takes: &str| Unfit(format!("cannot take a column of type {data_type}: it takes {takes}"));
        if let Some(values) = &options.accepted_values {
            return accepted(values, data_type);
        }
        if let Some(range) = &options.range {
            return between(range, data_type);
        }
        if let Some(text) = &options.regex {
            if !is_text(data_type) {
                return Err(unfit("text"));
            }
            return regex(text).map(Self::Regex).map_err(Unfit);
        }
        if let Some(Counts { min, max }) = options.length {
            use DataType as D;
            let has_length = is_text(data_type)
                || matches!(
                    data_type,
                    D::Binary
                        | D::LargeBinary
                        | D::FixedSizeBinary(_)
                        | D::List(_)
                        | D::LargeList(_)
                        | D::FixedSizeList(..)
                );
            let test = Self::Length(min.unwrap_or(0), max.unwrap_or(u64::MAX));
            return if has_length { Ok(test) } else { Err(unfit("text, bytes and lists")) };
        }
        Ok(Self::Any)
    }

    /// The rows that fail; `None` where none does. Null passes.
    pub fn failing(&self, array: &ArrayRef, column: &str) -> Result<Option<BooleanBuffer>> {
        let failing = match self {
            Self::Any => return Ok(None),
            Self::Texts(accepted) => {
                let texts = as_texts(array, column)?;
                rows_by_text(texts.as_string(), |text| !accepted.iter().any(|one| one == text))
            }
            Self::Numbers(accepted) => rows_by_number(array, |number| !accepted.contains(&number)),
            Self::Bools { yes, no } => {
                let values = array.as_boolean();
                rows(array, |row| if values.value(row) { !yes } else { !no })
            }
            Self::Between(min, max) => rows_by_number(array, |number| number < *min || number > *max),
            Self::Floats(min, max) => {
                let array = arrow_cast::cast(array, &DataType::Float64)?;
                let values = array.as_primitive::<Float64Type>().values();
                // Not a number lies nowhere.
                rows(&array, |row| !(values[row] >= *min && values[row] <= *max))
            }
            Self::Words(min, max) => {
                let texts = as_texts(array, column)?;
                let below = |text: &str| min.as_ref().is_some_and(|min| text < min.as_str());
                let above = |text: &str| max.as_ref().is_some_and(|max| text > max.as_str());
                rows_by_text(texts.as_string(), |text| below(text) || above(text))
            }
            Self::Regex(regex) => {
                let texts = as_texts(array, column)?;
                rows_by_text(texts.as_string(), |text| !regex.is_match(text))
            }
            Self::Length(min, max) => {
                let outside = |length: usize| !(*min..=*max).contains(&(length as u64));
                lengths(array, column, outside)?
            }
        };
        Ok((failing.count_set_bits() > 0).then_some(failing))
    }
}

/// The valid rows for which something holds.
fn rows(array: &dyn Array, fails: impl Fn(usize) -> bool) -> BooleanBuffer {
    let nulls = array.logical_nulls();
    BooleanBuffer::collect_bool(array.len(), |row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) && fails(row))
}

/// As [`rows`], by text; the answer for a text is kept for when it comes again.
fn rows_by_text(texts: &StringArray, fails: impl Fn(&str) -> bool) -> BooleanBuffer {
    let mut remembered: Vec<(u32, bool)> = vec![(0, false); 1 << 10];
    BooleanBuffer::collect_bool(texts.len(), |row| {
        if texts.is_null(row) {
            return false;
        }
        let text = texts.value(row);
        let (before, answer) = &mut remembered[slot(text.as_bytes())];
        let known = (*before as usize).checked_sub(1).is_some_and(|before| texts.value(before) == text);
        if !known {
            (*before, *answer) = (u32::try_from(row + 1).unwrap_or(0), fails(text));
        }
        *answer
    })
}

/// As [`rows`], by number in units of the last digit.
fn rows_by_number(array: &ArrayRef, fails: impl Fn(i128) -> bool) -> BooleanBuffer {
    macro_rules! numbers {
        ($type:ty) => {{
            let values = array.as_primitive::<$type>().values();
            rows(array, |row| fails(i128::from(values[row])))
        }};
    }
    match array.data_type() {
        DataType::Int8 => numbers!(Int8Type),
        DataType::Int16 => numbers!(Int16Type),
        DataType::Int32 => numbers!(Int32Type),
        DataType::Int64 => numbers!(Int64Type),
        DataType::UInt8 => numbers!(UInt8Type),
        DataType::UInt16 => numbers!(UInt16Type),
        DataType::UInt32 => numbers!(UInt32Type),
        DataType::UInt64 => numbers!(UInt64Type),
        DataType::Decimal128(..) => numbers!(Decimal128Type),
        DataType::Date32 => numbers!(Date32Type),
        DataType::Date64 => numbers!(Date64Type),
        DataType::Timestamp(TimeUnit::Second, _) => numbers!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => numbers!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => numbers!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => numbers!(TimestampNanosecondType),
        // `Test::of` makes no question about numbers for other types.
        _ => BooleanBuffer::new_set(array.len()),
    }
}

fn lengths(array: &ArrayRef, column: &str, outside: impl Fn(usize) -> bool) -> Result<BooleanBuffer> {
    Ok(match array.data_type() {
        DataType::Binary => rows(array, |row| outside(array.as_binary::<i32>().value(row).len())),
        DataType::LargeBinary => rows(array, |row| outside(array.as_binary::<i64>().value(row).len())),
        DataType::FixedSizeBinary(size) => rows(array, |_| outside(usize::try_from(*size).unwrap_or(0))),
        DataType::List(_) => rows(array, |row| outside(array.as_list::<i32>().value_length(row) as usize)),
        DataType::LargeList(_) => rows(array, |row| outside(array.as_list::<i64>().value_length(row) as usize)),
        DataType::FixedSizeList(_, size) => rows(array, |_| outside(usize::try_from(*size).unwrap_or(0))),
        _ => {
            let texts = as_texts(array, column)?;
            let length = |text: &str| if text.is_ascii() { text.len() } else { text.chars().count() };
            rows_by_text(texts.as_string(), |text| outside(length(text)))
        }
    })
}

/// The digits behind the point of a type that is counted in units; `None` for other types.
fn scale(data_type: &DataType) -> Option<i8> {
    match data_type {
        DataType::Decimal128(_, scale) => Some(*scale),
        other => other.is_integer().then_some(0),
    }
}

fn accepted(values: &[Json], data_type: &DataType) -> std::result::Result<Test, Unfit> {
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let wrong = |value: &Json| Unfit(format!("{value} is no value of a column of type {data_type}"));
    if is_text(data_type) {
        return Ok(Test::Texts(values.iter().map(text).collect()));
    }
    if let Some(scale) = scale(data_type) {
        // A number with more digits than the column has is a value that it cannot hold: it accepts nothing.
        let read = |value: &Json| units(&text(value), scale).ok_or_else(|| wrong(value)).map(|units| units.exact);
        let numbers: Vec<Option<i128>> = values.iter().map(read).collect::<std::result::Result<_, _>>()?;
        return Ok(Test::Numbers(numbers.into_iter().flatten().collect()));
    }
    if matches!(data_type, DataType::Date32 | DataType::Date64 | DataType::Timestamp(..)) {
        let read = |value: &Json| instant(&text(value), data_type).ok_or_else(|| wrong(value)).map(|units| units.exact);
        let instants: Vec<Option<i128>> = values.iter().map(read).collect::<std::result::Result<_, _>>()?;
        return Ok(Test::Numbers(instants.into_iter().flatten().collect()));
    }
    if *data_type == DataType::Boolean {
        let has = |wanted: bool| values.iter().any(|value| value.as_bool() == Some(wanted));
        return match values.iter().find(|value| !value.is_boolean()) {
            Some(value) => Err(wrong(value)),
            None => Ok(Test::Bools { yes: has(true), no: has(false) }),
        };
    }
    Err(Unfit(format!(
        "cannot take a column of type {data_type}: it takes text, whole numbers, decimals, dates, times, true and false"
    )))
}

fn between(range: &Range, data_type: &DataType) -> std::result::Result<Test, Unfit> {
    let text = |bound: &Option<Bound>| bound.as_ref().map(Bound::text);
    let wrong = |bound: &str| Unfit(format!("{bound:?} is no bound for a column of type {data_type}"));
    let units_of = |bound: &Option<Bound>| -> std::result::Result<Option<Units>, Unfit> {
        let Some(bound) = text(bound) else { return Ok(None) };
        let read = match scale(data_type) {
            Some(scale) => units(&bound, scale),
            None => instant(&bound, data_type),
        };
        read.map(Some).ok_or_else(|| wrong(&bound))
    };
    let floats = |bound: &Option<Bound>, other: f64| -> std::result::Result<f64, Unfit> {
        let Some(bound) = text(bound) else { return Ok(other) };
        bound.parse::<f64>().map_err(|_| wrong(&bound))
    };
    use DataType as D;
    match data_type {
        D::Float16 | D::Float32 | D::Float64 => {
            Ok(Test::Floats(floats(&range.min, f64::NEG_INFINITY)?, floats(&range.max, f64::INFINITY)?))
        }
        D::Date32 | D::Date64 | D::Timestamp(..) => counted(units_of(&range.min)?, units_of(&range.max)?),
        _ if scale(data_type).is_some() => counted(units_of(&range.min)?, units_of(&range.max)?),
        _ if is_text(data_type) => {
            let written = [&range.min, &range.max].into_iter().flatten();
            if let Some(Bound::Number(number)) = written.into_iter().find(|b| matches!(b, Bound::Number(_))) {
                return Err(Unfit(format!(
                    "the column is text, and {number} a number: put it in quotes to compare by bytes"
                )));
            }
            Ok(Test::Words(text(&range.min), text(&range.max)))
        }
        _ => Err(Unfit(format!("cannot take a column of type {data_type}: it takes numbers, dates, times and text"))),
    }
}

fn counted(min: Option<Units>, max: Option<Units>) -> std::result::Result<Test, Unfit> {
    Ok(Test::Between(min.map_or(i128::MIN, |min| min.ceil), max.map_or(i128::MAX, |max| max.floor)))
}

/// A date or time in units of a column; a time without a zone is UTC.
fn instant(text: &str, data_type: &DataType) -> Option<Units> {
    let naive = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f"))
        .ok()
        .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0));
    let micros = match naive {
        Some(naive) => naive.and_utc().timestamp_micros(),
        None => DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros(),
    };
    let micros = i128::from(micros);
    let a_unit: i128 = match data_type {
        DataType::Date32 => 86_400_000_000,
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000,
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let nanos = micros * 1_000;
            return Some(Units { exact: Some(nanos), ceil: nanos, floor: nanos });
        }
        _ => return None,
    };
    let floor = micros.div_euclid(a_unit);
    let is_exact = micros.rem_euclid(a_unit) == 0;
    Some(Units { exact: is_exact.then_some(floor), floor, ceil: floor + i128::from(!is_exact) })
}

/// The newest of a column of times: microseconds UTC. `None` where all are null.
pub(super) fn newest(array: &ArrayRef) -> Option<i64> {
    use arrow::compute::max;
    macro_rules! newest {
        ($type:ty) => {
            max(array.as_primitive::<$type>()).map(i64::from)
        };
    }
    match array.data_type() {
        DataType::Date32 => newest!(Date32Type)?.checked_mul(86_400_000_000),
        DataType::Date64 => newest!(Date64Type)?.checked_mul(1_000),
        DataType::Timestamp(TimeUnit::Second, _) => newest!(TimestampSecondType)?.checked_mul(1_000_000),
        DataType::Timestamp(TimeUnit::Millisecond, _) => newest!(TimestampMillisecondType)?.checked_mul(1_000),
        DataType::Timestamp(TimeUnit::Microsecond, _) => newest!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => newest!(TimestampNanosecondType).map(|n| n.div_euclid(1_000)),
        _ => None,
    }
}
