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
    /// What of the part is new, and what is left to the next run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) window: Option<Window>,
    /// The order of its rows, where changes follow: all come before them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<Seq>,
    /// The binlog instead of a table.
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
}

/// The part of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    /// All of it.
    #[default]
    Whole,
    /// A range of the first column of a key, read in its order.
    Keys { column: String, index: String, range: KeyRange },
    /// A window by hand: `from <= column < to`.
    Interval { column: String, from: String, to: String },
    /// None: the stream could not be planned. Why is known to the process that tried.
    Refused,
}

/// A window of an incremental read: `from < column <= upto`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) column: String,
    /// Whether rows without a value are read, too: in the first load.
    #[serde(default)]
    pub(crate) nulls: bool,
    /// What was read before ends here; `None`: nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Edge>,
    /// The highest value that is read; `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upto: Option<Edge>,
    /// Whether an index gives the rows in the order of the column, so that there are places to resume.
    #[serde(default)]
    pub(crate) ordered: bool,
}

/// A value of a column, as the server prints it.
pub type Edge = String;

/// Where a slice or a stream has been read to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Within a slice: all rows up to and with this value of its key or cursor.
    Upto(Edge),
    /// Of an incremental stream.
    Read(Box<Progress>),
    /// In the binlog.
    Log(LogPosition),
}

/// A place between two transactions of the binlog: what lies before it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPosition {
    /// Whose binlog it is: the server's own identifier.
    pub(crate) server: String,
    /// Name of the file: `binlog.000042`.
    pub(crate) file: String,
    /// Bytes from the file's beginning.
    pub(crate) pos: u64,
    /// The last transaction before it, where it is known: tells a server that was restored from one that went on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gtid: Option<String>,
}

impl LogPosition {
    /// The number of the file, by which files follow each other.
    pub(crate) fn number(&self) -> u64 {
        self.file.rsplit('.').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// Sorts behind all rows that were read before, and before all that come: those are numbered from 1 within the transaction
    /// that begins here or later.
    pub(crate) fn seq(&self) -> Seq {
        Seq::of(&[self.number(), self.pos, 0])
    }

    /// Sorts as the log does.
    pub(crate) fn order(&self) -> (u64, u64) {
        (self.number(), self.pos)
    }

    /// Whether everything before `head` is read.
    pub(crate) fn has_reached(&self, head: &Self) -> bool {
        self.order() >= head.order()
    }
}

/// What an incremental stream has read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The cursor column.
    pub(crate) column: String,
    /// Its highest value that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<Edge>,
    /// What the highest value was at earlier times (microseconds UTC): bounds what a transaction can bring that began
    /// after. Only for cursors that are no clock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) trail: Vec<(i64, Edge)>,
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
        let position = r#"{"read":{"column":"updated_at","after":"2026-01-01 00:00:00"}}"#;
        let Position::Read(progress) = serde_json::from_str(position).expect("version 1") else {
            panic!("another position")
        };
        assert_eq!(progress.after.as_deref(), Some("2026-01-01 00:00:00"));
        let work = r#"{"part":{"keys":{"column":"id","index":"PRIMARY","range":{"after":"10"}}}}"#;
        let work: Work = serde_json::from_str(work).expect("version 1");
        assert!(matches!(work.part, Part::Keys { range: KeyRange { after: Some(_), upto: None }, .. }));
        let window = r#"{"part":"whole","window":{"column":"c","from":"1","upto":"2","ordered":true}}"#;
        assert!(serde_json::from_str::<Work>(window).is_ok());
        let log = r#"{"log":{"server":"7","file":"binlog.000042","pos":1234,"gtid":"0-7-9"}}"#;
        let Position::Log(at) = serde_json::from_str(log).expect("version 1") else { panic!("another position") };
        assert_eq!(at.seq(), Seq::of(&[42, 1_234, 0]));
    }
}
