//! Transactions that the server sends before they are committed, because they are large: kept aside until they are, on disk
//! where they are too large for memory, and thrown away if they are rolled back.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ingest_core::{Error, ErrorKind, Result};

/// Bytes of all transactions together that stay in memory.
const KEPT: usize = 4 << 20;
/// Bytes that are read back at once.
const CHUNK: usize = 1 << 20;
/// Length and transaction of a record.
const HEADER: usize = 8;

/// All transactions that are open.
pub(crate) struct Spills {
    folder: PathBuf,
    open: HashMap<u32, Spill>,
    kept: usize,
    files: u64,
}

/// The changes of one transaction, in order: each with the number of the part (sub-transaction) that made it.
#[derive(Default)]
pub(crate) struct Spill {
    kept: Vec<u8>,
    file: Option<File>,
    /// Parts that were rolled back.
    gone: HashSet<u32>,
}

impl Spills {
    /// Files go into this folder; they have no name as soon as they are open, so none is left behind.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), open: HashMap::new(), kept: 0, files: 0 }
    }

    /// Takes a change of a transaction.
    pub(crate) fn push(&mut self, transaction: u32, part: u32, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len())
            .map_err(|_| Error::new(ErrorKind::LimitExceeded, "cdc: a change is larger than 4 GiB"))?;
        let spill = self.open.entry(transaction).or_default();
        spill.kept.extend_from_slice(&length.to_be_bytes());
        spill.kept.extend_from_slice(&part.to_be_bytes());
        spill.kept.extend_from_slice(body);
        self.kept += body.len() + HEADER;
        Ok(())
    }

    /// Whether [`Spills::relieve`] has something to do.
    pub(crate) fn is_full(&self) -> bool {
        self.kept > KEPT
    }

    /// Writes to disk what is too much for memory.
    pub(crate) async fn relieve(&mut self) -> Result<()> {
        for spill in self.open.values_mut().filter(|spill| !spill.kept.is_empty()) {
            let kept = std::mem::take(&mut spill.kept);
            let file = spill.file.take();
            self.files += 1;
            let path = self.folder.join(format!("transaction-{}-{}", std::process::id(), self.files));
            spill.file = Some(blocking(move || append(file, &path, &kept)).await?);
        }
        self.kept = 0;
        Ok(())
    }

    /// Forgets a transaction, or a part of it, that was rolled back.
    pub(crate) fn abort(&mut self, transaction: u32, part: u32) {
        if transaction == part {
            self.take(transaction);
        } else if let Some(spill) = self.open.get_mut(&transaction) {
            spill.gone.insert(part);
        }
    }

    /// The changes of a transaction that is committed.
    pub(crate) fn take(&mut self, transaction: u32) -> Spill {
        let spill = self.open.remove(&transaction).unwrap_or_default();
        self.kept = self.kept.saturating_sub(spill.kept.len());
        spill
    }
}

/// Reads a transaction back.
pub(crate) struct Replay {
    file: Option<File>,
    /// What is kept in memory comes after the file.
    kept: Option<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    gone: HashSet<u32>,
}

impl Spill {
    /// Goes back to the first change.
    pub(crate) async fn replay(self) -> Result<Replay> {
        let file = match self.file {
            Some(mut file) => Some(blocking(move || file.seek(SeekFrom::Start(0)).map(|_| file)).await?),
            None => None,
        };
        Ok(Replay { file, kept: Some(self.kept), buffer: Vec::new(), at: 0, gone: self.gone })
    }
}

impl Replay {
    /// The next change that counts.
    pub(crate) async fn next(&mut self) -> Result<Option<&[u8]>> {
        loop {
            let Some((part, body)) = self.record() else {
                if !self.fill().await? {
                    return Ok(None);
                }
                continue;
            };
            self.at = body.end;
            if !self.gone.contains(&part) {
                return Ok(Some(&self.buffer[body]));
            }
        }
    }

    /// The whole record that comes next in the buffer.
    fn record(&self) -> Option<(u32, std::ops::Range<usize>)> {
        let (header, rest) = self.buffer.get(self.at..)?.split_first_chunk::<HEADER>()?;
        let [a, b, c, d, part @ ..] = *header;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        let start = self.at + HEADER;
        (rest.len() >= length).then(|| (u32::from_be_bytes(part), start..start + length))
    }

    /// Reads more; false: there is no more.
    async fn fill(&mut self) -> Result<bool> {
        self.buffer.drain(..self.at);
        self.at = 0;
        if let Some(mut file) = self.file.take() {
            let mut buffer = std::mem::take(&mut self.buffer);
            let first = buffer.is_empty();
            let (file, buffer, count) = blocking(move || {
                let start = buffer.len();
                buffer.resize(start + CHUNK, 0);
                let count = file.read(&mut buffer[start..])?;
                buffer.truncate(start + count);
                Ok((file, buffer, count))
            })
            .await?;
            self.buffer = buffer;
            if count > 0 {
                self.file = Some(file);
                return Ok(true);
            }
            if !first {
                return Err(Error::unexpected("cdc: a transaction on disk ends within a change"));
            }
        }
        match self.kept.take() {
            Some(kept) if !kept.is_empty() => {
                self.buffer = kept;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// Appends to a file that has no name; makes it first.
fn append(file: Option<File>, path: &Path, bytes: &[u8]) -> std::io::Result<File> {
    let mut file = match file {
        Some(file) => file,
        None => {
            let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
            std::fs::remove_file(path)?;
            file
        }
    };
    file.write_all(bytes)?;
    Ok(file)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::unexpected("a thread that works with files ended").caused_by(e))?.map_err(|e| {
        Error::new(ErrorKind::LimitExceeded, "cdc: cannot keep a large transaction on disk until it is committed")
            .hint("the folder of temporary files (TMPDIR) needs room for the largest transaction")
            .caused_by(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(spill: Spill) -> Vec<Vec<u8>> {
        let mut replay = spill.replay().await.expect("a file");
        let mut found = Vec::new();
        while let Some(body) = replay.next().await.expect("a file") {
            found.push(body.to_vec());
        }
        found
    }

    #[tokio::test]
    async fn changes_come_back_in_order_from_disk_and_memory_without_what_was_rolled_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spills = Spills::new(folder.path());
        let body = |i: u32| vec![u8::try_from(i % 251).expect("small"); 1 + (i as usize * 37) % 5_000];
        for i in 0..3_000 {
            spills.push(7, 7 + i % 3, &body(i)).expect("kept");
            spills.push(50, 50, &body(i)).expect("kept");
            if spills.is_full() {
                spills.relieve().await.expect("written");
            }
        }
        spills.abort(7, 8);
        spills.abort(50, 50);
        let wanted: Vec<_> = (0..3_000).filter(|i| i % 3 != 1).map(body).collect();
        assert!(all(spills.take(7)).await == wanted);
        assert!(all(spills.take(50)).await.is_empty());
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left behind");
    }
}
