//! What becomes of each row, one bit a row: of the table's files, and of the files with the rows that come.

use std::collections::{BTreeMap, HashMap};

use arrow_array::BooleanArray;
use arrow_buffer::BooleanBuffer;

/// A row of one of the files that are worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct At {
    pub file: u32,
    pub row: u32,
}

/// A set of rows of one file; grows as it is filled.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    words: Vec<u64>,
    count: u64,
}

impl Rows {
    pub fn insert(&mut self, row: u32) {
        let (word, bit) = ((row / 64) as usize, row % 64);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.count += u64::from(self.words[word] >> bit & 1 == 0);
        self.words[word] |= 1 << bit;
    }

    pub fn contains(&self, row: u32) -> bool {
        self.words.get((row / 64) as usize).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The bits of `rows` rows from `start` on, negated where asked.
    pub fn mask(&self, start: u32, rows: usize, negated: bool) -> BooleanArray {
        let at =
            |i: usize| u32::try_from(i).ok().and_then(|i| start.checked_add(i)).is_some_and(|row| self.contains(row));
        BooleanArray::new(BooleanBuffer::collect_bool(rows, |i| at(i) != negated), None)
    }
}

/// What changes in a row of the table that stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patch {
    /// Its version ends.
    Close(i64),
    /// It is marked as deleted.
    Deleted(i64),
}

/// What becomes of a file of the table.
#[derive(Debug, Clone, Default)]
pub(super) struct TableFate {
    /// The whole file goes, without a look at it.
    pub gone: bool,
    pub dropped: Rows,
    pub patched: BTreeMap<u32, Patch>,
}

impl TableFate {
    pub fn is_touched(&self) -> bool {
        self.gone || self.dropped.count() > 0 || !self.patched.is_empty()
    }
}

/// When a version holds: from, inclusive, to, exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub from: i64,
    pub to: Option<i64>,
}

/// What becomes of a file with rows that come.
#[derive(Debug, Clone, Default)]
pub(super) struct SourceFate {
    pub kept: Rows,
    /// Versions that do not simply begin at their own time and hold.
    pub spans: HashMap<u32, Span>,
}

/// A row that is made of several: what a partial row does not carry comes from the row before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    /// The row of the table that it begins with.
    pub table: Option<At>,
    /// Rows that came, in order; the first is whole where there is none of the table.
    pub rows: Vec<At>,
}

/// What becomes of everything.
#[derive(Debug, Default)]
pub(super) struct Fates {
    pub table: Vec<TableFate>,
    pub source: Vec<SourceFate>,
    pub chains: Vec<Chain>,
    /// Rows that were inserted, updated, closed or deleted.
    pub changed: u64,
}

impl Fates {
    pub fn drop_row(&mut self, at: At) {
        if let Some(fate) = self.table.get_mut(at.file as usize) {
            fate.dropped.insert(at.row);
        }
    }

    pub fn is_dropped(&self, at: At) -> bool {
        self.table.get(at.file as usize).is_some_and(|fate| fate.dropped.contains(at.row))
    }

    pub fn patch(&mut self, at: At, patch: Patch) {
        if let Some(fate) = self.table.get_mut(at.file as usize) {
            fate.patched.insert(at.row, patch);
        }
    }

    pub fn keep(&mut self, at: At) {
        if let Some(fate) = self.source.get_mut(at.file as usize) {
            fate.kept.insert(at.row);
        }
    }

    pub fn span(&mut self, at: At, span: Span) {
        if let Some(fate) = self.source.get_mut(at.file as usize) {
            fate.spans.insert(at.row, span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_the_bits_of_its_rows() {
        let mut rows = Rows::default();
        for row in [0, 3, 64, 200, 200] {
            rows.insert(row);
        }
        assert_eq!(rows.count(), 4);
        let mask = rows.mask(2, 64, false);
        assert_eq!((mask.true_count(), mask.value(1), mask.value(62)), (2, true, true));
        assert_eq!(rows.mask(190, 20, true).true_count(), 19);
        assert_eq!(rows.mask(1_000, 5, false).true_count(), 0);
    }
}
