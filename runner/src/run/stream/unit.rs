//! What lanes tell a stream's task: files with what they cover.

use std::time::Instant;

use arrow_schema::SchemaRef;
use ingest_core::lake::DataFile;
use ingest_core::{Region, Result, SliceId, Stored};

use crate::policy::Tally;

/// What a lane tells a stream's task.
pub enum Message {
    /// Files with what they cover.
    Unit(Box<Unit>),
    /// All bounded slices have been tried: commit what is there, close the plan if it is complete, answer.
    Settle(tokio::sync::oneshot::Sender<Result<Settled>>),
    /// Nothing more comes: commit what is there.
    End,
}

/// What became of a stream's bounded slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The plan is closed.
    Closed,
    /// Some slices are left.
    Open,
}

/// Files that are uploaded, and what they cover. Files and covers become visible in one commit.
#[derive(Default)]
pub struct Unit {
    /// Data files.
    pub files: Vec<DataFile>,
    /// Files of the quarantine.
    pub quarantine: Vec<DataFile>,
    /// What is covered up to and with these files.
    pub covers: Vec<(SliceKey, Cover)>,
    /// What checks have counted.
    pub tally: Tally,
    /// A region that goes before these rows come.
    pub region: Option<Region>,
    /// The storage schema that the files were written with, where it is wider than the table's.
    pub schema: Option<SchemaRef>,
    /// When the first row of the files came.
    pub since: Option<Instant>,
}

/// Which slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SliceKey {
    /// A bounded slice, by its index in the plan.
    Bounded(u32),
    /// A feed, by its id.
    Feed(SliceId),
}

/// How far.
#[derive(Debug, Clone)]
pub enum Cover {
    /// To this mark.
    At(Stored),
    /// To the end.
    Done,
    /// To the end, and this position stays under the slice's id.
    Left(SliceId, Stored),
}
