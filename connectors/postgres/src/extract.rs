//! A slice from the server into batches.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Decimal128Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::{DataType, Schema};
use ingest_core::{Done, Error, ErrorKind, Out, Result, Seq, StreamName, columns};
use ingest_sql::{Ordered, Step};

use crate::catalog::{Column, Table};
use crate::decode::Decoder;
use crate::select::{Select, select};
use crate::server::Server;
use crate::text;
use crate::types::{Cast, Kind};
use crate::wire::{Connection, CopyStep, Described};
use crate::work::{Part, Position, Work};

/// Reads a slice from a position on.
pub(crate) async fn extract(
    server: &Arc<Server>,
    table: &Table,
    work: &Work,
    from: Option<&Position>,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    for warning in &work.warnings {
        out.warn(Some(&table.stream), warning.clone()).await?;
    }
    let select = select(table, work, from)?;
    let mut lent = server.lend().await?;
    start(&mut lent.connection, work, &select).await?;
    let mut sink = Sink {
        stream: &table.stream,
        select: &select,
        seq: work.seq.as_ref(),
        ordered: select.order.map(|order| Ordered::by(order, matches!(work.part, Part::Keys { .. }))),
    };
    copy(&mut lent.connection, &mut sink, out).await?;
    lent.connection.finish_copy().await?;
    lent.give_back(server);
    Ok(Done::Complete)
}

/// Opens the transaction of a slice and starts its COPY.
async fn start(connection: &mut Connection, work: &Work, select: &Select<'_>) -> Result<()> {
    const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    let begin = match &work.snapshot {
        None => BEGIN.to_owned(),
        Some(snapshot) => format!(
            "{BEGIN}; SET TRANSACTION SNAPSHOT {}; SELECT pg_catalog.txid_current_snapshot()",
            ingest_sql::Dialect::Postgres.text(&snapshot.name)?
        ),
    };
    connection.send_copy(&begin, &select.sql).await?;
    let opened = connection.answer().await;
    if let Some(snapshot) = &work.snapshot {
        let gone = || {
            Error::new(ErrorKind::SliceExpired, "the snapshot of the plan is gone")
                .hint("the connection that held it was closed; the plan is made again")
        };
        // Only what the server says about the snapshot itself; a lost connection is another matter.
        let refused =
            |error: &Error| error.context().iter().any(|(key, _)| *key == "sqlstate") && !error.is_retryable();
        let rows = opened.map_err(|error| if refused(&error) { gone().caused_by(error) } else { error })?;
        if rows.first().and_then(|row| row.first()).and_then(Option::as_deref) != Some(&snapshot.visible) {
            return Err(gone());
        }
    } else {
        opened?;
    }
    let described = connection.copy_answer().await?;
    expect_types(&select.columns, &described)
}

/// The description holds for the copied rows: describing has locked the table against changes.
fn expect_types(columns: &[&Column], described: &[Described]) -> Result<()> {
    let changed = |column: &str| {
        Error::new(ErrorKind::SchemaChanged, "a column has another type than when the table was described")
            .with("column", column)
            .hint("the table was changed while the run was going on; run again")
    };
    if columns.len() != described.len() {
        return Err(changed("*"));
    }
    for (column, described) in columns.iter().zip(described) {
        let (oid, modifier) = column.wire_type;
        let same = oid == described.type_oid && (column.cast != Cast::None || modifier == described.type_modifier);
        if !same {
            return Err(changed(&column.name));
        }
    }
    Ok(())
}

