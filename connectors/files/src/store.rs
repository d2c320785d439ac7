//! Where the files are: a folder, or an object store.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path as LocalPath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::StreamExt;
use ingest_core::{Error, ErrorKind, Result, async_trait};
use ingest_files::{Fault, FileRef, Found, Patterns, Store};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;

use crate::clients;
use crate::config::FilesConfig;

/// A store that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// The root of a source.
#[derive(Debug, Clone)]
pub enum Root {
    /// A folder, with all symbolic links resolved.
    Local(PathBuf),
    /// A prefix of an object store.
    Objects {
        /// The store.
        store: Arc<dyn ObjectStore>,
        /// The prefix of the root.
        root: Path,
        /// Whether a listing can be asked for; web servers have none.
        lists: bool,
    },
}

impl Root {
    /// Makes the client. Connects to nothing.
    pub fn open(config: &FilesConfig) -> Result<Self> {
        let path = config.path.trim();
        if let Some((scheme, _)) = path.split_once("://") {
            return match scheme {
                "file" => clients::local(path),
                _ => clients::objects(config, path),
            };
        }
        Ok(Self::Local(PathBuf::from(path)))
    }

    /// What the store says about one file now; `None` = it does not exist.
    pub async fn head(&self, path: &str) -> Result<Option<FileRef>> {
        match self {
            Self::Local(root) => {
                let (root, path) = (root.clone(), path.to_owned());
                let stat = move || match open_local(&root, &path).and_then(|file| stat(&file, &path)) {
                    Ok(file) => Ok(Some(file)),
                    Err(Fault::Changed) => Ok(None),
                    Err(fault) => Err(fault_error(fault, &path)),
                };
                tokio::task::spawn_blocking(stat).await.map_err(|e| Error::unexpected("a stat died").caused_by(e))?
            }
            Self::Objects { store, root, .. } => {
                let location = location(root, path).map_err(|_| {
                    Error::config("the name of a file cannot be addressed in an object store").with("file", path)
                })?;
                match store.head(&location).await {
                    Ok(meta) => Ok(Some(file_of(path.to_owned(), meta))),
                    Err(object_store::Error::NotFound { .. }) => Ok(None),
                    Err(error) => Err(store_error(error, "cannot look at a file").with("file", path)),
                }
            }
        }
    }
}

#[async_trait]
impl Store for Root {
    async fn list(&self, patterns: &Patterns, mut found: Found) -> Result<Vec<String>> {
        match self {
            Self::Local(root) => {
                let (root, patterns) = (root.clone(), patterns.clone());
                let walk = move || crate::listing::walk(&root, &patterns, &mut found);
                tokio::task::spawn_blocking(walk)
                    .await
                    .map_err(|e| Error::unexpected("the listing died").caused_by(e))?
            }
            Self::Objects { store, root, lists } => {
                if let Some(literals) = patterns.literals() {
                    for literal in literals {
                        if let Some(file) = self.head(&literal).await? {
                            found(file);
                        }
                    }
                    return Ok(Vec::new());
                }
                if !lists {
                    return Err(Error::new(ErrorKind::Unsupported, "a web server cannot list its files")
                        .hint("name every file under `files` without wildcards"));
                }
                list_objects(store.as_ref(), root, patterns, &mut found).await.map(|()| Vec::new())
            }
        }
    }

    fn bytes(&self, file: &FileRef, offset: u64, handle: &Handle) -> Result<Box<dyn Read + Send>, Fault> {
        match self {
            Self::Local(root) => {
                let mut opened = open_unchanged(root, file)?;
                opened.seek(SeekFrom::Start(offset))?;
                Ok(Box::new(opened.take(file.size.saturating_sub(offset))))
            }
            Self::Objects { store, root, .. } => Ok(Box::new(remote(store, root, file, offset, handle)?)),
        }
    }

    fn local(&self, file: &FileRef) -> Result<Option<File>, Fault> {
        match self {
            Self::Local(root) => open_unchanged(root, file).map(Some),
            Self::Objects { .. } => Ok(None),
        }
    }

    /// Objects are asked for by their version instead.
    fn unchanged(&self, file: &FileRef) -> Result<(), Fault> {
        match self {
            Self::Local(root) => open_unchanged(root, file).map(|_| ()),
            Self::Objects { .. } => Ok(()),
        }
    }
}

fn open_unchanged(root: &LocalPath, file: &FileRef) -> Result<File, Fault> {
    let opened = open_local(root, &file.path)?;
    match stat(&opened, &file.path)? == *file {
        true => Ok(opened),
        false => Err(Fault::Changed),
    }
}

