//! A slice from the server into batches.

use bson::raw::{RawBson, RawDocument};
use ingest_core::{BadRecord, Done, Error, ErrorKind, Out, Result, StreamName};

use crate::catalog::Collection;
use crate::rows::{Change, Rows};
use crate::select::{can_follow, query};
use crate::server::Server;
use crate::work::{Position, Work};
use crate::{extended, faults};

const ATTEMPTED: &str = "cannot read the collection";

/// Reads a slice from a position on.
pub(crate) async fn extract(
    server: &Server,
    collection: &Collection,
    work: &Work,
    from: Option<&Position>,
    out: &mut Out<'_, Position>,
) -> Result<Done> {
    for warning in &work.warnings {
        out.warn(Some(&collection.stream), warning.clone()).await?;
    }
    let query = query(&collection.name, work, from, server.hello().await?.set.is_some())?;
    let mut batches = server.batches(&collection.database, query.command, None, ATTEMPTED).await?;
    let mut reader = Reader {
        stream: &collection.stream,
        rows: Rows::new(work.columns.clone(), work.layout, work.start.is_some())?,
        seq: work.start.as_ref().map(|start| start.seq().as_str().to_owned()),
        order: query.order,
        full: None,
    };
    let mut wanted = out.batch_bytes();
    while let Some(batch) = batches.next().await? {
        for document in batch.doc_slices().map_err(|e| faults::error(ATTEMPTED, e))? {
            let document = document.map_err(extended::unreadable)?.as_document().ok_or_else(|| {
                Error::new(ErrorKind::DataInvalid, ATTEMPTED).hint("the server gives something that is no document")
            })?;
            if reader.is_over(document) {
                reader.flush(out).await?;
                wanted = out.batch_bytes();
            }
            reader.take(document, wanted, out).await?;
        }
    }
    reader.full = None;
    reader.flush(out).await?;
    Ok(Done::Complete)
}

struct Reader<'a> {
    stream: &'a StreamName,
    rows: Rows,
    /// The order of its rows, where changes follow: all come before them.
    seq: Option<String>,
    order: Option<String>,
    /// The rows make a batch: the value of the order in the last one. A mark may stand only where the next one has another, which
    /// on a sharded cluster need not be so for `_id`.
    full: Option<RawBson>,
}

impl Reader<'_> {
    /// Whether a batch ends before this document.
    fn is_over(&self, next: &RawDocument) -> bool {
        let Some(full) = &self.full else { return false };
        let value = self.order.as_deref().and_then(|order| next.get(order).ok().flatten());
        value.is_none_or(|value| value != full.as_raw_bson_ref())
    }

    async fn take(&mut self, document: &RawDocument, wanted: usize, out: &mut Out<'_, Position>) -> Result<()> {
        let change = self.seq.as_deref().map(|seq| Change { op: "R", seq, partial: false });
        match self.rows.push(document, change) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::DataInvalid => {
                let record = shown(document.as_bytes());
                out.quarantine(self.stream, BadRecord { reason: error.to_string(), record }).await?;
            }
            Err(error) => return Err(error),
        }
        if self.rows.bytes() < wanted {
            return Ok(());
        }
        let value = match (&self.order, &self.full) {
            // One value fills the batch: it goes out, and the mark waits.
            (_, Some(_)) | (None, None) => None,
            (Some(order), None) => document.get(order).map_err(extended::unreadable)?.map(RawBson::from),
        };
        match value {
            Some(value) => {
                self.full = Some(value);
                Ok(())
            }
            None => self.give(out).await,
        }
    }

    async fn give(&mut self, out: &mut Out<'_, Position>) -> Result<()> {
        match self.rows.finish()? {
            Some(batch) => out.rows(self.stream, batch).await,
            None => Ok(()),
        }
    }

    /// Gives the rows that wait; marks their last value, where there is a next one.
    async fn flush(&mut self, out: &mut Out<'_, Position>) -> Result<()> {
        self.give(out).await?;
        if let Some(last) = self.full.take().filter(|last| can_follow(last.as_raw_bson_ref())) {
            out.mark(&Position::Upto(extended::key(last.as_raw_bson_ref())?)).await?;
        }
        Ok(())
    }
}

/// The bytes of a document that is no BSON, for people.
pub(crate) fn shown(document: &[u8]) -> String {
    String::from_utf8_lossy(&document[..document.len().min(64 << 10)]).into_owned()
}
