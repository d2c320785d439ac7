//! What a mask does to the values of a column.
//!
//! | mask | takes | gives |
//! | --- | --- | --- |
//! | `null` | everything | null, of the same type |
//! | `redact` | text | `***` |
//! | `partial: N` | text, whole numbers | text: `*` for every character but the last N; all are `*` where there are no more than N |
//! | `hash` | every plain type | text: 64 hexadecimal digits |
//! | `token` | every plain type | text |
//! | `generalize: year`, `month`, `day` | dates, timestamps | the same type |
//! | `generalize: N` | numbers | the same type: the largest multiple of N that is not above the value |
//!
//! The text of a value that is none is the one with which it would be rescued: exact, so that the number 42 of one source
//! and the text "42" of another have one hash. Null stays null.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray, StringArray, new_null_array};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, TimeUnit};
use chrono::{Datelike, NaiveDate};
use ingest_core::{Error, ErrorKind, Result};
use serde_json::Number;

use super::key::{HEX, MaskKey, Tokens};
use crate::config::{Grain, Mask};
use crate::conform::texts;

/// Hexadecimal digits of a hash.
const HASH_DIGITS: usize = 64;

/// The text of `redact`.
pub const REDACTED: &str = "***";

/// The type of a column after its mask; `None` where the mask cannot take it. `drop` leaves no column.
pub fn masked_type(mask: &Mask, data_type: &DataType) -> Option<DataType> {
    use DataType as D;
    let text = is_text(data_type);
    let whole = data_type.is_integer();
    match mask {
        Mask::Keep | Mask::Null => Some(data_type.clone()),
        Mask::Drop => None,
        Mask::Redact => text.then_some(D::Utf8),
        Mask::Partial(_) => (text || whole).then_some(D::Utf8),
        Mask::Hash | Mask::Token => {
            let plain = !data_type.is_nested() && !matches!(data_type, D::Null | D::Union(..));
            plain.then_some(D::Utf8)
        }
        Mask::Generalize(Grain::Year | Grain::Month) => {
            matches!(data_type, D::Date32 | D::Date64 | D::Timestamp(..)).then(|| data_type.clone())
        }
        Mask::Generalize(Grain::Day) => matches!(data_type, D::Timestamp(..)).then(|| data_type.clone()),
        Mask::Generalize(Grain::Bucket(width)) => {
            let takes = match data_type {
                _ if whole => width_in_units(width, 0).is_some(),
                D::Decimal128(_, scale) => width_in_units(width, *scale).is_some(),
                D::Float32 | D::Float64 => true,
                _ => false,
            };
            takes.then(|| data_type.clone())
        }
    }
}

/// What a mask takes, for a message.
pub fn takes(mask: &Mask) -> &'static str {
    match mask {
        Mask::Keep | Mask::Drop | Mask::Null => "every type",
        Mask::Redact => "text",
        Mask::Partial(_) => "text and whole numbers",
        Mask::Hash | Mask::Token => "every type but lists, maps and structs",
        Mask::Generalize(Grain::Day) => "timestamps",
        Mask::Generalize(Grain::Year | Grain::Month) => "dates and timestamps",
        Mask::Generalize(Grain::Bucket(_)) => "numbers of which the width is a multiple of the last digit",
    }
}

pub(super) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Masks the values of a plain column.
///
/// # Errors
/// `SchemaChanged` for a type that the mask cannot take; `LimitExceeded` where the texts outgrow an array.
pub fn mask_values(mask: &Mask, key: &MaskKey, array: &ArrayRef, column: &str) -> Result<ArrayRef> {
    let array = &plain(array)?;
    if masked_type(mask, array.data_type()).is_none() {
        return Err(Error::new(
            ErrorKind::SchemaChanged,
            format!("the mask `{mask}` cannot take the type of its column"),
        )
        .with("column", column)
        .with("type", array.data_type())
        .hint(format!("it takes {}: choose another mask, `null` or `drop`", takes(mask))));
    }
    Ok(match mask {
        Mask::Keep | Mask::Drop => Arc::clone(array),
        Mask::Null => new_null_array(array.data_type(), array.len()),
        Mask::Generalize(Grain::Bucket(width)) => buckets(array, width, column)?,
        Mask::Generalize(grain) => dates(array, grain)?,
        _ => {
            let texts = as_texts(array, column)?;
            let mut writer = TextMask::new(mask, key)?;
            let room = if *mask == Mask::Hash { HASH_DIGITS } else { 8 };
            Arc::new(each_text(texts.as_string(), column, room, |text, out| writer.write(text, out))?)
        }
    })
}

/// The array without a dictionary or runs around it.
pub(super) fn plain(array: &ArrayRef) -> Result<ArrayRef> {
    match array.data_type() {
        DataType::Dictionary(_, values) => Ok(arrow_cast::cast(array, values)?),
        DataType::RunEndEncoded(_, values) => Ok(arrow_cast::cast(array, values.data_type())?),
        _ => Ok(Arc::clone(array)),
    }
}

