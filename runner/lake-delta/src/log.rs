//! Reading a table's log: which files make up a version, and what they say.
//!
//! A version is the newest checkpoint at or below it and the commits after that. Checkpoints are read column by column
//! and turned into the same lines that commits are made of, so that there is one reader of actions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::json::LineDelimitedWriter;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use ingest_core::{Error, ErrorKind, Result};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;

use crate::action::{Add, Line, Metadata, Protocol, Remove, Txn, parse_lines};
use crate::store::{Lake, store_error};

/// How many commits are fetched at once.
const FETCHES: usize = 16;

/// A table's log.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub lake: Arc<Lake>,
    /// The table, relative to the lake.
    pub folder: Path,
}

/// What opening a table reads: everything but its files.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub version: u64,
    pub protocol: Protocol,
    pub metadata: Metadata,
    pub transactions: HashMap<String, i64>,
}

/// The live files of a version, by path as the log spells it.
pub(crate) type Live = BTreeMap<String, Add>;

/// Everything of a version that grows with the table.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub live: Live,
    /// Tombstones, by path.
    pub removed: BTreeMap<String, Remove>,
    pub transactions: BTreeMap<String, Txn>,
}

impl Files {
    /// Takes a line of the log in. The removals of a commit come before what it adds.
    pub fn apply(&mut self, line: Line) {
        if let Some(remove) = line.remove {
            self.live.remove(&remove.path);
            self.removed.insert(remove.path.clone(), remove);
        }
        if let Some(add) = line.add {
            self.removed.remove(&add.path);
            self.live.insert(add.path.clone(), add);
        }
        if let Some(txn) = line.txn {
            self.transactions.insert(txn.app_id.clone(), txn);
        }
    }
}

/// A file of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogFile {
    Commit(u64),
    /// The version, and part and parts of a checkpoint in several files.
    Checkpoint(u64, Option<(u32, u32)>),
    /// A version 2 checkpoint: it may point to sidecars.
    NamedCheckpoint(u64),
}

impl LogFile {
    /// Reads the name of a log file; `None` for all others.
    pub fn parse(name: &str) -> Option<Self> {
        let (version, rest) = name.split_once('.')?;
        if version.len() != 20 {
            return None;
        }
        let version = version.parse::<u64>().ok()?;
        let parts: Vec<&str> = rest.split('.').collect();
        Some(match parts.as_slice() {
            ["json"] => Self::Commit(version),
            ["checkpoint", "parquet"] => Self::Checkpoint(version, None),
            ["checkpoint", part, of, "parquet"] if part.len() == 10 && of.len() == 10 => {
                Self::Checkpoint(version, Some((part.parse().ok()?, of.parse().ok()?)))
            }
            ["checkpoint", id, "parquet" | "json"] if id.len() == 36 => Self::NamedCheckpoint(version),
            _ => return None,
        })
    }

    pub fn version(&self) -> u64 {
        match self {
            Self::Commit(version) | Self::Checkpoint(version, _) | Self::NamedCheckpoint(version) => *version,
        }
    }
}

/// The files that make up a version.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    pub checkpoint: Option<u64>,
    checkpoint_files: Vec<Path>,
    commits: Vec<u64>,
}

impl Segment {
    pub fn version(&self) -> Option<u64> {
        self.commits.last().copied().or(self.checkpoint)
    }
}

impl Log {
    pub fn new(lake: Arc<Lake>, folder: Path) -> Self {
        Self { lake, folder }
    }

    pub fn log_folder(&self) -> Path {
        self.folder.clone().join("_delta_log")
    }

    pub fn commit_path(&self, version: u64) -> Path {
        self.log_folder().join(format!("{version:020}.json"))
    }

    /// The lines of a commit; `None` when there is no such version.
    pub async fn commit(&self, version: u64, files: bool) -> Result<Option<Vec<Line>>> {
        match self.lake.get(&self.commit_path(version)).await? {
            Some(bytes) => parse_lines(&bytes, files).map(Some).map_err(|e| e.with("version", version)),
            None => Ok(None),
        }
    }

    /// The state at the newest version; `None` when there is no table.
    pub async fn open(&self) -> Result<Option<State>> {
        let segment = self.segment(None).await?;
        let Some(version) = segment.version() else { return Ok(None) };
        let mut protocol = None;
        let mut metadata = None;
        let mut transactions = HashMap::new();
        self.replay(&segment, false, |line| {
            if let Some(found) = line.protocol {
                protocol = Some(found);
            }
            if let Some(found) = line.meta_data {
                metadata = Some(found);
            }
            if let Some(txn) = line.txn {
                transactions.insert(txn.app_id, txn.version);
            }
        })
        .await?;
        match (protocol, metadata) {
            (Some(protocol), Some(metadata)) => Ok(Some(State { version, protocol, metadata, transactions })),
            _ => Err(self.broken("the table's log has no protocol or no metadata").with("version", version)),
        }
    }