async fn copy(connection: &mut Connection, sink: &mut Sink<'_>, out: &mut Out<'_, Position>) -> Result<()> {
    let columns = sink.select.columns.iter().map(|column| (column.field.clone(), column.kind.clone()));
    let mut decoder = Decoder::new(columns);
    let mut wanted = out.batch_bytes();
    loop {
        match connection.copy_step()? {
            CopyStep::Data(frame) => {
                decoder.scan(connection.buffered(), frame)?;
                if decoder.bytes() >= wanted {
                    decoder.decode(connection.buffered())?;
                    connection.release();
                    sink.emit(decoder.finish()?, false, out).await?;
                    wanted = out.batch_bytes();
                }
            }
            CopyStep::NeedMore => {
                if connection.is_crowded() {
                    decoder.decode(connection.buffered())?;
                    connection.release();
                }
                connection.fill().await?;
            }
            CopyStep::End { rows } => {
                decoder.decode(connection.buffered())?;
                if !decoder.is_complete() || decoder.total() != rows {
                    return Err(Error::new(ErrorKind::DataInvalid, "the copy is not as long as the server says")
                        .with("rows", decoder.total())
                        .with("expected", rows));
                }
                return sink.emit(decoder.finish()?, true, out).await;
            }
        }
    }
}

/// Takes batches of a slice, and marks where it can be resumed.
struct Sink<'a> {
    stream: &'a StreamName,
    select: &'a Select<'a>,
    /// Goes with every row, where changes follow.
    seq: Option<&'a Seq>,
    /// Where the slice has an order: what it is resumed by.
    ordered: Option<Ordered>,
}

impl Sink<'_> {
    async fn emit(&mut self, batch: Option<RecordBatch>, last: bool, out: &mut Out<'_, Position>) -> Result<()> {
        let (Some(ordered), Some(order)) = (&mut self.ordered, self.select.order) else {
            return match batch {
                Some(batch) => self.rows(batch, out).await,
                None => Ok(()),
            };
        };
        let kind = &self.select.columns[order].kind;
        for step in ordered.take(batch, last) {
            match step {
                Step::Rows(batch) => self.rows(batch, out).await?,
                Step::Mark { batch, row } => {
                    // Nulls come last and cannot be resumed from.
                    if let Some(value) = literal(&batch, order, kind, row) {
                        out.mark(&Position::Upto(value)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn rows(&self, batch: RecordBatch, out: &mut Out<'_, Position>) -> Result<()> {
        let batch = match (self.select.hidden, self.select.order) {
            (true, Some(order)) => {
                let shown: Vec<usize> = (0..batch.num_columns()).filter(|i| *i != order).collect();
                batch.project(&shown)?
            }
            _ => batch,
        };
        let batch = match self.seq {
            Some(seq) => with_seq(&batch, seq)?,
            None => batch,
        };
        out.rows(self.stream, batch).await
    }
}

/// The rows with their order.
fn with_seq(batch: &RecordBatch, seq: &Seq) -> Result<RecordBatch> {
    let mut fields = batch.schema().fields().to_vec();
    fields.push(Arc::new(columns::field(columns::SEQ)));
    let mut arrays = batch.columns().to_vec();
    arrays.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(seq.as_str(), batch.num_rows()))));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
}

/// A value as a literal of the server; `None` for null and for types that mark nothing.
fn literal(batch: &RecordBatch, column: usize, kind: &Kind, row: usize) -> Option<String> {
    let array = batch.column(column);
    if array.is_null(row) {
        return None;
    }
    match (array.data_type(), kind) {
        (DataType::Int16, _) => Some(array.as_primitive::<Int16Type>().value(row).to_string()),
        (DataType::Int32, _) => Some(array.as_primitive::<Int32Type>().value(row).to_string()),
        (DataType::Int64, Kind::Int64) => Some(array.as_primitive::<Int64Type>().value(row).to_string()),
        (DataType::Utf8, Kind::Text | Kind::Uuid) => Some(array.as_string::<i32>().value(row).to_owned()),
        (DataType::Decimal128(_, _), _) => Some(array.as_primitive::<Decimal128Type>().value_as_string(row)),
        (DataType::Date32, _) => Some(text::days(array.as_primitive::<Date32Type>().value(row))),
        (DataType::Timestamp(_, zone), _) => {
            Some(text::micros(array.as_primitive::<TimestampMicrosecondType>().value(row), zone.is_some()))
        }
        _ => None,
    }
}
