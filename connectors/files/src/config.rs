//! The configuration of a files source.

use std::collections::BTreeMap;
use std::sync::Arc;

use ingest_core::config::ByteSize;
use ingest_core::{Error, JsonSchema, Result, Secret};
use ingest_files::{Defaults, FileStream, StreamOptions};
use serde::Deserialize;

/// Reads files of a folder or an object store.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct FilesConfig {
    /// The root: a folder (`/data/in`, `./in`), or a URL: `s3://bucket/prefix`, `gs://bucket/prefix`,
    /// `az://container/prefix` (with `account`), `https://host/path`.
    pub path: String,
    /// The streams by name. Left out or `{}`: each file directly under the root is a stream named by its stem, and so is
    /// each folder there whose files are all of one format.
    pub files: BTreeMap<String, FileStream>,

    /// A record (a line, an element of an array) larger than this goes to quarantine. Default: 64MiB.
    pub max_record: ByteSize,
    /// A compressed file that grows to more than this many times its size is refused. Default: 200.
    pub max_ratio: u64,
    /// A file that decompresses to more than this is refused. Default: 1024GiB.
    pub max_decompressed: ByteSize,

    /// Region of the bucket (`s3://`). Default: `AWS_REGION`, else us-east-1.
    pub region: Option<String>,
    /// Base URL of the object store, for stores that speak the protocol of another: MinIO, Ceph, R2, an emulator.
    pub endpoint: Option<String>,
    /// Access key (`s3://`). Default: `AWS_ACCESS_KEY_ID`, else the role of the machine.
    pub access_key_id: Option<Secret>,
    /// Secret key (`s3://`).
    pub secret_access_key: Option<Secret>,
    /// Session token of temporary keys (`s3://`).
    pub session_token: Option<Secret>,
    /// Requests are not signed: public buckets. Default: false.
    pub anonymous: bool,
    /// Service account (`gs://`): the JSON text of its key. Default: application default credentials.
    pub service_account_key: Option<Secret>,
    /// Storage account (`az://`). Default: `AZURE_STORAGE_ACCOUNT_NAME`.
    pub account: Option<String>,
    /// Key of the storage account (`az://`).
    pub account_key: Option<Secret>,
    /// Shared access signature (`az://`): the query text of a SAS URL; listing needs a signature of the container.
    pub sas_token: Option<Secret>,
    /// Allows `http://` to other hosts than this machine. Anyone on the way can read and change everything.
    pub danger_plaintext: bool,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            path: String::new(),
            files: BTreeMap::new(),
            max_record: ByteSize(64 << 20),
            max_ratio: 200,
            max_decompressed: ByteSize(1 << 40),
            region: None,
            endpoint: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            anonymous: false,
            service_account_key: None,
            account: None,
            account_key: None,
            sas_token: None,
            danger_plaintext: false,
        }
    }
}

impl FilesConfig {
    /// Checks everything at once.
    ///
    /// # Errors
    /// `ConfigInvalid` that names every wrong key.
    pub(crate) fn streams(&self) -> Result<Vec<Arc<StreamOptions>>> {
        let mut wrong = Vec::new();
        if self.path.trim().is_empty() {
            wrong.push("path: is missing; give a folder or a URL such as s3://bucket/prefix".to_owned());
        }
        let streams = ingest_files::streams(&self.files, &Defaults::default()).unwrap_or_else(|problems| {
            wrong.extend(problems);
            Vec::new()
        });
        if wrong.is_empty() {
            return Ok(streams);
        }
        Err(Error::config(format!("invalid configuration: {}", wrong.join("; ")))
            .hint("`ingest connectors files` explains every field"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_reported_at_once() {
        let config: FilesConfig = serde_json::from_value(serde_json::json!({
            "files": {"a": {"path": "a.bin"}, "b": {"path": "../b.csv", "delimiter": "||", "encoding": "klingon"}}
        }))
        .expect("config");
        let error = config.streams().expect_err("wrong").to_string();
        for part in ["path: is missing", "files.a.format", "files.b.path", "files.b.delimiter", "files.b.encoding"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn no_secret_is_printed() {
        let config: FilesConfig = serde_json::from_value(serde_json::json!({
            "path": "s3://b", "access_key_id": "canary1", "secret_access_key": "canary2", "sas_token": "canary3"
        }))
        .expect("config");
        assert!(!format!("{config:?}").contains("canary"));
    }
}
