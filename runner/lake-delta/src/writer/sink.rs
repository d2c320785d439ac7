//! Where the bytes of a data file go: a local file, or an upload that runs beside the encoder.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ingest_core::durable::make_folder;
use ingest_core::{Error, Result};
use object_store::ObjectStore;
use object_store::ObjectStoreExt;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::store::{FOLDER_MODE, Lake, io_kind, store_error};

/// Bytes handed to the upload at once.
const CHUNK: usize = 1 << 20;
/// Chunks between encoder and upload.
const CHUNKS: usize = 4;
/// Bytes of an upload's part; files below go up in one request. S3 takes 10,000 parts of at least 5 MiB.
const PART: usize = 8 << 20;
/// Parts of a file under way at once.
const PARTS: usize = 2;

/// Takes the bytes of one data file.
pub(crate) enum Sink {
    Local {
        file: File,
        path: PathBuf,
    },
    Remote(Upload),
    /// Taken out of an encoder that is done.
    Taken,
}

/// An upload that runs on the runtime.
pub(crate) struct Upload {
    chunks: mpsc::Sender<Chunk>,
    held: Vec<u8>,
    /// Bytes handed over so far.
    sent: u64,
    task: JoinHandle<Result<()>>,
    store: Arc<dyn ObjectStore>,
    path: Path,
}

enum Chunk {
    Bytes(Bytes),
    /// Without it the upload is given up.
    End,
}

/// A file whose last byte was handed over, on its way to be durable.
pub(crate) struct Closing {
    task: JoinHandle<Result<()>>,
    local: Option<PathBuf>,
    remote: Option<(Arc<dyn ObjectStore>, Path)>,
}

impl Sink {
    pub fn open(lake: &Lake, path: &Path, runtime: &Handle) -> Result<Self> {
        if let Some(local) = lake.local_path(path) {
            if let Some(folder) = local.parent() {
                make_folder(folder, FOLDER_MODE).map_err(|e| local_error(e, "make a folder of the table"))?;
            }
            let file = File::create_new(&local).map_err(|e| local_error(e, "make a data file"))?;
            return Ok(Self::Local { file, path: local });
        }
        let (chunks, receiver) = mpsc::channel(CHUNKS);
        let upload = BufWriter::with_capacity(lake.store.clone(), path.clone(), PART).with_max_concurrency(PARTS);
        let task = runtime.spawn(upload_chunks(upload, receiver));
        let (store, path) = (lake.store.clone(), path.clone());
        Ok(Self::Remote(Upload { chunks, held: Vec::with_capacity(CHUNK), sent: 0, task, store, path }))
    }

    /// Takes the sink out of its encoder.
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Taken)
    }

    /// Bytes held in memory.
    pub fn memory(&self) -> u64 {
        match self {
            Self::Local { .. } | Self::Taken => 0,
            Self::Remote(upload) => {
                let waiting = ((CHUNKS - upload.chunks.capacity().min(CHUNKS)) * CHUNK) as u64;
                // Parts on their way, and the one that is being filled.
                let parts = upload.sent.min((PART * (PARTS + 1)) as u64);
                upload.held.len() as u64 + waiting + parts
            }
        }
    }

    /// Hands the last bytes over. The file is durable once [`Closing::wait`] returns.
    pub fn close(self, runtime: &Handle) -> Result<Closing> {
        match self {
            Self::Local { file, path } => {
                // The encoder goes on with the next file while the disk is waited for.
                let task = runtime
                    .spawn_blocking(move || file.sync_data().map_err(|e| local_error(e, "make a data file durable")));
                Ok(Closing { task, local: Some(path), remote: None })
            }
            Self::Remote(mut upload) => {
                if let Err(e) = upload.flush_chunk() {
                    return Err(Self::Remote(upload).into_error(runtime, e));
                }
                // A closed channel means that the upload failed; its own error is found on waiting.
                let _ = upload.chunks.blocking_send(Chunk::End);
                Ok(Closing { task: upload.task, local: None, remote: Some((upload.store, upload.path)) })
            }
            Self::Taken => Err(Error::unexpected("a data file was closed twice")),
        }
    }

    /// Gives the file up.
    pub fn abort(self, runtime: &Handle) {
        match self {
            Self::Local { path, .. } => remove_local(&path),
            Self::Remote(upload) => {
                drop(upload.chunks);
                // The upload ends by itself; there is nothing to be done about its error.
                let _ = runtime.block_on(upload.task);
            }
            Self::Taken => {}
        }
    }

    /// The error of the upload, when writing to it failed.
    pub fn into_error(self, runtime: &Handle, error: impl Into<ingest_core::BoxError>) -> Error {
        match self {
            Self::Local { path, .. } => {
                remove_local(&path);
                write_error(error)
            }
            Self::Remote(upload) => {
                drop(upload.chunks);
                match runtime.block_on(upload.task) {
                    Ok(Err(e)) => e,
                    _ => write_error(error),
                }
            }
            Self::Taken => write_error(error),
        }
    }
}

