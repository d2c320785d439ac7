//! The contract of a table format: what a lake crate does for the runner.
//!
//! The runner holds one [`Table`] per stream from the moment it reads the checkpoint number until its last commit: a
//! commit is built on the version that this handle read or that its own last commit made, never on "the newest"
//! (invariant `commit_on_the_handle_that_read`).

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{Schema, SchemaRef};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Error, Json, Region, Result};

/// A table format over one lake.
#[async_trait]
pub trait TableFormat: Send + Sync {
    /// `delta`.
    fn name(&self) -> &'static str;

    /// Opens the table in `folder` (relative to the lake: `bronze/shop/orders`); `None` when there is none.
    async fn open(&self, folder: &str) -> Result<Option<Box<dyn Table>>>;

    /// Creates an empty table in a commit of its own, and opens it. A table that exists by then is opened as it is.
    ///
    /// A creating commit is not fenced, so it carries no rows (invariant `creation_carries_no_rows`).
    async fn create(&self, folder: &str, definition: &Definition) -> Result<Box<dyn Table>>;

    /// What becomes of a schema in this format: the types as they are stored. A column that cannot be stored is an error
    /// that names it.
    fn storage_schema(&self, schema: &SchemaRef) -> Result<SchemaRef>;

    /// Removes what processes that are gone left of objects which they never ended to write, in a folder of the lake and
    /// below, where such things stay (on a local disk; listings do not show them). Those that are younger stay: somebody may
    /// be at work on them. Gives their number.
    async fn remove_torn(&self, folder: &str, older_than: std::time::Duration) -> Result<u64> {
        let _ = (folder, older_than);
        Ok(0)
    }

    /// Casts a batch to [`TableFormat::storage_schema`] of its schema. Values must fit; the runner has rescued the others.
    fn to_storage(&self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch>;
}

/// How a new table shall be.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Storage schema.
    pub schema: SchemaRef,
    /// Partition columns.
    pub partition_by: Vec<String>,
    /// For people: what the table holds.
    pub description: Option<String>,
}

/// An opened table: one snapshot, and what our own commits made of it.
#[async_trait]
pub trait Table: Send + Sync {
    /// The table's own id. A table that was dropped and made again has another one.
    fn id(&self) -> &str;

    /// The version that this handle stands on.
    fn version(&self) -> u64;

    /// The storage schema at that version.
    fn schema(&self) -> SchemaRef;

    /// The committed number of an application id, in this snapshot.
    async fn number(&self, app: &str) -> Result<Option<i64>>;

    /// Opens the table again, at its newest version. This handle stays as it is.
    async fn reopen(&self) -> Result<Box<dyn Table>>;

    /// What makes writers of data files for this table. It can be used from other threads while this handle commits.
    fn writers(&self) -> Arc<dyn Writers>;

    /// Commits on the version of this handle. On success the handle stands on the new version.
    ///
    /// Another writer's commits in between are passed over when they neither carry one of our application ids, nor
    /// change the schema, nor touch a file that this commit removes.
    ///
    /// # Errors
    /// [`CommitError`]: `Conflict` = certainly not applied; `Unknown` = nobody knows, open again and look.
    async fn commit(&mut self, commit: Commit) -> Result<u64, CommitError>;

    /// The live data files at this handle's version.
    async fn files(&self) -> Result<Vec<DataFile>>;

    /// The data files that were live right after the commit that carried `number` of an application id, for going back;
    /// `None` when the log no longer reaches back to it.
    async fn files_at(&self, app: &str, number: i64) -> Result<Option<Vec<DataFile>>> {
        let _ = (app, number);
        Err(Error::new(crate::ErrorKind::Unsupported, "this table format cannot look back"))
    }

    /// What the last commit of this handle did by key; `None` where it carried no [`Commit::merge`].
    fn merged(&self) -> Option<Merged> {
        None
    }

    /// Deletes uploaded files that are not part of the table at this handle's version: what a merge has taken its rows from.
    async fn discard(&self, files: &[DataFile]) -> Result<()> {
        let _ = files;
        Ok(())
    }

