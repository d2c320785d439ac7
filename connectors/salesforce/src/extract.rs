//! Slices: pages of a query or a job, and what every row carries besides its columns.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::{Field, Schema};
use ingest_core::{Done, Error, ErrorKind, Out, Result, Seq, Slice, columns};

use crate::state::{Position, Which, Work};
use crate::{Salesforce, bulk, cdc, query, soql};

/// Reads a slice from a position on.
pub(crate) async fn read(
    salesforce: &Salesforce,
    slice: &Slice<Work>,
    from: Option<&Position>,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    let work = &slice.work;
    let stream = slice.stream()?;
    let reading = Reading { salesforce, work, stream };
    let done = match from {
        from if work.topic.is_some() => {
            let topic = work.topic.as_deref().unwrap_or_default();
            cdc::feed::follow(salesforce, work, topic, stream, from, out).await
        }
        None if work.bulk => bulk::begin(&reading, 0, out).await,
        None => query::read(&reading, None, out).await,
        Some(Position::Fresh { by_pages: true, .. }) => query::read(&reading, None, out).await,
        Some(Position::Fresh { failed, .. }) => bulk::begin(&reading, *failed, out).await,
        Some(Position::Job { id, failed }) => bulk::look(&reading, id, *failed, out).await,
        Some(Position::Results { job, locator, rows }) => bulk::resume(&reading, job, locator, *rows, out).await,
        Some(Position::Page { after, locator }) => query::read(&reading, Some((after, locator)), out).await,
        Some(Position::Until { .. } | Position::Feed { .. }) => return Err(foreign(stream)),
    };
    let done = done.map_err(|error| error.with("stream", stream));
    if let (Ok(Done::Complete), Some(usage)) = (&done, salesforce.api.usage()) {
        tracing::info!(%stream, used = usage.used, limit = usage.limit, "the org's daily requests so far");
    }
    done
}

/// A position that this connector does not give for what is read.
pub(crate) fn foreign(stream: &ingest_core::StreamName) -> Error {
    Error::new(ErrorKind::CheckpointInvalid, "a stream stands at a position of another kind")
        .with("stream", stream)
        .hint("`ingest state reset` forgets it; the next run loads the stream again")
}

/// A slice while it is read.
pub(crate) struct Reading<'a> {
    pub salesforce: &'a Salesforce,
    pub work: &'a Work,
    pub stream: &'a ingest_core::StreamName,
}

impl Reading<'_> {
    /// The schema of what a query gives.
    pub fn schema(&self) -> Arc<Schema> {
        let fields = soql::selected(self.work).into_iter();
        // The id is where pages go on: a row without it is no row.
        Arc::new(Schema::new(fields.map(|(n, ty)| Field::new(&n, ty, n != "Id")).collect::<Vec<_>>()))
    }

    /// Gives rows as the stream has them.
    pub async fn give(&self, rows: RecordBatch, out: &mut Out<'_, Position>) -> Result<()> {
        out.rows(self.stream, dressed(self.work, &rows)?).await
    }
}

/// Rows with their place in order and what happened to them; columns that nobody asked for are left out.
fn dressed(work: &Work, rows: &RecordBatch) -> Result<RecordBatch> {
    let (mut fields, mut arrays): (Vec<Arc<Field>>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for (field, array) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        let is_wanted = work.columns.iter().any(|(name, _)| name == field.name()) || columns::is_reserved(field.name());
        if is_wanted {
            fields.push(field.clone());
            arrays.push(array.clone());
        }
    }
    if work.which == Which::Deleted {
        fields.push(Arc::new(columns::field(columns::OP)));
        arrays.push(operations(rows)?);
    }
    fields.push(Arc::new(columns::field(columns::SEQ)));
    arrays.push(places(work, rows)?);
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
}

fn operations(rows: &RecordBatch) -> Result<ArrayRef> {
    let deleted = rows.column_by_name("IsDeleted").and_then(|column| column.as_boolean_opt());
    let deleted = deleted.ok_or_else(|| Error::unexpected("rows do not say whether they are deleted"))?;
    let is_deleted = |row: usize| deleted.is_valid(row) && deleted.value(row);
    Ok(Arc::new(StringArray::from_iter_values((0..rows.num_rows()).map(|row| if is_deleted(row) { "D" } else { "R" }))))
}

/// When the row was changed, then when it was read: one that is read again without a change counts as it was read last.
fn places(work: &Work, rows: &RecordBatch) -> Result<ArrayRef> {
    let unsigned = |micros: i64| u64::try_from(micros).unwrap_or(0);
    let at = unsigned(work.at);
    let times = match &work.cursor {
        None => None,
        Some(cursor) => {
            let times = rows.column_by_name(cursor).and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
            Some(times.ok_or_else(|| Error::unexpected("rows do not carry their cursor"))?)
        }
    };
    let time = |row: usize| times.filter(|times| times.is_valid(row)).map_or(0, |times| unsigned(times.value(row)));
    let places = (0..rows.num_rows()).map(|row| Seq::of(&[time(row), at]));
    Ok(Arc::new(StringArray::from_iter_values(places.map(|place| place.as_str().to_owned()))))
}
