//! Erasing rows for good: from the newest version, from every file that lies in the table's folder, from the log.
//!
//! | where | what becomes of it |
//! | --- | --- |
//! | files of the newest version | written again without the rows, in one commit |
//! | files of older versions, files that no commit names, change data of other writers | deleted, where they hold such a row |
//! | files of ours that a process left half written | deleted |
//! | commits of the log | written again without the statistics of such files, and without our checkpoint where it holds a trace |
//! | checkpoints of the log | a new one is written; older ones are deleted where they hold a trace |
//!
//! A commit is never deleted: its version would be free again, and a writer with an old handle could take it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use ingest_core::lake::{Erased, Erasing, Erasure, Maintained, RowFilter, Traces};
use ingest_core::{Error, ErrorKind, Json, Result};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use serde_json::json;
use uuid::Uuid;

use crate::action::Add;
use crate::checkpoint;
use crate::commit::Draft;
use crate::log::{Log, LogFile};
use crate::maintain::{delete, open};
use crate::protocol::{check_readable, check_writable};
use crate::read::{object_path, scan};
use crate::rewrite::{Choice, Rewrite};
use crate::store::store_error;
use crate::table::DeltaTable;

/// Everything that holds a trace of the rows.
#[derive(Default)]
struct Found {
    traces: Traces,
    /// Files outside the newest version, with their paths as the log spells them.
    old: Vec<(String, ObjectMeta)>,
    log: Vec<(Option<LogFile>, Path)>,
    /// Files of ours that were never ended, by a process that is gone.
    torn: Vec<ObjectMeta>,
}

/// Looks for rows in everything that lies in the table's folder.
pub(crate) async fn search(log: &Log, rows: &Arc<dyn RowFilter>) -> Result<Traces> {
    let fault = |e: Error| e.with("table", &log.folder);
    let mut table = open(log).await?;
    check_readable(&table.snapshot.state.protocol, &table.snapshot.state.metadata).map_err(fault)?;
    let mut found = Found::default();
    look_at_files(&mut table, rows, &mut found).await.map_err(fault)?;
    look_at_log(log, rows, &HashSet::new(), &mut found).await.map_err(fault)?;
    Ok(found.traces)
}

/// Erases rows; see [`ingest_core::lake::Table::erase`].
pub(crate) async fn erase(log: &Log, erasure: &Erasure) -> Result<Erased> {
    let fault = |e: Error| e.with("table", &log.folder);
    let mut table = open(log).await?;
    let state = &table.snapshot.state;
    check_writable(&state.protocol, &state.metadata, &table.snapshot.columns, true).map_err(fault)?;
    let mut done = Erased::default();
    let mut rewrite = Rewrite::of(Choice::Filter(Arc::clone(&erasure.rows)), erasure.options.clone());
    let mut dead: HashSet<String> = HashSet::new();
    if rewrite.count(&mut table).await.map_err(fault)? > 0 {
        let version = table.land(Draft::removal("erasure"), &mut rewrite).await;
        done.version = Some(version.map_err(|e| fault(e.into_error()))?);
        let (rows, paths) = rewrite.gone();
        done.rows = rows;
        done.files_rewritten = paths.len() as u64;
        dead.extend(paths);
        (erasure.told)(Erasing::Committed);
    }
    if erasure.keep_history {
        return Ok(done);
    }
    let mut table = open(log).await?;
    let mut found = Found::default();
    look_at_files(&mut table, &erasure.rows, &mut found).await.map_err(fault)?;
    dead.extend(found.old.iter().map(|(path, _)| path.clone()));
    look_at_log(log, &erasure.rows, &dead, &mut found).await.map_err(fault)?;
    if !found.log.is_empty() {
        checkpoint::write(log, &table.snapshot).await.map_err(fault)?;
        for (file, path) in &found.log {
            clean(log, file.as_ref(), path, table.snapshot.version(), &erasure.rows, &dead).await.map_err(fault)?;
            (erasure.told)(Erasing::LogCleaned);
        }
        done.log_files_rewritten = found.log.len() as u64;
    }
    // Last: as long as a file is there, whoever comes after a crash knows whose statistics to look for.
    let mut old: Vec<ObjectMeta> = found.old.into_iter().map(|(_, object)| object).chain(found.torn).collect();
    let mut deleted = Maintained::default();
    while !old.is_empty() {
        let rest = old.split_off(old.len().min(DELETED_AT_ONCE));
        delete(log, std::mem::replace(&mut old, rest), false, &mut deleted).await.map_err(fault)?;
        (erasure.told)(Erasing::Deleted);
    }
    done.files_deleted = deleted.files_deleted;
    done.bytes_deleted = deleted.bytes_deleted;
    Ok(done)
}

