//! The store of the lake: where it is, how an object is made exactly once, and what its errors mean.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path as FilePath, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ingest_core::durable::{make_folder, sync_folder};
use ingest_core::{Error, ErrorKind, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutPayload, RetryConfig};
use url::{Host, Url};
use uuid::Uuid;

/// Rights of new folders, within what the process's mask leaves of them.
pub(crate) const FOLDER_MODE: u32 = 0o777;

/// A store rooted at the lake.
#[derive(Debug)]
pub(crate) struct Lake {
    pub store: Arc<dyn ObjectStore>,
    pub url: Url,
    /// The folder of a lake on a local disk. Files are written there directly: the store's own writer makes nothing
    /// durable.
    pub local: Option<PathBuf>,
}

/// What became of a create-if-absent.
#[derive(Debug)]
pub(crate) enum Put {
    /// The object is there and holds our bytes.
    Created,
    /// Somebody else's object is there.
    Exists,
    /// Certainly not applied.
    Failed(Error),
    /// It may be applied now, later or never.
    Unknown(Error),
}

impl Lake {
    /// Opens the lake at a path or URL.
    pub fn open(url: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        // A plain path may hold a colon, so only `://` makes a URL.
        if !url.contains("://") {
            return Self::open_folder(FilePath::new(url));
        }
        let parsed = Url::parse(url).map_err(|e| Error::config("the lake's URL cannot be read").caused_by(e))?;
        if parsed.scheme() == "file" {
            let folder = parsed
                .to_file_path()
                .map_err(|()| Error::config("the lake's URL is not a local path").with("lake", shown(&parsed)))?;
            return Self::open_folder(&folder);
        }
        let (store, prefix) = open_cloud(&parsed, options)?;
        let store: Arc<dyn ObjectStore> =
            if prefix.as_ref().is_empty() { store } else { Arc::new(PrefixStore::new(store, prefix)) };
        Ok(Self { store, url: parsed, local: None })
    }

    fn open_folder(folder: &FilePath) -> Result<Self> {
        let fault = |e: io::Error| {
            Error::new(io_kind(&e), "cannot open the folder of the lake")
                .with("lake", folder.display())
                .hint("the folder is made when it is missing: check the path and the rights of its parent")
                .caused_by(e)
        };
        make_folder(folder, FOLDER_MODE).map_err(fault)?;
        let folder = folder.canonicalize().map_err(fault)?;
        let url = Url::from_directory_path(&folder)
            .map_err(|()| Error::config("the lake's path cannot be used").with("lake", folder.display()))?;
        let store = LocalFileSystem::new_with_prefix(&folder).map_err(|e| store_error(e, "open the lake"))?;
        Ok(Self { store: Arc::new(store), url, local: Some(folder) })
    }

    /// Where an object of a local lake lies.
    pub fn local_path(&self, path: &Path) -> Option<PathBuf> {
        let mut local = self.local.clone()?;
        local.extend(path.parts().map(|p| p.as_ref().to_string()));
        Some(local)
    }

    /// Creates an object if there is none, durably, and settles what became of it.
    ///
    /// A request that was repeated by a lower layer after a lost answer meets its own first attempt, so an object that
    /// is there is compared with ours before it counts as somebody else's.
    pub async fn put_new(&self, path: &Path, body: Bytes) -> Put {
        let result = match self.local_path(path) {
            Some(file) => put_new_file(file, body.clone()).await,
            None => self
                .store
                .put_opts(path, PutPayload::from_bytes(body.clone()), PutMode::Create.into())
                .await
                .map(|_| ()),
        };
        let Err(error) = result else { return Put::Created };
        let found = match self.store.get(path).await {
            Ok(found) => found.bytes().await,
            Err(e) => Err(e),
        };
        match found {
            Ok(found) if found == body => Put::Created,
            Ok(_) => Put::Exists,
            Err(_) if is_refusal(&error) => Put::Failed(store_error(error, "create an object").with("object", path)),
            Err(_) => Put::Unknown(store_error(error, "create an object").with("object", path)),
        }
    }

