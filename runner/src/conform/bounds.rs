//! What the values of a column are checked for before the table format casts them.
//!
//! Only what can fail is checked, and the usual case, where nothing fails, is one pass without branches over the values.

use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DurationMillisecondType, DurationSecondType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt64Type,
};
use arrow_array::{Array, PrimitiveArray};
use arrow_buffer::{BooleanBuffer, i256};
use arrow_schema::{DataType, Field, Fields, TimeUnit};

/// 0001-01-01 in days since 1970-01-01.
const FIRST_DAY: i64 = -719_162;
/// 9999-12-31.
const LAST_DAY: i64 = 2_932_896;
const SECONDS_PER_DAY: i64 = 86_400;

/// What is checked for a column of one type that is stored as another.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Bounds {
    /// Date32 within the years 0001 to 9999.
    Days,
    /// Date64 within those years, and a whole number of days.
    WholeDays,
    /// A timestamp within those years: first and last value in its unit.
    Instant(TimeUnit, i64, i64),
    /// A duration that fits i64 in microseconds: the largest magnitude in its unit.
    Duration(TimeUnit, i64),
    /// UInt64 that fits Int64.
    Unsigned,
    /// A decimal of at most this many digits.
    Digits(u8),
    /// The elements of a list.
    Elements(Box<Bounds>),
    /// The fields of a struct, in order.
    Fields(Vec<Option<Bounds>>),
    /// Keys and values of a map.
    Entries(Option<Box<Bounds>>, Option<Box<Bounds>>),
}

impl Bounds {
    /// What must be checked; `None` = every value can be stored.
    pub(super) fn of(from: &DataType, stored: &DataType) -> Option<Self> {
        use DataType as D;
        Some(match (from, stored) {
            (D::Date32, D::Date32 | D::Timestamp(..)) => Self::Days,
            (D::Date64, D::Date32) => Self::WholeDays,
            (D::Timestamp(unit, _), D::Timestamp(..)) => {
                let second = per_second(*unit);
                // Nanoseconds in i64 end in 1677 and 2262.
                let first = FIRST_DAY.checked_mul(SECONDS_PER_DAY)?.checked_mul(second)?;
                let last = (LAST_DAY + 1).checked_mul(SECONDS_PER_DAY)?.checked_mul(second)? - 1;
                Self::Instant(*unit, first, last)
            }
            (D::Duration(unit @ (TimeUnit::Second | TimeUnit::Millisecond)), D::Int64) => {
                Self::Duration(*unit, i64::MAX / (1_000_000 / per_second(*unit)))
            }
            (D::UInt64, D::Int64) => Self::Unsigned,
            (
                D::Decimal32(_, from) | D::Decimal64(_, from) | D::Decimal128(_, from) | D::Decimal256(_, from),
                D::Decimal32(digits, to)
                | D::Decimal64(digits, to)
                | D::Decimal128(digits, to)
                | D::Decimal256(digits, to),
            ) => {
                // A larger scale appends zeros, which take room.
                let zeros = u8::try_from(i16::from(*to) - i16::from(*from)).unwrap_or(0);
                Self::Digits(digits.saturating_sub(zeros))
            }
            (D::Struct(from), D::Struct(stored)) => return Self::of_fields(from, stored),
            (D::Map(from, _), D::Map(stored, _)) => {
                let ((key, value), (stored_key, stored_value)) = (pair(from)?, pair(stored)?);
                let key = Self::of(key.data_type(), stored_key.data_type());
                let value = Self::of(value.data_type(), stored_value.data_type());
                if key.is_none() && value.is_none() {
                    return None;
                }
                Self::Entries(key.map(Box::new), value.map(Box::new))
            }
            (from, stored) => {
                Self::Elements(Box::new(Self::of(element(from)?.data_type(), element(stored)?.data_type())?))
            }
        })
    }

    fn of_fields(from: &Fields, stored: &Fields) -> Option<Self> {
        let fields: Vec<_> =
            from.iter().zip(stored).map(|(from, stored)| Self::of(from.data_type(), stored.data_type())).collect();
        fields.iter().any(Option::is_some).then_some(Self::Fields(fields))
    }

