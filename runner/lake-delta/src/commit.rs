//! Commits: one put-if-absent of `_delta_log/<version>.json` each, and what to do when another writer was first.
//!
//! | between our version and the newest there is | then |
//! | --- | --- |
//! | a number of one of our application ids | conflict: another run was first |
//! | other metadata or another protocol | conflict |
//! | the removal of a file that we remove by name | conflict |
//! | any change of files, and we remove all, or regions | the removal is worked out again for the newer version |
//! | anything else | the same commit is tried on the newer version |

use std::time::Duration;

use arrow_schema::SchemaRef;
use bytes::Bytes;
use chrono::Utc;
use ingest_core::lake::{Commit, CommitError, Compression, DataFile, Removal, WriterOptions};
use ingest_core::{Error, ErrorKind, Json, Result};
use serde_json::json;
use uuid::Uuid;

use crate::action::{Action, Add, Line, Metadata, Protocol, Remove, Txn, push_line};
use crate::checkpoint;
use crate::log::Log;
use crate::merge::Merging;
use crate::protocol::{check_writable, with_timestamp_ntz};
use crate::rewrite::Rewrite;
use crate::schema::{StructType, has_timestamp_ntz};
use crate::store::Put;
use crate::table::DeltaTable;

/// How often a commit is tried on ever newer versions.
const ATTEMPTS: u32 = 100;
/// Younger handles may always commit: a log that is cleaned at once is left for tests and for the careless.
const MINIMUM_AGE: Duration = Duration::from_secs(60);
/// The longest pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// What a commit says apart from its removals, which depend on the version that it lands on.
pub(crate) struct Draft {
    operation: &'static str,
    parameters: Json,
    info: Option<Json>,
    transactions: Vec<Txn>,
    add: Vec<Add>,
    metadata: Option<Metadata>,
    protocol: Option<Protocol>,
    blind: bool,
    /// The schema that the commit brings.
    wider: Option<SchemaRef>,
}

/// The files that a commit adds and removes at one version.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub remove: Vec<Remove>,
    /// Files beside those of the draft: what stayed of rewritten ones.
    pub add: Vec<Add>,
}

impl Draft {
    fn of(table: &DeltaTable, commit: &Commit) -> Result<Self> {
        let now = Utc::now().timestamp_millis();
        let (metadata, protocol) = widened(table, commit)?;
        let blind = matches!(commit.remove, Removal::Nothing) && commit.merge.is_none();
        let parameters = match &commit.remove {
            Removal::Nothing => json!({"mode": "Append"}),
            Removal::All => json!({"mode": "Overwrite"}),
            Removal::Files(_) => json!({"mode": "Merge"}),
            Removal::Regions(_) => json!({"mode": "Replace"}),
        };
        let (operation, parameters) = match &commit.merge {
            Some(merge) => ("MERGE", json!({"matchedOn": merge.key.join(",")})),
            None => ("WRITE", parameters),
        };
        Ok(Self {
            operation,
            parameters,
            info: commit.info.clone(),
            transactions: commit
                .transactions
                .iter()
                .map(|(app, number)| Txn { app_id: app.clone(), version: *number, last_updated: Some(now) })
                .collect(),
            add: commit.add.iter().map(|file| Add::of(file, true)).collect(),
            wider: metadata.as_ref().map(|m| StructType::parse(&m.schema_string)?.to_arrow()).transpose()?,
            metadata,
            protocol,
            blind,
        })
    }

    /// A commit that puts files in the place of others with the same rows.
    pub fn compaction(target_bytes: u64) -> Self {
        Self {
            operation: "OPTIMIZE",
            parameters: json!({"predicate": "[]", "targetSize": target_bytes.to_string()}),
            info: None,
            transactions: Vec::new(),
            add: Vec::new(),
            metadata: None,
            protocol: None,
            blind: false,
            wider: None,
        }
    }

    /// A commit that takes rows away and belongs to no application.
    pub fn removal(why: &str) -> Self {
        Self { operation: "DELETE", parameters: json!({"predicate": "[]", "reason": why}), ..Self::compaction(0) }
    }

    fn commit_info(&self, id: &Uuid, change: &Change) -> Json {
        let added = self.add.iter().chain(&change.add);
        let bytes: u64 = added.clone().map(|a| a.size).sum();
        let mut info = json!({
            "timestamp": Utc::now().timestamp_millis(),
            "operation": self.operation,
            "operationParameters": self.parameters,
            "operationMetrics": {
                "numFiles": added.count().to_string(),
                "numOutputBytes": bytes.to_string(),
                "numRemovedFiles": change.remove.len().to_string(),
            },
            "isBlindAppend": self.blind,
            "engineInfo": concat!("ingest/", env!("CARGO_PKG_VERSION")),
            // Tells our commit from another writer's that has the same content.
            "txnId": id.to_string(),
        });
        if let Some(document) = &self.info {
            info["ingest.checkpoint"] = document.clone();
        }
        info
    }

