//! Conversions between stored types that keep a value exactly or name the row where they cannot.
//!
//! | from | to | rule |
//! | --- | --- | --- |
//! | smaller integer, float or decimal | larger one that holds every value | widened |
//! | date | timestamp without zone | widened: midnight |
//! | anything | text | its text |
//! | number | number | kept where the target holds the same number: no rounding, no overflow |
//! | text | number, boolean, date, timestamp, binary | kept where the text is the plain spelling of such a value |
//! | timestamp without zone | date | kept at midnight |
//! | list, struct, map | the same kind | by their parts |
//! | anything else | | never: a zone is not made up, a flag is no number |

use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder, Int8Builder, Int16Builder,
    Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, ListArray, MapArray, StructArray, UInt32Array, make_array, new_null_array,
};
use arrow_buffer::{BooleanBuffer, OffsetBuffer};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, Fields, TimeUnit};
use ingest_core::{Error, Result};

use super::bounds::{either, pair, rows_of, some, valid_among};
use super::names::same_column;
use super::spelling;
use super::text::{kernel, room, write_text};

/// How values of one stored type become another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The types differ at most in the names and nullability of nested fields.
    Same,
    /// Every value fits.
    Widen,
    /// The kernel gives null where a value does not fit, and never rounds.
    Fit,
    /// By way of the value's text.
    Parse,
    /// The text is the value.
    Text,
    /// By the parts.
    Nested,
    /// No value fits.
    Never,
}

/// An array in the wanted type, null where a value was lost.
pub(super) struct Converted {
    pub array: ArrayRef,
    /// The rows whose value did not survive; `None` = all did.
    pub lost: Option<BooleanBuffer>,
}

/// How values of `from` become `to`. Both are stored types.
pub(super) fn rule(from: &DataType, to: &DataType) -> Rule {
    use DataType as D;
    if same_type(from, to) {
        return Rule::Same;
    }
    match (from, to) {
        (D::Null, _) => Rule::Widen,
        (_, D::Utf8) => Rule::Text,
        (D::Utf8, D::Binary) => Rule::Widen,
        (D::Utf8, D::Boolean | D::Date32) => Rule::Parse,
        (D::Utf8, D::Timestamp(TimeUnit::Microsecond, zone)) if is_utc(zone.as_deref()) => Rule::Parse,
        (D::Utf8, to) if is_number(to) => Rule::Parse,
        (D::Date32, D::Timestamp(TimeUnit::Microsecond, None)) => Rule::Widen,
        (D::Timestamp(TimeUnit::Microsecond, None), D::Date32) => Rule::Parse,
        (D::Float32, D::Float64) => Rule::Widen,
        (from, to) if integer_digits(from).is_some() => integer_rule(from, to),
        (D::Decimal128(p, s), D::Decimal128(to_p, to_s)) if to_s >= s => {
            let (whole, to_whole) = (i16::from(*p) - i16::from(*s), i16::from(*to_p) - i16::from(*to_s));
            if to_whole >= whole { Rule::Widen } else { Rule::Fit }
        }
        (from, to) if is_number(from) && is_number(to) => Rule::Parse,
        (D::List(_), D::List(_)) | (D::Struct(_), D::Struct(_)) => Rule::Nested,
        (D::Map(a, _), D::Map(b, _)) if pair(a).is_some() && pair(b).is_some() => Rule::Nested,
        _ => Rule::Never,
    }
}

fn integer_rule(from: &DataType, to: &DataType) -> Rule {
    use DataType as D;
    let digits = integer_digits(from).unwrap_or(u8::MAX);
    match to {
        D::Int8 | D::Int16 | D::Int32 | D::Int64 => {
            if integer_digits(to) >= Some(digits) {
                Rule::Widen
            } else {
                Rule::Fit
            }
        }
        D::Float32 if digits <= 5 => Rule::Widen,
        D::Float64 if digits <= 10 => Rule::Widen,
        D::Decimal128(p, s) if *s >= 0 => {
            if i16::from(*p) - i16::from(*s) >= i16::from(digits) {
                Rule::Widen
            } else {
                Rule::Fit
            }
        }
        to if is_number(to) => Rule::Parse,
        _ => Rule::Never,
    }
}

