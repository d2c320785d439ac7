//! The server as a store of files.

use std::collections::HashSet;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use ingest_core::{CancellationToken, Error, ErrorKind, Result, async_trait};
use ingest_files::{AfterCommit, Fault, FileRef, Found, Patterns, Store, ahead};
use ssh2::RenameFlags;
use tokio::runtime::Handle;

use crate::client::{self, full, is_broken, is_gone};
use crate::listing::{self, file_of};
use crate::pool::{Lease, Pool};

/// Bytes that are asked for at once. The library keeps four times as much on its way, so that no reader waits for the
/// line and back.
const CHUNK: usize = 512 << 10;
/// Open connections in a row that may break without a byte of a file having come. A connection that cannot be opened is
/// not tried again here: the runner waits before it does.
const TRIES: u32 = 2;
/// Files that are put away by one task.
const AWAY: usize = 250;

/// A folder of an SFTP server.
#[derive(Debug)]
pub struct Server {
    pool: Arc<Pool>,
    after: AfterCommit,
    archive: String,
    cancel: CancellationToken,
}

impl Server {
    /// Connects to nothing yet.
    pub fn new(pool: Pool, after: AfterCommit, archive: &str, cancel: CancellationToken) -> Self {
        Self { pool: Arc::new(pool), after, archive: archive.trim_end_matches('/').to_owned(), cancel }
    }
}

/// Runs what blocks on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::unexpected("a thread for a server died").caused_by(e))?
}

#[async_trait]
impl Store for Server {
    async fn list(&self, patterns: &Patterns, mut found: Found) -> Result<Vec<String>> {
        let (pool, patterns, cancel) = (self.pool.clone(), patterns.clone(), self.cancel.clone());
        blocking(move || listing::walk(&pool.lease()?, &patterns, &cancel, &mut found)).await
    }

    /// Looks at the file when all of it was read: a handle stays with the file that it was opened for, whatever happens
    /// to the name.
    fn bytes(&self, file: &FileRef, offset: u64, handle: &Handle) -> Result<Box<dyn Read + Send>, Fault> {
        let left = file.size.saturating_sub(offset);
        let mut download = Download {
            pool: self.pool.clone(),
            file: file.clone(),
            at: offset,
            open: None,
            tries: 0,
            had_line: false,
            is_whole: false,
        };
        // What cannot be opened is to be known before a decoder begins.
        let mut first = vec![0; usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
        let count = download.read(&mut first)?;
        first.truncate(count);
        let rest = BufReader::with_capacity(CHUNK, download);
        Ok(ahead(Box::new(Cursor::new(first).chain(rest)), left, handle))
    }

    fn puts_away(&self) -> bool {
        self.after != AfterCommit::Keep
    }

    async fn put_away(&self, files: Vec<FileRef>) -> Result<Vec<String>> {
        let parts: Vec<Vec<FileRef>> = files.chunks(AWAY).map(<[FileRef]>::to_vec).collect();
        let tasks = parts.into_iter().map(|part| {
            let (pool, cancel) = (self.pool.clone(), self.cancel.clone());
            let archive = (self.after == AfterCommit::Archive).then(|| self.archive.clone());
            blocking(move || put_away(&pool.lease()?, &part, archive.as_deref(), &cancel))
        });
        let mut tasks = futures::stream::iter(tasks).buffer_unordered(self.pool.size());
        let mut notes = Vec::new();
        while let Some(done) = tasks.next().await {
            notes.extend(done?);
        }
        Ok(notes)
    }
}

/// A file that is being read. A connection that breaks is replaced, and reading goes on at the same place.
struct Download {
    pool: Arc<Pool>,
    file: FileRef,
    /// Bytes of the file that were given.
    at: u64,
    open: Option<(ssh2::File, Lease)>,
    tries: u32,
    /// Whether there was an open connection at the last try.
    had_line: bool,
    is_whole: bool,
}

impl Download {
    fn open(&mut self) -> Result<(ssh2::File, Lease), Fault> {
        self.had_line = false;
        let lease = self.pool.lease()?;
        self.had_line = true;
        match lease.sftp().open(full(lease.root(), &self.file.path)) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(self.at))?;
                Ok((file, lease))
            }
            Err(error) => Err(self.fault(&error, &lease)),
        }
    }

    /// What an answer of the server means for the file.
    fn fault(&self, error: &ssh2::Error, lease: &Lease) -> Fault {
        if is_broken(error) {
            return Fault::Failed(
                lease.failed(error, "cannot read a file of the server").with("file", &self.file.path),
            );
        }
        match is_gone(error) {
            true => Fault::Changed,
            false => Fault::Damaged(format!("the server refuses it: {}", error.message())),
        }
    }

    fn once(&mut self, into: &mut [u8]) -> Result<usize, Fault> {
        if self.open.is_none() {
            self.open = Some(self.open()?);
        }
        let left = self.file.size.saturating_sub(self.at);
        if left == 0 {
            return self.finish().map(|()| 0);
        }
        let Some((file, lease)) = &mut self.open else { return Ok(0) };
        let most = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match file.read(into.get_mut(..most).unwrap_or_default()) {
            Ok(0) => Err(Fault::Changed),
            Ok(count) => {
                let at = self.at + count as u64;
                // The last bytes are given once it is known that they are the last.
                if at == self.file.size {
                    self.finish()?;
                }
                self.at = at;
                self.tries = 0;
                Ok(count)
            }
            Err(error) => {
                // The binding drops the code of a failed read; a second question shows whether the connection lives.
                let lease = &*lease;
                match file.stat() {
                    Err(cause) => Err(if is_broken(&cause) {
                        Fault::Failed(
                            lease.failed(&cause, "cannot read a file of the server").with("file", &self.file.path),
                        )
                    } else {
                        Fault::Changed
                    }),
                    Ok(_) if error.kind() == io::ErrorKind::TimedOut => {
                        lease.give_up();
                        let error = Error::new(ErrorKind::Timeout, "the server stopped sending a file");
                        Err(Fault::Failed(error.with("file", &self.file.path)))
                    }
                    Ok(_) => Err(Fault::Damaged(format!("the server cannot read it: {error}"))),
                }
            }
        }
    }

    /// Compares the file that was read with the listing.
    fn finish(&mut self) -> Result<(), Fault> {
        let Some((mut file, lease)) = self.open.take() else { return Ok(()) };
        let stat = match file.stat() {
            Ok(stat) => stat,
            Err(error) => {
                let fault = self.fault(&error, &lease);
                drop(file);
                return Err(fault);
            }
        };
        self.is_whole = true;
        match file_of(&self.file.path, &stat) == self.file {
            true => Ok(()),
            false => Err(Fault::Changed),
        }
    }
}

