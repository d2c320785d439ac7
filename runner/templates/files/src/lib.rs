#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod config;
mod format;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow_schema::SchemaRef;
use ingest_core::{
    BadRecord, Capabilities, Connector, Context, Cursor, Deletes, Done, Error, ErrorKind, Estimate, Mode, Out, Plan,
    PlanRequest, Problem, Replay, Result, Selected, Selection, Shape, Slice, Spec, Stream, StreamName, async_trait,
};
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};

pub use config::AcmeConfig;
use format::Lines;

/// The position of a stream: the last file that was read.
const FILES: &str = "files";
/// A line that is longer is no line.
const LONGEST_LINE: u64 = 16 << 20;
/// Files of one plan; the next plan goes on.
const FILES_AT_ONCE: usize = 10_000;

/// The connector.
pub struct Acme {
    path: PathBuf,
}

/// What a slice says to this connector: a file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Work {
    file: String,
}

/// Where a slice has been read to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// In a file: the byte of the line that comes next.
    Byte(u64),
    /// Between runs: this file and all before it have been read.
    File(String),
}

impl Cursor for Position {}

impl Acme {
    /// The finished files of a stream, sorted: whoever writes one gives it another name until it is complete.
    async fn files(&self, stream: &StreamName) -> Result<Vec<String>> {
        let folder = self.folder(stream)?;
        let mut files = names(&folder).await?;
        files.retain(|name| name.ends_with(".acme"));
        Ok(files)
    }

    fn folder(&self, stream: &StreamName) -> Result<PathBuf> {
        let name = stream.as_str();
        // A name from a plan must not lead out of the folder.
        if name.is_empty() || name.contains(['/', '\\', '\0']) || name == ".." || !self.path.join(name).is_dir() {
            return Err(Error::config(format!("there is no folder {name:?}")).hint("`ingest discover` lists the streams"));
        }
        Ok(self.path.join(name))
    }

    /// The schema that the first file of a stream gives; `None` where there is no file.
    async fn columns(&self, stream: &StreamName) -> Result<Option<SchemaRef>> {
        let Some(first) = self.files(stream).await?.into_iter().next() else { return Ok(None) };
        let mut file = BufReader::new(open(&self.folder(stream)?.join(first)).await?);
        Ok(Some(format::schema(&line(&mut file).await?)?))
    }
}

/// The names in a folder, sorted.
async fn names(folder: &Path) -> Result<Vec<String>> {
    let mut entries = tokio::fs::read_dir(folder).await.map_err(|error| unreadable(folder, error))?;
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(|error| unreadable(folder, error))? {
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

async fn open(path: &Path) -> Result<File> {
    File::open(path).await.map_err(|error| unreadable(path, error))
}

async fn line(file: &mut BufReader<File>) -> Result<String> {
    let mut line = String::new();
    let read = file.take(LONGEST_LINE).read_line(&mut line).await;
    let wrong = |error| Error::new(ErrorKind::DataInvalid, "cannot read a line of a file").caused_by(error);
    match read.map_err(wrong)? as u64 {
        LONGEST_LINE => Err(Error::new(ErrorKind::LimitExceeded, "a line is longer than 16 MiB")),
        _ => Ok(line),
    }
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unavailable,
    };
    let error = Error::new(kind, "cannot read").with("path", path.display()).caused_by(error);
    error.hint("look at `path` of the source, and at the rights of the user that runs this")
}

/// The last file of the last run.
fn held(selected: &Selected<Position>) -> Result<String> {
    match selected.positions.get(&FILES.into()) {
        None => Ok(String::new()),
        Some(Position::File(name)) => Ok(name.clone()),
        Some(Position::Byte(_)) => Err(foreign()),
    }
}

fn foreign() -> Error {
    Error::new(ErrorKind::CheckpointInvalid, "the position is of another kind")
        .hint("`ingest state reset` forgets it and the next run loads everything")
}

#[async_trait]
impl Connector for Acme {
    type Config = AcmeConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "acme".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "Acme".into(),
            docs: include_str!("../README.md").into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Incremental, Mode::Full],
                deletes: Deletes::Unseen,
                replay: Replay::Always,
                parallel: 4,
                portable: true,
                projection: false,
                filter: false,
            },
            config: None,
        }
    }

    async fn open(config: AcmeConfig, _context: Context) -> Result<Self> {
        Ok(Self { path: config.path })
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        let found = self.schema(selection).await;
        Ok(found.err().map(|error| Problem::from_error(None, &error)).into_iter().collect())
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let mut streams = Vec::new();
        for name in names(&self.path).await? {
            if !selection.matches(&name) || !self.path.join(&name).is_dir() {
                continue;
            }
            let name = StreamName::from(name);
            let Some(schema) = self.columns(&name).await? else { continue };
            streams.push(Stream {
                name,
                key: schema.fields().iter().take(1).map(|field| field.name().clone()).collect(),
                schema,
                modes: vec![Mode::Incremental, Mode::Full],
                // Files are the cursor: their names grow.
                cursors: Vec::new(),
                group: None,
                estimate: Estimate::default(),
            });
        }
        Ok(streams)
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        let mut plan = Plan::default();
        for selected in &request.streams {
            let name = &selected.stream.name;
            let mut files = self.files(name).await?;
            if selected.mode == Mode::Incremental {
                let last = held(selected)?;
                files.retain(|file| *file > last);
                plan.more |= files.len() > FILES_AT_ONCE;
                files.truncate(FILES_AT_ONCE);
                let last = files.last().cloned().unwrap_or(last);
                plan.then.insert(name.clone(), BTreeMap::from([(FILES.into(), Some(Position::File(last)))]));
            }
            plan.slices.extend(files.into_iter().map(|file| Slice {
                id: format!("{name}/{file}").into(),
                streams: vec![name.clone()],
                shape: Shape::Window,
                work: Work { file },
                estimate: Estimate::default(),
            }));
        }
        Ok(plan)
    }

    async fn extract(
        &self,
        slice: &Slice<Work>,
        from: Option<&Position>,
        out: &mut Out<'_, Position>,
    ) -> Result<Done> {
        let Some(name) = slice.streams.first() else { return Err(Error::unexpected("a slice without a stream")) };
        let work = &slice.work.file;
        if work.contains(['/', '\\', '\0']) {
            return Err(Error::new(ErrorKind::CheckpointInvalid, "a slice names no file of the stream"));
        }
        let mut file = BufReader::new(open(&self.folder(name)?.join(work)).await?);
        let head = line(&mut file).await?;
        let mut lines = Lines::new(&format::schema(&head)?);
        let mut at = match from {
            None => head.len() as u64,
            Some(Position::Byte(at)) => *at,
            Some(Position::File(_)) => return Err(foreign()),
        };
        let broken = |error| Error::new(ErrorKind::Unavailable, "cannot read on in a file").caused_by(error);
        file.seek(std::io::SeekFrom::Start(at)).await.map_err(broken)?;
        loop {
            let next = line(&mut file).await?;
            at += next.len() as u64;
            if !next.is_empty() && let Err(reason) = lines.add(&next) {
                let reason = format!("{work} before byte {at}: {reason}");
                out.quarantine(name, BadRecord { reason, record: next.chars().take(16_384).collect() }).await?;
            }
            if next.is_empty() || lines.bytes >= out.batch_bytes() / 4 {
                out.rows(name, lines.flush()?).await?;
                // All lines before are out: a restart may begin here.
                out.mark(&Position::Byte(at)).await?;
            }
            if next.is_empty() {
                return Ok(Done::Complete);
            }
        }
    }
}
