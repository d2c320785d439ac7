//! A stream on its way through a run.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use ingest_core::{Error, SliceId, Stored};
use tokio_util::task::AbortOnDropHandle;

use super::lane::Remaining;
use super::part::Gathered;
use super::planning::OpenPlan;
use super::stream::{Finished, Settled, StreamShared};
use super::target::Target;
use super::writer::Removals;
use crate::commit::Committer;
use crate::events::{ErrorReport, StreamReport};

/// A stream in a run.
pub struct Work {
    pub target: Target,
    /// With the stream's task while it is read.
    pub committer: Option<Committer>,
    pub report: StreamReport,
    pub started: Instant,
    /// All rows give way to those that are read now.
    pub refresh: bool,
    pub plan: Option<Arc<OpenPlan>>,
    /// What other processes have staged of it.
    pub gathered: Option<Gathered>,
    /// The plan was made by an earlier run: what came to the source since then is not in it.
    pub resumed: bool,
    pub expiries: usize,
    /// A window of the cursor is read, and takes the place of what the table has of it: microseconds UTC, half-open.
    pub interval: Option<(i64, i64)>,
    /// The table held nothing of the source when the run began.
    pub first: bool,
    /// The keys of a sweep are read, not what is new.
    pub sweeping: bool,
    pub state: State,
}

impl Work {
    pub fn committer(&self) -> &Committer {
        self.committer.as_ref().expect("the committer is here between rounds")
    }

    pub fn committer_mut(&mut self) -> &mut Committer {
        self.committer.as_mut().expect("the committer is here between rounds")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// To be planned and read.
    Due,
    /// Everything is in the table.
    Done,
    /// Failed, with the error in the report.
    Failed,
}

/// A stream while it is read.
pub struct Line {
    pub work: Work,
    pub shared: Arc<StreamShared>,
    pub plan: Arc<OpenPlan>,
    pub task: AbortOnDropHandle<Finished>,
    /// Bounded slices that are left, by index.
    pub left: Vec<u32>,
    /// Where those that were begun stand.
    pub open: BTreeMap<u32, Stored>,
    pub removals: Removals,
    /// Positions of the checkpoint when the round began.
    pub positions: BTreeMap<SliceId, Stored>,
    /// Their generation.
    pub generation: Option<i64>,
    pub remaining: Arc<Remaining>,
    pub closed: bool,
}

pub async fn settled(line: &Line) -> bool {
    let answer = line.remaining.settled.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(answer) = answer else { return false };
    match answer.await {
        Ok(Ok(settled)) => settled == Settled::Closed,
        Ok(Err(error)) => {
            line.shared.fail(error);
            false
        }
        Err(_) => false,
    }
}

/// Adds the figures of a round to the report, and answers the first error.
pub fn count(shared: &StreamShared, report: &mut StreamReport) -> Option<Error> {
    let counters = &shared.counters;
    report.rows_read += counters.rows_read.load(Ordering::Relaxed);
    report.bytes_read += counters.bytes_read.load(Ordering::Relaxed);
    report.rows_rescued += counters.rows_rescued.load(Ordering::Relaxed);
    report.rows_quarantined += counters.rows_quarantined.load(Ordering::Relaxed);
    report.rows_written += counters.rows_written.load(Ordering::Relaxed);
    report.rows_staged += counters.rows_staged.load(Ordering::Relaxed);
    report.files += counters.files.load(Ordering::Relaxed);
    report.bytes_written += counters.bytes_written.load(Ordering::Relaxed);
    let (touched, changed) =
        (counters.files_touched.load(Ordering::Relaxed), counters.rows_changed.load(Ordering::Relaxed));
    if shared.target.keyed.is_some() {
        let merge = report.merge.get_or_insert_default();
        merge.files_touched += touched;
        merge.rows_rewritten += counters.rows_rewritten.load(Ordering::Relaxed);
        merge.rows_changed += changed;
        merge.bytes_written += counters.bytes_merged.load(Ordering::Relaxed);
        merge.bytes_per_changed_row = merge.bytes_written.checked_div(merge.rows_changed);
    }
    report.partial |= counters.partial.load(Ordering::Relaxed);
    report.lag = shared.lag().or(report.lag);
    report.checks = shared.quality.reports();
    let version = counters.version.load(Ordering::Relaxed);
    report.commit_version = version.checked_sub(1).or(report.commit_version);
    shared.error.lock().unwrap_or_else(PoisonError::into_inner).take()
}

pub fn fail(w: &mut Work, error: &Error) {
    w.state = State::Failed;
    let error = error.replicate().with("stream", &w.target.stream.name);
    w.report.error.get_or_insert_with(|| ErrorReport::from(&error));
}
