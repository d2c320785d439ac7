//! Parts of a plan: what processes that share a plan have staged, without touching the table.

use std::collections::BTreeMap;

use arrow_schema::Schema;
use futures::{StreamExt, TryStreamExt};
use ingest_core::lake::DataFile;
use ingest_core::{Error, ErrorKind, Region, Result, SliceId, Stored};
use serde::{Deserialize, Serialize};

use crate::{Created, Documents, FORMAT, Ranges};

/// Documents that are read or removed at once: a plan may have ten thousand parts.
const AT_ONCE: usize = 64;

/// What one process has staged of a part, for one stream. Documents of a part are numbered from 1; create-if-absent of the
/// next number is the fence between two processes that work on the same part (invariant `parts_stage`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartDocument {
    /// Format of the document.
    pub format: u32,
    /// The plan.
    pub plan: String,
    /// The part.
    pub part: u32,
    /// The stream's table folder.
    pub stream: String,
    /// The number of this document.
    pub number: u32,
    /// The run that wrote it.
    pub run: String,
    /// The process that wrote it: an orchestrator may give the id of a run to several.
    pub writer: String,
    /// Slices of the part that are finished: all so far.
    pub done: Ranges,
    /// Where slices that were begun stand: all so far.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub open: BTreeMap<u32, Stored>,
    /// Positions that finished slices leave behind: all so far.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left: BTreeMap<SliceId, Stored>,
    /// Files that this document adds.
    pub files: Vec<DataFile>,
    /// Files of the quarantine table that this document adds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<DataFile>,
    /// Regions of the table that go before the rows of this document come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<Region>,
    /// The storage schema of the files, where it is wider than the table's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Schema>,
}

impl PartDocument {
    /// The document before the first: nothing is done.
    pub fn empty(plan: &str, part: u32, stream: &str, run: &str) -> Self {
        Self {
            format: FORMAT,
            plan: plan.to_owned(),
            part,
            stream: stream.to_owned(),
            number: 0,
            run: run.to_owned(),
            writer: String::new(),
            done: Ranges::default(),
            open: BTreeMap::new(),
            left: BTreeMap::new(),
            files: Vec::new(),
            quarantine: Vec::new(),
            regions: Vec::new(),
            schema: None,
        }
    }

    fn path(&self) -> String {
        format!("{}/{:05}/{}/{:08}.json", folder(&self.plan), self.part, self.stream, self.number)
    }

    /// Writes the document if there is none of its number. An answer that was lost is looked up.
    ///
    /// # Errors
    /// `CheckpointConflict` when another process has written that number.
    pub async fn create(&self, documents: &Documents) -> Result<()> {
        let path = self.path();
        let written = documents.create(&path, self).await;
        if matches!(written, Ok(Created::New)) {
            return Ok(());
        }
        match documents.get::<Self>(&path).await? {
            Some(found) if found.writer == self.writer => Ok(()),
            Some(found) => {
                Err(Error::new(ErrorKind::CheckpointConflict, "another run works on the same part of the plan")
                    .with("part", self.part)
                    .with("run", found.run)
                    .hint("what it has finished counts; the same command again does what is left"))
            }
            None => Err(written
                .err()
                .unwrap_or_else(|| Error::unexpected("a document was there and is gone").with("path", path))),
        }
    }

    /// The last document of a part, which says what is done of it.
    pub async fn latest(documents: &Documents, plan: &str, part: u32, stream: &str) -> Result<Option<Self>> {
        let names = documents.list(&format!("{}/{part:05}/{stream}", folder(plan))).await?;
        let Some(last) = names.last() else { return Ok(None) };
        documents.get(&format!("{}/{part:05}/{stream}/{last}.json", folder(plan))).await
    }

    /// All documents of a plan for one stream, by part and number.
    pub async fn all(documents: &Documents, plan: &str, stream: &str) -> Result<Vec<Self>> {
        let paths = paths(documents, plan, stream).await?;
        let read = paths.into_iter().map(|path| async move {
            let document: Option<Self> = documents.get(&path).await?;
            document
                .ok_or_else(|| Error::new(ErrorKind::CheckpointInvalid, "a part of a plan is gone").with("path", path))
        });
        futures::stream::iter(read).buffered(AT_ONCE).try_collect().await
    }

    /// Removes the documents of a plan that a stream has closed.
    pub async fn sweep(documents: &Documents, plan: &str, stream: &str) -> Result<()> {
        let paths = paths(documents, plan, stream).await?;
        let gone = paths.into_iter().map(|path| async move { documents.delete(&path).await });
        futures::stream::iter(gone).buffer_unordered(AT_ONCE).try_collect().await
    }
}

async fn paths(documents: &Documents, plan: &str, stream: &str) -> Result<Vec<String>> {
    let marker = format!("/{stream}/");
    let all = documents.objects(&folder(plan)).await?;
    let mut paths: Vec<String> = all.into_iter().map(|(path, _)| path).filter(|path| path.contains(&marker)).collect();
    paths.sort_unstable();
    Ok(paths)
}

fn folder(plan: &str) -> String {
    format!("_ingest/parts/{plan}")
}