/// Decimal digits of the largest value.
fn integer_digits(data_type: &DataType) -> Option<u8> {
    match data_type {
        DataType::Int8 => Some(3),
        DataType::Int16 => Some(5),
        DataType::Int32 => Some(10),
        DataType::Int64 => Some(19),
        _ => None,
    }
}

fn is_number(data_type: &DataType) -> bool {
    integer_digits(data_type).is_some()
        || matches!(data_type, DataType::Float32 | DataType::Float64 | DataType::Decimal128(..))
}

fn is_utc(zone: Option<&str>) -> bool {
    zone.is_none_or(|zone| zone == "UTC")
}

/// Whether two types hold the same values: the names of list elements and map entries, nullability and metadata at any
/// depth are ignored, as is the order of a struct's fields.
pub(super) fn same_type(a: &DataType, b: &DataType) -> bool {
    use DataType as D;
    match (a, b) {
        (D::List(a), D::List(b)) => same_type(a.data_type(), b.data_type()),
        (D::Map(a, _), D::Map(b, _)) => match (pair(a), pair(b)) {
            (Some((ak, av)), Some((bk, bv))) => {
                same_type(ak.data_type(), bk.data_type()) && same_type(av.data_type(), bv.data_type())
            }
            _ => false,
        },
        (D::Struct(a), D::Struct(b)) => {
            a.len() == b.len()
                && b.iter().all(|to| find(a, to).is_some_and(|i| same_type(a[i].data_type(), to.data_type())))
        }
        (a, b) => a == b,
    }
}

/// The place of the field that `to` stands for.
fn find(fields: &Fields, to: &Field) -> Option<usize> {
    fields
        .iter()
        .position(|field| field.name() == to.name())
        .or_else(|| fields.iter().position(|field| same_column(field.name(), to.name())))
}

/// Converts an array between stored types.
pub(super) fn convert(array: &ArrayRef, to: &DataType, column: &str) -> Result<Converted> {
    if array.data_type() == to {
        return Ok(Converted { array: array.clone(), lost: None });
    }
    match rule(array.data_type(), to) {
        Rule::Same | Rule::Nested => convert_nested(array, to, column),
        Rule::Widen | Rule::Fit => {
            if array.data_type() == &DataType::Null {
                return Ok(Converted { array: new_null_array(to, array.len()), lost: None });
            }
            let options = CastOptions { safe: true, ..CastOptions::default() };
            let cast = cast_with_options(array, to, &options).map_err(|e| kernel(e, column))?;
            let lost = newly_null(array, &cast);
            Ok(Converted { array: cast, lost })
        }
        Rule::Parse => parse(array, to, column),
        Rule::Text => Ok(Converted { array: texts(array, column)?, lost: None }),
        Rule::Never => Ok(Converted { array: new_null_array(to, array.len()), lost: all_valid(array) }),
    }
}

/// The rows that were not null; `None` = none.
pub(super) fn all_valid(array: &dyn Array) -> Option<BooleanBuffer> {
    some(match array.logical_nulls() {
        Some(nulls) => nulls.into_inner(),
        None => BooleanBuffer::new_set(array.len()),
    })
}

fn newly_null(before: &dyn Array, after: &dyn Array) -> Option<BooleanBuffer> {
    if before.null_count() == after.null_count() {
        return None;
    }
    some(BooleanBuffer::collect_bool(before.len(), |row| before.is_valid(row) && after.is_null(row)))
}

/// Sets rows to null. What lay under them is gone from nested values too, so that no later cast stumbles over it.
pub(super) fn blank(array: &ArrayRef, rows: &BooleanBuffer, column: &str) -> Result<ArrayRef> {
    if !array.data_type().is_nested() {
        let rows = BooleanArray::new(rows.clone(), None);
        return arrow_select::nullif::nullif(array, &rows).map_err(|e| kernel(e, column));
    }
    let indices: UInt32Array =
        (0..array.len()).map(|row| if rows.value(row) { None } else { u32::try_from(row).ok() }).collect();
    arrow_select::take::take(array, &indices, None).map_err(|e| kernel(e, column))
}