/// The texts of the values.
pub(super) fn as_texts(array: &ArrayRef, column: &str) -> Result<ArrayRef> {
    match array.data_type() {
        DataType::Utf8 => Ok(Arc::clone(array)),
        DataType::LargeUtf8 | DataType::Utf8View => Ok(arrow_cast::cast(array, &DataType::Utf8)?),
        _ => texts(array, column),
    }
}

/// A mask that makes texts of texts.
pub struct TextMask<'a> {
    mask: &'a Mask,
    key: &'a MaskKey,
    tokens: Option<Tokens>,
    token: String,
}

impl<'a> TextMask<'a> {
    /// Gets ready.
    ///
    /// # Errors
    /// `ConfigInvalid` for `token` without a key.
    pub fn new(mask: &'a Mask, key: &'a MaskKey) -> Result<Self> {
        let tokens = (*mask == Mask::Token).then(|| key.tokens()).transpose()?;
        Ok(Self { mask, key, tokens, token: String::new() })
    }

    /// Appends the masked text. A mask that makes no texts redacts.
    pub fn write(&mut self, text: &str, out: &mut Vec<u8>) -> Result<()> {
        match (self.mask, &mut self.tokens) {
            (Mask::Partial(shown), _) => partial(text, *shown as usize, out),
            (Mask::Hash, _) => {
                let mut digits = [0; HASH_DIGITS];
                for (pair, byte) in digits.chunks_exact_mut(2).zip(self.key.hash(text.as_bytes())) {
                    pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
                }
                out.extend_from_slice(&digits);
            }
            (_, Some(tokens)) => {
                self.token.clear();
                tokens.write(text.as_bytes(), &mut self.token)?;
                out.extend(self.token.as_bytes());
            }
            _ => out.extend(REDACTED.as_bytes()),
        }
        Ok(())
    }

    /// The masked text.
    pub fn text(&mut self, text: &str) -> Result<String> {
        let mut out = Vec::new();
        self.write(text, &mut out)?;
        String::from_utf8(out).map_err(|_| Error::unexpected("a masked text is no text"))
    }
}

/// All characters but the last few become `*`; all of them where there are no more.
fn partial(text: &str, shown: usize, out: &mut Vec<u8>) {
    let (hidden, from) = if text.is_ascii() {
        if text.len() > shown { (text.len() - shown, text.len() - shown) } else { (text.len(), text.len()) }
    } else {
        let characters = text.chars().count();
        let hidden = if characters > shown { characters - shown } else { characters };
        (hidden, text.char_indices().nth(hidden).map_or(text.len(), |(at, _)| at))
    };
    out.resize(out.len() + hidden, b'*');
    out.extend(&text.as_bytes()[from..]);
}

/// Rows whose masked text is looked up again when the same text comes: columns repeat themselves.
const REMEMBERED: usize = 1 << 10;

/// Makes a text of every text, of about `room` bytes where the texts say nothing else. Equal texts near each other are made once.
fn each_text(
    texts: &StringArray,
    column: &str,
    room: usize,
    mut write: impl FnMut(&str, &mut Vec<u8>) -> Result<()>,
) -> Result<StringArray> {
    let mut bytes: Vec<u8> = Vec::with_capacity(texts.value_data().len().max(texts.len() * room));
    let mut offsets: Vec<i32> = Vec::with_capacity(texts.len() + 1);
    offsets.push(0);
    let mut remembered = vec![0_u32; REMEMBERED];
    for row in 0..texts.len() {
        if texts.is_valid(row) {
            let text = texts.value(row);
            let slot = &mut remembered[slot(text.as_bytes())];
            let before = (*slot as usize).checked_sub(1).filter(|before| texts.value(*before) == text);
            match before {
                Some(before) => {
                    bytes.extend_from_within(offsets[before] as usize..offsets[before + 1] as usize);
                }
                None => {
                    write(text, &mut bytes)?;
                    *slot = u32::try_from(row + 1).unwrap_or(0);
                }
            }
        }
        offsets.push(i32::try_from(bytes.len()).map_err(|_| {
            Error::new(ErrorKind::LimitExceeded, "the masked texts of a batch are larger than 2 GiB")
                .with("column", column)
                .hint("choose a mask that makes shorter texts, such as redact")
        })?);
    }
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Ok(StringArray::try_new(offsets, Buffer::from_vec(bytes), texts.nulls().cloned())?)
}

/// Where a text is remembered: its length and its ends, mixed.
pub(super) fn slot(text: &[u8]) -> usize {
    let word = |bytes: &[u8]| bytes.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    let (first, last) = match text.len() {
        0..=8 => (word(text), 0),
        len => {
            let fixed = |at: usize| text.get(at..at + 8).and_then(|part| <[u8; 8]>::try_from(part).ok());
            (fixed(0).map_or(0, u64::from_le_bytes), fixed(len - 8).map_or(0, u64::from_le_bytes))
        }
    };
    let mixed = (first ^ last.rotate_left(29) ^ text.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 54) as usize & (REMEMBERED - 1)
}