impl Read for Download {
    /// Reads the next bytes, over as many connections as it takes.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.is_whole || into.is_empty() {
            return Ok(0);
        }
        loop {
            match self.once(into) {
                Err(Fault::Failed(error)) if error.is_retryable() && self.had_line && self.tries < TRIES => {
                    tracing::debug!(file = self.file.path, at = self.at, %error, "a file is read on over a new connection");
                    self.open = None;
                    self.tries += 1;
                }
                done => return Ok(done?),
            }
        }
    }
}

/// Moves files to the archive, or deletes them.
fn put_away(
    lease: &Lease,
    files: &[FileRef],
    archive: Option<&str>,
    cancel: &CancellationToken,
) -> Result<Vec<String>> {
    let (mut notes, mut made) = (Vec::new(), HashSet::new());
    for file in files {
        if cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        let from = full(lease.root(), &file.path);
        let done = match lease.sftp().stat(&from) {
            Err(error) => Err(error),
            // Another file has taken the name since the listing: the next run reads that one first.
            Ok(stat) if file_of(&file.path, &stat) != *file => continue,
            Ok(_) => match archive {
                None => lease.sftp().unlink(&from),
                Some(archive) => moved(lease, &from, &lease.root().join(archive), file, &mut made),
            },
        };
        match done {
            Ok(()) => {}
            Err(error) if is_broken(&error) => {
                return Err(lease.failed(&error, "cannot put a file of the server away").with("file", &file.path));
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                let error = client::failed(&error, "cannot put a file of the server away").with("file", &file.path);
                notes.push(format!("{error}; the account needs the right to rename and delete"));
            }
        }
    }
    Ok(notes)
}

/// Moves a file below the archive, under another name where its own is taken.
fn moved(
    lease: &Lease,
    from: &Path,
    archive: &Path,
    file: &FileRef,
    made: &mut HashSet<PathBuf>,
) -> Result<(), ssh2::Error> {
    let to = archive.join(&file.path);
    if let Some(folder) = to.parent().filter(|folder| !made.contains(*folder)) {
        make(lease, folder)?;
        made.insert(folder.to_owned());
    }
    // Version 3 of the protocol refuses to rename to a name that is taken.
    let flags = Some(RenameFlags::ATOMIC | RenameFlags::NATIVE);
    let first = match lease.sftp().rename(from, &to, flags) {
        Err(error) if !is_broken(&error) && lease.sftp().lstat(&to).is_ok() => error,
        done => return done,
    };
    let again = archive.join(format!("{}.{}", file.path, file.modified / 1_000_000));
    lease.sftp().rename(from, &again, flags).map_err(|error| if is_broken(&error) { error } else { first })
}

/// Makes a folder and those that it lies in.
fn make(lease: &Lease, folder: &Path) -> Result<(), ssh2::Error> {
    if lease.sftp().stat(folder).is_ok_and(|stat| stat.is_dir()) {
        return Ok(());
    }
    if let Some(above) = folder.parent().filter(|above| above.starts_with(lease.root())) {
        make(lease, above)?;
    }
    match lease.sftp().mkdir(folder, 0o755) {
        // Another task may have made it.
        Err(error) if !is_broken(&error) && lease.sftp().stat(folder).is_ok_and(|stat| stat.is_dir()) => Ok(()),
        done => done,
    }
}
