//! Checks and masks on the batches of a stream, on their way to the table.
//!
//! ```text
//! batch -> checks (before the masks) -> masks -> checks on what the table will hold (`references`, `unique`)
//!                                         \__ rows that a check holds back: as masked JSON to the quarantine
//! ```

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, StructArray, make_array};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_schema::{DataType, Schema, SchemaRef};
use ingest_core::columns::{ABSENT, OP};
use ingest_core::{Error, ErrorKind, Result};

use super::Policy;
use super::ask::{Test, newest};
use super::condition::{Bound, Condition};
use super::masks::Masks;
use super::sets::{Set, Sets};
use super::values::plain;
use crate::config::{CheckOptions, OnFail};
use crate::rows;

/// A row that a check holds back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What is wrong with it; no value of it.
    pub reason: String,
    /// The checks, by their names.
    pub check: String,
    /// The row as a JSON object, masked.
    pub record: String,
}

/// What checks have counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows that were looked at.
    pub rows: u64,
    /// Rows that failed, per check.
    pub failed: Vec<u64>,
    /// The newest value that was seen, per check that asks for it: microseconds UTC.
    pub newest: Vec<Option<i64>>,
    /// Values that `unique` has noted, to be forgotten when their rows are read again.
    noted: Vec<(usize, u128)>,
}

impl Tally {
    /// Adds another tally.
    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.failed.resize(self.failed.len().max(other.failed.len()), 0);
        self.failed.iter_mut().zip(&other.failed).for_each(|(sum, more)| *sum += more);
        self.newest.resize(self.newest.len().max(other.newest.len()), None);
        self.newest.iter_mut().zip(&other.newest).for_each(|(newest, other)| *newest = (*newest).max(*other));
        self.noted.extend(other.noted);
    }

    /// The rows are covered: nothing of them is read again.
    pub fn settle(&mut self) {
        self.noted = Vec::new();
    }
}

/// A batch that was examined.
#[derive(Debug)]
pub struct Examined {
    /// Masked, without the rows that are held back.
    pub batch: RecordBatch,
    /// Those rows.
    pub held: Vec<Held>,
    /// What was counted.
    pub tally: Tally,
}

/// Examines the batches of a stream. Every writer has its own; what they must know of each other is in [`Sets`].
pub struct Examiner {
    policy: Arc<Policy>,
    sets: Arc<Sets>,
    compiled: Option<(SchemaRef, Arc<Compiled>)>,
}

/// The policy for batches of one schema.
struct Compiled {
    masks: Masks,
    /// Per check; `None` where the batch does not have its columns.
    tests: Vec<Option<Asked>>,
}

/// What a check asks.
enum Asked {
    /// Of the values of one column, or of several together.
    Column(Test),
    /// Of rows: a condition on columns by their paths.
    Row(Bound, Vec<String>),
}

impl Examiner {
    /// Examines by a policy.
    pub fn new(policy: Arc<Policy>, sets: Arc<Sets>) -> Self {
        Self { policy, sets, compiled: None }
    }

    /// Examines a batch.
    ///
    /// # Errors
    /// `SchemaChanged` for a type that a mask or a check cannot take; `LimitExceeded` where masked texts outgrow an array.
    pub fn examine(&mut self, batch: RecordBatch) -> Result<Examined> {
        let policy = Arc::clone(&self.policy);
        if policy.is_idle() {
            let tally = Tally { rows: batch.num_rows() as u64, ..Tally::default() };
            return Ok(Examined { batch, held: Vec::new(), tally });
        }
        let compiled = self.compiled(batch.schema_ref())?;
        let masked = policy.masked(&compiled.masks, &batch)?;
        let rows = batch.num_rows();
        let mut tally = Tally {
            rows: rows as u64,
            failed: vec![0; policy.checks.len()],
            newest: vec![None; policy.checks.len()],
            noted: Vec::new(),
        };
        let counted = counted(&batch);
        let mut held_back: Vec<(usize, BooleanBuffer)> = Vec::new();
        for (i, (check, test)) in policy.checks.iter().zip(&compiled.tests).enumerate() {
            if check.freshness.is_some() {
                tally.newest[i] = self.column(&batch, check)?.and_then(|array| newest(&array));
                continue;
            }
            let failing = match test {
                Some(Asked::Column(test)) => {
                    self.failing(i, check, test, &batch, &masked, counted.as_ref(), &mut tally)?
                }
                Some(Asked::Row(condition, columns)) => Some(not_true(condition, columns, &batch)?),
                None => check.not_null.is_some().then(|| BooleanBuffer::new_set(rows)),
            };
            let failing = match (failing, &counted) {
                (Some(failing), Some(counted)) => Some(&failing & counted),
                (failing, _) => failing,
            };
            let Some(failing) = failing.filter(|failing| failing.count_set_bits() > 0) else { continue };
            tally.failed[i] = failing.count_set_bits() as u64;
            if check.on_fail == OnFail::Quarantine {
                held_back.push((i, failing));
            }
        }
        let (batch, held) = self.part(masked, &held_back)?;
        Ok(Examined { batch, held, tally })
    }

