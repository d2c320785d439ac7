//! What a slice says, and where it has been read to. Times are microseconds since 1970.

use ingest_core::{Cursor, Seq, SliceId};
use serde::{Deserialize, Serialize};

/// What a slice says to this connector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A bulk operation: the objects of a list with what belongs to them.
    Bulk(Window),
    /// Pages of a query: objects of a list, or what was deleted of those of another.
    Pages(Window),
}

/// The objects of a list that were changed in `[from, to)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The stream whose list is read.
    pub list: String,
    /// `None` = from the first object on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// `None` = all there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<i64>,
    /// Not the objects but the events that say which were deleted.
    #[serde(default)]
    pub deleted: bool,
    /// When it was planned.
    pub at: i64,
}

/// Where a slice, or a stream between plans, has been read to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Position {
    /// Between plans: everything that was changed before this is in the table.
    Until {
        /// The bound.
        to: i64,
    },
    /// Nothing has been read, and so many operations have failed.
    Fresh {
        /// [`Window::at`].
        at: i64,
        /// Operations.
        failed: u8,
    },
    /// An operation was started.
    Operation {
        /// [`Window::at`].
        at: i64,
        /// Its id.
        id: String,
        /// Operations before it that have failed.
        failed: u8,
    },
    /// The result of an operation up to a line.
    Line {
        /// [`Window::at`].
        at: i64,
        /// The operation.
        id: String,
        /// Lines so far.
        line: u64,
    },
    /// Pages of a query.
    Page {
        /// [`Window::at`].
        at: i64,
        /// The cursor behind the last page.
        after: String,
        /// Rows so far.
        rows: u64,
    },
}

impl Cursor for Position {
    fn seq(&self) -> Option<Seq> {
        match self {
            Self::Until { .. } => None,
            Self::Fresh { at, .. } | Self::Operation { at, .. } => Some(place(*at, 0)),
            Self::Line { at, line, .. } => Some(place(*at, *line)),
            Self::Page { at, rows, .. } => Some(place(*at, *rows)),
        }
    }
}

/// The place of the `n`-th line (from 1) of what was planned at a time: what is read later is newer.
pub(crate) fn place(at: i64, n: u64) -> Seq {
    Seq::of(&[u64::try_from(at).unwrap_or(0), n])
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
            r#"{"fresh":{"at":1,"failed":1}}"#,
            r#"{"operation":{"at":1,"id":"gid://shopify/BulkOperation/1","failed":0}}"#,
            r#"{"line":{"at":1,"id":"gid://shopify/BulkOperation/1","line":100}}"#,
            r#"{"page":{"at":1,"after":"abc","rows":250}}"#,
        ] {
            let position: Position = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&position).expect("JSON"), text);
        }
    }

    #[test]
    fn a_position_covers_exactly_the_lines_it_names() {
        let at = |line| Position::Line { at: 5, id: String::new(), line }.seq();
        assert!(Some(place(5, 7)) <= at(7) && Some(place(5, 8)) > at(7));
        assert!(at(u64::MAX) < Some(place(6, 1)), "what is read later is newer");
    }
}
