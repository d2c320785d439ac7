//! Checkpoint documents: where a stream has been read to, one document per commit.

use std::collections::BTreeMap;

use ingest_core::lake::DataFile;
use ingest_core::{Error, ErrorKind, Json, Result, SliceId, Stored};
use serde::{Deserialize, Serialize};

use crate::documents::numbered;
use crate::{Created, Documents, FORMAT, Ranges};

/// The positions of all slices of a stream at one commit.
///
/// The document of the number that the table holds is the only truth. The highest document is not: it may be an orphan
/// of a run that died before its commit (invariant `number_and_document_from_one_snapshot`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Format of the document.
    pub format: u32,
    /// The source.
    pub source: String,
    /// The stream, in the source's spelling.
    pub stream: String,
    /// The application id in the table.
    pub app: String,
    /// The number under which it is committed.
    pub number: i64,
    /// The number of the checkpoint before it.
    #[serde(default)]
    pub parent: Option<i64>,
    /// The table's own id.
    pub table: String,
    /// Number of the commit that adopted the plan from which the feed positions come.
    #[serde(default)]
    pub generation: Option<i64>,
    /// The run that wrote it.
    pub run: String,
    /// Connector and version.
    pub connector: String,
    /// When it was written: microseconds UTC, by the writer's clock.
    #[serde(default)]
    pub written_at: i64,
    /// Where the stream's slices have been read to.
    #[serde(default)]
    pub positions: BTreeMap<SliceId, Stored>,
    /// The plan that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanProgress>,
    /// Files of this document that are uploaded and not visible yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub staged: Vec<DataFile>,
    /// Files of the quarantine table that belong to this commit. They are committed there right after it; a run that died
    /// in between leaves them to the next one, which finds them here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<DataFile>,
    /// Files of the quarantine table that go: their records came into the table with this commit (`quarantine replay`), or
    /// stand in `quarantine` again. As with those, a run that died in between leaves it to the next one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub released: Vec<DataFile>,
    /// The rows come from `run --limit`, or a plan that replaces them has begun: whatever is read next replaces them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub limited: bool,
    /// There are rows of intervals and no position: the first run without an interval replaces them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub intervals: bool,
    /// The last plan of several processes that was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// How far the search for rows that the source no longer has is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweeping>,
    /// Rows that this commit made visible.
    #[serde(default)]
    pub rows: u64,
}

/// The search for rows that the source no longer has, spread over runs.
///
/// The keys of a plan are read slice by slice and staged beside the table, in the documents of the plan's only part; one
/// commit then deletes the rows whose key did not come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sweeping {
    /// The plan that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// When it was made, microseconds UTC: rows that come from then on are none of its business, and are stamped later than
    /// that, whatever the clock of their machine says.
    #[serde(default)]
    pub since: i64,
    /// When the last one ended: microseconds UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<i64>,
}

/// How far a plan is, for one stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanProgress {
    /// The plan.
    pub id: String,
    /// Number of the commit that adopted it.
    pub adopted: i64,
    /// How many bounded slices it has for this stream.
    pub slices: usize,
    /// Finished slices, by their index in the plan.
    #[serde(default)]
    pub done: Ranges,
    /// Positions of slices that are begun.
    #[serde(default)]
    pub open: BTreeMap<u32, Stored>,
}

impl Checkpoint {
    /// The document that stands for a table without any.
    pub fn empty(source: &str, stream: &str, app: &str, table: &str) -> Self {
        Self {
            format: FORMAT,
            source: source.to_owned(),
            stream: stream.to_owned(),
            app: app.to_owned(),
            number: 0,
            parent: None,
            table: table.to_owned(),
            generation: None,
            run: String::new(),
            connector: String::new(),
            written_at: 0,
            positions: BTreeMap::new(),
            plan: None,
            staged: Vec::new(),
            quarantine: Vec::new(),
            released: Vec::new(),
            limited: false,
            intervals: false,
            closed: None,
            sweep: None,
            rows: 0,
        }
    }

    /// Writes the document under its number if there is none of that number.
    ///
    /// # Errors
    /// `LimitExceeded` above 4 MiB.
    pub async fn create(&self, documents: &Documents, folder: &str) -> Result<Created> {
        // Staged files of one document are bounded by the commit that it belongs to; what can grow is the positions.
        let size =
            serde_json::to_vec(self).map_err(|e| Error::unexpected("cannot write a checkpoint").caused_by(e))?.len();
        if size > 4 << 20 {
            return Err(Error::new(ErrorKind::LimitExceeded, "a checkpoint is larger than 4 MiB")
                .with("stream", &self.stream)
                .with("bytes", size)
                .hint("commit more often (lake.commit_interval) or select fewer slices at once"));
        }
        documents.create(&checkpoint_path(&self.source, folder, self.number), self).await
    }

    /// Reads the document of a number.
    ///
    /// # Errors
    /// `CheckpointInvalid` when it is missing, or belongs to another table.
    pub async fn read(documents: &Documents, source: &str, folder: &str, number: i64, table: &str) -> Result<Self> {
        let path = checkpoint_path(source, folder, number);
        let document: Option<Self> = documents.get(&path).await?;
        let document = document.ok_or_else(|| {
            Error::new(ErrorKind::CheckpointInvalid, "the checkpoint that the table names is missing")
                .with("path", &path)
                .hint("the table's history holds a copy of it (`ingest.checkpoint` of that commit): put it back, or `ingest state reset`")
        })?;
        if document.table != table {
            return Err(Error::new(ErrorKind::CheckpointInvalid, "the checkpoint belongs to another table")
                .with("path", &path)
                .with("table", table)
                .hint("the table was dropped and made again by somebody else; `ingest state reset` starts over"));
        }
        Ok(document)
    }

    /// The copy that goes into the table's own history: without statistics of files, which are values of rows.
    pub fn to_info(&self) -> Json {
        let mut copy = self.clone();
        for file in copy.staged.iter_mut().chain(&mut copy.quarantine).chain(&mut copy.released) {
            file.stats = None;
        }
        serde_json::to_value(&copy).unwrap_or(Json::Null)
    }

    /// Whether it names files, with statistics of their rows.
    pub fn names_files(&self) -> bool {
        !(self.staged.is_empty() && self.quarantine.is_empty() && self.released.is_empty())
    }
}

/// The path of a checkpoint document.
pub fn checkpoint_path(source: &str, folder: &str, number: i64) -> String {
    numbered(&format!("_ingest/checkpoints/{source}/{folder}"), number)
}

/// The numbers of all checkpoint documents of a stream, ascending; orphans among them.
pub async fn list_checkpoints(documents: &Documents, source: &str, folder: &str) -> Result<Vec<i64>> {
    let names = documents.list(&format!("_ingest/checkpoints/{source}/{folder}")).await?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}
