//! The commit protocol: a checkpoint document and data files become one atomic change of a table.
//!
//! ```text
//! open     the number n and its document from one snapshot of the table
//! commit   number = max(clock, n + 1), raised until create-if-absent of its document succeeds; then files + txn(app, number)
//!          on the handle of `open`, later on the version that our own last commit gave
//! unknown  open again: our number -> done; still n -> same number, same files, same handle, at most three times;
//!          anything else -> CheckpointConflict, we are the zombie
//! ```
//!
//! The invariants and their names stand in `docs/architecture.md`; `runner/tests` holds a test of each name.

mod floor;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ingest_catalog::{
    Checkpoint, Created, Documents, FORMAT, PlanProgress, Sweeping, checkpoint_path, list_checkpoints,
};
use ingest_core::lake::{Commit, CommitError, DataFile, Definition, Merge, Removal, Table, TableFormat};
use ingest_core::{Clock, Error, ErrorKind, Result, SliceId, Stored, StreamName};

use crate::failpoint;

pub use floor::{Floor, Held, effective_positions};

/// Stands for the number of the commit that is being made, where a document names it.
const THIS: i64 = -1;

/// A handle older than this is not committed on: half of the log retention of 30 days (invariant `old_handle_expires`).
const HANDLE_AGE: i64 = 15 * 86_400 * 1_000_000;

/// How many checkpoint documents are kept behind the current one.
const KEPT: usize = 100;

/// Who commits, and where.
#[derive(Clone)]
pub struct Author {
    /// The documents of the lake.
    pub documents: Documents,
    /// The table format.
    pub format: Arc<dyn TableFormat>,
    /// The source.
    pub source: String,
    /// The run.
    pub run: String,
    /// Connector and version.
    pub connector: String,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// The one writer of a stream's table in this process: holds the handle from the first look to the last commit.
pub struct Committer {
    author: Author,
    stream: StreamName,
    folder: String,
    app: String,
    table: Option<Box<dyn Table>>,
    opened_at: i64,
    n: Option<i64>,
    checkpoint: Checkpoint,
}

/// What a commit changes in the table, beside the checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Files that become visible.
    pub add: Vec<DataFile>,
    /// What goes.
    pub remove: Removal,
    /// Rows that meet the table's rows by key.
    pub merge: Option<Merge>,
    /// A wider schema.
    pub schema: Option<arrow_schema::SchemaRef>,
    /// Files of the quarantine table that belong to it.
    pub quarantine: Vec<DataFile>,
}

/// The next checkpoint, as a change of the current one.
pub struct Edit<'a> {
    next: &'a mut Checkpoint,
}

