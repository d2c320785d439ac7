//! Which type values have in common.

use arrow_schema::{DataType, TimeUnit};

/// Digits of the widest decimal.
const WIDEST: u8 = 76;

/// What a number is that is written without an exponent: digits before the point, and behind it.
pub fn exact(written: &str) -> Option<(usize, usize)> {
    let digits = written.strip_prefix('-').unwrap_or(written);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let fits = are_digits(whole) && are_digits(part) && whole.len() + part.len() <= usize::from(WIDEST);
    (fits && !(whole.is_empty() && part.is_empty())).then_some((whole.len(), part.len()))
}

/// A decimal that holds everything with so many digits behind the point.
pub fn decimal(scale: i8) -> DataType {
    DataType::Decimal256(WIDEST, scale)
}

pub fn is_number(data_type: &DataType) -> bool {
    data_type.is_integer() || data_type.is_floating() || scale(data_type).is_some()
}

pub fn is_moment(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Date64 | DataType::Timestamp(..))
}

/// The digits behind the point of an exact number.
pub fn scale(data_type: &DataType) -> Option<i8> {
    match data_type {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => Some((*scale).max(0)),
        other => other.is_integer().then_some(0),
    }
}

/// The type in which values of two can be compared; `None` where there is none.
pub fn common(a: &DataType, b: &DataType) -> Option<DataType> {
    if a == b {
        return Some(a.clone());
    }
    if is_number(a) && is_number(b) {
        return Some(match (scale(a), scale(b)) {
            (Some(left), Some(right)) => {
                let signed = |data_type: &DataType| data_type.is_integer() && *data_type != DataType::UInt64;
                if signed(a) && signed(b) { DataType::Int64 } else { decimal(left.max(right)) }
            }
            _ => DataType::Float64,
        });
    }
    (is_moment(a) && is_moment(b)).then(|| DataType::Timestamp(finer(unit(a), unit(b)), Some("UTC".into())))
}

/// The type in which a number as it is written can be compared with values of a type.
pub fn with_number(data_type: &DataType, written: &str) -> Option<DataType> {
    if !is_number(data_type) {
        return None;
    }
    let Some((whole, part)) = exact(written) else { return Some(DataType::Float64) };
    let behind = i8::try_from(part).unwrap_or(i8::MAX);
    Some(match data_type {
        float if float.is_floating() => DataType::Float64,
        DataType::Decimal128(_, scale) if *scale >= behind && whole + usize::from(scale.unsigned_abs()) <= 38 => {
            data_type.clone()
        }
        integer if integer.is_integer() => match (fits(integer, written), written.parse::<i64>()) {
            (true, _) => data_type.clone(),
            (false, Ok(_)) if *integer != DataType::UInt64 => DataType::Int64,
            _ => decimal(behind),
        },
        other => decimal(scale(other).unwrap_or(0).max(behind)),
    })
}

/// The type of a number that stands by itself.
pub fn of_number(written: &str) -> DataType {
    match exact(written) {
        Some((_, 0)) if written.parse::<i64>().is_ok() => DataType::Int64,
        Some((_, part)) => decimal(i8::try_from(part).unwrap_or(i8::MAX)),
        None => DataType::Float64,
    }
}

fn fits(integer: &DataType, written: &str) -> bool {
    let Ok(value) = written.parse::<i128>() else { return false };
    let within = |least: i128, most: i128| (least..=most).contains(&value);
    match integer {
        DataType::Int8 => within(i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => within(i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => within(i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 => within(i64::MIN.into(), i64::MAX.into()),
        DataType::UInt8 => within(0, u8::MAX.into()),
        DataType::UInt16 => within(0, u16::MAX.into()),
        DataType::UInt32 => within(0, u32::MAX.into()),
        DataType::UInt64 => within(0, u64::MAX.into()),
        _ => false,
    }
}

fn unit(data_type: &DataType) -> TimeUnit {
    match data_type {
        DataType::Timestamp(unit, _) => *unit,
        DataType::Date64 => TimeUnit::Millisecond,
        _ => TimeUnit::Second,
    }
}

fn finer(a: TimeUnit, b: TimeUnit) -> TimeUnit {
    let rank = |unit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    };
    if rank(a) >= rank(b) { a } else { b }
}
