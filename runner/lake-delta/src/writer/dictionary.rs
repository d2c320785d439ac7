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

/// Whether the different values of a column fill more than a dictionary page, as far as a sample foretells. Of `n` values
/// drawn from `d`, about `n² / 2d` occur a second time.
fn outgrows(sample: &ArrayRef) -> Result<bool> {
    let present = sample.len() - sample.logical_null_count();
    if present < LEAST {
        return Ok(false);
    }
    let converter = RowConverter::new(vec![SortField::new(sample.data_type().clone())])?;
    let rows = converter.convert_columns(std::slice::from_ref(sample))?;
    let mut seen = HashSet::with_capacity(present);
    let mut bytes = 0_usize;
    for row in (0..sample.len()).filter(|row| !sample.is_null(*row)).map(|row| rows.row(row).data()) {
        if seen.insert(row) {
            bytes += row.len();
        }
    }
    let again = present - seen.len();
    let width = bytes / seen.len().max(1);
    Ok(present.saturating_mul(present).saturating_mul(width)
        > DEFAULT_DICTIONARY_PAGE_SIZE_LIMIT.saturating_mul(2 * again))
}