    /// Reads an object; `None` when there is none.
    pub async fn get(&self, path: &Path) -> Result<Option<Bytes>> {
        let found = match self.store.get(path).await {
            Ok(found) => found.bytes().await,
            Err(e) => Err(e),
        };
        match found {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(store_error(e, "read an object").with("object", path)),
        }
    }

    /// Checks that the store honours create-if-absent, on which every commit stands.
    pub async fn probe(&self) -> Result<()> {
        let path = Path::from(format!("_ingest/probe/{}", Uuid::new_v4()));
        let first = self.store.put_opts(&path, "first".into(), PutMode::Create.into()).await;
        first.map_err(|e| store_error(e, "write a probe object").with("object", &path))?;
        let second = self.store.put_opts(&path, "second".into(), PutMode::Create.into()).await;
        let kept = self.get(&path).await;
        if let Err(e) = self.store.delete(&path).await {
            tracing::warn!(object = %path, error = %e, "cannot remove the probe object");
        }
        match second {
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })
                if kept.as_ref().is_ok_and(|k| k.as_deref() == Some(b"first")) =>
            {
                Ok(())
            }
            Err(e) if !matches!(e, object_store::Error::AlreadyExists { .. }) => {
                Err(store_error(e, "write a probe object a second time").with("object", &path))
            }
            _ => Err(Error::new(ErrorKind::Unsupported, "the object store does not honour create-if-absent")
                .with("lake", shown(&self.url))
                .hint(
                    "two runs could overwrite each other's commits: use a store with conditional puts (S3, GCS, \
                     Azure, a current MinIO), or update the server",
                )),
        }
    }
}

/// Writes a new file and makes it durable: data first, then its name.
async fn put_new_file(file: PathBuf, body: Bytes) -> object_store::Result<()> {
    let write = move || -> io::Result<()> {
        let folder = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
        // `name#digits` is what the local store itself calls a staged file: its listings leave such files out.
        let mut staged = file.clone().into_os_string();
        staged.push(format!("#{}", Uuid::new_v4().as_u128()));
        let staged = PathBuf::from(staged);
        let linked = fs::File::create_new(&staged)
            .and_then(|mut f| {
                f.write_all(&body)?;
                f.sync_data()
            })
            .and_then(|()| fs::hard_link(&staged, &file));
        let removed = fs::remove_file(&staged);
        linked?;
        removed?;
        sync_folder(folder)
    };
    let result = tokio::task::spawn_blocking(write)
        .await
        .map_err(|e| object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(e) })?;
    result.map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists { path: String::new(), source: e.into() },
        io::ErrorKind::PermissionDenied => {
            object_store::Error::PermissionDenied { path: String::new(), source: e.into() }
        }
        _ => object_store::Error::Generic { store: "LocalFileSystem", source: e.into() },
    })
}

/// Removes staged files (`name#digits`) whose writer is gone, in a folder and below.
pub(crate) fn remove_torn(folder: &FilePath, older_than: Duration) -> io::Result<u64> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            removed += remove_torn(&path, older_than)?;
            continue;
        }
        let name = entry.file_name();
        let staged = name.to_str().and_then(|name| name.rsplit_once('#'));
        if !staged.is_some_and(|(_, id)| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit())) {
            continue;
        }
        // Whoever ended or removed it since was faster; a file of the future is young.
        let age = entry.metadata().and_then(|found| found.modified()).map(|at| at.elapsed().unwrap_or_default());
        match age.and_then(|age| if age >= older_than { fs::remove_file(&path).map(|()| 1) } else { Ok(0) }) {
            Ok(count) => removed += count,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(removed)
}

