//! Maintenance: small files are put together, the log gets a checkpoint, what is dead is deleted.
//!
//! It works on a handle of its own: the caller's must not move over another run's commits, or it would no longer be
//! fenced by them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use ingest_core::lake::{CommitError, DataFile, Maintained, Maintenance, WriterOptions};
use ingest_core::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use crate::action::Add;
use crate::checkpoint;
use crate::cluster;
use crate::commit::{Change, Draft, Removing, rewrite_options};
use crate::log::{Log, LogFile};
use crate::protocol::check_writable;
use crate::read::{object_path, scan};
use crate::rewrite::{Rewrite, discard, write_all};
use crate::store::store_error;
use crate::table::{DeltaTable, TableWriters};

/// Commits since the last checkpoint of the log from which another one pays.
const CHECKPOINT_AFTER: u64 = 10;

/// Does everything that `options` ask for.
pub(crate) async fn maintain(log: &Log, options: &Maintenance) -> Result<Maintained> {
    let mut done = Maintained::default();
    let fault = |e: Error| e.with("table", &log.folder);
    let mut table = open(log).await?;
    let state = &table.snapshot.state;
    check_writable(&state.protocol, &state.metadata, &table.snapshot.columns, false).map_err(fault)?;
    expire(&mut table, options, &mut done).await.map_err(fault)?;
    compact(&mut table, options, &mut done).await.map_err(fault)?;
    // Others may have committed meanwhile.
    let table = open(log).await?;
    let segment = log.segment(None).await?;
    let since = table.snapshot.version() - segment.checkpoint.unwrap_or(0).min(table.snapshot.version());
    if since >= CHECKPOINT_AFTER {
        if !options.dry_run {
            checkpoint::write(log, &table.snapshot).await.map_err(fault)?;
        }
        done.log_checkpoint = Some(table.snapshot.version());
    }
    clean_log(&table, options, &mut done).await.map_err(fault)?;
    vacuum(log, options, &mut done).await.map_err(fault)?;
    Ok(done)
}

/// The table at its newest version.
pub(crate) async fn open(log: &Log) -> Result<DeltaTable> {
    DeltaTable::open(log.clone()).await?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "the table is gone")
            .with("table", &log.folder)
            .hint("`ingest runs` tells what was written last")
    })
}

/// Removes the rows that are kept no longer.
async fn expire(table: &mut DeltaTable, options: &Maintenance, done: &mut Maintained) -> Result<()> {
    if options.expire.is_empty() {
        return Ok(());
    }
    let mut rewrite = Rewrite::new(&options.expire, &table.snapshot.schema, rewrite_options())?;
    let rows = rewrite.count(table).await?;
    if rows > 0 && !options.dry_run {
        table.land(Draft::removal("retention"), &mut rewrite).await.map_err(CommitError::into_error)?;
        done.rows_expired = rewrite.gone().0;
    } else {
        done.rows_expired = rows;
    }
    Ok(())
}

/// Puts small files of one partition together, one commit for each new set.
async fn compact(table: &mut DeltaTable, options: &Maintenance, done: &mut Maintained) -> Result<()> {
    let key = &options.cluster_by;
    let sets = match key.is_empty() {
        true => sets(table, options.target_file_bytes).await?,
        false => cluster::sets(table, key, options.target_file_bytes).await?,
    };
    for set in sets {
        done.files_compacted += set.len() as u64;
        if options.dry_run {
            done.files_written += 1;
            continue;
        }
        let output = match key.is_empty() {
            true => put_together(table, &set, options).await?,
            false => cluster::put_in_order(table, &set, key, options).await?,
        };
        let written = output.len() as u64;
        let count = set.len() as u64;
        let mut replace = Replace { sources: set, output };
        match table.land(Draft::compaction(options.target_file_bytes), &mut replace).await {
            Ok(_) => done.files_written += written,
            // Somebody else rewrote or removed one of the files: theirs is the newer truth.
            Err(CommitError::Conflict(e)) => {
                tracing::info!(table = %table.log.folder, error = ?e, "files were changed while they were put together");
                done.files_compacted -= count;
                *table = open(&table.log).await?;
            }
            Err(e) => return Err(e.into_error()),
        }
    }
    Ok(())
}

