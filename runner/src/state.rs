//! `ingest state`: looking at checkpoints, forgetting them, going back to one.

use std::collections::HashSet;

use ingest_catalog::{Checkpoint, Documents, Lease, PlanDocument, latest_stream};
use ingest_core::lake::{DataFile, Removal};
use ingest_core::{Error, ErrorKind, Json, Result, StreamName, glob_matches};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::commit::{Author, Change, Committer, Floor, bronze, effective_positions};

/// The streams of a source that the lake knows, in the source's spelling.
///
/// # Errors
/// Whatever the lake says.
pub async fn streams(author: &Author, glob: Option<&str>) -> Result<Vec<StreamName>> {
    let mut found = Vec::new();
    let root = format!("_ingest/streams/{}", author.source);
    for folder in author.documents.folders(&root).await? {
        let document = latest_stream(&author.documents, &author.source, &folder).await?;
        found.extend(
            document.map(|d| d.stream).filter(|name| glob.is_none_or(|glob| glob_matches(glob, name.as_str()))),
        );
    }
    if found.is_empty() {
        let what = glob.map_or_else(
            || "no stream of this source is in the lake".to_owned(),
            |glob| format!("no stream \"{glob}\" of this source is in the lake"),
        );
        return Err(Error::config(what).with("source", &author.source).hint("`ingest discover` lists what it offers"));
    }
    Ok(found)
}

/// Hides the values in positions of a stream that is read by masked columns: positions hold values of key and cursor.
///
/// # Errors
/// Whatever the lake says.
pub async fn mask_positions(documents: &Documents, checkpoint: &mut Checkpoint) -> Result<()> {
    let folder = StreamName::new(checkpoint.stream.as_str()).table();
    let Some(document) = latest_stream(documents, &checkpoint.source, &folder).await? else { return Ok(()) };
    let masked = |name: &String| document.columns.iter().any(|column| column.name == *name && column.mask.is_some());
    if !document.key.iter().chain(&document.cursor).any(masked) {
        return Ok(());
    }
    let open = checkpoint.plan.iter_mut().flat_map(|plan| plan.open.values_mut());
    for stored in checkpoint.positions.values_mut().chain(open) {
        hide(&mut stored.at);
        if let Some(seq) = &mut stored.seq {
            *seq = ingest_core::Seq::new("***");
        }
    }
    Ok(())
}

fn hide(value: &mut Json) {
    match value {
        Json::Array(items) => items.iter_mut().for_each(hide),
        Json::Object(object) => object.values_mut().for_each(hide),
        Json::Null | Json::Bool(_) => {}
        leaf => *leaf = "***".into(),
    }
}

/// The committed checkpoint of a stream, with positions as a run would take them (feeds' claims included).
///
/// # Errors
/// `CheckpointInvalid` when the document is missing.
pub async fn show(author: &Author, stream: &StreamName) -> Result<Option<Checkpoint>> {
    let committer = Committer::open(author.clone(), stream.clone()).await?;
    if committer.number().is_none() {
        return Ok(None);
    }
    let feeds = Floor::new(author.documents.clone(), &author.source).feeds().await?;
    let mut checkpoint = committer.checkpoint().clone();
    checkpoint.positions = effective_positions(&checkpoint, &feeds);
    Ok(Some(checkpoint))
}

/// The committed checkpoints of a stream, newest first, as far as they are kept.
pub async fn log(author: &Author, stream: &StreamName, limit: usize) -> Result<Vec<Checkpoint>> {
    let committer = Committer::open(author.clone(), stream.clone()).await?;
    let mut found = Vec::new();
    if committer.number().is_none() {
        return Ok(found);
    }
    let mut next = Some(committer.checkpoint().clone());
    while let Some(checkpoint) = next {
        let parent = checkpoint.parent;
        found.push(checkpoint);
        let Some(parent) = parent.filter(|_| found.len() < limit) else { break };
        next = match read(author, stream, parent, &committer.checkpoint().table).await {
            Ok(checkpoint) => Some(checkpoint),
            // Older ones are swept away.
            Err(error) if error.kind() == ErrorKind::CheckpointInvalid => None,
            Err(error) => return Err(error),
        };
    }
    Ok(found)
}

async fn read(author: &Author, stream: &StreamName, number: i64, table: &str) -> Result<Checkpoint> {
    Checkpoint::read(&author.documents, &author.source, &stream.table(), number, table).await
}

/// Forgets the positions of a stream and keeps its rows: append adds them again. The stream leaves all feeds.
///
/// # Errors
/// `CheckpointConflict` when a run holds the stream.
pub async fn reset(author: &Author, stream: &StreamName) -> Result<()> {
    alone(author, stream, async {
        let mut committer = Committer::open(author.clone(), stream.clone()).await?;
        if committer.number().is_some() {
            committer.commit(Change::default(), |edit| edit.reset()).await?;
        }
        Floor::new(author.documents.clone(), &author.source).leave(stream).await
    })
    .await
}

