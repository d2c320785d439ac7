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
    /// Captured changes instead of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<Log>,
    /// The rows that were changed, as they are now, instead of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tracking: Option<Tracking>,
    /// What a person should know about this slice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// The changes of all tables of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    pub(crate) members: BTreeMap<StreamName, Member>,
}

/// What is wanted of a table's changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The columns; `None` = all that the table has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) columns: Option<Vec<String>>,
    /// What it had when the plan was made: the feed itself may begin earlier, for another table.
    pub(crate) from: String,
}

/// The tracked changes of all tables of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    pub(crate) members: BTreeMap<StreamName, TrackedMember>,
}

/// What is wanted of a tracked table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedMember {
    /// The columns; `None` = all that the table has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) columns: Option<Vec<String>>,
    /// What it had when the plan was made: the feed itself may begin earlier, for another table.
    pub(crate) from: i64,
}

/// The part of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    /// All of it.
    #[default]
    Whole,
    /// A range of the first column of a key, read in its order.
    Keys { column: String, range: KeyRange },
    /// A window by hand: `from <= column < to`.
    Interval { column: String, from: String, to: String },
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

/// A value of a column, as the server reads it.
pub type Edge = String;

/// Where a slice or a stream has been read to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Within a slice: all rows up to and with this value of its key or cursor.
    Upto(Edge),
    /// Of an incremental stream.
    Read(Progress),
    /// In the captured changes.
    Changes(ChangePosition),
    /// Among the versions of tracked rows.
    Tracked(TrackedPosition),
}

/// A place between two transactions of the log: everything up to it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangePosition {
    /// Whose log it is.
    pub(crate) database: String,
    /// The number of the last transaction's commit: ten bytes as hexadecimal digits.
    pub(crate) lsn: String,
}

impl ChangePosition {
    /// Sorts behind all changes of the transaction: theirs go on with a point, and the digits of another place.
    pub(crate) fn seq(&self) -> Seq {
        Seq::new(format!("{}.~", self.lsn))
    }
}

/// A version of the database: what changed up to it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedPosition {
    /// Whose version it is.
    pub(crate) database: String,
    /// As `CHANGE_TRACKING_CURRENT_VERSION()` counts.
    pub(crate) version: i64,
}

impl TrackedPosition {
    /// Sorts behind all rows of the version.
    pub(crate) fn seq(&self) -> Seq {
        Seq::new(format!("{:016x}.~", self.version))
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
}

impl Cursor for Position {
    fn seq(&self) -> Option<Seq> {
        match self {
            Self::Changes(at) => Some(at.seq()),
            Self::Tracked(at) => Some(at.seq()),
            Self::Upto(_) | Self::Read(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_state_of_version_1_still_reads() {
        let position = r#"{"read":{"column":"updated_at","after":"2026-01-01T00:00:00.0000001"}}"#;
        let Position::Read(progress) = serde_json::from_str(position).expect("version 1") else {
            panic!("another position")
        };
        assert_eq!(progress.after.as_deref(), Some("2026-01-01T00:00:00.0000001"));
        let work = r#"{"part":{"keys":{"column":"id","range":{"after":"10"}}}}"#;
        let work: Work = serde_json::from_str(work).expect("version 1");
        assert!(matches!(work.part, Part::Keys { range: KeyRange { after: Some(_), upto: None }, .. }));
        let window = r#"{"part":"whole","window":{"column":"c","from":"1","upto":"2","ordered":true}}"#;
        assert!(serde_json::from_str::<Work>(window).is_ok());
        let changes = r#"{"changes":{"database":"shop","lsn":"0000002a000001f80001"}}"#;
        let Position::Changes(at) = serde_json::from_str(changes).expect("version 1") else {
            panic!("another position")
        };
        let row = Seq::new("0000002a000001f80001.0000002a000001f80003.4");
        assert!(at.seq() > row && at.seq() < Seq::new("0000002a000001f80002.0000002a000001f80003.1"));
        let Position::Tracked(at) =
            serde_json::from_str(r#"{"tracked":{"database":"shop","version":41}}"#).expect("version 1")
        else {
            panic!("another position")
        };
        assert!(at.seq() > Seq::new("0000000000000029.U") && at.seq() < Seq::new("000000000000002a.D"));
    }
}
