//! Positions: where a slice has been read to.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Json;

/// A connector's own position: an enum or struct of its own, at most 1 MiB as JSON and a few hundred bytes as a rule.
pub trait Cursor: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// Text whose byte order is the source's order within this slice; the same text as the column `_ingest_seq`.
    ///
    /// Needed only where one slice serves several streams: there each table keeps its own position, the slice starts
    /// at the lowest, and rows at or below a table's `seq` are dropped for that table.
    fn seq(&self) -> Option<Seq> {
        None
    }
}

/// Text that sorts by bytes in source order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(String);

impl Seq {
    /// Fixed-width hexadecimal numbers joined by dots, so that the order of the text is the order of the numbers.
    ///
    /// ```
    /// use ingest_core::Seq;
    /// assert!(Seq::of(&[1, 255]) < Seq::of(&[2, 0]));
    /// assert_eq!(Seq::of(&[1, 255]).as_str(), "0000000000000001.00000000000000ff");
    /// ```
    pub fn of(numbers: &[u64]) -> Self {
        use fmt::Write;
        let mut text = String::with_capacity(numbers.len() * 17);
        for (i, number) in numbers.iter().enumerate() {
            if i > 0 {
                text.push('.');
            }
            let _ = write!(text, "{number:016x}");
        }
        Self(text)
    }

    /// Takes a text that already sorts in source order.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A position at rest: the version of the connector's JSON, its order if it has one, the JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// `Spec::state_version` of the connector that wrote it.
    pub v: u32,
    /// [`Cursor::seq`] of the position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// The position itself; only the connector reads it.
    pub at: Json,
}

/// The name of a slice. Feeds: stable for ever (`slot:ingest`, `events:acct_1`). Others: unique within their plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SliceId(String);

impl SliceId {
    /// Takes a name.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for SliceId {
    fn from(id: &str) -> Self {
        Self::new(id)
    }
}

impl From<String> for SliceId {
    fn from(id: String) -> Self {
        Self(id)
    }
}

impl fmt::Display for SliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
