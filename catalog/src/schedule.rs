//! What `ingest serve` has done of each schedule.

use ingest_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::documents::numbered;
use crate::{Created, Documents, FORMAT};

/// Where a job stands. Documents of a job are numbered; create-if-absent of the next number is the fence between a server and
/// one that has taken over from it, so that no due time is taken twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleDocument {
    /// Format of the document.
    pub format: u32,
    /// The job: `shop_db`, or `shop_db/public.orders` for streams with a schedule of their own.
    pub job: String,
    /// The number of this document.
    pub number: i64,
    /// The server that wrote it.
    pub server: String,
    /// All due times up to this one are done or passed over: microseconds UTC.
    pub settled: i64,
    /// The due time that was taken and has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<Taken>,
    /// The due time that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// The latest due time whose run succeeded: what the source held then is in the lake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succeeded: Option<i64>,
}

/// A due time that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The due time.
    pub due: i64,
    /// The id of its run.
    pub run: String,
    /// Attempts that have failed.
    pub failed: u32,
}

/// How a due time ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The due time.
    pub due: i64,
    /// The id of its run; none = it was passed over.
    pub run: Option<String>,
    /// The exit code of the run.
    pub exit_code: Option<u8>,
    /// When it ended: microseconds UTC.
    pub at: i64,
}

impl ScheduleDocument {
    /// A job that is seen for the first time: what was due before is nobody's.
    pub fn first(job: &str, server: &str, now: i64) -> Self {
        Self {
            format: FORMAT,
            job: job.to_owned(),
            number: 0,
            server: server.to_owned(),
            settled: now,
            taken: None,
            ended: None,
            succeeded: None,
        }
    }

    /// The newest document in a job's folder.
    pub async fn latest(documents: &Documents, folder: &str) -> Result<Option<Self>> {
        let names = documents.list(folder).await?;
        let Some(last) = names.last() else { return Ok(None) };
        documents.get(&format!("{folder}/{last}.json")).await
    }

    /// Writes the next document. An answer that was lost is looked up.
    ///
    /// # Errors
    /// `CheckpointConflict` when another server has written that number.
    pub async fn create(&self, documents: &Documents, folder: &str) -> Result<()> {
        let path = numbered(folder, self.number);
        let written = documents.create(&path, self).await;
        if !matches!(written, Ok(Created::New)) {
            match documents.get::<Self>(&path).await? {
                Some(found) if found == *self => {}
                Some(found) => {
                    return Err(Error::new(
                        ErrorKind::CheckpointConflict,
                        "another server has taken over the schedule",
                    )
                    .with("job", &self.job)
                    .with("server", found.server));
                }
                None => {
                    return Err(written
                        .err()
                        .unwrap_or_else(|| Error::unexpected("a document was there and is gone").with("path", path)));
                }
            }
        }
        // The one before stays for people; what stays by mistake is harmless.
        let old = numbered(folder, self.number - 2);
        if self.number >= 2
            && let Err(error) = documents.delete(&old).await
        {
            tracing::debug!(%error, "an old document stays");
        }
        Ok(())
    }
}
