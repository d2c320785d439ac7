//! Says whether a table holds what it should: every row once, with the right values.
//!
//! Rows are JSON objects with *canonical* values, so that truth made in Rust and rows read by another program compare
//! exactly:
//!
//! | Arrow | canonical |
//! | --- | --- |
//! | boolean, integers | as they are |
//! | floats | as they are; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | decimals | text with all digits of the scale: `"12.50"` |
//! | text | as it is |
//! | binary | base64 |
//! | date | `"2026-01-31"` |
//! | timestamp | `"2026-01-31T23:59:59.000000"`, with `Z` where the type has a time zone |
//! | list, struct | array, object |
//! | map | array of `[key, value]` |
//! | null | null; a column that one side does not have counts as null |
//!
//! Only hashes are kept, so a million rows take some tens of megabytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{ArrowError, DataType, TimeUnit};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ingest_core::{Json, columns};
use serde_json::Map;

/// How many examples of each fault a [`Difference`] names.
const EXAMPLES: usize = 10;

/// A set of rows by key, as hashes.
#[derive(Debug, Clone)]
pub struct Rows {
    key: Vec<String>,
    rows: BTreeMap<String, Vec<BTreeMap<String, u64>>>,
    hasher: BuildHasherDefault<DefaultHasher>,
}

impl Rows {
    /// An empty set. Without key columns all rows have one key, and only their multiset is compared.
    pub fn new(key: &[&str]) -> Self {
        let key = key.iter().map(|column| (*column).to_owned()).collect();
        Self { key, rows: BTreeMap::new(), hasher: BuildHasherDefault::new() }
    }

    /// A set of rows.
    pub fn of(key: &[&str], rows: impl IntoIterator<Item = Map<String, Json>>) -> Self {
        let mut set = Self::new(key);
        rows.into_iter().for_each(|row| set.add(&row));
        set
    }

    /// Adds a row. Columns that `ingest` itself adds are left out.
    pub fn add(&mut self, row: &Map<String, Json>) {
        let values = row
            .iter()
            .filter(|(name, value)| !columns::is_reserved(name) && !value.is_null())
            .map(|(name, value)| (name.clone(), self.hasher.hash_one(value.to_string())))
            .collect();
        let key: Vec<String> = self.key.iter().map(|column| text(row.get(column).unwrap_or(&Json::Null))).collect();
        self.rows.entry(key.join(", ")).or_default().push(values);
    }

    /// Adds the rows of a batch.
    ///
    /// # Errors
    /// When a type has no canonical form.
    pub fn add_batch(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        for row in canonical_rows(batch)? {
            self.add(&row);
        }
        Ok(())
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.values().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Compares what was found (`self`) with the truth.
    ///
    /// # Errors
    /// [`Difference`] when they are not equal.
    pub fn compare(&self, truth: &Self) -> Result<(), Box<Difference>> {
        let mut difference = Difference { found: self.len(), expected: truth.len(), ..Difference::default() };
        let keys: BTreeSet<&String> = self.rows.keys().chain(truth.rows.keys()).collect();
        for key in keys {
            let none = Vec::new();
            let found = self.rows.get(key).unwrap_or(&none);
            let expected = truth.rows.get(key).unwrap_or(&none);
            difference.look_at(key, found, expected);
        }
        if difference.is_none() { Ok(()) } else { Err(Box::new(difference)) }
    }

    /// As [`Rows::compare`].
    ///
    /// # Panics
    /// When they are not equal; the message says what is lost, double, unknown or changed.
    pub fn assert_equal(&self, truth: &Self) {
        if let Err(difference) = self.compare(truth) {
            panic!("{difference}");
        }
    }
}

/// How rows differ from the truth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Rows found.
    pub found: usize,
    /// Rows expected.
    pub expected: usize,
    /// Rows of the truth that are not there; the first keys.
    pub lost: Fault,
    /// Rows that are there more often than they should.
    pub doubled: Fault,
    /// Rows whose key the truth does not have.
    pub unknown: Fault,
    /// Rows with the right key and other values, with the columns.
    pub changed: Fault,
}

/// One kind of fault: how many rows, and some of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    /// Rows.
    pub rows: usize,
    /// Keys of some of them.
    pub examples: Vec<String>,
}

impl Fault {
    fn add(&mut self, rows: usize, example: impl FnOnce() -> String) {
        if rows > 0 {
            self.rows += rows;
            if self.examples.len() < EXAMPLES {
                self.examples.push(example());
            }
        }
    }
}

type Values = BTreeMap<String, u64>;

impl Difference {
    fn is_none(&self) -> bool {
        [&self.lost, &self.doubled, &self.unknown, &self.changed].iter().all(|fault| fault.rows == 0)
    }