fn convert_nested(array: &ArrayRef, to: &DataType, column: &str) -> Result<Converted> {
    match (array.data_type(), to) {
        (DataType::List(_), DataType::List(field)) => convert_list(array.as_list::<i32>(), field, column),
        (DataType::Struct(_), DataType::Struct(fields)) => convert_struct(array.as_struct(), fields, column),
        (DataType::Map(..), DataType::Map(field, sorted)) => convert_map(array.as_map(), field, *sorted, column),
        (from, to) => {
            Err(Error::unexpected("no rule between two types").with("column", column).with("from", from).with("to", to))
        }
    }
}

fn convert_list(list: &ListArray, field: &Arc<Field>, column: &str) -> Result<Converted> {
    let (values, offsets) = referenced(list.values(), list.offsets());
    let inner = convert(&values, field.data_type(), column)?;
    let range = |row: usize| offsets[row] as usize..offsets[row + 1] as usize;
    let lost = inner.lost.and_then(|lost| valid_among(list, rows_of(list.len(), &lost, range)));
    let array = ListArray::try_new(field.clone(), offsets, inner.array, list.nulls().cloned())
        .map_err(|e| kernel(e, column))?;
    Ok(Converted { array: Arc::new(array), lost })
}

/// The part of a list's values that its rows refer to, and the offsets into that part.
fn referenced(values: &ArrayRef, offsets: &OffsetBuffer<i32>) -> (ArrayRef, OffsetBuffer<i32>) {
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    let values = values.slice(first as usize, (last - first) as usize);
    if first == 0 {
        return (values, offsets.clone());
    }
    let shifted: Vec<i32> = offsets.iter().map(|offset| offset - first).collect();
    (values, OffsetBuffer::new(shifted.into()))
}

fn convert_struct(array: &StructArray, fields: &Fields, column: &str) -> Result<Converted> {
    let mut lost: Option<BooleanBuffer> = None;
    let mut taken = vec![false; array.num_columns()];
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let Some(index) = find(array.fields(), field) else {
            columns.push(new_null_array(field.data_type(), array.len()));
            continue;
        };
        taken[index] = true;
        let part = convert(array.column(index), field.data_type(), column)?;
        lost = either(lost, part.lost);
        columns.push(part.array);
    }
    // A field that the table has no place for is lost where it holds something.
    for (index, _) in taken.iter().enumerate().filter(|(_, taken)| !**taken) {
        lost = either(lost, all_valid(array.column(index)));
    }
    let lost = lost.and_then(|lost| valid_among(array, lost));
    let array = StructArray::try_new_with_length(fields.clone(), columns, array.nulls().cloned(), array.len())
        .map_err(|e| kernel(e, column))?;
    Ok(Converted { array: Arc::new(array), lost })
}

fn convert_map(map: &MapArray, field: &Arc<Field>, sorted: bool, column: &str) -> Result<Converted> {
    let DataType::Struct(to) = field.data_type() else {
        return Err(Error::unexpected("a map without entries").with("column", column));
    };
    let (first, last) = (map.offsets()[0], map.offsets()[map.len()]);
    let length = (last - first) as usize;
    let offsets: Vec<i32> = map.offsets().iter().map(|offset| offset - first).collect();
    let range = |row: usize| offsets[row] as usize..offsets[row + 1] as usize;
    let keys = convert(&map.keys().slice(first as usize, length), to[0].data_type(), column)?;
    if let Some(lost) = keys.lost {
        let lost = rows_of(map.len(), &lost, range);
        // A key cannot be null: the rows go first, then the rest is converted.
        let kept = blank(&make_array(map.to_data()), &lost, column)?;
        let rest = convert(&kept, &DataType::Map(field.clone(), sorted), column)?;
        return Ok(Converted { array: rest.array, lost: either(valid_among(map, lost), rest.lost) });
    }
    let values = convert(&map.values().slice(first as usize, length), to[1].data_type(), column)?;
    let lost = values.lost.and_then(|lost| valid_among(map, rows_of(map.len(), &lost, range)));
    let entries =
        StructArray::try_new(to.clone(), vec![keys.array, values.array], None).map_err(|e| kernel(e, column))?;
    let offsets = OffsetBuffer::new(offsets.into());
    let array = MapArray::try_new(field.clone(), offsets, entries, map.nulls().cloned(), sorted)
        .map_err(|e| kernel(e, column))?;
    Ok(Converted { array: Arc::new(array), lost })
}

