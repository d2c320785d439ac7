//! The streams of a place with files: what a connector hands the runner's calls to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ingest_core::{Context, Done, Error, ErrorKind, Out, Plan, PlanRequest, Problem, Result, Selection, Slice, Stream};

use crate::extract::Known as KnownFault;
use crate::input::Limits;
use crate::options::{Defaults, Format, StreamOptions};
use crate::state::{Position, Work};
use crate::store::{Fault, FileRef, Reading, Store};
use crate::streams::{self, Discovered};
use crate::{extract, plan, schema};

/// Files in a [`Store`] as streams. The methods are those of `ingest_core::Connector`.
pub struct FileSource {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) limits: Limits,
    pub(crate) context: Context,
    /// The streams of the configuration; none = those that the place shows.
    named: BTreeMap<String, Arc<StreamOptions>>,
    defaults: Defaults,
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

impl FileSource {
    /// Joins a place with the streams of a configuration, which [`crate::streams`] has checked. Connects to nothing.
    pub fn new(
        store: Arc<dyn Store>,
        streams: Vec<Arc<StreamOptions>>,
        defaults: Defaults,
        limits: Limits,
        context: Context,
    ) -> Self {
        let named = streams.into_iter().map(|stream| (stream.name.clone(), stream)).collect();
        Self { store, limits, context, named, defaults, faults: Mutex::default() }
    }

    /// The streams, named or found.
    pub(crate) async fn streams(&self) -> Result<Discovered> {
        if self.named.is_empty() {
            return streams::discover(self.store.as_ref(), &self.defaults).await;
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
        streams::of(stream, format, &["**".to_owned()], &self.defaults).map(Arc::new)
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

    /// Finds everything that is wrong with the selected streams.
    ///
    /// # Errors
    /// None: what fails is among the problems.
    pub async fn check(&self, selection: &Selection) -> Result<Vec<Problem>> {
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

    /// Describes the selected streams.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn schema(&self, selection: &Selection) -> Result<Vec<Stream>> {
        let mut streams = Vec::new();
        for options in self.streams().await?.streams {
            if selection.matches(&options.name) {
                streams.push(schema::stream(self, &options).await?);
            }
        }
        Ok(streams)
    }

    /// Plans the files that are new or changed.
    ///
    /// # Errors
    /// Those of the store; `Unsupported` for an interval; `DataInvalid` where a file changed that must not.
    pub async fn plan(&self, request: &PlanRequest<Position>) -> Result<Plan<Work, Position>> {
        if request.interval.is_some() {
            return Err(Error::new(ErrorKind::Unsupported, "files have no cursor that an interval could be about")
                .hint("narrow the glob under `files` instead"));
        }
        plan::plan(self, request).await
    }

    /// Reads a slice.
    ///
    /// # Errors
    /// Those of the store; files that cannot be read are left out and named.
    pub async fn extract(
        &self,
        slice: &Slice<Work>,
        from: Option<&Position>,
        out: &mut Out<'_, Position>,
    ) -> Result<Done> {
        extract::extract(self, slice, from, out).await
    }

    /// For benches: reads every file of every stream as a decoder would, to nowhere. Gives the bytes.
    ///
    /// # Errors
    /// Those of the store, and the fault of the first file that has one.
    #[doc(hidden)]
    pub async fn drain(&self) -> Result<u64> {
        let mut bytes = 0;
        for options in self.streams().await?.streams {
            let (send, mut listed) = tokio::sync::mpsc::unbounded_channel();
            let found = Box::new(move |file: FileRef| drop(send.send(file)));
            self.store.list(&options.patterns, found).await?;
            while let Some(file) = listed.recv().await {
                let reading = self.reading(&file);
                let read = tokio::task::spawn_blocking(move || {
                    let (mut bytes, mut chunk) = (reading.bytes(0)?, vec![0; crate::input::CHUNK]);
                    let mut count = 0;
                    loop {
                        match bytes.read(&mut chunk)? {
                            0 => return Ok::<u64, Fault>(count),
                            more => count += more as u64,
                        }
                    }
                });
                let read = read.await.map_err(|e| Error::unexpected("a thread for a file died").caused_by(e))?;
                bytes += read.map_err(|fault| match fault {
                    Fault::Failed(error) => error,
                    fault => Error::unexpected(io::Error::from(fault).to_string()),
                })?;
            }
        }
        Ok(bytes)
    }
}