fn open_cloud(url: &Url, options: &BTreeMap<String, String>) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let unknown = || {
        Error::config("the lake's URL is of no known kind")
            .with("lake", shown(url))
            .hint("use a path, file://, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or abfss://")
    };
    let (scheme, prefix) = ObjectStoreScheme::parse(url).map_err(|e| unknown().caused_by(e))?;
    // Together with the requests themselves this stays near the 90 seconds after which a call is given up.
    let retry = RetryConfig { max_retries: 4, retry_timeout: Duration::from_secs(60), ..RetryConfig::default() };
    let fault = |e: object_store::Error| {
        Error::config("cannot set up the lake's object store").with("lake", shown(url)).caused_by(e)
    };
    let store: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::AmazonS3 => {
            let mut builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retry);
            for (key, value) in options {
                builder = builder.with_config(config_key(key)?, value);
            }
            if builder.get_config_value(&AmazonS3ConfigKey::Endpoint).is_some_and(|e| is_loopback(&e)) {
                builder = builder.with_allow_http(true);
            }
            Arc::new(builder.build().map_err(fault)?)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(retry);
            for (key, value) in options {
                builder = builder.with_config(config_key(key)?, value);
            }
            Arc::new(builder.build().map_err(fault)?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_retry(retry);
            for (key, value) in options {
                builder = builder.with_config(config_key(key)?, value);
            }
            if builder.get_config_value(&AzureConfigKey::Endpoint).is_some_and(|e| is_loopback(&e)) {
                builder = builder.with_allow_http(true);
            }
            Arc::new(builder.build().map_err(fault)?)
        }
        _ => return Err(unknown()),
    };
    Ok((store, prefix))
}

/// Plain HTTP is for a server on this machine; elsewhere it takes the option `allow_http`.
fn is_loopback(endpoint: &str) -> bool {
    match Url::parse(endpoint).as_ref().map(Url::host) {
        Ok(Some(Host::Domain(name))) => name.eq_ignore_ascii_case("localhost"),
        Ok(Some(Host::Ipv4(address))) => address.is_loopback(),
        Ok(Some(Host::Ipv6(address))) => address.is_loopback(),
        _ => false,
    }
}

fn config_key<K: FromStr<Err = object_store::Error>>(key: &str) -> Result<K> {
    K::from_str(&key.to_ascii_lowercase()).map_err(|e| {
        Error::config("unknown option of the lake's object store")
            .with("option", key)
            .hint("the names are those of the object_store crate: region, endpoint, access_key_id, allow_http, …")
            .caused_by(e)
    })
}

/// A URL without what may be secret in it.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    if url.password().is_some() && url.set_password(None).is_err() {
        return format!("{}:", url.scheme());
    }
    url.to_string()
}

/// Whether a request was certainly turned down before it did anything.
fn is_refusal(error: &object_store::Error) -> bool {
    use object_store::Error::{
        InvalidPath, NotFound, NotImplemented, NotSupported, PermissionDenied, Unauthenticated, UnknownConfigurationKey,
    };
    let by_kind = matches!(
        error,
        InvalidPath { .. }
            | NotFound { .. }
            | NotImplemented { .. }
            | NotSupported { .. }
            | PermissionDenied { .. }
            | Unauthenticated { .. }
            | UnknownConfigurationKey { .. }
    );
    // A local write that failed left nothing behind: the name is made last.
    by_kind || io_cause(error).is_some_and(|e| matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::NotFound))
}

fn io_cause(error: &object_store::Error) -> Option<&io::Error> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io);
        }
        next = cause.source();
    }
    None
}

pub(crate) fn io_kind(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        io::ErrorKind::TimedOut => ErrorKind::Timeout,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::LimitExceeded,
        _ => ErrorKind::Unavailable,
    }
}

/// Gives an error of the store its kind. The store has repeated the request already, so nobody else shall.
pub(crate) fn store_error(error: object_store::Error, attempted: &str) -> Error {
    use object_store::Error as E;
    let kind = match &error {
        E::NotFound { .. } => ErrorKind::NotFound,
        E::PermissionDenied { .. } => ErrorKind::PermissionDenied,
        E::Unauthenticated { .. } => ErrorKind::Unauthenticated,
        E::NotImplemented { .. } | E::NotSupported { .. } => ErrorKind::Unsupported,
        E::InvalidPath { .. } | E::UnknownConfigurationKey { .. } => ErrorKind::ConfigInvalid,
        other => io_cause(other).map_or(ErrorKind::Unavailable, io_kind),
    };
    let hint = match kind {
        ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => {
            "the lake needs rights to read, write, list and delete: check its credentials"
        }
        ErrorKind::LimitExceeded => "make room on the disk of the lake",
        _ => "check the lake's URL and whether its store can be reached",
    };
    Error::new(kind, format!("cannot {attempted}")).hint(hint).exhausted().caused_by(error)
}