/// The texts of an array.
pub(crate) fn texts(array: &ArrayRef, column: &str) -> Result<ArrayRef> {
    let nulls = array.logical_nulls();
    let mut builder = StringBuilder::with_capacity(array.len(), array.len() * 8);
    let (mut text, mut bytes) = (String::new(), 0);
    for row in 0..array.len() {
        if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            builder.append_null();
            continue;
        }
        text.clear();
        write_text(&mut text, array, row)?;
        bytes += text.len();
        room(bytes, column)?;
        builder.append_value(&text);
    }
    Ok(Arc::new(builder.finish()))
}

/// Converts value by value by way of their texts: what is the plain spelling of a value of the target is exact.
fn parse(array: &ArrayRef, to: &DataType, column: &str) -> Result<Converted> {
    macro_rules! build {
        ($builder:expr, $read:expr) => {{
            let mut builder = $builder;
            for row in 0..array.len() {
                builder.append_option(plain_text(array, row)?.and_then(|text| $read(&text)));
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    let parsed = match to {
        DataType::Boolean => build!(BooleanBuilder::new(), spelling::boolean),
        DataType::Int8 => build!(Int8Builder::new(), spelling::integer::<i8>),
        DataType::Int16 => build!(Int16Builder::new(), spelling::integer::<i16>),
        DataType::Int32 => build!(Int32Builder::new(), spelling::integer::<i32>),
        DataType::Int64 => build!(Int64Builder::new(), spelling::integer::<i64>),
        DataType::Float32 if array.data_type() == &DataType::Float64 => return Ok(narrow_floats(array)),
        DataType::Float32 => build!(Float32Builder::new(), spelling::float::<f32>),
        DataType::Float64 => build!(Float64Builder::new(), spelling::float::<f64>),
        DataType::Decimal128(precision, scale) => {
            let builder =
                Decimal128Builder::new().with_precision_and_scale(*precision, *scale).map_err(|e| kernel(e, column))?;
            build!(builder, |text: &str| spelling::decimal(text, *precision, *scale))
        }
        DataType::Date32 => build!(Date32Builder::new(), spelling::date),
        DataType::Timestamp(_, None) => build!(TimestampMicrosecondBuilder::new(), spelling::naive),
        DataType::Timestamp(_, Some(_)) => {
            build!(TimestampMicrosecondBuilder::new().with_data_type(to.clone()), spelling::instant)
        }
        other => {
            return Err(Error::unexpected("no rule to read a text as a type").with("column", column).with("to", other));
        }
    };
    let lost = newly_null(array, &parsed);
    Ok(Converted { array: parsed, lost })
}

/// The text from which a value of another type is read; `None` = null. Floats are spelled without an exponent.
fn plain_text(array: &ArrayRef, row: usize) -> Result<Option<String>> {
    if array.is_null(row) {
        return Ok(None);
    }
    Ok(Some(match array.data_type() {
        DataType::Float32 => array.as_primitive::<Float32Type>().value(row).to_string(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).to_string(),
        _ => {
            let mut text = String::new();
            write_text(&mut text, array, row)?;
            text
        }
    }))
}

fn narrow_floats(array: &ArrayRef) -> Converted {
    let source = array.as_primitive::<Float64Type>();
    let narrow: arrow_array::Float32Array = source
        .iter()
        .map(|value| {
            let value = value?;
            let narrow = value as f32;
            (f64::from(narrow).to_bits() == value.to_bits() || (value.is_nan() && narrow.is_nan())).then_some(narrow)
        })
        .collect();
    let lost = newly_null(source, &narrow);
    Converted { array: Arc::new(narrow), lost }
}
