//! Receipts: what was erased for good, and that nothing of it was found afterwards.

use ingest_core::lake::{Erased, Traces};
use ingest_core::{Json, Result};
use serde::{Deserialize, Serialize};

use crate::{Created, Documents};

/// The receipt of one `ingest forget`. It holds no value of the rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForgetDocument {
    /// Format of the document.
    pub format: u32,
    /// The id of the call.
    pub run_id: String,
    /// This program's version.
    pub version: String,
    /// When it began: microseconds UTC.
    pub started_at: i64,
    /// When it ended.
    pub finished_at: i64,
    /// `column email`, `key`, `anywhere`.
    pub sought: String,
    /// How many values were given.
    pub values: usize,
    /// HMAC-SHA256 of each value under the mask key, so that the holder of key and value can tell what the receipt is for;
    /// empty where there is no key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fingerprints: Vec<String>,
    /// What was done with each table.
    pub tables: Vec<ForgottenTable>,
    /// Old documents that were removed, because they held one of the values.
    pub documents_removed: u64,
    /// Documents that were looked at.
    pub documents_searched: u64,
    /// What still holds a value, or could not be searched, in words. Empty = nothing that can be read holds one.
    pub left: Vec<String>,
    /// When dead files were deleted: microseconds UTC; `None` = older versions were kept until `ingest maintain` removes them.
    pub vacuumed_at: Option<i64>,
    /// Nothing that can be read holds one of the values.
    pub proven: bool,
}

/// What was done with one table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForgottenTable {
    /// `bronze/shop/orders`.
    pub table: String,
    /// What was erased.
    pub erased: Erased,
    /// What was found in a search afterwards.
    pub searched: Traces,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Json>,
}

impl ForgetDocument {
    /// Where it is kept. The start is in front, so that the order of names is the order of time.
    pub fn path(&self) -> String {
        format!("_ingest/forgotten/{:020}-{}.json", self.started_at, ingest_core::table_name(&self.run_id))
    }

    /// Keeps it.
    ///
    /// # Errors
    /// Whatever the store says.
    pub async fn record(&self, documents: &Documents) -> Result<Created> {
        documents.create(&self.path(), self).await
    }
}
