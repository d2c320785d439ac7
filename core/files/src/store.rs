//! Where files are: what a connector must be able to do, and the rest of it, which is the same for all.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Arc;

use ingest_core::{CancellationToken, Error, ErrorKind, Result, async_trait};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::patterns::Patterns;

/// Bytes that are copied at once to a temporary file.
const COPY: usize = 256 << 10;

/// A file as a listing saw it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileRef {
    /// Relative to the root, `/` between folders.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Modification time, microseconds UTC.
    pub modified: i64,
    /// What the store calls this version of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// Why a file could not be read.
#[derive(Debug)]
pub enum Fault {
    /// It is no longer what the listing saw: another run takes it.
    Changed,
    /// It cannot be read as what it should be.
    Damaged(String),
    /// The store fails, or the run ends: nothing is known about the file.
    Failed(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Carried>() {
            Ok(Carried(fault)) => fault,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Self::Changed,
                io::ErrorKind::UnexpectedEof => Self::Damaged(format!("it is cut short: {error}")),
                _ => Self::Damaged(error.to_string()),
            },
        }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        io::Error::other(Carried(fault))
    }
}

/// A fault on its way through a reader of somebody else.
#[derive(Debug)]
struct Carried(Fault);

impl std::fmt::Display for Carried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Fault::Changed => f.write_str("the file changed while it was read"),
            Fault::Damaged(text) => f.write_str(text),
            Fault::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Carried {}

/// Takes the files of a listing, in any order.
pub type Found = Box<dyn FnMut(FileRef) + Send>;

/// A place with files below a root: a folder, a bucket, a server.
#[async_trait]
pub trait Store: std::fmt::Debug + Send + Sync + 'static {
    /// Shows every matching file to `found`, in any order, and gives back what else a person should know: names that
    /// cannot be addressed, links that lead out of the root. Holds no list of them.
    async fn list(&self, patterns: &Patterns, found: Found) -> Result<Vec<String>>;

    /// The bytes of a file from `offset` on, as the listing saw it: [`Fault::Changed`] when it is another one by now.
    /// What is found out while reading comes as a [`Fault`] in an `io::Error`. Called on a blocking thread; requests
    /// may run on `handle`.
    ///
    /// # Errors
    /// A [`Fault`].
    fn bytes(&self, file: &FileRef, offset: u64, handle: &Handle) -> Result<Box<dyn Read + Send>, Fault>;

    /// The file itself, where it is on this machine; others are copied when they cannot be read from front to back.
    ///
    /// # Errors
    /// A [`Fault`].
    fn local(&self, _file: &FileRef) -> Result<Option<File>, Fault> {
        Ok(None)
    }

    /// Looks, once it was read, whether a file is still what the listing saw. Stores whose [`Store::bytes`] do that
    /// themselves leave it out.
    ///
    /// # Errors
    /// [`Fault::Changed`], or why it cannot be known.
    fn unchanged(&self, _file: &FileRef) -> Result<(), Fault> {
        Ok(())
    }

    /// Whether files are put away once their rows are committed.
    fn puts_away(&self) -> bool {
        false
    }

    /// Puts files away (moves them to an archive, deletes them) whose rows are committed; only those that still are
    /// what the listing saw. Doing it twice is fine. Gives back what a person should know.
    async fn put_away(&self, _files: Vec<FileRef>) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// One file, to be read on a blocking thread as the listing saw it.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Where it is.
    pub store: Arc<dyn Store>,
    /// What the listing saw.
    pub file: FileRef,
    /// Where the requests run.
    pub handle: Handle,
    /// Where files are copied to that cannot be read from front to back.
    pub temp_dir: PathBuf,
    /// Fires when the run ends.
    pub cancel: CancellationToken,
}

impl Reading {
    /// The bytes from `offset` on.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn bytes(&self, offset: u64) -> Result<Box<dyn Read + Send>, Fault> {
        let read = self.store.bytes(&self.file, offset, &self.handle)?;
        Ok(Box::new(Stoppable { read, cancel: self.cancel.clone() }))
    }

    /// The whole file, with random access. One that is elsewhere is copied to a temporary file first.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn whole(&self) -> Result<File, Fault> {
        if let Some(file) = self.store.local(&self.file)? {
            return Ok(file);
        }
        self.copy(self.bytes(0)?)
    }

    /// Copies bytes to a temporary file that nobody else sees.
    ///
    /// # Errors
    /// A [`Fault`] of the reader; `Unavailable` when the copy cannot be written.
    pub fn copy(&self, mut read: impl Read) -> Result<File, Fault> {
        let failed = |e: io::Error| {
            Error::new(ErrorKind::Unavailable, "cannot copy a file to the folder for temporary files").caused_by(e)
        };
        let mut copy = tempfile::tempfile_in(&self.temp_dir).map_err(failed)?;
        let mut chunk = vec![0; COPY];
        loop {
            match read.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => copy.write_all(chunk.get(..count).unwrap_or_default()).map_err(failed)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        copy.rewind().map_err(failed)?;
        Ok(copy)
    }

    /// Looks whether the file is still what the listing saw.
    ///
    /// # Errors
    /// [`Fault::Changed`], or why it cannot be known.
    pub fn unchanged(&self) -> Result<(), Fault> {
        self.store.unchanged(&self.file)
    }
}

/// A reader that ends when the run ends, also where nothing is passed on for long.
struct Stoppable {
    read: Box<dyn Read + Send>,
    cancel: CancellationToken,
}

impl Read for Stoppable {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.cancel.is_cancelled() {
            true => Err(Fault::from(Error::cancelled()).into()),
            false => self.read.read(into),
        }
    }
}
