//! Columns that grow by one JSON value at a time and can be cut back: a value that turns out not to fit leaves no trace.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, MapArray,
    StringArray, StructArray, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray,
};
use arrow_buffer::{BooleanBufferBuilder, Buffer, NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field, FieldRef, Fields, TimeUnit};
use serde_json::value::RawValue;

use super::{FORMAT, literal};
use crate::{Error, ErrorKind, Result};

/// What became of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It is in the column.
    Taken,
    /// It was null, and so is the column.
    Null,
    /// It is in the column, but not all of it: an object had members without a field.
    InPart,
    /// It does not fit; the column is as before.
    Refused,
}

pub(super) struct Column {
    values: Values,
    nulls: NullBufferBuilder,
}

enum Values {
    Boolean(BooleanBufferBuilder),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Decimal {
        values: Vec<i128>,
        precision: u8,
        scale: i8,
    },
    Date(Vec<i32>),
    Timestamp {
        values: Vec<i64>,
        unit: TimeUnit,
        zone: Option<Arc<str>>,
        given: Clock,
    },
    Text(Texts),
    /// The JSON text of any value.
    Json(Texts),
    /// A text, or the `id` of an object.
    Id(Texts),
    List {
        offsets: Vec<i32>,
        item: Box<Column>,
        field: FieldRef,
    },
    Struct {
        fields: Fields,
        children: Vec<Column>,
    },
    Map {
        offsets: Vec<i32>,
        keys: Texts,
        values: Box<Column>,
        entries: FieldRef,
        sorted: bool,
    },
}

/// How a source writes a time.
#[derive(Clone, Copy)]
enum Clock {
    Rfc3339,
    /// A count of `10^-n` seconds since 1970.
    Unix(i32),
}

/// Texts one after another, and where each ends.
pub(super) struct Texts {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
}

impl Texts {
    pub(super) fn new() -> Self {
        Self { offsets: vec![0], bytes: Vec::new() }
    }

    /// The buffer to append the next text to; [`Texts::close`] ends it.
    pub(super) fn open(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn close(&mut self) -> Result<()> {
        let end = i32::try_from(self.bytes.len()).map_err(|_| overflow())?;
        self.offsets.push(end);
        Ok(())
    }

    fn push(&mut self, text: &str) -> Result<()> {
        self.bytes.extend_from_slice(text.as_bytes());
        self.close()
    }

    fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(super) fn last(&self) -> Option<&str> {
        let [.., start, end] = self.offsets.as_slice() else { return None };
        std::str::from_utf8(self.bytes.get(index(*start)..index(*end))?).ok()
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.bytes.truncate(self.offsets.last().map_or(0, |end| index(*end)));
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.offsets.len() * 4
    }

    pub(super) fn finish(&mut self, nulls: Option<NullBuffer>) -> Result<StringArray> {
        let offsets = renew(&mut self.offsets, true);
        let bytes = renew(&mut self.bytes, false);
        Ok(StringArray::try_new(offset_buffer(offsets), Buffer::from_vec(bytes), nulls)?)
    }
}

/// Takes the contents and leaves a vector that is ready for about as much again.
fn renew<T: Default>(vector: &mut Vec<T>, origin: bool) -> Vec<T> {
    let mut next = Vec::with_capacity(vector.len() + vector.len() / 8);
    if origin {
        next.push(T::default());
    }
    std::mem::replace(vector, next)
}

fn offset_buffer(offsets: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}

/// Offsets are made by this module from lengths, so they are never negative.
fn index(offset: i32) -> usize {
    usize::try_from(offset).unwrap_or(0)
}

fn overflow() -> Error {
    Error::new(ErrorKind::LimitExceeded, "a batch holds more than 2 GiB of one column")
        .hint("lower `memory` or the page size, so that batches are closed earlier")
}

impl Column {
    /// # Errors
    /// `Unsupported` for a type that JSON values are not decoded to.
    pub(super) fn new(field: &Field) -> Result<Self> {
        let format = field.metadata().get(FORMAT).map(String::as_str);
        let unsupported = |what: &str| {
            Error::new(ErrorKind::Unsupported, format!("cannot decode JSON into {what}")).with("column", field.name())
        };
        let values = match (field.data_type(), format) {
            (DataType::Utf8, None) => Values::Text(Texts::new()),
            (DataType::Utf8, Some("json")) => Values::Json(Texts::new()),
            (DataType::Utf8, Some("id")) => Values::Id(Texts::new()),
            (DataType::Timestamp(unit, zone), _) => {
                let given = match format {
                    None | Some("rfc3339") => Clock::Rfc3339,
                    Some("unix_s") => Clock::Unix(0),
                    Some("unix_ms") => Clock::Unix(3),
                    Some("unix_us") => Clock::Unix(6),
                    Some(other) => return Err(unsupported(&format!("a timestamp with format \"{other}\""))),
                };
                Values::Timestamp { values: Vec::new(), unit: *unit, zone: zone.clone(), given }
            }
            (other, Some(format)) => return Err(unsupported(&format!("type {other} with format \"{format}\""))),
            (DataType::Boolean, _) => Values::Boolean(BooleanBufferBuilder::new(0)),
            (DataType::Int32, _) => Values::Int32(Vec::new()),
            (DataType::Int64, _) => Values::Int64(Vec::new()),
            (DataType::Float64, _) => Values::Float64(Vec::new()),
            (DataType::Date32, _) => Values::Date(Vec::new()),
            (DataType::Decimal128(precision, scale), _) => {
                Values::Decimal { values: Vec::new(), precision: *precision, scale: *scale }
            }
            (DataType::List(item), _) => {
                Values::List { offsets: vec![0], item: Box::new(Self::new(item)?), field: item.clone() }
            }
            (DataType::Struct(fields), _) => Values::Struct {
                fields: fields.clone(),
                children: fields.iter().map(|field| Self::new(field)).collect::<Result<_>>()?,
            },
            (DataType::Map(entries, sorted), _) => {
                Self::map(entries, *sorted).transpose()?.ok_or_else(|| unsupported("a map whose keys are not Utf8"))?
            }
            (other, None) => return Err(unsupported(&format!("type {other}"))),
        };
        Ok(Self { values, nulls: NullBufferBuilder::new(0) })
    }

