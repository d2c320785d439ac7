//! Turns the batches of a connector into batches for its table.
//!
//! ```text
//! batch -> by name -> bounds -> cast (table format) -> exact conversion -> columns of ours -> batch for the table
//!                        \_____________________________________/
//!                         what does not fit: `_ingest_rescued`
//! ```
//!
//! [`reconcile`] compares the schema of a source with that of its table once, under the stream's policy; the [`Conform`]
//! that comes of it takes the batches. Where the types are equal and no value lies out of bounds, nothing is copied.
//!
//! | | `evolve` | `rescue` | `freeze`, `fail` |
//! | --- | --- | --- | --- |
//! | column is new | the table gets it | `_ingest_rescued` | `SchemaChanged` |
//! | column is gone | null | null | `SchemaChanged` |
//! | type differs, every value fits the table's | converted | converted | `SchemaChanged` |
//! | type differs otherwise | what fits exactly is converted, the rest rescued | the same | `SchemaChanged` |
//! | name differs by case | the table's spelling | the same | `SchemaChanged` |
//! | value that the table format cannot hold | `_ingest_rescued` | the same | the same |
//! | field of a struct | like a column; under `evolve` the struct grows | the whole value is rescued | `SchemaChanged` |
//!
//! What the table format cannot hold are dates and timestamps outside the years 0001 to 9999 and decimals of too many
//! digits. A value is rescued as a whole: one bad element rescues its list.

mod bounds;
mod changes;
mod columns;
mod exact;
mod layout;
mod names;
mod reconcile;
mod rescue;
mod spelling;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::builder::BinaryBuilder;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::{DataType, SchemaRef};
use ingest_core::columns::{ABSENT, INGESTED_AT, OP, RESCUED, RUN_ID, SEQ, field};
use ingest_core::lake::TableFormat;
use ingest_core::{Error, ErrorKind, Result, StreamName};

pub use changes::{Handling, SchemaChange};
pub(crate) use exact::texts;
pub(crate) use names::{column_of, same_column, stored_name};
pub use reconcile::reconcile;

use crate::config::SchemaPolicy;
use columns::Constants;
use layout::{Layout, Origin};

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The stream.
    pub stream: &'a StreamName,
    /// The schema of the source, as it was discovered or as a later schema event says.
    pub source: &'a SchemaRef,
    /// The storage schema of the table; `None` = there is none yet.
    pub table: Option<&'a SchemaRef>,
    /// What to do about changes.
    pub policy: SchemaPolicy,
    /// Columns of ours that are switched off.
    pub added_columns: &'a BTreeMap<String, bool>,
    /// Whether rows carry `_ingest_seq`: feeds, and slices of several streams.
    pub seq: bool,
    /// Whether partial rows may come, with `_ingest_absent`.
    pub absent: bool,
}

/// What every row of a batch is stamped with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The run.
    pub run_id: Arc<str>,
    /// Microseconds UTC.
    pub ingested_at: i64,
}

/// A batch for the table.
#[derive(Debug, Clone)]
pub struct Conformed {
    /// In the storage schema.
    pub batch: RecordBatch,
    /// Rows with something in `_ingest_rescued`.
    pub rescued: usize,
}

/// Turns batches of a stream into batches for its table. Made by [`reconcile`]; many slices may share one.
pub struct Conform {
    format: Arc<dyn TableFormat>,
    stream: StreamName,
    policy: SchemaPolicy,
    source: SchemaRef,
    storage: SchemaRef,
    widens: bool,
    changes: Vec<SchemaChange>,
    /// Per column of the source: its place among the table's columns without ours, as `_ingest_absent` counts them.
    absent_places: Vec<Option<usize>>,
    /// The source's columns in its order: name there, and name in the table if it has a place there.
    columns: Vec<(Arc<str>, Option<Arc<str>>)>,
    /// Stamps that are switched off, in a table that has their columns: null from now on.
    silenced: Vec<String>,
    constants: Constants,
    /// Of the last schema that a batch had.
    layout: Mutex<Option<(SchemaRef, Arc<Layout>)>>,
}

