//! Checkpoints of the log: the state of one version in one Parquet file, so that opening a table reads few commits.
//!
//! Classic, single-file checkpoints, which every reader of Delta takes. Source: the Delta protocol, "Checkpoints" and
//! "Checkpoint Schema".

use std::sync::Arc;

use arrow::json::ReaderBuilder;
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use bytes::Bytes;
use chrono::Utc;
use ingest_core::{Error, ErrorKind, Result};
use object_store::{ObjectStoreExt, PutPayload};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde_json::json;

use crate::action::{Action, Add, Txn, push_line};
use crate::log::Log;
use crate::snapshot::Snapshot;
use crate::store::{Put, store_error};

/// Lines turned into columns at once.
const LINES: usize = 4096;

/// Writes the checkpoint of the version that `snapshot` stands on. One that is there stays as it is.
pub(crate) async fn write(log: &Log, snapshot: &Snapshot) -> Result<()> {
    let version = snapshot.version();
    let retention = i64::try_from(snapshot.tombstone_retention().as_millis()).unwrap_or(i64::MAX);
    let horizon = Utc::now().timestamp_millis().saturating_sub(retention);
    let files = log.files(version).await?;
    let mut body = Vec::new();
    push_line(&mut body, &Action::Protocol(&snapshot.state.protocol))?;
    push_line(&mut body, &Action::Metadata(&snapshot.state.metadata))?;
    let mut lines = 2_u64;
    for txn in files.transactions.values() {
        push_line(&mut body, &Action::Txn(txn as &Txn))?;
        lines += 1;
    }
    for add in files.live.values() {
        push_line(&mut body, &Action::Add(&Add { data_change: false, ..add.clone() }))?;
        lines += 1;
    }
    for remove in files.removed.values().filter(|r| r.deletion_timestamp.unwrap_or(0) > horizon) {
        push_line(&mut body, &Action::Remove(remove))?;
        lines += 1;
    }
    let count = files.live.len();
    let encoded = tokio::task::spawn_blocking(move || encode(&body))
        .await
        .map_err(|e| Error::unexpected("writing a checkpoint was broken off").caused_by(e))??;
    let size = encoded.len();
    let path = log.log_folder().join(format!("{version:020}.checkpoint.parquet"));
    match log.lake.put_new(&path, encoded).await {
        Put::Created | Put::Exists => {}
        Put::Failed(e) | Put::Unknown(e) => return Err(e),
    }
    let hint = json!({"version": version, "size": lines, "sizeInBytes": size, "numOfAddFiles": count});
    let path = log.log_folder().join("_last_checkpoint");
    let put = log.lake.store.put(&path, PutPayload::from(hint.to_string())).await;
    put.map_err(|e| store_error(e, "write the hint to the newest checkpoint"))?;
    Ok(())
}

fn encode(body: &[u8]) -> Result<Bytes> {
    let fault = |e: parquet::errors::ParquetError| {
        Error::new(ErrorKind::Unexpected, "cannot encode a checkpoint of the log").caused_by(e)
    };
    let schema = checkpoint_schema();
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by(concat!("ingest ", env!("CARGO_PKG_VERSION")).to_string())
        .build();
    let mut encoded = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut encoded, schema.clone(), Some(properties)).map_err(fault)?;
    for batch in ReaderBuilder::new(schema).with_batch_size(LINES).build(body)? {
        writer.write(&batch?).map_err(fault)?;
    }
    writer.close().map_err(fault)?;
    Ok(encoded.into())
}

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn text(name: &str) -> Field {
    field(name, DataType::Utf8)
}

fn long(name: &str) -> Field {
    field(name, DataType::Int64)
}

fn structure(name: &str, fields: Vec<Field>) -> Field {
    field(name, DataType::Struct(Fields::from(fields)))
}

fn texts(name: &str) -> Field {
    field(name, DataType::List(Arc::new(Field::new("element", DataType::Utf8, true))))
}

fn text_map(name: &str) -> Field {
    let value = Field::new("value", DataType::Utf8, true);
    field(name, crate::schema::map_type(Field::new("key", DataType::Utf8, false), value))
}

fn checkpoint_schema() -> SchemaRef {
    let vector = || {
        structure(
            "deletionVector",
            vec![
                text("storageType"),
                text("pathOrInlineDv"),
                field("offset", DataType::Int32),
                field("sizeInBytes", DataType::Int32),
                long("cardinality"),
            ],
        )
    };
    let flag = |name| field(name, DataType::Boolean);
    Arc::new(Schema::new(vec![
        structure("txn", vec![text("appId"), long("version"), long("lastUpdated")]),
        structure(
            "add",
            vec![
                text("path"),
                text_map("partitionValues"),
                long("size"),
                long("modificationTime"),
                flag("dataChange"),
                text("stats"),
                text_map("tags"),
                vector(),
            ],
        ),
        structure(
            "remove",
            vec![
                text("path"),
                long("deletionTimestamp"),
                flag("dataChange"),
                flag("extendedFileMetadata"),
                text_map("partitionValues"),
                long("size"),
                vector(),
            ],
        ),
        structure(
            "metaData",
            vec![
                text("id"),
                text("name"),
                text("description"),
                structure("format", vec![text("provider"), text_map("options")]),
                text("schemaString"),
                texts("partitionColumns"),
                text_map("configuration"),
                long("createdTime"),
            ],
        ),
        structure(
            "protocol",
            vec![
                field("minReaderVersion", DataType::Int32),
                field("minWriterVersion", DataType::Int32),
                texts("readerFeatures"),
                texts("writerFeatures"),
            ],
        ),
    ]))
}