    /// The files at a version, with the application ids as they stand in the log.
    pub async fn files(&self, version: u64) -> Result<Files> {
        let segment = self.segment(Some(version)).await?;
        if segment.version() != Some(version) {
            return Err(self
                .broken("the table's log does not reach back to the version that was opened")
                .with("version", version)
                .hint("another tool has removed old log files: open the table again"));
        }
        let mut files = Files::default();
        self.replay(&segment, true, |line| files.apply(line)).await?;
        Ok(files)
    }

    fn broken(&self, message: &str) -> Error {
        Error::new(ErrorKind::DataInvalid, message)
            .with("table", &self.folder)
            .hint("look at the `_delta_log` folder of the table; restore missing files from a backup")
    }

    /// Finds the files that make up a version, by default the newest.
    pub async fn segment(&self, at: Option<u64>) -> Result<Segment> {
        #[derive(Deserialize)]
        struct Hint {
            version: u64,
        }
        let hint = match self.lake.get(&self.log_folder().join("_last_checkpoint")).await? {
            // Only a hint: whatever is wrong with it, the listing has the truth.
            Some(bytes) => serde_json::from_slice::<Hint>(&bytes).ok().map(|h| h.version),
            None => None,
        };
        if let Some(from) = hint.filter(|v| at.is_none_or(|at| *v <= at)) {
            let segment = self.arrange(self.list(Some(from)).await?, at);
            if segment.as_ref().is_ok_and(|s| s.checkpoint.is_some_and(|c| c >= from)) {
                return segment;
            }
        }
        self.arrange(self.list(None).await?, at)
    }

    /// The files of the log, from a version on. Sidecars and other folders are left out.
    pub async fn list(&self, from: Option<u64>) -> Result<Vec<(LogFile, Path)>> {
        let folder = self.log_folder();
        if let Some(local) = self.lake.local_path(&folder) {
            return list_local(local, folder, from.unwrap_or(0)).await;
        }
        let offset = folder.clone().join(format!("{:020}", from.unwrap_or(0)));
        let mut found = Vec::new();
        let mut objects = self.lake.store.list_with_offset(Some(&folder), &offset);
        while let Some(object) = objects.try_next().await.map_err(|e| store_error(e, "list the table's log"))? {
            let name = object.location.filename().and_then(LogFile::parse);
            if let Some(file) = name.filter(|_| object.location.parts_count() == folder.parts_count() + 1) {
                found.push((file, object.location));
            }
        }
        Ok(found)
    }

    fn arrange(&self, files: Vec<(LogFile, Path)>, at: Option<u64>) -> Result<Segment> {
        let at = at.unwrap_or(u64::MAX);
        let mut whole: BTreeMap<u64, Vec<Path>> = BTreeMap::new();
        let mut parts: BTreeMap<(u64, u32), BTreeMap<u32, Path>> = BTreeMap::new();
        let mut commits = Vec::new();
        for (file, path) in files.into_iter().filter(|(f, _)| f.version() <= at) {
            match file {
                LogFile::Commit(version) => commits.push(version),
                LogFile::Checkpoint(version, Some((part, of))) => {
                    parts.entry((version, of)).or_default().insert(part, path);
                }
                LogFile::Checkpoint(version, None) | LogFile::NamedCheckpoint(version) => {
                    // Any one of several is whole.
                    whole.insert(version, vec![path]);
                }
            }
        }
        for ((version, of), found) in parts {
            if found.len() == of as usize {
                whole.entry(version).or_insert_with(|| found.into_values().collect());
            }
        }
        commits.sort_unstable();
        let (checkpoint, checkpoint_files) =
            whole.pop_last().map_or((None, Vec::new()), |(version, files)| (Some(version), files));
        let first = checkpoint.map_or(0, |c| c + 1);
        commits.retain(|v| *v >= first);
        if let Some((expected, found)) = (first..).zip(&commits).find(|(expected, found)| expected != *found) {
            return Err(self.broken("the table's log has a gap").with("missing", expected).with("found", found));
        }
        Ok(Segment { checkpoint, checkpoint_files, commits })
    }