/// The checkpoint of a stream as it is exported.
pub async fn export(author: &Author, streams: &[StreamName]) -> Result<Json> {
    let mut exported = Vec::new();
    for stream in streams {
        exported.extend(show(author, stream).await?);
    }
    serde_json::to_value(exported).map_err(|e| Error::unexpected("cannot write checkpoints as JSON").caused_by(e))
}

/// Takes positions from an exported checkpoint. The table keeps its rows.
///
/// # Errors
/// `ConfigInvalid` for something that is not an export of this source; `CheckpointConflict` when a run holds a stream.
pub async fn import(author: &Author, exported: Json) -> Result<Vec<StreamName>> {
    let checkpoints: Vec<Checkpoint> = serde_json::from_value(exported)
        .map_err(|e| Error::config("this is not an export of `ingest state export`").caused_by(e))?;
    let mut imported = Vec::new();
    for checkpoint in checkpoints {
        if checkpoint.source != author.source {
            return Err(Error::config("the export is of another source").with("source", &checkpoint.source));
        }
        let stream = StreamName::from(checkpoint.stream.as_str());
        alone(author, &stream, async {
            let mut committer = Committer::open(author.clone(), stream.clone()).await?;
            if committer.table().is_none() {
                return Err(Error::config("the stream has no table yet: positions without rows would leave a hole")
                    .with("stream", &stream)
                    .hint("copy the table first, or load the stream"));
            }
            committer.commit(Change::default(), |edit| edit.restore(checkpoint.positions.clone(), None)).await.map(drop)
        })
        .await?;
        imported.push(stream);
    }
    Ok(imported)
}

/// Brings table and checkpoint of a stream back to the commit of a number, in one commit: rows that came after it go, rows
/// that went come back (invariant `rewind_takes_the_rows_back`).
///
/// # Errors
/// `ConfigInvalid` for a number that is not in the log of the stream; `CheckpointInvalid` when files of that time are gone.
pub async fn rewind(author: &Author, stream: &StreamName, number: i64) -> Result<u64> {
    alone(author, stream, async {
        let mut committer = Committer::open(author.clone(), stream.clone()).await?;
        let known = log(author, stream, usize::MAX).await?;
        let target = known.into_iter().find(|checkpoint| checkpoint.number == number).ok_or_else(|| {
            Error::config("this number is not among the checkpoints of the stream")
                .with("stream", stream)
                .with("number", number)
                .hint("`ingest state log` lists them")
        })?;
        let table = committer.table().ok_or_else(|| Error::unexpected("a checkpoint without a table"))?;
        let then = table.files_at(&target.app, number).await?.ok_or_else(|| {
            Error::new(ErrorKind::CheckpointInvalid, "the table's log no longer reaches back to this checkpoint")
                .with("number", number)
                .hint("go back to a later one; `ingest state log` lists them")
        })?;
        let now = table.files().await?;
        let change = difference(author, stream, then, now).await?;
        // What a plan had staged is not in the table, so it is simply planned again; windows go on where they stood.
        let staged = is_staged(author, &target).await?;
        let plan = target.plan.clone().filter(|_| !staged);
        committer.commit(change, |edit| edit.restore(target.positions.clone(), plan)).await
    })
    .await
}

async fn is_staged(author: &Author, target: &Checkpoint) -> Result<bool> {
    let Some(progress) = &target.plan else { return Ok(false) };
    let plan = PlanDocument::read(&author.documents, &author.source, &progress.id).await?;
    let stream = StreamName::from(target.stream.as_str());
    Ok(plan.streams.get(&stream).is_some_and(|planned| planned.staged))
}

async fn difference(author: &Author, stream: &StreamName, then: Vec<DataFile>, now: Vec<DataFile>) -> Result<Change> {
    let paths: HashSet<&str> = then.iter().map(|file| file.path.as_str()).collect();
    let remove: Vec<DataFile> = now.iter().filter(|file| !paths.contains(file.path.as_str())).cloned().collect();
    let live: HashSet<&str> = now.iter().map(|file| file.path.as_str()).collect();
    let add: Vec<DataFile> = then.into_iter().filter(|file| !live.contains(file.path.as_str())).collect();
    let folder = bronze(&author.source, &stream.table());
    for file in &add {
        let path = Path::parse(format!("{folder}/{}", file.path))
            .map_err(|e| Error::unexpected("cannot name a data file").caused_by(e))?;
        if let Err(e) = author.documents.store().head(&path).await {
            return Err(Error::new(ErrorKind::CheckpointInvalid, "a data file of that time is gone")
                .with("file", &file.path)
                .hint("`ingest maintain` removed it after its retention; go back to a later checkpoint")
                .caused_by(e));
        }
    }
    Ok(Change { add, remove: Removal::Files(remove), ..Change::default() })
}

/// Holds the stream's lease while something is changed.
async fn alone<T>(author: &Author, stream: &StreamName, change: impl Future<Output = Result<T>>) -> Result<T> {
    let lease =
        Lease::take(&author.documents, &author.source, &stream.table(), &author.run, author.clock.as_ref()).await?;
    let result = change.await;
    if let Err(error) = lease.release(&author.documents).await {
        tracing::warn!(%error, "a lease could not be released; it expires by itself");
    }
    result
}