    fn body(&self, change: &Change) -> Result<Bytes> {
        let mut body = Vec::with_capacity(512 * (2 + self.add.len() + change.add.len() + change.remove.len()));
        let info = self.commit_info(&Uuid::new_v4(), change);
        push_line(&mut body, &Action::Info(&info))?;
        if let Some(protocol) = &self.protocol {
            push_line(&mut body, &Action::Protocol(protocol))?;
        }
        if let Some(metadata) = &self.metadata {
            push_line(&mut body, &Action::Metadata(metadata))?;
        }
        for txn in &self.transactions {
            push_line(&mut body, &Action::Txn(txn))?;
        }
        for remove in &change.remove {
            push_line(&mut body, &Action::Remove(remove))?;
        }
        for add in self.add.iter().chain(&change.add) {
            push_line(&mut body, &Action::Add(add))?;
        }
        Ok(body.into())
    }

    /// Why this draft cannot pass over another writer's commit.
    fn conflict(&self, lines: &[Line]) -> Option<Error> {
        for line in lines {
            if let Some(txn) = &line.txn
                && self.transactions.iter().any(|ours| ours.app_id == txn.app_id)
            {
                return Some(
                    Error::new(ErrorKind::CheckpointConflict, "another run has moved the stream's checkpoint")
                        .with("application", &txn.app_id)
                        .hint("two runs of one stream were under way; this one wrote nothing: run again"),
                );
            }
            if line.meta_data.is_some() || line.protocol.is_some() {
                return Some(
                    Error::new(ErrorKind::CheckpointConflict, "the table's schema or properties changed meanwhile")
                        .hint("run again: the run then begins on the changed table"),
                );
            }
        }
        None
    }

    fn lines(self, change: Change) -> Vec<Line> {
        let removes = change.remove.into_iter().map(|r| Line { remove: Some(r), ..Line::default() });
        let adds = self.add.into_iter().chain(change.add).map(|a| Line { add: Some(a), ..Line::default() });
        let txns = self.transactions.into_iter().map(|t| Line { txn: Some(t), ..Line::default() });
        let meta = Line { meta_data: self.metadata, protocol: self.protocol, ..Line::default() };
        std::iter::once(meta).chain(txns).chain(removes).chain(adds).collect()
    }
}

/// The metadata with a commit's wider schema, and the protocol that it needs; `None` where nothing changes.
fn widened(table: &DeltaTable, commit: &Commit) -> Result<(Option<Metadata>, Option<Protocol>)> {
    let Some(wider) = &commit.schema else { return Ok((None, None)) };
    let snapshot = &table.snapshot;
    let mut columns = snapshot.columns.clone();
    if !columns.widen(&StructType::of(wider)?)? {
        return Ok((None, None));
    }
    let state = &snapshot.state;
    let listed = |features: &Option<Vec<String>>| features.iter().flatten().any(|f| f == "timestampNtz");
    let upgrade = has_timestamp_ntz(&columns) && !listed(&state.protocol.writer_features);
    let metadata = Metadata { schema_string: columns.to_json()?, ..state.metadata.clone() };
    Ok((Some(metadata), upgrade.then(|| with_timestamp_ntz(&state.protocol))))
}

impl DeltaTable {
    pub(crate) async fn commit_files(&mut self, commit: Commit) -> Result<u64, CommitError> {
        self.check_age()?;
        self.merged = None;
        let rewrites = !matches!(commit.remove, Removal::Nothing) || commit.merge.is_some();
        let snapshot = &self.snapshot;
        check_writable(&snapshot.state.protocol, &snapshot.state.metadata, &snapshot.columns, rewrites)
            .map_err(|e| CommitError::Failed(e.with("table", &self.log.folder)))?;
        let draft = Draft::of(self, &commit).map_err(|e| CommitError::Failed(e.with("table", &self.log.folder)))?;
        if let Some(merge) = commit.merge {
            let schema = draft.wider.as_ref().unwrap_or(&self.snapshot.schema);
            let mut merging = Merging::new(merge, commit.remove, schema)
                .map_err(|e| CommitError::Failed(e.with("table", &self.log.folder)))?;
            let version = self.land(draft, &mut merging).await?;
            self.merged = Some(merging.figures());
            return Ok(version);
        }
        match commit.remove {
            Removal::Nothing => self.land(draft, &mut Nothing).await,
            Removal::All => self.land(draft, &mut All).await,
            Removal::Files(files) => self.land(draft, &mut Named { files, seen: None }).await,
            Removal::Regions(regions) => {
                let fault = |e: Error| CommitError::Failed(e.with("table", &self.log.folder));
                let schema = commit.schema.as_ref().unwrap_or(&self.snapshot.schema);
                let mut rewrite = Rewrite::new(&regions, schema, rewrite_options()).map_err(fault)?;
                self.land(draft, &mut rewrite).await
            }
        }
    }

