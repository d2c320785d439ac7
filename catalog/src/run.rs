//! Run history: one document per run.

use ingest_core::{Json, Result};
use serde::{Deserialize, Serialize};

use crate::Documents;

/// A run that has ended, or died: then it has no `finished_at`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunDocument {
    /// Format of the document.
    pub format: u32,
    /// The run.
    pub run_id: String,
    /// The source.
    pub source: String,
    /// The connector and its version.
    pub connector: String,
    /// This program's version.
    pub version: String,
    /// When it began: microseconds UTC.
    pub started_at: i64,
    /// When it ended; `None` = under way, or killed.
    pub finished_at: Option<i64>,
    /// `succeeded`, `partial`, `failed`, `interrupted`; `None` = under way, or killed.
    pub outcome: Option<String>,
    /// The exit code.
    pub exit_code: Option<u8>,
    /// The streams.
    pub streams: Vec<RunStream>,
    /// What failed before any stream could start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Json>,
}

/// The figures of a stream in a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunStream {
    /// The stream.
    pub stream: String,
    /// Rows that came out of the source.
    pub rows_read: u64,
    /// Rows that became visible.
    pub rows_written: u64,
    /// Rows with a rescued value.
    pub rows_rescued: u64,
    /// Records that went to quarantine.
    pub rows_quarantined: u64,
    /// Bytes of the files that became visible.
    pub bytes_written: u64,
    /// The table's version after the last commit.
    pub commit_version: Option<u64>,
    /// Wall time.
    pub duration_ms: u64,
    /// How far the table was behind its source when the run ended, of streams with a change feed: milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<u64>,
    /// Bytes of the source's log that were not read then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// What checks have found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Json>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Json>,
}

/// The path of a run document. The start is in front, so that the order of names is the order of time.
pub fn run_path(started_at: i64, run_id: &str) -> String {
    format!("_ingest/runs/{started_at:020}-{}.json", ingest_core::table_name(run_id))
}

/// The newest runs, newest first.
pub async fn list_runs(documents: &Documents, limit: usize) -> Result<Vec<RunDocument>> {
    let mut runs = Vec::new();
    for name in documents.list("_ingest/runs").await?.iter().rev().take(limit) {
        runs.extend(documents.get::<RunDocument>(&format!("_ingest/runs/{name}.json")).await?);
    }
    Ok(runs)
}

/// All documents of a run: more than one where a run was made again under the same id.
pub async fn find_runs(documents: &Documents, run_id: &str) -> Result<Vec<RunDocument>> {
    among(documents, documents.list("_ingest/runs").await?, run_id).await
}

/// As [`find_runs`], of those that began at `since` (microseconds UTC) or later: the whole history is not listed.
pub async fn find_runs_since(documents: &Documents, since: i64, run_id: &str) -> Result<Vec<RunDocument>> {
    among(documents, documents.list_after("_ingest/runs", &format!("{since:020}")).await?, run_id).await
}

async fn among(documents: &Documents, names: Vec<String>, run_id: &str) -> Result<Vec<RunDocument>> {
    let end = format!("-{}", ingest_core::table_name(run_id));
    let mut runs = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(&end)) {
        let document: Option<RunDocument> = documents.get(&format!("_ingest/runs/{name}.json")).await?;
        runs.extend(document.filter(|document| document.run_id == run_id));
    }
    Ok(runs)
}
