//! Rows into Arrow columns, one value after another.

use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder, UInt8Builder,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{FieldRef, Schema};
use ingest_core::{Error, ErrorKind, Result, columns};
use tiberius::{ColumnData, Row};

use crate::catalog::Column;
use crate::cells;
use crate::types::Kind;

/// Collects the values of a column.
enum Builder {
    Flag(BooleanBuilder),
    UInt8(UInt8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder, i8),
    Date(Date32Builder),
    Moment(TimestampMicrosecondBuilder),
    Text(StringBuilder),
    Binary(BinaryBuilder),
}

/// Does the same with any builder.
macro_rules! each {
    ($self:expr, $builder:ident => $do:expr) => {
        match $self {
            Builder::Flag($builder) => $do,
            Builder::UInt8($builder) => $do,
            Builder::Int16($builder) => $do,
            Builder::Int32($builder) => $do,
            Builder::Int64($builder) => $do,
            Builder::Float32($builder) => $do,
            Builder::Float64($builder) => $do,
            Builder::Decimal($builder, _) => $do,
            Builder::Date($builder) => $do,
            Builder::Moment($builder) => $do,
            Builder::Text($builder) => $do,
            Builder::Binary($builder) => $do,
        }
    };
}

impl Builder {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Flag => Self::Flag(BooleanBuilder::new()),
            Kind::UInt8 => Self::UInt8(UInt8Builder::new()),
            Kind::Int16 => Self::Int16(Int16Builder::new()),
            Kind::Int32 => Self::Int32(Int32Builder::new()),
            Kind::Int64 | Kind::Time => Self::Int64(Int64Builder::new()),
            Kind::Float32 => Self::Float32(Float32Builder::new()),
            Kind::Float64 => Self::Float64(Float64Builder::new()),
            Kind::Decimal { scale, .. } => {
                Self::Decimal(Decimal128Builder::new().with_data_type(kind.data_type()), scale)
            }
            Kind::Date => Self::Date(Date32Builder::new()),
            Kind::DateTime | Kind::Minute | Kind::DateTime2 { .. } | Kind::Instant { .. } => {
                Self::Moment(TimestampMicrosecondBuilder::new().with_data_type(kind.data_type()))
            }
            Kind::Uuid | Kind::Text => Self::Text(StringBuilder::new()),
            Kind::Binary | Kind::RowVersion => Self::Binary(BinaryBuilder::new()),
        }
    }

    fn push(&mut self, value: &ColumnData<'_>) -> Result<()> {
        match (&mut *self, value) {
            (Self::Flag(builder), ColumnData::Bit(value)) => builder.append_option(*value),
            (Self::UInt8(builder), ColumnData::U8(value)) => builder.append_option(*value),
            (Self::Int16(builder), ColumnData::I16(value)) => builder.append_option(*value),
            (Self::Int32(builder), ColumnData::I32(value)) => builder.append_option(*value),
            (Self::Int64(builder), ColumnData::I64(value)) => builder.append_option(*value),
            (Self::Int64(builder), ColumnData::Time(value)) => {
                builder.append_option(value.map(|time| cells::of_day(time).ok_or_else(misread)).transpose()?);
            }
            (Self::Float32(builder), ColumnData::F32(value)) => builder.append_option(*value),
            (Self::Float64(builder), ColumnData::F64(value)) => builder.append_option(*value),
            // Null has no type of its own in some answers.
            (Self::Float64(builder), ColumnData::F32(None)) => builder.append_null(),
            (Self::Float32(builder), ColumnData::F64(None)) => builder.append_null(),
            (Self::Decimal(builder, scale), ColumnData::Numeric(value)) => match value {
                Some(number) if i16::from(number.scale()) == i16::from(*scale) => builder.append_value(number.value()),
                Some(_) => return Err(misread()),
                None => builder.append_null(),
            },
            (Self::Date(builder), ColumnData::Date(value)) => builder.append_option(value.map(cells::days)),
            (Self::Moment(builder), ColumnData::DateTime(value)) => builder.append_option(value.map(cells::ticks)),
            (Self::Moment(builder), ColumnData::SmallDateTime(value)) => {
                builder.append_option(value.map(cells::minutes));
            }
            (Self::Moment(builder), ColumnData::DateTime2(value)) => {
                builder.append_option(value.map(|at| cells::precise(at).ok_or_else(misread)).transpose()?);
            }
            (Self::Moment(builder), ColumnData::DateTimeOffset(value)) => {
                let utc = value.map(|at| cells::precise(at.datetime2()).ok_or_else(misread)).transpose()?;
                builder.append_option(utc);
            }
            (Self::Text(builder), ColumnData::String(value)) => builder.append_option(value.as_deref()),
            // As the server prints it.
            (Self::Text(builder), ColumnData::Guid(value)) => {
                builder.append_option(value.map(|id| id.to_string().to_uppercase()));
            }
            (Self::Binary(builder), ColumnData::Binary(value)) => builder.append_option(value.as_deref()),
            _ => return Err(misread()),
        }
        Ok(())
    }

    fn null(&mut self) {
        each!(self, builder => builder.append_null());
    }

    fn finish(&mut self) -> ArrayRef {
        each!(self, builder => ArrayBuilder::finish(builder))
    }
}

fn misread() -> Error {
    Error::new(ErrorKind::SchemaChanged, "a value is not of the type that its column had when the table was described")
        .hint("the table was changed while the run was going on; run again")
}