    /// Reads the first `limit` rows, newest files first, for `ingest show` and `preview`.
    async fn read(&self, limit: usize) -> Result<Vec<RecordBatch>>;

    /// Gives the values of one column of all rows, batch by batch; at most one row group is held.
    async fn values(&self, column: &str, take: &mut (dyn FnMut(ArrayRef) -> Result<()> + Send)) -> Result<()> {
        let _ = take;
        Err(Error::new(crate::ErrorKind::Unsupported, "this table format cannot read a column by itself")
            .with("column", column))
    }

    /// Gives some columns of all rows, batch by batch, always in the same order for one version; at most one row group is
    /// held.
    async fn scan(&self, columns: &[String], take: &mut (dyn FnMut(RecordBatch) -> Result<()> + Send)) -> Result<()> {
        let _ = take;
        Err(Error::new(crate::ErrorKind::Unsupported, "this table format cannot read columns by themselves")
            .with("columns", columns.len()))
    }

    /// Keeps the table healthy: compaction, log checkpoints, removal of dead files.
    async fn maintain(&mut self, options: &Maintenance) -> Result<Maintained>;

    /// Looks for rows, and for what the log says of them, in everything that lies in the table's folder: the newest
    /// version, older ones, files that no commit names.
    ///
    /// Like [`Table::maintain`] it works on a handle of its own.
    async fn search(&self, rows: &Arc<dyn RowFilter>) -> Result<Traces> {
        let _ = rows;
        Err(Error::new(crate::ErrorKind::Unsupported, "this table format cannot search older versions"))
    }

    /// Erases rows for good: from the newest version by a commit without an application id, then from older ones and from
    /// files that no commit names, by deleting them, and from the log. Versions that lose a file can no longer be read.
    ///
    /// Doing it again is fine, also after it was broken off. Like [`Table::maintain`] it works on a handle of its own. The
    /// caller sees to it that nobody of us has files of this table uploaded and not yet committed.
    async fn erase(&self, erasure: &Erasure) -> Result<Erased> {
        let _ = erasure;
        Err(Error::new(crate::ErrorKind::Unsupported, "this table format cannot erase rows"))
    }
}

/// Finds rows by looking at them.
pub trait RowFilter: Send + Sync {
    /// The columns that must be seen; empty = no row of a table with this schema is meant.
    fn columns(&self, schema: &Schema) -> Vec<String>;

    /// Which rows of a batch with these columns are meant: true or false, never null.
    fn rows(&self, batch: &RecordBatch) -> Result<BooleanArray>;

    /// Whether a text holds what is searched for: a commit of the log, statistics, a path.
    fn in_text(&self, text: &[u8]) -> bool;
}

/// What [`Table::search`] has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traces {
    /// Data files that were looked at.
    pub files_searched: u64,
    /// Files of the log that were looked at.
    pub log_files_searched: u64,
    /// Rows of the newest version that are meant.
    pub rows: u64,
    /// Other files with such rows: of older versions, or named by no commit.
    pub old_files: u64,
    /// Files of the log that say something of such rows.
    pub log_files: u64,
    /// Files outside the newest version that cannot be read as data files.
    pub unreadable_files: u64,
}

impl Traces {
    /// Whether nothing was found, and everything could be looked at.
    pub fn is_clean(&self) -> bool {
        (self.rows, self.old_files, self.log_files, self.unreadable_files) == (0, 0, 0, 0)
    }
}

/// What shall be erased, and how.
#[derive(Clone)]
pub struct Erasure {
    /// The rows.
    pub rows: Arc<dyn RowFilter>,
    /// Leave older versions as they are until their files are removed by [`Table::maintain`].
    pub keep_history: bool,
    /// How files are written anew.
    pub options: WriterOptions,
    /// Hears what is done, one after the other: an erasure may take long, and may be broken off anywhere.
    pub told: fn(Erasing),
}

/// A step of [`Table::erase`] that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasing {
    /// The newest version is without the rows.
    Committed,
    /// A file of the log no longer tells of them.
    LogCleaned,
    /// Some of the old files are deleted.
    Deleted,
}