fn remote(
    store: &Arc<dyn ObjectStore>,
    root: &Path,
    file: &FileRef,
    offset: u64,
    handle: &Handle,
) -> Result<Chunks, Fault> {
    let location = location(root, &file.path).map_err(|_| Fault::Changed)?;
    let modified = chrono::DateTime::from_timestamp_micros(file.modified);
    let options = GetOptions {
        if_match: file.etag.clone().filter(|etag| !etag.starts_with("W/")),
        if_unmodified_since: modified.filter(|_| file.etag.is_none()),
        range: (offset > 0).then_some(GetRange::Offset(offset)),
        ..GetOptions::default()
    };
    let (store, file) = (store.clone(), file.clone());
    let (send, receive) = tokio::sync::mpsc::channel(4);
    handle.spawn(async move {
        let read = forward(store, location, options, &file, &send);
        if let Err(fault) = read.await {
            // Nobody listens any more: the reader was dropped.
            let _ = send.send(Err(fault)).await;
        }
    });
    Ok(Chunks { receive, rest: Bytes::new() })
}

async fn forward(
    store: Arc<dyn ObjectStore>,
    location: Path,
    options: GetOptions,
    file: &FileRef,
    send: &tokio::sync::mpsc::Sender<Result<Bytes, Fault>>,
) -> Result<(), Fault> {
    let silent = |_| Error::new(ErrorKind::Timeout, "an object store stopped answering").with("file", &file.path);
    let got = tokio::time::timeout(SILENCE, store.get_opts(&location, options)).await.map_err(silent)?;
    let got = got.map_err(|e| read_fault(e, &file.path))?;
    // Not every server heeds the conditions of a request.
    let is_other = |tag: &String| got.meta.e_tag.as_ref().is_some_and(|now| bare(now) != bare(tag));
    if got.meta.size != file.size || file.etag.as_ref().is_some_and(is_other) {
        return Err(Fault::Changed);
    }
    let mut stream = got.into_stream();
    while let Some(chunk) = tokio::time::timeout(SILENCE, stream.next()).await.map_err(silent)? {
        let chunk = chunk.map_err(|e| read_fault(e, &file.path))?;
        if send.send(Ok(chunk)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// An etag without its quotes, which some listings leave out.
fn bare(etag: &str) -> &str {
    etag.trim_start_matches("W/").trim_matches('"')
}

/// The body of an object as a blocking reader; it runs four chunks ahead at most.
struct Chunks {
    receive: tokio::sync::mpsc::Receiver<Result<Bytes, Fault>>,
    rest: Bytes,
}

impl Chunks {
    fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        self.receive.blocking_recv().transpose()
    }
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunk()? {
                Some(chunk) => self.rest = chunk,
                None => return Ok(0),
            }
        }
        let head = self.rest.split_to(into.len().min(self.rest.len()));
        into.get_mut(..head.len()).unwrap_or_default().copy_from_slice(&head);
        Ok(head.len())
    }
}

/// Opens a file below the root; a link that leads out of it is not followed.
fn open_local(root: &LocalPath, path: &str) -> Result<File, Fault> {
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(Fault::Damaged("its name leads out of the root".into()));
    }
    let root = root.canonicalize()?;
    let full = root.join(path).canonicalize()?;
    if !full.starts_with(&root) {
        return Err(Fault::Damaged("it is a link that leads out of the root".into()));
    }
    Ok(File::open(full)?)
}

fn stat(file: &File, path: &str) -> Result<FileRef, Fault> {
    let meta = file.metadata()?;
    match meta.is_file() {
        true => Ok(FileRef { path: path.to_owned(), size: meta.len(), modified: modified(&meta), etag: None }),
        false => Err(Fault::Damaged("it is not a regular file".into())),
    }
}

/// Modification time in microseconds UTC; 0 where the file system keeps none.
pub(crate) fn modified(meta: &std::fs::Metadata) -> i64 {
    let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
    match meta.modified().unwrap_or(SystemTime::UNIX_EPOCH).duration_since(UNIX_EPOCH) {
        Ok(after) => micros(after),
        Err(before) => -micros(before.duration()),
    }
}

async fn list_objects(store: &dyn ObjectStore, root: &Path, patterns: &Patterns, found: &mut Found) -> Result<()> {
    for base in patterns.bases() {
        let failed = |e| {
            store_error(e, "cannot list files").with("folder", if base.is_empty() { "/" } else { &base }).hint(
                "names with empty, `.` or `..` parts or control characters cannot be addressed: rename them, or choose a \
                 narrower `path`",
            )
        };
        let prefix = location(root, base.trim_end_matches('/')).map_err(|e| failed(e.into()))?;
        let mut listing = store.list(Some(&prefix));
        while let Some(meta) = tokio::time::timeout(SILENCE, listing.next())
            .await
            .map_err(|_| Error::new(ErrorKind::Timeout, "an object store stopped answering while it listed files"))?
        {
            let meta = meta.map_err(failed)?;
            let Some(path) = relative(root, &meta.location) else { continue };
            if patterns.matches(&path) {
                found(file_of(path, meta));
            }
        }
    }
    Ok(())
}

