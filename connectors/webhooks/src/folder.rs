//! The folder of waiting deliveries, as a store of files.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ingest_core::{Error, ErrorKind, Result, async_trait};
use ingest_files::{Fault, FileRef, Found, Patterns, Store};
use tokio::runtime::Handle;

/// The folder; it need not exist yet.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// Whether files stay once they are loaded.
    pub keeps: bool,
}

impl Folder {
    fn open(&self, file: &FileRef) -> Result<File, Fault> {
        let opened = File::open(self.path.join(&file.path))?;
        if described(&opened.metadata()?, &file.path) != *file {
            return Err(Fault::Changed);
        }
        Ok(opened)
    }
}

fn described(metadata: &Metadata, name: &str) -> FileRef {
    let since = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let modified = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    FileRef { path: name.to_owned(), size: metadata.len(), modified, etag: None }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::unexpected("a thread for files died").caused_by(e))?
}

fn failed(error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, "cannot read the folder in which deliveries wait")
        .hint("run as the account that runs `ingest serve`, or give this one the folder")
        .caused_by(error)
}

fn list(folder: &Path, patterns: &Patterns, found: &mut (dyn FnMut(FileRef) + Send)) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        // Nothing was received yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| patterns.matches(name)) else { continue };
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => found(described(&metadata, name)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[async_trait]
impl Store for Folder {
    async fn list(&self, patterns: &Patterns, mut found: Found) -> Result<Vec<String>> {
        let (folder, patterns) = (self.path.clone(), patterns.clone());
        blocking(move || list(&folder, &patterns, &mut found).map_err(failed).map(|()| Vec::new())).await
    }

    fn bytes(&self, file: &FileRef, offset: u64, _: &Handle) -> Result<Box<dyn Read + Send>, Fault> {
        let mut opened = self.open(file)?;
        opened.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(opened.take(file.size.saturating_sub(offset))))
    }

    fn local(&self, file: &FileRef) -> Result<Option<File>, Fault> {
        self.open(file).map(Some)
    }

    fn puts_away(&self) -> bool {
        !self.keeps
    }

    async fn put_away(&self, files: Vec<FileRef>) -> Result<Vec<String>> {
        let folder = self.path.clone();
        blocking(move || {
            let mut notes = Vec::new();
            for file in files {
                // No name is used twice, so that it is still what the listing saw.
                match fs::remove_file(folder.join(&file.path)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        notes.push(format!("{} is loaded and could not be deleted: {error}", file.path));
                    }
                    _ => {}
                }
            }
            Ok(notes)
        })
        .await
    }
}