impl Edit<'_> {
    /// Adopts a plan: nothing of it is done yet. Rows of a plan that replaces are marked to be replaced from here on, and
    /// what was read before is forgotten: should the plan be given up, the next one replaces them.
    pub fn adopt(&mut self, plan: &str, slices: usize, replace: bool) {
        if replace {
            self.forget();
            self.next.limited = true;
        }
        self.next.plan = Some(PlanProgress {
            id: plan.to_owned(),
            adopted: THIS,
            slices,
            done: Default::default(),
            open: BTreeMap::new(),
        });
    }

    /// Forgets the plan without applying it.
    pub fn abandon(&mut self) {
        self.next.plan = None;
    }

    /// A slice of the plan is read to a position.
    pub fn open(&mut self, slice: u32, position: Stored) {
        if let Some(plan) = &mut self.next.plan
            && !plan.done.contains(slice)
        {
            plan.open.insert(slice, position);
        }
    }

    /// A slice of the plan is finished.
    pub fn done(&mut self, slice: u32) {
        if let Some(plan) = &mut self.next.plan {
            plan.open.remove(&slice);
            plan.done.insert(slice);
        }
    }

    /// A feed is read to a position.
    pub fn feed(&mut self, slice: &SliceId, position: Stored) {
        self.next.positions.insert(slice.clone(), position);
    }

    /// Closes the plan: what it promised holds from now on.
    pub fn close(&mut self, then: &BTreeMap<SliceId, Option<Stored>>) {
        let adopted = self.next.plan.take().map_or(THIS, |plan| plan.adopted);
        if !then.is_empty() {
            self.next.generation = Some(adopted);
        }
        for (slice, position) in then {
            match position {
                Some(position) => self.next.positions.insert(slice.clone(), position.clone()),
                None => self.next.positions.remove(slice),
            };
        }
        self.next.limited = false;
        self.next.intervals = false;
    }

    /// Forgets the positions.
    pub fn forget(&mut self) {
        self.next.positions.clear();
        self.next.generation = None;
        self.end_sweep(None);
    }

    /// Begins a search for rows that the source no longer has.
    pub fn begin_sweep(&mut self, plan: &str, since: i64) {
        let ended_at = self.next.sweep.take().and_then(|sweep| sweep.ended_at);
        self.next.sweep = Some(Sweeping { plan: Some(plan.to_owned()), since, ended_at });
    }

    /// Ends it: it has found what there was to be found, or is given up (`None`).
    pub fn end_sweep(&mut self, ended_at: Option<i64>) {
        if let Some(sweep) = &mut self.next.sweep {
            sweep.plan = None;
            sweep.ended_at = ended_at.or(sweep.ended_at);
        }
    }

    /// Forgets everything that was read (`state reset`).
    pub fn reset(&mut self) {
        self.forget();
        self.next.plan = None;
        self.next.limited = false;
        self.next.intervals = false;
    }

    /// Takes positions, and the progress of a plan, from another checkpoint (`state rewind`, `state import`). It is a new
    /// generation: what the feeds' documents claim for the old one no longer counts.
    pub fn restore(&mut self, positions: BTreeMap<SliceId, Stored>, plan: Option<PlanProgress>) {
        self.next.positions = positions;
        self.next.plan = plan;
        self.end_sweep(None);
        self.next.generation = Some(THIS);
        self.next.limited = false;
        self.next.intervals = false;
    }

    /// Marks the rows as those of `run --limit`: the next run replaces them.
    pub fn limited(&mut self) {
        self.next.limited = true;
    }

    /// Marks the rows as those of intervals: they came in beside any position.
    pub fn intervals(&mut self) {
        self.next.limited = false;
        self.next.intervals = true;
    }

    /// Lists files of the quarantine table whose records come into the table with this commit.
    pub fn release(&mut self, files: Vec<DataFile>) {
        self.next.released = files;
    }

    /// Remembers the plan of several processes that was closed: closing it again does nothing.
    pub fn closed(&mut self, plan: &str) {
        self.next.closed = Some(plan.to_owned());
    }

    /// Lists uploaded files that stay invisible.
    pub fn stage(&mut self, files: Vec<DataFile>) {
        self.next.staged.extend(files);
    }
}

impl Committer {
    /// Opens the table of a stream, or notes that there is none yet.
    ///
    /// Number and document come from one snapshot (invariant `number_and_document_from_one_snapshot`).
    ///
    /// # Errors
    /// `CheckpointInvalid` when the document is missing or belongs to another table.
    pub async fn open(author: Author, stream: StreamName) -> Result<Self> {
        let folder = stream.table();
        let app = format!("ingest/{}/{}", author.source, stream);
        let table = author.format.open(&bronze(&author.source, &folder)).await?;
        let opened_at = author.clock.now_micros();
        let mut committer = Self {
            checkpoint: Checkpoint::empty(&author.source, stream.as_str(), &app, ""),
            author,
            stream,
            folder,
            app,
            table: None,
            opened_at,
            n: None,
        };
        if let Some(table) = table {
            committer.stand_on(table).await.map_err(|e| e.with("stream", &committer.stream))?;
        }
        Ok(committer)
    }

    async fn stand_on(&mut self, table: Box<dyn Table>) -> Result<()> {
        self.n = table.number(&self.app).await?;
        self.checkpoint = match self.n {
            Some(n) => {
                Checkpoint::read(&self.author.documents, &self.author.source, &self.folder, n, table.id()).await?
            }
            None => Checkpoint::empty(&self.author.source, self.stream.as_str(), &self.app, table.id()),
        };
        self.table = Some(table);
        Ok(())
    }

    /// Creates the table if there is none, in a commit of its own (invariant `creation_carries_no_rows`).
    ///
    /// # Errors
    /// `CheckpointConflict` when another run created it and has committed already.
    pub async fn ensure(&mut self, definition: &Definition) -> Result<()> {
        if self.table.is_some() {
            return Ok(());
        }
        let table = self.author.format.create(&bronze(&self.author.source, &self.folder), definition).await?;
        if table.number(&self.app).await?.is_some() {
            return Err(self.conflict("another run has created and filled the table"));
        }
        self.checkpoint.table = table.id().to_owned();
        self.opened_at = self.author.clock.now_micros();
        self.table = Some(table);
        Ok(())
    }

    /// The stream.
    pub fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// The committed number.
    pub fn number(&self) -> Option<i64> {
        self.n
    }