impl Conform {
    /// The schema that the table must have for the batches.
    pub fn storage(&self) -> &SchemaRef {
        &self.storage
    }

    /// Whether the table lacks a column, or a field of a struct, of [`Conform::storage`]. False where there is no table.
    pub fn widens(&self) -> bool {
        self.widens
    }

    /// How the source and the table differ.
    pub fn changes(&self) -> &[SchemaChange] {
        &self.changes
    }

    /// The name in the table of a column of the source; `None` where it has no place there.
    pub fn stored_name(&self, column: &str) -> Option<&str> {
        self.columns.iter().find(|(source, _)| source.as_ref() == column)?.1.as_deref()
    }

    /// Turns a batch into one in the storage schema.
    ///
    /// Columns are found by name; what the batch does not have is null. In the result bit i of `_ingest_absent` stands
    /// for data column i of the table, columns of ours not counted: that order only grows.
    ///
    /// # Errors
    /// `Unexpected` where the batch breaks the contract of a connector; `SchemaChanged` for a type that was not announced
    /// under `freeze` and `fail`; `DataInvalid` where a value must be rescued and `_ingest_rescued` is switched off, and
    /// for a null in a column that the table declares not null.
    pub fn batch(&self, batch: RecordBatch, stamp: &Stamp) -> Result<Conformed> {
        let layout = self.layout(batch.schema_ref())?;
        let rows = batch.num_rows();
        let data = layout.apply(self, &batch)?;
        let given = self.reserved(&layout, &batch, RESCUED)?;
        let texts = match (data.rescued.is_empty(), given) {
            (true, given) => given,
            (false, given) => {
                let given = given.as_ref().map(|given| given.as_string::<i32>());
                let merged: StringArray = rescue::merge(given, &data.rescued, rows)?;
                Some(Arc::new(merged) as ArrayRef)
            }
        };
        let rescued = texts.as_ref().map_or(0, |texts| rows - texts.null_count());
        if rescued > 0 && self.storage.field_with_name(RESCUED).is_err() {
            return Err(self.nowhere_to_rescue(&data.rescued));
        }
        let mut arrays = Vec::with_capacity(layout.columns.len());
        for ((origin, array), field) in layout.columns.iter().zip(data.arrays).zip(self.storage.fields()) {
            arrays.push(match (origin, array) {
                (_, Some(array)) => array,
                (Origin::Ours(name), None) => self.ours(&layout, &batch, name, stamp, &texts)?,
                (_, None) => self.constants.null(field.data_type(), rows),
            });
        }
        self.refuse_hidden_absent(&layout, &batch)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.storage), arrays, &options).map_err(|e| {
            Error::new(ErrorKind::DataInvalid, "cannot make a batch for the table")
                .with("stream", &self.stream)
                .hint("a column that another program declared NOT NULL in the table is null at the source")
                .caused_by(e)
        })?;
        Ok(Conformed { batch, rescued })
    }

    /// The layout for a schema: that of the last batch as a rule.
    fn layout(&self, schema: &SchemaRef) -> Result<Arc<Layout>> {
        let mut kept = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, layout)) = kept.as_ref()
            && (Arc::ptr_eq(last, schema) || last == schema)
        {
            return Ok(Arc::clone(layout));
        }
        let layout = Arc::new(Layout::of(self, schema)?);
        *kept = Some((Arc::clone(schema), Arc::clone(&layout)));
        Ok(layout)
    }

    /// A column of ours.
    fn ours(
        &self,
        layout: &Layout,
        batch: &RecordBatch,
        name: &str,
        stamp: &Stamp,
        rescued: &Option<ArrayRef>,
    ) -> Result<ArrayRef> {
        let rows = batch.num_rows();
        let given = match name {
            _ if self.silenced.iter().any(|silenced| silenced == name) => None,
            RUN_ID => Some(self.constants.run_id(stamp, rows)?),
            INGESTED_AT => Some(self.constants.ingested_at(stamp, rows)),
            OP => Some(self.op(layout, batch)?),
            SEQ => self.reserved(layout, batch, SEQ)?,
            ABSENT => self.reserved(layout, batch, ABSENT)?.map(|bits| self.absent(bits)),
            RESCUED => rescued.clone(),
            _ => None,
        };
        let stored = self.storage.field_with_name(name)?;
        Ok(given.unwrap_or_else(|| self.constants.null(stored.data_type(), rows)))
    }

    /// What the connector says of each row, else `R`.
    fn op(&self, layout: &Layout, batch: &RecordBatch) -> Result<ArrayRef> {
        let Some(given) = self.reserved(layout, batch, OP)? else { return self.constants.read(batch.num_rows()) };
        if given.null_count() == 0 {
            return Ok(given);
        }
        let filled: StringArray = given.as_string::<i32>().iter().map(|op| Some(op.unwrap_or("R"))).collect();
        Ok(Arc::new(filled))
    }

    /// A reserved column of the batch in its own type.
    fn reserved(&self, layout: &Layout, batch: &RecordBatch, name: &str) -> Result<Option<ArrayRef>> {
        let Some(array) = layout.reserved(batch, name) else { return Ok(None) };
        let wanted = field(name);
        if array.data_type() == wanted.data_type() {
            return Ok(Some(Arc::clone(array)));
        }
        let fits = |came: &DataType| match wanted.data_type() {
            DataType::Utf8 => came.is_string() || came.is_null(),
            _ => came.is_binary() || came.is_null(),
        };
        let is_fit = match array.data_type() {
            DataType::Dictionary(_, values) => fits(values),
            came => fits(came),
        };
        if !is_fit {
            return Err(Error::unexpected("the connector filled a column of ours with another type")
                .with("stream", &self.stream)
                .with("column", name)
                .with("type", array.data_type())
                .hint("this is a bug of the connector: report it to its author"));
        }
        Ok(Some(arrow_cast::cast(array, wanted.data_type())?))
    }

    /// Turns bits that count the source's columns into bits that count the table's.
    fn absent(&self, bits: ArrayRef) -> ArrayRef {
        let places = &self.absent_places;
        if bits.null_count() == bits.len() || places.iter().enumerate().all(|(i, place)| *place == Some(i)) {
            return bits;
        }
        let bytes = places.iter().flatten().max().map_or(0, |last| last / 8 + 1);
        let came: &BinaryArray = bits.as_binary();
        let mut builder = BinaryBuilder::with_capacity(came.len(), came.value_data().len());
        for bits in came {
            builder.append_option(bits.map(|bits| {
                let mut moved = vec![0_u8; bytes];
                for (i, place) in places.iter().enumerate() {
                    let is_set = bits.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1);
                    if let (true, Some(place)) = (is_set, place) {
                        moved[place / 8] |= 1 << (place % 8);
                    }
                }
                moved
            }));
        }
        Arc::new(builder.finish())
    }

    /// Absent is not null: without a column that parts them a partial row must not be written.
    fn refuse_hidden_absent(&self, layout: &Layout, batch: &RecordBatch) -> Result<()> {
        let partial = layout.reserved(batch, ABSENT).map_or(0, |bits| bits.len() - bits.null_count());
        if partial == 0 || self.storage.field_with_name(ABSENT).is_ok() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::DataInvalid, "the source sent partial rows, and the table cannot mark them")
            .with("stream", &self.stream)
            .with("rows", partial)
            .hint("switch `_ingest_absent` on with `added_columns`"))
    }

    fn nowhere_to_rescue(&self, rescued: &[rescue::Rescued]) -> Error {
        let columns: Vec<&str> = rescued.iter().map(|rescued| rescued.column.as_ref()).collect();
        Error::new(ErrorKind::DataInvalid, "values do not fit the table, and `_ingest_rescued` is switched off")
            .with("stream", &self.stream)
            .with("columns", columns.join(", "))
            .hint("switch `_ingest_rescued` on with `added_columns`, or leave the columns out with `columns`")
    }
}
