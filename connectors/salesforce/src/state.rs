//! What a slice says, and where it has been read to.

use arrow_schema::DataType;
use ingest_core::{Cursor, SliceId};
use serde::{Deserialize, Serialize};

/// What a slice says to this connector: a query of one object. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The object.
    pub object: String,
    /// The columns that are given.
    pub columns: Vec<(String, DataType)>,
    /// The field that says when a row was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Its lower bound, inclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// Its upper bound, exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<i64>,
    /// Rows without a cursor are read as well.
    #[serde(default)]
    pub undated: bool,
    /// The part of a large load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// The user's own condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Which rows.
    pub which: Which,
    /// Whether a job of the Bulk API reads it, or pages of a query.
    pub bulk: bool,
    /// When it was planned.
    pub at: i64,
    /// The topic whose changes are read in place of a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

/// Rows that were created in `[from, to)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// `None` = from the first row on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// `None` = to the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<i64>,
}

/// Which rows of an object are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// Those that are there.
    Live,
    /// Those that are there, archived ones among them.
    Archived,
    /// Also deleted ones, as `D`.
    Deleted,
}

/// Where a slice, or a stream between plans, has been read to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Position {
    /// Between plans: everything whose cursor lies below this is in the table. Microseconds since 1970.
    Until {
        /// The bound.
        to: i64,
    },
    /// Nothing has been read, and so many jobs have failed.
    Fresh {
        /// Jobs.
        failed: u8,
        /// The Bulk API refuses the object: pages of a query read it.
        #[serde(default)]
        by_pages: bool,
    },
    /// A job was made; it is not done, or its results have not been read.
    Job {
        /// Its id.
        id: String,
        /// Jobs before it that have failed.
        failed: u8,
    },
    /// The results of a job up to a page.
    Results {
        /// The job.
        job: String,
        /// The page that is next.
        locator: String,
        /// Rows so far.
        rows: u64,
    },
    /// Among the changes of an object.
    Feed {
        /// The last event, in base64; without one, the first that is kept comes next.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replay: Option<String>,
        /// The highest commit time so far: milliseconds since 1970.
        time: i64,
        /// Rows of that time so far.
        rows: u64,
        /// What was committed before is in the load: milliseconds since 1970, while there is no last event.
        #[serde(default)]
        since: i64,
    },
    /// Pages of a query.
    Page {
        /// The last id that was read.
        after: String,
        /// The page that is next, while Salesforce keeps it.
        locator: String,
    },
}

impl Cursor for Position {}

/// Under which a stream keeps its place between plans.
pub(crate) fn cursor_id() -> SliceId {
    SliceId::from("cursor")
}

/// When a stream with formula fields was read whole for the last time.
pub(crate) fn swept_id() -> SliceId {
    SliceId::from("swept")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_state_reads_back() {
        for text in [
            r#"{"until":{"to":1790000000000000}}"#,
            r#"{"fresh":{"failed":1,"by_pages":false}}"#,
            r#"{"job":{"id":"750","failed":0}}"#,
            r#"{"results":{"job":"750","locator":"MTAw","rows":100000}}"#,
            r#"{"feed":{"replay":"AAAB","time":1790000000000,"rows":2,"since":0}}"#,
            r#"{"feed":{"time":0,"rows":0,"since":1790000000000}}"#,
            r#"{"page":{"after":"001000000000001AAA","locator":"/services/data/v62.0/query/01g-2000"}}"#,
        ] {
            let position: Position = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&position).expect("JSON"), text);
        }
        let text = r#"{"object":"Account","columns":[["Id","Utf8"],["Amount",{"Decimal128":[18,2]}]],"undated":false,"which":"live","bulk":true,"at":1}"#;
        let work: Work = serde_json::from_str(text).expect(text);
        assert_eq!(serde_json::to_string(&work).expect("JSON"), text);
    }
}
