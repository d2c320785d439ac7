//! The actions of a Delta log: what a line of `_delta_log/<version>.json` says.
//!
//! Source: the Delta transaction log protocol, section "Actions". Fields that this crate does not use are left out on
//! reading; actions that it does not use (`cdc`, `domainMetadata`, …) are skipped.

use std::collections::BTreeMap;

use ingest_core::{Error, ErrorKind, Json, Result, lake::DataFile};
use serde::{Deserialize, Serialize};

/// A data file that becomes part of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Add {
    /// Percent-encoded, relative to the table; absolute in cloned tables.
    pub path: String,
    /// Missing and null mean the same: null.
    #[serde(default)]
    pub partition_values: BTreeMap<String, Option<String>>,
    pub size: u64,
    #[serde(default)]
    pub modification_time: i64,
    #[serde(default)]
    pub data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, Option<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<Json>,
}

/// A data file that is no longer part of the table; a tombstone until its retention is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Remove {
    pub path: String,
    #[serde(default)]
    pub deletion_timestamp: Option<i64>,
    #[serde(default)]
    pub data_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_file_metadata: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_values: Option<BTreeMap<String, Option<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<Json>,
}

/// The newest number of an application id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Txn {
    pub app_id: String,
    pub version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<i64>,
}

/// What a reader and a writer must be able to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Protocol {
    pub min_reader_version: i32,
    pub min_writer_version: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer_features: Option<Vec<String>>,
}

/// The table: its id, schema, partition columns, properties.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub format: Format,
    pub schema_string: String,
    pub partition_columns: Vec<String>,
    #[serde(default)]
    pub configuration: BTreeMap<String, Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<i64>,
}

impl Metadata {
    /// A table property.
    pub fn property(&self, key: &str) -> Option<&str> {
        self.configuration.get(key).and_then(Option::as_deref)
    }
}

/// The encoding of data files; only Parquet exists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Format {
    pub provider: String,
    #[serde(default)]
    pub options: BTreeMap<String, Option<String>>,
}

/// A part of a version 2 checkpoint, below `_delta_log/_sidecars`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sidecar {
    pub path: String,
}

/// A line of the log, for reading: at most one of the fields is there.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    #[serde(default)]
    pub add: Option<Add>,
    #[serde(default)]
    pub remove: Option<Remove>,
    #[serde(default)]
    pub txn: Option<Txn>,
    #[serde(default)]
    pub protocol: Option<Protocol>,
    #[serde(default)]
    pub meta_data: Option<Metadata>,
    #[serde(default)]
    pub sidecar: Option<Sidecar>,
}

/// A line of the log, for writing.
#[derive(Debug, Serialize)]
pub(crate) enum Action<'a> {
    #[serde(rename = "commitInfo")]
    Info(&'a Json),
    #[serde(rename = "protocol")]
    Protocol(&'a Protocol),
    #[serde(rename = "metaData")]
    Metadata(&'a Metadata),
    #[serde(rename = "txn")]
    Txn(&'a Txn),
    #[serde(rename = "remove")]
    Remove(&'a Remove),
    #[serde(rename = "add")]
    Add(&'a Add),
}

/// Appends an action as a line.
pub(crate) fn push_line(body: &mut Vec<u8>, action: &Action<'_>) -> Result<()> {
    serde_json::to_writer(&mut *body, action)
        .map_err(|e| Error::unexpected("cannot write a log action as JSON").caused_by(e))?;
    body.push(b'\n');
    Ok(())
}

/// Reads the lines of a commit or a JSON checkpoint. File actions are left out where they are not wanted: they make up
/// nearly all of a log, and opening a table does not need them.
pub(crate) fn parse_lines(bytes: &[u8], files: bool) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for text in bytes.split(|b| *b == b'\n') {
        let text = text.trim_ascii();
        if text.is_empty() || (!files && (text.starts_with(b"{\"add\"") || text.starts_with(b"{\"remove\""))) {
            continue;
        }
        let line = serde_json::from_slice(text)
            .map_err(|e| Error::new(ErrorKind::DataInvalid, "cannot read an action of the table's log").caused_by(e))?;
        lines.push(line);
    }
    Ok(lines)
}

impl Add {
    /// The action for a file that a writer made.
    pub fn of(file: &DataFile, data_change: bool) -> Self {
        Self {
            path: file.path.clone(),
            partition_values: file.partition.iter().cloned().collect(),
            size: file.bytes,
            modification_time: file.modified,
            data_change,
            stats: file.stats.clone(),
            tags: None,
            deletion_vector: None,
        }
    }

    /// The tombstone that takes this file out of the table.
    pub fn tombstone(&self, now: i64, data_change: bool) -> Remove {
        Remove {
            path: self.path.clone(),
            deletion_timestamp: Some(now),
            data_change,
            extended_file_metadata: Some(true),
            partition_values: Some(self.partition_values.clone()),
            size: Some(self.size),
            deletion_vector: self.deletion_vector.clone(),
        }
    }

    /// The file as the runner sees it. `columns` are the table's partition columns, in order.
    pub fn data_file(&self, columns: &[String]) -> DataFile {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Count {
            num_records: Option<u64>,
        }
        let count = self.stats.as_deref().and_then(|s| serde_json::from_str::<Count>(s).ok());
        let deleted =
            self.deletion_vector.as_ref().and_then(|v| v.get("cardinality")).and_then(Json::as_u64).unwrap_or_default();
        DataFile {
            path: self.path.clone(),
            bytes: self.size,
            rows: count.and_then(|c| c.num_records).unwrap_or_default().saturating_sub(deleted),
            partition: columns
                .iter()
                .map(|name| (name.clone(), self.partition_values.get(name).cloned().flatten()))
                .collect(),
            stats: self.stats.clone(),
            modified: self.modification_time,
        }
    }
}
