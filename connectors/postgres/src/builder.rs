//! Binary values of one column into the buffers of one Arrow array.

use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, ListArray, MapArray, PrimitiveArray, StringArray, StructArray,
};
use arrow_buffer::{BooleanBufferBuilder, Buffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use ingest_core::{Error, ErrorKind, Result};

use crate::text::{self, exact, flags};
use crate::types::{Kind, entries, entry_fields, item, range_fields, struct_fields};
use crate::values::{decimals, read_date, read_timestamp};
use crate::wire::Reader;

/// Where a value that does not fit goes: the row, and its text as the server prints it.
pub(crate) type Misfits = Vec<(usize, String)>;

/// Collects the values of a column.
pub(crate) enum Builder {
    Bool {
        values: BooleanBufferBuilder,
        nulls: NullBufferBuilder,
    },
    Int16(Fixed<Int16Type>),
    Int32(Fixed<Int32Type>),
    Int64(Fixed<Int64Type>),
    Unsigned32(Fixed<Int64Type>),
    Float32(Fixed<Float32Type>),
    Float64(Fixed<Float64Type>),
    Date(Fixed<Date32Type>),
    Timestamp {
        values: Fixed<TimestampMicrosecondType>,
        zone: bool,
    },
    Decimal {
        values: Fixed<Decimal128Type>,
        precision: u8,
        scale: i8,
    },
    Text(Bytes),
    Binary(Bytes),
    /// Text that is made of the binary form.
    Printed {
        kind: Kind,
        values: Bytes,
    },
    List {
        kind: Kind,
        offsets: Vec<i32>,
        items: Box<Builder>,
        nulls: NullBufferBuilder,
    },
    Range {
        kind: Kind,
        bounds: Box<[Builder; 2]>,
        flags: Vec<u8>,
        nulls: NullBufferBuilder,
    },
    Multirange {
        kind: Kind,
        offsets: Vec<i32>,
        items: Box<Builder>,
        nulls: NullBufferBuilder,
    },
    Struct {
        kind: Kind,
        columns: Vec<Builder>,
        nulls: NullBufferBuilder,
    },
    Map {
        offsets: Vec<i32>,
        keys: Bytes,
        values: Bytes,
        nulls: NullBufferBuilder,
    },
}

/// Values of fixed size.
pub(crate) struct Fixed<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    nulls: NullBufferBuilder,
}

/// Values of any size, one behind the other.
pub(crate) struct Bytes {
    offsets: Vec<i32>,
    data: Vec<u8>,
    nulls: NullBufferBuilder,
}

impl<T: ArrowPrimitiveType> Fixed<T> {
    fn new() -> Self {
        Self { values: Vec::new(), nulls: NullBufferBuilder::new(0) }
    }

    // Called, it costs as much again.
    #[inline(always)]
    fn push(&mut self, value: T::Native) {
        self.values.push(value);
        self.nulls.append_non_null();
    }

    #[inline]
    fn null(&mut self) {
        self.values.push(T::Native::default());
        self.nulls.append_null();
    }