    /// The committed checkpoint; empty where there is none.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The table, if there is one.
    pub fn table(&self) -> Option<&dyn Table> {
        self.table.as_deref()
    }

    /// The table for maintenance; commits go through [`Committer::commit`].
    pub fn table_mut(&mut self) -> Option<&mut Box<dyn Table>> {
        self.table.as_mut()
    }

    /// Makes one atomic change. On success the committer stands on it; answers the table's version.
    ///
    /// # Errors
    /// `CheckpointConflict`: another run has moved the stream, nothing of ours is in. Others: nothing of ours is in, or
    /// nobody knows; the next run finds out.
    pub async fn commit(&mut self, change: Change, edit: impl FnOnce(&mut Edit<'_>)) -> Result<u64> {
        self.renew_old_handle().await?;
        let next = self.next_checkpoint(&change, edit);
        let next = self.write_document(next).await?;
        failpoint::reach("document_written");
        let commit = Commit {
            transactions: vec![(self.app.clone(), next.number)],
            add: change.add,
            remove: change.remove,
            merge: change.merge,
            schema: change.schema,
            info: Some(next.to_info()),
        };
        let version = self.commit_files(&commit, next.number).await?;
        failpoint::reach("committed");
        self.n = Some(next.number);
        self.checkpoint = next;
        Ok(version)
    }

    fn next_checkpoint(&self, change: &Change, edit: impl FnOnce(&mut Edit<'_>)) -> Checkpoint {
        let mut next = self.checkpoint.clone();
        next.format = FORMAT;
        next.parent = self.n;
        next.run.clone_from(&self.author.run);
        next.connector.clone_from(&self.author.connector);
        next.written_at = self.author.clock.now_micros();
        next.staged.clear();
        next.quarantine.clone_from(&change.quarantine);
        next.released.clear();
        let merged = change.merge.iter().flat_map(|merge| &merge.rows);
        next.rows = change.add.iter().chain(merged).map(|file| file.rows).sum();
        edit(&mut Edit { next: &mut next });
        next
    }

    /// Numbers the document and writes it. A number that is taken, or whose answer was lost, is passed over: two runs never
    /// share a document (invariants `document_is_never_overwritten`, `number_grows_without_a_clock`).
    async fn write_document(&self, template: Checkpoint) -> Result<Checkpoint> {
        let mut number = self.author.clock.now_micros().max(self.n.map_or(1, |n| n + 1));
        let mut last_error = None;
        for attempt in 0..20 {
            let mut document = template.clone();
            document.number = number;
            if let Some(plan) = &mut document.plan
                && plan.adopted == THIS
            {
                plan.adopted = number;
            }
            if document.generation == Some(THIS) {
                document.generation = Some(number);
            }
            match document.create(&self.author.documents, &self.folder).await {
                Ok(Created::New) => return Ok(document),
                Ok(Created::Exists) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) && attempt < 4 => {
                    tracing::warn!(%error, stream = %self.stream, "the answer to a checkpoint document was lost");
                    last_error = Some(error);
                    pause(attempt).await;
                }
                Err(error) => return Err(error.with("stream", &self.stream)),
            }
            number = self.author.clock.now_micros().max(number + 1);
        }
        Err(last_error.unwrap_or_else(|| self.conflict("others write checkpoints of this stream all the time")))
    }

    /// Commits on the handle that read, and finds out what became of it (invariants `commit_on_the_handle_that_read`,
    /// `unknown_is_looked_up`).
    async fn commit_files(&mut self, commit: &Commit, number: i64) -> Result<u64> {
        let mut attempt = 0;
        loop {
            let table = self.table.as_mut().ok_or_else(|| Error::unexpected("a commit before the table exists"))?;
            let failed = match table.commit(commit.clone()).await {
                Ok(version) => return Ok(version),
                Err(failed) => failed,
            };
            let before = table.schema();
            let found = table.reopen().await.map_err(|e| e.with("stream", &self.stream))?;
            if found.id() != self.checkpoint.table {
                return Err(self.conflict("the table was dropped and made again while we worked"));
            }
            let m = found.number(&self.app).await?;
            if m == Some(number) {
                let version = found.version();
                self.opened_at = self.author.clock.now_micros();
                self.table = Some(found);
                return Ok(version);
            }
            if m != self.n {
                return Err(self.conflict("another run has moved this stream"));
            }
            attempt += 1;
            match failed {
                CommitError::Failed(error) => return Err(error.with("stream", &self.stream)),
                CommitError::Unknown(error) if attempt > 3 => return Err(error.with("stream", &self.stream)),
                // Same number, same files, same handle: should the first attempt land late, this one conflicts with it.
                CommitError::Unknown(error) => {
                    tracing::warn!(%error, stream = %self.stream, attempt, "the outcome of a commit is unknown; it is not in");
                    pause(attempt).await;
                }
                CommitError::Conflict(error) if attempt > 5 => return Err(error.with("stream", &self.stream)),
                // Certainly not applied and nobody moved our number: somebody maintains the table. Go on from what is there.
                CommitError::Conflict(error) => {
                    if found.schema() != before {
                        return Err(Error::new(
                            ErrorKind::SchemaChanged,
                            "another writer changed the table while we worked",
                        )
                        .with("stream", &self.stream)
                        .hint("run again: the new schema is read then")
                        .caused_by(error));
                    }
                    tracing::info!(%error, stream = %self.stream, attempt, "a commit met another writer; computed again");
                    self.opened_at = self.author.clock.now_micros();
                    self.table = Some(found);
                    pause(attempt).await;
                }
            }
        }
    }

    /// Invariant `old_handle_expires`: the log behind an old handle may have been cleaned away.
    async fn renew_old_handle(&mut self) -> Result<()> {
        let now = self.author.clock.now_micros();
        if now.saturating_sub(self.opened_at) < HANDLE_AGE {
            return Ok(());
        }
        let Some(table) = &self.table else { return Ok(()) };
        let found = table.reopen().await?;
        if found.id() != self.checkpoint.table || found.number(&self.app).await? != self.n {
            return Err(self.conflict("another run has moved this stream"));
        }
        self.opened_at = now;
        self.table = Some(found);
        Ok(())
    }

    /// The files of an open plan that are uploaded and not visible, in the order in which they came: walks back to the
    /// adoption.
    ///
    /// # Errors
    /// `CheckpointInvalid` when a document on the way is missing.
    pub async fn staged(&self) -> Result<Vec<DataFile>> {
        let Some(plan) = &self.checkpoint.plan else { return Ok(Vec::new()) };
        let mut newest_first = vec![self.checkpoint.staged.clone()];
        let mut at = self.checkpoint.number;
        let mut parent = self.checkpoint.parent;
        while at > plan.adopted {
            let number = parent.ok_or_else(|| {
                Error::new(ErrorKind::CheckpointInvalid, "the checkpoints of a plan do not lead back to its adoption")
                    .with("stream", &self.stream)
                    .with("number", at)
                    .hint("load the stream again with `ingest run --full-refresh`")
            })?;
            let document = Checkpoint::read(
                &self.author.documents,
                &self.author.source,
                &self.folder,
                number,
                &self.checkpoint.table,
            )
            .await?;
            // A rewind may lie in between: only what this plan has staged counts.
            if document.plan.as_ref().is_some_and(|progress| progress.id == plan.id) {
                newest_first.push(document.staged);
            }
            at = document.number;
            parent = document.parent;
        }
        Ok(newest_first.into_iter().rev().flatten().collect())
    }

    /// Removes old checkpoint documents: kept are the current one, all back to the adoption of an open plan, and 100 more.
    pub async fn sweep(&self) -> Result<()> {
        let Some(n) = self.n else { return Ok(()) };
        let keep_from = self.checkpoint.plan.as_ref().map_or(n, |plan| plan.adopted);
        let older: Vec<i64> = list_checkpoints(&self.author.documents, &self.author.source, &self.folder)
            .await?
            .into_iter()
            .filter(|number| *number < keep_from)
            .collect();
        for number in older.iter().rev().skip(KEPT) {
            self.author.documents.delete(&checkpoint_path(&self.author.source, &self.folder, *number)).await?;
        }
        Ok(())
    }

    fn conflict(&self, message: &str) -> Error {
        Error::new(ErrorKind::CheckpointConflict, message)
            .with("stream", &self.stream)
            .hint("nothing of this run was added twice; if no other run is meant to work on this stream, run again")
    }
}

/// The folder of a stream's table in the lake.
pub fn bronze(source: &str, folder: &str) -> String {
    format!("bronze/{}/{folder}", ingest_core::table_name(source))
}

/// Waits a little longer each time, with jitter, so that two who collide do not collide again.
async fn pause(attempt: u32) {
    let base = 50_u64 << attempt.min(6);
    let jitter = rand::random_range(0..=base);
    tokio::time::sleep(Duration::from_millis(base / 2 + jitter / 2)).await;
}
