//! The format: tables of one lake.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use chrono::Utc;
use ingest_core::lake::{Definition, Table, TableFormat};
use ingest_core::{Error, ErrorKind, Result};
use object_store::ObjectStore;
use object_store::path::Path;
use serde_json::json;
use url::Url;
use uuid::Uuid;

use crate::action::{Action, Format, Metadata, push_line};
use crate::log::{Log, State};
use crate::protocol::protocol_for;
use crate::schema::{StructType, has_timestamp_ntz};
use crate::store::{FOLDER_MODE, Lake, Put, io_kind, remove_torn};
use crate::table::DeltaTable;
use crate::types::{storage_schema, to_storage};
use crate::writer::check_columns;

/// Delta tables in one lake.
///
/// Cheap to clone; all clones share the connections to the store.
#[derive(Debug, Clone)]
pub struct DeltaFormat {
    lake: Arc<Lake>,
}

impl DeltaFormat {
    /// The format over a store that is rooted at the lake. `url` is for messages alone.
    pub fn new(store: Arc<dyn ObjectStore>, url: Url) -> Self {
        Self { lake: Arc::new(Lake { store, url, local: None }) }
    }

    /// Opens a lake at a path, `file://`, `s3://`, `gs://`, `az://` or `abfss://` URL. Nothing is asked of a remote
    /// store yet; a local folder is made when it is missing.
    ///
    /// Credentials come from the environment in the names of each cloud (`AWS_ACCESS_KEY_ID`,
    /// `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`, …) and, above that, from `options` in the names
    /// of the `object_store` crate.
    ///
    /// # Errors
    /// `ConfigInvalid` for a URL or an option that is not known, or a store that cannot be set up with them.
    pub fn open(url: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        Ok(Self { lake: Arc::new(Lake::open(url, options)?) })
    }

    /// The store, rooted at the lake, for what lies beside the tables.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        self.lake.store.clone()
    }

    /// Where the lake is.
    pub fn url(&self) -> &Url {
        &self.lake.url
    }

    /// Makes an object in the lake if there is none: `true` when it was made, `false` when somebody else's is there.
    /// Durable when it returns, also on a local disk.
    ///
    /// # Errors
    /// Certain failures by their kind. An outcome that nobody knows is an error too: look again before going on.
    pub async fn put_new(&self, path: &Path, body: bytes::Bytes) -> Result<bool> {
        if let Some(folder) = self.lake.local_path(path).as_deref().and_then(std::path::Path::parent) {
            let folder = folder.to_owned();
            make_folder(folder).await?;
        }
        match self.lake.put_new(path, body).await {
            Put::Created => Ok(true),
            Put::Exists => Ok(false),
            Put::Failed(e) | Put::Unknown(e) => Err(e),
        }
    }

    /// Checks that the store honours create-if-absent, on which every commit stands: writes a probe object twice and
    /// removes it.
    ///
    /// # Errors
    /// `Unsupported` when the second write went through; the store's own error when it cannot be written to.
    pub async fn probe(&self) -> Result<()> {
        self.lake.probe().await
    }

    #[cfg(test)]
    pub(crate) fn lake(&self) -> Arc<Lake> {
        self.lake.clone()
    }

    fn log(&self, folder: &str) -> Result<Log> {
        let path = Path::parse(folder)
            .map_err(|e| Error::config("a table's folder cannot be used").with("table", folder).caused_by(e))?;
        Ok(Log::new(self.lake.clone(), path))
    }
}

#[async_trait]
impl TableFormat for DeltaFormat {
    fn name(&self) -> &'static str {
        "delta"
    }

    async fn remove_torn(&self, folder: &str, older_than: Duration) -> Result<u64> {
        let path = Path::parse(folder).map_err(|e| Error::unexpected("cannot name a folder").caused_by(e))?;
        let Some(folder) = self.lake.local_path(&path) else { return Ok(0) };
        let removed = tokio::task::spawn_blocking(move || remove_torn(&folder, older_than)).await;
        let removed =
            removed.map_err(|e| Error::unexpected("the removal of unfinished files was broken off").caused_by(e))?;
        removed.map_err(|e| Error::new(io_kind(&e), "cannot remove unfinished files").with("folder", path).caused_by(e))
    }

    async fn open(&self, folder: &str) -> Result<Option<Box<dyn Table>>> {
        let table = DeltaTable::open(self.log(folder)?).await?;
        Ok(table.map(|t| Box::new(t) as Box<dyn Table>))
    }

    async fn create(&self, folder: &str, definition: &Definition) -> Result<Box<dyn Table>> {
        let log = self.log(folder)?;
        let stood = Utc::now();
        let (state, body) = creation(definition).map_err(|e| e.with("table", folder))?;
        let path = log.commit_path(0);
        if let Some(folder) = self.lake.local_path(&log.log_folder()) {
            make_folder(folder).await?;
        }
        match self.lake.put_new(&path, body.into()).await {
            Put::Created => return Ok(Box::new(DeltaTable::at(log, state, stood)?)),
            Put::Exists => {}
            Put::Failed(e) | Put::Unknown(e) => return Err(e.with("table", folder)),
        }
        let table = DeltaTable::open(log).await?.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "a table that somebody just made cannot be found")
                .with("table", folder)
                .hint("the store must show an object as soon as it is written")
        })?;
        Ok(Box::new(table))
    }

    fn storage_schema(&self, schema: &SchemaRef) -> Result<SchemaRef> {
        storage_schema(schema)
    }

    fn to_storage(&self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        to_storage(batch, schema)
    }
}

async fn make_folder(folder: std::path::PathBuf) -> Result<()> {
    let shown = folder.display().to_string();
    tokio::task::spawn_blocking(move || ingest_core::durable::make_folder(&folder, FOLDER_MODE))
        .await
        .map_err(|e| Error::unexpected("making a folder was broken off").caused_by(e))?
        .map_err(|e| {
            Error::new(crate::store::io_kind(&e), "cannot make a folder of the lake")
                .with("folder", shown)
                .hint("check the rights of the lake's folder")
                .caused_by(e)
        })
}

/// The commit that makes a table, and what the table is then. It carries no rows: it is not fenced.
fn creation(definition: &Definition) -> Result<(State, Vec<u8>)> {
    check_columns(&definition.schema, &definition.partition_by)?;
    let columns = StructType::of(&definition.schema)?;
    let now = Utc::now().timestamp_millis();
    let metadata = Metadata {
        id: Uuid::new_v4().to_string(),
        name: None,
        description: definition.description.clone(),
        format: Format { provider: "parquet".into(), options: BTreeMap::new() },
        schema_string: columns.to_json()?,
        partition_columns: definition.partition_by.clone(),
        configuration: BTreeMap::from([("delta.checkpointInterval".to_string(), Some("100".to_string()))]),
        created_time: Some(now),
    };
    let info = json!({
        "timestamp": now,
        "operation": "CREATE TABLE",
        "operationParameters": {
            "isManaged": "false",
            "partitionBy": serde_json::Value::from(definition.partition_by.clone()).to_string(),
        },
        "isBlindAppend": true,
        "engineInfo": concat!("ingest/", env!("CARGO_PKG_VERSION")),
        "txnId": Uuid::new_v4().to_string(),
    });
    let mut body = Vec::new();
    push_line(&mut body, &Action::Info(&info))?;
    let protocol = protocol_for(has_timestamp_ntz(&columns));
    push_line(&mut body, &Action::Protocol(&protocol))?;
    push_line(&mut body, &Action::Metadata(&metadata))?;
    Ok((State { version: 0, protocol, metadata, transactions: HashMap::new() }, body))
}
