//! Rows between the decoder and the way out: those of a window, with what their parent gives them.

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray, UInt32Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use ingest_core::json::{Decoder, SOURCE_NAME};
use ingest_core::{Error, ErrorKind, Result, columns};
use std::sync::Arc;

use crate::bounds::DAY;
use crate::state::ParentRow;
use crate::streams::{Def, kept_fields, schema_of};
use crate::walk::Bounds;

/// Leaves the rows of a window. What an API takes a bound to mean does not matter then.
pub(crate) struct Filter {
    column: usize,
    bounds: Bounds,
    newest_first: bool,
    /// The oldest cursor so far.
    oldest: i64,
}

impl Filter {
    /// `None` where there is nothing to leave out.
    pub fn new(def: &Def, schema: &SchemaRef, bounds: Bounds) -> Result<Option<Self>> {
        let Some(window) = def.window.as_ref().filter(|_| bounds != Bounds::default()) else { return Ok(None) };
        let column = schema.fields().iter().position(|field| *field.name() == window.cursor);
        let column = column.ok_or_else(|| Error::unexpected("the cursor is no column").with("stream", &def.name))?;
        Ok(Some(Self { column, bounds, newest_first: window.newest_first, oldest: i64::MAX }))
    }

    /// The rows of the window; how many had no cursor and were left out; whether only older ones follow.
    pub fn apply(&mut self, rows: RecordBatch) -> Result<(RecordBatch, usize, bool)> {
        let column = rows.column(self.column);
        let times: Vec<Option<i64>> = match column.data_type() {
            DataType::Date32 => {
                column.as_primitive::<Date32Type>().iter().map(|day| day.map(|day| i64::from(day) * DAY)).collect()
            }
            DataType::Timestamp(..) => column.as_primitive::<TimestampMicrosecondType>().iter().collect(),
            other => return Err(Error::unexpected("a cursor of a type that is no time").with("type", other)),
        };
        let Bounds { from, to } = self.bounds;
        let inside = |time: i64| from.is_none_or(|from| time >= from) && to.is_none_or(|to| time < to);
        // The first load takes what has no cursor; no later one could tell whether it is new.
        let keep: BooleanArray = times.iter().map(|time| Some(time.map_or(from.is_none(), inside))).collect();
        let undated = if from.is_some() { times.iter().filter(|time| time.is_none()).count() } else { 0 };
        let over = self.newest_first && self.reaches_older(&times)?;
        let all = keep.true_count() == rows.num_rows();
        let rows = if all { rows } else { arrow_select::filter::filter_record_batch(&rows, &keep)? };
        Ok((rows, undated, over))
    }

    fn reaches_older(&mut self, times: &[Option<i64>]) -> Result<bool> {
        for time in times.iter().flatten() {
            if *time > self.oldest {
                return Err(Error::new(
                    ErrorKind::DataInvalid,
                    "a list is not in the order of its cursor, newest first",
                )
                .hint("take `newest_first` out of the manifest; the whole list is read then"));
            }
            self.oldest = *time;
        }
        Ok(self.bounds.from.is_some_and(|from| self.oldest < from))
    }
}

/// What every row of a list gets: columns of its parent, and whether it is deleted.
pub(crate) struct Dress {
    /// One row.
    kept: Option<RecordBatch>,
    deleted: Option<String>,
}

impl Dress {
    /// Reads the parent's columns once; `fields` are all columns of the stream.
    pub fn new(def: &Def, fields: &[Field], parent: Option<&ParentRow>) -> Result<Self> {
        let kept = match (&def.parent, parent) {
            (Some(of), Some(row)) if !of.keep.is_empty() => Some(kept_row(&of.keep, fields, row)?),
            _ => None,
        };
        Ok(Self { kept, deleted: def.deleted.clone() })
    }

    /// Dresses rows: the reserved columns stay the last ones.
    pub fn put_on(&self, rows: RecordBatch) -> Result<RecordBatch> {
        if self.kept.is_none() && self.deleted.is_none() {
            return Ok(rows);
        }
        let count = rows.num_rows();
        let schema = rows.schema();
        let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        let mut arrays: Vec<ArrayRef> = rows.columns().to_vec();
        if let Some(kept) = &self.kept {
            let zeros = UInt32Array::from(vec![0; count]);
            for (i, field) in kept.schema().fields().iter().enumerate() {
                fields.insert(i, field.as_ref().clone());
                arrays.insert(i, arrow_select::take::take(kept.column(i), &zeros, None)?);
            }
        }
        if let Some(deleted) = &self.deleted {
            let ops = match rows.column_by_name(deleted) {
                Some(column) => ops(column),
                None => StringArray::from(vec!["R"; count]),
            };
            fields.push(columns::field(columns::OP));
            arrays.push(Arc::new(ops));
        }
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
    }
}

fn ops(deleted: &ArrayRef) -> StringArray {
    let flags = deleted.as_boolean_opt();
    let is_deleted = |i: usize| match flags {
        Some(flags) => flags.is_valid(i) && flags.value(i),
        None => deleted.is_valid(i),
    };
    (0..deleted.len()).map(|i| Some(if is_deleted(i) { "D" } else { "R" })).collect()
}

/// The columns that come from the parent, as one row of their types.
fn kept_row(
    keep: &std::collections::BTreeMap<String, String>,
    fields: &[Field],
    row: &ParentRow,
) -> Result<RecordBatch> {
    let own: Vec<Field> = fields.iter().filter(|field| keep.contains_key(field.name())).cloned().collect();
    let values: Vec<String> = own
        .iter()
        .filter_map(|field| {
            let raw = row.get(keep.get(field.name())?)?;
            Some(format!("{}:{raw}", serde_json::Value::from(field.name().as_str())))
        })
        .collect();
    let names: Vec<String> = own.iter().map(|field| field.name().clone()).collect();
    let mut decoder = Decoder::new(schema_of(own))?;
    decoder.object(format!("{{{}}}", values.join(",")).as_bytes())?;
    let batch = decoder.flush()?;
    let wanted: Vec<usize> = (0..names.len()).collect();
    Ok(batch.project(&wanted)?)
}

/// The columns that a record itself gives: all but those of its parent.
pub(crate) fn own_fields(def: &Def, fields: &[Field]) -> Vec<Field> {
    let kept = |field: &&Field| def.parent.as_ref().is_none_or(|parent| !parent.keep.contains_key(field.name()));
    fields.iter().filter(kept).cloned().collect()
}

/// The columns of a stream whose sample was taken elsewhere: those that are declared as they are declared, others by their
/// types.
pub(crate) fn fields_from(
    def: &Def,
    parent: Option<&[Field]>,
    columns: &[(String, crate::types::ColumnType)],
) -> Vec<Field> {
    let kept = match (&def.parent, parent) {
        (Some(of), Some(fields)) => kept_fields(of, fields),
        _ => Vec::new(),
    };
    let own = |name: &str| def.fields.iter().chain(&kept).find(|field| field.name() == name).cloned();
    let field = |(name, of): &(String, crate::types::ColumnType)| {
        own(name).unwrap_or_else(|| of.field(name, !def.key.contains(name)))
    };
    let mut fields: Vec<Field> = columns.iter().map(field).collect();
    for field in &mut fields {
        if def.key.contains(field.name()) {
            *field = field.clone().with_nullable(false);
        }
        if field.metadata().get(SOURCE_NAME).is_some_and(|from| from == field.name()) {
            let mut metadata = field.metadata().clone();
            metadata.remove(SOURCE_NAME);
            field.set_metadata(metadata);
        }
    }
    fields
}