    fn map(entries: &FieldRef, sorted: bool) -> Option<Result<Values>> {
        let DataType::Struct(fields) = entries.data_type() else { return None };
        let [key, value] = fields.as_ref() else { return None };
        if *key.data_type() != DataType::Utf8 {
            return None;
        }
        Some(Self::new(value).map(|values| Values::Map {
            offsets: vec![0],
            keys: Texts::new(),
            values: Box::new(values),
            entries: entries.clone(),
            sorted,
        }))
    }

    /// Appends a value, or refuses it and stays as it was.
    ///
    /// # Errors
    /// `LimitExceeded` when the column grows beyond 2 GiB.
    pub(super) fn push(&mut self, raw: &str) -> Result<Fit> {
        if raw == "null" {
            self.push_null();
            return Ok(Fit::Null);
        }
        let rows = self.nulls.len();
        let fit = self.values.push(raw)?;
        match fit {
            Fit::Refused => self.values.truncate(rows),
            _ => self.nulls.append_non_null(),
        }
        Ok(fit)
    }

    pub(super) fn push_null(&mut self) {
        self.nulls.append_null();
        self.values.push_default();
    }

    /// The text of the last row of a text column.
    pub(super) fn last_text(&self) -> Option<&str> {
        match &self.values {
            Values::Text(texts) | Values::Json(texts) | Values::Id(texts)
                if self.nulls.is_valid(self.nulls.len().checked_sub(1)?) =>
            {
                texts.last()
            }
            _ => None,
        }
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        self.nulls.truncate(rows);
        self.values.truncate(rows);
    }

    /// Bytes held, about.
    pub(super) fn size(&self) -> usize {
        self.nulls.len() / 8 + self.values.size()
    }

