//! Sums of hashes: equal for equal rows, in whatever order they come.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};

use arrow::row::{RowConverter, SortField};
use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::SchemaRef;
use ingest_core::{Error, ErrorKind, Result};

/// What rows add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// Rows.
    pub rows: u64,
    /// The hashes of all keys.
    pub keys: u128,
    /// The hashes of all values with their keys, per column.
    pub columns: Vec<u128>,
}

impl Sums {
    /// Adds what other rows add up to.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.keys = self.keys.wrapping_add(other.keys);
        self.columns.resize(self.columns.len().max(other.columns.len()), 0);
        for (sum, more) in self.columns.iter_mut().zip(&other.columns) {
            *sum = sum.wrapping_add(*more);
        }
    }
}

/// Adds up the rows of batches by the names of columns.
pub struct Adder {
    columns: Vec<String>,
    key: Vec<String>,
    compiled: Option<(SchemaRef, Vec<RowConverter>, Option<RowConverter>)>,
    /// The keys that were seen, where rows with one key count once.
    distinct: Option<Distinct>,
}

struct Distinct {
    seen: HashSet<u128>,
    most: usize,
    repeated: u64,
}

impl Adder {
    /// Adds up these columns, and the key.
    pub fn new(columns: &[String], key: &[String]) -> Self {
        Self { columns: columns.to_vec(), key: key.to_vec(), compiled: None, distinct: None }
    }

    /// Counts rows with one key once, in so much memory.
    #[must_use]
    pub fn distinct(mut self, memory_bytes: u64) -> Self {
        let most = usize::try_from(memory_bytes / 48).unwrap_or(usize::MAX).max(1024);
        self.distinct = Some(Distinct { seen: HashSet::new(), most, repeated: 0 });
        self
    }

    /// Whether rows with one key count once.
    pub fn is_distinct(&self) -> bool {
        self.distinct.is_some()
    }

    /// Rows whose key had come before.
    pub fn repeated(&self) -> u64 {
        self.distinct.as_ref().map_or(0, |distinct| distinct.repeated)
    }

    /// What the rows of a batch add up to; `only` says which of them count.
    ///
    /// # Errors
    /// `LimitExceeded` where there are more keys than fit into memory.
    pub fn add(&mut self, batch: &RecordBatch, only: Option<&BooleanArray>) -> Result<Sums> {
        let ids = self.key_ids(batch)?;
        let mut counts: Vec<bool> = (0..batch.num_rows()).map(|row| only.is_none_or(|only| only.value(row))).collect();
        if let (Some(distinct), Some(ids)) = (&mut self.distinct, &ids) {
            for (count, id) in counts.iter_mut().zip(ids) {
                if *count && !distinct.seen.insert(*id) {
                    distinct.repeated += 1;
                    *count = false;
                }
            }
            if distinct.seen.len() > distinct.most {
                return Err(Error::new(ErrorKind::LimitExceeded, "there are too many keys to be told apart")
                    .with("keys", distinct.seen.len())
                    .hint("raise `memory`"));
            }
        }
        let mut sums = Sums { columns: vec![0; self.columns.len()], ..Sums::default() };
        sums.rows = counts.iter().filter(|count| **count).count() as u64;
        for id in ids.iter().flatten().zip(&counts).filter(|(_, count)| **count).map(|(id, _)| id) {
            sums.keys = sums.keys.wrapping_add(*id);
        }
        let Some((_, converters, _)) = &self.compiled else { return Ok(sums) };
        for ((name, converter), sum) in self.columns.iter().zip(converters).zip(&mut sums.columns) {
            let rows = converter.convert_columns(&[column(batch, name)?])?;
            for (row, value) in rows.iter().enumerate().filter(|(row, _)| counts[*row]) {
                // The key goes in: the same values in other rows are another table.
                let key = ids.as_ref().map_or(0, |ids| ids[row]);
                *sum = sum.wrapping_add(hash(key, value.as_ref()));
            }
        }
        Ok(sums)
    }