    /// Calls `visit` with every line of a segment, oldest first; the removals of a commit before what it adds.
    async fn replay(&self, segment: &Segment, files: bool, mut visit: impl FnMut(Line)) -> Result<()> {
        for path in &segment.checkpoint_files {
            let mut sidecars = Vec::new();
            for line in self.checkpoint_lines(path, files).await? {
                match line.sidecar {
                    Some(sidecar) => sidecars.push(sidecar.path),
                    None => visit(line),
                }
            }
            for sidecar in sidecars.into_iter().filter(|_| files) {
                let path = self.sidecar_path(&sidecar)?;
                self.checkpoint_lines(&path, files).await?.into_iter().for_each(&mut visit);
            }
        }
        let mut commits = futures::stream::iter(segment.commits.iter().copied())
            .map(|version| async move {
                let lines = self.commit(version, files).await?;
                lines.ok_or_else(|| self.broken("a commit vanished from the table's log").with("version", version))
            })
            .buffered(FETCHES);
        while let Some(lines) = commits.try_next().await? {
            let (removals, others): (Vec<_>, Vec<_>) = lines.into_iter().partition(|l| l.remove.is_some());
            removals.into_iter().chain(others).for_each(&mut visit);
        }
        Ok(())
    }

    fn sidecar_path(&self, path: &str) -> Result<Path> {
        if path.contains("://") {
            return Err(
                Error::new(ErrorKind::Unsupported, "a checkpoint points outside its table").with("table", &self.folder)
            );
        }
        let folder = self.log_folder().join("_sidecars");
        let name = path.rsplit('/').next().unwrap_or(path);
        Path::parse(format!("{folder}/{name}"))
            .map_err(|e| self.broken("a checkpoint points to a path that cannot be read").caused_by(e))
    }

    /// The lines of a checkpoint, or of a part of one.
    pub async fn checkpoint_lines(&self, path: &Path, files: bool) -> Result<Vec<Line>> {
        let bytes = self
            .lake
            .get(path)
            .await?
            .ok_or_else(|| self.broken("a checkpoint vanished from the table's log").with("object", path))?;
        let json = path.as_ref().ends_with(".json");
        let lines = tokio::task::spawn_blocking(move || match json {
            true => parse_lines(&bytes, files),
            false => parquet_lines(bytes, files),
        });
        lines
            .await
            .map_err(|e| Error::unexpected("reading a checkpoint was broken off").caused_by(e))?
            .map_err(|e| e.with("object", path))
    }
}

/// Names alone: asking for the size of each of ten thousand commits takes longer than reading the table.
async fn list_local(local: std::path::PathBuf, folder: Path, from: u64) -> Result<Vec<(LogFile, Path)>> {
    let list = move || -> std::io::Result<Vec<(LogFile, Path)>> {
        let entries = match std::fs::read_dir(&local) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(file) = LogFile::parse(name).filter(|f| f.version() >= from) {
                found.push((file, folder.clone().join(name)));
            }
        }
        Ok(found)
    };
    tokio::task::spawn_blocking(list)
        .await
        .map_err(|e| Error::unexpected("listing the table's log was broken off").caused_by(e))?
        .map_err(|e| Error::new(crate::store::io_kind(&e), "cannot list the table's log").caused_by(e))
}

/// The columns of a checkpoint that are read; statistics in parsed form and the like stay where they are.
const SMALL: [&str; 4] = ["txn", "protocol", "metaData", "sidecar"];
const FILES: [&str; 8] = [
    "add.path",
    "add.partitionValues",
    "add.size",
    "add.modificationTime",
    "add.stats",
    "add.tags",
    "add.deletionVector",
    "remove",
];

/// Turns a Parquet checkpoint into lines.
fn parquet_lines(bytes: Bytes, files: bool) -> Result<Vec<Line>> {
    let fault = |e: parquet::errors::ParquetError| {
        Error::new(ErrorKind::DataInvalid, "cannot read a checkpoint of the table's log").caused_by(e)
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(fault)?;
    let wanted = |path: &str| {
        let below = |name: &&str| path.strip_prefix(*name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        SMALL.iter().any(below) || (files && FILES.iter().any(below))
    };
    let schema = builder.parquet_schema();
    let leaves: Vec<usize> = (0..schema.num_columns()).filter(|i| wanted(&schema.column(*i).path().string())).collect();
    let mask = ProjectionMask::leaves(schema, leaves);
    let reader = builder.with_projection(mask).with_batch_size(4096).build().map_err(fault)?;
    let mut lines = Vec::new();
    for batch in reader {
        let mut text = Vec::new();
        let mut writer = LineDelimitedWriter::new(&mut text);
        writer.write(&batch?)?;
        writer.finish()?;
        let found = parse_lines(&text, true)?;
        lines.extend(found.into_iter().filter(|l| {
            l.add.is_some()
                || l.remove.is_some()
                || l.txn.is_some()
                || l.protocol.is_some()
                || l.meta_data.is_some()
                || l.sidecar.is_some()
        }));
    }
    Ok(lines)
}
