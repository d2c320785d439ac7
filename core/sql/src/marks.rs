//! Places where a slice that is read in the order of a column can be resumed.

use arrow_array::{Array, RecordBatch};

/// Rows of a slice that comes in the order of one column, and the marks between them.
///
/// A slice is resumed behind a value of its column, so a mark may stand only where a value is over: behind every row where
/// no two rows are equal, else where the next row has another value. Rows at the end of a batch whose value may go on in the
/// next one wait for it.
#[derive(Debug)]
pub struct Ordered {
    column: usize,
    distinct: bool,
    kept: Option<RecordBatch>,
}

/// What is to be given out, in order.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Rows.
    Rows(RecordBatch),
    /// A mark: all rows up to and with the value of this row are given.
    Mark {
        /// The batch of the row.
        batch: RecordBatch,
        /// The row.
        row: usize,
    },
}

impl Ordered {
    /// Batches are sorted by this column; `distinct`: no two rows have the same value of it.
    pub fn by(column: usize, distinct: bool) -> Self {
        Self { column, distinct, kept: None }
    }

    /// Takes the next batch; `last`: no other follows. A batch may be missing at the end.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    /// use ingest_sql::{Ordered, Step};
    /// let ids = |ids: Vec<i64>| RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(ids)) as ArrayRef)]).unwrap();
    /// let mut ordered = Ordered::by(0, false);
    /// let steps = ordered.take(Some(ids(vec![1, 2, 2])), false);
    /// assert_eq!(steps, [Step::Rows(ids(vec![1])), Step::Mark { batch: ids(vec![1, 2, 2]), row: 0 }]);
    /// assert_eq!(ordered.take(None, true), [Step::Rows(ids(vec![2, 2]))]);
    /// ```
    pub fn take(&mut self, batch: Option<RecordBatch>, last: bool) -> Vec<Step> {
        let kept = self.kept.take().map(Step::Rows);
        let Some(batch) = batch.filter(|batch| batch.num_rows() > 0) else {
            if last {
                return kept.into_iter().collect();
            }
            self.kept = kept.and_then(|step| if let Step::Rows(batch) = step { Some(batch) } else { None });
            return Vec::new();
        };
        let rows = batch.num_rows();
        let start = if last || self.distinct { rows } else { last_run(batch.column(self.column).as_ref()) };
        let mut steps: Vec<Step> = kept.into_iter().collect();
        if start == 0 {
            // One value fills the batch: it goes out, and the mark waits.
            steps.push(Step::Rows(batch));
            return steps;
        }
        steps.push(Step::Rows(batch.slice(0, start)));
        self.kept = (start < rows).then(|| batch.slice(start, rows - start));
        steps.push(Step::Mark { batch, row: start - 1 });
        steps
    }
}

/// Where the run of equal values at the end of a sorted column begins.
fn last_run(values: &dyn Array) -> usize {
    let last = values.slice(values.len() - 1, 1);
    let equal = |i: usize| values.slice(i, 1).to_data() == last.to_data();
    let (mut low, mut high) = (0, values.len() - 1);
    while low < high {
        let middle = (low + high) / 2;
        if equal(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array};

    use super::*;

    fn batch(values: &[Option<i64>]) -> RecordBatch {
        RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(values.to_vec())) as ArrayRef)]).expect("a batch")
    }

    #[test]
    fn the_last_run_of_equal_values_is_found() {
        for (values, expected) in [
            (vec![Some(1)], 0),
            (vec![Some(1), Some(1)], 0),
            (vec![Some(1), Some(2)], 1),
            (vec![Some(1), Some(2), Some(2), Some(2)], 1),
            (vec![Some(1), None, None], 1),
        ] {
            assert_eq!(last_run(&Int64Array::from(values.clone())), expected, "{values:?}");
        }
    }

    #[test]
    fn every_row_is_given_once_and_a_mark_covers_what_was_given() {
        let values: Vec<Option<i64>> = [None, None, Some(1), Some(2), Some(2), Some(2), Some(2), Some(3)].into();
        for size in 1..=values.len() {
            for distinct in [false, true] {
                let (mut ordered, mut given) = (Ordered::by(0, distinct), Vec::new());
                let mut batches = values.chunks(size).map(batch).peekable();
                while let Some(next) = batches.next() {
                    for step in ordered.take(Some(next), batches.peek().is_none()) {
                        let column = |batch: &RecordBatch| {
                            let ids = batch.column(0).as_any().downcast_ref::<Int64Array>().expect("integers");
                            ids.iter().collect::<Vec<_>>()
                        };
                        match step {
                            Step::Rows(batch) => given.extend(column(&batch)),
                            Step::Mark { batch, row } if !distinct => {
                                let mark = column(&batch)[row];
                                let covered = values.iter().take_while(|value| **value <= mark).count();
                                assert!(given.len() >= covered, "size {size}: {mark:?} after {}", given.len());
                            }
                            Step::Mark { .. } => {}
                        }
                    }
                }
                assert_eq!(given, values, "size {size}");
            }
        }
    }
}
