//! A way out that keeps everything: what a slice gave, in order.

use arrow_array::RecordBatch;
use ingest_core::{Error, Event, RawOut, Result, Stored, StreamName, async_trait};

/// A [`RawOut`] that records events. Each event is an await, so that a caller may be dropped at every one.
#[derive(Debug)]
pub struct Collected {
    /// What came, in order.
    pub events: Vec<Event>,
    /// Memory of all rows.
    pub bytes: usize,
    /// Memory of the largest batch with more than one row.
    pub largest_batch: usize,
    batch_bytes: usize,
    follow: bool,
    refuse_after: Option<usize>,
    refusals: usize,
    rows: usize,
    most_rows: usize,
}

impl Default for Collected {
    fn default() -> Self {
        Self::new()
    }
}

impl Collected {
    /// Takes everything, wants batches of 1 MiB, does not follow feeds.
    pub fn new() -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            largest_batch: 0,
            batch_bytes: 1 << 20,
            follow: false,
            refuse_after: None,
            refusals: 0,
            rows: 0,
            most_rows: usize::MAX,
        }
    }

    /// Wants batches of so many bytes.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// Follows feeds: the slice ends when it is dropped or cancelled.
    #[must_use]
    pub fn following(mut self) -> Self {
        self.follow = true;
        self
    }

    /// Takes so many events and answers [`Cancelled`](ingest_core::ErrorKind::Cancelled) to all that follow, as the runner does when it ends.
    #[must_use]
    pub fn refuse_after(mut self, events: usize) -> Self {
        self.refuse_after = Some(events);
        self
    }

    /// Takes so many rows, and refuses what follows.
    #[must_use]
    pub fn at_most(mut self, rows: usize) -> Self {
        self.most_rows = rows;
        self
    }

    /// Whether there were more rows than [`Collected::at_most`] takes.
    pub fn overflowed(&self) -> bool {
        self.rows > self.most_rows
    }

    /// How many events were refused. A connector passes the first refusal on and ends.
    pub fn refusals(&self) -> usize {
        self.refusals
    }

    /// The rows of a stream.
    pub fn batches<'a>(&'a self, stream: &'a StreamName) -> impl Iterator<Item = &'a RecordBatch> + 'a {
        self.events.iter().filter_map(move |event| match event {
            Event::Rows(name, batch) if name == stream => Some(batch),
            _ => None,
        })
    }

    /// How many rows came, of all streams.
    pub fn rows(&self) -> usize {
        let rows = |event: &Event| if let Event::Rows(_, batch) = event { batch.num_rows() } else { 0 };
        self.events.iter().map(rows).sum()
    }

    /// The marks, in order.
    pub fn marks(&self) -> impl DoubleEndedIterator<Item = &Stored> {
        self.events.iter().filter_map(|event| if let Event::Mark(at) = event { Some(at) } else { None })
    }

    /// The last mark.
    pub fn last_mark(&self) -> Option<&Stored> {
        self.marks().next_back()
    }

    /// What came up to and including the last mark: all that a runner may commit of a slice that did not complete.
    pub fn covered(&self) -> &[Event] {
        let end = self.events.iter().rposition(|event| matches!(event, Event::Mark(_))).map_or(0, |at| at + 1);
        &self.events[..end]
    }
}

#[async_trait]
impl RawOut for Collected {
    async fn put(&mut self, event: Event) -> Result<()> {
        tokio::task::yield_now().await;
        if self.refuse_after.is_some_and(|limit| self.events.len() >= limit) {
            self.refusals += 1;
            return Err(Error::cancelled());
        }
        if let Event::Rows(_, batch) = &event {
            self.rows = self.rows.saturating_add(batch.num_rows());
            if self.overflowed() {
                return Err(Error::cancelled());
            }
            let bytes = ingest_core::memory_of(batch);
            self.bytes += bytes;
            if batch.num_rows() > 1 {
                self.largest_batch = self.largest_batch.max(bytes);
            }
        }
        self.events.push(event);
        Ok(())
    }

    fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    fn follow(&self) -> bool {
        self.follow
    }
}