    pub(super) fn finish(&mut self) -> Result<ArrayRef> {
        let nulls = self.nulls.finish();
        Ok(match &mut self.values {
            Values::Boolean(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Int32(values) => Arc::new(Int32Array::try_new(renew(values, false).into(), nulls)?),
            Values::Int64(values) => Arc::new(Int64Array::try_new(renew(values, false).into(), nulls)?),
            Values::Float64(values) => Arc::new(Float64Array::try_new(renew(values, false).into(), nulls)?),
            Values::Date(values) => Arc::new(Date32Array::try_new(renew(values, false).into(), nulls)?),
            Values::Decimal { values, precision, scale } => Arc::new(
                Decimal128Array::try_new(renew(values, false).into(), nulls)?
                    .with_precision_and_scale(*precision, *scale)?,
            ),
            Values::Timestamp { values, unit, zone, .. } => {
                let values: ScalarBuffer<i64> = renew(values, false).into();
                let zone = zone.clone();
                match unit {
                    TimeUnit::Second => Arc::new(TimestampSecondArray::try_new(values, nulls)?.with_timezone_opt(zone)),
                    TimeUnit::Millisecond => {
                        Arc::new(TimestampMillisecondArray::try_new(values, nulls)?.with_timezone_opt(zone))
                    }
                    TimeUnit::Microsecond => {
                        Arc::new(TimestampMicrosecondArray::try_new(values, nulls)?.with_timezone_opt(zone))
                    }
                    TimeUnit::Nanosecond => {
                        Arc::new(TimestampNanosecondArray::try_new(values, nulls)?.with_timezone_opt(zone))
                    }
                }
            }
            Values::Text(texts) | Values::Json(texts) | Values::Id(texts) => Arc::new(texts.finish(nulls)?),
            Values::List { offsets, item, field } => {
                let offsets = offset_buffer(renew(offsets, true));
                Arc::new(ListArray::try_new(field.clone(), offsets, item.finish()?, nulls)?)
            }
            Values::Struct { fields, children } => {
                let rows = nulls.as_ref().map(NullBuffer::len);
                let children = children.iter_mut().map(Self::finish).collect::<Result<Vec<_>>>()?;
                let rows = rows.or_else(|| children.first().map(|child| child.len())).unwrap_or(0);
                Arc::new(StructArray::try_new_with_length(fields.clone(), children, nulls, rows)?)
            }
            Values::Map { offsets, keys, values, entries, sorted } => {
                let DataType::Struct(fields) = entries.data_type() else {
                    return Err(Error::unexpected("the entries of a map are no struct"));
                };
                let pairs: Vec<ArrayRef> = vec![Arc::new(keys.finish(None)?), values.finish()?];
                let pairs = StructArray::try_new(fields.clone(), pairs, None)?;
                let offsets = offset_buffer(renew(offsets, true));
                Arc::new(MapArray::try_new(entries.clone(), offsets, pairs, nulls, *sorted)?)
            }
        })
    }
}

impl Values {
    fn push(&mut self, raw: &str) -> Result<Fit> {
        fn keep<T>(values: &mut Vec<T>, value: Option<T>) -> Fit {
            value.map_or(Fit::Refused, |value| {
                values.push(value);
                Fit::Taken
            })
        }
        Ok(match self {
            Self::Boolean(values) => match raw {
                "true" | "\"true\"" => {
                    values.append(true);
                    Fit::Taken
                }
                "false" | "\"false\"" => {
                    values.append(false);
                    Fit::Taken
                }
                _ => Fit::Refused,
            },
            Self::Int32(values) => keep(values, literal::integer(raw).and_then(|value| value.try_into().ok())),
            Self::Int64(values) => keep(values, literal::integer(raw)),
            Self::Float64(values) => keep(values, literal::float(raw)),
            Self::Date(values) => keep(values, literal::date(raw)),
            Self::Decimal { values, precision, scale } => keep(values, literal::decimal(raw, *precision, *scale)),
            Self::Timestamp { values, unit, zone, given } => {
                let digits = literal::unit_digits(*unit);
                keep(
                    values,
                    match given {
                        Clock::Rfc3339 => literal::rfc3339(raw, digits, zone.is_some()),
                        Clock::Unix(given) => literal::unix_time(raw, *given, digits),
                    },
                )
            }
            Self::Text(texts) => push_text(texts, raw)?,
            Self::Id(texts) => push_id(texts, raw)?,
            Self::Json(texts) => {
                literal::compact(raw, texts.open());
                texts.close()?;
                Fit::Taken
            }
            Self::List { offsets, item, .. } => push_list(offsets, item, raw)?,
            Self::Struct { fields, children } => push_struct(fields, children, raw)?,
            Self::Map { offsets, keys, values, entries, .. } => push_map(offsets, keys, values, entries, raw)?,
        })
    }

    fn push_default(&mut self) {
        fn again(offsets: &mut Vec<i32>) {
            offsets.push(offsets.last().copied().unwrap_or(0));
        }
        match self {
            Self::Boolean(values) => values.append(false),
            Self::Int32(values) | Self::Date(values) => values.push(0),
            Self::Int64(values) | Self::Timestamp { values, .. } => values.push(0),
            Self::Float64(values) => values.push(0.0),
            Self::Decimal { values, .. } => values.push(0),
            Self::Text(texts) | Self::Json(texts) | Self::Id(texts) => again(&mut texts.offsets),
            Self::List { offsets, .. } | Self::Map { offsets, .. } => again(offsets),
            Self::Struct { children, .. } => children.iter_mut().for_each(Column::push_null),
        }
    }