/// Sets of at least two small files of one partition, each of about the target size, oldest first.
async fn sets(table: &mut DeltaTable, target: u64) -> Result<Vec<Vec<Add>>> {
    let mut partitions: BTreeMap<BTreeMap<String, Option<String>>, Vec<Add>> = BTreeMap::new();
    for file in table.live_files().await?.values() {
        // A file of three quarters of the size is large enough: rewriting it again and again would cost more.
        if file.size < target / 4 * 3 && file.deletion_vector.is_none() {
            partitions.entry(file.partition_values.clone()).or_default().push(file.clone());
        }
    }
    let mut sets = Vec::new();
    for mut files in partitions.into_values() {
        files.sort_by(|a, b| (a.modification_time, &a.path).cmp(&(b.modification_time, &b.path)));
        let mut set: Vec<Add> = Vec::new();
        let mut bytes = 0;
        for file in files {
            if bytes + file.size > target && !set.is_empty() {
                sets.push(std::mem::take(&mut set));
                bytes = 0;
            }
            bytes += file.size;
            set.push(file);
        }
        sets.push(set);
    }
    sets.retain(|set| set.len() > 1);
    Ok(sets)
}

async fn put_together(table: &DeltaTable, set: &[Add], options: &Maintenance) -> Result<Vec<DataFile>> {
    let writer_options = WriterOptions {
        // One file comes of a set; the sum of small files is more than what comes of them.
        target_file_bytes: options.target_file_bytes.saturating_mul(2),
        memory_bytes: options.memory_bytes,
        compression: options.compression,
        runtime: tokio::runtime::Handle::current(),
    };
    let schema = table.snapshot.schema.clone();
    let partition_by = table.snapshot.partition_by().to_vec();
    let rows =
        futures::stream::iter(set).then(|file| scan(&table.log, file, &schema, &partition_by)).try_flatten().boxed();
    let writer = TableWriters::of(table).parquet_writer(&table.snapshot.schema, &writer_options)?;
    write_all(rows, Box::new(writer)).await
}

/// Puts files in the place of others that hold the same rows.
///
/// Every source must be live and as it was at the version that the commit lands on: two compactions of one file would
/// double its rows.
struct Replace {
    sources: Vec<Add>,
    output: Vec<DataFile>,
}

#[async_trait::async_trait]
impl Removing for Replace {
    async fn change(&mut self, table: &mut DeltaTable) -> Result<Change, CommitError> {
        let now = Utc::now().timestamp_millis();
        let live = table.live_files().await.map_err(CommitError::Failed)?;
        if let Some(gone) = self.sources.iter().find(|file| live.get(&file.path) != Some(file)) {
            return Err(CommitError::Conflict(
                Error::new(ErrorKind::CheckpointConflict, "a file was changed while it was put together with others")
                    .with("file", &gone.path),
            ));
        }
        Ok(Change {
            remove: self.sources.iter().map(|file| file.tombstone(now, false)).collect(),
            add: self.output.iter().map(|file| Add::of(file, false)).collect(),
        })
    }

    async fn give_up(&mut self, log: &Log) {
        discard(log, &self.output).await;
    }
}