    /// The rows that a tally counted are read again.
    pub fn forget(&self, tally: &Tally) {
        tally.noted.iter().for_each(|(check, value)| self.sets.forget(*check, *value));
    }

    fn compiled(&mut self, schema: &SchemaRef) -> Result<Arc<Compiled>> {
        if let Some((last, compiled)) = &self.compiled
            && (Arc::ptr_eq(last, schema) || last == schema)
        {
            return Ok(Arc::clone(compiled));
        }
        let masks = self.policy.compile(schema)?;
        let mut tests = Vec::new();
        for check in &self.policy.checks {
            let columns = check.looks_at();
            let found: Vec<_> = columns.iter().filter_map(|path| type_at(schema, path)).collect();
            if found.is_empty() || found.len() < columns.len() {
                tests.push(None);
                continue;
            }
            let asked = asked(check, columns, &found).map_err(|unfit| {
                Error::new(ErrorKind::SchemaChanged, format!("the check {} {unfit}", check.label()))
                    .with("stream", &self.policy.stream)
                    .hint("the source gives another type than before: correct the check, or the source")
            })?;
            tests.push(Some(asked));
        }
        let compiled = Arc::new(Compiled { masks, tests });
        self.compiled = Some((Arc::clone(schema), Arc::clone(&compiled)));
        Ok(compiled)
    }

    fn column(&self, batch: &RecordBatch, check: &CheckOptions) -> Result<Option<ArrayRef>> {
        check.column.as_ref().and_then(|path| column_at(batch, path)).map(|array| plain(&array)).transpose()
    }

    #[expect(clippy::too_many_arguments, reason = "one row of a table of checks")]
    fn failing(
        &self,
        place: usize,
        check: &CheckOptions,
        test: &Test,
        batch: &RecordBatch,
        masked: &RecordBatch,
        counted: Option<&BooleanBuffer>,
        tally: &mut Tally,
    ) -> Result<Option<BooleanBuffer>> {
        if check.not_null == Some(true) {
            let Some(array) = self.column(batch, check)? else { return Ok(None) };
            let Some(nulls) = array.logical_nulls().filter(|nulls| nulls.null_count() > 0) else { return Ok(None) };
            let missing = !nulls.inner();
            return Ok(Some(match check.column.as_deref().and_then(|path| carried(batch, path)) {
                Some(carried) => &missing & &carried,
                None => missing,
            }));
        }
        if check.unique == Some(true) || check.references.is_some() {
            let from = if self.policy.compares_stored(check) { masked } else { batch };
            let columns: Vec<ArrayRef> = check.columns().iter().filter_map(|path| column_at(from, path)).collect();
            let label = check.label();
            let values = self.sets.hashes.of(&columns, &label)?;
            let counts = |row: usize| counted.is_none_or(|counted| counted.value(row));
            let failing = match self.sets.get(place) {
                Some(Set::Known(known)) => {
                    let unknown = |row: usize| values[row].is_some_and(|value| !known.contains(&value));
                    BooleanBuffer::collect_bool(values.len(), unknown)
                }
                Some(Set::Seen(seen)) => {
                    let doubled = self.sets.note(seen, &values, counts, |value| tally.noted.push((place, value)));
                    BooleanBuffer::collect_bool(doubled.len(), |row| doubled[row])
                }
                None => return Err(Error::unexpected("a check has nothing to compare with").with("check", label)),
            };
            return Ok(Some(failing));
        }
        match self.column(batch, check)? {
            Some(array) => test.failing(&array, check.column.as_deref().unwrap_or_default()),
            None => Ok(None),
        }
    }

    /// Parts the rows that are held back from the others.
    fn part(&self, batch: RecordBatch, held_back: &[(usize, BooleanBuffer)]) -> Result<(RecordBatch, Vec<Held>)> {
        let Some((_, first)) = held_back.first() else { return Ok((batch, Vec::new())) };
        let all = held_back[1..].iter().fold(first.clone(), |all, (_, failing)| &all | failing);
        let mut held = Vec::with_capacity(all.count_set_bits());
        for row in all.set_indices() {
            let failed: Vec<&CheckOptions> = held_back
                .iter()
                .filter(|(_, failing)| failing.value(row))
                .map(|(check, _)| &self.policy.checks[*check])
                .collect();
            let names: Vec<String> = failed.iter().map(|check| check.label()).collect();
            let reasons: Vec<String> = failed.iter().map(|check| super::quality::reason(check)).collect();
            let record = rows::object(&batch, row)?.to_string();
            held.push(Held { reason: reasons.join("; "), check: names.join(", "), record });
        }
        let keep = BooleanArray::new(!&all, None);
        Ok((arrow::compute::filter_record_batch(&batch, &keep)?, held))
    }
}

