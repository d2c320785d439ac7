//! The values that `unique` and `references` compare with: 128-bit hashes under keys of this process, bounded in number.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use ingest_core::lake::{Table, TableFormat};
use ingest_core::{Error, ErrorKind, Result};

use super::values::{as_texts, plain};

/// Bytes that one value takes in a set, with the room that a set keeps free.
const VALUE_BYTES: u64 = 40;

/// Makes the hashes. Two values of one hash are one in 2^128.
#[derive(Debug, Clone)]
pub(super) struct Hashes(RandomState, RandomState);

impl Hashes {
    fn new() -> Self {
        Self(RandomState::new(), RandomState::new())
    }

    /// A hash for every row; `None` where a part is null.
    pub fn of(&self, columns: &[ArrayRef], name: &str) -> Result<Vec<Option<u128>>> {
        let rows = columns.first().map_or(0, |column| column.len());
        let mut hashers: Vec<Option<_>> =
            (0..rows).map(|_| Some((self.0.build_hasher(), self.1.build_hasher()))).collect();
        for column in columns {
            let column = plain(column)?;
            let decimal = matches!(column.data_type(), DataType::Decimal128(..) | DataType::Decimal256(..));
            let texts = as_texts(&column, name)?;
            let texts = texts.as_string::<i32>();
            for (row, slot) in hashers.iter_mut().enumerate() {
                if texts.is_null(row) {
                    *slot = None;
                }
                let Some((a, b)) = slot else { continue };
                let mut text = texts.value(row);
                if decimal && text.contains('.') {
                    // Two tables may hold a number with more or fewer digits.
                    text = text.trim_end_matches('0').trim_end_matches('.');
                }
                for hasher in [a, b] {
                    hasher.write(text.as_bytes());
                    hasher.write_u8(0xff);
                }
            }
        }
        let joined = hashers.into_iter().map(|pair| {
            let (a, b) = pair?;
            Some(u128::from(a.finish()) << 64 | u128::from(b.finish()))
        });
        Ok(joined.collect())
    }
}

/// The sets of one stream in one run, by the place of the check in the configuration.
#[derive(Debug)]
pub struct Sets {
    pub(super) hashes: Hashes,
    limit: usize,
    sets: Vec<Option<Set>>,
}

/// The values of one check.
#[derive(Debug)]
pub(super) enum Set {
    /// Grows with the rows of the run.
    Seen(Mutex<Seen>),
    /// What another table held when the run began.
    Known(HashSet<u128>),
}

/// Values that were seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    values: HashSet<u128>,
    /// No more values fit: those that are not in the set are no longer told apart.
    full: bool,
}

impl Sets {
    /// No sets, for `checks` checks; so many bytes of memory for all of them.
    pub fn new(checks: usize, memory: u64) -> Self {
        let limit = usize::try_from(memory / VALUE_BYTES).unwrap_or(usize::MAX);
        Self { hashes: Hashes::new(), limit, sets: (0..checks).map(|_| None).collect() }
    }

    /// Begins a set of values that are seen, with those that a table holds already where they are few.
    pub async fn begin_seen(&mut self, check: usize, table: Option<&dyn Table>, column: Option<&str>) -> Result<()> {
        let mut seen = Seen::default();
        if let (Some(table), Some(column)) = (table, column) {
            let rows: u64 = table.files().await?.iter().map(|file| file.rows).sum();
            // Where it is not cheap, uniqueness holds within the run.
            if rows <= self.limit as u64 / 4 {
                seen.values = self.values(table, column).await?;
            }
        }
        self.sets[check] = Some(Set::Seen(Mutex::new(seen)));
        Ok(())
    }

    /// Reads the values that `references` asks for.
    ///
    /// # Errors
    /// `ConfigInvalid` for a table or column that does not exist; `LimitExceeded` where its values do not fit.
    pub async fn begin_known(
        &mut self,
        check: usize,
        format: &dyn TableFormat,
        name: &str,
        column: &str,
    ) -> Result<()> {
        let fault = |message: &str| Error::config(message).with("table", name).with("column", column);
        let mut table = None;
        for (dot, _) in name.match_indices('.') {
            let folder = crate::commit::bronze(&name[..dot], &ingest_core::table_name(&name[dot + 1..]));
            table = format.open(&folder).await?;
            if table.is_some() {
                break;
            }
        }
        let table = table
            .ok_or_else(|| fault("there is no such table to refer to").hint("write SOURCE.TABLE, and load it first"))?;
        if table.schema().column_with_name(column).is_none() {
            return Err(
                fault("the table that is referred to has no such column").hint("`ingest schema TABLE` lists them")
            );
        }
        let values = self.values(table.as_ref(), column).await?;
        self.sets[check] = Some(Set::Known(values));
        Ok(())
    }

    async fn values(&self, table: &dyn Table, column: &str) -> Result<HashSet<u128>> {
        let mut values = HashSet::new();
        let (hashes, limit) = (&self.hashes, self.limit);
        let mut take = |array: ArrayRef| -> Result<()> {
            values.extend(hashes.of(&[array], column)?.into_iter().flatten());
            if values.len() > limit {
                return Err(Error::new(ErrorKind::LimitExceeded, "a column has too many values to compare with")
                    .with("column", column)
                    .with("limit", limit)
                    .hint("raise `memory`, or leave the check out"));
            }
            Ok(())
        };
        table.values(column, &mut take).await?;
        Ok(values)
    }

    pub(super) fn get(&self, check: usize) -> Option<&Set> {
        self.sets.get(check)?.as_ref()
    }

    /// Notes values; answers for each whether it was there before. What is new goes into `fresh`.
    pub(super) fn note(
        &self,
        seen: &Mutex<Seen>,
        values: &[Option<u128>],
        counts: impl Fn(usize) -> bool,
        mut fresh: impl FnMut(u128),
    ) -> Vec<bool> {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut doubled = vec![false; values.len()];
        for (row, value) in values.iter().enumerate() {
            let Some(value) = value.filter(|_| counts(row)) else { continue };
            if seen.values.contains(&value) {
                doubled[row] = true;
            } else if seen.values.len() < self.limit {
                seen.values.insert(value);
                fresh(value);
            } else {
                seen.full = true;
            }
        }
        doubled
    }

    /// Forgets values of rows that are read again.
    pub(super) fn forget(&self, check: usize, value: u128) {
        if let Some(Set::Seen(seen)) = self.get(check) {
            seen.lock().unwrap_or_else(PoisonError::into_inner).values.remove(&value);
        }
    }

    /// How many values were compared, where there were more than fit.
    pub(super) fn limit_reached(&self, check: usize) -> Option<usize> {
        match self.get(check)? {
            Set::Seen(seen) => seen.lock().unwrap_or_else(PoisonError::into_inner).full.then_some(self.limit),
            Set::Known(_) => None,
        }
    }
}
