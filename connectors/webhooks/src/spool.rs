//! Deliveries on their way to the table: files of lines, durable before anybody is answered.
//!
//! What arrives while the disk is busy becomes one file and waits for one flush. A file is written under another name,
//! flushed, renamed, and its folder flushed too: what can be seen is whole, and survives a power cut.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ingest_core::durable::{make_folder, sync_folder};
use ingest_core::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};

/// The ending of files that are whole.
pub(crate) const ENDING: &str = ".ndjson";
/// Deliveries of one file at most, and about its bytes.
const FILE_LINES: usize = 4_096;
const FILE_BYTES: usize = 8 << 20;
/// Deliveries that wait for the disk at most.
const QUEUE: usize = 4_096;
/// The folder is measured at most so often.
const MEASURED: Duration = Duration::from_secs(1);
/// A file that was begun so long ago belongs to nobody any more.
const ABANDONED: Duration = Duration::from_secs(3_600);

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is on the disk.
    Safe,
    /// Too much waits already.
    Full,
    /// It could not be written.
    Failed,
}

struct Delivery {
    line: Vec<u8>,
    kept: oneshot::Sender<Kept>,
}

/// A folder of waiting deliveries, and the thread that writes to it. The thread ends with this.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    send: mpsc::Sender<Delivery>,
}

impl Spool {
    /// Makes the folder, for nobody else's eyes. At `most` bytes it is full.
    pub fn open(folder: PathBuf, most: u64) -> Result<Self> {
        let failed = |e: io::Error| {
            let kind = match e.kind() {
                io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, "cannot make the folder in which deliveries wait")
                .hint("set `path` of the source to a folder that this account may write to")
                .caused_by(e)
        };
        make_folder(&folder, 0o700).map_err(failed)?;
        sweep(&folder).map_err(failed)?;
        let (send, receive) = mpsc::channel(QUEUE);
        let writer = Writer { folder, most, waiting: 0, measured: None };
        let thread = std::thread::Builder::new().name("webhooks".into());
        thread.spawn(move || writer.run(receive)).map_err(failed)?;
        Ok(Self { send })
    }

    /// Keeps a delivery; answers once it is durable.
    pub async fn keep(&self, line: Vec<u8>) -> Kept {
        let (kept, answer) = oneshot::channel();
        if self.send.send(Delivery { line, kept }).await.is_err() {
            return Kept::Failed;
        }
        answer.await.unwrap_or(Kept::Failed)
    }
}

struct Writer {
    folder: PathBuf,
    most: u64,
    waiting: u64,
    measured: Option<Instant>,
}

impl Writer {
    fn run(mut self, mut receive: mpsc::Receiver<Delivery>) {
        while let Some(first) = receive.blocking_recv() {
            let mut bytes = first.line.len();
            let mut file = vec![first];
            while file.len() < FILE_LINES && bytes < FILE_BYTES {
                let Ok(next) = receive.try_recv() else { break };
                bytes += next.line.len();
                file.push(next);
            }
            let kept = match self.write(&file, bytes as u64) {
                Ok(kept) => kept,
                Err(error) => {
                    tracing::error!(%error, folder = %self.folder.display(), "deliveries could not be kept");
                    Kept::Failed
                }
            };
            for delivery in file {
                // A sender that went away asks again.
                let _ = delivery.kept.send(kept);
            }
        }
    }

    fn write(&mut self, deliveries: &[Delivery], bytes: u64) -> io::Result<Kept> {
        if self.measured.is_none_or(|at| at.elapsed() >= MEASURED) {
            self.waiting = size(&self.folder)?;
            self.measured = Some(Instant::now());
        }
        if self.waiting.saturating_add(bytes) > self.most {
            return Ok(Kept::Full);
        }
        let mut file = tempfile::Builder::new().prefix(".").suffix(".tmp").tempfile_in(&self.folder)?;
        for delivery in deliveries {
            file.write_all(&delivery.line)?;
        }
        file.as_file().sync_all()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let name = format!("{now:020}-{}{ENDING}", uuid::Uuid::new_v4().simple());
        file.persist_noclobber(self.folder.join(name))?;
        sync_folder(&self.folder)?;
        self.waiting += bytes;
        Ok(Kept::Safe)
    }
}

/// Bytes that wait in a folder.
fn size(folder: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(folder)? {
        match entry?.metadata() {
            Ok(metadata) => total += metadata.len(),
            // A run has loaded and deleted it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// Removes what a process began that was killed: nobody was answered for it.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_begun = entry.file_name().to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".tmp"));
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|at| at.elapsed().ok());
        if is_begun && age.is_some_and(|age| age > ABANDONED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(folder: &Path) -> Vec<String> {
        let mut lines: Vec<String> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.to_string_lossy().ends_with(ENDING))
            .flat_map(|path| fs::read_to_string(path).expect("a file").lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        lines.sort();
        lines
    }

    #[tokio::test]
    async fn what_is_kept_can_be_seen_whole_and_a_full_folder_takes_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("a/b");
        let spool = Spool::open(folder.clone(), 10_000).expect("open");
        let all = (0..500).map(|n| {
            let spool = spool.clone();
            tokio::spawn(async move { spool.keep(format!("line {n:04}\n").into_bytes()).await })
        });
        for kept in all.collect::<Vec<_>>() {
            assert_eq!(kept.await.expect("no panic"), Kept::Safe);
        }
        assert_eq!(lines(&folder), (0..500).map(|n| format!("line {n:04}")).collect::<Vec<_>>());
        assert_eq!(spool.keep(vec![b'x'; 9_000]).await, Kept::Full);
        assert_eq!(lines(&folder).len(), 500);
    }

    #[tokio::test]
    async fn a_folder_that_is_gone_is_no_place_to_keep_anything() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("a");
        let spool = Spool::open(folder.clone(), 10_000).expect("open");
        assert_eq!(spool.keep(b"1\n".to_vec()).await, Kept::Safe);
        fs::remove_dir_all(&folder).expect("removed");
        assert_eq!(spool.keep(b"2\n".to_vec()).await, Kept::Failed);
    }
}
