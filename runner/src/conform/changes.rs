//! What differs between a source and its table, for `plan` and the catalog.

use std::fmt;

use serde::Serialize;

/// A difference between what a source offers and what its table holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum SchemaChange {
    /// The source has a column that the table lacks. A field of a struct is named by its path, `address.zip`.
    Added {
        /// The source's spelling.
        column: String,
        /// The type at the source.
        r#type: String,
        /// What becomes of its values.
        handling: Handling,
    },
    /// The table has a column that the source does not offer (any more): null in new rows. A field of a struct is named
    /// by its path.
    Missing {
        /// The table's spelling.
        column: String,
        /// The type in the table.
        r#type: String,
    },
    /// The types differ.
    Retyped {
        /// The source's spelling.
        column: String,
        /// The type in the table.
        from: String,
        /// The type at the source.
        to: String,
        /// What becomes of its values.
        handling: Handling,
    },
    /// The names differ by case, which does not part columns of a table.
    Respelled {
        /// The source's spelling.
        column: String,
        /// The table's spelling, which stays.
        stored_as: String,
    },
    /// The table format forbids the source's spelling. Not a change at the source.
    Renamed {
        /// The source's spelling.
        column: String,
        /// The name in the table.
        stored_as: String,
    },
    /// The table cannot hold nanoseconds: digits beyond microseconds are cut towards the past. Not a change at the source.
    Cut {
        /// The source's spelling.
        column: String,
        /// The type at the source.
        from: String,
        /// The type in the table.
        to: String,
    },
}

/// What becomes of the values of a changed column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Handling {
    /// The table gets the column.
    Added,
    /// Every value fits the table's type.
    Widened,
    /// Values that fit exactly are kept, the others go to `_ingest_rescued`.
    Checked,
    /// All values go to `_ingest_rescued`.
    Rescued,
}

impl SchemaChange {
    /// Whether the source has changed, as opposed to what is always so for this source and this table format.
    pub fn is_drift(&self) -> bool {
        !matches!(self, Self::Renamed { .. } | Self::Cut { .. })
    }

    /// The difference alone, without what becomes of the values.
    pub(super) fn what(&self) -> String {
        match self {
            Self::Added { column, r#type, .. } => format!("column {column:?} ({type}) is new at the source"),
            Self::Missing { column, r#type } => format!("column {column:?} ({type}) is gone at the source"),
            Self::Retyped { column, from, to, .. } => {
                format!("column {column:?} is {from} in the table and {to} at the source")
            }
            Self::Respelled { column, stored_as } => format!("column {column:?} is spelled {stored_as:?} in the table"),
            Self::Renamed { column, .. } => format!("column {column:?} has a name that the table format forbids"),
            Self::Cut { column, from, to } => {
                format!("column {column:?} is {from} at the source and {to} in the table")
            }
        }
    }
}

impl fmt::Display for SchemaChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.what())?;
        match self {
            Self::Added { handling, .. } | Self::Retyped { handling, .. } => handling.fmt(f),
            Self::Missing { .. } => f.write_str("null in new rows"),
            Self::Respelled { .. } => f.write_str("the table's spelling stays"),
            Self::Renamed { stored_as, .. } => write!(f, "it is stored as {stored_as:?}"),
            Self::Cut { .. } => f.write_str("digits beyond microseconds are cut"),
        }
    }
}

impl fmt::Display for Handling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "the table gets it",
            Self::Widened => "every value fits",
            Self::Checked => "values that do not fit exactly go to _ingest_rescued",
            Self::Rescued => "its values go to _ingest_rescued",
        })
    }
}