/// What [`Table::erase`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Rows that were taken out of the newest version.
    pub rows: u64,
    /// Files that were written again without them, or removed as a whole.
    pub files_rewritten: u64,
    /// The version that no longer has them, where there was something to take out.
    pub version: Option<u64>,
    /// Files outside the newest version that were deleted.
    pub files_deleted: u64,
    /// Their size.
    pub bytes_deleted: u64,
    /// Files of the log that were written again without statistics, or deleted.
    pub log_files_rewritten: u64,
}

/// Makes writers of data files for one table.
pub trait Writers: Send + Sync {
    /// Makes a writer for the table's schema, or for a wider one that the commit will bring. Files are invisible until they
    /// are committed.
    fn writer(&self, schema: SchemaRef, options: &WriterOptions) -> Result<Box<dyn DataWriter>>;
}

/// How data files are written.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// A file is closed near this size. Default 128 MiB.
    pub target_file_bytes: u64,
    /// Memory that one writer may hold before it writes out a row group.
    pub memory_bytes: u64,
    /// `zstd` level 1 by default, else `snappy`.
    pub compression: Compression,
    /// Where the bytes go; uploads run on this runtime while the writer itself may sit on a thread of its own.
    pub runtime: tokio::runtime::Handle,
}

/// How data files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, Default)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// zstd, level 1.
    #[default]
    Zstd,
    /// snappy.
    Snappy,
}

/// Writes data files. Blocking: it belongs on a thread of its own, never on an async worker.
pub trait DataWriter: Send {
    /// Adds a batch in storage schema.
    fn write(&mut self, batch: &RecordBatch) -> Result<()>;
    /// Bytes written or held for the current set of files.
    fn bytes(&self) -> u64;
    /// Bytes held in memory now.
    fn memory(&self) -> u64;
    /// Closes everything that is open; all files are durable and still invisible.
    fn finish(self: Box<Self>) -> Result<Vec<DataFile>>;
    /// Gives everything up; what was uploaded is removed where that is possible.
    fn abort(self: Box<Self>);
}

/// A data file: everything that a commit needs to know about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    /// Relative to the table, as the format's log spells it.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Rows, where the log knows them.
    pub rows: u64,
    /// Values of the partition columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition: Vec<(String, Option<String>)>,
    /// Statistics in the format's own spelling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    /// When it was written: milliseconds UTC.
    #[serde(default)]
    pub modified: i64,
}

/// One atomic change of a table.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Application ids with their new numbers: the fence.
    pub transactions: Vec<(String, i64)>,
    /// Files that become visible.
    pub add: Vec<DataFile>,
    /// What goes, before rows come: of the rows that were there.
    pub remove: Removal,
    /// Rows that meet the table's rows by key.
    pub merge: Option<Merge>,
    /// A wider storage schema.
    pub schema: Option<SchemaRef>,
    /// For people reading the table's history: the checkpoint document.
    pub info: Option<Json>,
}

/// What a commit removes.
#[derive(Debug, Clone, Default)]
pub enum Removal {
    /// Nothing.
    #[default]
    Nothing,
    /// Every live file at the version that the commit lands on.
    All,
    /// These files, which must all be live. Restored files may be among `add`.
    Files(Vec<DataFile>),
    /// The rows of these regions; files are rewritten where only a part of them goes. Rows in `add` stay.
    Regions(Vec<Region>),
}

/// Rows that meet the table's rows by key, in one commit with everything else.
///
/// The rows are applied one after another in the order of `rows`; memory stays bounded however many they are. Another
/// writer's commit in between is passed over or the whole is worked out again on the newer version.
#[derive(Debug, Clone)]
pub struct Merge {
    /// Uploaded files, in the order in which their rows came. A file whose rows all come in as they are becomes part of the
    /// table; the others stay behind for [`Table::discard`]. No row may lack a value of its key.
    pub rows: Vec<DataFile>,
    /// The columns that name a row.
    pub key: Vec<String>,
    /// The column that says which of two rows with one key is the newer one, where both have a value; else it is the one
    /// that came later.
    pub order: Option<String>,
    /// What becomes of a row whose key is there.
    pub meeting: Meeting,
    /// What becomes of rows of the table whose keys did not come.
    pub sweep: Sweep,
    /// Microseconds UTC: when rows are deleted that a sweep finds.
    pub now: i64,
    /// Memory for keys; what does not fit is done in several passes.
    pub memory_bytes: u64,
    /// How files are written.
    pub options: WriterOptions,
    /// Counts the batches that are looked at, so that somebody who waits sees that it moves.
    pub progress: Arc<std::sync::atomic::AtomicU64>,
}

