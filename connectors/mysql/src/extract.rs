//! A slice from the server into batches.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use futures::{FutureExt, StreamExt};
use ingest_core::{Done, Error, ErrorKind, Out, Result, Seq, StreamName};
use ingest_sql::{Ordered, Step};
use mysql_async::prelude::Queryable;
use mysql_async::{BinaryProtocol, ResultSetStream, Row};

use crate::builder::{Change, Rows};
use crate::catalog::{Column, Table};
use crate::cells::{Cell, hex, print_days, print_micros};
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
    let session = Session { server, id: connection.id() };
    let client = connection.client();
    // The binary protocol: numbers and times come as such.
    let opened = session.patient(client.exec_iter(select.sql.as_str(), ())).await?;
    let mut answer = opened.map_err(|e| faults::error(ATTEMPTED, e))?;
    let stream = answer.stream::<Row>().await.map_err(|e| faults::error(ATTEMPTED, e))?;
    let mut stream = stream.ok_or_else(|| Error::unexpected("a SELECT has no rows to give, not even none"))?;
    let mut sink = Sink {
        stream: &table.stream,
        select: &select,
        ordered: select.order.map(|order| Ordered::by(order, select.distinct)),
    };
    read(&session, &mut stream, &mut sink, work.seq.as_ref(), out).await?;
    drop(stream);
    drop(answer);
    lent.give_back();
    Ok(Done::Complete)
}

/// The session that reads a slice.
struct Session<'a> {
    server: &'a Server,
    id: u32,
}

impl Session<'_> {
    /// Waits for the server, however long it works on the statement, but not for one that is silent.
    async fn patient<T>(&self, waiting: impl Future<Output = T>) -> Result<T> {
        let timeout = self.server.config().timeout;
        tokio::pin!(waiting);
        loop {
            if let Ok(answer) = tokio::time::timeout(timeout.0, &mut waiting).await {
                return Ok(answer);
            }
            if !self.server.is_at_work(self.id).await {
                return Err(Error::new(ErrorKind::Timeout, "the server sends nothing any more")
                    .with("timeout", timeout)
                    .hint("see the network between, and the server's load; `timeout` can be raised")
                    .exhausted());
            }
        }
    }
}

async fn read(
    session: &Session<'_>,
    stream: &mut ResultSetStream<'_, '_, '_, Row, BinaryProtocol>,
    sink: &mut Sink<'_>,
    seq: Option<&Seq>,
    out: &mut Out<'_, Position>,
) -> Result<()> {
    let columns = sink.select.columns.iter().copied();
    let mut rows = if seq.is_some() { Rows::of_changes(columns) } else { Rows::new(columns) };
    let mut wanted = out.batch_bytes();
    loop {
        // A timer for each row would cost more than the row.
        let next = match stream.next().now_or_never() {
            Some(next) => next,
            None => session.patient(stream.next()).await?,
        };
        let Some(row) = next else {
            return sink.emit(rows.finish()?, true, out).await;
        };
        let row = row.map_err(|e| faults::error(ATTEMPTED, e))?;
        let cells = (0..row.len()).map(|i| row.as_ref(i).map_or(Cell::Null, Cell::from));
        match seq {
            Some(seq) => rows.push_change(cells, &Change { op: "R", seq: seq.as_str(), absent: &[] })?,
            None => rows.push(cells)?,
        }
        if rows.bytes() >= wanted {
            sink.emit(rows.finish()?, false, out).await?;
            wanted = out.batch_bytes();
        }
    }
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

/// A value as the server prints it, bytes as hexadecimal; `None` for null and for types that mark nothing.
fn printed(batch: &RecordBatch, index: usize, column: &Column, row: usize) -> Option<String> {
    fn number<T: ArrowPrimitiveType<Native: ToString>>(array: &dyn Array, row: usize) -> Option<String> {
        Some(array.as_primitive::<T>().value(row).to_string())
    }
    let array = batch.column(index).as_ref();
    if array.is_null(row) {
        return None;
    }
    match column.kind {
        Kind::Int8 => number::<Int8Type>(array, row),
        Kind::Int16 => number::<Int16Type>(array, row),
        Kind::Int32 => number::<Int32Type>(array, row),
        Kind::Int64 => number::<Int64Type>(array, row),
        Kind::UInt8 => number::<UInt8Type>(array, row),
        Kind::UInt16 => number::<UInt16Type>(array, row),
        Kind::UInt32 => number::<UInt32Type>(array, row),
        Kind::UInt64 => number::<UInt64Type>(array, row),
        Kind::Decimal { .. } => Some(array.as_primitive::<Decimal128Type>().value_as_string(row)),
        Kind::Text => Some(array.as_string::<i32>().value(row).to_owned()),
        Kind::Binary => Some(hex(array.as_binary::<i32>().value(row))),
        Kind::Date => Some(print_days(array.as_primitive::<Date32Type>().value(row).into())),
        Kind::DateTime | Kind::Timestamp => {
            Some(print_micros(array.as_primitive::<TimestampMicrosecondType>().value(row)))
        }
        _ => None,
    }
}
