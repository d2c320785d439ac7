//! A slice from the server into batches.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
    UInt8Type,
};
use arrow_array::{Array, RecordBatch};
use futures::{FutureExt, StreamExt};
use ingest_core::{Done, Out, Result, Seq, StreamName};
use ingest_sql::{Ordered, Step};
use tiberius::{QueryItem, QueryStream};

use crate::builder::{Change, Rows};
use crate::catalog::{Column, Table};
use crate::cells::{hex, print_days, print_micros};
use crate::faults;
use crate::select::{Select, select};
use crate::server::Server;
use crate::types::Kind;
use crate::work::{Position, Work};

const ATTEMPTED: &str = "cannot read the table";

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
    let connection = lent.connection();
    let session = connection.facts.session;
    let client = connection.client();
    let opened = server.patient(session, client.simple_query(select.sql.as_str())).await?;
    let mut answer = opened.map_err(|e| faults::error(ATTEMPTED, e))?;
    let mut sink = Sink {
        stream: &table.stream,
        select: &select,
        ordered: select.order.map(|order| Ordered::by(order, select.distinct)),
    };
    read(server, session, &mut answer, &mut sink, work.seq.as_ref(), out).await?;
    drop(answer);
    lent.give_back();
    Ok(Done::Complete)
}

async fn read(
    server: &Server,
    session: i64,
    answer: &mut QueryStream<'_>,
    sink: &mut Sink<'_>,
    seq: Option<&Seq>,
    out: &mut Out<'_, Position>,
) -> Result<()> {
    let most = usize::try_from(server.config().max_row_bytes.0).unwrap_or(usize::MAX);
    let columns = sink.select.columns.iter().copied();
    let mut rows = if seq.is_some() { Rows::of_changes(columns, most) } else { Rows::new(columns, most) };
    let mut wanted = out.batch_bytes();
    loop {
        // A timer for each row would cost more than the row.
        let next = match answer.next().now_or_never() {
            Some(next) => next,
            None => server.patient(session, answer.next()).await?,
        };
        let Some(item) = next else { break };
        let QueryItem::Row(row) = item.map_err(|e| faults::error(ATTEMPTED, e))? else { continue };
        match seq {
            Some(seq) => {
                let values: Vec<_> = row.cells().map(|(_, value)| Some(value)).collect();
                rows.push_change(&values, &Change { op: "R", seq: seq.as_str(), absent: &[] })?;
            }
            None => rows.push(&row)?,
        }
        if rows.bytes() >= wanted {
            sink.emit(rows.finish()?, false, out).await?;
            wanted = out.batch_bytes();
        }
    }
    sink.emit(rows.finish()?, true, out).await?;
    for (column, count) in sink.select.columns.iter().zip(&rows.replaced).filter(|(_, count)| **count > 0) {
        let text = format!(
            "{count} values of column \"{}\" hold the replacement character U+FFFD: in the source they may be no valid Unicode",
            column.name
        );
        out.warn(Some(sink.stream), text).await?;
    }
    Ok(())
}

/// Takes batches of a slice, and marks where it can be resumed.
struct Sink<'a> {
    stream: &'a StreamName,
    select: &'a Select<'a>,
    ordered: Option<Ordered>,
}

impl Sink<'_> {
    async fn emit(&mut self, batch: Option<RecordBatch>, last: bool, out: &mut Out<'_, Position>) -> Result<()> {
        let (Some(ordered), Some(order)) = (&mut self.ordered, self.select.order) else {
            let Some(batch) = batch else { return Ok(()) };
            return out.rows(self.stream, batch).await;
        };
        let column = self.select.columns[order];
        for step in ordered.take(batch, last) {
            match step {
                Step::Rows(batch) => {
                    let batch = if self.select.hidden { without(&batch, order)? } else { batch };
                    out.rows(self.stream, batch).await?;
                }
                Step::Mark { batch, row } => {
                    // Nulls come first and cannot be resumed from.
                    if let Some(value) = printed(&batch, order, column, row) {
                        out.mark(&Position::Upto(value)).await?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn without(batch: &RecordBatch, column: usize) -> Result<RecordBatch> {
    let shown: Vec<usize> = (0..batch.num_columns()).filter(|i| *i != column).collect();
    Ok(batch.project(&shown)?)
}

/// A value as the server reads it, bytes as hexadecimal; `None` for null and for types that mark nothing.
fn printed(batch: &RecordBatch, index: usize, column: &Column, row: usize) -> Option<String> {
    fn number<T: ArrowPrimitiveType<Native: ToString>>(array: &dyn Array, row: usize) -> Option<String> {
        Some(array.as_primitive::<T>().value(row).to_string())
    }
    let array = batch.column(index).as_ref();
    if array.is_null(row) {
        return None;
    }
    let micros = || array.as_primitive::<TimestampMicrosecondType>().value(row);
    match column.kind {
        Kind::UInt8 => number::<UInt8Type>(array, row),
        Kind::Int16 => number::<Int16Type>(array, row),
        Kind::Int32 => number::<Int32Type>(array, row),
        Kind::Int64 => number::<Int64Type>(array, row),
        Kind::Decimal { .. } => Some(array.as_primitive::<Decimal128Type>().value_as_string(row)),
        Kind::Text | Kind::Uuid => Some(array.as_string::<i32>().value(row).to_owned()),
        Kind::Binary | Kind::RowVersion => Some(hex(array.as_binary::<i32>().value(row))),
        Kind::Date => Some(print_days(array.as_primitive::<Date32Type>().value(row).into())),
        Kind::DateTime => Some(print_micros(micros(), 3)),
        Kind::Minute => Some(print_micros(micros(), 0)),
        Kind::DateTime2 { scale } if column.kind.is_exact() => Some(print_micros(micros(), scale)),
        Kind::Instant { scale } if column.kind.is_exact() => Some(format!("{}+00:00", print_micros(micros(), scale))),
        _ => None,
    }
}
