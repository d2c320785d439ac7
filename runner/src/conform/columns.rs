//! The columns that we add.
//!
//! Run id, time and `R` are the same in every row of a batch, so their arrays are kept for the next batch of that
//! length. They are plain arrays: through the Parquet writer a dictionary costs the same per row (17 ns for a run id of 32
//! characters) and a run-end encoded array more (22 ns), because the writer looks at each value all the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{ArrayRef, StringArray, TimestampMicrosecondArray, new_null_array};
use arrow_schema::DataType;
use ingest_core::columns::{ABSENT, INGESTED_AT, OP, RESCUED, RUN_ID, SEQ};
use ingest_core::{Error, Result, StreamName, nearest};

use super::Stamp;
use super::text::room;

/// All of them, in the order in which they stand in a new table.
pub(super) const OURS: [&str; 6] = [RUN_ID, INGESTED_AT, OP, SEQ, ABSENT, RESCUED];

/// Those that a connector may put into a batch.
pub(super) const FROM_CONNECTOR: [&str; 4] = [OP, SEQ, ABSENT, RESCUED];

/// The columns that a table of a stream gets.
///
/// # Errors
/// `ConfigInvalid` where `added_columns` names a column that is none of ours.
pub(super) fn wanted(
    stream: &StreamName,
    added_columns: &BTreeMap<String, bool>,
    seq: bool,
    absent: bool,
) -> Result<Vec<&'static str>> {
    if let Some(name) = added_columns.keys().find(|name| !OURS.contains(&name.as_str())) {
        let hint = match nearest(name, OURS) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the columns that can be switched off are {}", OURS.join(", ")),
        };
        return Err(Error::config("`added_columns` names a column that is none of ours")
            .with("stream", stream)
            .with("column", name)
            .hint(hint));
    }
    let occurs = |name: &str| match name {
        SEQ => seq,
        ABSENT => absent,
        _ => true,
    };
    Ok(OURS.into_iter().filter(|name| occurs(name) && added_columns.get(*name) != Some(&false)).collect())
}

/// The arrays of the last batches.
#[derive(Debug, Default)]
pub(super) struct Constants(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    run_id: Option<(Arc<str>, ArrayRef)>,
    ingested_at: Option<(i64, ArrayRef)>,
    read: Option<ArrayRef>,
    /// All null, by type.
    nulls: Vec<ArrayRef>,
}

impl Constants {
    /// The run's id in every row.
    pub(super) fn run_id(&self, stamp: &Stamp, rows: usize) -> Result<ArrayRef> {
        let mut kept = self.kept();
        if let Some((id, array)) = &kept.run_id
            && *id == stamp.run_id
            && array.len() == rows
        {
            return Ok(Arc::clone(array));
        }
        let array = repeated(&stamp.run_id, rows)?;
        kept.run_id = Some((Arc::clone(&stamp.run_id), Arc::clone(&array)));
        Ok(array)
    }

    /// The time in every row.
    pub(super) fn ingested_at(&self, stamp: &Stamp, rows: usize) -> ArrayRef {
        let mut kept = self.kept();
        match &kept.ingested_at {
            Some((at, array)) if *at == stamp.ingested_at && array.len() == rows => Arc::clone(array),
            _ => {
                let array: ArrayRef =
                    Arc::new(TimestampMicrosecondArray::from_value(stamp.ingested_at, rows).with_timezone("UTC"));
                kept.ingested_at = Some((stamp.ingested_at, Arc::clone(&array)));
                array
            }
        }
    }

    /// `R` in every row.
    pub(super) fn read(&self, rows: usize) -> Result<ArrayRef> {
        let mut kept = self.kept();
        match &kept.read {
            Some(array) if array.len() == rows => Ok(Arc::clone(array)),
            _ => {
                let array = repeated("R", rows)?;
                kept.read = Some(Arc::clone(&array));
                Ok(array)
            }
        }
    }

    /// Null in every row.
    pub(super) fn null(&self, data_type: &DataType, rows: usize) -> ArrayRef {
        let mut kept = self.kept();
        kept.nulls.retain(|array| array.len() == rows);
        if let Some(array) = kept.nulls.iter().find(|array| array.data_type() == data_type) {
            return Arc::clone(array);
        }
        let array = new_null_array(data_type, rows);
        kept.nulls.push(Arc::clone(&array));
        array
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        // A panic elsewhere leaves whole arrays behind: they stay right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn repeated(text: &str, rows: usize) -> Result<ArrayRef> {
    room(text.len().saturating_mul(rows), RUN_ID)?;
    Ok(Arc::new(StringArray::new_repeated(text, rows)))
}