fn before(age: Duration) -> DateTime<Utc> {
    let age = chrono::Duration::from_std(age).unwrap_or(chrono::Duration::MAX);
    Utc::now().checked_sub_signed(age).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// Deletes what the log no longer needs: everything before the newest checkpoint that is older than the table's log
/// retention, so that every version within the retention stays readable.
async fn clean_log(table: &DeltaTable, options: &Maintenance, done: &mut Maintained) -> Result<()> {
    let on = table.snapshot.state.metadata.property("delta.enableExpiredLogCleanup");
    if on.is_some_and(|v| v.eq_ignore_ascii_case("false")) {
        return Ok(());
    }
    let horizon = before(table.snapshot.log_retention());
    let log = &table.log;
    let folder = log.log_folder();
    let mut files = Vec::new();
    let mut objects = log.lake.store.list(Some(&folder));
    while let Some(object) = objects.try_next().await.map_err(|e| store_error(e, "list the table's log"))? {
        if let Some(file) = object.location.filename().and_then(LogFile::parse) {
            files.push((file, object));
        }
    }
    // Parts and sidecars of other writers' checkpoints are left to those who made them.
    let whole = |file: &LogFile| matches!(file, LogFile::Checkpoint(_, None));
    let base = files.iter().filter(|(f, o)| whole(f) && o.last_modified <= horizon).map(|(f, _)| f.version()).max();
    let Some(base) = base else { return Ok(()) };
    let dead = files.into_iter().filter(|(f, o)| {
        f.version() < base && o.last_modified <= horizon && (whole(f) || matches!(f, LogFile::Commit(_)))
    });
    let mut dead: Vec<(LogFile, ObjectMeta)> = dead.collect();
    // Oldest first: a clean-up that is broken off leaves no gap behind a version that is still there.
    dead.sort_by_key(|(file, _)| file.version());
    delete(log, dead.into_iter().map(|(_, object)| object).collect(), options.dry_run, done).await
}

/// Deletes data files that no reader and no commit under way can need.
///
/// | file | deleted |
/// | --- | --- |
/// | live | no |
/// | removed less than the retention ago | no |
/// | removed before that, or never committed, and older than the retention | yes |
/// | staged by an open plan | no |
async fn vacuum(log: &Log, options: &Maintenance, done: &mut Maintained) -> Result<()> {
    let horizon = before(options.retention);
    // Listed before the log is read: what is committed in between is live by then.
    let mut old: Vec<ObjectMeta> = Vec::new();
    let mut objects = log.lake.store.list(Some(&log.folder));
    while let Some(object) = objects.try_next().await.map_err(|e| store_error(e, "list the table's files"))? {
        if object.last_modified < horizon && is_data(&log.folder, &object.location) {
            old.push(object);
        }
    }
    if old.is_empty() {
        return Ok(());
    }
    let table = open(log).await?;
    let files = log.files(table.snapshot.version()).await?;
    let mut needed: HashSet<Path> = HashSet::new();
    for path in files.live.keys() {
        needed.insert(object_path(log, path)?);
    }
    let horizon_millis = horizon.timestamp_millis();
    for (path, remove) in &files.removed {
        if remove.deletion_timestamp.unwrap_or(0) >= horizon_millis {
            needed.insert(object_path(log, path)?);
        }
    }
    for path in options.staged.iter() {
        needed.insert(object_path(log, path)?);
    }
    old.retain(|object| !needed.contains(&object.location));
    delete(log, old, options.dry_run, done).await
}

/// Whether an object is a data file: hidden folders are not ours, partition folders are, whatever they are called.
fn is_data(folder: &Path, object: &Path) -> bool {
    let Some(parts) = object.prefix_match(folder) else { return false };
    let parts: Vec<String> = parts.map(|p| p.as_ref().to_string()).collect();
    let hidden = |part: &String| (part.starts_with('_') || part.starts_with('.')) && !part.contains('=');
    !parts.iter().any(hidden) && parts.last().is_some_and(|name| name.ends_with(".parquet"))
}

/// Deletes objects; those that are gone already are fine.
pub(crate) async fn delete(log: &Log, dead: Vec<ObjectMeta>, dry_run: bool, done: &mut Maintained) -> Result<()> {
    let count = dead.len() as u64;
    let bytes: u64 = dead.iter().map(|o| o.size).sum();
    if !dry_run {
        let unique: BTreeSet<Path> = dead.iter().map(|o| o.location.clone()).collect();
        let paths = futures::stream::iter(dead.into_iter().map(|o| Ok(o.location))).boxed();
        let mut deleted = log.lake.store.delete_stream(paths);
        let mut left = unique;
        while let Some(result) = deleted.next().await {
            match result {
                Ok(path) => {
                    left.remove(&path);
                }
                // Somebody else was faster.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(store_error(e, "delete dead files of the table")),
            }
        }
        if !left.is_empty() {
            tracing::debug!(table = %log.folder, files = left.len(), "dead files were gone already");
        }
    }
    done.files_deleted += count;
    done.bytes_deleted += bytes;
    Ok(())
}