/// What becomes of a row whose key is in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meeting {
    /// The newer row takes its place; `_ingest_op` = `D` removes it. A partial row (`_ingest_absent`) changes what it carries.
    Update {
        /// Deleted rows stay, with `_ingest_op` = `D` and the time in `_ingest_deleted_at`.
        soft_delete: bool,
    },
    /// The row that is there stays: only new keys come in.
    Keep,
    /// The row that is there ends, and the new one begins ([`crate::columns::EFFECTIVE`] and its fellows).
    History {
        /// When a row begins to hold: a timestamp column.
        time: String,
        /// A new version begins where one of these differs; a row that differs elsewhere alone takes the place of its version.
        tracked: Vec<String>,
    },
}

/// What becomes of rows of the table whose keys did not come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sweep {
    /// They stay: [`Merge::rows`] are some of those that the source has.
    #[default]
    Nothing,
    /// They are deleted: [`Merge::rows`] are all that the source has.
    Rows,
    /// They are deleted, unless they came at that time (`_ingested_at`, microseconds UTC) or later: [`Merge::rows`] hold the
    /// keys of all that the source had then, and nothing of them comes in.
    Keys {
        /// When the keys were begun to be read.
        since: i64,
    },
}

impl Sweep {
    /// Whether rows are deleted.
    pub fn deletes(self) -> bool {
        self != Self::Nothing
    }
}

/// What a merge did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    /// Rows that were inserted, updated, closed or deleted.
    pub rows_changed: u64,
    /// Files of the table that were rewritten or removed.
    pub files_touched: u64,
    /// Unchanged rows that were written again because their file was.
    pub rows_rewritten: u64,
    /// Files that were written, and files that became part of the table as they came.
    pub files_written: u64,
    /// Their bytes.
    pub bytes_written: u64,
}

/// Why a commit did not succeed.
#[derive(Debug)]
pub enum CommitError {
    /// Certainly not applied: another writer of our application ids was first, or changed what we depend on.
    Conflict(Error),
    /// Certainly not applied, for a reason that lies with the store or the data.
    Failed(Error),
    /// Nobody knows whether it was applied.
    Unknown(Error),
}

impl CommitError {
    /// The error inside.
    pub fn into_error(self) -> Error {
        match self {
            Self::Conflict(e) | Self::Failed(e) | Self::Unknown(e) => e,
        }
    }
}

/// What `maintain` shall do.
#[derive(Debug, Clone)]
pub struct Maintenance {
    /// Files below this size are put together. Default 128 MiB is aimed at.
    pub target_file_bytes: u64,
    /// Dead files younger than this stay. Default 7 days.
    pub retention: std::time::Duration,
    /// Paths of uploaded, uncommitted files that open plans still need (invariant `staged_files_survive_maintenance`).
    pub staged: Arc<std::collections::HashSet<String>>,
    /// Memory for reading and writing.
    pub memory_bytes: u64,
    /// Compression of compacted files.
    pub compression: Compression,
    /// Rows that are kept no longer: they are removed first, in a commit of their own.
    pub expire: Vec<Region>,
    /// The columns by which the rows of compacted files are put in order, so that rows with near keys lie in one file; empty
    /// = they stay in the order in which they came.
    pub cluster_by: Vec<String>,
    /// Say what would be done, change nothing.
    pub dry_run: bool,
}

/// What `maintain` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintained {
    /// Rows that were kept long enough and were removed.
    #[serde(default)]
    pub rows_expired: u64,
    /// Small files that were put together.
    pub files_compacted: u64,
    /// Files that came of it.
    pub files_written: u64,
    /// Dead files that were deleted.
    pub files_deleted: u64,
    /// Their size.
    pub bytes_deleted: u64,
    /// Version of the log checkpoint that was written.
    pub log_checkpoint: Option<u64>,
}
