//! JSON documents in an object store, with create-if-absent.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use ingest_core::{Error, ErrorKind, Json, Result};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The format of all documents that this version writes, and the highest that it reads.
pub const FORMAT: u32 = 1;

/// Largest document that is read: beyond it, something else wrote it.
const MAX_BYTES: u64 = 256 << 20;

/// The documents of a lake.
#[derive(Clone)]
pub struct Documents {
    store: Arc<dyn ObjectStore>,
}

/// What create-if-absent found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// Nothing; the document is ours.
    New,
    /// A document of that name, possibly one whose answer we lost.
    Exists,
}

impl Documents {
    /// Documents in a store that is rooted at the lake.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Reads a document; `None` when there is none.
    ///
    /// # Errors
    /// `CheckpointInvalid` for a higher format or a text that is not this document; whatever the store says.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let found = match self.store.get(&location(path)?).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(store_error("cannot read a document", path, e)),
        };
        if found.meta.size > MAX_BYTES {
            return Err(Error::new(ErrorKind::CheckpointInvalid, "a document is too large to be ours")
                .with("path", path)
                .with("bytes", found.meta.size));
        }
        let bytes = found.bytes().await.map_err(|e| store_error("cannot read a document", path, e))?;
        parse(&bytes, path).map(Some)
    }

    /// Writes a document if there is none of that name.
    ///
    /// # Errors
    /// Whatever the store says; the document may exist all the same.
    pub async fn create<T: Serialize + Sync>(&self, path: &str, document: &T) -> Result<Created> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&location(path)?, body(document)?, options).await {
            Ok(_) => Ok(Created::New),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(Created::Exists)
            }
            Err(e) => Err(store_error("cannot write a document", path, e)),
        }
    }

    /// Writes a document, whatever was there.
    pub async fn put<T: Serialize + Sync>(&self, path: &str, document: &T) -> Result<()> {
        let written = self.store.put(&location(path)?, body(document)?).await;
        written.map(drop).map_err(|e| store_error("cannot write a document", path, e))
    }

    /// Removes a document; one that is not there is fine.
    pub async fn delete(&self, path: &str) -> Result<()> {
        match self.store.delete(&location(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(store_error("cannot remove a document", path, e)),
        }
    }

    /// The names (without `.json`) of the documents directly in a folder, sorted.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let prefix = location(folder)?;
        let listed = self.store.list_with_delimiter(Some(&prefix)).await;
        let listed = listed.map_err(|e| store_error("cannot list documents", folder, e))?;
        let mut names: Vec<String> = listed
            .objects
            .iter()
            .filter_map(|object| object.location.filename()?.strip_suffix(".json").map(str::to_owned))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The names of the folders directly in a folder, sorted.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let prefix = location(folder)?;
        let listed = self.store.list_with_delimiter(Some(&prefix)).await;
        let listed = listed.map_err(|e| store_error("cannot list documents", folder, e))?;
        let mut names: Vec<String> =
            listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// As [`Documents::list`], without the names up to `after`: what came before is not listed where names begin with a time.
    pub async fn list_after(&self, folder: &str, after: &str) -> Result<Vec<String>> {
        let (prefix, offset) = (location(folder)?, location(&format!("{folder}/{after}"))?);
        let listed: Vec<_> = self
            .store
            .list_with_offset(Some(&prefix), &offset)
            .try_collect()
            .await
            .map_err(|e| store_error("cannot list documents", folder, e))?;
        let name = |object: &ObjectMeta| object.location.filename()?.strip_suffix(".json").map(str::to_owned);
        let mut names: Vec<String> = listed.iter().filter_map(name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Removes all documents of a folder whose names are in `names`. Failures are logged: what stays is harmless.
    pub async fn sweep(&self, folder: &str, names: &[String]) {
        for name in names {
            if let Err(error) = self.delete(&format!("{folder}/{name}.json")).await {
                tracing::warn!(%error, "an old document stays");
            }
        }
    }

    /// All objects under a folder with their sizes, for maintenance.
    pub async fn objects(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let prefix = location(folder)?;
        let found: Vec<_> = self
            .store
            .list(Some(&prefix))
            .map_ok(|object| (object.location.to_string(), object.size))
            .try_collect()
            .await
            .map_err(|e| store_error("cannot list documents", folder, e))?;
        Ok(found)
    }
}

/// Numbers in names are padded, so that the order of names is the order of numbers.
pub(crate) fn numbered(folder: &str, number: i64) -> String {
    format!("{folder}/{number:020}.json")
}

fn location(path: &str) -> Result<Path> {
    Path::parse(path).map_err(|e| Error::unexpected("cannot name a document").with("path", path).caused_by(e))
}

fn body<T: Serialize>(document: &T) -> Result<PutPayload> {
    let bytes =
        serde_json::to_vec(document).map_err(|e| Error::unexpected("cannot write a document as JSON").caused_by(e))?;
    Ok(PutPayload::from(Bytes::from(bytes)))
}

fn parse<T: DeserializeOwned>(bytes: &[u8], path: &str) -> Result<T> {
    let invalid = || {
        Error::new(ErrorKind::CheckpointInvalid, "a document in the lake cannot be read")
            .with("path", path)
            .hint("somebody else wrote or damaged it; restore it from a backup, or from the table's history")
    };
    let value: Json = serde_json::from_slice(bytes).map_err(|e| invalid().caused_by(e))?;
    let format = value.get("format").and_then(Json::as_u64).unwrap_or(0);
    if format > u64::from(FORMAT) {
        return Err(Error::new(ErrorKind::CheckpointInvalid, "a document in the lake is of a newer format")
            .with("path", path)
            .with("format", format)
            .hint("use the version of `ingest` that wrote it, or a newer one"));
    }
    serde_json::from_value(value).map_err(|e| invalid().caused_by(e))
}

/// Classifies an error of the store.
pub(crate) fn store_error(what: &str, path: &str, error: object_store::Error) -> Error {
    let (kind, hint) = match &error {
        object_store::Error::Unauthenticated { .. } => {
            (ErrorKind::Unauthenticated, "check the credentials of the lake")
        }
        object_store::Error::PermissionDenied { .. } => {
            (ErrorKind::PermissionDenied, "the lake's folder or bucket must be readable and writable")
        }
        object_store::Error::NotFound { .. } => (ErrorKind::NotFound, "it was removed while we worked"),
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
            (ErrorKind::Unsupported, "this object store lacks what the lake needs; `ingest check` says more")
        }
        _ => (ErrorKind::Unavailable, "is the lake reachable, and is there room on its disk? the same command resumes"),
    };
    Error::new(kind, what).with("path", path).hint(hint).caused_by(error)
}
