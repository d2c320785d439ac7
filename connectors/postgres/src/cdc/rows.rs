//! Changes of one table on their way into a batch.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{Field, FieldRef, Schema, SchemaRef};
use ingest_core::{Error, ErrorKind, Result, columns};

use super::message::{Tuple, Value};
use crate::decode::Columns;
use crate::server::Server;
use crate::types::{Cast, Kind};

/// Values that the server converts at once.
const CONVERTED: usize = 1_000;

/// A column of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowColumn {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) cast: Cast,
    /// What the log says: the type of a domain is the domain.
    pub(crate) type_oid: u32,
    /// Its number in the schema of the stream, as `_ingest_absent` counts.
    pub(crate) number: usize,
}

/// What became of a row. The words of `_ingest_op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Insert,
    Update,
    Delete,
}

impl Op {
    fn word(self) -> &'static str {
        match self {
            Self::Insert => "I",
            Self::Update => "U",
            Self::Delete => "D",
        }
    }
}

/// Collects changes of one table.
pub(crate) struct Rows {
    pub(crate) shape: Vec<RowColumn>,
    columns: Columns,
    /// Values that only the server can read, by column.
    foreign: Vec<Option<Foreign>>,
    ops: StringBuilder,
    seqs: StringBuilder,
    absent: BinaryBuilder,
    any_absent: bool,
    count: usize,
}

/// Values in a binary form that is not known here.
#[derive(Default)]
struct Foreign {
    data: Vec<u8>,
    places: Vec<Option<Range<usize>>>,
}

impl Rows {
    pub(crate) fn new(shape: Vec<RowColumn>) -> Self {
        // A row that says that its key is gone carries nothing else: all may be null.
        let field =
            |column: &RowColumn| -> FieldRef { Arc::new(Field::new(&column.name, column.kind.data_type(), true)) };
        Self {
            columns: Columns::new(shape.iter().map(|column| (field(column), column.kind.clone()))),
            foreign: shape.iter().map(|column| (column.cast != Cast::None).then(Foreign::default)).collect(),
            // Of thousands of tables most have a few rows at a time: room is made as they come.
            ops: StringBuilder::with_capacity(0, 0),
            seqs: StringBuilder::with_capacity(0, 0),
            absent: BinaryBuilder::with_capacity(0, 0),
            any_absent: false,
            count: 0,
            shape,
        }
    }

    /// What the stream's rows look like now.
    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.fields.clone()))
    }

    /// Takes a row. `places` says which column of ours each value is, `missing` which ones have none; `before` is the whole row as it was, where the log has
    /// it. Gives the bytes that it takes, about.
    pub(crate) fn push(
        &mut self,
        op: Op,
        (lsn, nth): (u64, u64),
        places: &[Option<usize>],
        missing: &[usize],
        row: &Tuple<'_>,
        before: Option<&Tuple<'_>>,
    ) -> Result<usize> {
        if places.len() != row.values.len() {
            return Err(Error::new(
                ErrorKind::DataInvalid,
                "cdc: a change has another number of columns than its table",
            )
            .with("columns", row.values.len())
            .with("expected", places.len()));
        }
        let mut bytes = 64;
        let mut absent: Vec<u8> = Vec::new();
        for (i, (place, value)) in places.iter().zip(&row.values).enumerate() {
            let Some(place) = *place else { continue };
            let value = match value {
                Value::Unchanged => before.and_then(|before| before.values.get(i)).copied().unwrap_or(Value::Unchanged),
                value => *value,
            };
            // A row that says that its key is gone counts for its key alone.
            if value == Value::Unchanged {
                let number = self.shape[place].number;
                if absent.len() <= number / 8 {
                    absent.resize(number / 8 + 1, 0);
                }
                absent[number / 8] |= 1 << (number % 8);
            }
            bytes += self.value(place, value)?;
        }
        for place in missing {
            bytes += self.value(*place, Value::Null)?;
        }
        self.ops.append_value(op.word());
        // Text goes in without an allocation of its own.
        write!(self.seqs, "{lsn:016x}.{nth:016x}").map_err(|_| Error::unexpected("cannot write to memory"))?;
        self.seqs.append_value("");
        self.any_absent |= !absent.is_empty();
        self.absent.append_option((!absent.is_empty()).then_some(absent));
        self.count += 1;
        Ok(bytes)
    }

    fn value(&mut self, place: usize, value: Value<'_>) -> Result<usize> {
        let value = match value {
            Value::Null | Value::Unchanged => None,
            Value::Binary(bytes) => Some(bytes),
            // A type without a binary form is read as the text that it has.
            Value::Text(bytes) if self.shape[place].cast == Cast::Text => {
                if self.foreign[place].as_ref().is_some_and(|foreign| foreign.places.iter().all(Option::is_none)) {
                    let nulls = self.foreign[place].take().map_or(0, |foreign| foreign.places.len());
                    self.columns.extend(place, std::iter::repeat_n(None, nulls))?;
                }
                Some(bytes)
            }
            Value::Text(_) => {
                return Err(Error::new(
                    ErrorKind::DataInvalid,
                    "cdc: the server sends a value as text that has a binary form",
                )
                .with("column", &self.shape[place].name));
            }
        };
        match &mut self.foreign[place] {
            None => self.columns.extend(place, std::iter::once(value))?,
            Some(foreign) => foreign.places.push(value.map(|bytes| {
                let start = foreign.data.len();
                foreign.data.extend_from_slice(bytes);
                start..foreign.data.len()
            })),
        }
        Ok(value.map_or(1, |bytes| bytes.len() + 4))
    }

    /// Makes a batch of what came; `None` = nothing.
    pub(crate) async fn finish(&mut self, server: &Arc<Server>) -> Result<Option<RecordBatch>> {
        let rows = std::mem::take(&mut self.count);
        if rows == 0 {
            return Ok(None);
        }
        self.convert(server).await?;
        let (mut fields, mut arrays) = self.columns.finish(rows)?;
        let mut add = |name: &str, array: ArrayRef| {
            fields.push(Arc::new(columns::field(name)));
            arrays.push(array);
        };
        add(columns::OP, Arc::new(self.ops.finish()));
        add(columns::SEQ, Arc::new(self.seqs.finish()));
        let absent = self.absent.finish();
        if std::mem::take(&mut self.any_absent) {
            add(columns::ABSENT, Arc::new(absent));
        }
        Ok(Some(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?))
    }

    /// Has the server convert what only it can read, as it does in a full load.
    async fn convert(&mut self, server: &Arc<Server>) -> Result<()> {
        for place in 0..self.shape.len() {
            let Some(foreign) = self.foreign[place].as_mut().map(std::mem::take) else { continue };
            let column = &self.shape[place];
            let values: Vec<&[u8]> =
                foreign.places.iter().flatten().map(|place| &foreign.data[place.clone()]).collect();
            let mut converted = Vec::with_capacity(values.len());
            if !values.is_empty() {
                let mut lent = server.lend().await?;
                for values in values.chunks(CONVERTED) {
                    let answer = lent.connection.convert(column.type_oid, column.cast.sql(), values).await;
                    converted.extend(answer.map_err(|e| e.with("column", &column.name))?);
                }
                lent.give_back(server);
            }
            let mut converted = converted.iter();
            let all = foreign.places.iter().map(|place| match place {
                Some(_) => converted.next().and_then(|value| value.as_deref()),
                None => None,
            });
            self.columns.extend(place, all)?;
        }
        Ok(())
    }
}