    /// A handle that stood still for long must not commit: what came after it may be gone from the log, and its
    /// version would be free again (invariant `old_handle_expires`).
    fn check_age(&self) -> Result<(), CommitError> {
        let age = Utc::now().signed_duration_since(self.stood).to_std().unwrap_or_default();
        if age > (self.snapshot.log_retention() / 2).max(MINIMUM_AGE) {
            return Err(CommitError::Conflict(
                Error::new(ErrorKind::CheckpointConflict, "the table was opened too long ago to commit to it")
                    .with("table", &self.log.folder)
                    .with("age in seconds", age.as_secs())
                    .hint("run again, or raise the table's property delta.logRetentionDuration"),
            ));
        }
        Ok(())
    }

    /// Puts the draft on the first free version after the one that the handle stands on.
    pub(crate) async fn land(&mut self, draft: Draft, removing: &mut dyn Removing) -> Result<u64, CommitError> {
        let landed = self.try_to_land(draft, removing).await;
        if let Err(CommitError::Conflict(_) | CommitError::Failed(_)) = landed {
            removing.give_up(&self.log).await;
        }
        landed
    }

    async fn try_to_land(&mut self, draft: Draft, removing: &mut dyn Removing) -> Result<u64, CommitError> {
        for attempt in 0..ATTEMPTS {
            let change = removing.change(self).await?;
            let body = draft.body(&change).map_err(CommitError::Failed)?;
            let version = self.snapshot.version() + 1;
            match self.log.lake.put_new(&self.log.commit_path(version), body).await {
                Put::Created => {
                    self.adopt(version, draft.lines(change)).await?;
                    return Ok(version);
                }
                Put::Exists => self.catch_up(&draft, attempt).await?,
                Put::Failed(e) => return Err(CommitError::Failed(e.with("table", &self.log.folder))),
                Put::Unknown(e) => {
                    return Err(CommitError::Unknown(e.with("table", &self.log.folder).with("version", version)));
                }
            }
        }
        Err(CommitError::Failed(
            Error::new(ErrorKind::Unavailable, "other writers were first at every attempt to commit")
                .with("table", &self.log.folder)
                .with("attempts", ATTEMPTS)
                .hint("run again when fewer writers are at work on the table")
                .exhausted(),
        ))
    }

    /// Reads the commits of other writers that our draft may pass over.
    async fn catch_up(&mut self, draft: &Draft, attempt: u32) -> Result<(), CommitError> {
        if attempt > 0 {
            tokio::time::sleep(pause(attempt)).await;
        }
        let files = self.live.get_mut().is_some();
        loop {
            let version = self.snapshot.version() + 1;
            let lines = match self.log.commit(version, files).await {
                Ok(Some(lines)) => lines,
                Ok(None) => return Ok(()),
                Err(e) => return Err(CommitError::Failed(e.with("table", &self.log.folder))),
            };
            if let Some(conflict) = draft.conflict(&lines) {
                return Err(CommitError::Conflict(conflict.with("table", &self.log.folder).with("version", version)));
            }
            self.step(version, lines).map_err(CommitError::Failed)?;
        }
    }

    /// Takes our own commit in. It is durable: nothing that fails from here on makes it undone.
    async fn adopt(&mut self, version: u64, lines: Vec<Line>) -> Result<(), CommitError> {
        self.stood = Utc::now();
        self.step(version, lines).map_err(|e| {
            CommitError::Unknown(e.with("table", &self.log.folder).hint("the commit is in; open the table again"))
        })?;
        if version.is_multiple_of(self.snapshot.checkpoint_interval())
            && let Err(e) = checkpoint::write(&self.log, &self.snapshot).await
        {
            tracing::warn!(table = %self.log.folder, version, error = ?e, "cannot write a checkpoint of the log");
        }
        Ok(())
    }

