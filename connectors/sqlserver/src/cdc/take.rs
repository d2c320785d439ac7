//! What a statement about changes gives, into batches.

use futures::{FutureExt, StreamExt};
use ingest_core::{Out, Result, StreamName};
use tiberius::{ColumnData, QueryItem, Row};

use crate::builder::Rows;
use crate::catalog::Column;
use crate::faults;
use crate::server::{Connection, Server};
use crate::work::Position;

/// Whose changes are taken, and what is said when that fails.
pub(crate) struct Taken<'a> {
    pub(crate) server: &'a Server,
    pub(crate) stream: &'a StreamName,
    pub(crate) attempted: &'static str,
}

impl Taken<'_> {
    /// Sends the statement; `push` makes a change of each row.
    pub(crate) async fn rows<'c>(
        &self,
        connection: &mut Connection,
        sql: String,
        columns: impl IntoIterator<Item = &'c Column>,
        push: impl Fn(&mut Rows, &Row) -> Result<()>,
        out: &mut Out<'_, Position>,
    ) -> Result<()> {
        let session = connection.facts.session;
        let opened = self.server.patient(session, connection.client().simple_query(sql)).await?;
        let mut answer = opened.map_err(|e| faults::error(self.attempted, e))?;
        let most = usize::try_from(self.server.config().max_row_bytes.0).unwrap_or(usize::MAX);
        let mut rows = Rows::of_changes(columns, most);
        let mut size = out.batch_bytes();
        loop {
            // A timer for each row would cost more than the row.
            let next = match answer.next().now_or_never() {
                Some(next) => next,
                None => self.server.patient(session, answer.next()).await?,
            };
            let Some(item) = next else { break };
            let QueryItem::Row(row) = item.map_err(|e| faults::error(self.attempted, e))? else { continue };
            push(&mut rows, &row)?;
            if rows.bytes() >= size {
                if let Some(batch) = rows.finish()? {
                    out.rows(self.stream, batch).await?;
                }
                size = out.batch_bytes();
            }
        }
        match rows.finish()? {
            Some(batch) => out.rows(self.stream, batch).await,
            None => Ok(()),
        }
    }
}

/// Whether a value is null, of whatever type.
pub(crate) fn is_null(value: &ColumnData<'_>) -> bool {
    match value {
        ColumnData::U8(value) => value.is_none(),
        ColumnData::I16(value) => value.is_none(),
        ColumnData::I32(value) => value.is_none(),
        ColumnData::I64(value) => value.is_none(),
        ColumnData::F32(value) => value.is_none(),
        ColumnData::F64(value) => value.is_none(),
        ColumnData::Bit(value) => value.is_none(),
        ColumnData::String(value) => value.is_none(),
        ColumnData::Guid(value) => value.is_none(),
        ColumnData::Binary(value) => value.is_none(),
        ColumnData::Numeric(value) => value.is_none(),
        ColumnData::Xml(value) => value.is_none(),
        ColumnData::DateTime(value) => value.is_none(),
        ColumnData::SmallDateTime(value) => value.is_none(),
        ColumnData::Time(value) => value.is_none(),
        ColumnData::Date(value) => value.is_none(),
        ColumnData::DateTime2(value) => value.is_none(),
        ColumnData::DateTimeOffset(value) => value.is_none(),
    }
}
