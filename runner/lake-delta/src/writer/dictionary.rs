//! Which columns are worth a dictionary.
//!
//! Parquet writers begin every column with one and give it up where it outgrows its page, in every row group again: an eighth of the
//! time of a load went into dictionaries that no file kept. A sample of the first batch tells such columns from the others.

use std::collections::HashSet;

use arrow::row::{RowConverter, SortField};
use arrow_array::{Array, ArrayRef, RecordBatch};
use ingest_core::Result;
use parquet::file::properties::{DEFAULT_DICTIONARY_PAGE_SIZE_LIMIT, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use super::GROUP_ROWS;

/// Rows that are looked at.
const SAMPLE: usize = 16 << 10;

/// Fewer rows tell nothing, and cost nothing.
const LEAST: usize = 4 << 10;

/// Takes the dictionary from each column of the first batch of a file that would outgrow it.
pub(super) fn choose(mut properties: WriterPropertiesBuilder, first: &RecordBatch) -> Result<WriterPropertiesBuilder> {
    if first.num_rows() < LEAST {
        return Ok(properties);
    }
    for (field, column) in first.schema_ref().fields().iter().zip(first.columns()) {
        // The values of nested columns have no row each.
        if !field.data_type().is_nested() && outgrows(&column.slice(0, column.len().min(SAMPLE)))? {
            properties = properties.set_column_dictionary_enabled(ColumnPath::new(vec![field.name().clone()]), false);
        }
    }
    Ok(properties)
}

/// Whether the different values of a column fill more than a dictionary page, as far as a sample foretells. Where values
/// come back from anywhere, of two halves of `n` values drawn from `d` about `n² / d` of the second are in the first. Where
/// they come back soon or never, as keys do in a log of changes, there are as many new ones in each stretch.
fn outgrows(sample: &ArrayRef) -> Result<bool> {
    let present = sample.len() - sample.logical_null_count();
    if present < LEAST {
        return Ok(false);
    }
    let converter = RowConverter::new(vec![SortField::new(sample.data_type().clone())])?;
    let rows = converter.convert_columns(std::slice::from_ref(sample))?;
    let mut seen = HashSet::with_capacity(present);
    let (mut bytes, mut first, mut again) = (0_usize, HashSet::new(), 0_usize);
    let half = present / 2;
    let values = (0..sample.len()).filter(|row| !sample.is_null(*row)).map(|row| rows.row(row).data());
    for (nth, value) in values.enumerate() {
        if nth == half {
            first.clone_from(&seen);
        }
        again += usize::from(nth >= half && first.contains(value));
        if seen.insert(value) {
            bytes += value.len();
        }
    }
    let width = bytes / seen.len().max(1);
    let drawn = half.saturating_mul(half) / again.max(1);
    let steady = seen.len().saturating_mul(GROUP_ROWS) / present;
    Ok(drawn.min(steady).saturating_mul(width) > DEFAULT_DICTIONARY_PAGE_SIZE_LIMIT)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::Int64Array;

    use super::*;

    fn of(value: impl Fn(i64) -> i64) -> bool {
        let sample: ArrayRef = Arc::new(Int64Array::from_iter_values((0..SAMPLE as i64).map(value)));
        outgrows(&sample).expect("a sample")
    }

    /// Numbers that come back from anywhere.
    fn drawn(from: i64) -> impl Fn(i64) -> i64 {
        move |i| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as i64 % from
    }

    #[test]
    fn columns_that_would_outgrow_their_dictionary_get_none() {
        assert!(of(|i| i), "no value comes back");
        assert!(of(|i| i / 4), "each value comes four times, and never again");
        assert!(of(drawn(1 << 40)), "hardly any comes back");
    }

    #[test]
    fn columns_of_few_values_keep_their_dictionary() {
        assert!(!of(|_| 7));
        assert!(!of(drawn(20_000)), "values come back from anywhere");
        assert!(!of(|i| i / 100), "a new value for each hundred rows");
    }
}