/// Files that are deleted in one request, where the store can.
const DELETED_AT_ONCE: usize = 1_000;

/// Whether a data file bears a name that we give: others may be at work on theirs.
fn is_ours(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let id = name.strip_suffix(".parquet").and_then(|id| Uuid::try_parse(id).ok());
    id.is_some_and(|id| id.get_version_num() == 7)
}

/// How the log could spell the path of an object in the table's folder.
fn spelled(log: &Log, object: &Path) -> Option<String> {
    let parts = object.prefix_match(&log.folder)?;
    let parts: Vec<String> = parts.map(|part| part.as_ref().replace('%', "%25")).collect();
    Some(parts.join("/"))
}

/// Looks at the rows of every data file in the table's folder, whoever names it.
async fn look_at_files(table: &mut DeltaTable, rows: &Arc<dyn RowFilter>, found: &mut Found) -> Result<()> {
    let log = table.log.clone();
    // Listed before the log is read: what is committed in between is live by then.
    let mut objects = Vec::new();
    let mut listed = log.lake.store.list(Some(&log.folder));
    while let Some(object) = listed.try_next().await.map_err(|e| store_error(e, "list the table's files"))? {
        let in_log = object.location.prefix_match(&log.log_folder()).is_some();
        if !in_log && object.location.as_ref().ends_with(".parquet") {
            objects.push(object);
        }
    }
    let known = log.files(table.snapshot.version()).await?;
    let mut live: HashSet<Path> = HashSet::new();
    for add in known.live.values() {
        live.insert(object_path(&log, &add.path)?);
        found.traces.files_searched += 1;
        found.traces.rows += hits(table, rows, add).await?;
    }
    let mut removed: BTreeMap<Path, Add> = BTreeMap::new();
    for remove in known.removed.values() {
        let file = json!({"path": remove.path, "size": remove.size.unwrap_or(0),
            "partitionValues": remove.partition_values.clone().unwrap_or_default()});
        let add =
            serde_json::from_value(file).map_err(|e| Error::unexpected("cannot name a removed file").caused_by(e))?;
        removed.insert(object_path(&log, &remove.path)?, add);
    }
    for object in objects.into_iter().filter(|object| !live.contains(&object.location)) {
        let Some(path) = spelled(&log, &object.location) else { continue };
        found.traces.files_searched += 1;
        let mut file = removed.get(&object.location).cloned().unwrap_or_else(|| unnamed(path.clone()));
        file.size = object.size;
        let hit = match hits(table, rows, &file).await {
            Ok(hits) => hits > 0 || rows.in_text(path.as_bytes()),
            // Whoever wrote it never ended it, or it is no data file at all.
            Err(e) if e.kind() == ErrorKind::DataInvalid => {
                tracing::warn!(table = %log.folder, file = %object.location, error = %e, "a file cannot be searched");
                found.traces.unreadable_files += 1;
                if is_ours(&path) && !removed.contains_key(&object.location) {
                    found.torn.push(object);
                }
                continue;
            }
            Err(e) => return Err(e),
        };
        if hit {
            found.traces.old_files += 1;
            found.old.push((file.path, object));
        }
    }
    Ok(())
}

/// A file that no commit names any more.
fn unnamed(path: String) -> Add {
    Add {
        path,
        partition_values: BTreeMap::new(),
        size: 0,
        modification_time: 0,
        data_change: false,
        stats: None,
        tags: None,
        deletion_vector: None,
    }
}

/// Rows of a file that are meant.
async fn hits(table: &DeltaTable, rows: &Arc<dyn RowFilter>, file: &Add) -> Result<u64> {
    let schema = &table.snapshot.schema;
    let wanted = rows.columns(schema);
    if wanted.is_empty() {
        return Ok(0);
    }
    let fields: Vec<_> = schema.fields().iter().filter(|f| wanted.contains(f.name())).cloned().collect();
    let looked_at = Arc::new(arrow_schema::Schema::new(fields));
    let mut batches = scan(&table.log, file, &looked_at, table.snapshot.partition_by()).await?;
    let mut hits = 0;
    while let Some(batch) = batches.next().await {
        hits += rows.rows(&batch?)?.true_count() as u64;
    }
    Ok(hits)
}