fn write_error(error: impl Into<ingest_core::BoxError>) -> Error {
    let error = error.into();
    let kind = {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
        let mut kind = ingest_core::ErrorKind::Unavailable;
        while let Some(cause) = next {
            if let Some(io) = cause.downcast_ref::<io::Error>() {
                kind = io_kind(io);
                break;
            }
            next = cause.source();
        }
        kind
    };
    Error::new(kind, "cannot write a data file")
        .hint("check the room and the rights at the lake, and whether its store can be reached")
        .caused_by(error)
}

impl Closing {
    /// Waits until the file is durable. Local files still need their folder's name made durable.
    pub fn wait(self, runtime: &Handle) -> Result<Option<PathBuf>> {
        let done = runtime.block_on(self.task);
        done.map_err(|e| Error::unexpected("writing a data file was broken off").caused_by(e))??;
        Ok(self.local.and_then(|p| p.parent().map(ToOwned::to_owned)))
    }

    /// Removes the file again.
    pub fn abort(self, runtime: &Handle) {
        let done = runtime.block_on(self.task);
        if let Some(path) = self.local {
            remove_local(&path);
        }
        if let (Some((store, path)), Ok(Ok(()))) = (self.remote, done)
            && let Err(e) = runtime.block_on(store.delete(&path))
        {
            tracing::warn!(object = %path, error = %e, "cannot remove an uploaded file that is given up");
        }
    }
}

impl Upload {
    fn flush_chunk(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::replace(&mut self.held, Vec::with_capacity(CHUNK)));
        self.sent += chunk.len() as u64;
        self.chunks.blocking_send(Chunk::Bytes(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Local { file, .. } => file.write(bytes),
            Self::Remote(upload) => {
                let taken = bytes.len().min(CHUNK - upload.held.len());
                upload.held.extend_from_slice(&bytes[..taken]);
                if upload.held.len() == CHUNK {
                    upload.flush_chunk()?;
                }
                Ok(taken)
            }
            Self::Taken => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn upload_chunks(mut upload: BufWriter, mut chunks: mpsc::Receiver<Chunk>) -> Result<()> {
    while let Some(chunk) = chunks.recv().await {
        let result = match chunk {
            Chunk::Bytes(bytes) => upload.put(bytes).await,
            Chunk::End => {
                return upload.shutdown().await.map_err(|e| match e.downcast::<object_store::Error>() {
                    Ok(e) => store_error(e, "upload a data file"),
                    Err(e) => write_error(e),
                });
            }
        };
        if let Err(e) = result {
            give_up(&mut upload).await;
            return Err(store_error(e, "upload a data file"));
        }
    }
    give_up(&mut upload).await;
    Ok(())
}

async fn give_up(upload: &mut BufWriter) {
    if let Err(e) = upload.abort().await {
        tracing::debug!(error = %e, "cannot give up an upload");
    }
}

fn remove_local(path: &std::path::Path) {
    if let Err(e) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), error = %e, "cannot remove a data file that is given up");
    }
}

fn local_error(error: io::Error, attempted: &str) -> Error {
    Error::new(io_kind(&error), format!("cannot {attempted}"))
        .hint("check the room on the disk and the rights of the lake's folder")
        .caused_by(error)
}
