//! The way out of `extract`.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Cursor, Error, ErrorKind, Json, Result, Seq, Stored, StreamName};

/// The way out, as an author sees it. Every call waits while memory is short; an `Err` is passed on with `?`.
///
/// Rows become visible only up to a mark, so a mark is a place where a restart is safe.
pub struct Out<'a, P> {
    raw: &'a mut dyn RawOut,
    version: u32,
    position: PhantomData<fn(P)>,
}

impl<'a, P: Cursor> Out<'a, P> {
    /// Wraps the erased way out; `version` is the connector's `state_version`.
    pub fn new(raw: &'a mut dyn RawOut, version: u32) -> Self {
        Self { raw, version, position: PhantomData }
    }

    /// Gives rows of a stream. Columns may be a subset of the stream's schema, in any order; the reserved columns of
    /// [`crate::columns`] may follow.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] when the run ends.
    pub async fn rows(&mut self, stream: &StreamName, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.raw.put(Event::Rows(stream.clone(), batch)).await
    }

    /// From here on the rows of a stream look so.
    pub async fn schema(&mut self, stream: &StreamName, schema: SchemaRef) -> Result<()> {
        self.raw.put(Event::Schema(stream.clone(), schema)).await
    }

    /// Removes a region of the table, in order with the rows: a TRUNCATE, a restated day, a file sent again.
    pub async fn remove(&mut self, stream: &StreamName, region: Region) -> Result<()> {
        self.raw.put(Event::Remove(stream.clone(), region, None)).await
    }

    /// Removes a region like [`Out::remove`], at a place in the order of a slice that serves several streams: a table that
    /// stands at `seq` or behind it has the removal already, as it has the rows up to there.
    pub async fn remove_at(&mut self, stream: &StreamName, region: Region, seq: Seq) -> Result<()> {
        self.raw.put(Event::Remove(stream.clone(), region, Some(seq))).await
    }

    /// Says that all before is covered, for every stream of the slice, and that a restart here is safe.
    ///
    /// # Errors
    /// [`ErrorKind::LimitExceeded`] for a position above 1 MiB; [`ErrorKind::Cancelled`] when the run ends.
    pub async fn mark(&mut self, position: &P) -> Result<()> {
        let stored = store(position, self.version)?;
        self.raw.put(Event::Mark(stored)).await
    }

    /// Hands a record over that could not be read as a row: it goes to the stream's quarantine with its reason.
    pub async fn quarantine(&mut self, stream: &StreamName, bad: BadRecord) -> Result<()> {
        self.raw.put(Event::Quarantine(stream.clone(), bad)).await
    }

    /// Reports something that a person should know and that does not stop the slice. Shown once per run and text.
    pub async fn warn(&mut self, stream: Option<&StreamName>, text: impl Into<String> + Send) -> Result<()> {
        self.raw.put(Event::Warning { stream: stream.cloned(), text: text.into(), partial: false }).await
    }

    /// Reports that a part of the source could not be read and was left out: the run ends as partial (exit 4).
    pub async fn skipped(&mut self, stream: &StreamName, text: impl Into<String> + Send) -> Result<()> {
        self.raw.put(Event::Warning { stream: Some(stream.clone()), text: text.into(), partial: true }).await
    }

    /// Says how far what was marked last is behind the source. Of feeds, after marks and now and then while nothing comes; it
    /// is shown and changes nothing.
    pub fn behind(&mut self, lag: Lag) {
        self.raw.behind(lag);
    }

    /// Wanted size of a batch now, in bytes; shrinks under pressure.
    pub fn batch_bytes(&self) -> usize {
        self.raw.batch_bytes()
    }

    /// Whether the run follows the feed. False: stop at the head that was seen at the start.
    pub fn follow(&self) -> bool {
        self.raw.follow()
    }
}

/// Turns a connector's position into its form at rest.
///
/// # Errors
/// [`ErrorKind::LimitExceeded`] above 1 MiB of JSON.
pub fn store<P: Cursor>(position: &P, version: u32) -> Result<Stored> {
    let at = serde_json::to_value(position)
        .map_err(|e| Error::unexpected("cannot write a position as JSON").caused_by(e))?;
    let size = at.to_string().len();
    if size > 1 << 20 {
        return Err(Error::new(ErrorKind::LimitExceeded, "a position is larger than 1 MiB").with("bytes", size));
    }
    Ok(Stored { v: version, seq: position.seq(), at })
}

/// The memory of a batch in bytes: each allocation counts once, however many columns lie in it.
///
/// A batch that came over a wire is one allocation; `get_array_memory_size` would count it for each of its buffers.
pub fn memory_of(batch: &RecordBatch) -> usize {
    let mut arrays: Vec<_> = batch.columns().iter().map(|column| column.to_data()).collect();
    let mut seen = std::collections::HashSet::new();
    let mut bytes = 0;
    while let Some(array) = arrays.pop() {
        let nulls = array.nulls().map(|nulls| nulls.buffer());
        for buffer in array.buffers().iter().chain(nulls) {
            if seen.insert(buffer.data_ptr()) {
                bytes += buffer.capacity();
            }
        }
        arrays.extend(array.child_data().iter().cloned());
    }
    bytes
}

/// The erased way out, which the runner and the plug-in host implement.
#[async_trait]
pub trait RawOut: Send {
    /// Takes the next event; waits while memory is short.
    async fn put(&mut self, event: Event) -> Result<()>;
    /// Takes how far a feed is behind its source; see [`Out::behind`]. Nothing is lost where nobody listens.
    fn behind(&mut self, _lag: Lag) {}
    /// Wanted size of a batch now, in bytes.
    fn batch_bytes(&self) -> usize;
    /// Whether the run follows feeds.
    fn follow(&self) -> bool;
}

/// How far a feed is behind its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// How long ago the source was where the feed is: all that was committed before is there. Zero: nothing is left to read.
    pub age: std::time::Duration,
    /// Bytes of the source's log that are not read yet, where it tells.
    pub bytes: Option<u64>,
}

/// What comes out of a slice, in order.
#[derive(Debug, Clone)]
pub enum Event {
    /// From here on the rows of a stream look so.
    Schema(StreamName, SchemaRef),
    /// Rows of a stream.
    Rows(StreamName, RecordBatch),
    /// A region of the table is to be removed; with its place in the order of a slice of several streams.
    Remove(StreamName, Region, Option<Seq>),
    /// A record that could not be read as a row.
    Quarantine(StreamName, BadRecord),
    /// All before is covered.
    Mark(Stored),
    /// Something a person should know; `partial` = something was left out.
    Warning {
        /// The stream it concerns.
        stream: Option<StreamName>,
        /// What happened, where, and what to do.
        text: String,
        /// Whether a part of the source was left out.
        partial: bool,
    },
}

/// A record that could not be read as a row: a line of a file, a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// Why, with the place: `orders.csv line 17: 5 fields, expected 4`.
    pub reason: String,
    /// The record as it came, lossily decoded, cut at 64 KiB.
    pub record: String,
}

/// A part of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// All rows.
    All,
    /// Rows whose columns equal all of these values.
    Equals(BTreeMap<String, Json>),
    /// Rows with `from <= column < to`, and `also` equal.
    Range {
        /// The column.
        column: String,
        /// Inclusive.
        from: Json,
        /// Exclusive.
        to: Json,
        /// Further columns that must be equal.
        also: BTreeMap<String, Json>,
    },
}
