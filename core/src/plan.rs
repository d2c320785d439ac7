//! Plans: the slices of streams, with bounds fixed before reading.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, Estimate, Result, Selected, SliceId, StreamName};

/// What the runner asks `plan` for: all selected streams of one group at once.
#[derive(Debug, Clone)]
pub struct PlanRequest<P> {
    /// The streams, with what their tables hold.
    pub streams: Vec<Selected<P>>,
    /// What planning may leave behind at the source.
    pub intent: Intent,
    /// Wanted size of a slice in bytes at the source.
    pub slice_bytes: u64,
    /// At least so many slices, where the stream can be cut.
    pub min_slices: u32,
    /// A window by hand: microseconds UTC, half-open.
    pub interval: Option<(i64, i64)>,
    /// The clock of this run: microseconds UTC.
    pub now: i64,
}

/// What planning may leave behind at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Nothing (`ingest plan`): positions may be estimates.
    Explain,
    /// A slot or a job that other processes will use (`ingest plan -o`).
    Portable,
    /// Also what dies with this process: an exported snapshot.
    Here,
}

/// The slices of a group of streams, and what will hold once they are done.
#[derive(Debug, Clone)]
pub struct Plan<W, P> {
    /// At most 100,000.
    pub slices: Vec<Slice<W>>,
    /// Positions that hold once the plan's bounded slices are complete; `None` forgets one.
    pub then: BTreeMap<StreamName, BTreeMap<SliceId, Option<P>>>,
    /// The plan does not cover everything: ask again when it is complete.
    pub more: bool,
}

impl<W, P> Default for Plan<W, P> {
    fn default() -> Self {
        Self { slices: Vec::new(), then: BTreeMap::new(), more: false }
    }
}

/// An independent, serialisable piece of work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Slice<W> {
    /// Feeds: stable across plans, it names the position. Others: unique within the plan.
    pub id: SliceId,
    /// The streams whose rows it gives.
    pub streams: Vec<StreamName>,
    /// How it may be repeated.
    pub shape: Shape,
    /// What it says to its connector; at most 64 KiB as JSON.
    pub work: W,
    /// What is known about its size.
    #[serde(default)]
    pub estimate: Estimate,
}

impl<W> Slice<W> {
    /// The stream of a slice that has but one, as those of most connectors.
    ///
    /// # Errors
    /// [`ErrorKind::Unexpected`](crate::ErrorKind::Unexpected) for a slice without a stream.
    pub fn stream(&self) -> Result<&StreamName> {
        self.streams.first().ok_or_else(|| Error::unexpected("a slice of this connector belongs to one stream"))
    }
}

/// The shapes of a slice: the author's `Work` parts them, the runner treats them differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Bounded; lives and dies with its plan (exported snapshot, job, scan). Staged: its rows become visible in the one
    /// commit that closes the plan.
    Snapshot,
    /// Bounded before reading; the same rows whoever reads it, and when. Committed mark by mark.
    Window,
    /// Ordered and endless; its id is stable across plans and names its position, which each table keeps for itself.
    Feed,
}

/// How a call of `extract` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Bounded slices: all rows are given. Feeds: closed for ever, plan again.
    Complete,
    /// Feeds: nothing more now.
    CaughtUp,
    /// Bounded: all that can be read is given, and the last mark names what could not be (a damaged file, one that is
    /// still growing). The slice counts as complete, and that mark stays as a position under the slice's id: the next
    /// plan finds it in [`Selected::positions`] and forgets it by a `None` in [`Plan::then`]. The id must therefore be
    /// unique across plans. It does not make a run partial; [`Out::skipped`](crate::Out::skipped) does.
    Left,
    /// A job is not ready: the runner commits the last mark, waits so long, and calls again with it.
    Pending(std::time::Duration),
}