    fn truncate(&mut self, rows: usize) {
        fn inner(offsets: &mut Vec<i32>, rows: usize) -> usize {
            offsets.truncate(rows + 1);
            offsets.last().map_or(0, |end| index(*end))
        }
        match self {
            Self::Boolean(values) => values.truncate(rows),
            Self::Int32(values) | Self::Date(values) => values.truncate(rows),
            Self::Int64(values) | Self::Timestamp { values, .. } => values.truncate(rows),
            Self::Float64(values) => values.truncate(rows),
            Self::Decimal { values, .. } => values.truncate(rows),
            Self::Text(texts) | Self::Json(texts) | Self::Id(texts) => texts.truncate(rows),
            Self::List { offsets, item, .. } => item.truncate(inner(offsets, rows)),
            Self::Struct { children, .. } => children.iter_mut().for_each(|child| child.truncate(rows)),
            Self::Map { offsets, keys, values, .. } => {
                let entries = inner(offsets, rows);
                keys.truncate(entries);
                values.truncate(entries);
            }
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Boolean(values) => values.len() / 8,
            Self::Int32(values) | Self::Date(values) => values.len() * 4,
            Self::Int64(values) | Self::Timestamp { values, .. } => values.len() * 8,
            Self::Float64(values) => values.len() * 8,
            Self::Decimal { values, .. } => values.len() * 16,
            Self::Text(texts) | Self::Json(texts) | Self::Id(texts) => texts.size(),
            Self::List { offsets, item, .. } => offsets.len() * 4 + item.size(),
            Self::Struct { children, .. } => children.iter().map(Column::size).sum(),
            Self::Map { offsets, keys, values, .. } => offsets.len() * 4 + keys.size() + values.size(),
        }
    }
}

/// A text column takes any literal: strings without their quotes, all else as it is written.
fn push_text(texts: &mut Texts, raw: &str) -> Result<Fit> {
    match raw.as_bytes().first() {
        Some(b'"') => match literal::string(raw) {
            Some(text) => texts.push(&text)?,
            None => return Ok(Fit::Refused),
        },
        Some(b'{' | b'[') => {
            literal::compact(raw, texts.open());
            texts.close()?;
        }
        _ => texts.push(raw)?,
    }
    Ok(Fit::Taken)
}

/// A reference is a text where it is not expanded, else an object that carries the same text as `id`.
fn push_id(texts: &mut Texts, raw: &str) -> Result<Fit> {
    if !raw.starts_with('{') {
        return push_text(texts, raw);
    }
    let id = members(raw).and_then(|members| literal::string(members.get("id")?));
    Ok(match id {
        Some(id) => {
            texts.push(&id)?;
            Fit::InPart
        }
        None => Fit::Refused,
    })
}

fn push_list(offsets: &mut Vec<i32>, item: &mut Column, raw: &str) -> Result<Fit> {
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(raw) else { return Ok(Fit::Refused) };
    let mut whole = Fit::Taken;
    for value in items {
        match item.push(value.get())? {
            Fit::Refused => return Ok(Fit::Refused),
            Fit::InPart => whole = Fit::InPart,
            Fit::Taken | Fit::Null => {}
        }
    }
    offsets.push(i32::try_from(item.nulls.len()).map_err(|_| overflow())?);
    Ok(whole)
}

fn push_struct(fields: &Fields, children: &mut [Column], raw: &str) -> Result<Fit> {
    let Some(mut members) = members(raw) else { return Ok(Fit::Refused) };
    for (field, child) in fields.iter().zip(children) {
        let fit = match members.remove(field.name().as_str()) {
            Some(value) => child.push(value)?,
            None => {
                child.push_null();
                Fit::Null
            }
        };
        match fit {
            Fit::Refused => return Ok(Fit::Refused),
            Fit::Null if !field.is_nullable() => return Ok(Fit::Refused),
            _ => {}
        }
    }
    Ok(if members.is_empty() { Fit::Taken } else { Fit::InPart })
}

fn push_map(
    offsets: &mut Vec<i32>,
    keys: &mut Texts,
    values: &mut Column,
    entries: &FieldRef,
    raw: &str,
) -> Result<Fit> {
    let Some(members) = members(raw) else { return Ok(Fit::Refused) };
    let nullable = match entries.data_type() {
        DataType::Struct(fields) => fields.get(1).is_some_and(|field| field.is_nullable()),
        _ => false,
    };
    for (key, value) in &members {
        match values.push(value)? {
            Fit::Refused | Fit::InPart => return Ok(Fit::Refused),
            Fit::Null if !nullable => return Ok(Fit::Refused),
            Fit::Taken | Fit::Null => keys.push(key)?,
        }
    }
    offsets.push(i32::try_from(keys.len()).map_err(|_| overflow())?);
    Ok(Fit::Taken)
}

/// The members of a JSON object by name, the last of a name; `None` for anything else.
fn members(raw: &str) -> Option<BTreeMap<std::borrow::Cow<'_, str>, &str>> {
    struct Members;

    impl<'de> serde::de::Visitor<'de> for Members {
        type Value = BTreeMap<std::borrow::Cow<'de, str>, &'de str>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = BTreeMap::new();
            while let Some(key) = map.next_key::<&RawValue>()? {
                let key = literal::string(key.get()).ok_or_else(|| serde::de::Error::custom("a lone surrogate"))?;
                members.insert(key, map.next_value::<&RawValue>()?.get());
            }
            Ok(members)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(raw);
    serde::Deserializer::deserialize_map(&mut deserializer, Members).ok()
}