fn file_of(path: String, meta: ObjectMeta) -> FileRef {
    FileRef { path, size: meta.size, modified: meta.last_modified.timestamp_micros(), etag: meta.e_tag }
}

fn location(root: &Path, path: &str) -> Result<Path, object_store::path::Error> {
    match (root.as_ref(), path) {
        ("", path) => Path::parse(path),
        (root, "") => Path::parse(root),
        (root, path) => Path::parse(format!("{root}/{path}")),
    }
}

fn relative(root: &Path, location: &Path) -> Option<String> {
    match root.as_ref() {
        "" => Some(location.as_ref().to_owned()),
        root => location.as_ref().strip_prefix(root)?.strip_prefix('/').map(str::to_owned),
    }
}

fn read_fault(error: object_store::Error, path: &str) -> Fault {
    match &error {
        object_store::Error::NotFound { .. } | object_store::Error::Precondition { .. } => Fault::Changed,
        object_store::Error::PermissionDenied { .. } => Fault::Damaged("the object store refuses it".into()),
        _ => Fault::Failed(store_error(error, "cannot read a file").with("file", path)),
    }
}

fn fault_error(fault: Fault, path: &str) -> Error {
    match fault {
        Fault::Changed => Error::new(ErrorKind::NotFound, "a file is gone").with("file", path),
        Fault::Damaged(text) => {
            Error::new(ErrorKind::DataInvalid, format!("cannot read a file: {text}")).with("file", path)
        }
        Fault::Failed(error) => error,
    }
}

/// An error of an object store, without the queries of its URLs: they may hold signatures.
pub fn store_error(error: object_store::Error, message: &str) -> Error {
    let text = without_bodies(&without_queries(&error.to_string()));
    let kind = match &error {
        // Refused listings come without a class; the status is in the text alone.
        object_store::Error::Generic { .. } if text.contains("status code: 403") => ErrorKind::PermissionDenied,
        object_store::Error::Generic { .. } if text.contains("status code: 401") => ErrorKind::Unauthenticated,
        object_store::Error::Generic { .. } if text.contains("status code: 404") => ErrorKind::NotFound,
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        object_store::Error::PermissionDenied { .. } => ErrorKind::PermissionDenied,
        object_store::Error::Unauthenticated { .. } => ErrorKind::Unauthenticated,
        object_store::Error::InvalidPath { .. } => ErrorKind::DataInvalid,
        object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => ErrorKind::Unsupported,
        object_store::Error::UnknownConfigurationKey { .. } => ErrorKind::ConfigInvalid,
        _ => ErrorKind::Unavailable,
    };
    let error = Error::new(kind, message).caused_by(text);
    match kind {
        ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => {
            error.hint("the credentials need the rights to list and to read below `path`")
        }
        ErrorKind::NotFound => error.hint("check the bucket and the prefix in `path`"),
        // The client has repeated the request itself.
        _ => error.exhausted(),
    }
}

/// Cuts what a server sent as the body of an error.
fn without_bodies(text: &str) -> String {
    let cut = ["status code: ", "error response: "].iter().find_map(|phrase| {
        let after = text.find(phrase)? + phrase.len();
        let status = text.get(after..)?.find(':').filter(|_| phrase.starts_with("status")).unwrap_or(0);
        text.get(..after + status)
    });
    cut.unwrap_or(text).to_owned()
}

/// A text without the queries of the URLs in it.
pub fn without_queries(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, url) = rest.split_at(at + 3);
        clean.push_str(head);
        let end = url.find([' ', '"', '\'', ')', '>', '\n']).unwrap_or(url.len());
        let (url, tail) = url.split_at(end);
        clean.push_str(url.split(['?', '#']).next().unwrap_or(url));
        rest = tail;
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_urls_are_not_shown() {
        let text = "Error performing GET https://a.blob.core.windows.net/c/x?sig=canary&se=1 in 5s (http://b/?q)";
        assert_eq!(without_queries(text), "Error performing GET https://a.blob.core.windows.net/c/x in 5s (http://b/)");
    }

    #[test]
    fn bodies_of_errors_are_not_shown() {
        let text =
            "Error performing list request: Server returned non-2xx status code: 403 Forbidden: <Error>x</Error>";
        assert!(without_bodies(text).ends_with("status code: 403 Forbidden"), "{}", without_bodies(text));
        assert_eq!(without_bodies("Server returned error response: <x/>"), "Server returned error response: ");
    }
}