/// The rows that checks look at; `None` = all. A row that says that its key is gone carries nothing else.
fn counted(batch: &RecordBatch) -> Option<BooleanBuffer> {
    let ops = plain(batch.column_by_name(OP)?).ok()?;
    let ops = ops.as_string_opt::<i32>()?;
    let deletes = |row: usize| ops.is_valid(row) && ops.value(row) == "D";
    let counted = BooleanBuffer::collect_bool(ops.len(), |row| !deletes(row));
    (counted.count_set_bits() < counted.len()).then_some(counted)
}

/// What a check asks of columns of these types, or why it cannot.
fn asked(check: &CheckOptions, columns: Vec<String>, types: &[DataType]) -> std::result::Result<Asked, String> {
    let Some(text) = &check.sql else { return Test::of(check, &types[0]).map(Asked::Column).map_err(|unfit| unfit.0) };
    let bound = Condition::read(text).and_then(|condition| condition.bind(types));
    bound.map(|bound| Asked::Row(bound, columns)).map_err(|fault| format!("cannot be asked: {}", fault.what))
}

/// The rows for which a condition is false; those that do not carry one of its columns are not asked.
fn not_true(condition: &Bound, columns: &[String], batch: &RecordBatch) -> Result<BooleanBuffer> {
    let arrays = columns.iter().filter_map(|path| column_at(batch, path)).map(|array| plain(&array));
    let mut failing = condition.failing(&arrays.collect::<Result<Vec<_>>>()?, batch.num_rows())?;
    for carried in columns.iter().filter_map(|path| carried(batch, path)) {
        failing = &failing & &carried;
    }
    Ok(failing)
}

/// The rows that carry a column; `None` = all. Absent is not null.
fn carried(batch: &RecordBatch, path: &str) -> Option<BooleanBuffer> {
    let bits = batch.column_by_name(ABSENT)?.as_binary_opt::<i32>()?;
    if bits.null_count() == bits.len() {
        return None;
    }
    let top = path.split('.').next()?;
    let place = batch.schema_ref().index_of(path).or_else(|_| batch.schema_ref().index_of(top)).ok()?;
    let absent = |row: usize| {
        bits.is_valid(row) && bits.value(row).get(place / 8).is_some_and(|byte| byte >> (place % 8) & 1 == 1)
    };
    Some(BooleanBuffer::collect_bool(bits.len(), |row| !absent(row)))
}

/// The type of a column, or of a field of a struct by its path.
pub(crate) fn type_at(schema: &Schema, path: &str) -> Option<DataType> {
    fn within(data_type: &DataType, path: &str) -> Option<DataType> {
        let DataType::Struct(fields) = data_type else { return None };
        if let Some((_, field)) = fields.find(path) {
            return Some(field.data_type().clone());
        }
        path.match_indices('.').find_map(|(dot, _)| within(fields.find(&path[..dot])?.1.data_type(), &path[dot + 1..]))
    }
    let found = within(&DataType::Struct(schema.fields().clone()), path)?;
    Some(match found {
        DataType::Dictionary(_, values) => *values,
        found => found,
    })
}

/// A column, or a field of a struct by its path: null where the struct is.
pub(crate) fn column_at(batch: &RecordBatch, path: &str) -> Option<ArrayRef> {
    fn within(array: &StructArray, path: &str) -> Option<ArrayRef> {
        if let Some(column) = array.column_by_name(path) {
            return Some(below(array.nulls(), column));
        }
        path.match_indices('.').find_map(|(dot, _)| {
            let inner = array.column_by_name(&path[..dot])?;
            within(below(array.nulls(), inner).as_struct_opt()?, &path[dot + 1..])
        })
    }
    if let Some(column) = batch.column_by_name(path) {
        return Some(Arc::clone(column));
    }
    path.match_indices('.')
        .find_map(|(dot, _)| within(batch.column_by_name(&path[..dot])?.as_struct_opt()?, &path[dot + 1..]))
}

fn below(nulls: Option<&NullBuffer>, column: &ArrayRef) -> ArrayRef {
    let Some(nulls) = nulls else { return Arc::clone(column) };
    let nulls = NullBuffer::union(Some(nulls), column.nulls());
    match column.to_data().into_builder().nulls(nulls).build() {
        Ok(data) => make_array(data),
        // Union and null arrays have no nulls of their own.
        Err(_) => Arc::clone(column),
    }
}
