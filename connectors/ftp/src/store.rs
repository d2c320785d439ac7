//! The server as a store of files.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ingest_core::{CancellationToken, Error, Result, async_trait};
use ingest_files::{AfterCommit, Fault, FileRef, Found, Patterns, Store, ahead};
use tokio::runtime::Handle;

use crate::control::{Answer, Control, broken};
use crate::listing::{look, walk};
use crate::pool::{Pool, Slot, Transfer};

/// Open connections in a row that may break without a byte of a file having come. A connection that cannot be opened is
/// not tried again here: the runner waits before it does.
const TRIES: u32 = 2;

/// A folder of an FTP server.
#[derive(Debug)]
pub struct Server {
    pool: Arc<Pool>,
    after: AfterCommit,
    archive: String,
    cancel: CancellationToken,
}

impl Server {
    /// Connects to nothing yet.
    pub fn new(pool: Arc<Pool>, after: AfterCommit, archive: &str, cancel: CancellationToken) -> Self {
        Self { pool, after, archive: archive.trim_end_matches('/').to_owned(), cancel }
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
        blocking(move || {
            let mut lease = pool.lease()?;
            let notes = walk(lease.control()?, &patterns, &cancel, &mut found)?;
            lease.give_back();
            Ok(notes)
        })
        .await
    }

    /// Looks at the file again when all of it was read.
    fn bytes(&self, file: &FileRef, offset: u64, handle: &Handle) -> Result<Box<dyn Read + Send>, Fault> {
        let slot = Arc::new(Mutex::new(None));
        self.pool.keep(&slot);
        let download = Download {
            pool: self.pool.clone(),
            file: file.clone(),
            at: offset,
            slot,
            tries: 0,
            had_line: false,
            is_whole: false,
        };
        Ok(ahead(Box::new(download), file.size.saturating_sub(offset), handle))
    }

    fn puts_away(&self) -> bool {
        self.after != AfterCommit::Keep
    }

    async fn put_away(&self, files: Vec<FileRef>) -> Result<Vec<String>> {
        let (pool, cancel) = (self.pool.clone(), self.cancel.clone());
        let archive = (self.after == AfterCommit::Archive).then(|| self.archive.clone());
        blocking(move || {
            let mut lease = pool.lease()?;
            let notes = put_away(lease.control()?, &files, archive.as_deref(), &cancel)?;
            lease.give_back();
            Ok(notes)
        })
        .await
    }
}

/// A file that is being read. A connection that breaks is replaced, and reading goes on at the same place.
struct Download {
    pool: Arc<Pool>,
    file: FileRef,
    /// Bytes of the file that were given.
    at: u64,
    slot: Arc<Slot>,
    tries: u32,
    /// Whether there was an open connection at the last try.
    had_line: bool,
    is_whole: bool,
}

impl Download {
    fn begin(&mut self) -> Result<Transfer, Fault> {
        self.had_line = false;
        let mut lease = self.pool.lease()?;
        self.had_line = true;
        let control = lease.control()?;
        let command = format!("RETR {}", control.full(&self.file.path));
        match control.transfer(self.at, &command)? {
            Ok(data) => Ok(Transfer { data, lease, used: Instant::now() }),
            Err(answer) => {
                let fault = self.refused(control, &answer)?;
                lease.give_back();
                Err(fault)
            }
        }
    }

    /// What a refusal means for the file.
    fn refused(&self, control: &mut Control, answer: &Answer) -> Result<Fault> {
        if !matches!(answer.code, 450 | 500..=504 | 550..=553) {
            return Ok(Fault::Failed(answer.refused("cannot read a file of the server").with("file", &self.file.path)));
        }
        // One code stands for a file that is gone and for one that must not be read.
        Ok(match look(control, &self.file.path)? {
            None => Fault::Changed,
            Some(_) => Fault::Damaged(format!("the server refuses it: {}", answer.text.trim())),
        })
    }

    fn once(&mut self, into: &mut [u8]) -> Result<usize, Fault> {
        let slot = self.slot.clone();
        let mut held = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = Some(self.begin()?);
        }
        let Some(transfer) = held.as_mut() else { return Ok(0) };
        let read = transfer.data.read(into);
        transfer.used = Instant::now();
        match read {
            Ok(0) => {
                let whole = held.take().map(|transfer| self.finish(transfer));
                whole.unwrap_or(Ok(())).map(|()| 0)
            }
            Ok(count) => {
                self.at += count as u64;
                self.tries = 0;
                match self.at > self.file.size {
                    true => Err(Fault::Changed),
                    false => Ok(count),
                }
            }
            Err(error) => {
                *held = None;
                let error = broken(&error, "the server stopped sending a file").with("file", &self.file.path);
                Err(Fault::Failed(error))
            }
        }
    }

    /// Hears from the server that it has sent everything, and compares that with the listing.
    fn finish(&mut self, transfer: Transfer) -> Result<(), Fault> {
        let Transfer { mut data, mut lease, .. } = transfer;
        data.close();
        drop(data);
        let control = lease.control()?;
        let answer = control.answer()?;
        if !answer.is_good() {
            // 426 and the like: it was cut on the way. Reading goes on where it ended.
            return Err(Fault::Failed(
                answer.refused("the server did not send all of a file").with("file", &self.file.path),
            ));
        }
        let now = look(control, &self.file.path)?;
        lease.give_back();
        if self.at < self.file.size || now.is_none_or(|now| now != self.file) {
            return Err(Fault::Changed);
        }
        self.is_whole = true;
        Ok(())
    }
}

impl Read for Download {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.is_whole || into.is_empty() {
            return Ok(0);
        }
        loop {
            match self.once(into) {
                Err(Fault::Failed(error)) if error.is_retryable() && self.had_line && self.tries < TRIES => {
                    tracing::debug!(file = self.file.path, at = self.at, %error, "a file is read on over a new connection");
                    self.tries += 1;
                }
                done => return Ok(done?),
            }
        }
    }
}

/// Moves files to the archive, or deletes them.
fn put_away(
    control: &mut Control,
    files: &[FileRef],
    archive: Option<&str>,
    cancel: &CancellationToken,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for file in files {
        if cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        // Another file may have taken the name since the listing: the next run reads that one first.
        if look(control, &file.path)?.is_none_or(|now| now != *file) {
            continue;
        }
        let answer = match archive {
            None => control.ask(&format!("DELE {}", control.full(&file.path)))?,
            Some(archive) => moved(control, archive, file)?,
        };
        if !answer.is_good() {
            notes.push(format!(
                "{} could not be put away ({} {}); the account needs the right to rename and delete",
                file.path,
                answer.code,
                answer.text.trim()
            ));
        }
    }
    Ok(notes)
}

/// Moves a file below the archive, under another name where its own is taken: many servers replace what is there.
fn moved(control: &mut Control, archive: &str, file: &FileRef) -> Result<Answer> {
    let mut to = format!("{archive}/{}", file.path);
    for (slash, _) in to.match_indices('/') {
        // It may be there already; if it cannot be made, the renaming says so.
        control.ask(&format!("MKD {}", control.full(to.get(..slash).unwrap_or_default())))?;
    }
    if look(control, &to)?.is_some() {
        to = format!("{to}.{}", file.modified / 1_000_000);
    }
    let answer = control.ask(&format!("RNFR {}", control.full(&file.path)))?;
    if answer.code != 350 {
        return Ok(answer);
    }
    control.ask(&format!("RNTO {}", control.full(&to)))
}
