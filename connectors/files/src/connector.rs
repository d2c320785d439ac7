//! The connector: what the runner calls.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ingest_core::{
    Capabilities, Connector, Context, Deletes, Done, Error, ErrorKind, Mode, Out, Plan, PlanRequest, Problem, Replay,
    Result, Selection, Slice, Spec, Stream, async_trait,
};

use crate::config::{FilesConfig, Format, StreamOptions};
use crate::extract::Known as KnownFault;
use crate::input::Limits;
use crate::state::{Position, Work};
use crate::store::{FileRef, Reading, Store};
use crate::streams::{self, Discovered};
use crate::{extract, plan, schema};

/// Reads files of a folder or an object store.
pub struct Files {
    pub(crate) store: Store,
    pub(crate) limits: Limits,
    pub(crate) context: Context,
    /// The streams of the configuration; none = those that the folder shows.
    named: BTreeMap<String, Arc<StreamOptions>>,
    faults: Mutex<Faults>,
}

/// Files that could not be read to their end after rows of them had been given. The slice is read again from its last
/// mark; then they are passed over.
#[derive(Default)]
pub(crate) struct Faults {
    /// By slice and path.
    pub files: HashMap<(String, String), KnownFault>,
    /// The slices that had one: their large files are looked at before they are read.
    pub slices: HashSet<String>,
}

impl Files {
    pub(crate) fn new(config: &FilesConfig, store: Store, context: Context) -> Result<Self> {
        let named = config.streams()?.into_iter().map(|stream| (stream.name.clone(), Arc::new(stream))).collect();
        let limits = Limits {
            record: usize::try_from(config.max_record.0).unwrap_or(usize::MAX).clamp(1 << 10, 1 << 30),
            ratio: config.max_ratio.max(1),
            decompressed: config.max_decompressed.0,
        };
        Ok(Self { store, limits, context, named, faults: Mutex::default() })
    }

    /// The streams, named or found.
    pub(crate) async fn streams(&self) -> Result<Discovered> {
        if self.named.is_empty() {
            return streams::discover(&self.store).await;
        }
        Ok(Discovered { streams: self.named.values().cloned().collect(), notes: Vec::new() })
    }

    /// The options of a stream of a plan, which may have been made by another process.
    pub(crate) fn options(&self, stream: &str, work: &Work) -> Result<Arc<StreamOptions>> {
        if let Some(options) = self.named.get(stream) {
            return Ok(options.clone());
        }
        let first = work.files.first().map(|planned| planned.file.path.as_str()).unwrap_or_default();
        let format = Format::of_name(first).filter(|_| self.named.is_empty()).ok_or_else(|| {
            Error::config("the plan holds a stream that the configuration does not name any more")
                .with("stream", stream)
        })?;
        streams::of(stream, format, &["**".to_owned()]).map(Arc::new)
    }

    pub(crate) fn reading(&self, file: &FileRef) -> Reading {
        Reading {
            store: self.store.clone(),
            file: file.clone(),
            handle: tokio::runtime::Handle::current(),
            temp_dir: self.context.temp_dir.clone(),
            cancel: self.context.cancel.clone(),
        }
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Connector for Files {
    type Config = FilesConfig;
    type Work = Work;
    type Position = Position;

    fn spec() -> Spec {
        Spec {
            name: "files".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            title: "Files in folders and object stores".into(),
            docs: include_str!("../README.md").into(),
            state_version: 1,
            capabilities: Capabilities {
                modes: vec![Mode::Incremental, Mode::Full],
                deletes: Deletes::Unseen,
                replay: Replay::Always,
                parallel: 4,
                portable: true,
                projection: true,
                filter: false,
            },
            config: None,
        }
    }

    async fn open(config: FilesConfig, context: Context) -> Result<Self> {
        config.streams()?;
        let store = Store::open(&config)?;
        Self::new(&config, store, context)
    }

    async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
        let discovered = match self.streams().await {
            Ok(discovered) => discovered,
            Err(error) => return Ok(vec![Problem::from_error(None, &error)]),
        };
        let rename = "rename them, or name the streams under `files`";
        let mut problems: Vec<Problem> =
            discovered.notes.iter().map(|note| Problem::warning(None, note, rename)).collect();
        if discovered.streams.is_empty() {
            problems.push(Problem::warning(
                None,
                "no file makes a stream",
                "check `path`, or name the streams under `files`",
            ));
        }
        for stream in discovered.streams.iter().filter(|stream| selection.matches(&stream.name)) {
            problems.extend(schema::problems(self, stream).await);
        }
        Ok(problems)
    }

    async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let mut streams = Vec::new();
        for options in self.streams().await?.streams {
            if selection.matches(&options.name) {
                streams.push(schema::stream(self, &options).await?);
            }
        }
        Ok(streams)
    }

    async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        if request.interval.is_some() {
            return Err(Error::new(ErrorKind::Unsupported, "files have no cursor that an interval could be about")
                .hint("narrow the glob under `files` instead"));
        }
        plan::plan(self, request).await
    }

    async fn extract(&self, slice: &Slice<Work>, from: Option<&Position>, out: &mut Out<'_, Position>) -> Result<Done> {
        extract::extract(self, slice, from, out).await
    }
}