/// Looks at every file of the log: its text, and whether it has statistics of a dead file.
async fn look_at_log(log: &Log, rows: &Arc<dyn RowFilter>, dead: &HashSet<String>, found: &mut Found) -> Result<()> {
    let mut paths = Vec::new();
    let mut listed = log.lake.store.list(Some(&log.log_folder()));
    while let Some(object) = listed.try_next().await.map_err(|e| store_error(e, "list the table's log"))? {
        paths.push(object.location);
    }
    for path in paths {
        let name = path.filename().unwrap_or_default();
        // Sizes and a version: nothing of any row.
        if name == "_last_checkpoint" {
            continue;
        }
        let Some(bytes) = log.lake.get(&path).await? else { continue };
        found.traces.log_files_searched += 1;
        let holds = if name.ends_with(".parquet") {
            let lines = log.checkpoint_lines(&path, true).await?;
            lines.iter().filter_map(|line| line.add.as_ref()).any(|add| is_told(add, rows, dead))
        } else {
            rows.in_text(&bytes) || (!dead.is_empty() && tells_of_dead(&bytes, dead))
        };
        if holds {
            found.traces.log_files += 1;
            found.log.push((LogFile::parse(name), path));
        }
    }
    Ok(())
}

/// Whether the log says something of the rows of a file.
fn is_told(add: &Add, rows: &Arc<dyn RowFilter>, dead: &HashSet<String>) -> bool {
    let values = add.partition_values.values().flatten();
    dead.contains(&add.path)
        || rows.in_text(add.path.as_bytes())
        || add.stats.as_ref().is_some_and(|stats| rows.in_text(stats.as_bytes()))
        || values.into_iter().any(|value| rows.in_text(value.as_bytes()))
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = Result<Json>> {
    let texts = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|text| !text.is_empty());
    texts.map(|text| {
        serde_json::from_slice(text)
            .map_err(|e| Error::new(ErrorKind::DataInvalid, "cannot read an action of the table's log").caused_by(e))
    })
}

/// Whether a commit has statistics of a dead file.
fn tells_of_dead(bytes: &[u8], dead: &HashSet<String>) -> bool {
    lines(bytes).filter_map(Result::ok).any(|line| has_dead_statistics(&line, dead))
}

fn has_dead_statistics(line: &Json, dead: &HashSet<String>) -> bool {
    let Some(add) = line.get("add") else { return false };
    let is_dead = add.get("path").and_then(Json::as_str).is_some_and(|path| dead.contains(path));
    is_dead && add.get("stats").and_then(Json::as_str).is_some_and(|stats| stats.contains("Values"))
}

/// Takes what a file of the log says of the rows out of it.
async fn clean(
    log: &Log,
    file: Option<&LogFile>,
    path: &Path,
    newest: u64,
    rows: &Arc<dyn RowFilter>,
    dead: &HashSet<String>,
) -> Result<()> {
    let put = |bytes: Vec<u8>| async move {
        let put = log.lake.store.put(path, PutPayload::from(Bytes::from(bytes))).await;
        put.map(drop).map_err(|e| store_error(e, "write a commit of the log again").with("object", path))
    };
    match file {
        Some(LogFile::Commit(_)) => match log.lake.get(path).await? {
            Some(bytes) => put(without_traces(&bytes, rows, dead)?).await,
            None => Ok(()),
        },
        // The checkpoint that was just written is whole, and takes their place.
        Some(LogFile::Checkpoint(version, None)) if *version == newest => Ok(()),
        // A hint, a checksum, a sidecar: nothing stands on it now.
        _ => match log.lake.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(store_error(e, "delete an old checkpoint of the log").with("object", path)),
        },
    }
}

/// A commit without the statistics of dead files and of those that hold a trace, and without our own checkpoint where that
/// does.
fn without_traces(bytes: &[u8], rows: &Arc<dyn RowFilter>, dead: &HashSet<String>) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    for line in lines(bytes) {
        let mut line = line?;
        let holds = rows.in_text(line.to_string().as_bytes());
        let told = has_dead_statistics(&line, dead);
        if let Some(add) = line.get_mut("add").and_then(Json::as_object_mut)
            && (holds || told)
            && let Some(stats) = add.get("stats").and_then(Json::as_str)
        {
            let count = serde_json::from_str::<Json>(stats).ok().and_then(|stats| stats.get("numRecords").cloned());
            match count {
                Some(count) => add.insert("stats".into(), json!({ "numRecords": count }).to_string().into()),
                None => add.remove("stats"),
            };
        }
        if let Some(info) = line.get_mut("commitInfo").and_then(Json::as_object_mut)
            && holds
        {
            info.remove("ingest.checkpoint");
        }
        serde_json::to_writer(&mut out, &line)
            .map_err(|e| Error::unexpected("cannot write a log action as JSON").caused_by(e))?;
        out.push(b'\n');
    }
    Ok(out)
}