    /// The rows whose value lies outside; `None` = nothing does.
    ///
    /// A cast looks at everything below a nested array, also at what no row refers to and what lies under a null. If
    /// only such values lie outside, the mask is empty or names null rows: the array must be taken apart all the same.
    pub(super) fn outside(&self, array: &dyn Array) -> Option<BooleanBuffer> {
        match self {
            Self::Days => {
                let (first, last) = (FIRST_DAY as i32, LAST_DAY as i32);
                outside(array.as_primitive::<Date32Type>(), |v| (v < first) | (v > last))
            }
            Self::WholeDays => {
                let day = SECONDS_PER_DAY * 1000;
                let (first, last) = (FIRST_DAY * day, LAST_DAY * day);
                outside(array.as_primitive::<Date64Type>(), |v| (v < first) | (v > last) | (v % day != 0))
            }
            Self::Instant(unit, first, last) => {
                let is_outside = |v: i64| (v < *first) | (v > *last);
                match unit {
                    TimeUnit::Second => outside(array.as_primitive::<TimestampSecondType>(), is_outside),
                    TimeUnit::Millisecond => outside(array.as_primitive::<TimestampMillisecondType>(), is_outside),
                    TimeUnit::Microsecond => outside(array.as_primitive::<TimestampMicrosecondType>(), is_outside),
                    TimeUnit::Nanosecond => outside(array.as_primitive::<TimestampNanosecondType>(), is_outside),
                }
            }
            Self::Duration(unit, most) => {
                let is_outside = |v: i64| (v < -*most) | (v > *most);
                match unit {
                    TimeUnit::Second => outside(array.as_primitive::<DurationSecondType>(), is_outside),
                    _ => outside(array.as_primitive::<DurationMillisecondType>(), is_outside),
                }
            }
            Self::Unsigned => outside(array.as_primitive::<UInt64Type>(), |v| v > i64::MAX as u64),
            Self::Digits(digits) => outside_digits(array, *digits),
            Self::Elements(bounds) => {
                let (elements, range) = elements(array)?;
                Some(rows_of(array.len(), &bounds.outside(elements)?, range))
            }
            Self::Fields(fields) => {
                let columns = array.as_struct().columns();
                let found = fields.iter().zip(columns).filter_map(|(bounds, column)| bounds.as_ref()?.outside(column));
                found.reduce(|a, b| &a | &b)
            }
            Self::Entries(key, value) => {
                let map = array.as_map();
                let keys = key.as_ref().and_then(|bounds| bounds.outside(map.keys()));
                let values = value.as_ref().and_then(|bounds| bounds.outside(map.values()));
                let found = either(keys, values)?;
                let offsets = map.offsets();
                Some(rows_of(array.len(), &found, |row| offsets[row] as usize..offsets[row + 1] as usize))
            }
        }
    }
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// The rows that either mask names.
pub(super) fn either(a: Option<BooleanBuffer>, b: Option<BooleanBuffer>) -> Option<BooleanBuffer> {
    match (a, b) {
        (Some(a), Some(b)) => Some(&a | &b),
        (a, b) => a.or(b),
    }
}

/// Key and value of a map's entries.
pub(super) fn pair(entries: &Field) -> Option<(&Field, &Field)> {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => Some((&fields[0], &fields[1])),
        _ => None,
    }
}

/// The element of any list type.
pub(super) fn element(data_type: &DataType) -> Option<&Field> {
    match data_type {
        DataType::List(e)
        | DataType::LargeList(e)
        | DataType::ListView(e)
        | DataType::LargeListView(e)
        | DataType::FixedSizeList(e, _) => Some(e),
        _ => None,
    }
}

fn outside<T: ArrowPrimitiveType>(
    array: &PrimitiveArray<T>,
    is_outside: impl Fn(T::Native) -> bool,
) -> Option<BooleanBuffer> {
    // What lies under a null is read too, so that the pass has no branch; the second pass settles it.
    let values = array.values();
    if !values.iter().fold(false, |found, value| found | is_outside(*value)) {
        return None;
    }
    valid_among(array, BooleanBuffer::collect_bool(values.len(), |row| is_outside(values[row])))
}

fn outside_digits(array: &dyn Array, digits: u8) -> Option<BooleanBuffer> {
    let exponent = u32::from(digits);
    match array.data_type() {
        DataType::Decimal32(..) => {
            let limit = 10_i32.checked_pow(exponent)?;
            outside(array.as_primitive::<Decimal32Type>(), |v| (v <= -limit) | (v >= limit))
        }
        DataType::Decimal64(..) => {
            let limit = 10_i64.checked_pow(exponent)?;
            outside(array.as_primitive::<Decimal64Type>(), |v| (v <= -limit) | (v >= limit))
        }
        DataType::Decimal128(..) => {
            let limit = 10_i128.checked_pow(exponent)?;
            outside(array.as_primitive::<Decimal128Type>(), |v| (v <= -limit) | (v >= limit))
        }
        _ => {
            let limit = i256::from_i128(10).checked_pow(exponent)?;
            outside(array.as_primitive::<Decimal256Type>(), |v| (v <= limit.wrapping_neg()) | (v >= limit))
        }
    }
}

type RowRange<'a> = dyn Fn(usize) -> Range<usize> + 'a;

/// The elements of a list, and where those of a row lie. List views have become lists by now.
fn elements(array: &dyn Array) -> Option<(&dyn Array, Box<RowRange<'_>>)> {
    Some(match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            (list.values(), Box::new(|row| list.offsets()[row] as usize..list.offsets()[row + 1] as usize))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            (list.values(), Box::new(|row| list.offsets()[row] as usize..list.offsets()[row + 1] as usize))
        }
        DataType::FixedSizeList(_, size) => {
            let (list, size) = (array.as_fixed_size_list(), *size as usize);
            (list.values(), Box::new(move |row| row * size..(row + 1) * size))
        }
        _ => return None,
    })
}

/// The rows one of whose parts is in `found`. Null rows may be among them.
pub(super) fn rows_of(rows: usize, found: &BooleanBuffer, range: impl Fn(usize) -> Range<usize>) -> BooleanBuffer {
    BooleanBuffer::collect_bool(rows, |row| range(row).any(|i| found.value(i)))
}

/// Those of the rows that are not null.
pub(super) fn valid_among(array: &dyn Array, rows: BooleanBuffer) -> Option<BooleanBuffer> {
    match array.nulls() {
        Some(nulls) => some(&rows & nulls.inner()),
        None => some(rows),
    }
}

/// A mask with at least one row in it.
pub(super) fn some(rows: BooleanBuffer) -> Option<BooleanBuffer> {
    (rows.count_set_bits() > 0).then_some(rows)
}
