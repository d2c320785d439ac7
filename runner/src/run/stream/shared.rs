//! What the lanes of a stream and its task share: the way to the task, the counters, what batches conform to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use arrow_schema::SchemaRef;
use ingest_core::lake::{Merged, TableFormat, WriterOptions, Writers};
use ingest_core::{Clock, Mode, Result, SliceId, Stored, StreamName, WriteMode};
use tokio::sync::{Semaphore, mpsc};

use super::unit::Message;
use crate::conform::{Conform, Input, reconcile};
use crate::events::LagReport;
use crate::policy::Quality;
use crate::run::lag::Trail;
use crate::run::quarantine::Quarantine;
use crate::run::target::Target;

/// What lanes and the stream's task share.
pub struct StreamShared {
    /// The stream.
    pub name: StreamName,
    /// What is to be done with it.
    pub target: Target,
    /// The counters.
    pub counters: Counters,
    /// What checks have found.
    pub quality: Quality,
    /// Makes writers of data files.
    pub writers: Arc<dyn Writers>,
    /// How files are written.
    pub options: WriterOptions,
    /// Records that could not become rows.
    pub quarantine: Arc<Quarantine>,
    /// What batches are made to conform to.
    pub conform: RwLock<Arc<Conform>>,
    /// Whether rows carry `_ingest_seq`.
    pub seq: bool,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Rows are stamped with this time at the earliest (`_ingested_at`, microseconds UTC): a search for rows that the source
    /// no longer has spares those that came after it began, and clocks differ.
    pub not_before: i64,
    /// One merge at a time.
    pub merges: Arc<Semaphore>,
    /// Memory for the keys of a merge.
    pub merge_bytes: u64,
    /// A commit closes after this time at the latest.
    pub commit_interval: Duration,
    /// The run goes on until somebody stops it.
    pub follows: bool,
    /// While it does: what is committed.
    pub followed: Mutex<Option<Followed>>,
    /// What the feed of the stream says of where it is.
    pub trail: Trail,
    /// The table format.
    pub format: Arc<dyn TableFormat>,
    /// The way to the stream's task.
    pub units: mpsc::Sender<Message>,
    /// The stream has failed: nothing more is read for it.
    pub failed: AtomicBool,
    /// The first error.
    pub error: Mutex<Option<ingest_core::Error>>,
}

/// How far a stream is while its run goes on.
#[derive(Debug, Clone)]
pub struct Followed {
    /// The number that its table stands on.
    pub number: Option<i64>,
    /// Number of the commit that adopted the plan from which positions come.
    pub generation: Option<i64>,
    /// How far each feed is read with everything committed.
    pub feeds: BTreeMap<SliceId, Stored>,
}

/// Counted while a stream runs.
#[derive(Default)]
pub struct Counters {
    /// Rows that came out of the source.
    pub rows_read: AtomicU64,
    /// Their bytes, as Arrow.
    pub bytes_read: AtomicU64,
    /// Rows with a rescued value.
    pub rows_rescued: AtomicU64,
    /// Records that went to quarantine.
    pub rows_quarantined: AtomicU64,
    /// Rows that became visible.
    pub rows_written: AtomicU64,
    /// Rows that a part of a plan has staged.
    pub rows_staged: AtomicU64,
    /// Files that became visible.
    pub files: AtomicU64,
    /// Their bytes.
    pub bytes_written: AtomicU64,
    /// Version of the last commit plus one; zero = none.
    pub version: AtomicU64,
    /// Finished slices, those of earlier runs included.
    pub slices_done: AtomicU64,
    /// Something was left for the next run.
    pub partial: AtomicBool,
    /// Files of the table that merges rewrote or removed.
    pub files_touched: AtomicU64,
    /// Unchanged rows that were written again for that.
    pub rows_rewritten: AtomicU64,
    /// Rows that merges changed.
    pub rows_changed: AtomicU64,
    /// Bytes that they wrote.
    pub bytes_merged: AtomicU64,
    /// Grows while a merge is under way.
    pub merging: Arc<AtomicU64>,
}

impl Counters {
    /// Counts what a merge did.
    pub(super) fn merged(&self, landed: &Merged) {
        self.files_touched.fetch_add(landed.files_touched, Ordering::Relaxed);
        self.rows_rewritten.fetch_add(landed.rows_rewritten, Ordering::Relaxed);
        self.rows_changed.fetch_add(landed.rows_changed, Ordering::Relaxed);
        self.bytes_merged.fetch_add(landed.bytes_written, Ordering::Relaxed);
    }
}

impl StreamShared {
    /// Notes the first error of the stream; nothing more is read for it.
    pub fn fail(&self, error: ingest_core::Error) {
        self.failed.store(true, Ordering::Release);
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// How far the stream is, where its run goes on.
    pub fn followed(&self) -> Option<Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How far the stream is behind its source: with what is committed while its run goes on, else with what is read.
    pub fn lag(&self) -> Option<LagReport> {
        let place = match self.follows {
            true => {
                let feeds = self.followed().map(|followed| followed.feeds).unwrap_or_default();
                self.trail.committed(feeds.values().filter_map(|at| at.seq.as_ref()).max())
            }
            false => self.trail.read(),
        }?;
        let micros = self.clock.now_micros().saturating_sub(place.through).max(0);
        // Tenths of a second are all that is known.
        Some(LagReport { seconds: (micros / 100_000) as f64 / 10.0, bytes: place.bytes })
    }

    /// What batches conform to now.
    pub fn conform(&self) -> Arc<Conform> {
        Arc::clone(&self.conform.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From here on the rows of the source look so.
    pub fn change_schema(&self, source: &SchemaRef) -> Result<()> {
        let mut conform = self.conform.write().unwrap_or_else(PoisonError::into_inner);
        let table = match &self.target.keyed {
            Some(keyed) => keyed.table_schema(conform.storage()),
            None => Arc::clone(conform.storage()),
        };
        let next = conform_to(&self.format, &self.target, source, Some(&table), self.seq)?;
        *conform = Arc::new(next);
        Ok(())
    }
}

/// What batches of a target have to look like for its table.
pub fn conform_to(
    format: &Arc<dyn TableFormat>,
    target: &Target,
    source: &SchemaRef,
    table: Option<&SchemaRef>,
    seq: bool,
) -> Result<Conform> {
    let none = BTreeMap::new();
    // The table sees what masks have left.
    let source = &target.values.masked_schema(source)?;
    let stripped = match (&target.keyed, table) {
        (Some(keyed), Some(table)) => Some(keyed.row_schema(table).map_err(|e| e.with("stream", &target.stream.name))?),
        _ => None,
    };
    let table = stripped.as_ref().or(table);
    let conform = reconcile(
        format,
        &Input {
            stream: &target.stream.name,
            source,
            table,
            policy: target.policy,
            added_columns: target.options.added_columns.as_ref().unwrap_or(&none),
            seq,
            // Change logs leave out what did not change; a history has no use for half a row.
            absent: target.mode == Mode::Cdc && target.write != WriteMode::Scd2,
        },
    )?;
    if let Some(keyed) = &target.keyed {
        keyed.stored_key(&conform).map_err(|e| e.with("stream", &target.stream.name))?;
    }
    Ok(conform)
}
