//! What a slice says, and where it has been read to.

use std::collections::BTreeMap;

use ingest_core::{Cursor, SliceId};
use serde::{Deserialize, Serialize};

use crate::types::ColumnType;

/// What a slice says to this connector: a list, or the lists of some parents, in a window of its cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Work {
    /// The stream.
    pub stream: String,
    /// The lower bound of the cursor, inclusive: microseconds since 1970. `None` = from the first record on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// The upper bound, exclusive. `None` = everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<i64>,
    /// The columns, where a sample found some of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<(String, ColumnType)>>,
    /// The parents, in order; `None` where the stream has no parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parents: Option<Vec<ParentRow>>,
}

impl Work {
    /// Everything of a stream without a parent.
    pub fn all(stream: impl Into<String>) -> Self {
        Self { stream: stream.into(), from: None, to: None, columns: None, parents: None }
    }
}

/// The columns of a parent's row that its list needs: the JSON text of each, as the source wrote it.
pub type ParentRow = BTreeMap<String, String>;

/// Where a slice, or a stream between plans, has been read to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Position {
    /// Between plans: everything whose cursor lies below `to` is in the table.
    Until {
        /// Microseconds since 1970.
        to: i64,
        /// Of the parents whose lists were read: hashes of their rows, 16 digits each, sorted. A parent that comes into
        /// view later is read from the beginning.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parents: Option<String>,
    },
    /// Inside a slice.
    At {
        /// How many of its parents are done.
        parent: u32,
        /// The page that is next; `None` = the first one of that parent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        page: Option<Next>,
    },
}

impl Cursor for Position {}

/// What is asked for next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// The page behind a token.
    Token(String),
    /// The page at an address. Credentials are taken out of it.
    Link(String),
    /// The page after so many records, or of this number.
    Number(u64),
}

/// Under which a stream keeps its place between plans.
pub(crate) fn cursor_id() -> SliceId {
    SliceId::from("cursor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_state_reads_back() {
        for text in [
            r#"{"until":{"to":1790000000000000}}"#,
            r#"{"until":{"to":1,"parents":"00000000000000ff"}}"#,
            r#"{"at":{"parent":2}}"#,
            r#"{"at":{"parent":0,"page":{"token":"abc"}}}"#,
            r#"{"at":{"parent":0,"page":{"link":"https://api.example.com/x?page=2"}}}"#,
            r#"{"at":{"parent":0,"page":{"number":300}}}"#,
        ] {
            let position: Position = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&position).expect("JSON"), text);
        }
        let text = r#"{"stream":"items","from":1,"to":2,"columns":[["id","int64"]],"parents":[{"id":"\"7\""}]}"#;
        let work: Work = serde_json::from_str(text).expect(text);
        assert_eq!(serde_json::to_string(&work).expect("JSON"), text);
    }
}
