//! What a slice says, and where it has been read to.

use std::collections::BTreeMap;

use ingest_core::{Cursor, Json, Seq, StreamName};
use serde::{Deserialize, Serialize};

use crate::rows::{Column, Layout};
use crate::select::Class;

/// A slice: one query over one collection, or the change stream of many.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Work {
    /// The columns as they were when the slice was planned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) columns: Vec<Column>,
    #[serde(default)]
    pub(crate) layout: Layout,
    /// `where` of the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<String>,
    #[serde(default)]
    pub(crate) part: Part,
    /// What of the part is new, and what is left to the next run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) window: Option<Window>,
    /// Where changes follow: what is read holds everything up to there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<FeedPosition>,
    /// The change stream instead of a collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) feed: Option<Feed>,
    /// What a person should know about this slice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// The changes of all collections of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Feed {
    /// The columns that are wanted of a stream; all of those that are not named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) columns: BTreeMap<StreamName, Vec<String>>,
}

/// The part of a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    /// All of it, in no order: views, and collections whose `_id` is no index.
    #[default]
    Unordered,
    /// All of it, in the order of `_id`.
    Whole,
    /// A range of `_id`, `after < _id <= upto`, in its order. Comparisons of a server see values of one class alone.
    Ids {
        class: Class,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Json>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upto: Option<Json>,
    },
    /// A window by hand, in milliseconds: `from <= column < to`.
    Interval { column: String, from: i64, to: i64 },
}

/// A window of an incremental read: `from < column <= upto`. Values are extended JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) column: String,
    /// What was read before ends here; `None`: nothing was, and documents without a value are read too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Json>,
    /// The highest value that is read; `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upto: Option<Json>,
    /// Whether an index gives the documents in the order of the field, so that there are places to resume.
    #[serde(default)]
    pub(crate) ordered: bool,
}

/// Where a slice or a stream has been read to. Values are extended JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Within a slice: all documents up to and with this `_id` or cursor.
    Upto(Json),
    /// Of an incremental stream.
    Read(Progress),
    /// In the change stream.
    Feed(FeedPosition),
}

/// What an incremental stream has read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The cursor field.
    pub(crate) column: String,
    /// Its highest value that was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<Json>,
}

/// A place in a change stream: what lies before it is read. It never stands between changes of one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedPosition {
    /// What the stream watches: `database shop`, `cluster`. A token of another is worth nothing.
    pub(crate) scope: String,
    /// The server's token to go on after; `None`: from `time` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<Json>,
    /// The time of the last change before it: seconds in the upper half, a count in the lower.
    pub(crate) time: u64,
    /// How often the stream went on since without a change.
    #[serde(default)]
    pub(crate) beat: u64,
}

impl FeedPosition {
    /// Before everything that happens at a time of the cluster.
    pub(crate) fn before(scope: String, time: u64) -> Self {
        Self { scope, token: None, time: time.saturating_sub(1), beat: 0 }
    }

    /// Sorts behind all changes up to its time, which are numbered from 1 within theirs, and before all that come.
    pub(crate) fn seq(&self) -> Seq {
        Seq::of(&[self.time, (1 << 63) + self.beat])
    }

    /// The place behind a token without a further change.
    pub(crate) fn on(&self, token: Json) -> Self {
        Self { scope: self.scope.clone(), token: Some(token), time: self.time, beat: self.beat + 1 }
    }

    /// The place behind all changes of a time.
    pub(crate) fn behind(&self, time: u64, token: Json) -> Self {
        Self { scope: self.scope.clone(), token: Some(token), time, beat: 0 }
    }
}

impl Cursor for Position {
    fn seq(&self) -> Option<Seq> {
        match self {
            Self::Feed(at) => Some(at.seq()),
            Self::Upto(_) | Self::Read(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_state_of_version_1_still_reads() {
        let position = r#"{"feed":{"scope":"database shop","token":{"_data":"82"},"time":7,"beat":2}}"#;
        let Position::Feed(at) = serde_json::from_str(position).expect("version 1") else { panic!("another position") };
        assert_eq!(at.seq(), Seq::of(&[7, (1 << 63) + 2]));
        let position = r#"{"read":{"column":"at","after":{"$date":{"$numberLong":"0"}}}}"#;
        assert!(matches!(serde_json::from_str(position).expect("version 1"), Position::Read(_)));
        let position = r#"{"upto":{"$oid":"010101010101010101010101"}}"#;
        assert!(matches!(serde_json::from_str(position).expect("version 1"), Position::Upto(_)));
        let work = r#"{"columns":[{"name":"_id","kind":"objectid"}],"layout":"fields","part":{"ids":{"class":"number","after":7}}}"#;
        let work: Work = serde_json::from_str(work).expect("version 1");
        assert!(matches!(work.part, Part::Ids { class: Class::Number, after: Some(_), upto: None }));
    }

    #[test]
    fn a_place_in_the_stream_lies_behind_its_time_and_before_the_next() {
        let start = FeedPosition::before("cluster".into(), 100);
        let first = Seq::of(&[100, 1]);
        assert!(start.seq() < first);
        assert!(start.on(Json::Null).seq() < first && start.seq() < start.on(Json::Null).seq());
        let behind = start.behind(100, Json::Null);
        assert!(behind.seq() > Seq::of(&[100, u64::from(u32::MAX)]) && behind.seq() < Seq::of(&[101, 1]));
    }
}