/// The width of a bucket in units of the last digit; `None` where it is no whole number of them.
fn width_in_units(width: &Number, scale: i8) -> Option<i128> {
    let units = super::numbers::units(&width.to_string(), scale)?;
    units.exact.filter(|units| *units > 0)
}

fn buckets(array: &ArrayRef, width: &Number, column: &str) -> Result<ArrayRef> {
    let unfit = || Error::unexpected("a width does not fit its column").with("column", column);
    let units = |scale| width_in_units(width, scale).ok_or_else(unfit);
    // The beginning of the lowest bucket may lie below what the type holds: then nothing is shown.
    macro_rules! signed {
        ($type:ty) => {{
            let width = units(0)?;
            let floor = |value: <$type as ArrowPrimitiveType>::Native| {
                let value = i128::from(value);
                (value - value.rem_euclid(width)).try_into().ok()
            };
            Arc::new(array.as_primitive::<$type>().unary_opt::<_, $type>(floor)) as ArrayRef
        }};
    }
    macro_rules! floating {
        ($type:ty, $native:ty) => {{
            let width = width.as_f64().ok_or_else(unfit)? as $native;
            Arc::new(array.as_primitive::<$type>().unary::<_, $type>(|value| (value / width).floor() * width))
                as ArrayRef
        }};
    }
    Ok(match array.data_type() {
        DataType::Int8 => signed!(Int8Type),
        DataType::Int16 => signed!(Int16Type),
        DataType::Int32 => signed!(Int32Type),
        DataType::Int64 => signed!(Int64Type),
        DataType::UInt8 => signed!(UInt8Type),
        DataType::UInt16 => signed!(UInt16Type),
        DataType::UInt32 => signed!(UInt32Type),
        DataType::UInt64 => signed!(UInt64Type),
        DataType::Float32 => floating!(Float32Type, f32),
        DataType::Float64 => floating!(Float64Type, f64),
        DataType::Decimal128(_, scale) => {
            let width = units(*scale)?;
            let limit = 10_i128.checked_pow(u32::from(arrow_schema::DECIMAL128_MAX_PRECISION)).unwrap_or(i128::MAX);
            let floor = |value: i128| value.checked_sub(value.rem_euclid(width)).filter(|floor| *floor > -limit);
            let floored: PrimitiveArray<Decimal128Type> = array.as_primitive::<Decimal128Type>().unary_opt(floor);
            Arc::new(floored.with_data_type(array.data_type().clone()))
        }
        _ => return Err(unfit()),
    })
}

/// The first day of the year or month of a day since 1970; `None` beyond the calendar.
fn first_day(day: i64, grain: &Grain) -> Option<i64> {
    let epoch = NaiveDate::default();
    let date = epoch.checked_add_signed(chrono::Duration::try_days(day)?)?;
    let first = match grain {
        Grain::Year => NaiveDate::from_ymd_opt(date.year(), 1, 1)?,
        Grain::Month => NaiveDate::from_ymd_opt(date.year(), date.month(), 1)?,
        Grain::Day | Grain::Bucket(_) => date,
    };
    Some(first.signed_duration_since(epoch).num_days())
}

/// Dates and timestamps (in UTC) at the beginning of their year, month or day; null beyond the calendar.
fn dates(array: &ArrayRef, grain: &Grain) -> Result<ArrayRef> {
    macro_rules! in_units {
        ($type:ty, $units_a_day:expr) => {{
            let units: i64 = $units_a_day;
            let floor = |value: i64| first_day(value.div_euclid(units), grain)?.checked_mul(units);
            let floored: PrimitiveArray<$type> = array.as_primitive::<$type>().unary_opt(floor);
            Arc::new(floored.with_data_type(array.data_type().clone())) as ArrayRef
        }};
    }
    Ok(match array.data_type() {
        DataType::Date32 => {
            let floor = |day: i32| i32::try_from(first_day(day.into(), grain)?).ok();
            Arc::new(array.as_primitive::<Date32Type>().unary_opt::<_, Date32Type>(floor))
        }
        DataType::Date64 => in_units!(Date64Type, 86_400_000),
        DataType::Timestamp(TimeUnit::Second, _) => in_units!(TimestampSecondType, 86_400),
        DataType::Timestamp(TimeUnit::Millisecond, _) => in_units!(TimestampMillisecondType, 86_400_000),
        DataType::Timestamp(TimeUnit::Microsecond, _) => in_units!(TimestampMicrosecondType, 86_400_000_000),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => in_units!(TimestampNanosecondType, 86_400_000_000_000),
        other => return Err(Error::unexpected("a column of dates holds none").with("type", other)),
    })
}