/// Rows that have an order carry it, and what happened.
struct Log {
    op: StringBuilder,
    seq: StringBuilder,
    absent: BinaryBuilder,
    partial: bool,
}

/// What a row is besides its values, where rows have an order.
pub(crate) struct Change<'a> {
    /// `I`, `U`, `D`; `R` of a load that changes follow.
    pub(crate) op: &'a str,
    /// Sorts in the order of the log.
    pub(crate) seq: &'a str,
    /// The columns that the row does not carry, a bit each; empty where it is whole.
    pub(crate) absent: &'a [u8],
}

/// Collects rows, and gives them as batches.
pub(crate) struct Rows {
    fields: Vec<FieldRef>,
    builders: Vec<Builder>,
    log: Option<Log>,
    /// The largest value, in bytes.
    most: usize,
    rows: usize,
    bytes: usize,
    /// Texts that held something that is no Unicode, by column.
    pub(crate) replaced: Vec<u64>,
}

impl Rows {
    /// For these columns, in this order; a value larger than `most` bytes is an error.
    pub(crate) fn new<'a>(columns: impl IntoIterator<Item = &'a Column>, most: usize) -> Self {
        let (fields, builders): (Vec<_>, Vec<_>) =
            columns.into_iter().map(|column| (column.field.clone(), Builder::new(column.kind))).unzip();
        let replaced = vec![0; fields.len()];
        Self { fields, builders, log: None, most, rows: 0, bytes: 0, replaced }
    }

    /// The same for rows that have an order, each with a [`Change`].
    pub(crate) fn of_changes<'a>(columns: impl IntoIterator<Item = &'a Column>, most: usize) -> Self {
        let log =
            Log { op: StringBuilder::new(), seq: StringBuilder::new(), absent: BinaryBuilder::new(), partial: false };
        Self { log: Some(log), ..Self::new(columns, most) }
    }

    /// Takes one row that has an order; a value that is missing is null.
    ///
    /// # Errors
    /// As [`Rows::push`].
    pub(crate) fn push_change(&mut self, values: &[Option<&ColumnData<'_>>], change: &Change<'_>) -> Result<()> {
        self.values(values.iter().copied())?;
        let Some(log) = &mut self.log else { return Ok(()) };
        log.op.append_value(change.op);
        log.seq.append_value(change.seq);
        self.bytes += change.seq.len() + change.absent.len() + 8;
        match change.absent.is_empty() {
            true => log.absent.append_null(),
            false => {
                log.absent.append_value(change.absent);
                log.partial = true;
            }
        }
        Ok(())
    }

    /// Takes one row: a value per column.
    ///
    /// # Errors
    /// `SchemaChanged` for another number of values, or one of another type than its column; `LimitExceeded` for a value
    /// that the server has cut.
    pub(crate) fn push(&mut self, row: &Row) -> Result<()> {
        self.values(row.cells().map(|(_, value)| Some(value)))
    }

    fn values<'a>(&mut self, values: impl Iterator<Item = Option<&'a ColumnData<'a>>>) -> Result<()> {
        let mut count = 0;
        for (i, value) in values.enumerate() {
            let (Some(builder), Some(field)) = (self.builders.get_mut(i), self.fields.get(i)) else {
                return Err(misread());
            };
            count += 1;
            let Some(value) = value else {
                builder.null();
                continue;
            };
            self.bytes += cells::size(value);
            let at_server = match value {
                // The server counts two bytes for a character of the basic plane, and four for others.
                ColumnData::String(Some(text)) => {
                    self.replaced[i] += u64::from(text.contains(char::REPLACEMENT_CHARACTER));
                    if text.len() > self.most / 2 { text.encode_utf16().count() * 2 } else { 0 }
                }
                ColumnData::Binary(Some(value)) => value.len(),
                _ => 0,
            };
            if at_server > self.most {
                return Err(Error::new(ErrorKind::LimitExceeded, "a value is larger than `max_row_bytes`")
                    .with("column", field.name())
                    .hint("raise `max_row_bytes`, or leave the column out with `columns`"));
            }
            builder.push(value).map_err(|error| error.with("column", field.name()))?;
        }
        self.rows += 1;
        if count == self.builders.len() { Ok(()) } else { Err(misread()) }
    }

    /// What the rows take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rows since the last batch; `None` where there are none.
    pub(crate) fn finish(&mut self) -> Result<Option<RecordBatch>> {
        if self.rows == 0 {
            return Ok(None);
        }
        let mut arrays: Vec<ArrayRef> = self.builders.iter_mut().map(Builder::finish).collect();
        // A deleted row may come with nulls where the table has none.
        let nullable = |(field, array): (&FieldRef, &ArrayRef)| match array.null_count() > 0 && !field.is_nullable() {
            true => Arc::new(field.as_ref().clone().with_nullable(true)),
            false => field.clone(),
        };
        let mut fields: Vec<FieldRef> = match self.log {
            Some(_) => self.fields.iter().zip(&arrays).map(nullable).collect(),
            None => self.fields.clone(),
        };
        if let Some(log) = &mut self.log {
            let mut add = |name: &str, array: ArrayRef| {
                fields.push(Arc::new(columns::field(name)));
                arrays.push(array);
            };
            add(columns::OP, Arc::new(log.op.finish()));
            add(columns::SEQ, Arc::new(log.seq.finish()));
            let absent = log.absent.finish();
            if std::mem::take(&mut log.partial) {
                add(columns::ABSENT, Arc::new(absent));
            }
        }
        (self.rows, self.bytes) = (0, 0);
        Ok(Some(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?))
    }
}
