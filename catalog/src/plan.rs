//! Plan documents: the slices of a plan, written once.

use std::collections::BTreeMap;

use ingest_core::{Error, ErrorKind, Json, Mode, Result, Slice, SliceId, Stored, StreamName, WriteMode};
use serde::{Deserialize, Serialize};

use crate::{Created, Documents};

/// A plan at rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanDocument {
    /// Format of the document.
    pub format: u32,
    /// The plan.
    pub id: String,
    /// The source.
    pub source: String,
    /// Connector and version.
    pub connector: String,
    /// `state_version` of the connector that wrote `work`.
    pub state_version: u32,
    /// When it was made: microseconds UTC.
    pub made_at: i64,
    /// The streams it is for.
    pub streams: BTreeMap<StreamName, PlannedStream>,
    /// The slices; a slice is named by its index here.
    pub slices: Vec<Slice<Json>>,
    /// Positions that hold once the bounded slices of a stream are done; `None` forgets one.
    pub then: BTreeMap<StreamName, BTreeMap<SliceId, Option<Stored>>>,
    /// The plan does not cover everything: ask again when it is complete.
    #[serde(default)]
    pub more: bool,
    /// Set where other processes read the slices: how they share them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Parts>,
}

/// How processes share the slices of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// So many parts.
    pub of: u32,
    /// The part of the first slice; each further slice belongs to the next part, in a circle.
    pub first: u32,
}

impl Parts {
    /// The part to which a slice belongs.
    pub fn part(&self, slice: u32) -> u32 {
        (self.first % self.of.max(1) + slice % self.of.max(1)) % self.of.max(1)
    }
}

/// How a stream is read by a plan. A plan is finished as it was begun, whatever the configuration says by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStream {
    /// How it is read.
    pub mode: Mode,
    /// How its rows meet the table.
    pub write: WriteMode,
    /// Whether its rows stay invisible until the plan is closed.
    pub staged: bool,
    /// The number on which the plan stands (invariant `plan_names_its_base`).
    pub base: Option<i64>,
    /// The columns of the source when it was planned, where other processes read the slices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

impl PlanDocument {
    /// Writes the document, if there is none of its id.
    pub async fn create(&self, documents: &Documents) -> Result<Created> {
        documents.create(&plan_path(&self.source, &self.id), self).await
    }

    /// Reads the plan of an id.
    ///
    /// # Errors
    /// `CheckpointInvalid` when it is missing.
    pub async fn read(documents: &Documents, source: &str, id: &str) -> Result<Self> {
        let path = plan_path(source, id);
        let document: Option<Self> = documents.get(&path).await?;
        document.ok_or_else(|| {
            Error::new(ErrorKind::CheckpointInvalid, "the plan that a checkpoint names is missing")
                .with("path", path)
                .hint("restore it from a backup, or load again with `ingest run --full-refresh`")
        })
    }
}

/// The path of a plan document.
pub fn plan_path(source: &str, id: &str) -> String {
    format!("_ingest/plans/{source}/{id}.json")
}
