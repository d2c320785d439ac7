//! Receipts: what a comparison of source and table has found.

use ingest_core::{Json, Result};
use serde::{Deserialize, Serialize};

use crate::{Created, Documents};

/// The receipt of one `ingest verify`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyDocument {
    /// Format of the document.
    pub format: u32,
    /// The id of the call.
    pub run_id: String,
    /// The source.
    pub source: String,
    /// This program's version.
    pub version: String,
    /// When it began: microseconds UTC.
    pub started_at: i64,
    /// When it ended.
    pub finished_at: i64,
    /// Whether every stream was compared and found equal.
    pub equal: bool,
    /// The streams.
    pub streams: Vec<VerifiedStream>,
}

/// A stream that was compared with its table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VerifiedStream {
    /// The stream, in the source's spelling.
    pub stream: String,
    /// `equal`, `unequal`; `failed`, `unsupported` where it could not be compared.
    pub outcome: String,
    /// The version of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_version: Option<u64>,
    /// `read`: the source was read; `summed`: it added its rows up by itself; `summed and read`: the latter for some columns;
    /// `counted`: it was asked for a count alone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub how: String,
    /// Rows of the source, without those that a check holds back.
    pub source_rows: u64,
    /// Rows of the table that stand for what the source has now.
    pub table_rows: u64,
    /// Rows of the source that a check holds back, or that cannot be read.
    pub quarantined_rows: u64,
    /// Hashes of all keys; none where there is no key, or keys were not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Compared>,
    /// Checksums of columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ComparedColumn>,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why it could not be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Json>,
}

/// Two sums, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Of the source.
    pub source: String,
    /// Of the table.
    pub table: String,
    /// Whether they are equal.
    pub equal: bool,
}

/// The sums of a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedColumn {
    /// The column of the table.
    pub column: String,
    /// `summed`: the source added its values up by itself; nothing: they were read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub how: String,
    /// Its sums.
    #[serde(flatten)]
    pub sums: Compared,
}

impl VerifyDocument {
    /// Where it is kept. The start is in front, so that the order of names is the order of time.
    pub fn path(&self) -> String {
        format!("_ingest/verified/{:020}-{}.json", self.started_at, ingest_core::table_name(&self.run_id))
    }

    /// Keeps it.
    ///
    /// # Errors
    /// Whatever the store says.
    pub async fn record(&self, documents: &Documents) -> Result<Created> {
        documents.create(&self.path(), self).await
    }
}