    /// Compares the rows of one key.
    fn look_at(&mut self, key: &str, found: &[Values], expected: &[Values]) {
        if expected.is_empty() {
            return self.unknown.add(found.len(), || key.to_owned());
        }
        let mut missing: Vec<&Values> = expected.iter().collect();
        let mut surplus: Vec<&Values> = Vec::new();
        for row in found {
            match missing.iter().position(|other| *other == row) {
                Some(at) => drop(missing.swap_remove(at)),
                None => surplus.push(row),
            }
        }
        // A surplus row that equals one of the truth is that row again; another one took the place of a missing row.
        let (doubled, mut changed): (Vec<&Values>, Vec<&Values>) =
            surplus.into_iter().partition(|row| expected.contains(row));
        self.doubled.add(doubled.len(), || key.to_owned());
        while let (Some(row), Some(other)) = (changed.last(), missing.last()) {
            let columns: BTreeSet<&str> = row.keys().chain(other.keys()).map(String::as_str).collect();
            let columns: Vec<&str> = columns.into_iter().filter(|c| row.get(*c) != other.get(*c)).collect();
            self.changed.add(1, || format!("{key} in {}", columns.join(" and ")));
            changed.pop();
            missing.pop();
        }
        self.doubled.add(changed.len(), || key.to_owned());
        self.lost.add(missing.len(), || key.to_owned());
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows found, {} expected", self.found, self.expected)?;
        for (name, fault) in
            [("lost", &self.lost), ("doubled", &self.doubled), ("unknown", &self.unknown), ("changed", &self.changed)]
        {
            if fault.rows > 0 {
                let more = if fault.rows > fault.examples.len() { "; …" } else { "" };
                write!(f, "\n  {} {name}: {}{more}", fault.rows, fault.examples.join("; "))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Difference {}

/// What a log of changes comes to: of each key the newest row by `_ingest_seq`, without those whose last `_ingest_op`
/// is `D`. Rows without a `_ingest_seq` (a first load) are older than all others.
pub fn newest(key: &[&str], rows: impl IntoIterator<Item = Map<String, Json>>) -> Vec<Map<String, Json>> {
    let mut newest: BTreeMap<String, (Option<String>, Map<String, Json>)> = BTreeMap::new();
    for row in rows {
        let key: Vec<String> = key.iter().map(|column| text(row.get(*column).unwrap_or(&Json::Null))).collect();
        let seq = row.get(columns::SEQ).and_then(Json::as_str).map(str::to_owned);
        match newest.entry(key.join(", ")) {
            std::collections::btree_map::Entry::Occupied(held) if held.get().0 > seq => {}
            entry => drop(entry.insert_entry((seq, row))),
        }
    }
    let deleted = |row: &Map<String, Json>| row.get(columns::OP).and_then(Json::as_str) == Some("D");
    newest.into_values().map(|(_, row)| row).filter(|row| !deleted(row)).collect()
}

fn text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The rows of a batch with canonical values.
///
/// # Errors
/// When a type has no canonical form.
pub fn canonical_rows(batch: &RecordBatch) -> Result<Vec<Map<String, Json>>, ArrowError> {
    (0..batch.num_rows())
        .map(|row| {
            batch
                .schema_ref()
                .fields()
                .iter()
                .zip(batch.columns())
                .map(|(field, column)| Ok((field.name().clone(), canonical(column, row)?)))
                .collect()
        })
        .collect()
}

/// The canonical form of one value.
fn canonical(column: &dyn Array, row: usize) -> Result<Json, ArrowError> {
    use arrow_array::types as t;
    if column.is_null(row) {
        return Ok(Json::Null);
    }
    macro_rules! value {
        ($type:ty) => {
            column.as_primitive::<$type>().value(row)
        };
    }
    Ok(match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int8 => value!(t::Int8Type).into(),
        DataType::Int16 => value!(t::Int16Type).into(),
        DataType::Int32 => value!(t::Int32Type).into(),
        DataType::Int64 => value!(t::Int64Type).into(),
        DataType::UInt8 => value!(t::UInt8Type).into(),
        DataType::UInt16 => value!(t::UInt16Type).into(),
        DataType::UInt32 => value!(t::UInt32Type).into(),
        DataType::UInt64 => value!(t::UInt64Type).into(),
        DataType::Float32 => float(value!(t::Float32Type).into()),
        DataType::Float64 => float(value!(t::Float64Type)),
        DataType::Decimal128(..) => column.as_primitive::<t::Decimal128Type>().value_as_string(row).into(),
        DataType::Decimal256(..) => column.as_primitive::<t::Decimal256Type>().value_as_string(row).into(),
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row).into(),
        DataType::Utf8View => column.as_string_view().value(row).into(),
        DataType::Binary => BASE64_STANDARD.encode(column.as_binary::<i32>().value(row)).into(),
        DataType::LargeBinary => BASE64_STANDARD.encode(column.as_binary::<i64>().value(row)).into(),
        DataType::BinaryView => BASE64_STANDARD.encode(column.as_binary_view().value(row)).into(),
        DataType::FixedSizeBinary(_) => BASE64_STANDARD.encode(column.as_fixed_size_binary().value(row)).into(),
        DataType::Date32 => {
            let array = column.as_primitive::<t::Date32Type>();
            array.value_as_date(row).ok_or_else(out_of_range)?.format("%Y-%m-%d").to_string().into()
        }
        DataType::Timestamp(unit, zone) => timestamp(column, row, *unit, zone.is_some())?,
        DataType::List(_) => list(&column.as_list::<i32>().value(row))?,
        DataType::LargeList(_) => list(&column.as_list::<i64>().value(row))?,
        DataType::FixedSizeList(..) => list(&column.as_fixed_size_list().value(row))?,
        DataType::Struct(fields) => {
            let inner = column.as_struct().columns().iter().map(|c| canonical(c, row));
            let fields = fields.iter().map(|field| field.name().clone());
            Json::Object(fields.zip(inner).map(|(name, value)| Ok((name, value?))).collect::<Result<_, ArrowError>>()?)
        }
        DataType::Map(..) => {
            let entries = column.as_map().value(row);
            let pair = |at| Ok(Json::Array(vec![canonical(entries.column(0), at)?, canonical(entries.column(1), at)?]));
            Json::Array((0..entries.len()).map(pair).collect::<Result<_, ArrowError>>()?)
        }
        other => return Err(ArrowError::NotYetImplemented(format!("no canonical form of {other}"))),
    })
}

fn list(values: &dyn Array) -> Result<Json, ArrowError> {
    Ok(Json::Array((0..values.len()).map(|at| canonical(values, at)).collect::<Result<_, _>>()?))
}

fn float(value: f64) -> Json {
    match serde_json::Number::from_f64(value) {
        Some(number) => Json::Number(number),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

fn timestamp(column: &dyn Array, row: usize, unit: TimeUnit, zoned: bool) -> Result<Json, ArrowError> {
    use arrow_array::types as t;
    let instant = match unit {
        TimeUnit::Second => column.as_primitive::<t::TimestampSecondType>().value_as_datetime(row),
        TimeUnit::Millisecond => column.as_primitive::<t::TimestampMillisecondType>().value_as_datetime(row),
        TimeUnit::Microsecond => column.as_primitive::<t::TimestampMicrosecondType>().value_as_datetime(row),
        TimeUnit::Nanosecond => column.as_primitive::<t::TimestampNanosecondType>().value_as_datetime(row),
    };
    let text = instant.ok_or_else(out_of_range)?.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    Ok(if zoned { format!("{text}Z") } else { text }.into())
}

fn out_of_range() -> ArrowError {
    ArrowError::InvalidArgumentError("a date or timestamp is out of range".into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(id: i64, value: &str) -> Map<String, Json> {
        json!({"id": id, "value": value, "_ingest_run_id": value}).as_object().cloned().unwrap()
    }

    fn truth() -> Rows {
        Rows::of(&["id"], (0..100).map(|id| row(id, "right")))
    }

    #[test]
    fn equal_rows_in_any_order_are_equal() {
        let mut found = Rows::of(&["id"], (0..100).rev().map(|id| row(id, "right")));
        found.assert_equal(&truth());
        found.add(&row(100, "right"));
        assert_eq!(found.compare(&truth()).unwrap_err().unknown.rows, 1);
    }

    #[test]
    fn loss_double_and_corruption_are_told_apart() {
        let mut rows: Vec<_> = (0..100).map(|id| row(id, "right")).collect();
        rows.remove(17);
        rows.push(row(3, "right"));
        rows[50] = row(51, "wrong");
        let difference = Rows::of(&["id"], rows).compare(&truth()).unwrap_err();
        assert_eq!((difference.lost.rows, difference.doubled.rows, difference.changed.rows), (1, 1, 1));
        assert_eq!(difference.lost.examples, ["17"]);
        assert_eq!(difference.doubled.examples, ["3"]);
        assert_eq!(difference.changed.examples, ["51 in value"]);
        assert!(difference.to_string().contains("1 lost: 17"));
    }

    #[test]
    fn without_a_key_rows_are_a_multiset() {
        let found = Rows::of(&[], [row(1, "a"), row(1, "a"), row(2, "b")]);
        found.assert_equal(&Rows::of(&[], [row(2, "b"), row(1, "a"), row(1, "a")]));
        let less = Rows::of(&[], [row(1, "a"), row(2, "b")]);
        assert_eq!(less.compare(&found).unwrap_err().lost.rows, 1);
        assert_eq!(found.compare(&less).unwrap_err().doubled.rows, 1);
    }

    #[test]
    fn a_change_log_comes_to_its_newest_rows() {
        let change = |id: i64, seq: Option<&str>, op: &str, value: &str| {
            json!({"id": id, "_ingest_seq": seq, "_ingest_op": op, "v": value}).as_object().cloned().unwrap()
        };
        let rows = newest(
            &["id"],
            [
                change(1, Some("03"), "U", "new"),
                change(1, Some("02"), "I", "old"),
                change(2, None, "R", "loaded"),
                change(2, Some("05"), "D", "loaded"),
                change(3, None, "R", "quiet"),
            ],
        );
        let values: Vec<_> = rows.iter().map(|r| r["v"].as_str().unwrap()).collect();
        assert_eq!(values, ["new", "quiet"]);
    }
}
