//! Schema history: one document per change of a stream's schema.

use arrow_schema::{Schema, SchemaRef};
use ingest_core::{CLASS, MASK, Result, StreamName};
use serde::{Deserialize, Serialize};

use crate::documents::numbered;
use crate::{Created, Documents, FORMAT};

/// Key of the schema metadata with the fingerprint of the key that masks depend on.
pub const MASK_KEY: &str = "ingest.mask_key";

/// Key of the schema metadata with the cursor column.
pub const CURSOR: &str = "ingest.cursor";

/// A stream as it was seen from some run on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamDocument {
    /// Format of the document.
    pub format: u32,
    /// The number of the document.
    pub k: i64,
    /// The source.
    pub source: String,
    /// The stream, in the source's spelling.
    pub stream: StreamName,
    /// The run that saw it first.
    pub run: String,
    /// When: microseconds UTC.
    pub seen_at: i64,
    /// The columns.
    pub columns: Vec<ColumnDocument>,
    /// The key.
    pub key: Vec<String>,
    /// The cursor column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Fingerprint of the mask key, where hashes or tokens are made with one; `none` = hashes without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_key: Option<String>,
    /// What changed against the document before, for people.
    #[serde(default)]
    pub changes: Vec<String>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDocument {
    /// Its name.
    pub name: String,
    /// Its Arrow type.
    #[serde(rename = "type")]
    pub data_type: String,
    /// Whether the source allows nulls.
    pub nullable: bool,
    /// Its data class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// How it is masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
}

impl ColumnDocument {
    /// The columns of a schema.
    pub fn of(schema: &Schema) -> Vec<Self> {
        schema
            .fields()
            .iter()
            .map(|field| Self {
                name: field.name().clone(),
                data_type: field.data_type().to_string(),
                nullable: field.is_nullable(),
                class: field.metadata().get(CLASS).cloned(),
                mask: field.metadata().get(MASK).cloned(),
            })
            .collect()
    }
}

/// The newest document of a stream.
pub async fn latest_stream(documents: &Documents, source: &str, folder: &str) -> Result<Option<StreamDocument>> {
    let root = format!("_ingest/streams/{source}/{folder}");
    let Some(newest) = documents.list(&root).await?.pop() else { return Ok(None) };
    documents.get(&format!("{root}/{newest}.json")).await
}

/// Records the schema of a stream if it differs from the newest document; answers what changed. Mask key and cursor are
/// taken from the metadata of the schema.
pub async fn record_stream(
    documents: &Documents,
    source: &str,
    stream: &StreamName,
    schema: &SchemaRef,
    key: &[String],
    run: &str,
    now: i64,
) -> Result<Vec<String>> {
    let folder = stream.table();
    for _ in 0..5 {
        let newest = latest_stream(documents, source, &folder).await?;
        let columns = ColumnDocument::of(schema);
        let changes = newest.as_ref().map_or_else(Vec::new, |old| changes(&old.columns, &columns));
        let said = |what: &str| schema.metadata().get(what).cloned();
        let (cursor, mask_key) = (said(CURSOR), said(MASK_KEY));
        let same = |old: &StreamDocument| {
            old.columns == columns && old.key == key && old.cursor == cursor && old.mask_key == mask_key
        };
        if newest.as_ref().is_some_and(same) {
            return Ok(Vec::new());
        }
        let document = StreamDocument {
            format: FORMAT,
            k: newest.map_or(1, |old| old.k + 1),
            source: source.to_owned(),
            stream: stream.clone(),
            run: run.to_owned(),
            seen_at: now,
            columns,
            key: key.to_vec(),
            cursor,
            mask_key,
            changes: changes.clone(),
        };
        let path = numbered(&format!("_ingest/streams/{source}/{folder}"), document.k);
        if documents.create(&path, &document).await? == Created::New {
            return Ok(changes);
        }
    }
    Ok(Vec::new())
}

fn changes(old: &[ColumnDocument], new: &[ColumnDocument]) -> Vec<String> {
    let mut found = Vec::new();
    for column in new {
        match old.iter().find(|o| o.name == column.name) {
            None => found.push(format!("column {} added as {}", column.name, column.data_type)),
            Some(o) if o.data_type != column.data_type => {
                found.push(format!("column {} changed from {} to {}", column.name, o.data_type, column.data_type));
            }
            Some(o) if o.mask != column.mask => {
                let mask = |mask: &Option<String>| mask.clone().unwrap_or_else(|| "none".to_owned());
                let (before, now) = (mask(&o.mask), mask(&column.mask));
                found.push(format!(
                    "the mask of column {} changed from {before} to {now}; rows that are there stay",
                    column.name
                ));
            }
            Some(_) => {}
        }
    }
    for column in old {
        if !new.iter().any(|n| n.name == column.name) {
            found.push(format!("column {} removed", column.name));
        }
    }
    found
}
