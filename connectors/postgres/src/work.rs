//! What a slice says, and where it has been read to.

use std::collections::BTreeMap;

use ingest_core::{Cursor, Seq, StreamName};
use ingest_sql::KeyRange;
use serde::{Deserialize, Serialize};

/// A slice: one SELECT over one table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Work {
    /// The columns to read; `None` = all that the table has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) columns: Option<Vec<String>>,
    /// `where` of the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<String>,
    pub(crate) part: Part,
    /// The snapshot that all slices of a plan share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<Snapshot>,
    /// What of the part is new, and what is left to the next run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) window: Option<Window>,
    /// The order of its rows, where changes follow: all come before them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<Seq>,
    /// The change log instead of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<Log>,
    /// What a person should know about this slice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// The changes of all tables of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The columns that are wanted of a stream; all of those that are not named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) columns: BTreeMap<StreamName, Vec<String>>,
    /// The columns that tell the rows of a stream apart, where they are not those of its table's key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) keys: BTreeMap<StreamName, Vec<String>>,
}

/// The part of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    /// All of it.
    #[default]
    Whole,
    /// Blocks `from..to` of one heap; the last range is open.
    Blocks { schema: String, table: String, from: u64, to: Option<u64> },
    /// A range of a single-column key, read in its order.
    Keys { column: String, range: KeyRange },
    /// A window by hand: `from <= column < to`.
    Interval { column: String, from: String, to: String },
    /// None: the stream could not be planned. Why is known to the process that tried.
    Refused,
}

/// An exported snapshot. It lives as long as the connection that exported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// Its name at the server.
    pub(crate) name: String,
    /// What is visible in it, `xmin:xmax:list`: names are given out again after a restart of the server.
    pub(crate) visible: String,
}

/// A window of an incremental read. See "Incremental" in the README for why it neither misses nor doubles a row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) column: String,
    /// Whether the column can be null.
    pub(crate) nulls: bool,
    /// The highest value that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<String>,
    /// Rows above this value that a transaction from `since` on wrote are new, too. `None`: rows of any value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) low: Option<String>,
    /// `None`: transactions say nothing here, only what lies above `after` is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<u32>,
    /// Rows above this value ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) next_low: Option<String>,
    /// ... that this or a later transaction wrote are left to the next run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<u32>,
    /// The highest value that is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upto: Option<String>,
    /// Whether an index gives the rows in the order of the column, so that there are places to resume.
    #[serde(default)]
    pub(crate) ordered: bool,
    /// What runs of an interval have read already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) intervals: Vec<Interval>,
}

/// Rows that the run of an interval has read beyond the position of its stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// The first value of the cursor.
    pub(crate) from: String,
    /// The first value that is not in it.
    pub(crate) to: String,
    /// Rows of earlier transactions were read. 64 bits, with the epoch.
    pub(crate) xid: u64,
}

/// Where a slice or a stream has been read to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Within a slice: all rows up to and with this value of its key or cursor.
    Upto(String),
    /// Of an incremental stream.
    Read(Box<Progress>),
    /// In the change log.
    Log(LogPosition),
}

/// A place in the change log: every transaction whose commit record lies before it is read, and no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPosition {
    /// Bytes of log since the cluster was made.
    pub(crate) lsn: u64,
    /// The server's own identifier: places mean nothing in another cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) system: Option<String>,
    /// The timeline on which it lies: a server that was restored goes on along another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeline: Option<u32>,
}

impl LogPosition {
    /// Sorts before all rows that come after it: those are numbered from 1 within their transaction.
    pub(crate) fn seq(&self) -> Seq {
        Seq::of(&[self.lsn, 0])
    }
}

/// What an incremental stream has read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The cursor column.
    pub(crate) column: String,
    /// Its highest value that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<String>,
    /// A transaction that was open may still bring rows above this value; `None` = of any value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) low: Option<String>,
    /// Rows of earlier transactions were read, rows of this and later ones were not. 64 bits, with the epoch.
    pub(crate) xid: u64,
    /// The server's own identifier: transaction numbers mean nothing in another cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) system: Option<String>,
    /// Checksum of the table's files: a rewritten table has new transaction numbers.
    pub(crate) files: String,
    /// What the highest value was at earlier times (microseconds UTC): bounds what a transaction can bring that began
    /// after. Only for cursors that are no clock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) trail: Vec<(i64, String)>,
    /// What runs of an interval have read beyond it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) intervals: Vec<Interval>,
}

impl Cursor for Position {
    fn seq(&self) -> Option<Seq> {
        match self {
            Self::Log(at) => Some(at.seq()),
            Self::Upto(_) | Self::Read(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_state_of_version_1_still_reads() {
        let position =
            r#"{"read":{"column":"updated_at","after":"2026-01-01 00:00:00+00","xid":4294967999,"files":"1:00"}}"#;
        let Position::Read(progress) = serde_json::from_str(position).expect("version 1") else {
            panic!("another position")
        };
        assert_eq!((progress.xid, progress.low), (4_294_967_999, None));
        let work = r#"{"part":{"keys":{"column":"id","range":{"after":"10"}}}}"#;
        let work: Work = serde_json::from_str(work).expect("version 1");
        assert!(matches!(work.part, Part::Keys { range: KeyRange { after: Some(_), upto: None }, .. }));
        let blocks = r#"{"part":{"blocks":{"schema":"s","table":"t","from":0,"to":9}},"snapshot":{"name":"n","visible":"1:1:"}}"#;
        assert!(serde_json::from_str::<Work>(blocks).is_ok());
    }
}