    /// The hashes of the keys; `None` where there is no key.
    pub fn key_ids(&mut self, batch: &RecordBatch) -> Result<Option<Vec<u128>>> {
        let known = self.compiled.as_ref().is_some_and(|(schema, ..)| *schema == batch.schema());
        if !known {
            let one = |name: &String| converter(&[column(batch, name)?]);
            let converters = self.columns.iter().map(one).collect::<Result<Vec<_>>>()?;
            let key = self.key.iter().map(|name| column(batch, name)).collect::<Result<Vec<_>>>()?;
            let key = if key.is_empty() { None } else { Some(converter(&key)?) };
            self.compiled = Some((batch.schema(), converters, key));
        }
        let Some((_, _, Some(converter))) = &self.compiled else { return Ok(None) };
        let key = self.key.iter().map(|name| column(batch, name)).collect::<Result<Vec<_>>>()?;
        let rows = converter.convert_columns(&key)?;
        Ok(Some(rows.iter().map(|row| hash(0, row.as_ref())).collect()))
    }
}

fn converter(arrays: &[ArrayRef]) -> Result<RowConverter> {
    Ok(RowConverter::new(arrays.iter().map(|array| SortField::new(array.data_type().clone())).collect())?)
}

/// A column of a batch that was read for it.
///
/// # Errors
/// `Unexpected` where it is not there.
pub fn column(batch: &RecordBatch, name: &str) -> Result<ArrayRef> {
    let array = batch.column_by_name(name);
    array.cloned().ok_or_else(|| Error::unexpected("a column was not read").with("column", name))
}

/// 128 bits that stand for bytes; both sides of a comparison are made in one process.
fn hash(key: u128, bytes: &[u8]) -> u128 {
    let half = |which: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(which);
        hasher.write_u128(key);
        hasher.write(bytes);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringArray};

    use super::*;

    fn batch(rows: &[(i64, Option<&str>)]) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(rows.iter().map(|r| Some(r.0)).collect::<Int64Array>()) as ArrayRef, true),
            ("name", Arc::new(rows.iter().map(|r| r.1).collect::<StringArray>()) as ArrayRef, true),
        ])
        .expect("a batch")
    }

    fn sums(batches: &[&[(i64, Option<&str>)]]) -> Sums {
        let mut adder = Adder::new(&["id".into(), "name".into()], &["id".into()]);
        let mut all = Sums::default();
        batches.iter().for_each(|rows| all.add(&adder.add(&batch(rows), None).expect("added")));
        all
    }

    #[test]
    fn order_and_batches_do_not_matter_and_values_do() {
        let whole = sums(&[&[(1, Some("a")), (2, None), (3, Some(""))]]);
        assert_eq!(whole, sums(&[&[(3, Some(""))], &[(2, None), (1, Some("a"))]]));
        let other = sums(&[&[(1, Some("a")), (2, Some("")), (3, None)]]);
        assert_eq!(whole.keys, other.keys);
        assert_ne!(whole.columns[1], other.columns[1], "the same values in other rows");
        let changed = sums(&[&[(1, Some("b")), (2, None), (3, Some(""))]]);
        assert_eq!((whole.keys, whole.columns[0]), (changed.keys, changed.columns[0]));
        assert_ne!(whole.columns[1], changed.columns[1]);
        assert_ne!(whole.keys, sums(&[&[(1, Some("a")), (2, None), (4, Some(""))]]).keys);
    }

    #[test]
    fn rows_with_one_key_count_once_where_they_shall() {
        let mut adder = Adder::new(&[], &["id".into()]).distinct(1 << 20);
        let found = adder.add(&batch(&[(1, None), (2, None), (1, Some("x"))]), None).expect("added");
        assert_eq!((found.rows, adder.repeated()), (2, 1));
    }
}