    /// Takes values that always fit.
    #[inline]
    fn extend<'a, const N: usize>(
        &mut self,
        fields: impl Iterator<Item = Option<&'a [u8]>>,
        read: impl Fn([u8; N]) -> T::Native,
    ) -> Result<()> {
        self.values.reserve(fields.size_hint().0);
        for field in fields {
            match field {
                Some(bytes) => self.push(read(exact(bytes)?)),
                None => self.null(),
            }
        }
        Ok(())
    }

    /// Takes values of which some do not fit: those are null here and go to the misfits.
    #[inline]
    fn extend_checked<'a>(
        &mut self,
        fields: impl Iterator<Item = Option<&'a [u8]>>,
        kind: &Kind,
        misfits: &mut Misfits,
        read: impl Fn(&'a [u8]) -> Result<Option<T::Native>>,
    ) -> Result<()> {
        self.values.reserve(fields.size_hint().0);
        for field in fields {
            let Some(bytes) = field else {
                self.null();
                continue;
            };
            match read(bytes)? {
                Some(value) => self.push(value),
                None => {
                    misfits.push((self.values.len(), printed(kind, bytes)?));
                    self.null();
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> PrimitiveArray<T> {
        // The next batch will be about as long.
        let next = Vec::with_capacity(self.values.len());
        let values = std::mem::replace(&mut self.values, next);
        PrimitiveArray::new(ScalarBuffer::from(values), self.nulls.finish())
    }
}

impl Bytes {
    fn new() -> Self {
        Self { offsets: vec![0], data: Vec::new(), nulls: NullBufferBuilder::new(0) }
    }

    #[inline]
    fn extend<'a>(&mut self, fields: impl Iterator<Item = Option<&'a [u8]>>) -> Result<()> {
        for field in fields {
            match field {
                Some(bytes) => {
                    self.data.extend_from_slice(bytes);
                    self.end(true)?;
                }
                None => self.end(false)?,
            }
        }
        Ok(())
    }

    /// Ends a value whose bytes were appended to `data`.
    #[inline]
    fn end(&mut self, valid: bool) -> Result<()> {
        let end = i32::try_from(self.data.len()).map_err(|_| {
            Error::new(ErrorKind::LimitExceeded, "a batch holds more than 2 GiB of one column")
                .hint("lower `max_row_bytes`")
        })?;
        self.offsets.push(end);
        self.nulls.append(valid);
        Ok(())
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer, Option<arrow_buffer::NullBuffer>) {
        let offsets = std::mem::take(&mut self.offsets);
        self.offsets.reserve(offsets.len());
        self.offsets.push(0);
        let data = std::mem::take(&mut self.data);
        self.data.reserve(data.len());
        (OffsetBuffer::new(ScalarBuffer::from(offsets)), Buffer::from_vec(data), self.nulls.finish())
    }

    /// UTF-8 is checked once for the whole column. Only a database of encoding `SQL_ASCII` can hold anything else.
    fn finish_text(&mut self, misfits: &mut Misfits) -> Result<StringArray> {
        let (offsets, data, nulls) = self.take();
        if let Ok(array) = StringArray::try_new(offsets.clone(), data.clone(), nulls.clone()) {
            return Ok(array);
        }
        let raw = BinaryArray::try_new(offsets, data, nulls)?;
        let mut kept = Vec::with_capacity(raw.len());
        for (row, value) in raw.iter().enumerate() {
            kept.push(match value.map(std::str::from_utf8) {
                Some(Err(_)) => {
                    misfits.push((row, printed(&Kind::Bytes, value.unwrap_or_default())?));
                    None
                }
                Some(Ok(text)) => Some(text),
                None => None,
            });
        }
        Ok(StringArray::from(kept))
    }
}

fn printed(kind: &Kind, bytes: &[u8]) -> Result<String> {
    let mut text = Vec::new();
    text::write(kind, bytes, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

impl Builder {
    pub(crate) fn new(kind: &Kind) -> Self {
        let nulls = NullBufferBuilder::new(0);
        let boxed = |inner: &Kind| Box::new(Self::new(inner));
        match kind {
            Kind::Bool => Self::Bool { values: BooleanBufferBuilder::new(0), nulls },
            Kind::Int16 => Self::Int16(Fixed::new()),
            Kind::Int32 => Self::Int32(Fixed::new()),
            Kind::Int64 | Kind::Time => Self::Int64(Fixed::new()),
            Kind::Unsigned32 => Self::Unsigned32(Fixed::new()),
            Kind::Float32 => Self::Float32(Fixed::new()),
            Kind::Float64 => Self::Float64(Fixed::new()),
            Kind::Date => Self::Date(Fixed::new()),
            Kind::Timestamp => Self::Timestamp { values: Fixed::new(), zone: false },
            Kind::TimestampTz => Self::Timestamp { values: Fixed::new(), zone: true },
            Kind::Decimal { precision, scale } => {
                Self::Decimal { values: Fixed::new(), precision: *precision, scale: *scale }
            }
            Kind::Text => Self::Text(Bytes::new()),
            Kind::Bytes => Self::Binary(Bytes::new()),
            Kind::List(inner) => Self::List { kind: kind.clone(), offsets: vec![0], items: boxed(inner), nulls },
            Kind::Range(inner) => Self::Range {
                kind: kind.clone(),
                bounds: Box::new([Self::new(inner), Self::new(inner)]),
                flags: Vec::new(),
                nulls,
            },
            Kind::Multirange(inner) => Self::Multirange {
                kind: kind.clone(),
                offsets: vec![0],
                items: Box::new(Self::new(&Kind::Range(inner.clone()))),
                nulls,
            },
            Kind::Struct(fields) => Self::Struct {
                kind: kind.clone(),
                columns: fields.iter().map(|(_, kind)| Self::new(kind)).collect(),
                nulls,
            },
            Kind::Hstore => Self::Map { offsets: vec![0], keys: Bytes::new(), values: Bytes::new(), nulls },
            _ => Self::Printed { kind: kind.clone(), values: Bytes::new() },
        }
    }

    /// Appends values, `None` for null. One `match` for many values: the loops inside know their type.
    pub(crate) fn extend<'a>(
        &mut self,
        fields: impl Iterator<Item = Option<&'a [u8]>>,
        misfits: &mut Misfits,
    ) -> Result<()> {
        match self {
            Self::Bool { values, nulls } => {
                for field in fields {
                    values.append(field.is_some_and(|bytes| bytes != [0]));
                    nulls.append(field.is_some());
                }
                Ok(())
            }
            Self::Int16(values) => values.extend(fields, i16::from_be_bytes),
            Self::Int32(values) => values.extend(fields, i32::from_be_bytes),
            Self::Int64(values) => values.extend(fields, i64::from_be_bytes),
            Self::Unsigned32(values) => values.extend(fields, |b| i64::from(u32::from_be_bytes(b))),
            Self::Float32(values) => values.extend(fields, f32::from_be_bytes),
            Self::Float64(values) => values.extend(fields, f64::from_be_bytes),
            Self::Date(values) => values.extend_checked(fields, &Kind::Date, misfits, read_date),
            Self::Timestamp { values, zone } => {
                let kind = if *zone { Kind::TimestampTz } else { Kind::Timestamp };
                values.extend_checked(fields, &kind, misfits, read_timestamp)
            }
            Self::Decimal { values, precision, scale } => {
                let (precision, scale) = (*precision, *scale);
                values.extend_checked(fields, &Kind::Numeric, misfits, decimals(precision, scale))
            }
            Self::Text(values) | Self::Binary(values) => values.extend(fields),
            Self::Printed { kind: Kind::Jsonb, values } => {
                for field in fields {
                    if let Some(bytes) = field {
                        values.data.extend_from_slice(text::jsonb(bytes)?);
                    }
                    values.end(field.is_some())?;
                }
                Ok(())
            }
            Self::Printed { kind, values } => {
                for field in fields {
                    if let Some(bytes) = field {
                        text::write(kind, bytes, &mut values.data)?;
                    }
                    values.end(field.is_some())?;
                }
                Ok(())
            }
            nested => {
                for field in fields {
                    nested.push_nested(field, misfits)?;
                }
                Ok(())
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::List { nulls, .. }
            | Self::Range { nulls, .. }
            | Self::Multirange { nulls, .. }
            | Self::Struct { nulls, .. }
            | Self::Map { nulls, .. } => nulls.len(),
            _ => 0,
        }
    }

    /// One value of a nested type. It is looked through first: a value of which any part does not fit is rescued as a
    /// whole, so that no part is appended before another fails.
    fn push_nested(&mut self, field: Option<&[u8]>, misfits: &mut Misfits) -> Result<()> {
        let row = self.len();
        let kind = match self {
            Self::List { kind, .. }
            | Self::Range { kind, .. }
            | Self::Multirange { kind, .. }
            | Self::Struct { kind, .. } => kind,
            _ => &Kind::Hstore,
        };
        let field = match field {
            Some(bytes) => match fit(kind, bytes)? {
                Fit::Whole => Some(bytes),
                Fit::Noted => {
                    misfits.push((row, printed(kind, bytes)?));
                    Some(bytes)
                }
                Fit::Not => {
                    misfits.push((row, printed(kind, bytes)?));
                    None
                }
            },
            None => None,
        };
        let mut none = Misfits::new();
        match self {
            Self::List { offsets, items, nulls, .. } => {
                let elements = field.map(list_elements).transpose()?;
                push_items(offsets, items, nulls, elements)
            }
            Self::Multirange { offsets, items, nulls, .. } => {
                let elements = field.map(multirange_elements).transpose()?;
                push_items(offsets, items, nulls, elements)
            }
            Self::Range { bounds, flags, nulls, .. } => {
                let (flag, lower, upper) = field.map_or(Ok((flags::EMPTY, None, None)), text::range_parts)?;
                flags.push(flag);
                nulls.append(field.is_some());
                bounds[0].extend(std::iter::once(lower), &mut none)?;
                bounds[1].extend(std::iter::once(upper), &mut none)
            }
            Self::Struct { columns, nulls, .. } => {
                let mut parts = match field {
                    Some(bytes) => struct_parts(bytes, columns.len())?,
                    None => vec![None; columns.len()],
                };
                nulls.append(field.is_some());
                for (column, part) in columns.iter_mut().zip(parts.drain(..)) {
                    column.extend(std::iter::once(part), &mut none)?;
                }
                Ok(())
            }
            Self::Map { offsets, keys, values, nulls } => {
                let mut reader = Reader(field.unwrap_or(&[0; 4]));
                for _ in 0..reader.i32()? {
                    let key = reader.field()?;
                    keys.extend(std::iter::once(key.or(Some(&[]))))?;
                    values.extend(std::iter::once(reader.field()?))?;
                }
                offsets.push(keys.offsets.len() as i32 - 1);
                nulls.append(field.is_some());
                Ok(())
            }
            _ => Err(Error::unexpected("a plain column was taken for a nested one")),
        }
    }

    /// Makes the array and starts the next one.
    pub(crate) fn finish(&mut self, misfits: &mut Misfits) -> Result<ArrayRef> {
        let mut none = Misfits::new();
        Ok(match self {
            Self::Bool { values, nulls } => Arc::new(BooleanArray::new(values.finish(), nulls.finish())),
            Self::Int16(values) => Arc::new(values.finish()),
            Self::Int32(values) => Arc::new(values.finish()),
            Self::Int64(values) | Self::Unsigned32(values) => Arc::new(values.finish()),
            Self::Float32(values) => Arc::new(values.finish()),
            Self::Float64(values) => Arc::new(values.finish()),
            Self::Date(values) => Arc::new(values.finish()),
            Self::Timestamp { values, zone: false } => Arc::new(values.finish()),
            Self::Timestamp { values, zone: true } => Arc::new(values.finish().with_timezone("UTC")),
            Self::Decimal { values, precision, scale } => {
                Arc::new(values.finish().with_precision_and_scale(*precision, *scale)?)
            }
            Self::Text(values) | Self::Printed { values, .. } => Arc::new(values.finish_text(misfits)?),
            Self::Binary(values) => {
                let (offsets, data, nulls) = values.take();
                Arc::new(BinaryArray::try_new(offsets, data, nulls)?)
            }
            Self::List { offsets, items, nulls, .. } | Self::Multirange { offsets, items, nulls, .. } => {
                let values = items.finish(&mut none)?;
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
                Arc::new(ListArray::try_new(item(values.data_type().clone()), offsets, values, nulls.finish())?)
            }
            Self::Range { kind: Kind::Range(inner), bounds, flags, nulls } => {
                let flags = std::mem::take(flags);
                let nulls = nulls.finish();
                let flag = |bit: u8| -> ArrayRef {
                    let values = flags.iter().map(|flag| flag & bit != 0).collect();
                    Arc::new(BooleanArray::new(values, nulls.clone()))
                };
                let columns = vec![
                    bounds[0].finish(&mut none)?,
                    bounds[1].finish(&mut none)?,
                    flag(flags::LOWER_INCLUSIVE),
                    flag(flags::UPPER_INCLUSIVE),
                    flag(flags::EMPTY),
                ];
                Arc::new(StructArray::try_new(range_fields(inner), columns, nulls)?)
            }
            Self::Struct { kind: Kind::Struct(fields), columns, nulls } => {
                let columns = columns.iter_mut().map(|c| c.finish(&mut none)).collect::<Result<Vec<_>>>()?;
                Arc::new(StructArray::try_new(struct_fields(fields), columns, nulls.finish())?)
            }
            Self::Map { offsets, keys, values, nulls } => {
                let columns: Vec<ArrayRef> =
                    vec![Arc::new(keys.finish_text(&mut none)?), Arc::new(values.finish_text(&mut none)?)];
                let entry = StructArray::try_new(entry_fields(), columns, None)?;
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
                Arc::new(MapArray::try_new(entries(), offsets, entry, nulls.finish(), false)?)
            }
            Self::Range { .. } | Self::Struct { .. } => return Err(Error::unexpected("a builder of another type")),
        })
    }
}

fn push_items(
    offsets: &mut Vec<i32>,
    items: &mut Builder,
    nulls: &mut NullBufferBuilder,
    elements: Option<Vec<Option<&[u8]>>>,
) -> Result<()> {
    nulls.append(elements.is_some());
    let elements = elements.unwrap_or_default();
    let last = offsets.last().copied().unwrap_or(0);
    let end = i32::try_from(elements.len())
        .ok()
        .and_then(|count| last.checked_add(count))
        .ok_or_else(|| Error::new(ErrorKind::LimitExceeded, "a batch holds more than 2^31 elements of one column"))?;
    offsets.push(end);
    items.extend(elements.iter().copied(), &mut Misfits::new())
}

/// Whether a value fits its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Whole,
    /// It fits but for something that the column cannot say (the lower bound of an array): kept, and its text too.
    Noted,
    Not,
}

/// Looks through a nested value.
fn fit(kind: &Kind, bytes: &[u8]) -> Result<Fit> {
    let whole = |fits: bool| if fits { Fit::Whole } else { Fit::Not };
    let all = |kind: &Kind, parts: &[Option<&[u8]>]| {
        parts.iter().flatten().try_fold(Fit::Whole, |worst, part| Ok(worst.max(fit(kind, part)?)))
    };
    match kind {
        Kind::Date => read_date(bytes).map(|value| whole(value.is_some())),
        Kind::Timestamp | Kind::TimestampTz => read_timestamp(bytes).map(|value| whole(value.is_some())),
        Kind::Decimal { precision, scale } => decimals(*precision, *scale)(bytes).map(|value| whole(value.is_some())),
        Kind::Text | Kind::Jsonb => Ok(whole(std::str::from_utf8(bytes).is_ok())),
        Kind::List(inner) => {
            let dimensions = text::dimensions(&mut Reader(bytes))?;
            match dimensions.as_slice() {
                [] => Ok(Fit::Whole),
                [(_, lower)] => {
                    let worst = all(inner, &list_elements(bytes)?)?;
                    Ok(if *lower == 1 { worst } else { worst.max(Fit::Noted) })
                }
                _ => Ok(Fit::Not),
            }
        }
        Kind::Range(inner) => {
            let (_, lower, upper) = text::range_parts(bytes)?;
            all(inner, &[lower, upper])
        }
        Kind::Multirange(inner) => all(&Kind::Range(inner.clone()), &multirange_elements(bytes)?),
        Kind::Struct(fields) => {
            let parts = struct_parts(bytes, fields.len())?;
            fields.iter().zip(parts).try_fold(Fit::Whole, |worst, ((_, kind), part)| {
                Ok(worst.max(part.map_or(Ok(Fit::Whole), |part| fit(kind, part))?))
            })
        }
        Kind::Hstore => Ok(whole(std::str::from_utf8(bytes).is_ok() || hstore_is_text(bytes)?)),
        _ => Ok(Fit::Whole),
    }
}

fn hstore_is_text(bytes: &[u8]) -> Result<bool> {
    let mut reader = Reader(bytes);
    for _ in 0..reader.i32()?.max(0).saturating_mul(2) {
        if reader.field()?.is_some_and(|part| std::str::from_utf8(part).is_err()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn list_elements(bytes: &[u8]) -> Result<Vec<Option<&[u8]>>> {
    let mut reader = Reader(bytes);
    let count = text::dimensions(&mut reader)?.first().map_or(0, |(size, _)| *size);
    (0..count).map(|_| reader.field()).collect()
}

fn multirange_elements(bytes: &[u8]) -> Result<Vec<Option<&[u8]>>> {
    let mut reader = Reader(bytes);
    let count = reader.i32()?;
    (0..count).map(|_| reader.field()).collect()
}

fn struct_parts(bytes: &[u8], count: usize) -> Result<Vec<Option<&[u8]>>> {
    let mut reader = Reader(bytes);
    if usize::try_from(reader.i32()?) != Ok(count) {
        return Err(Error::new(ErrorKind::SchemaChanged, "a composite value has other fields than its type had")
            .hint("the type was changed while it was read; run again"));
    }
    (0..count)
        .map(|_| {
            // The type of the field.
            reader.take(4)?;
            reader.field()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_value_that_does_not_fit_leaves_its_column_whole() {
        let kind = Kind::Range(Box::new(Kind::Date));
        let mut builder = Builder::new(&kind);
        let mut misfits = Misfits::new();
        let range = |upper: i32| {
            let mut bytes = vec![0x02, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 4];
            bytes.extend(upper.to_be_bytes());
            bytes
        };
        let (good, bad) = (range(5), range(i32::MAX));
        builder
            .extend([Some(good.as_slice()), Some(bad.as_slice()), None].into_iter(), &mut misfits)
            .expect("well formed");
        let array = builder.finish(&mut misfits).expect("an array");
        assert_eq!((array.len(), array.null_count()), (3, 2));
        assert_eq!(misfits, vec![(1, "[2000-01-02,infinity)".to_owned())]);
    }

    #[test]
    fn text_that_is_not_utf8_is_rescued() {
        let mut builder = Builder::new(&Kind::Text);
        let mut misfits = Misfits::new();
        builder.extend([Some(&b"ok"[..]), Some(&b"\xff"[..])].into_iter(), &mut misfits).expect("bytes");
        let array = builder.finish(&mut misfits).expect("an array");
        assert_eq!(array.null_count(), 1);
        assert_eq!(misfits, vec![(1, "\\xff".to_owned())]);
    }
}