    /// Goes on to the next version.
    fn step(&mut self, version: u64, lines: Vec<Line>) -> Result<()> {
        self.snapshot.apply(version, &lines)?;
        if let Some(live) = self.live.get_mut() {
            let (removes, others): (Vec<_>, Vec<_>) = lines.into_iter().partition(|l| l.remove.is_some());
            for line in removes.into_iter().chain(others) {
                if let Some(remove) = line.remove {
                    live.remove(&remove.path);
                }
                if let Some(add) = line.add {
                    live.insert(add.path.clone(), add);
                }
            }
        }
        Ok(())
    }
}

/// Grows to half a second; random, so that writers that met once do not meet again.
fn pause(attempt: u32) -> Duration {
    let longest = Duration::from_millis(5).saturating_mul(1 << attempt.min(7)).min(PAUSE);
    let share = f64::from(u32::try_from(Uuid::new_v4().as_u128() >> 96).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    longest.mul_f64(share)
}

/// How files are written anew: as a new stream's are by default.
pub(crate) fn rewrite_options() -> WriterOptions {
    WriterOptions {
        target_file_bytes: 128 << 20,
        memory_bytes: 64 << 20,
        compression: Compression::default(),
        runtime: tokio::runtime::Handle::current(),
    }
}

/// Works out what a commit removes at the version on which the table stands; asked again for every newer one.
#[async_trait::async_trait]
pub(crate) trait Removing: Send {
    async fn change(&mut self, table: &mut DeltaTable) -> Result<Change, CommitError>;

    /// The commit certainly failed: removes what was written for it.
    async fn give_up(&mut self, _log: &Log) {}
}

struct Nothing;

#[async_trait::async_trait]
impl Removing for Nothing {
    async fn change(&mut self, _: &mut DeltaTable) -> Result<Change, CommitError> {
        Ok(Change::default())
    }
}

struct All;

#[async_trait::async_trait]
impl Removing for All {
    async fn change(&mut self, table: &mut DeltaTable) -> Result<Change, CommitError> {
        let now = Utc::now().timestamp_millis();
        let live = table.live_files().await.map_err(CommitError::Failed)?;
        Ok(Change { remove: live.values().map(|add| add.tombstone(now, true)).collect(), add: Vec::new() })
    }
}

/// Files by name, which must be live and stay as they were.
struct Named {
    files: Vec<DataFile>,
    seen: Option<Vec<Add>>,
}

#[async_trait::async_trait]
impl Removing for Named {
    async fn change(&mut self, table: &mut DeltaTable) -> Result<Change, CommitError> {
        let now = Utc::now().timestamp_millis();
        let folder = table.log.folder.clone();
        let live = table.live_files().await.map_err(CommitError::Failed)?;
        let mut found = Vec::with_capacity(self.files.len());
        for file in &self.files {
            let Some(add) = live.get(&file.path) else { return Err(touched(&folder)) };
            if add.deletion_vector.is_some() {
                return Err(CommitError::Failed(
                    Error::new(ErrorKind::Unsupported, "cannot rewrite a data file with a deletion vector")
                        .with("table", &folder)
                        .hint("purge the table's deletion vectors with the tool that made them"),
                ));
            }
            found.push(add.clone());
        }
        if self.seen.as_ref().is_some_and(|seen| *seen != found) {
            return Err(touched(&folder));
        }
        let remove = found.iter().map(|add| add.tombstone(now, true)).collect();
        self.seen = Some(found);
        Ok(Change { remove, add: Vec::new() })
    }
}

fn touched(folder: &object_store::path::Path) -> CommitError {
    CommitError::Conflict(
        Error::new(
            ErrorKind::CheckpointConflict,
            "another writer has changed the data files that this commit replaces",
        )
        .with("table", folder)
        .hint("the change is worked out again on the newer version"),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::{DataType, Field, Schema};
    use ingest_core::lake::{Definition, TableFormat};
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use url::Url;

    use super::*;
    use crate::DeltaFormat;

    #[tokio::test]
    async fn old_handle_expires() {
        let format = DeltaFormat::new(Arc::new(InMemory::new()), Url::parse("memory:///").unwrap());
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        format.create("t", &Definition { schema, partition_by: vec![], description: None }).await.unwrap();
        let mut table = DeltaTable::open(Log::new(format.lake(), Path::from("t"))).await.unwrap().unwrap();
        table.stood = Utc::now() - chrono::Duration::days(14);
        assert_eq!(table.commit_files(Commit::default()).await.unwrap(), 1);
        table.stood = Utc::now() - chrono::Duration::days(16);
        let error = table.commit_files(Commit::default()).await.unwrap_err();
        assert!(matches!(error, CommitError::Conflict(_)), "{error:?}");
    }

    #[test]
    fn pauses_are_bounded() {
        assert!((0..200).all(|attempt| pause(attempt) <= PAUSE));
    }
}
