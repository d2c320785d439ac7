//! Rows into Arrow columns, one value after another.

use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int8Builder, Int16Builder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder, UInt8Builder,
    UInt16Builder, UInt32Builder, UInt64Builder,
};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{Field, FieldRef, Schema, SchemaRef};
use ingest_core::{Error, ErrorKind, Result, columns};

use crate::catalog::Column;
use crate::cells::{self, Cell};
use crate::types::Kind;

/// Collects the values of a column.
enum Builder {
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    UInt8(UInt8Builder),
    UInt16(UInt16Builder),
    UInt32(UInt32Builder),
    UInt64(UInt64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder, i8),
    Date(Date32Builder),
    Moment(TimestampMicrosecondBuilder),
    Flag(BooleanBuilder),
    Binary(BinaryBuilder),
    Geometry(BinaryBuilder),
    Text(StringBuilder),
}

/// Whether a value has found its place.
#[derive(PartialEq, Eq)]
enum Fit {
    Yes,
    /// It is null here, and its text is rescued.
    Rescued,
}

macro_rules! integer {
    ($builder:expr, $cell:expr) => {
        match $cell {
            Cell::Int(number) => $builder.append_value(number.try_into().map_err(|_| misread())?),
            Cell::UInt(number) => $builder.append_value(number.try_into().map_err(|_| misread())?),
            _ => return Err(misread()),
        }
    };
}

/// Puts null into any builder.
macro_rules! each {
    ($self:expr, $builder:ident => $do:expr) => {
        match $self {
            Builder::Int8($builder) => $do,
            Builder::Int16($builder) => $do,
            Builder::Int32($builder) => $do,
            Builder::Int64($builder) => $do,
            Builder::UInt8($builder) => $do,
            Builder::UInt16($builder) => $do,
            Builder::UInt32($builder) => $do,
            Builder::UInt64($builder) => $do,
            Builder::Float32($builder) => $do,
            Builder::Float64($builder) => $do,
            Builder::Decimal($builder, _) => $do,
            Builder::Date($builder) => $do,
            Builder::Moment($builder) => $do,
            Builder::Flag($builder) => $do,
            Builder::Binary($builder) | Builder::Geometry($builder) => $do,
            Builder::Text($builder) => $do,
        }
    };
}

impl Builder {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Int8 => Self::Int8(Int8Builder::new()),
            Kind::Int16 => Self::Int16(Int16Builder::new()),
            Kind::Int32 => Self::Int32(Int32Builder::new()),
            Kind::Int64 | Kind::Time => Self::Int64(Int64Builder::new()),
            Kind::UInt8 => Self::UInt8(UInt8Builder::new()),
            Kind::UInt16 => Self::UInt16(UInt16Builder::new()),
            Kind::UInt32 => Self::UInt32(UInt32Builder::new()),
            Kind::UInt64 => Self::UInt64(UInt64Builder::new()),
            Kind::Float32 => Self::Float32(Float32Builder::new()),
            Kind::Float64 => Self::Float64(Float64Builder::new()),
            Kind::Decimal { scale, .. } => {
                Self::Decimal(Decimal128Builder::new().with_data_type(kind.data_type()), scale)
            }
            Kind::Date => Self::Date(Date32Builder::new()),
            Kind::DateTime | Kind::Timestamp => {
                Self::Moment(TimestampMicrosecondBuilder::new().with_data_type(kind.data_type()))
            }
            Kind::Flag => Self::Flag(BooleanBuilder::new()),
            Kind::Binary => Self::Binary(BinaryBuilder::new()),
            Kind::Geometry => Self::Geometry(BinaryBuilder::new()),
            Kind::Text => Self::Text(StringBuilder::new()),
        }
    }

    /// Takes a value that is not null.
    fn push(&mut self, cell: Cell<'_>) -> Result<Fit> {
        match (&mut *self, cell) {
            (Self::Int8(builder), cell) => integer!(builder, cell),
            (Self::Int16(builder), cell) => integer!(builder, cell),
            (Self::Int32(builder), cell) => integer!(builder, cell),
            (Self::Int64(builder), Cell::Time(time)) => builder.append_value(time),
            (Self::Int64(builder), cell) => integer!(builder, cell),
            (Self::UInt8(builder), cell) => integer!(builder, cell),
            (Self::UInt16(builder), cell) => integer!(builder, cell),
            (Self::UInt32(builder), cell) => integer!(builder, cell),
            (Self::UInt64(builder), cell) => integer!(builder, cell),
            (Self::Float32(builder), Cell::Float(number)) => builder.append_value(number),
            (Self::Float64(builder), Cell::Double(number)) => builder.append_value(number),
            (Self::Decimal(builder, scale), Cell::Decimal(number, places))
                if i32::from(*scale) == i32::from(places) =>
            {
                builder.append_value(number);
            }
            (Self::Decimal(builder, scale), Cell::Bytes(text)) => {
                builder.append_value(cells::decimal(text, *scale).ok_or_else(misread)?);
            }
            (Self::Date(builder), Cell::Moment(moment)) => match moment.days() {
                Some(days) => builder.append_value(days),
                None => return Ok(self.rescue()),
            },
            (Self::Moment(builder), Cell::Moment(moment)) => match moment.micros() {
                Some(micros) => builder.append_value(micros),
                None => return Ok(self.rescue()),
            },
            (Self::Moment(builder), Cell::Instant(micros)) => builder.append_value(micros),
            (Self::Flag(builder), Cell::Bytes(bits)) => builder.append_value(bits.iter().any(|bits| *bits != 0)),
            (Self::Binary(builder), Cell::Bytes(bytes)) => builder.append_value(bytes),
            (Self::Geometry(builder), Cell::Bytes(bytes)) => match bytes.get(4..) {
                Some(known) => builder.append_value(known),
                None => return Ok(self.rescue()),
            },
            (Self::Text(builder), Cell::Bytes(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => builder.append_value(text),
                Err(_) => return Ok(self.rescue()),
            },
            _ => return Err(misread()),
        }
        Ok(Fit::Yes)
    }

    fn rescue(&mut self) -> Fit {
        self.null();
        Fit::Rescued
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

/// What a row of a change log is besides its values.
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
    /// Row, column, and the text of values that have no place in their column.
    misfits: Vec<(usize, usize, String)>,
    rows: usize,
    bytes: usize,
}

impl Rows {
    /// For these columns, in this order.
    pub(crate) fn new<'a>(columns: impl IntoIterator<Item = &'a Column>) -> Self {
        let (fields, builders) =
            columns.into_iter().map(|column| (column.field.clone(), Builder::new(column.kind))).unzip();
        Self { fields, builders, log: None, misfits: Vec::new(), rows: 0, bytes: 0 }
    }

    /// The same for rows of a change log, each with a [`Change`].
    pub(crate) fn of_changes<'a>(columns: impl IntoIterator<Item = &'a Column>) -> Self {
        let log =
            Log { op: StringBuilder::new(), seq: StringBuilder::new(), absent: BinaryBuilder::new(), partial: false };
        Self { log: Some(log), ..Self::new(columns) }
    }

    /// Takes one row of a change log.
    ///
    /// # Errors
    /// As [`Rows::push`].
    pub(crate) fn push_change<'a>(
        &mut self,
        cells: impl ExactSizeIterator<Item = Cell<'a>>,
        change: &Change<'_>,
    ) -> Result<()> {
        self.values(cells)?;
        self.end_change(change);
        Ok(())
    }

    /// Takes one row: a value per column.
    ///
    /// # Errors
    /// `SchemaChanged` for another number of values, or one of another type than its column.
    pub(crate) fn push<'a>(&mut self, cells: impl ExactSizeIterator<Item = Cell<'a>>) -> Result<()> {
        self.values(cells)?;
        self.rows += 1;
        Ok(())
    }

    fn values<'a>(&mut self, cells: impl ExactSizeIterator<Item = Cell<'a>>) -> Result<()> {
        if cells.len() != self.builders.len() {
            return Err(misread());
        }
        cells.enumerate().try_for_each(|(column, cell)| self.value(column, cell))
    }

    /// Takes the value of one column. A row is one of each, and [`Rows::end_change`].
    ///
    /// # Errors
    /// `SchemaChanged` for a value of another type than its column.
    pub(crate) fn value(&mut self, column: usize, cell: Cell<'_>) -> Result<()> {
        let builder = self.builders.get_mut(column).ok_or_else(misread)?;
        self.bytes += cell.bytes();
        if matches!(cell, Cell::Null) {
            builder.null();
            return Ok(());
        }
        match builder.push(cell) {
            Ok(Fit::Yes) => {}
            Ok(Fit::Rescued) => self.misfits.push((self.rows, column, cell.print())),
            Err(error) => return Err(error.with("column", self.fields[column].name())),
        }
        Ok(())
    }

    /// Ends a row of a change log whose values are all there.
    pub(crate) fn end_change(&mut self, change: &Change<'_>) {
        self.rows += 1;
        let Some(log) = &mut self.log else { return };
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
        let mut fields = self.fields.clone();
        let mut add = |name: &str, array: ArrayRef| {
            fields.push(Arc::new(columns::field(name)));
            arrays.push(array);
        };
        if let Some(log) = &mut self.log {
            add(columns::OP, Arc::new(log.op.finish()));
            add(columns::SEQ, Arc::new(log.seq.finish()));
            let absent = log.absent.finish();
            if std::mem::take(&mut log.partial) {
                add(columns::ABSENT, Arc::new(absent));
            }
        }
        if !self.misfits.is_empty() {
            add(columns::RESCUED, Arc::new(rescued(&self.fields, std::mem::take(&mut self.misfits), self.rows)?));
        }
        (self.rows, self.bytes) = (0, 0);
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        Ok(Some(RecordBatch::try_new(schema, arrays)?))
    }
}

/// A JSON object per row that had values without a place.
fn rescued(fields: &[Arc<Field>], misfits: Vec<(usize, usize, String)>, rows: usize) -> Result<StringArray> {
    let mut texts: Vec<Option<String>> = vec![None; rows];
    let mut misfits = misfits.into_iter().peekable();
    while let Some((row, column, text)) = misfits.next() {
        let mut object = serde_json::Map::new();
        object.insert(fields[column].name().clone(), text.into());
        while let Some((_, column, text)) = misfits.next_if(|(other, _, _)| *other == row) {
            object.insert(fields[column].name().clone(), text.into());
        }
        texts[row] = Some(serde_json::Value::Object(object).to_string());
    }
    Ok(StringArray::from(texts))
}
